-- SPDX-License-Identifier: BSD-3-Clause
-- Latencies as the share of packets that took longer, both axes logarithmic, so that the tail is seen.

local canvas = require "tideway.bench.report.plot.canvas"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"
local latency = require "tideway.bench.report.section.latency"

local M = {}

local HEIGHT = 330
local NONE = 1e-15 -- a share of 0, below any axis
local MOST_DECADES = 8

-- The share of packets above each value: a step down at each, to nothing at the largest.
local function tail_of(s)
   local points = {}
   local function add(value, share)
      if format.is_finite(value) and value > 0 then points[#points + 1] = { value, math.max(share, NONE) } end
   end
   for _, pair in ipairs(s.cdf or {}) do add(pair[1] or pair.value, 1 - (pair[2] or pair.fraction or 1)) end
   if #points == 0 then
      for _, p in ipairs(latency.percentiles { s }) do add(s.percentiles[p.key], 1 - p.value / 100) end
      add(s.max, 0)
   end
   table.sort(points, function(a, b) return a[1] < b[1] or a[1] == b[1] and a[2] > b[2] end)
   if #points == 0 then return points end
   local least = s.min and s.min > 0 and s.min or points[1][1]
   table.insert(points, 1, { math.min(least, points[1][1]), 1 })
   return points
end

-- Labels at 1, 2 and 5 of each decade when there are few.
local function x_tics(low, high)
   local steps, tics = math.log10(high / low) < 2.5 and { 1, 2, 5 } or { 1 }, {}
   for decade = math.floor(math.log10(low)), math.floor(math.log10(high)) do
      for _, step in ipairs(steps) do
         local value = step * 10 ^ decade
         if value >= low and value <= high then tics[#tics + 1] = canvas.tic({ format.short(value) }, value) end
      end
   end
   return table.concat(tics, ", ")
end

local function axes(c, low, high, least, unit)
   c:add "set logscale xy 10"
   c:add("set xrange [%.10g:%.10g]", low, high)
   c:add("set xtics (%s)", x_tics(low, high))
   c:add("set xlabel %s offset 0,0.2", gnuplot.quote(canvas.with_unit("latency", unit) .. ", logarithmic"))
   local decades, tics = math.max(2, math.min(MOST_DECADES, math.ceil(-math.log10(least) - 1e-9))), {}
   for n = 0, decades do tics[n + 1] = canvas.tic({ ("%g %%"):format(100 * 10 ^ -n) }, 10 ^ -n) end
   c:add("set ytics (%s)", table.concat(tics, ", "))
   c:add("set yrange [%g:1.2]", 10 ^ -decades)
   c:add "set ylabel 'share of packets that took longer'"
end

-- The steps of each path, the range of all, and the share that one packet is where there are most.
local function tails_of(result)
   local list, low, high, least = {}, math.huge, 0, 1
   for i, s in ipairs(result.series) do
      local points = latency.measured(s) and tail_of(s) or {}
      for _, p in ipairs(points) do low, high = math.min(low, p[1]), math.max(high, p[1]) end
      if #points > 0 then
         list[#list + 1] = { series = s, points = points, style = canvas.style(i) }
         least = math.min(least, 1 / math.max(2, s.count))
      end
   end
   return list, low, high, least
end

local function name_of(s, divisor, unit)
   local name = canvas.cut(format.name(s.name), canvas.NAME - 20)
   local median = s.percentiles and s.percentiles["50"]
   if not format.is_finite(median) then return name end
   return ("%s: median %s %s"):format(name, format.number(median / divisor), unit)
end

--- The picture of latencies; nil: there are none.
---@param result table
---@return tideway.bench.picture?
function M.picture(result)
   local c = canvas.new()
   local list, low, high, least = tails_of(result)
   if #list == 0 then return nil end
   local divisor, unit = 1, format.name(result.unit or "ns")
   if unit == "ns" then divisor, unit = format.time_unit(math.sqrt(low * high) * 10) end
   axes(c, low / 1.1 / divisor, high * 1.15 / divisor, least, unit)
   for i, tail in ipairs(list) do
      local rows = {}
      for n, p in ipairs(tail.points) do rows[n] = canvas.numbers(p[1] / divisor, p[2]) end
      c:plot("l" .. i, rows, ("using 1:2 with steps lw 2 dt %s lc rgb '%s'"):format(tail.style.dash, tail.style.colour),
         name_of(tail.series, divisor, unit))
   end
   return c:below(HEIGHT)
end

return M
