-- SPDX-License-Identifier: BSD-3-Clause
-- Latencies as a table: a row for each path, percentiles in the unit that suits them.

local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"

local M = {}

local CLOCKS = { tsc = "the CPU's time stamp counter", device = "the device's timestamps" }

--- The percentiles that any of the series has, as numbers in order and the keys they have in the document.
---@param series table[]
---@return { value: number, key: string|number }[]
function M.percentiles(series)
   local seen, list = {}, {}
   for _, s in ipairs(series) do
      for key in pairs(s.percentiles or {}) do
         local value = tonumber(key)
         if value and not seen[value] then
            list[#list + 1] = { value = value, key = key }
            seen[value] = true
         end
      end
   end
   table.sort(list, function(a, b) return a.value < b.value end)
   return list
end

--- Has it latencies to show?
---@param s table
---@return boolean
function M.measured(s) return not s.missing and not cells.is_unstable(s) and (s.count or 0) > 0 end

local function row_of(section, s, list, divisor)
   local name = format.name(s.name)
   if not M.measured(s) then
      local state = cells.is_unstable(s) and not s.missing and "unstable" or "missing"
      table.insert(section[state], name)
      local missing = "not measured: " .. format.name(s.missing or "no packet with a stamp arrived")
      return { cells = { name }, span = state == "unstable" and cells.unstable(s) or missing, state = state }
   end
   local row = { name, format.number(s.count, 0) }
   local function add(ns) row[#row + 1] = format.is_finite(ns) and format.number(ns / divisor) or "" end
   add(s.min)
   add(s.mean)
   for _, p in ipairs(list) do add(s.percentiles and (s.percentiles[p.key] or s.percentiles[p.value])) end
   add(s.max)
   return { cells = row }
end

--- Fill a section.
---@param section tideway.bench.section
---@param result table
function M.fill(section, result)
   local divisor, unit, typical = 1, format.name(result.unit or "ns"), 0
   for _, s in ipairs(result.series) do
      if M.measured(s) then typical = math.max(typical, format.is_finite(s.mean) and s.mean or 0) end
   end
   if unit == "ns" then divisor, unit = format.time_unit(typical * 10) end
   section.about = cells.sentence(unit, "less is better",
      result.clock and "clock: " .. format.name(CLOCKS[result.clock] or result.clock) or nil)
   local list = M.percentiles(result.series)
   local columns = { cells.left "path", cells.right "packets", cells.right(cells.with_unit("min", unit)),
      cells.right "mean" }
   for _, p in ipairs(list) do columns[#columns + 1] = cells.right(("%.10g%%"):format(p.value)) end
   columns[#columns + 1] = cells.right "max"
   local t = { columns = columns, rows = {} }
   for i, s in ipairs(result.series) do t.rows[i] = row_of(section, s, list, divisor) end
   section.tables[1] = t
   local why = cells.reasons(result.why)
   if why then section.notes[1] = why end
   for _, s in ipairs(result.series) do
      if s.note then table.insert(section.notes, ("%s: %s"):format(format.name(s.name), format.name(s.note))) end
   end
   if #t.rows == 0 then table.insert(section.notes, "nothing was measured") end
end

return M
