-- SPDX-License-Identifier: BSD-3-Clause
-- One of several strings, functions or tables, known at run time: a path for each of them.

local value = require "tideway.compiler.front.value"

local M = {}

--- What f makes of the one that it is.
---@param cx tideway.compiler.context
---@param fv table a value; one that is no choice is the only one
---@param f fun(fv: table): table
---@return table fv
function M.each(cx, fv, f)
   if fv.k ~= "choice" then return f(fv) end
   local ids, join = {}, cx:join()
   for id in pairs(fv.set) do ids[#ids + 1] = id end
   table.sort(ids)
   for i, id in ipairs(ids) do
      local yes, no
      if i < #ids then yes, no = cx:split("eq", fv.ir, cx:const(id)) end
      if yes then cx:go(yes) end
      if yes or i == #ids then cx:jump(join, { f(value.host(cx.choices[id])) }) end
      if not no then break end
      cx:go(no)
   end
   return cx:enter(join)[1]
end

return M
