-- SPDX-License-Identifier: BSD-3-Clause
-- What got faster or slower between two results, as aligned text.

local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"
local table_lib = require "tideway.bench.report.table"
local text = require "tideway.text"

local M = {}

local function change(ratio) return ("%+.1f %%"):format((ratio - 1) * 100) end

local function row_of(row)
   local name = format.name(row.group) .. "/" .. format.name(row.name)
   if not row.ratio then
      return { cells = { name }, span = ("%s: %s"):format(row.verdict, format.name(row.why or "no reason given")) }
   end
   return { cells = {
      name, row.verdict, change(row.ratio), ("%s .. %s"):format(change(row.low), change(row.high)),
      row.margin and format.percent(row.margin) or "", row.to and format.name(row.to) or "",
   } }
end

local function summary(rows)
   local count = {}
   for _, row in ipairs(rows) do count[row.verdict] = (count[row.verdict] or 0) + 1 end
   local told = (count.faster or 0) + (count.slower or 0) + (count.same or 0)
   local rest = #rows - told
   return ("%d rows: %d faster, %d slower, %d the same beyond noise%s"):format(#rows, count.faster or 0,
      count.slower or 0, count.same or 0, rest > 0 and (", %d not told"):format(rest) or "")
end

--- A comparison as lines.
---@param rows table[] as tideway.bench.compare gives them: group, name, verdict, ratio and its bounds low and high, to
--- (what it is the ratio to), margin (of noise); those that cannot be compared have `why`
---@param notes string[]
---@param width? integer default: 100
---@return string[]
function M.lines(rows, notes, width)
   width = width or table_lib.WIDTH
   local t = { columns = {
      cells.left "row", cells.left "verdict", cells.right "speed", cells.right "interval", cells.right "noise",
      cells.left "as ratio to",
   }, rows = {} }
   for i, row in ipairs(rows) do t.rows[i] = row_of(row) end
   local lines = #rows > 0 and table_lib.table(t, width) or {}
   for _, note in ipairs(notes) do
      for n, line in ipairs(text.wrap("note: " .. format.name(note), width - 2)) do
         lines[#lines + 1] = (n > 1 and "  " or "") .. line
      end
   end
   lines[#lines + 1] = summary(rows)
   return lines
end

return M
