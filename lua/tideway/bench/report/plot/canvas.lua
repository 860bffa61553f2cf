-- SPDX-License-Identifier: BSD-3-Clause
-- What all pictures share: a script of gnuplot that grows, blocks of numbers, axes, margins and the key.

local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"
local gnuplot = require "tideway.bench.report.gnuplot"
local text = require "tideway.text"

local M = {
   WIDTH = gnuplot.WIDTH, LETTER = gnuplot.LETTER,
   LINE = 20, -- pixels of a line of the key
   BELOW = 66, -- pixels for tics and name of the x axis
   NAME = 100, -- most letters of a name in the key
}

local LEFT, RIGHT, TOP = 88, 24, 14 -- margins of pictures with a y axis, in pixels
-- What gnuplot reckons with in the key: entries that do not fit its columns would be left out.
local KEY_LETTER, KEY_SAMPLE = 9.4, 9

--- Pixels between the axes, of pictures with a y axis.
M.ACROSS = M.WIDTH - LEFT - RIGHT

---@class tideway.bench.canvas
---@field lines string[] of the script
---@field plots string[] what is drawn
---@field names string[] in the key
local Canvas = {}
Canvas.__index = Canvas

---@return tideway.bench.canvas
function M.new() return setmetatable({ lines = {}, plots = {}, names = {} }, Canvas) end

--- A line of the script, as string.format().
function Canvas:add(pattern, ...)
   self.lines[#self.lines + 1] = select("#", ...) > 0 and pattern:format(...) or pattern
end

--- Draw a block of numbers.
---@param name string of the block
---@param rows string[] as M.numbers gives them
---@param how string as behind the data of gnuplot's plot; with a key it has one %s, for the text
---@param key? string a text for the key
function Canvas:plot(name, rows, how, key)
   if #rows == 0 then return end
   self:add("$%s << EOD\n%s\nEOD", name, table.concat(rows, "\n"))
   self:again(name, how, key)
end

--- Draw the same numbers in another way.
function Canvas:again(name, how, key)
   self.plots[#self.plots + 1] = ("$%s %s %s"):format(name, how, key and "title " .. gnuplot.quote(key) or "notitle")
   self.names[#self.names + 1] = key
end

--- Margins, and the key below the axes in as many columns as its names leave room for.
---@param plot_height integer pixels between the axes
---@param right? integer pixels of the margin on the right
---@return tideway.bench.picture? picture nil: there is nothing to draw
function Canvas:below(plot_height, right)
   if #self.plots == 0 then return nil end
   local widest = 1
   for _, name in ipairs(self.names) do widest = math.max(widest, text.width(name) + KEY_SAMPLE) end
   local columns = math.max(1, math.min(#self.names, math.floor(M.ACROSS / (widest * KEY_LETTER))))
   local key = math.ceil(#self.names / columns) * M.LINE + 8
   local height = plot_height + M.BELOW + key + TOP
   self:add("set lmargin at screen %.4f; set rmargin at screen %.4f", LEFT / M.WIDTH, 1 - (right or RIGHT) / M.WIDTH)
   self:add("set tmargin at screen %.4f; set bmargin at screen %.4f", 1 - TOP / height, (M.BELOW + key) / height)
   self:add("set key at screen %.4f, screen %.4f center top horizontal Left reverse maxcols %d samplen 4 width 1",
      (LEFT + M.WIDTH - RIGHT) / 2 / M.WIDTH, key / height, columns)
   return self:picture(height)
end

---@param height integer pixels
---@return tideway.bench.picture? picture nil: there is nothing to draw
function Canvas:picture(height)
   if #self.plots == 0 then return nil end
   self:add("plot %s", table.concat(self.plots, ", "))
   return { height = height, script = table.concat(self.lines, "\n") }
end

--- Colour, kind of line and shape of the i-th of several; every combination once before any comes again.
---@param i integer
---@return { colour: string, dash: string, point: integer }
function M.style(i)
   local n = #gnuplot.SERIES
   local own = gnuplot.SERIES[(i - 1) % n + 1]
   local other = gnuplot.SERIES[(i - 1 + math.floor((i - 1) / n)) % n + 1]
   return { colour = own.colour, dash = other.dash, point = other.point }
end

---@param s string
---@param letters integer
---@return string
function M.cut(s, letters) return text.width(s) <= letters and s or text.cut(s, letters - 3) .. "..." end

--- "latency (us)".
---@param name? string
---@param unit? string
---@return string
function M.with_unit(name, unit)
   unit = unit and unit ~= "" and format.name(unit)
   return name and unit and ("%s (%s)"):format(name, unit) or unit or name or ""
end

--- What an axis of values is called.
---@param name? string "median"
---@param unit string
---@param better? "more"|"less"
---@param note? string
---@return string as gnuplot's
function M.axis_name(name, unit, better, note)
   local way = (better == "more" or better == "less") and ", " .. better .. " is better" or ""
   return gnuplot.quote(M.with_unit(name, unit) .. (note or "") .. way)
end

--- A label at a value of an axis. gnuplot takes it for a format of the value.
---@param lines string[]
---@param value number
---@return string
function M.tic(lines, value)
   local list = {}
   for i, line in ipairs(lines) do list[i] = line:gsub("%%", "%%%%") end
   return ("%s %.10g"):format(gnuplot.quote_lines(list), value)
end

--- Numbers as a line of a block.
---@return string
function M.numbers(...)
   local parts = {}
   for i = 1, select("#", ...) do
      local v = select(i, ...)
      parts[i] = format.is_finite(v) and ("%.10g"):format(v) or "NaN"
   end
   return table.concat(parts, " ")
end

--- Has it a number that may be shown as one?
---@param item table
---@return boolean
function M.has_number(item)
   return not item.missing and not cells.is_unstable(item) and format.is_finite(item.median)
end

--- The largest of the values that are shown of rows or points.
---@param rows table[]
---@return number
function M.largest(rows)
   local most = 0
   for _, row in ipairs(rows) do
      local values = cells.is_unstable(row) and row.values or { row.median, row.high }
      for _, v in pairs(values or {}) do
         if format.is_finite(v) then most = math.max(most, v) end
      end
   end
   return most
end

local PREFIXES = { { 1e9, "G", "billions" }, { 1e6, "M", "millions" }, { 1e3, "k", "thousands" } }
local TAKES_PREFIX = { pps = true, ["bit/s"] = true, ["B/s"] = true }

--- An axis for values of any size: what they are divided by, and the unit then.
---@param most number
---@param unit? string
---@return number divisor
---@return string unit
function M.scale(most, unit)
   unit = format.name(unit or "")
   for _, p in ipairs(PREFIXES) do
      if most >= p[1] * 10 then
         if TAKES_PREFIX[unit] then return p[1], p[2] .. unit end
         return p[1], unit == "" and p[3] or ("%s of %s"):format(p[3], unit)
      end
   end
   return 1, unit
end

return M
