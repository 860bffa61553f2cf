-- SPDX-License-Identifier: BSD-3-Clause
-- Histograms of times against the values themselves: every percentile within the stated precision, exact ends.

local ffi = require "ffi"
local C = require("tideway.abi").C
local json = require "tideway.json"
local histogram = require "tideway.bench.histogram"

-- Values of the kinds that latencies are: spread over decades, with a long tail, the same in every run.
local function values(n, seed)
   local state, list = seed or 1, {}
   for i = 1, n do
      state = (state * 1103515245 + 12345) % 2 ^ 31
      list[i] = math.floor(10 ^ (state / 2 ^ 31 * 9)) + state % 7
   end
   return list
end

local function of(list)
   local h = histogram.histogram()
   for _, v in ipairs(list) do h:record(v) end
   return h
end

-- The smallest value that at least so many per cent do not exceed, from the sorted values.
local function exactly(sorted, percent)
   return sorted[math.max(1, math.ceil(#sorted * percent / 100 - 1e-9))]
end

local function within(expected, got, what)
   local allowed = math.floor(expected / 1024) + (expected < 2048 and 0 or 1)
   assert.is_true(got >= expected and got <= expected + allowed, ("%s: %d instead of %d"):format(what, got, expected))
end

describe("buckets", function()
   it("cover all values without gap or overlap, none wider than 1/1024", function()
      local next_value = 0ULL
      for bucket = 0, C.TW_HISTOGRAM_BUCKETS - 1 do
         local low, high = C.tw_histogram_lowest(bucket), C.tw_histogram_highest(bucket)
         assert.equal(next_value, low)
         assert.is_true((high - low) * 1024 <= low, "bucket " .. bucket)
         next_value = high + 1
      end
      assert.equal(2ULL ^ C.TW_HISTOGRAM_BITS, next_value)
   end)

   it("hold the values that they say", function()
      for _, v in ipairs { 0, 1, 2047, 2048, 2049, 4095, 4096, 1e6, 2 ^ 30 - 1, 2 ^ 30, 2 ^ 42 - 1 } do
         local h = of { v }
         local bucket = C.tw_histogram_next(h.data, -1)
         assert.is_true(C.tw_histogram_lowest(bucket) <= v and v <= C.tw_histogram_highest(bucket), tostring(v))
         assert.equal(-1, C.tw_histogram_next(h.data, bucket))
      end
   end)
end)

describe("a histogram", function()
   it("gives percentiles as the values do, and exact ends, sum and count", function()
      for seed = 1, 3 do
         local list, sum = values(5000, seed), 0
         local h = of(list)
         for _, v in ipairs(list) do sum = sum + v end
         table.sort(list)
         for _, p in ipairs { 0, 0.02, 1, 10, 25, 50, 75, 90, 99, 99.9, 99.98, 100 } do
            within(exactly(list, p), h:percentile(p), ("seed %d, %g %%"):format(seed, p))
         end
         assert.same({ 5000, list[1], list[5000], sum / 5000 }, { h:count(), h:min(), h:max(), h:mean() })
         assert.equal(h:percentile(99) - list[1], h:pdv(99))
      end
   end)

   it("counts ranks right where they are whole numbers", function()
      local h = histogram.histogram()
      for v = 1, 1000 do h:record(v) end
      for tenth = 1, 1000 do assert.equal(tenth, h:percentile(tenth / 10)) end
      assert.is_true(math.abs(h:deviation() - math.sqrt((1000 ^ 2 - 1) / 12)) < 1e-6)
   end)

   it("records many at once as many one by one", function()
      local a, b = histogram.histogram(), histogram.histogram()
      for _, v in ipairs { 5, 70000, 3 } do
         a:record(v, 100)
         for _ = 1, 100 do b:record(v) end
      end
      a:record(1, 0)
      assert.same(b:plain(), a:plain())
   end)

   it("keeps values that are too long for it in sight", function()
      local h = of { 10, 2 ^ 43, 2 ^ 50 }
      assert.same({ 3, 10, 2 ^ 50, 2 }, { h:count(), h:min(), h:max(), tonumber(h.data.clipped) })
      assert.equal(2 ^ 50, h:percentile(60))
      assert.truthy(tostring(h):find("2 clipped", 1, true))
   end)

   it("merges to what all values together give", function()
      local a, b = values(1000, 4), values(700, 5)
      for i, v in ipairs(b) do b[i] = v + 30 end
      local merged, all = of(a):merge(of(b)), of(a)
      for _, v in ipairs(b) do all:record(v) end
      assert.same(all:plain(), merged:plain())
      assert.same(all:plain(), of(b):merge(of(a)):plain())
      assert.same(all:plain(), of {}:merge(all):plain())
      assert.same(all:plain(), all:merge(of {}):plain())
      local device = histogram.histogram { clock = "device" }
      device:record(1)
      assert.equal("device", histogram.histogram { clock = "tsc" }:merge(device).clock)
      local tsc = histogram.histogram { clock = "tsc" }
      tsc:record(1)
      assert.equal("mixed", tsc:merge(device).clock)
   end)

   it("tells what came since an earlier look", function()
      local early, late = values(500, 8), values(900, 9)
      local h = of(early)
      local before = h:since()
      for _, v in ipairs(late) do h:record(v) end
      local got, all = h:since(before), of(late)
      assert.same({ all:count(), all:mean() }, { got:count(), got:mean() })
      for p = 1, 99 do assert.equal(all:percentile(p), got:percentile(p)) end
      assert.is_true(got:min() <= all:min() and got:min() >= all:min() - all:min() / 1024)
      assert.is_true(got:max() >= all:max() and got:max() <= all:max() + all:max() / 1024)
      assert.same({ 0 }, { h:since(h):count(), h:since(h):min() })
      assert.error_matches(function() before:since(h) end, "takes an earlier look")
   end)

   it("draws its distribution in as many points as asked for, in detail near the end", function()
      local list = values(20000, 6)
      local h = of(list)
      table.sort(list)
      for _, points in ipairs { 2, 20, 200 } do
         local cdf = h:cdf(points)
         assert.is_true(#cdf <= points + 2 and #cdf >= points / 2, #cdf .. " points")
         assert.same({ h:max(), 1 }, cdf[#cdf])
         for i, point in ipairs(cdf) do
            local rank = math.floor(point[2] * #list + 0.5)
            assert.is_true(list[rank] <= point[1] and (list[rank + 1] or math.huge) > point[1], "point " .. i)
            assert.is_true(i == 1 or cdf[i - 1][1] < point[1] and cdf[i - 1][2] < point[2])
         end
      end
      local tail = 0
      for _, point in ipairs(h:cdf(200)) do tail = tail + (point[2] > 0.99 and 1 or 0) end
      assert.is_true(tail > 30)
      assert.same({ { 7, 1 } }, of { 7, 7 }:cdf(10))
   end)

   it("goes through JSON and back", function()
      local h = of(values(3000, 7))
      h.clock = "tsc"
      local back = assert(histogram.from(json.decode(json.encode(h:plain()))))
      assert.same(h:plain(), back:plain())
      assert.equal(0, ffi.C.tw_histogram_quantile(of {}.data, 0.5))
      local _, err = histogram.from { count = 2, buckets = { { 0, 1 } } }
      assert.equal("histogram: its buckets hold 1 values, and its count is 2", err)
      _, err = histogram.from { count = 1, buckets = { { 40000, 1 } } }
      assert.equal("histogram: 40000 is no bucket", err)
   end)

   it("says what is in it", function()
      local h = histogram.histogram { clock = "tsc" }
      assert.equal("no values", tostring(h))
      assert.same({}, { h:min(), h:max(), h:mean(), h:percentile(50), h:pdv(), h:deviation() })
      assert.same({}, h:cdf())
      h:record(950)
      h:record(1234567, 9)
      assert.equal("10 values, min 950 ns, 50 % 1.23 ms, 90 % 1.23 ms, 99 % 1.23 ms, 99.9 % 1.23 ms, max 1.23 ms (tsc)",
         tostring(h))
      assert.same({ "0 ns", "999 ns", "1 us", "12.3 us", "1.5 s" }, {
         histogram.time(0), histogram.time(999), histogram.time(999.6), histogram.time(12345), histogram.time(1.5e9),
      })
   end)

   it("refuses what is no time", function()
      local h = histogram.histogram()
      for _, bad in ipairs { -1, 0 / 0, 2 ^ 53, "5" } do
         assert.error_matches(function() h:record(bad) end, "the value is .* must be a number from 0 to 2%^53")
      end
      assert.error_matches(function() h:record(1, -1) end, "times is %-1")
      assert.error_matches(function() h:percentile(101) end, "percentile 101 is not between 0 and 100")
      assert.error_matches(function() h:merge {} end, "takes a histogram")
      assert.error_matches(function() h:cdf(1) end, "at least 2 points")
      assert.equal(0, h:count())
   end)
end)
