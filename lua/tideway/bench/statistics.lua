-- SPDX-License-Identifier: BSD-3-Clause
-- Medians with intervals that assume nothing of how the values are distributed, and the comparison of two samples.

local M = {
   --- The share of cases in which an interval holds the median, as far as the number of values allows it.
   CONFIDENCE = 0.95,
}

local function sorted(values)
   local list = {}
   for i, value in ipairs(values) do list[i] = value end
   table.sort(list)
   return list
end

-- Linear between the two nearest (Hyndman and Fan, type 7), as R and NumPy do.
local function quantile_of(list, share)
   local at = 1 + (#list - 1) * share
   local below = math.floor(at)
   local part = at - below
   if part == 0 then return list[below] end
   return list[below] * (1 - part) + list[below + 1] * part
end

--- The value below which a share of the values lies, linear between the two nearest.
---@param values number[]
---@param share number 0..1
---@return number? nil when there are no values
function M.quantile(values, share)
   if #values == 0 then return nil end
   return quantile_of(sorted(values), share)
end

--- The median.
---@param values number[]
---@return number? nil when there are no values
function M.median(values) return M.quantile(values, 0.5) end

--- The distance between the quartiles as a share of the median.
---@param values number[]
---@return number? nil when there are no values or the median is 0
function M.spread(values)
   local list = sorted(values)
   if #list == 0 then return nil end
   local median = quantile_of(list, 0.5)
   if median == 0 then return nil end
   return (quantile_of(list, 0.75) - quantile_of(list, 0.25)) / math.abs(median)
end

-- P(X <= k) of n tosses of a fair coin.
local function heads_at_most(k, n)
   local sum, term = 0, 0.5 ^ n
   for i = 0, k do
      sum = sum + term
      term = term * (n - i) / (i + 1)
   end
   return sum
end

--- An interval that holds the true median, from the order statistics of the values: each value is above or below it
--- like the toss of a coin (Conover, Practical Nonparametric Statistics, 3.2). Few values cannot reach the confidence
--- that is asked: then it is all of their range, and the coverage says how much that is.
---@param values number[]
---@param confidence? number default M.CONFIDENCE
---@return number? low nil when there are no values
---@return number? high
---@return number? coverage
function M.interval(values, confidence)
   local list, n = sorted(values), #values
   if n == 0 then return nil end
   local cut = 0 -- values left out at each end
   while cut + 1 <= (n - 1) / 2 and 1 - 2 * heads_at_most(cut + 1, n) >= (confidence or M.CONFIDENCE) do
      cut = cut + 1
   end
   return list[cut + 1], list[n - cut], 1 - 2 * heads_at_most(cut, n)
end

--- Median, interval and spread of some values.
---@param values number[]
---@return { median: number, low: number, high: number, coverage: number, spread: number }? nil when there are none
function M.summary(values)
   if #values == 0 then return nil end
   local low, high, coverage = M.interval(values)
   return { median = M.median(values), low = low, high = high, coverage = coverage, spread = M.spread(values) }
end

--- Position by position a / b; positions that one of them lacks are left out.
---@param a table<integer, number>
---@param b table<integer, number>
---@param rounds integer
---@return number[]
function M.ratios(a, b, rounds)
   local list = {}
   for i = 1, rounds do
      if a[i] and b[i] and b[i] ~= 0 then list[#list + 1] = a[i] / b[i] end
   end
   return list
end

--- Position by position a - b.
---@param a table<integer, number>
---@param b table<integer, number>
---@param rounds integer
---@return number[]
function M.differences(a, b, rounds)
   local list = {}
   for i = 1, rounds do
      if a[i] and b[i] then list[#list + 1] = a[i] - b[i] end
   end
   return list
end

-- ---- two samples ----

-- In how many of all orders of m and n values u of the pairs (x, y) have x > y, for u = 0 .. m * n, as shares.
local function orders(m, n)
   local ways = {}
   for i = 0, m do ways[i] = { [0] = { [0] = 1 } } end
   for j = 1, n do
      ways[0][j] = { [0] = 1 }
      for i = 1, m do
         -- The greatest value is an x, above all j of the others, or a y.
         local list, x, y = {}, ways[i - 1][j], ways[i][j - 1]
         for u = 0, i * j do list[u] = (x[u - j] or 0) * i / (i + j) + (y[u] or 0) * j / (i + j) end
         ways[i][j] = list
      end
   end
   return ways[m][n]
end

--- How far the values of one sample are above those of another: the median of all differences (Hodges and Lehmann),
--- and the interval that belongs to the Mann-Whitney test: exact, nothing assumed but that the samples have one shape.
--- Few values cannot reach the confidence that is asked: then it is the range of all differences, and the coverage says
--- how much that is.
---@param a number[]
---@param b number[]
---@param confidence? number default M.CONFIDENCE
---@return { shift: number, low: number, high: number, coverage: number }? nil when one has no values
function M.shift(a, b, confidence)
   if #a == 0 or #b == 0 then return nil end
   local list = {}
   for _, x in ipairs(b) do
      for _, y in ipairs(a) do list[#list + 1] = x - y end
   end
   table.sort(list)
   local shares, cut = orders(#a, #b), 0 -- differences left out at each end
   local outside = shares[0]
   while cut + 1 < #list / 2 and 1 - 2 * (outside + shares[cut + 1]) >= (confidence or M.CONFIDENCE) do
      cut = cut + 1
      outside = outside + shares[cut]
   end
   return {
      shift = quantile_of(list, 0.5), low = list[cut + 1], high = list[#list - cut], coverage = 1 - 2 * outside,
   }
end

return M
