-- SPDX-License-Identifier: BSD-3-Clause
-- Values that change from packet to packet: counted, random, from a list, by Zipf's law, fixed for each flow. Made
-- without knowing the field; `resolve` turns one into what a source writes to a field.

local range = require "tideway.bench.traffic.range"

local M = {}

---@class tideway.bench.variation
---@field how "count"|"random"|"list"|"zipf"|"flow"
---@field from any
---@field to any
---@field step? number
---@field values? any[] of a list
---@field order? "count"|"random"|"zipf" of a list
---@field skew? number
---@field packets integer
local Variation = {}
Variation.__index = Variation
Variation.__tostring = function(self) return "variation " .. self.how end

local function new(fields)
   fields.packets = 1
   return setmetatable(fields, Variation)
end

--- Is it one?
---@param value any
---@return boolean
function M.is(value) return getmetatable(value) == Variation end

--- Go on to the next value only every so many packets. An odometer is a field that counts to 10 and a second one that
--- goes on `:every(10)`.
---@param packets integer 1 or more
---@return tideway.bench.variation self
function Variation:every(packets)
   if type(packets) ~= "number" or packets % 1 ~= 0 or packets < 1 or packets > 2 ^ 32 then
      error((":every(%s): a whole number of packets from 1 to 2^32"):format(tostring(packets)), 2)
   end
   if self.how ~= "count" and not (self.how == "list" and self.order == "count") then
      error((":every() is for bench.count and for lists in their order, not for %s"):format(self.how), 2)
   end
   self.packets = packets
   return self
end

local function given(name, from)
   if from == nil then
      error(("bench.%s needs a range: two values, or a prefix such as \"198.18.0.0/15\""):format(name), 3)
   end
end

--- Values in order, then again from the first: `bench.count(1, 10)`, `bench.count("10.0.0.1", "10.0.0.9")`,
--- `bench.count "198.18.0.0/15"`. Downwards when `to` is less.
---@param from number|string first value, or a prefix
---@param to? number|string last value
---@param step? number from one value to the next, default 1
---@return tideway.bench.variation
function M.count(from, to, step)
   given("count", from)
   if step ~= nil and (type(step) ~= "number" or step % 1 ~= 0 or step < 1) then
      error(("bench.count: the step is %s; it must be a whole number of at least 1"):format(tostring(step)), 2)
   end
   return new { how = "count", from = from, to = to, step = step or 1 }
end

--- Values by chance, all equally likely; the same ones in each run.
---@param from number|string first value, or a prefix
---@param to? number|string last value
---@return tideway.bench.variation
function M.random(from, to)
   given("random", from)
   return new { how = "random", from = from, to = to }
end

local ORDERS = { count = true, random = true, zipf = true }

local function check_skew(name, skew)
   if type(skew) ~= "number" or not (skew > 0 and skew <= 10) then
      error(("%s: the skew is %s; it must be more than 0 and at most 10"):format(name, tostring(skew)), 3)
   end
end

--- The values of a list in turn: `bench.list { 53, 80, 443 }`; with `order = "random"` by chance (a value that stands
--- twice comes twice as often), with `order = "zipf", skew = 1` the first ones most often.
---@param values any[]
---@return tideway.bench.variation
function M.list(values)
   if type(values) ~= "table" or #values == 0 then
      error("bench.list takes a list of at least one value, such as bench.list { 53, 80, 443 }", 2)
   end
   local order = values.order or "count"
   if not ORDERS[order] then
      error(("bench.list: order is %q; it can be count, random, zipf"):format(tostring(order)), 2)
   end
   if order == "zipf" then check_skew("bench.list", values.skew or 1) end
   local copy = {}
   for i, value in ipairs(values) do copy[i] = value end
   return new { how = "list", values = copy, order = order, skew = values.skew or 1 }
end

--- Values by Zipf's law (Adamic and Huberman 2002): the k-th value comes in proportion to 1 / k^skew.
--- `bench.zipf("198.18.0.0/16", 1.1)`, `bench.zipf(1024, 2047, 1.1)`; `bench.zipf(1000, 1.1)` are 1000 values from the
--- field's default up (0 where it has none).
---@param ... any a range (a prefix, or two values) or a number of values; then the skew
---@return tideway.bench.variation
function M.zipf(...)
   local count, from, to, skew = select("#", ...), ...
   given("zipf", from)
   if count == 2 then to, skew = nil, to end
   if count == 1 then skew = 1 end
   check_skew("bench.zipf", skew)
   if to == nil and type(from) == "number" and (from % 1 ~= 0 or from < 1 or from > range.MAX) then
      error(("bench.zipf(%s, skew): the number of values must be a whole one from 1 to 2^32"):format(tostring(from)), 2)
   end
   return new { how = "zipf", from = from, to = to, skew = skew }
end

--- A value that is fixed for each flow of `flows = { n = ... }`: flows have different ones as far as the range allows,
--- scattered over it.
---@param from number|string first value, or a prefix
---@param to? number|string last value
---@return tideway.bench.variation
function M.flow(from, to)
   given("flow", from)
   return new { how = "flow", from = from, to = to }
end

-- ---- for a field ----

---@class tideway.bench.resolved
---@field first number|tideway.in6 the first value, which stands in the frames
---@field n number values
---@field step? number
---@field list? (number|ffi.cdata*)[]
---@field index? table of what yields the number of the value; of flows nil

local function list_of(self, what)
   local list, upper = {}, nil
   for i, value in ipairs(self.values) do
      local read = range.value(what, value)
      if what.kind == "ip6" then
         upper = upper or read.q0
         if read.q0 ~= upper then
            error(("%s: the addresses of a list must be in one /64: %s and %s are not"):format(what.label,
               tostring(self.values[1]), tostring(value)), 0)
         end
      end
      list[i] = range.countable(read)
   end
   return list
end

local function counted(self, what)
   local first, n = range.range(what, self.from, self.to)
   local down = n < 0
   local steps = math.floor((math.abs(n) - 1) / self.step) + 1
   return first, steps, down and -self.step or self.step
end

--- What a variation means for a field.
---@param self tideway.bench.variation
---@param what tideway.bench.what
---@param default any the field's default, for zipf(n, skew)
---@return tideway.bench.resolved
function M.resolve(self, what, default)
   if self.how == "list" then
      local list = list_of(self, what)
      return {
         first = range.value(what, self.values[1]), n = #list, list = list,
         index = { kind = self.order, n = #list, every = self.packets, skew = self.skew },
      }
   end
   if self.how == "count" then
      local first, n, step = counted(self, what)
      return { first = first, n = n, step = step, index = { kind = "count", n = n, every = self.packets } }
   end
   local first, n
   if self.how == "zipf" and self.to == nil and type(self.from) == "number" then
      first, n = range.value(what, default or 0), self.from
      if what.kind ~= "ip6" and first + n > 2 ^ what.width then
         error(("%s: %d values from %s up do not fit the %d bits of the field"):format(what.label, n, tostring(default),
            what.width), 0)
      end
   else
      first, n = range.range(what, self.from, self.to)
      if n < 0 then
         error(("%s: bench.%s(%s, %s): the first value must not be more than the last"):format(what.label, self.how,
            tostring(self.from), tostring(self.to)), 0)
      end
   end
   if self.how == "zipf" and n > range.ZIPF_MAX then
      error(("%s: bench.zipf over %.0f values; it can be 2^24 at most"):format(what.label, n), 0)
   end
   local index
   if self.how ~= "flow" then index = { kind = self.how, n = n, every = 1, skew = self.skew } end
   return { first = first, n = n, step = 1, index = index }
end

return M
