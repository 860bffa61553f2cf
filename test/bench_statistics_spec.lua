-- SPDX-License-Identifier: BSD-3-Clause
-- Medians, intervals and comparisons of benchmarks, against known values and by how often they are right.

local statistics = require "tideway.bench.statistics"

local function near(expected, value, within)
   assert.is_truthy(value and math.abs(value - expected) <= (within or 1e-9),
      ("expected %s, got %s"):format(expected, tostring(value)))
end

-- The same numbers in every run: a linear congruential generator (Numerical Recipes), and normal values of it.
local function random(seed)
   local state = seed
   local function uniform()
      state = (state * 1664525 + 1013904223) % 2 ^ 32
      return (state + 0.5) / 2 ^ 32
   end
   return uniform, function() return math.sqrt(-2 * math.log(uniform())) * math.cos(2 * math.pi * uniform()) end
end

describe("statistics of benchmarks:", function()
   it("medians and quartiles are those of R's type 7", function()
      near(2, statistics.median { 3, 1, 2 })
      near(2.5, statistics.median { 4, 1, 2, 3 })
      near(1.75, statistics.quantile({ 4, 1, 2, 3 }, 0.25))
      near(7, statistics.quantile({ 7 }, 0.9))
      assert.is_nil(statistics.median {})
   end)

   it("the spread is the distance of the quartiles as a share of the median", function()
      near(2 / 5, statistics.spread { 3, 4, 5, 6, 7 })
      assert.is_nil(statistics.spread { -1, 0, 1 })
   end)

   it("does not change the values it is given", function()
      local values = { 3, 1, 2 }
      statistics.summary(values)
      assert.same({ 3, 1, 2 }, values)
   end)

   -- Conover, table A3: of 9 values the 2nd and the 8th, of 20 the 6th and the 15th.
   it("the interval of a median is made of order statistics", function()
      local values = {}
      for i = 1, 20 do values[i] = i end
      local low, high, coverage = statistics.interval(values)
      assert.same({ 6, 15 }, { low, high })
      near(0.9586, coverage, 1e-4)
      low, high, coverage = statistics.interval { 9, 1, 8, 2, 7, 3, 6, 4, 5 }
      assert.same({ 2, 8 }, { low, high })
      near(0.9609, coverage, 1e-4)
   end)

   it("few values give all of their range, and what that covers", function()
      local low, high, coverage = statistics.interval { 2, 1, 3 }
      assert.same({ 1, 3 }, { low, high })
      near(0.75, coverage)
      low, high, coverage = statistics.interval { 5 }
      assert.same({ 5, 5, 0 }, { low, high, coverage })
   end)

   it("the interval holds the true median in 95 of 100 cases", function()
      local uniform, hits = random(1), 0
      for _ = 1, 2000 do
         local values = {}
         for i = 1, 15 do values[i] = -math.log(uniform()) end -- far from symmetric; its median is log 2
         local low, high = statistics.interval(values)
         if low <= math.log(2) and math.log(2) <= high then hits = hits + 1 end
      end
      assert.is_truthy(hits / 2000 > 0.945 and hits / 2000 < 0.985, "it held " .. hits .. " times of 2000")
   end)

   it("ratios and differences are taken round by round", function()
      assert.same({ 2, 3 }, statistics.ratios({ 2, 5, 6 }, { 1, nil, 2 }, 3))
      assert.same({ 1, 4 }, statistics.differences({ 2, 5, 6 }, { 1, nil, 2 }, 3))
   end)

   -- R: wilcox.test(b, a, conf.int = TRUE, conf.level = 0.95) with exact critical values: of 5 and 5 values the third
   -- least and the third greatest of the 25 differences, 96.8 %.
   it("a shift is the median of all differences, with the interval of the Mann-Whitney test", function()
      local a, b = { 1.1, 2.3, 3.2, 4.8, 5.1 }, { 11.7, 12.2, 13.9, 14.4, 15.3 }
      local differences = {}
      for _, x in ipairs(b) do
         for _, y in ipairs(a) do differences[#differences + 1] = x - y end
      end
      table.sort(differences)
      local s = statistics.shift(a, b)
      near(differences[13], s.shift)
      near(differences[3], s.low)
      near(differences[23], s.high)
      near(1 - 2 * 4 / 252, s.coverage)
   end)

   it("few values give the range of all differences, and what that covers", function()
      local s = statistics.shift({ 1, 2, 3 }, { 4, 5, 6 }, 0.99)
      assert.same({ 1, 3, 5 }, { s.low, s.shift, s.high })
      near(0.9, s.coverage)
      assert.is_nil(statistics.shift({}, { 1 }))
   end)

   it("the interval of a shift holds the true one in 95 of 100 cases", function()
      local _, normal = random(7)
      local hits = 0
      for _ = 1, 1000 do
         local a, b = {}, {}
         for i = 1, 7 do a[i], b[i] = normal(), 1.5 + normal() end
         local s = statistics.shift(a, b)
         if s.low <= 1.5 and 1.5 <= s.high then hits = hits + 1 end
      end
      assert.is_truthy(hits > 940 and hits < 990, "it held " .. hits .. " times of 1000")
   end)
end)
