-- SPDX-License-Identifier: BSD-3-Clause
-- struct tw_in6: an IPv6 address as 16 bytes in network order, in frames, tables and Lua alike.

local ffi = require "ffi"
local bit = require "bit"

local M = {}
local cast, istype = ffi.cast, ffi.istype
local band, bor, bswap, lshift, rshift = bit.band, bit.bor, bit.bswap, bit.lshift, bit.rshift

-- Two 64-bit members and no array: LuaJIT copies and compares such a struct in registers.
if not pcall(ffi.sizeof, "struct tw_in6") then
   ffi.cdef "struct tw_in6 { uint64_t q0, q1; } __attribute__((packed));"
end

---@class tideway.in6
---@field q0 integer first 8 bytes as they lie in memory (uint64_t)
---@field q1 integer last 8 bytes
local In6 = {}

local in6_t = ffi.typeof "struct tw_in6"
local in6_p = ffi.typeof "const struct tw_in6 *"
local words_p = ffi.typeof "const int32_t *"
local bytes_p = ffi.typeof "const uint8_t *"
local u32, u64 = ffi.typeof "uint32_t", ffi.typeof "uint64_t"

local ALL_ONES = 0xffffffffffffffffULL

-- First 64 and last 64 bits of a netmask, host order.
local function mask(length)
   if length <= 0 then return 0ULL, 0ULL end
   if length <= 64 then return lshift(ALL_ONES, 64 - length), 0ULL end
   if length < 128 then return ALL_ONES, lshift(ALL_ONES, 128 - length) end
   return ALL_ONES, ALL_ONES
end

--- Multicast, ff00::/8 (RFC 4291 2.7).
---@return boolean
function In6:is_multicast() return band(tonumber(band(self.q0, 0xffULL)), 0xff) == 0xff end

--- Link-local unicast, fe80::/10 (RFC 4291 2.5.6).
---@return boolean
function In6:is_link_local() return band(tonumber(band(self.q0, 0xc0ffULL)), 0xffff) == 0x80fe end

--- The unspecified address "::".
---@return boolean
function In6:is_unspecified() return bor(self.q0, self.q1) == 0ULL end

--- The loopback address "::1".
---@return boolean
function In6:is_loopback() return self.q0 == 0ULL and bswap(self.q1) == 1ULL end

--- Unique local unicast, fc00::/7 (RFC 4193).
---@return boolean
function In6:is_unique_local() return band(tonumber(band(self.q0, 0xfeULL)), 0xff) == 0xfc end

--- IPv4-mapped, ::ffff:0:0/96 (RFC 4291 2.5.5.2).
---@return boolean
function In6:is_v4_mapped() return self.q0 == 0ULL and rshift(bswap(self.q1), 32) == 0xffffULL end

--- Are the first `length` bits those of `network`? Allocation-free.
---@param network tideway.in6
---@param length integer 0..128
---@return boolean
function In6:matches(network, length)
   local m0, m1 = mask(length)
   return band(bswap(bit.bxor(self.q0, network.q0)), m0) == 0ULL and
      band(bswap(bit.bxor(self.q1, network.q1)), m1) == 0ULL
end

--- A new address with all but the first `length` bits zero.
---@param length integer 0..128
---@return tideway.in6
function In6:masked(length)
   local m0, m1 = mask(length)
   return (in6_t(band(self.q0, bswap(m0)), band(self.q1, bswap(m1))))
end

--- An own copy: a reference into a frame is valid only while the frame is.
---@return tideway.in6
function In6:copy() return (in6_t(self.q0, self.q1)) end

--- Byte `i` (0..15), nil outside.
---@param i integer
---@return number?
function In6:u8(i)
   if not (i >= 0 and i < 16) then return nil end
   return cast(bytes_p, cast(in6_p, self))[i]
end

--- 32-bit word `i` (0..3) as a host number, nil outside.
---@param i integer
---@return number?
function In6:u32(i)
   if not (i >= 0 and i < 4) then return nil end
   return (tonumber(cast(u32, bswap(cast(words_p, cast(in6_p, self))[i]))))
end

--- The solicited-node multicast address, ff02::1:ffXX:XXXX (RFC 4291 2.7.1). A new address.
---@return tideway.in6
function In6:solicited_node()
   return (in6_t(0x00000000000002ffULL, bswap(bor(band(bswap(self.q1), 0xffffffULL), 0x1ff000000ULL))))
end

--- The MAC address an IPv6 multicast address is sent to, 33:33:xx:xx:xx:xx (RFC 2464 7).
---@return number mac
function In6:multicast_mac()
   return 0x3333 * 2 ^ 32 + tonumber(cast(u32, bswap(cast(words_p, cast(in6_p, self))[3])))
end

--- Address from four 32-bit host numbers.
---@param w0 number
---@param w1 number
---@param w2 number
---@param w3 number
---@return tideway.in6
function M.from_words(w0, w1, w2, w3)
   return (in6_t(bswap(bor(lshift(cast(u64, w0), 32), cast(u64, w1))),
      bswap(bor(lshift(cast(u64, w2), 32), cast(u64, w3)))))
end

--- The link-local address made from a MAC with a modified EUI-64 (RFC 4291 appendix A).
---@param mac number
---@return tideway.in6
function M.link_local(mac)
   local high, low = math.floor(mac / 2 ^ 24), mac % 2 ^ 24
   high = bit.bxor(high, 0x020000)
   return M.from_words(0xfe800000, 0, high * 256 + 0xff, 0xfe000000 + low)
end

-- ---- text ----

local function embedded_ip4(text)
   local a, b, c, d = text:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$"
   if not a then return nil end
   for _, part in ipairs { a, b, c, d } do
      if tonumber(part) > 255 or (#part > 1 and part:sub(1, 1) == "0") then return nil end
   end
   return tonumber(a) * 256 + tonumber(b), tonumber(c) * 256 + tonumber(d)
end

-- The 16-bit groups of one side of "::"; `tail` says that an IPv4 address may end it.
local function groups(text, tail)
   local list = {}
   if text == "" then return list end
   for part in (text .. ":"):gmatch "(.-):" do
      if list.ended then return nil, "an IPv4 part may only come last" end
      if part:find "^%x%x?%x?%x?$" then
         list[#list + 1] = tonumber(part, 16)
      elseif part:find(".", 1, true) and tail then
         local high, low = embedded_ip4(part)
         if not high then return nil, ("%q is not an IPv4 address"):format(part) end
         list[#list + 1], list[#list + 2] = high, low
         list.ended = true
      elseif part == "" then
         return nil, "a group is empty"
      else
         return nil, ("%q is not a group of 1 to 4 hex digits"):format(part)
      end
   end
   return list
end

local function parse_groups(text)
   local head, tail = text, nil
   local at = text:find("::", 1, true)
   if at then
      head, tail = text:sub(1, at - 1), text:sub(at + 2)
      if tail:find("::", 1, true) then return nil, "\"::\" stands twice" end
   end
   local left, err = groups(head, not tail)
   if not left then return nil, err end
   if not tail then
      if #left ~= 8 then return nil, ("it has %d groups, an address has 8"):format(#left) end
      return left
   end
   local right
   right, err = groups(tail, true)
   if not right then return nil, err end
   local missing = 8 - #left - #right
   if missing < 1 then return nil, "\"::\" stands for no group" end
   for _ = 1, missing do left[#left + 1] = 0 end
   for _, group in ipairs(right) do left[#left + 1] = group end
   return left
end

--- Parse the text form of an IPv6 address (RFC 4291 2.2; no zone index).
---@param text any
---@return tideway.in6?
---@return string? err
function M.parse(text)
   if type(text) ~= "string" then
      return nil, ("not an IPv6 address: %s (a %s); write it as a string such as \"2001:db8::1\"")
         :format(tostring(text), type(text))
   end
   local g, err = parse_groups(text)
   if not g then return nil, ("not an IPv6 address: %q: %s"):format(text, err) end
   return M.from_words(g[1] * 65536 + g[2], g[3] * 65536 + g[4], g[5] * 65536 + g[6], g[7] * 65536 + g[8])
end

-- First and length of the longest run of zero groups (RFC 5952 4.2.3).
local function zero_run(g)
   local first, length, start = 0, 1, nil
   for i = 1, 9 do
      if g[i] == 0 then
         start = start or i
      elseif start then
         if i - start > length then first, length = start, i - start end
         start = nil
      end
   end
   return first, length
end

--- Canonical text form (RFC 5952).
---@param address tideway.in6
---@return string
function M.format(address)
   if address:is_v4_mapped() then
      local v4 = address:u32(3)
      return ("::ffff:%d.%d.%d.%d"):format(rshift(v4, 24), band(rshift(v4, 16), 255), band(rshift(v4, 8), 255),
         band(v4, 255))
   end
   local g = {}
   for i = 0, 3 do
      local word = address:u32(i)
      g[#g + 1], g[#g + 2] = rshift(word, 16), band(word, 0xffff)
   end
   local first, length = zero_run(g)
   local text = {}
   for i = 1, 8 do text[i] = ("%x"):format(g[i]) end
   if length < 2 then return table.concat(text, ":") end
   return table.concat(text, ":", 1, first - 1) .. "::" .. table.concat(text, ":", first + length, 8)
end

local function same(a, b)
   if not istype(in6_t, a) or not istype(in6_t, b) then return false end
   return a.q0 == b.q0 and a.q1 == b.q1
end

ffi.metatype(in6_t, {
   __index = setmetatable(In6, {
      __index = function(_, name) error(("an IPv6 address has no field or method %q"):format(tostring(name)), 2) end,
   }),
   __eq = same,
   __tostring = M.format,
})

M.type = in6_t

return M
