-- SPDX-License-Identifier: BSD-3-Clause
-- The trials of a search in their order: what was offered, and by shape and colour what was lost.

local canvas = require "tideway.bench.report.plot.canvas"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"

local M = {}

local HEIGHT, TICS = 280, 20

local LOSS = {
   { most = 0, title = "no loss", point = 7, colour = "#0072B2" },
   { most = 0.001, title = "up to 0.1 % lost", point = 9, colour = "#009E73" },
   { most = 0.01, title = "up to 1 % lost", point = 8, colour = "#E69F00" },
   { most = math.huge, title = "more lost", point = 2, colour = "#D55E00" },
}

local function loss_of(trial)
   if format.is_finite(trial.lost) and format.is_finite(trial.sent) and trial.sent > 0 then
      return trial.lost / trial.sent
   end
   return format.is_finite(trial.loss) and trial.loss or 0
end

local function class_of(trial)
   for i, class in ipairs(LOSS) do
      if loss_of(trial) <= class.most then return i end
   end
end

--- The picture of a search; nil: it has no trials.
---@param result table
---@return tideway.bench.picture?
function M.picture(result)
   local c, shown, most = canvas.new(), {}, 0
   for i, trial in ipairs(result.trials or {}) do
      local rate = trial.rate or trial.offered
      if format.is_finite(rate) then
         shown[#shown + 1] = { i = i, rate = rate, class = class_of(trial) }
         most = math.max(most, rate)
      end
   end
   if #shown == 0 then return nil end
   local divisor, unit = canvas.scale(most * 10, "pps")
   local line, classes = {}, { {}, {}, {}, {} }
   for n, trial in ipairs(shown) do
      line[n] = canvas.numbers(trial.i, trial.rate / divisor)
      table.insert(classes[trial.class], line[n])
   end
   c:plot("all", line, ("with lines lw 0.8 lc rgb '%s'"):format(gnuplot.GREY))
   for i, class in ipairs(LOSS) do
      c:plot("c" .. i, classes[i], ("with points pt %d ps 1.2 lw 1.6 lc rgb '%s'"):format(class.point, class.colour),
         class.title)
   end
   c:add("set xrange [0.5:%.1f]; set yrange [0:%.10g]", #result.trials + 0.5, most > 0 and most / divisor * 1.06 or 1)
   c:add("set xtics %d", math.max(1, math.ceil(#result.trials / TICS)))
   c:add("set xlabel 'trial' offset 0,0.2; set ylabel %s", gnuplot.quote(canvas.with_unit("offered", unit)))
   return c:below(HEIGHT)
end

return M
