-- SPDX-License-Identifier: BSD-3-Clause
-- A group as bars with intervals, a line at the reference, marks at the goals; single rounds where there is no number.

local canvas = require "tideway.bench.report.plot.canvas"
local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"
local text = require "tideway.text"

local M = {}

local ROW, NAME_LETTERS, VALUES = 40, 33, 130 -- pixels of a row, letters of a line of a name, pixels beside the bars
local numbers, WIDTH, LETTER = canvas.numbers, canvas.WIDTH, canvas.LETTER

-- A name on two lines at most. Of a longer one the middle is left out: what tells names apart often stands last.
local function name_lines(name)
   local lines = text.wrap(format.name(name), NAME_LETTERS)
   local first, last = canvas.cut(lines[1] or "", NAME_LETTERS), lines[#lines]
   if #lines < 2 then return { first } end
   if #lines == 2 then return { first, canvas.cut(last, NAME_LETTERS) } end
   local rest = table.concat(lines, " ", 2)
   while text.width(rest) > NAME_LETTERS - 4 do rest = rest:gsub("^[^\128-\191][\128-\191]*", "") end
   return { first, "... " .. rest:gsub("^%s+", "") }
end

local function ratio_label(result, row)
   local ratio = row.ratio
   if row.name == result.reference or not ratio or not ratio.median or cells.is_unstable(ratio) then return nil end
   return "x " .. format.ratio(ratio.median)
end

-- What stands beside a row, and over it when it has no bar.
local function labels_of(result, row)
   local ratio = ratio_label(result, row)
   if canvas.has_number(row) then
      local value = result.of_ratios and format.ratio(row.median) or format.number(row.median)
      return ratio and ("%s (%s)"):format(value, ratio) or value
   elseif cells.is_unstable(row) and not row.missing then
      return ratio and ("(%s)"):format(ratio), cells.unstable(row)
   end
   return nil, "not measured"
end

local function median_of(rows, name)
   for _, row in ipairs(rows) do
      if row.name == name and canvas.has_number(row) then return row.median end
   end
end

-- Where a goal lies: a share of the reference, or a value when there is none.
local function goal_of(result, row, reference)
   if type(row.goal) ~= "number" or row.goal <= 0 then return nil end
   if result.reference then return reference and reference * row.goal end
   return row.goal
end

-- Bars, marks and circles as blocks of numbers, from the bottom up; the largest value of all.
local function blocks_of(result)
   local b = { own = {}, reference = {}, single = {}, goals = {}, line = median_of(result.rows, result.reference) }
   local most = canvas.largest(result.rows)
   for _, row in ipairs(result.rows) do most = math.max(most, goal_of(result, row, b.line) or 0) end
   local divisor, unit = canvas.scale(most, result.unit)
   for i, row in ipairs(result.rows) do
      local y = #result.rows + 1 - i
      if canvas.has_number(row) then
         local list = row.name == result.reference and b.reference or b.own
         list[#list + 1] = numbers(row.median / divisor, y, (row.low or row.median) / divisor,
            (row.high or row.median) / divisor)
         local goal = goal_of(result, row, b.line)
         if goal then b.goals[#b.goals + 1] = numbers(goal / divisor, y) end
      elseif cells.is_unstable(row) then
         for _, v in pairs(row.values or {}) do b.single[#b.single + 1] = numbers(v / divisor, y - 0.2) end
      end
   end
   b.line = b.line and b.line / divisor
   return b, most / divisor, unit
end

local function draw_blocks(c, result, b)
   local box = "using 1:2:(0):1:($2-0.28):($2+0.28) with boxxyerror fc rgb '%s'"
   c:plot("own", b.own, box:format(gnuplot.SERIES[1].colour))
   c:plot("reference", b.reference, box:format(gnuplot.GREY))
   if b.line then
      c:plot("line", { numbers(b.line, 0.4), numbers(b.line, #result.rows + 0.6) },
         "using 1:2 with lines lw 1.4 dt (6,4) lc rgb 'black'",
         "reference: " .. canvas.cut(format.name(result.reference), 50))
   end
   for _, name in ipairs { "own", "reference" } do
      if #b[name] > 0 and result.rounds ~= 1 then
         c:again(name, "using 1:2:3:4 with xerrorbars pt 0 lw 1.6 lc rgb 'black'")
      end
   end
   c:plot("goals", b.goals, "using 1:($2-0.38):(0):(0.76) with vectors nohead lw 3 lc rgb '#D55E00'", "goal")
   c:plot("single", b.single, ("using 1:2 with points pt 6 ps 0.6 lc rgb '%s'"):format(gnuplot.GREY))
end

-- Returns the pixels that names take.
local function draw_axes(c, result, most, unit)
   local count, tics, widest = #result.rows, {}, 0
   for i, row in ipairs(result.rows) do
      local lines = name_lines(row.name)
      for _, line in ipairs(lines) do widest = math.max(widest, text.width(line)) end
      tics[i] = canvas.tic(lines, count + 1 - i)
   end
   local left = widest * LETTER + 20
   c:add("set lmargin at screen %.4f; set rmargin at screen %.4f", left / WIDTH, 1 - VALUES / WIDTH)
   c:add("set ytics (%s)", table.concat(tics, ", "))
   c:add("set yrange [0.4:%.1f]", count + 0.6)
   c:add("set xrange [0:%.10g]", most > 0 and most * 1.02 or 1)
   c:add "set grid xtics noytics"
   c:add("set xlabel %s", canvas.axis_name(not result.of_ratios and "median" or nil, unit, result.better))
   return left
end

local function draw_labels(c, result, left)
   local place = "set label %s at %s, first %.10g left offset 0.8,0 front textcolor rgb '%s'"
   for i, row in ipairs(result.rows) do
      local y = #result.rows + 1 - i
      local value, over = labels_of(result, row)
      if value then c:add(place, gnuplot.quote(value), "graph 1", y, "black") end
      if over then
         local room = (WIDTH - left - (value and VALUES or 0)) / LETTER - 2
         c:add(place, gnuplot.quote(canvas.cut(over, math.floor(room))), "first 0",
            y + (#(row.values or {}) > 0 and 0.18 or 0), gnuplot.GREY)
      end
   end
end

-- ---- ratios ----

-- A row as its ratio.
local function as_ratio(row, reference)
   local ratio = row.name == reference and { median = 1 } or row.ratio or {}
   local missing = row.missing or not ratio.median and "no ratio" or nil
   return {
      name = row.name, goal = row.goal, missing = missing, median = ratio.median, low = ratio.low, high = ratio.high,
      values = ratio.values, verdict = ratio.verdict, why = ratio.why,
   }
end

-- On machines that are shared, ratios within a round are often stable where rates are not. When they are so twice as
-- often, they are the bars.
local function as_ratios(result)
   if not result.reference then return nil end
   local rows, stable, bars = {}, 0, 0
   for i, row in ipairs(result.rows) do
      rows[i] = as_ratio(row, result.reference)
      if row.name ~= result.reference then
         stable = stable + (canvas.has_number(rows[i]) and 1 or 0)
         bars = bars + (canvas.has_number(row) and 1 or 0)
      end
   end
   if stable == 0 or stable < 2 * bars then return nil end
   return {
      rows = rows, reference = result.reference, better = result.better, rounds = result.rounds, of_ratios = true,
      unit = "ratio to " .. format.name(result.reference),
   }
end

--- The picture of a group; nil: no contender has anything to draw.
---@param result table
---@return tideway.bench.picture?
function M.picture(result)
   result = as_ratios(result) or result
   local c = canvas.new()
   local blocks, most, unit = blocks_of(result)
   draw_blocks(c, result, blocks)
   draw_labels(c, result, draw_axes(c, result, most, unit))
   local top = 12 + canvas.LINE * #c.names
   local height = top + ROW * #result.rows + canvas.BELOW
   c:add("set tmargin at screen %.4f; set bmargin at screen %.4f", 1 - top / height, canvas.BELOW / height)
   c:add(#c.names > 0 and "set key at graph 0, screen %.4f left Left reverse samplen 2" or "unset key", 1 - 6 / height)
   return c:picture(height)
end

return M
