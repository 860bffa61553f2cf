-- SPDX-License-Identifier: BSD-3-Clause
-- The commands of a running engine as functions: looked up by name, checked for their role.

local roles = require "tideway.control.roles"
local session = require "tideway.live.session"

local M = {}

local function list() return require "tideway.live.commands" end

--- The names of the commands that a role may call, in order.
---@param role string
---@return string[]
function M.names(role)
   local names = {}
   for name, entry in pairs(list()) do
      if roles.allows(role, entry.role) then names[#names + 1] = name end
   end
   table.sort(names)
   return names
end

--- What stands about a command in tideway.live.commands.
---@param name string
---@return tideway.live.command?
function M.entry(name) return list()[name] end

--- A command as a function; its module is loaded when it is called.
---@param name string
---@return fun(...): ...
function M.fn(name)
   local entry = list()[name]
   return function(...)
      return session.engine_code(require(entry.module)[entry.fn], ...)
   end
end

--- All commands of a role: name -> function.
---@param role string
---@return table<string, fun(...): ...>
function M.all(role)
   local all = {}
   for _, name in ipairs(M.names(role)) do all[name] = M.fn(name) end
   return all
end

return M
