-- SPDX-License-Identifier: BSD-3-Clause
-- Addresses: IPv4 and MAC as numbers, IPv6 as struct tw_in6, prefixes; strict parsing and formatting.

local ffi = require "ffi"
local bit = require "bit"
local in6 = require "tideway.packet.in6"

local M = {}

-- ---- IPv4 ----

--- Parse an IPv4 address in dotted-decimal notation (four numbers, no leading zeros; RFC 6943 3.1.1).
---@param text any
---@return number? address 0..2^32-1, host order: "10.0.0.1" is 0x0a000001
---@return string? err what is wrong, naming the value
function M.parse_ip4(text)
   if type(text) ~= "string" then
      return nil, ("not an IPv4 address: %s (a %s); write it as a string such as \"10.0.0.1\"")
         :format(tostring(text), type(text))
   end
   local address, count = 0, 0
   for part in (text .. "."):gmatch "(.-)%." do
      count = count + 1
      if not part:find "^%d+$" then
         return nil, ("not an IPv4 address: %q: %q is not a decimal number"):format(text, part)
      elseif #part > 1 and part:sub(1, 1) == "0" then
         return nil, ("not an IPv4 address: %q: %q has a leading zero"):format(text, part)
      elseif #part > 3 or tonumber(part) > 255 then
         return nil, ("not an IPv4 address: %q: %s is more than 255"):format(text, part)
      end
      address = address * 256 + tonumber(part)
   end
   if count ~= 4 then
      return nil, ("not an IPv4 address: %q has %d numbers, an address has 4"):format(text, count)
   end
   return address
end

--- IPv4 address as a dotted-decimal string.
---@param address number 0..2^32-1
---@return string
function M.ip4_string(address)
   return ("%d.%d.%d.%d"):format(bit.rshift(address, 24), bit.band(bit.rshift(address, 16), 255),
      bit.band(bit.rshift(address, 8), 255), bit.band(address, 255))
end

-- ---- MAC ----

--- Parse a 48-bit MAC address: six groups of two hex digits, all separated by ":" or all by "-".
---@param text any
---@return number? mac 0..2^48-1: "02:00:00:00:00:01" is 0x020000000001
---@return string? err
function M.parse_mac(text)
   if type(text) ~= "string" then
      return nil, ("not a MAC address: %s (a %s); write it as a string such as \"02:00:00:00:00:01\"")
         :format(tostring(text), type(text))
   end
   local separator = text:match "^%x%x([:-])"
   local digits = separator and text:gsub("%" .. separator, "")
   if not digits or #text ~= 17 or #digits ~= 12 or not text:find("^" .. ("%x%x."):rep(5) .. "%x%x$")
      or not digits:find "^%x+$" then
      return nil, ("not a MAC address: %q; write six groups of two hex digits such as 02:00:00:00:00:01")
         :format(text)
   end
   return tonumber(digits:sub(1, 6), 16) * 2 ^ 24 + tonumber(digits:sub(7), 16)
end

--- MAC address as "02:00:00:00:00:01".
---@param mac number 0..2^48-1
---@return string
function M.mac_string(mac)
   local hex = ("%06x%06x"):format(math.floor(mac / 2 ^ 24), mac % 2 ^ 24)
   return (hex:gsub("(%x%x)", "%1:", 5))
end

-- ---- IPv6 ----

M.in6 = in6.type
M.in6_from_words = in6.from_words
M.parse_ip6 = in6.parse
M.link_local = in6.link_local

--- IPv6 address in the canonical text form of RFC 5952.
---@param address tideway.in6
---@return string
function M.ip6_string(address) return in6.format(address) end

-- ---- prefixes ----

---@class tideway.prefix
---@field family integer 4 or 6
---@field length integer bits
---@field address number|tideway.in6 network address, host bits zero
---@field first? number first address (IPv4 only)
---@field last? number last address (IPv4 only)
local Prefix = {}
Prefix.__index = Prefix

local function make_prefix(family, address, length)
   local self = { family = family, address = address, length = length }
   if family == 4 then
      self.first, self.last = address, address + 2 ^ (32 - length) - 1
   end
   return setmetatable(self, Prefix)
end

--- Is the address inside the prefix? Allocation-free; false for an address of the other family.
---@param address number|tideway.in6
---@return boolean
function Prefix:contains(address)
   if self.family == 4 then
      if type(address) ~= "number" then return false end
      return address >= self.first and address <= self.last
   end
   if type(address) == "number" then return false end
   return (address:matches(self.address, self.length))
end

function Prefix:__tostring()
   local text = self.family == 4 and M.ip4_string(self.address) or M.ip6_string(self.address)
   return ("%s/%d"):format(text, self.length)
end

function Prefix.__eq(a, b)
   return a.family == b.family and a.length == b.length and a.address == b.address
end

function Prefix:__transfer() return "tideway.packet.address", "prefix", { tostring(self) } end

--- Split "address/length"; host bits may be set. A bare address has the full length.
---@param text any
---@return integer? family 4 or 6
---@return number|tideway.in6|string address, or the error
---@return integer? length
function M.parse_cidr(text)
   if type(text) ~= "string" then
      return nil, ("not a prefix: %s (a %s); write it as a string such as \"10.0.0.0/8\"")
         :format(tostring(text), type(text))
   end
   local host, slash, digits = text:match "^([^/]*)(/?)(.*)$"
   local family = host:find(":", 1, true) and 6 or 4
   local parse = family == 6 and in6.parse or M.parse_ip4
   local address, err = parse(host)
   if not address then return nil, ("not a prefix: %q: %s"):format(text, err) end
   local max = family == 6 and 128 or 32
   local length = slash == "" and max or (digits:find "^%d%d?%d?$" and tonumber(digits))
   if not length or length > max then
      return nil, ("not a prefix: %q: the length must be a number from 0 to %d"):format(text, max)
   end
   return family, address, length
end

local function network(family, address, length)
   if family == 4 then return address - address % 2 ^ (32 - length) end
   return address:masked(length)
end

--- Parse a prefix "10.0.0.0/8" or "2001:db8::/32"; a bare address is a host prefix. Host bits must be zero.
---@param text any
---@return tideway.prefix?
---@return string? err
function M.parse_prefix(text)
   local family, address, length = M.parse_cidr(text)
   if not family then return nil, address --[[@as string]] end
   local net = network(family, address, length)
   if net ~= address then
      return nil, ("not a prefix: %q has bits set after the first %d; did you mean %s?")
         :format(text, length, tostring(make_prefix(family, net, length)))
   end
   return make_prefix(family, net, length)
end

-- ---- forms for scripts: the value, or an error at the caller's line ----

local function check(value, err)
   if value == nil then error(err, 3) end
   return value
end

--- IPv4 address as a number; a number in range is returned as it is.
---@param text string|number e.g. "10.0.0.1"
---@return number address 0..2^32-1
function M.ip4(text)
   if type(text) == "number" and text >= 0 and text < 2 ^ 32 and text % 1 == 0 then return text end
   return check(M.parse_ip4(text))
end

--- IPv6 address; a tw_in6 is returned as it is.
---@param text string|tideway.in6 e.g. "2001:db8::1"
---@return tideway.in6
function M.ip6(text)
   if ffi.istype(in6.type, text) then return text --[[@as tideway.in6]] end
   return check(in6.parse(text))
end

--- MAC address as a number; a number in range is returned as it is.
---@param text string|number e.g. "02:00:00:00:00:01"
---@return number mac 0..2^48-1
function M.mac(text)
   if type(text) == "number" and text >= 0 and text < 2 ^ 48 and text % 1 == 0 then return text end
   return check(M.parse_mac(text))
end

--- IPv4 or IPv6 prefix, e.g. "10.0.0.0/8"; a prefix is returned as it is.
---@param text string|tideway.prefix
---@return tideway.prefix
function M.prefix(text)
   if type(text) == "table" and getmetatable(text) == Prefix then return text end
   return check(M.parse_prefix(text))
end

--- Interface address, e.g. "10.0.0.1/24": the address itself and the network it is in.
---@param text string
---@return number|tideway.in6 address
---@return tideway.prefix network
function M.interface(text)
   local family, address, length = M.parse_cidr(text)
   if not family then error(address, 2) end
   return address --[[@as number]], make_prefix(family, network(family, address, length), length)
end

return M
