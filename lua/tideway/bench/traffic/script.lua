-- SPDX-License-Identifier: BSD-3-Clause
-- What the functions of this folder that scripts call have in common: whose fault an error is, options by name.

local nearest = require "tideway.live.nearest"

local M = {}

--- Calls a function; what it refuses about the script (raised without a position) becomes an error at the line that
--- called the function that calls this one.
---@param fn function
---@return any
function M.at_caller(fn, ...)
   local ok, result = pcall(fn, ...)
   if not ok then error(result, type(result) == "string" and result:find "^[^:%s]+:%d+: " and 0 or 3) end
   return result
end

--- Refuses options that do not exist, or are of another type.
---@param label string for messages
---@param given any
---@param known table<string, string> type by name; several: "number|string"
---@return table given, {} for nil
function M.options(label, given, known)
   if given == nil then return {} end
   if type(given) ~= "table" then error(("%s takes a table of options, not %s"):format(label, tostring(given)), 0) end
   for name, value in pairs(given) do
      if not known[name] then
         local names = {}
         for other in pairs(known) do names[#names + 1] = other end
         table.sort(names)
         error(("%s: there is no %q%s"):format(label, tostring(name), nearest.hint(tostring(name), names)), 0)
      elseif not ("|" .. known[name] .. "|"):find("|" .. type(value) .. "|", 1, true) then
         error(("%s: %s must be a %s, not %s"):format(label, name, known[name]:gsub("|", " or a "), tostring(value)), 0)
      end
   end
   return given
end

--- A whole number in a range.
---@param label string
---@param value any
---@param least number
---@param most number
---@return number
function M.whole(label, value, least, most)
   if type(value) ~= "number" or value % 1 ~= 0 or value < least or value > most then
      error(("%s is %s; it must be a whole number from %.0f to %.0f"):format(label, tostring(value), least, most), 0)
   end
   return value
end

return M
