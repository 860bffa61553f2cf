-- SPDX-License-Identifier: BSD-3-Clause
-- The globals of a session: commands, tw, live objects, Lua itself, and what the user assigned.

local command = require "tideway.live.command"
local help = require "tideway.live.help"
local nearest = require "tideway.live.nearest"
local objects = require "tideway.live.objects"
local session = require "tideway.live.session"
local value = require "tideway.live.value"
local view = require "tideway.live.view"

local M = {}

-- pairs() that knows collections: for name, port in pairs(ports) do ... end
local function live_pairs(t)
   local mt = getmetatable(t)
   local own = type(mt) == "table" and rawget(mt, "__pairs")
   if own then return own(t) end
   return pairs(t)
end

-- print() that shows views, collections and objects of the engine as the prompt does.
local function live_print(...)
   local words = {}
   for i = 1, select("#", ...) do
      local v = (select(i, ...))
      words[i] = value.is_shown(v) and table.concat(view.lines(view.of(v)), "\n") or tostring(v)
   end
   session.send("out", table.concat(words, "\t") .. "\n")
end

-- What every session has, made once: it is looked up behind the user's own names.
local function shared(role)
   local names = command.all(role)
   for name, fn in pairs(names) do help.commands[fn] = name end
   if role ~= "admin" then return names end -- who evaluates nothing; names to complete
   for name, collection in pairs(objects.all()) do names[name] = collection end
   names.tw = require "tideway"
   names.ffi, names.bit = require "ffi", require "bit"
   names.print, names.pairs, names.xpcall = live_print, live_pairs, session.xpcall
   return names
end

local function known(env)
   local list, seen = {}, {}
   local function add(t)
      for name in next, t do
         if type(name) == "string" and not seen[name] and not name:find "^_" then
            seen[name] = true
            list[#list + 1] = name
         end
      end
   end
   add(env)
   add(getmetatable(env).shared)
   if rawget(getmetatable(env).shared, "tw") then add(_G) end
   table.sort(list)
   return list
end

--- A new environment: assignments stay in it, unknown names are errors.
---@param role? string default "admin"
---@return table
function M.new(role)
   local behind = shared(role or "admin")
   local env = {}
   local meta = { shared = behind, __names = known }
   function meta.__index(_, name)
      local known_value = behind[name]
      if known_value == nil then known_value = rawget(_G, name) end
      if known_value ~= nil then return known_value end
      if type(name) ~= "string" then return nil end
      error(("there is no %q here%s"):format(name, nearest.hint(name, known(env))), 2)
   end
   behind._G = env
   return setmetatable(env, meta)
end

--- The names that an environment knows, in order.
---@param env table
---@return string[]
function M.names(env) return known(env) end

return M
