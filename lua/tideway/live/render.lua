-- SPDX-License-Identifier: BSD-3-Clause
-- Views as lines of text, for terminals of any width.

local text = require "tideway.text"

local M = {}

local GAP, NARROWEST, DOTS = 2, 8, "..."

-- Nothing of a packet or a name may steer a terminal.
local function harmless(s)
   return (s:gsub("[%z\1-\8\11-\31\127]", function(c) return ("\\x%02x"):format(c:byte()) end))
end

local function cut(s, width)
   if text.width(s) <= width then return s end
   return width <= #DOTS and text.cut(s, width) or text.cut(s, width - #DOTS) .. DOTS
end

local EXACT = 2 ^ 53

--- A number for people: counts from 10,000 on with separators, at most three digits behind the point.
---@param n number
---@param plain? boolean no separators
---@return string
function M.number(n, plain)
   if n ~= n or n == math.huge or n == -math.huge then return tostring(n) end
   if n == math.floor(n) and math.abs(n) < EXACT then
      return (plain or math.abs(n) < 10000) and ("%.0f"):format(n) or text.count(n)
   end
   if math.abs(n) >= 1e15 or math.abs(n) < 1e-3 then return ("%.4g"):format(n) end
   return (("%.3f"):format(n):gsub("0+$", ""):gsub("%.$", ""))
end

local function cell_text(cell, column)
   if type(cell) == "number" then return M.number(cell, column.plain) end
   return (harmless(tostring(cell)):gsub("\n", "\\n"):gsub("\t", " "))
end

-- Right where all cells are numbers.
local function align_of(column, i, rows)
   if column.align then return column.align end
   local numbers = false
   for _, row in ipairs(rows) do
      if row[i] ~= "" and type(row[i]) ~= "number" then return "left" end
      numbers = numbers or row[i] ~= ""
   end
   return numbers and "right" or "left"
end

-- Takes from the widest left-aligned column until the line fits.
local function fit(widths, aligns, width)
   local total = GAP * (#widths - 1)
   for _, w in ipairs(widths) do total = total + w end
   while total > width do
      local widest
      for i, w in ipairs(widths) do
         if aligns[i] == "left" and w > NARROWEST and (not widest or w > widths[widest]) then widest = i end
      end
      if not widest then return end
      widths[widest], total = widths[widest] - 1, total - 1
   end
end

-- A heading as wide as its longest word at least, in as many lines as that takes.
local function wrapped(heading, width)
   local longest = 0
   for word in heading:gmatch "%S+" do longest = math.max(longest, text.width(word)) end
   return text.wrap(heading, math.max(width, longest)), math.max(width, longest)
end

local function headings_of(v, widths, width)
   local total, headings, height = GAP * (#v.columns - 1), {}, 1
   for i, column in ipairs(v.columns) do
      headings[i] = { (harmless(column.name):upper():gsub("_", " ")) }
      total = total + math.max(widths[i], text.width(headings[i][1]))
   end
   for i, heading in ipairs(headings) do
      if width and total > width then
         headings[i], widths[i] = wrapped(heading[1], widths[i])
      else
         widths[i] = math.max(widths[i], text.width(heading[1]))
      end
      height = math.max(height, #headings[i])
   end
   local rows = {}
   for n = 1, height do
      rows[n] = {}
      for i, heading in ipairs(headings) do rows[n][i] = heading[n - height + #heading] or "" end
   end
   return rows
end

local function line_of(row, widths, aligns)
   local cells = {}
   for i, cell in ipairs(row) do
      cell = cut(cell, widths[i])
      local pad = (" "):rep(widths[i] - text.width(cell))
      cells[i] = aligns[i] == "right" and pad .. cell or cell .. pad
   end
   return (table.concat(cells, (" "):rep(GAP)):gsub("%s+$", ""))
end

local function table_lines(v, width)
   local cells, widths, aligns, lines = {}, {}, {}, {}
   for n, row in ipairs(v.rows) do
      cells[n] = {}
      for i, column in ipairs(v.columns) do cells[n][i] = cell_text(row[i], column) end
   end
   for i, column in ipairs(v.columns) do
      aligns[i], widths[i] = align_of(column, i, v.rows), 0
      for _, row in ipairs(cells) do widths[i] = math.max(widths[i], text.width(row[i])) end
   end
   local rows = v.headless and {} or headings_of(v, widths, width)
   for _, row in ipairs(cells) do rows[#rows + 1] = row end
   if width then fit(widths, aligns, width) end
   for n, row in ipairs(rows) do
      lines[n] = line_of(row, widths, aligns)
      if width then lines[n] = cut(lines[n], width) end
   end
   return lines
end

-- Whole: a long text wraps in the terminal, and nothing of it is lost.
local function text_lines(v)
   local lines = {}
   for line in (harmless(v.text) .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
   if lines[#lines] == "" and #lines > 1 then lines[#lines] = nil end
   return lines
end

local function list_lines(v, width)
   local lines = {}
   for n, item in ipairs(v.items) do
      local before = v.items[n - 1]
      if before and (item.title or before.title or (item.view == "table" and before.view == "table")) then
         lines[#lines + 1] = ""
      end
      for _, line in ipairs(M.lines(item, width)) do lines[#lines + 1] = line end
   end
   return lines
end

local KINDS = { table = table_lines, text = text_lines, list = list_lines }

--- See view.lines.
---@param v tideway.view
---@param width? integer
---@return string[]
function M.lines(v, width)
   local kind = KINDS[v.view]
   if not kind then error(("there is no view of kind %q"):format(tostring(v.view)), 2) end
   local indent = v.title and "  " or ""
   local lines = kind(v, width and math.max(20, width - #indent))
   for i, line in ipairs(lines) do lines[i] = line ~= "" and indent .. line or line end
   if v.title then table.insert(lines, 1, harmless(v.title)) end
   if v.more then lines[#lines + 1] = ("%s... and %s more"):format(indent, text.count(v.more)) end
   return lines
end

return M
