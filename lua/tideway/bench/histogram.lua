-- SPDX-License-Identifier: BSD-3-Clause
-- Histograms of times: log-linear as Gil Tene's HdrHistogram with 3 significant digits, from 1 ns to 73 minutes in
-- 270 KB. Count, sum, smallest and largest value are exact; other values are known to 1 part in 1024.

local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

---@class tideway.bench.histogram
---@field data ffi.cdata* struct tw_histogram
---@field unit string of the values: "ns"
---@field clock? string what the times were taken with: "tsc", "device", "mixed"
local Histogram = {}
Histogram.__index = Histogram

local function whole(value, what, level)
   if type(value) ~= "number" or not (value >= 0 and value < 2 ^ 53) then
      error(("histogram: %s is %s, and must be a number from 0 to 2^53"):format(what, tostring(value)), level + 1)
   end
   return math.floor(value)
end

-- Iterates over the buckets that hold something: bucket, values in it.
local function buckets(self)
   return function(data, bucket)
      bucket = C.tw_histogram_next(data, bucket)
      if bucket >= 0 then return bucket, tonumber(data.bucket[bucket]) end
   end, self.data, -1
end

-- The value a bucket stands for: its largest one, unless nothing as large was recorded.
local function value_of(data, bucket)
   local value, max = C.tw_histogram_highest(bucket), data.max
   if value > max or bucket == C.TW_HISTOGRAM_BUCKETS - 1 then value = max end
   return tonumber(value)
end

--- An empty histogram.
---@param options? { clock: string }
---@return tideway.bench.histogram
function M.histogram(options)
   return setmetatable({ data = ffi.new "struct tw_histogram", unit = "ns", clock = options and options.clock },
      Histogram)
end

--- Is it a histogram?
function M.is(value) return getmetatable(value) == Histogram end

--- Count a value.
---@param value number ns; what is behind the point is cut off
---@param times? integer so many times (1)
function Histogram:record(value, times)
   C.tw_histogram_add(self.data, whole(value, "the value", 2), whole(times or 1, "times", 2))
end

--- Add all values of another histogram.
---@param other tideway.bench.histogram
---@return tideway.bench.histogram self
function Histogram:merge(other)
   if not M.is(other) then error("histogram: merge(other) takes a histogram, not " .. tostring(other), 2) end
   if self.clock ~= other.clock and other:count() > 0 then
      self.clock = self:count() == 0 and other.clock or "mixed"
   end
   C.tw_histogram_merge(self.data, other.data)
   return self
end

--- What was recorded since an earlier look at the same thing. Smallest and largest value are as exact as buckets are.
---@param before? tideway.bench.histogram nil: everything
---@return tideway.bench.histogram
function Histogram:since(before)
   local out = M.histogram { clock = self.clock }
   C.tw_histogram_merge(out.data, self.data)
   if not before then return out end
   local a, b, first, last = out.data, before.data, nil, nil
   for bucket in buckets(out) do
      if b.bucket[bucket] > a.bucket[bucket] then error("histogram: since() takes an earlier look at the same", 2) end
      a.bucket[bucket] = a.bucket[bucket] - b.bucket[bucket]
      if a.bucket[bucket] > 0 then first, last = first or bucket, bucket end
   end
   a.count, a.sum, a.clipped = a.count - b.count, a.sum - b.sum, a.clipped - b.clipped
   a.min = first and math.max(tonumber(C.tw_histogram_lowest(first)), self:min()) or 0
   a.max = last and value_of(a, last) or 0
   return out
end

--- Forget all values.
function Histogram:clear() C.tw_histogram_clear(self.data) end

--- Number of values.
---@return integer
function Histogram:count() return tonumber(self.data.count) end

-- What an empty histogram has none of.
local function unless_empty(self, value)
   if self.data.count == 0 then return nil end
   return tonumber(value)
end

--- Smallest value, exact.
---@return number? ns nil when there is none
function Histogram:min() return unless_empty(self, self.data.min) end

--- Largest value, exact.
---@return number? ns nil when there is none
function Histogram:max() return unless_empty(self, self.data.max) end

--- Mean, exact.
---@return number? ns nil when there is none
function Histogram:mean() return unless_empty(self, tonumber(self.data.sum) / tonumber(self.data.count)) end

--- The smallest value that at least so many per cent of all values do not exceed; to 1 part in 1024 or 1 ns, and never
--- too small by more than that.
---@param percent number 0 to 100
---@return number? ns nil when there is none
function Histogram:percentile(percent)
   if type(percent) ~= "number" or not (percent >= 0 and percent <= 100) then
      error(("histogram: percentile %s is not between 0 and 100"):format(tostring(percent)), 2)
   end
   return unless_empty(self, C.tw_histogram_quantile(self.data, percent / 100))
end

--- Packet delay variation (RFC 5481, 4.2): a percentile above the smallest value.
---@param percent? number (99.9)
---@return number? ns nil when there is none
function Histogram:pdv(percent)
   if self.data.count == 0 then return nil end
   return self:percentile(percent or 99.9) - self:min()
end

--- Standard deviation, from the middles of the buckets.
---@return number? ns nil when there is none
function Histogram:deviation()
   local mean, squares = self:mean(), 0
   if not mean then return nil end
   for bucket, n in buckets(self) do
      local middle = (tonumber(C.tw_histogram_lowest(bucket)) + value_of(self.data, bucket)) / 2
      squares = squares + n * (middle - mean) ^ 2
   end
   return math.sqrt(squares / self:count())
end

-- Fractions at which a distribution is drawn: evenly spaced below 0.9, and closer and closer to 1 from there on, as far
-- as there are values.
local function levels(points, count)
   local list = {}
   local body = math.ceil(points * 0.6)
   for i = 1, body do list[i] = 0.9 * i / body end
   local decades = math.max(math.log10(count) - 1, 0)
   for i = 1, points - body do list[#list + 1] = 1 - 0.1 * 10 ^ (-decades * i / (points - body)) end
   return list
end

--- The cumulative distribution: rising pairs of a value and the share of all values up to it. The last share is 1.
---@param points? integer about so many at most (200), in greater detail near 1
---@return { [1]: number, [2]: number }[] ns, share; empty when there is no value
function Histogram:cdf(points)
   points = points or 200
   if type(points) ~= "number" or points < 2 then
      error(("histogram: cdf(%s): at least 2 points"):format(tostring(points)), 2)
   end
   local list, total, seen, at = {}, self:count(), 0, 1
   local wanted = levels(points, total)
   for bucket, n in buckets(self) do
      seen = seen + n
      local share = seen / total
      if #list == 0 or share >= (wanted[at] or 1) then
         list[#list + 1] = { value_of(self.data, bucket), share }
         while wanted[at] and wanted[at] <= share do at = at + 1 end
      end
   end
   return list
end

local PERCENTILES = { 50, 90, 99, 99.9, 99.99, 99.999 }

--- As plain data, for JSON: what there is to say, and the buckets (number, values in it), from which M.from makes it
--- again.
---@return table { unit, clock, count, clipped, sum, min, mean, max, percentiles = { ["50"] = ns }, buckets = { ... } }
function Histogram:plain()
   local out = {
      unit = self.unit, clock = self.clock, count = self:count(), clipped = tonumber(self.data.clipped),
      min = self:min(), mean = self:mean(), max = self:max(), sum = tonumber(self.data.sum), percentiles = {},
      buckets = {},
   }
   if out.count > 0 then
      for _, p in ipairs(PERCENTILES) do out.percentiles[("%g"):format(p)] = self:percentile(p) end
   end
   for bucket, n in buckets(self) do out.buckets[#out.buckets + 1] = { bucket, n } end
   return out
end

--- A histogram from what plain() gave.
---@param plain table
---@return tideway.bench.histogram? histogram
---@return string? err
function M.from(plain)
   local self, count = M.histogram { clock = plain.clock }, 0
   for _, pair in ipairs(plain.buckets or {}) do
      local bucket, n = pair[1], pair[2]
      if type(bucket) ~= "number" or bucket < 0 or bucket >= C.TW_HISTOGRAM_BUCKETS or type(n) ~= "number" then
         return nil, ("histogram: %s is no bucket"):format(tostring(bucket))
      end
      self.data.bucket[bucket] = n
      count = count + n
   end
   if count ~= plain.count then
      return nil, ("histogram: its buckets hold %d values, and its count is %s"):format(count, tostring(plain.count))
   end
   self.data.count, self.data.clipped = count, plain.clipped or 0
   self.data.sum, self.data.min, self.data.max = plain.sum or 0, plain.min or 0, plain.max or 0
   return self
end

local UNITS = { { 1e9, "s" }, { 1e6, "ms" }, { 1e3, "us" } }

--- A time with the unit that fits it and three digits: 1234567 -> "1.23 ms".
---@param ns number
---@return string
function M.time(ns)
   for _, unit in ipairs(UNITS) do
      if math.abs(ns) >= unit[1] * 0.9995 then return ("%.3g %s"):format(ns / unit[1], unit[2]) end
   end
   return ("%.3g ns"):format(ns)
end

Histogram.__tostring = function(self)
   local n = self:count()
   if n == 0 then return "no values" end
   local parts = { ("%d value%s"):format(n, n == 1 and "" or "s"), "min " .. M.time(self:min()) }
   for _, p in ipairs { 50, 90, 99, 99.9 } do parts[#parts + 1] = ("%g %% %s"):format(p, M.time(self:percentile(p))) end
   parts[#parts + 1] = "max " .. M.time(self:max())
   if self.data.clipped > 0 then parts[#parts + 1] = ("%d clipped"):format(tonumber(self.data.clipped)) end
   return table.concat(parts, ", ") .. (self.clock and (" (%s)"):format(self.clock) or "")
end

return M
