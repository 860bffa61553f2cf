-- SPDX-License-Identifier: BSD-3-Clause
-- Values of header fields as a script writes them: numbers, addresses as text, ranges and prefixes, checked against
-- what the field can hold.

local bit = require "bit"
local ffi = require "ffi"
local address = require "tideway.packet.address"

local M = {
   --- Most values that one field may take.
   MAX = 2 ^ 32,
   --- Most values by Zipf's law: a source has a table of them.
   ZIPF_MAX = 2 ^ 24,
}

---@class tideway.bench.what
---@field label string for messages: "udp.src"
---@field kind "number"|"ip4"|"ip6"|"mac"
---@field width integer bits

local EXAMPLE = { ip4 = '"198.18.0.1"', ip6 = '"2001:2::1"', mac = '"02:00:00:00:00:01"' }

local function fail(what, text, ...) error(("%s: " .. text):format(what.label, ...), 0) end

--- What a field of a header takes.
---@param label string
---@param field tideway.field
---@return tideway.bench.what
function M.what(label, field)
   local type = field.type
   local kind = (type == "ip4" or type == "ip6" or type == "mac") and type or "number"
   return { label = label, kind = kind, width = field.width }
end

local function number(what, value)
   if type(value) ~= "number" then
      local kind = type(value) == "string" and ("%q"):format(value) or tostring(value)
      fail(what, "%s is not a number from 0 to %.0f", kind, 2 ^ what.width - 1)
   end
   if value % 1 ~= 0 or value < 0 or value >= 2 ^ what.width then
      fail(what, "%s does not fit: the field has %d bits, a whole number from 0 to %.0f", tostring(value), what.width,
         2 ^ what.width - 1)
   end
   return value
end

--- The value of a field: a number, of IPv6 addresses a tw_in6.
---@param what tideway.bench.what
---@param value any
---@return number|tideway.in6
function M.value(what, value)
   if what.kind == "ip6" then
      if ffi.istype(address.in6, value) then return value end
      local parsed, err = address.parse_ip6(value)
      if not parsed then fail(what, "%s", err) end
      return parsed
   end
   if what.kind == "number" or type(value) == "number" then return (number(what, value)) end
   local parsed, err = (what.kind == "mac" and address.parse_mac or address.parse_ip4)(value)
   if not parsed then fail(what, "%s", err) end
   return parsed
end

-- Upper and lower half of an IPv6 address, in host order.
local function halves(in6) return bit.bswap(in6.q0), bit.bswap(in6.q1) end

--- A value as a number that can be counted on: of IPv6 addresses the lower half.
---@param value number|tideway.in6
---@return number|ffi.cdata* number uint64_t of IPv6 addresses
function M.countable(value)
   if type(value) == "number" then return value end
   local _, low = halves(value)
   return low
end

local function of_prefix(what, text)
   local prefix, err = address.parse_prefix(text)
   if not prefix then fail(what, "%s", err) end
   local family = what.kind == "ip6" and 6 or 4
   if what.kind ~= "ip4" and what.kind ~= "ip6" or prefix.family ~= family then
      fail(what, "%q is an IPv%d prefix, this is no IPv%d address", text, prefix.family, prefix.family)
   end
   local bits = (family == 6 and 128 or 32) - prefix.length
   if bits > 32 then
      fail(what, "%q has 2^%d addresses, a field takes 2^32 values at most; write a longer prefix, %s/96", text, bits,
         address.ip6_string(prefix.address))
   end
   return prefix.address, 2 ^ bits
end

-- How far `to` is from `from`.
local function distance(what, from, to)
   if what.kind ~= "ip6" then return to - from end
   local upper1, low1 = halves(from)
   local upper2, low2 = halves(to)
   local span = ffi.cast("int64_t", low2 - low1)
   if upper1 ~= upper2 or span > 2 ^ 32 or span < -2 ^ 32 then
      fail(what, "%s to %s are more than 2^32 addresses or not in one /64", tostring(from), tostring(to))
   end
   return tonumber(span)
end

--- A range: two values, or a prefix.
---@param what tideway.bench.what
---@param from any value, or a prefix as text when `to` is nil
---@param to any
---@return number|tideway.in6 first
---@return number n how many values, 1 or more; negative: downwards
function M.range(what, from, to)
   if to == nil then
      if type(from) == "string" and from:find("/", 1, true) then return of_prefix(what, from) end
      fail(what, "a range is two values, or a prefix such as %s; got %s alone",
         what.kind == "ip6" and '"2001:2::/96"' or '"198.18.0.0/15"', tostring(from))
   end
   local first, last = M.value(what, from), M.value(what, to)
   local span = distance(what, first, last)
   if math.abs(span) >= M.MAX then
      fail(what, "%s to %s are more than the 2^32 values that a field can take", tostring(from), tostring(to))
   end
   return first, span < 0 and span - 1 or span + 1
end

--- For messages about values of a wrong kind.
---@param what tideway.bench.what
---@return string
function M.example(what) return EXAMPLE[what.kind] or "1" end

return M
