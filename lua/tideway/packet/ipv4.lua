-- SPDX-License-Identifier: BSD-3-Clause
-- The IPv4 header (RFC 791) and its checksum.

local ffi = require "ffi"
local bit = require "bit"
local checksum = require "tideway.packet.checksum"
local header = require "tideway.packet.header"

local M = {}
local cast = ffi.cast
local band, bnot, bswap, lshift, rshift, tobit = bit.band, bit.bnot, bit.bswap, bit.lshift, bit.rshift, bit.tobit
local fold, raw_sum, raw_replace32 = checksum.fold, checksum.raw_sum, checksum.raw_replace32

local words_p = ffi.typeof "struct { uint32_t a, b, c, d, e; } __attribute__((packed)) *"
local bytes_p = ffi.typeof "uint8_t *"
local u64 = ffi.typeof "uint64_t"

-- A view knows 20 bytes. Where options follow, the frame they are in is remembered here when the
-- view is made; that is what bounds the sum over them, whatever ihl says by then.
local room = ffi.new "struct { uint8_t *data; int32_t len; }"

--- Remember the frame of a header with options. For the functions that make views.
---@param data ffi.cdata* uint8_t *
---@param len integer
function M.remember(data, len) room.data, room.len = data, len end

-- Sum over the 20 bytes but for the checksum field, folded. In 64-bit integers, whose additions
-- need no overflow check. TTL and protocol are read byte by byte: a TTL just written would not be
-- forwarded by the CPU to a wider load.
local function fixed_sum(ip)
   local w = cast(words_p, ip)
   local value = cast(u64, w.a) + cast(u64, w.b) + cast(u64, w.d) + cast(u64, w.e) +
      cast(u64, ip.ttl) + cast(u64, lshift(ip.protocol, 8))
   value = band(value, 0xffffffffULL) + rshift(value, 32)
   value = band(value, 0xffffULL) + rshift(value, 16)
   return (tobit(band(value, 0xffffULL) + rshift(value, 16)))
end

-- Sum over `size` bytes of options, or nil when they are not inside a known frame.
local function options_sum(ip, size)
   local data = cast(bytes_p, ip) + 20
   local at = data - room.data
   if size < 0 or at < 20 or at + size > room.len then return nil end
   return (raw_sum(data, size))
end
M.options_sum = options_sum

-- The same with the options, or nil when they are not inside a known frame.
local function sum(ip)
   local first = ip.raw_version
   if band(first, 15) == 5 then return (fixed_sum(ip)) end
   local options = options_sum(ip, lshift(band(first, 15), 2) - 20)
   if not options then return nil end
   return (fold(fixed_sum(ip) + options))
end

---@class tideway.ipv4
---@field version number 4
---@field ihl number header length in 32-bit words, 5..15
---@field tos number dscp and ecn together
---@field dscp number
---@field ecn number
---@field total_length number bytes, header included
---@field id number
---@field frag number flags and fragment offset together
---@field df number do not fragment, 0 or 1
---@field mf number more fragments, 0 or 1
---@field frag_offset number in units of 8 bytes
---@field ttl number
---@field protocol number 1 ICMP, 6 TCP, 17 UDP, ...
---@field checksum number
---@field src number source address
---@field dst number destination address
local ipv4 = {}

--- Compute the header checksum anew (RFC 1071). After ihl was changed, take the view again first.
---@return boolean done false when ihl is below 5 or the options do not lie inside the frame
function ipv4:update_checksum()
   local value = sum(self)
   if not value then return false end
   self.raw_checksum = band(bnot(value), 0xffff)
   return true
end

--- Is the header checksum right?
---@return boolean
function ipv4:valid_checksum()
   if self.raw_version == 0x45 then
      local w = cast(words_p, self)
      local value = cast(u64, w.a) + cast(u64, w.b) + cast(u64, w.c) + cast(u64, w.d) + cast(u64, w.e)
      -- All ones after folding means: divisible by 0xffff, and not 0. That is so when the product with
      -- the inverse of 0xffff modulo 2^64 is at most (2^64 - 1) / 0xffff.
      return value * 0xfffefffefffeffffULL <= 0x0001000100010001ULL
   end
   local value = sum(self)
   if not value then return false end
   return fold(value + self.raw_checksum) == 0xffff
end

--- Write the source address and adjust the header checksum (RFC 1624); not that of the payload.
---@param address number
function ipv4:set_src(address)
   local old, new = self.raw_src, bswap(tobit(address))
   self.raw_src = new
   self.raw_checksum = raw_replace32(self.raw_checksum, old, new)
end

--- Write the destination address and adjust the header checksum; not that of the payload.
---@param address number
function ipv4:set_dst(address)
   local old, new = self.raw_dst, bswap(tobit(address))
   self.raw_dst = new
   self.raw_checksum = raw_replace32(self.raw_checksum, old, new)
end

--- Take one from the TTL, which is not 0, and adjust the checksum (RFC 1141, RFC 1624).
function ipv4:decrement_ttl()
   self.ttl = self.ttl - 1
   -- ttl is the first byte of its word: in memory order the word became smaller by 1.
   local value = self.raw_checksum + 1
   self.raw_checksum = band(value + rshift(value + 1, 16), 0xffff)
end

--- Is this a fragment of a larger packet (the first one included)?
---@return boolean
function ipv4:is_fragment() return band(self.raw_frag, 0xff3f) ~= 0 end

M.ipv4 = header.define_builtin("ipv4", [[
   u4 version; u4 ihl; u8 tos { u6 dscp; u2 ecn }; be16 total_length;
   be16 id; be16 frag { u1 _; u1 df; u1 mf; u13 frag_offset };
   u8 ttl, protocol; be16 checksum; ip4 src, dst]], ipv4)

return M
