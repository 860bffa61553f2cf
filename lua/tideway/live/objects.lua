-- SPDX-License-Identifier: BSD-3-Clause
-- The running engine as Lua values: ports.lan, chains.up.ttl, tables.flows, lcores[1], hooks.up; of the gate
-- listeners.web, services.web (which is chains.web too), upstreams.app.
--
-- Each of these is looked up when it is asked for, so that it is what runs now.

local engine = require "tideway.engine"
local gate = require "tideway.live.gate"
local hooks = require "tideway.hook"
local model = require "tideway.model"
local nearest = require "tideway.live.nearest"
local shown = require "tideway.live.shown"
local tables = require "tideway.table"

local M = {}

-- ---- collections ----

---@class tideway.live.collection things by name; called, it shows them all
---@field what string "port", in messages
---@field find fun(key: any): any
---@field names fun(): any[]
---@field show fun(...): tideway.view
local prototype = newproxy(true) -- of a table Lua would take the length itself
local Collection = getmetatable(prototype)
local parts_of = setmetatable({}, { __mode = "k" })

local function parts(self) return parts_of[self] end

function Collection:__index(key)
   local found = parts(self).find(key)
   if found ~= nil then return found end
   local names = {}
   for i, name in ipairs(parts(self).names()) do names[i] = tostring(name) end
   error(("there is no %s %q%s"):format(parts(self).what, tostring(key), nearest.hint(tostring(key), names)), 2)
end

function Collection:__newindex(key)
   error(("%ss are not assigned to: %s is declared with tw"):format(parts(self).what, tostring(key)), 2)
end

function Collection:__len() return #parts(self).names() end
function Collection:__call(...) return parts(self).show(...) end
function Collection:__view() return parts(self).show() end
function Collection:__names() return parts(self).names() end
function Collection:__tostring()
   return ("%ss: %s"):format(parts(self).what, table.concat(parts(self).names(), ", "))
end

-- `for name, port in pairs(ports)`, in the environment's pairs().
function Collection:__pairs()
   local names, i = parts(self).names(), 0
   return function()
      i = i + 1
      if names[i] ~= nil then return names[i], parts(self).find(names[i]) end
   end
end

--- Things by name.
---@param what string
---@param find fun(key: any): any
---@param names fun(): any[]
---@param show fun(...): tideway.view
---@return tideway.live.collection
function M.collection(what, find, names, show)
   local collection = newproxy(prototype)
   parts_of[collection] = { what = what, find = find, names = names, show = show }
   return collection
end

--- What a collection is one of: "port"; nil: it is none.
---@param value any
---@return string?
function M.what(value)
   local collection = type(value) == "userdata" and parts_of[value]
   return collection and collection.what or nil
end

--- The names in something: of a collection, a proxy; nil for other values.
---@param object any
---@return any[]?
function M.names(object)
   local mt = getmetatable(object)
   return type(mt) == "table" and mt.__names and mt.__names(object) or nil
end

local function names_of(list)
   local names = {}
   for i, item in ipairs(list) do names[i] = item.name end
   return names
end

local function by_name(list, name)
   for _, item in ipairs(list) do
      if item.name == name then return item end
   end
end

-- ---- chains ----

-- What a proxy of a chain of messages has besides its functions and methods.
local function of_service(chain, field)
   for _, service in ipairs(gate.services().data) do
      if service.name == chain.name then return service[field] end
   end
end

local SERVICE = {
   place = function(chain) return of_service(chain, "place") or "not started" end,
   counters = function(chain)
      for _, service in ipairs(gate.services().data) do
         if service.name == chain.name then return service end
      end
   end,
}

-- What a proxy of a chain has besides the NFs and methods of the chain.
local CHAIN = {
   place = function(chain)
      local c = shown.counters(chain.name)
      return c and c.place or "not started"
   end,
   tier = function(chain)
      local c = shown.counters(chain.name)
      return c and c.tier or nil
   end,
   counters = function(chain) return shown.counters(chain.name) end,
   drops = function(chain) return shown.drops_of(shown.counters(chain.name)) end,
   nfs = function(chain)
      return M.collection("NF", function(key)
         for i, name in ipairs(chain.stage_names) do
            if name == key or i == key then return chain.stages[i] end
         end
      end, function() return chain.stage_names end, function() return shown.chain(chain) end)
   end,
}

SERVICE.nfs = CHAIN.nfs

local function extras(chain) return chain.is_service and SERVICE or CHAIN end

local Proxy = {}

local function chain_names(self)
   local chain, names = rawget(self, "chain"), { "name", "sources", "sink", "where" }
   for name in pairs(extras(chain)) do names[#names + 1] = name end
   for _, name in ipairs(chain.stage_names) do names[#names + 1] = name end
   for name, member in pairs(getmetatable(chain)) do
      if type(member) == "function" and not name:find "^__" then names[#names + 1] = name end
   end
   table.sort(names)
   return names
end

function Proxy:__index(key)
   local chain = rawget(self, "chain")
   local extra = extras(chain)[key]
   if extra then return extra(chain) end
   for i, name in ipairs(chain.stage_names) do
      if name == key then return chain.stages[i] end
   end
   local found = chain[key]
   if type(found) == "function" then return function(_, ...) return found(chain, ...) end end
   if found == nil and key ~= "sink" then
      local name = tostring(key)
      error(("chain %s has no %q%s"):format(chain.name, name, nearest.hint(name, chain_names(self))), 2)
   end
   return found
end

function Proxy:__newindex(key)
   error(("chain %s: %s cannot be assigned; declare the chain again with tw.chain"):format(rawget(self, "chain").name,
      tostring(key)), 2)
end
function Proxy:__tostring() return tostring(rawget(self, "chain")) end
function Proxy:__view()
   local chain = rawget(self, "chain")
   return chain.is_service and gate.service(chain) or shown.chain(chain)
end
Proxy.__names = chain_names

--- A chain as sessions have it.
---@param name string
---@return tideway.live.chain?
function M.chain(name)
   local chain = by_name(model.all_chains(), name)
   return chain and setmetatable({ chain = chain }, Proxy)
end

-- ---- tables ----

local function table_names()
   local names, seen = {}, {}
   for _, t in ipairs(tables.tables()) do seen[t.name] = true end
   for name in pairs(shown.reached()) do seen[name] = true end
   for name in pairs(seen) do names[#names + 1] = name end
   table.sort(names)
   return names
end

local find_table

-- Tables whose names begin alike: tables.count is { totals, flows4, ... }.
local function group(prefix)
   local function names()
      local list = {}
      for _, name in ipairs(table_names()) do
         if name:sub(1, #prefix + 1) == prefix .. "." then list[#list + 1] = name:sub(#prefix + 2) end
      end
      return list
   end
   if #names() == 0 then return nil end
   local function find(key) return find_table(prefix .. "." .. tostring(key)) end
   return M.collection("table of " .. prefix, find, names, function() return shown.tables(prefix .. ".") end)
end

function find_table(name)
   local t = shown.reached()[name]
   if t then return t end
   local stores = package.loaded["tideway.store"]
   local store = stores and stores.find(name)
   if store then return store end
   for _, known in ipairs(tables.tables()) do
      if known.name == name then
         error(("table %s belongs to no NF of a chain that is declared now"):format(name), 3)
      end
   end
   return group(tostring(name))
end

-- ---- NFs, ports, lcores, hooks, the gate ----

local function lcore_of(key)
   for _, lcore in ipairs(engine.snapshot().lcores) do
      if lcore.cpu == key then return lcore end
   end
end

local function hook_of(key)
   for i, hook in ipairs(hooks.list) do
      if hook.chain.name == key or i == key then return hook end
   end
end

--- The collections by name; each shows itself with its command of that name in tideway.live.sight.
---@return table<string, tideway.live.collection>
function M.all()
   local sight = require "tideway.live.sight"
   return {
      ports = M.collection("port", function(name) return by_name(model.ports, name) end,
         function() return names_of(model.ports) end, sight.ports),
      chains = M.collection("chain", M.chain, function() return names_of(model.all_chains()) end, sight.chains),
      services = M.collection("chain of messages", function(name)
         return by_name(model.services, name) and M.chain(name)
      end, function() return names_of(model.services) end, gate.services),
      listeners = M.collection("listener", function(name) return by_name(model.listeners, name) end,
         function() return names_of(model.listeners) end, gate.listeners),
      upstreams = M.collection("upstream", function(name) return by_name(model.groups, name) end,
         function() return names_of(model.groups) end, gate.upstreams),
      tables = M.collection("table", find_table, table_names, sight.tables),
      lcores = M.collection("lcore", lcore_of, function()
         local list = {}
         for i, lcore in ipairs(engine.snapshot().lcores) do list[i] = lcore.cpu end
         return list
      end, sight.lcores),
      hooks = M.collection("hook", hook_of, function()
         local list = {}
         for i, hook in ipairs(hooks.list) do list[i] = hook.chain.name end
         return list
      end, sight.hooks),
   }
end

return M
