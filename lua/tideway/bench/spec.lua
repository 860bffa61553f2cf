-- SPDX-License-Identifier: BSD-3-Clause
-- Tables with named parts that scripts give: a part that nobody knows is an error, not silence.

local M = {}

--- Raise when a table has a named part that is none of these.
---@param what string who takes it, for the message
---@param spec table
---@param names string separated by spaces
---@param level integer as for error()
function M.known(what, spec, names, level)
   for key in pairs(spec) do
      if type(key) == "string" and not (" " .. names .. " "):find(" " .. key .. " ", 1, true) then
         error(("%s: there is no %q; there are: %s"):format(what, key, (names:gsub(" ", ", "))), level + 1)
      end
   end
end

return M
