-- SPDX-License-Identifier: BSD-3-Clause
-- Searches and plain tables: rows of any cells under the columns that the experiment chose; the trials of a search.

local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"

local M = {}

local METHODS = {
   binary = "binary search", mlr = "MLRsearch (RFC 9971)", rfc2544 = "RFC 2544", rfc8219 = "RFC 8219", soak = "soak",
   burst = "burst response",
}

local function column_name(column)
   if type(column) == "table" then
      return cells.with_unit(format.name(column.title or column.name or column[1] or "?"), column.unit)
   end
   return format.name(column)
end

--- The value of a row in a column. A row is a list, also as JSON has one with names beside its values, or a record with
--- the columns' names.
---@param row table
---@param columns (string|table)[]
---@param i integer
---@return any
function M.value(row, columns, i)
   local column = columns[i]
   for _, key in ipairs { i, tostring(i), type(column) == "table" and (column.name or column[1]) or column } do
      if row[key] ~= nil then return row[key] end
   end
end

local function cell_text(v, decimals)
   if type(v) == "number" then return format.number(v, decimals) end
   if type(v) == "boolean" then return v and "yes" or "no" end
   return (v == nil or type(v) == "table") and "" or format.name(v)
end

-- One column into the table: numbers right, with the decimals that they need.
local function add_column(t, columns, rows, i)
   local values, words = {}, false
   for _, row in ipairs(rows) do
      local v = M.value(row, columns, i)
      if type(v) == "number" then values[#values + 1] = v end
      words = words or (type(v) == "string" and v ~= "" and v ~= "-")
   end
   local decimals = format.decimals(values)
   local align = #values > 0 and not words and "right" or "left"
   t.columns[i] = { name = column_name(columns[i]), align = align, keep = true }
   for n, row in ipairs(rows) do t.rows[n].cells[i] = cell_text(M.value(row, columns, i), decimals) end
end

local function table_of(columns, rows)
   local t = { columns = {}, rows = {} }
   for n, row in ipairs(rows) do
      t.rows[n] = { cells = {}, state = cells.is_unstable(row) and "unstable" or row.met == false and "missed" or nil }
   end
   for i in ipairs(columns) do add_column(t, columns, rows, i) end
   return t
end

--- Fill a section.
---@param section tideway.bench.section
---@param result table
function M.fill(section, result)
   section.about = cells.sentence(result.method and format.name(METHODS[result.method] or result.method) or nil,
      result.unit and format.name(result.unit) or nil,
      result.trials and ("%d trials"):format(#result.trials) or nil)
   if cells.is_unstable(result) then
      section.unstable[1] = section.name
      section.notes[1] = cells.unstable(result)
   else
      if result.verdict == "not met" then section.missed[1] = section.name end
      if result.verdict and result.verdict ~= "stable" then
         section.notes[1] = "goal " .. format.name(result.verdict)
      end
      local why = type(result.why) == "string" and { result.why } or result.why or {}
      for _, sentence in ipairs(why) do table.insert(section.notes, format.name(sentence)) end
   end
   if #result.columns > 0 then section.tables[1] = table_of(result.columns, result.rows) end
   if #result.rows == 0 then section.notes[#section.notes + 1] = "nothing was measured" end
end

local OF_TRIALS = { "rate", "offered", "reached", "sent", "received", "lost", "seconds", "short" }

--- The trials of a search as a table of their own; nil without any.
---@param result table
---@return tideway.bench.section.table?
function M.trials(result)
   if not result.trials or #result.trials == 0 then return nil end
   local columns, rows = { "trial" }, {}
   for _, name in ipairs(OF_TRIALS) do
      for _, trial in ipairs(result.trials) do
         if trial[name] ~= nil then
            columns[#columns + 1] = name
            break
         end
      end
   end
   for i, trial in ipairs(result.trials) do
      rows[i] = { i }
      for n = 2, #columns do rows[i][n] = trial[columns[n]] end
   end
   return table_of(columns, rows)
end

return M
