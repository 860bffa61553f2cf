-- SPDX-License-Identifier: BSD-3-Clause
-- Text for people: aligned tables and readable numbers.

local M = {}

--- A count with thousands separators: 1234567 -> "1,234,567".
---@param n number
---@return string
function M.count(n)
   local sign, digits = ("%.0f"):format(n):match "^(%-?)(%d+)$"
   if not digits then return tostring(n) end
   digits = digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
   return sign .. digits
end

--- A rate with an SI prefix and three digits: 1234567 -> "1.23 M", 0 -> "0".
---@param n number
---@return string
function M.si(n)
   if n == 0 then return "0" end
   for _, p in ipairs { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" } } do
      if n >= p[1] * 0.9995 then
         local v = n / p[1]
         return (v < 9.995 and "%.2f %s" or v < 99.95 and "%.1f %s" or "%.0f %s"):format(v, p[2])
      end
   end
   return (n < 9.95 and "%.1f" or "%.0f"):format(n)
end

--- Columns of a string on a UTF-8 terminal (code points; nothing here is wide or combining).
---@param s string
---@return integer
function M.width(s)
   local _, n = s:gsub("[^\128-\191]", "")
   return n
end

--- Cut a string to a number of columns.
---@param s string
---@param columns integer
---@return string
function M.cut(s, columns)
   if M.width(s) <= columns then return s end
   local n, stop = 0, 1
   for at in s:gmatch "()[^\128-\191][\128-\191]*" do
      n = n + 1
      stop = at
      if n > columns then break end
   end
   return s:sub(1, stop - 1)
end

--- Rows of cells as aligned lines.
---@param align string one letter a column: "l" left, "r" right
---@param rows string[][] a missing cell is empty
---@return string[] lines without trailing blanks
function M.columns(align, rows)
   local widths = {}
   for _, row in ipairs(rows) do
      for i = 1, #align do widths[i] = math.max(widths[i] or 0, M.width(row[i] or "")) end
   end
   local lines = {}
   for n, row in ipairs(rows) do
      local cells = {}
      for i = 1, #align do
         local cell = row[i] or ""
         local pad = (" "):rep(widths[i] - M.width(cell))
         cells[i] = align:sub(i, i) == "r" and pad .. cell or cell .. pad
      end
      lines[n] = table.concat(cells, "  "):gsub("%s+$", "")
   end
   return lines
end

--- Break a text into lines of at most `width` columns, at blanks.
---@param s string
---@param width integer
---@return string[]
function M.wrap(s, width)
   local lines, line = {}, ""
   for word in s:gmatch "%S+" do
      if line ~= "" and M.width(line) + 1 + M.width(word) > width then
         lines[#lines + 1] = line
         line = word
      else
         line = line == "" and word or line .. " " .. word
      end
   end
   if line ~= "" then lines[#lines + 1] = line end
   return lines
end

return M
