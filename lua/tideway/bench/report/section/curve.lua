-- SPDX-License-Identifier: BSD-3-Clause
-- Curves as tables: a row for each value of x, contenders beside each other.

local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"

local M = {}

local BESIDE = 3 -- contenders in one table

local function put(list, value) list[#list + 1] = value end

local function has_number(point) return not point.missing and format.is_finite(point.median) end

-- What is to be said of a point that has no number.
local function note_point(section, series, point, x)
   local unit = x.unit and x.unit ~= "" and x.unit or x.name or ""
   local at = ("%s at %s %s"):format(format.name(series.name), format.number(point.x), format.name(unit))
   if cells.is_unstable(point) then
      put(section.unstable, at)
      put(section.notes, ("%s: %s"):format(at, cells.unstable(point)))
   elseif not has_number(point) then
      put(section.missing, at)
      put(section.notes, ("%s: not measured: %s"):format(at, format.name(point.missing or "no round was finished")))
   end
end

-- The values of x in order, and the series that have points.
local function look_at(section, result)
   local xs, seen, present = {}, {}, {}
   for _, series in ipairs(result.series) do
      if series.missing then
         put(section.missing, format.name(series.name))
         put(section.notes, ("%s: not measured: %s"):format(format.name(series.name), format.name(series.missing)))
      elseif series.points and #series.points > 0 then
         put(present, series)
      end
      for _, point in ipairs(series.points or {}) do
         if not seen[point.x] then xs[#xs + 1], seen[point.x] = point.x, true end
         note_point(section, series, point, result.x)
      end
   end
   table.sort(xs)
   return xs, present
end

local function point_at(series, x)
   for _, point in ipairs(series.points or {}) do
      if point.x == x then return point end
   end
end

local function table_of(result, xs, series, unit, cell)
   local x_name = cells.with_unit(format.name(result.x.name or "x"), result.x.unit)
   local t, x_decimals = { columns = { cells.right(x_name) }, rows = {} }, format.decimals(xs)
   for i, s in ipairs(series) do t.columns[i + 1] = cells.own(cells.with_unit(format.name(s.name), unit)) end
   for n, x in ipairs(xs) do
      local row = { cells = { format.number(x, x_decimals) } }
      for i, s in ipairs(series) do
         local point = point_at(s, x)
         row.cells[i + 1] = point and cell(point) or ""
         if point and cells.is_unstable(point) then row.state = "unstable" end
      end
      t.rows[n] = row
   end
   return t
end

local function add_values(section, result, xs, present)
   for first = 1, #present, BESIDE do
      local some = {}
      for i = first, math.min(#present, first + BESIDE - 1) do put(some, present[i]) end
      put(section.tables, table_of(result, xs, some, result.unit, function(point)
         if cells.is_unstable(point) then return "unstable" end
         if not has_number(point) then return "-" end
         return result.rounds == 1 and format.number(point.median) or cells.with_interval(point)
      end))
   end
end

-- The ratios within a round, when one of the contenders is the reference.
local function add_ratios(section, result, xs, present)
   local others, any = {}, false
   for _, series in ipairs(present) do
      if series.name ~= result.reference then put(others, series) end
      for _, point in ipairs(series.points) do any = any or (series.name ~= result.reference and point.ratio ~= nil) end
   end
   if not result.reference or not any then return end
   local t = table_of(result, xs, others, "ratio to " .. result.reference, function(point)
      return cells.ratio(point.ratio, result.rounds == 1)
   end)
   put(section.tables, t)
end

--- Fill a section.
---@param section tideway.bench.section
---@param result table
function M.fill(section, result)
   local points, any = {}, false
   for _, series in ipairs(result.series) do
      for _, point in ipairs(series.points or {}) do
         put(points, point)
         any = any or format.interval(point.low, point.high) ~= ""
      end
   end
   section.about = cells.about(result, any and result.rounds ~= 1
      and ("median (%s)"):format(cells.interval_name(points)) or nil)
   local xs, present = look_at(section, result)
   add_values(section, result, xs, present)
   add_ratios(section, result, xs, present)
   if #xs == 0 then put(section.notes, "nothing was measured") end
end

return M
