-- SPDX-License-Identifier: BSD-3-Clause
-- A result document as aligned text for terminals and files, 100 columns wide unless told.

local document_lib = require "tideway.bench.report.document"
local format = require "tideway.bench.report.format"
local section_lib = require "tideway.bench.report.section"
local summary = require "tideway.bench.report.summary"
local text = require "tideway.text"

local M = {}

--- Columns of text when nothing else is said.
M.WIDTH = 100

local LEAST, GAP, INDENT, NAME_MOST = 40, 2, 2, 30

-- Lines of at most `width` columns; words that are longer are cut.
local function fold(s, width)
   local lines = {}
   for _, line in ipairs(text.wrap(s, width)) do
      while text.width(line) > width do
         local head = text.cut(line, width)
         lines[#lines + 1], line = head, line:sub(#head + 1)
      end
      lines[#lines + 1] = line
   end
   return #lines > 0 and lines or { "" }
end

local function widest(lines)
   local most = 0
   for _, line in ipairs(lines) do most = math.max(most, text.width(line)) end
   return most
end

local function longest_word(s)
   local most = 0
   for word in s:gmatch "%S+" do most = math.max(most, text.width(word)) end
   return most
end

-- Upper case but for units, as ms is not MS, and for names of the script's own.
local function heading(column)
   if column.keep then return column.name end
   local head, unit = column.name:match "^(.-)( %(.*%))$"
   return (head or column.name):upper() .. (unit or "")
end

-- Each column's cells and heading as lists of lines, and its width; headings as narrow as they can be.
local function measure(t, width)
   local columns = {}
   for i, column in ipairs(t.columns) do
      local most = i == 1 and math.min(NAME_MOST, math.floor(width / 2)) or width - columns[1].width - GAP
      local c = { align = column.align, cells = {}, width = 1 }
      for n, row in ipairs(t.rows) do
         c.cells[n] = fold(row.cells[i] or "", most)
         c.width = math.max(c.width, widest(c.cells[n]))
      end
      c.name = heading(column)
      c.heading = fold(c.name, math.min(most, math.max(c.width, longest_word(c.name))))
      c.width = math.max(c.width, widest(c.heading))
      columns[i] = c
   end
   return columns
end

-- Headings on one line where there is room for all of them.
local function relax(block, width)
   local total, wide = -GAP, {}
   for i, c in ipairs(block) do
      local most = math.max(c.width, text.width(c.name))
      wide[i] = { align = c.align, cells = c.cells, heading = { c.name }, width = most }
      total = total + GAP + most
   end
   return total <= width and wide or block
end

-- Columns that stand beside each other within the width; the first one comes again in each block.
local function blocks_of(columns, width)
   local blocks, block, used = {}, { columns[1] }, columns[1].width
   for i = 2, #columns do
      local more = GAP + columns[i].width
      if used + more > width and #block > 1 then
         blocks[#blocks + 1] = block
         block, used = { columns[1] }, columns[1].width
      end
      block[#block + 1], used = columns[i], used + more
   end
   blocks[#blocks + 1] = block
   for i, each in ipairs(blocks) do blocks[i] = relax(each, width) end
   return blocks
end

local function padded(s, column)
   local pad = (" "):rep(column.width - text.width(s))
   return column.align == "right" and pad .. s or s .. pad
end

-- One row of a block as lines: its cells are lists of lines.
local function add_row(lines, block, cells, bottom)
   local height = 1
   for _, cell in ipairs(cells) do height = math.max(height, #cell) end
   for n = 1, height do
      local parts = {}
      for i, column in ipairs(block) do
         parts[i] = padded(cells[i][bottom and n - height + #cells[i] or n] or "", column)
      end
      lines[#lines + 1] = (table.concat(parts, (" "):rep(GAP)):gsub("%s+$", ""))
   end
end

local function add_span(lines, name, column, span, width)
   local rest = fold(span, math.max(10, width - column.width - GAP))
   for n = 1, math.max(#name, #rest) do
      local line = padded(name[n] or "", column) .. (" "):rep(GAP) .. (rest[n] or "")
      lines[#lines + 1] = (line:gsub("%s+$", ""))
   end
end

--- A table of a section as lines; one that is too wide continues below.
---@param t tideway.bench.section.table
---@param width? integer
---@return string[]
function M.table(t, width)
   width = width or M.WIDTH
   local lines = {}
   for b, block in ipairs(blocks_of(measure(t, width), width)) do
      if b > 1 then lines[#lines + 1] = "" end
      local cells = {}
      for i, column in ipairs(block) do cells[i] = column.heading end
      add_row(lines, block, cells, true)
      for n, row in ipairs(t.rows) do
         for i, column in ipairs(block) do cells[i] = column.cells[n] end
         if not row.span then
            add_row(lines, block, cells)
         elseif b == 1 then
            add_span(lines, cells[1], block[1], row.span, width)
         end
      end
   end
   return lines
end

local function add_wrapped(lines, s, width, indent, hang)
   for n, line in ipairs(fold(s, width - indent - hang)) do
      lines[#lines + 1] = (" "):rep(n == 1 and indent or indent + hang) .. line
   end
end

--- One result as lines, for showing it as soon as it is there.
---@param result table
---@param width? integer default: 100
---@return string[]
function M.result(result, width)
   width = math.max(LEAST, width or M.WIDTH)
   local section, lines = section_lib.of(result), {}
   local title = section.title == section.name and section.name or section.name .. ": " .. section.title
   add_wrapped(lines, title, width, 0, INDENT)
   if section.about ~= "" then add_wrapped(lines, section.about, width, INDENT, 0) end
   for n, t in ipairs(section.tables) do
      if #t.rows > 0 then
         if n > 1 then lines[#lines + 1] = "" end
         for _, line in ipairs(M.table(t, width - INDENT)) do
            lines[#lines + 1] = line == "" and line or (" "):rep(INDENT) .. line
         end
      end
   end
   for _, note in ipairs(section.notes) do add_wrapped(lines, note, width, INDENT, INDENT) end
   return lines
end

--- A whole document as lines: what was run and where, each result, and what to look at in the end.
---@param document table
---@param width? integer default: 100
---@return string[]
function M.lines(document, width)
   assert(document_lib.basic(document))
   width = math.max(LEAST, width or M.WIDTH)
   local lines = {}
   add_wrapped(lines, summary.headline(document), width, 0, INDENT)
   local machine = summary.machine(document)
   if machine ~= "" then add_wrapped(lines, machine, width, INDENT, 0) end
   if document.command then add_wrapped(lines, format.name(document.command), width, INDENT, INDENT) end
   for _, result in ipairs(document.results) do
      lines[#lines + 1] = ""
      for _, line in ipairs(M.result(result, width)) do lines[#lines + 1] = line end
   end
   lines[#lines + 1] = ""
   for _, line in ipairs(summary.findings(document)) do add_wrapped(lines, line, width, 0, INDENT) end
   return lines
end

return M
