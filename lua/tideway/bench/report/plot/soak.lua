-- SPDX-License-Identifier: BSD-3-Clause
-- A soak over its time: latency of each interval as lines, what was lost as bars from below.

local canvas = require "tideway.bench.report.plot.canvas"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"

local M = {}

local HEIGHT, BESIDE = 280, 78 -- pixels between the axes, and beside them for a second one
local LATENCIES = { { key = "latency", title = "latency" }, { key = "longest", title = "longest" } }

-- The experiment's own word for a column.
local function title_of(result, key, default)
   for _, column in ipairs(result.columns) do
      if type(column) == "table" and column.name == key and column.title then return format.name(column.title) end
   end
   return default
end

local function points_of(intervals, value)
   local rows, most = {}, 0
   for _, each in ipairs(intervals) do
      local v = value(each)
      if format.is_finite(each.at) and format.is_finite(v) and v > 0 then
         rows[#rows + 1], most = { each.at, v }, math.max(most, v)
      end
   end
   return rows, most
end

local function lines_of(points, divisor)
   local rows = {}
   for i, p in ipairs(points) do rows[i] = canvas.numbers(p[1], p[2] / divisor) end
   return rows
end

local function draw_latency(c, result)
   local lists, most = {}, 0
   for i, l in ipairs(LATENCIES) do
      local points, largest = points_of(result.intervals, function(each) return each[l.key] end)
      lists[i], most = points, math.max(most, largest)
   end
   if most == 0 then return false end
   local divisor, unit = format.time_unit(most)
   for i, l in ipairs(LATENCIES) do
      local style = canvas.style(i)
      c:plot(l.key, lines_of(lists[i], divisor), ("using 1:2 with lines lw 1.8 dt %s lc rgb '%s'"):format(style.dash,
         style.colour), title_of(result, l.key, l.title))
   end
   c:add("set logscale y 10; set ylabel %s", gnuplot.quote(canvas.with_unit("latency", unit) .. ", logarithmic"))
   return true
end

local function draw_loss(c, result, beside)
   local points = points_of(result.intervals, function(each)
      local known = format.is_finite(each.lost) and format.is_finite(each.sent) and each.sent > 0
      return known and each.lost / each.sent * 100
   end)
   if #points == 0 then return false end
   local axes = beside and "axes x1y2 " or ""
   c:plot("lost", lines_of(points, 1), ("using 1:2 %swith impulses lw 3 lc rgb '#CC79A7'"):format(axes), "lost")
   if beside then
      c:add "set y2tics out textcolor rgb 'black'; set y2range [0:*]; set y2label 'lost (%)'"
   else
      c:add "set yrange [0:*]; set ylabel 'lost (%)'"
   end
   return beside
end

--- The picture of a soak; nil: it has neither latencies nor losses.
---@param result table
---@return tideway.bench.picture?
function M.picture(result)
   local c, last = canvas.new(), 0
   for _, each in ipairs(result.intervals) do last = math.max(last, format.is_finite(each.at) and each.at or 0) end
   local two_axes = draw_loss(c, result, draw_latency(c, result))
   c:add("set xrange [0:%.10g]; set xlabel 'time (s)' offset 0,0.2", last > 0 and last * 1.01 or 1)
   return c:below(HEIGHT, two_axes and BESIDE or nil)
end

return M
