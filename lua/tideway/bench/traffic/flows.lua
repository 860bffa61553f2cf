-- SPDX-License-Identifier: BSD-3-Clause
-- Flows: fields whose values are fixed for each flow, so that n flows are exactly n different combinations of them.
--
-- The number of a flow is multiplied by an odd constant modulo 2^bits, which is one-to-one and spreads neighbours over
-- the whole range (Fibonacci hashing; Knuth, The Art of Computer Programming 3, 6.4), and the bits of the product are
-- dealt out to the fields. That needs ranges of a power of two, aligned like prefixes. A field with another range is
-- counted when it alone can tell all flows apart, and scattered without a promise when others do.

local ffi = require "ffi"
local range = require "tideway.bench.traffic.range"

local M = {}

local BITS_MAX = 32 -- as many as flows can be
local ORDERS = { count = true, random = true, zipf = true }

--- Checks `flows` of a script.
---@param flows any a number, or { n =, order =, skew =, scatter = }
---@return { n: integer, order: string, skew: number, scatter: boolean }
function M.read(flows)
   if type(flows) == "number" then flows = { n = flows } end
   if type(flows) ~= "table" then
      error(("flows: a number, or { n = 1000000, order = \"random\" }, not %s"):format(tostring(flows)), 0)
   end
   for key in pairs(flows) do
      if key ~= "n" and key ~= "order" and key ~= "skew" and key ~= "scatter" then
         error(("flows: there is no %q; there are: n, order, skew, scatter"):format(tostring(key)), 0)
      end
   end
   local n, order, skew = flows.n, flows.order or "count", flows.skew or 1
   if type(n) ~= "number" or n % 1 ~= 0 or n < 1 or n > range.MAX then
      error(("flows: n is %s; it must be a whole number from 1 to 2^32"):format(tostring(n)), 0)
   end
   if not ORDERS[order] then
      error(("flows: order is %q; it can be count, random, zipf"):format(tostring(order)), 0)
   end
   if order == "zipf" and n > range.ZIPF_MAX then
      error(("flows: n is %.0f; with order = \"zipf\" it can be 2^24 at most"):format(n), 0)
   end
   if type(skew) ~= "number" or not (skew > 0 and skew <= 10) then
      error(("flows: skew is %s; it must be more than 0 and at most 10"):format(tostring(skew)), 0)
   end
   return { n = n, order = order, skew = skew, scatter = flows.scatter ~= false }
end

-- Bits of a range that is one like a prefix; nil for others.
local function bits_of(first, n)
   local low = range.countable(first)
   local bits = math.floor(math.log(n) / math.log(2) + 0.5)
   if 2 ^ bits ~= n then return nil end
   local rest = type(low) == "number" and low % n or tonumber(low % ffi.cast("uint64_t", n))
   return rest == 0 and bits or nil
end

-- The bits of number * factor from `from` on, to a field.
local function digit(place, bits, from, factor)
   local right = math.max(0, from - place.shift)
   local bytes = math.max(1, math.ceil((place.shift + bits) / 8))
   return {
      at = place.at + place.bytes - bytes, bytes = bytes, base = 0, right = right,
      step = factor * 2 ^ (place.shift + right - from) % 2 ^ 32, mask = (2 ^ bits - 1) * 2 ^ place.shift,
   }
end

-- An odd number near 2^bits divided by the golden ratio.
local function spread(bits)
   if bits < 3 then return 1 end
   local near = math.floor(2 ^ bits * 0.6180339887498949)
   return near + 1 - near % 2
end

local function cannot(flows, fields, total)
   local parts = {}
   for i, field in ipairs(fields) do
      parts[i] = ("%s (%s%.0f)"):format(field.what.label, field.bits and "" or "not a power of two, or not aligned: ",
         field.n)
   end
   error(("flows: n is %.0f, but %s tell %.0f apart; give them larger ranges of a power of two, such as a"
      .. " shorter prefix or ports 32768 to 65535"):format(flows.n, table.concat(parts, " and "), total), 0)
end

-- Which fields tell flows apart: deals out bits, or names the one that is counted.
local function deal(flows, fields)
   local bits = 0
   for _, field in ipairs(fields) do
      field.bits = bits_of(field.first, field.n)
      if field.bits and bits + field.bits <= BITS_MAX then
         field.from, bits = bits, bits + field.bits
      end
   end
   if 2 ^ bits >= flows.n then return bits end
   for _, field in ipairs(fields) do
      if field.n >= flows.n then
         field.counted, field.from = true, nil
         return bits
      end
   end
   return cannot(flows, fields, 2 ^ bits)
end

--- What a source writes to the fields of flows.
---@param flows table of read()
---@param fields { what: table, place: table, first: any, n: number }[]
---@return table[] written fields of a traffic without index and sums, one for each field
function M.fields(flows, fields)
   local bits = deal(flows, fields)
   local factor = flows.scatter and spread(bits) or 1
   local list = {}
   for i, field in ipairs(fields) do
      local place = field.place
      local base = range.countable(field.first)
      if field.from then
         list[i] = digit(place, field.bits, field.from, factor)
      elseif field.counted then
         list[i] = { at = place.at, bytes = place.bytes, mask = place.mask, base = base * 2 ^ place.shift,
            step = 2 ^ place.shift }
      elseif place.shift > 0 then
         error(("%s: a flow's values here must be a range of a power of two that is aligned, such as 0 to 7"):format(
            field.what.label), 0)
      else
         list[i] = { at = place.at, bytes = place.bytes, mask = place.mask, base = base, step = 1, scatter = field.n }
      end
   end
   return list
end

return M
