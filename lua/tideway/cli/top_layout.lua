-- SPDX-License-Identifier: BSD-3-Clause
-- The pages of `tideway top` as lines that fit a terminal: columns that go when it is narrow, rows that scroll.

local text = require "tideway.text"

local M = {}

-- An elastic column gives way down to ELASTIC_GOOD, then others go, then it gives way down to ELASTIC_MIN.
local GAP, CELL_MAX, ELASTIC_GOOD, ELASTIC_MIN = 2, 32, 26, 8

local function shrink(section, widths, total, width, least)
   for i, column in ipairs(section.columns) do
      if widths[i] and column.elastic and total > width then
         local less = math.min(total - width, math.max(0, widths[i] - least))
         widths[i], total = widths[i] - less, total - less
      end
   end
   return total
end

-- Width of each column; nil for one that is left out.
local function widths_of(section, width)
   local widths, total = {}, -GAP
   for i, column in ipairs(section.columns) do
      widths[i] = text.width(column[1])
      for _, row in ipairs(section.rows) do widths[i] = math.max(widths[i], text.width(row.cells[i] or "")) end
      if not column.elastic then widths[i] = math.min(widths[i], CELL_MAX) end
      total = total + widths[i] + GAP
   end
   if not width then return widths end
   total = shrink(section, widths, total, width, ELASTIC_GOOD)
   while total > width do
      local last
      for i, column in ipairs(section.columns) do
         if widths[i] and column.least and (not last or column.least > section.columns[last].least) then last = i end
      end
      if not last then break end
      total, widths[last] = total - widths[last] - GAP, nil
   end
   shrink(section, widths, total, width, ELASTIC_MIN)
   return widths
end

local function line_of(section, widths, cells)
   local parts = {}
   for i, column in ipairs(section.columns) do
      if widths[i] then
         local cell = text.cut(cells[i] or "", widths[i])
         local pad = (" "):rep(widths[i] - text.width(cell))
         parts[#parts + 1] = column.align == "r" and pad .. cell or cell .. pad
      end
   end
   return (table.concat(parts, "  "):gsub("%s+$", ""))
end

---@class tideway.top.line
---@field text string
---@field target? string
---@field heading? boolean

--- A page as lines.
---@param page tideway.top.page
---@param width? integer columns; nil: as wide as it gets
---@return tideway.top.line[]
function M.lines(page, width)
   local lines = {}
   local function add(s, target, heading)
      lines[#lines + 1] = { text = width and text.cut(s, width) or s, target = target, heading = heading }
   end
   -- Sentences go on in the next line; what is aligned with blanks is cut.
   local function say(s)
      if not width or text.width(s) <= width or s:find "%S   +%S.*   " then return add(s) end
      for _, line in ipairs(text.wrap(s, width)) do add(line) end
   end
   for _, s in ipairs(page.head) do say(s) end
   for _, section in ipairs(page.sections) do
      if #section.rows > 0 then
         if #lines > 0 then add "" end
         local widths, titles = widths_of(section, width), {}
         for i, column in ipairs(section.columns) do titles[i] = column[1] end
         add(line_of(section, widths, titles), nil, true)
         for _, row in ipairs(section.rows) do add(line_of(section, widths, row.cells), row.target) end
      end
   end
   if page.foot then
      add ""
      say(page.foot)
   end
   return lines
end

--- Where the cursor stands: the line with its target, or the one nearest to where that was.
---@param lines tideway.top.line[]
---@param target? string
---@param at? integer line where it was
---@return integer? line nil: no line can be chosen
function M.cursor(lines, target, at)
   local best
   for i, line in ipairs(lines) do
      if line.target then
         if line.target == target and (not at or i == at) then return i end
         if line.target == target then best = i end
      end
   end
   if best then return best end
   for i, line in ipairs(lines) do
      if line.target and (not best or math.abs(i - (at or 1)) < math.abs(best - (at or 1))) then best = i end
   end
   return best
end

--- The line that the cursor goes to.
---@param lines tideway.top.line[]
---@param at? integer
---@param step integer lines that can be chosen, up or down
---@return integer?
function M.move(lines, at, step)
   local choices, place = {}, 1
   for i, line in ipairs(lines) do
      if line.target then
         choices[#choices + 1] = i
         if i == at then place = #choices end
      end
   end
   if #choices == 0 then return nil end
   return choices[math.min(#choices, math.max(1, place + step))]
end

--- The first line to show so that the cursor is in sight.
---@param lines tideway.top.line[]
---@param cursor? integer
---@param top integer the first line now
---@param height integer
---@return integer
function M.scroll(lines, cursor, top, height)
   top = math.max(1, math.min(top, #lines - height + 1))
   if not cursor then return top end
   local least = math.max(1, cursor - 1) -- the heading above the first row
   if cursor <= 3 or (lines[least] and lines[least].heading and least <= 2) then least = 1 end
   if least < top then top = least end
   if cursor > top + height - 1 then top = cursor - height + 1 end
   return top
end

return M
