-- SPDX-License-Identifier: BSD-3-Clause
-- Curves as lines with intervals; points without a number as crosses.

local canvas = require "tideway.bench.report.plot.canvas"
local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"
local text = require "tideway.text"

local M = {}

local HEIGHT = 330
local CROSSES = { 2, 1, 3 } -- shapes of points that are unstable
local LOG_FROM = 50 -- curves this many times apart need a logarithmic axis

-- Labels at the values that were measured; those that would touch their neighbour are left out.
local function x_tics(xs, log)
   local function place(x) return log and math.log(x) or x end
   local first = place(xs[1])
   local span, tics, free = math.max(place(xs[#xs]) - first, 1e-12), {}, -math.huge
   for i, x in ipairs(xs) do
      local label = format.short(x)
      local half = text.width(label) * canvas.LETTER / 2
      local at = (place(x) - first) / span * canvas.ACROSS
      local shown = at - half - 8 >= free
      tics[i] = canvas.tic({ shown and label or "" }, x)
      if shown then free = at + half end
   end
   return table.concat(tics, ", ")
end

local function x_axis(c, result)
   local xs, seen = {}, {}
   for _, s in ipairs(result.series) do
      for _, point in ipairs(s.points or {}) do
         if not seen[point.x] then xs[#xs + 1], seen[point.x] = point.x, true end
      end
   end
   table.sort(xs)
   local least, most = xs[1], xs[#xs]
   local log = result.x.log and least > 0 and #xs > 1
   local room = #xs > 1 and (most - least) * 0.02 or math.max(1, math.abs(least) / 2)
   if log then c:add "set logscale x 10" end
   c:add("set xrange [%.10g:%.10g]", log and least / 1.08 or least - room, log and most * 1.08 or most + room)
   c:add("set xtics (%s)", x_tics(xs, log))
   local name = canvas.with_unit(format.name(result.x.name or "x"), result.x.unit)
   c:add("set xlabel %s offset 0,0.2", gnuplot.quote(name .. (log and ", logarithmic" or "")))
end

-- From 0, or logarithmic.
local function y_axis(c, result, range, unit)
   local note
   if range.low > 0 and range.high / range.low > LOG_FROM then
      note = ", logarithmic"
      c:add "set logscale y 10; set yrange [*:*]"
   else
      c:add("set yrange [%s:%.10g]", range.low < 0 and "*" or "0", range.high > 0 and range.high * 1.06 or 1)
   end
   local name = range.intervals and not result.of_ratios and "median" or nil
   c:add("set ylabel %s", canvas.axis_name(name, unit, result.better, note))
end

-- The points of a contender as blocks of numbers: those that have one, and those that are unstable.
local function blocks_of(series, divisor, range)
   local sure, loose = {}, {}
   local function grow(from, to) range.low, range.high = math.min(range.low, from), math.max(range.high, to) end
   for _, point in ipairs(series.points or {}) do
      local median = format.is_finite(point.median) and point.median / divisor
      if canvas.has_number(point) then
         local low, high = (point.low or point.median) / divisor, (point.high or point.median) / divisor
         sure[#sure + 1] = canvas.numbers(point.x, median, low, high)
         grow(low, high)
         range.intervals = range.intervals or point.low ~= nil
      elseif median and cells.is_unstable(point) then
         loose[#loose + 1] = canvas.numbers(point.x, median)
         grow(median, median)
      end
   end
   return sure, loose
end

local function draw_series(c, result, divisor)
   local range = { low = math.huge, high = -math.huge }
   for i, series in ipairs(result.series) do
      local sure, loose = blocks_of(series, divisor, range)
      local style, name = canvas.style(i), canvas.cut(format.name(series.name), canvas.NAME - 12)
      if result.rounds ~= 1 then
         c:plot("i" .. i, sure, ("using 1:2:3:4 with yerrorbars lw 1.4 pt 0 lc rgb '%s'"):format(style.colour))
      end
      c:plot("s" .. i, sure, ("using 1:2 with linespoints lw 1.8 dt %s pt %d ps 1 lc rgb '%s'"):format(style.dash,
         style.point, style.colour), name)
      c:plot("u" .. i, loose, ("using 1:2 with points pt %d ps 1.2 lw 1.6 lc rgb '%s'"):format(CROSSES[(i - 1) % 3 + 1],
         style.colour), name .. ": unstable")
   end
   return range
end

-- Where twice as many points have a stable ratio as have a stable value, the ratios are drawn.
local function as_ratios(result)
   if not result.reference then return nil end
   local series, ratios, values = {}, 0, 0
   for i, s in ipairs(result.series) do
      local points = {}
      for n, point in ipairs(s.points or {}) do
         local ratio = s.name == result.reference and { median = 1 } or point.ratio or {}
         points[n] = {
            x = point.x, median = ratio.median, low = ratio.low, high = ratio.high, verdict = ratio.verdict,
            values = ratio.values, missing = point.missing,
         }
         if s.name ~= result.reference then
            ratios = ratios + (canvas.has_number(points[n]) and 1 or 0)
            values = values + (canvas.has_number(point) and 1 or 0)
         end
      end
      series[i] = { name = s.name, points = points }
   end
   if ratios == 0 or ratios < 2 * values then return nil end
   return {
      series = series, x = result.x, better = result.better, rounds = result.rounds, of_ratios = true,
      unit = "ratio to " .. format.name(result.reference),
   }
end

--- The picture of a curve; nil: there is no point to draw.
---@param result table
---@return tideway.bench.picture?
function M.picture(result)
   result = as_ratios(result) or result
   local c, most = canvas.new(), 0
   for _, series in ipairs(result.series) do most = math.max(most, canvas.largest(series.points or {})) end
   local divisor, unit = canvas.scale(most, result.unit)
   local range = draw_series(c, result, divisor)
   if #c.plots == 0 then return nil end
   x_axis(c, result)
   y_axis(c, result, range, unit)
   return c:below(HEIGHT)
end

return M
