-- SPDX-License-Identifier: BSD-3-Clause
-- Mutations of frames and texts for the fuzzer, from a generator of its own: the same seed, the same inputs.

local bit = require "bit"
local corpus = require "test.support.corpus"
local frame = require "test.support.frame"
local malform = require "test.support.malform"

local M = {}
local bxor, lshift, rshift, tobit = bit.bxor, bit.lshift, bit.rshift, bit.tobit
local put, u8, u16, u32 = malform.put, frame.u8, frame.u16, frame.u32

---@class tideway.spec.random
local Random = {}
Random.__index = Random

--- xorshift32 (Marsaglia 2003).
---@param seed integer
---@return tideway.spec.random
function M.random(seed)
   local self = setmetatable({ state = tobit(seed) ~= 0 and tobit(seed) or 1 }, Random)
   for _ = 1, 8 do self:below(2) end
   return self
end

--- Whole number from 0 to n - 1.
function Random:below(n)
   local x = self.state
   x = bxor(x, lshift(x, 13))
   x = bxor(x, rshift(x, 17))
   x = bxor(x, lshift(x, 5))
   self.state = x
   return (x % 2 ^ 32) % n
end

function Random:of(list) return list[self:below(#list) + 1] end

-- ---- frames ----

local BYTES = { 0, 1, 2, 4, 5, 6, 7, 8, 0x0f, 0x10, 0x11, 0x1f, 0x20, 0x3a, 0x3f, 0x40, 0x45, 0x46, 0x4f, 0x60, 0x7f,
   0x80, 0x81, 0x88, 0xa8, 0xc0, 0xe0, 0xf0, 0xfe, 0xff }
local WORDS = { 0, 1, 7, 8, 19, 20, 21, 28, 40, 0x3fff, 0x4000, 0x7fff, 0x8000, 0xff00, 0xfffe, 0xffff, 0x0800, 0x0806,
   0x8100, 0x86dd, 0x88a8, 0x8847 }

local function anywhere(r, s) return r:below(math.max(#s, 1)) end

-- A length field of the entry, made a little or very wrong.
local function length_field(r, s, entry)
   local fields = {}
   if entry.v4 then fields = { entry.v4 + 2, entry.v4 + 6 } end
   if entry.v6 then fields = { entry.v6 + 4 } end
   for _, ext in ipairs(entry.ext or {}) do fields[#fields + 1] = ext end
   if entry.proto == 17 then fields[#fields + 1] = entry.l4 + 4 end
   if entry.proto == 6 then fields[#fields + 1] = entry.l4 + 12 end
   if entry.inner then fields[#fields + 1] = entry.inner + 2 end
   if #fields == 0 then return s end
   local at = r:of(fields)
   if at + 2 > #s then return s end
   local now = s:byte(at + 1) * 256 + s:byte(at + 2)
   local new = r:below(2) == 0 and r:of(WORDS) or (now + r:below(17) - 8) % 65536
   return put(s, at, u16(new))
end

local MUTATIONS = {
   function(r, s) -- one bit
      local at = anywhere(r, s)
      if at >= #s then return s end
      return put(s, at, u8(bxor(s:byte(at + 1), lshift(1, r:below(8)))))
   end,
   function(r, s) return put(s, anywhere(r, s), u8(r:of(BYTES))) end,
   function(r, s) return put(s, anywhere(r, s), u16(r:of(WORDS))) end,
   function(r, s) return put(s, anywhere(r, s), u32(r:below(2) == 0 and r:below(2 ^ 32) or 0xffffffff)) end,
   function(r, s) return s:sub(1, r:below(#s + 1)) end,
   function(r, s) return s .. string.char(r:below(256)):rep(1 + r:below(64)) end,
   function(r, s) -- the head of one, the tail of another
      local other = r:of(corpus.valid()).frame
      return s:sub(1, r:below(#s + 1)) .. other:sub(1 + r:below(#other))
   end,
   function(r, s) -- a piece twice, or a piece less
      local from, length = anywhere(r, s), r:below(24)
      if r:below(2) == 0 then return s:sub(1, from) .. s:sub(from + length + 1) end
      return s:sub(1, from + length) .. s:sub(from + 1)
   end,
   length_field, length_field,
   function(r, s, entry) -- a byte of a header, not of the payload
      local top = entry.l4 and math.min(entry.l4 + 24, #s) or #s
      return put(s, r:below(math.max(top, 1)), u8(r:of(BYTES)))
   end,
}

--- A frame made from the corpus, mutated some times; usually with a right IPv4 header checksum, so that NFs go on.
---@param r tideway.spec.random
---@return string frame
---@return "lan"|"wan" port
---@return boolean mutated
function M.frame(r)
   local port = nil
   if r:below(8) == 0 then port = r:of { "lan", "wan" } end
   if r:below(16) == 0 then
      local entry = r:of(malform.all())
      return entry.frame, port or entry.port, true
   end
   local entry = r:of(corpus.valid())
   local s = entry.frame
   local count = r:below(6)
   for _ = 1, count do s = r:of(MUTATIONS)(r, s, entry) end
   if entry.v4 and r:below(8) ~= 0 then s = malform.mend(s, entry.v4) end
   if entry.inner and r:below(2) == 0 and entry.proto == 1 then s = malform.mend(s, entry.inner) end
   if (entry.proto == 1 or entry.proto == 58) and r:below(8) ~= 0 then s = malform.mend_icmp(s, entry) end
   return s:sub(1, 9000), port or entry.port, count > 0
end

-- ---- texts ----

local PIECES = {
   "", " ", "\n", "\t", "\0", "\r", "#", "/", ":", "::", ".", ",", ";", "-", "{", "}", "(", "%", "%s", "[", "\"",
   "'", "\\", "\255", "\226\130\172", "0", "1", "-1", "00", "256", "65535", "65536", "4294967296", "1e9", "0x10", "nan",
   "inf", "99999999999999999999", "10.0.0.0/8", "::/0", "2001:db8::1", "1.2.3.4.5", "02:00:00:00:00:01", "u8", "u32",
   "be16", "ip6", "mac", "pad", "u4", "u31", "_", "end", "raw_x", "int", "allow", "drop", "reject", "count", "tcp",
   "udp", "icmp", "from", "to", "port", "in", "out", "established", "new", "flags", "S/SA", "lan", "not", "all", "any",
}

--- A text made from one of a list of good ones.
---@param r tideway.spec.random
---@param seeds string[]
---@return string
function M.text(r, seeds)
   local s = r:of(seeds)
   for _ = 1, r:below(5) do
      local from, kind = r:below(#s + 1), r:below(6)
      if kind == 0 then
         s = s:sub(1, from) .. s:sub(from + 2 + r:below(8))
      elseif kind == 1 then
         s = s:sub(1, from) .. string.char(r:below(256)) .. s:sub(from + 2)
      elseif kind == 2 then
         local other = r:of(seeds)
         s = s:sub(1, from) .. other:sub(1 + r:below(#other + 1))
      elseif kind == 3 and #s < 400 then
         s = s:rep(2 + r:below(3))
      elseif kind == 4 and #s < 400 then
         s = s:sub(1, from) .. r:of(PIECES):rep(1 + r:below(100)) .. s:sub(from + 1)
      else
         s = s:sub(1, from) .. r:of(PIECES) .. s:sub(from + 1)
      end
   end
   return s:sub(1, 4000)
end

return M
