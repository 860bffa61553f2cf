-- SPDX-License-Identifier: BSD-3-Clause
-- The tables that the functions of an NF reach. A table is memory of the engine or a map of the kernel, never both.

local M = {}

local function is_table(value)
   local meta = getmetatable(value)
   return meta and meta.__transfer and rawget(value, "kind") and rawget(value, "name")
end

local function visit(value, seen, found)
   local kind = type(value)
   if (kind ~= "table" and kind ~= "function") or seen[value] then return end
   seen[value] = true
   if kind == "function" then
      for i = 1, 255 do
         local name, upvalue = debug.getupvalue(value, i)
         if not name then break end
         visit(upvalue, seen, found)
      end
   elseif is_table(value) then
      found[value] = true
   else
      for k, v in next, value do
         visit(k, seen, found)
         visit(v, seen, found)
      end
   end
end

--- The tables of a chain's NFs.
---@param stages tideway.nf.instance[]
---@return table<table, true>
function M.of(stages)
   -- What is ours is no NF's: modules lead to everything.
   local seen, found = {}, {}
   for _, value in pairs(package.loaded) do seen[value] = true end
   for _, nf in ipairs(stages) do visit(nf, seen, found) end
   return found
end

return M
