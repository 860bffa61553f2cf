-- SPDX-License-Identifier: BSD-3-Clause
-- The names that were perhaps meant, for messages about a name that does not exist.

local M = {}

-- Edits from one word to another: letters that are changed, left out, put in, or swapped with the next one.
local function distance(a, b)
   local rows = {}
   for i = 0, #a do rows[i] = { [0] = i } end
   for j = 0, #b do rows[0][j] = j end
   for i = 1, #a do
      for j = 1, #b do
         local same = a:byte(i) == b:byte(j)
         local best = math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (same and 0 or 1))
         if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
            best = math.min(best, rows[i - 2][j - 2] + 1)
         end
         rows[i][j] = best
      end
   end
   return rows[#a][#b]
end

--- Names like a word, the most alike first, three at most.
---@param word string
---@param names string[]
---@return string[]
function M.of(word, names)
   local found = {}
   local lower = word:lower()
   for _, name in ipairs(names) do
      local other = name:lower()
      local score = #word <= 40 and #name <= 60 and distance(lower, other) or 99
      if #word > 1 and other:sub(1, #word) == lower then score = math.min(score, 1) end
      if score <= math.max(1, math.floor(#word * 0.4)) then found[#found + 1] = { name = name, score = score } end
   end
   table.sort(found, function(a, b)
      if a.score ~= b.score then return a.score < b.score end
      return a.name < b.name
   end)
   local list = {}
   for i = 1, math.min(3, #found) do list[i] = found[i].name end
   return list
end

--- A sentence's end about a name that does not exist: the nearest names, else all of them when they are few.
---@param word string
---@param names string[]
---@return string text "; did you mean drops?", "; there are: lan, wan", ...
function M.hint(word, names)
   local near = M.of(word, names)
   if #near > 0 then return ("; did you mean %s?"):format(table.concat(near, ", ")) end
   if #names == 0 then return "; there are none" end
   if #names > 12 then return "" end
   return "; there are: " .. table.concat(names, ", ")
end

return M
