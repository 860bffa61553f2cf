-- SPDX-License-Identifier: BSD-3-Clause
-- Lines of users who may not evaluate Lua: the call of one command with literal arguments, read and not run.

local parser = require "tideway.compiler.syntax.parser"

local M = {}

local value

local function table_of(node)
   local t, n = {}, 0
   for _, item in ipairs(node.items) do
      local key = item.name
      if item.key then
         key = value(item.key)
         if key == nil or key ~= key then error("a key is nil", 0) end
      elseif key == nil then
         n = n + 1
         key = n
      end
      t[key] = value(item.value)
   end
   return t
end

local CONSTANTS = {
   Nil = function() return nil end,
   True = function() return true end,
   False = function() return false end,
   String = function(node) return node.value end,
   Number = function(node) return tonumber(node.value) end,
   Paren = function(node) return value(node.expr) end,
   Table = table_of,
   Unary = function(node)
      local number = node.op == "-" and node.operand.tag == "Number" and value(node.operand)
      if not number then error("not a literal", 0) end
      return -number
   end,
}

function value(node)
   local read = CONSTANTS[node.tag]
   if not read then error("not a literal", 0) end
   return read(node)
end

--- Read `name(...)`, `name "text"`, `name {...}`, or a lone `name`.
---@param text string
---@return string? name nil: it is something else
---@return any[]? args with n
---@return boolean? lone it is no call
function M.call(text)
   local ok, chunk = pcall(parser.parse, "return " .. text, "eval")
   if not ok or #chunk.body ~= 1 then return nil end
   local exprs = chunk.body[1].exprs
   if not exprs or #exprs ~= 1 then return nil end
   local node = exprs[1]
   if node.tag == "Name" then return node.name, { n = 0 }, true end
   if node.tag ~= "Call" or node.func.tag ~= "Name" then return nil end
   local args = { n = #node.args }
   for i, arg in ipairs(node.args) do
      local fine, got = pcall(value, arg)
      if not fine then return nil end
      args[i] = got
   end
   return node.func.name, args, false
end

return M
