-- SPDX-License-Identifier: BSD-3-Clause
-- What a change does to chains on hooks: programs are loaded before the switch, put in place at it, and kept until the
-- change has proved good, so that it can be taken back.

local hook_chain = require "tideway.hook.chain"
local hooks = require "tideway.hook"

local M = {}

---@class tideway.hook.swap
---@field added tideway.hook.chain[]
---@field removed tideway.hook.chain[]
---@field replaced { hook: tideway.hook.chain, change: table, before: table? }[]
local Swap = {}
Swap.__index = Swap

local function of_chain(chain)
   for _, hook in ipairs(hooks.list) do
      if hook.chain == chain then return hook end
   end
end

-- One-based, as hooks count stages.
local function from_of(origin)
   local from = {}
   for stage, old in pairs(origin.from) do from[stage + 1] = old + 1 end
   return from
end

--- Load what the change needs; raises what is wrong, with nothing kept.
---@param diff tideway.change.diff
---@return tideway.hook.swap
function M.prepare(diff)
   local self = setmetatable({ added = {}, removed = {}, replaced = {} }, Swap)
   local same_place = require("tideway.change.diff").same_place
   local ok, err = pcall(function()
      for _, change in ipairs(diff.chains) do
         local old, new = change.old and change.old.place, change.new and change.new.place
         if old and new and same_place(change.old, change.new) then
            local hook = of_chain(change.chain)
            local prepared, why = hook:prepare(change.new.stages, from_of(change.origin))
            if not prepared then error(why, 0) end
            self.replaced[#self.replaced + 1] = { hook = hook, change = prepared }
         else
            if old then self.removed[#self.removed + 1] = of_chain(change.chain) end
            if new then self.added[#self.added + 1] = hook_chain.load(change.chain) end
         end
      end
   end)
   if ok then return self end
   self:discard()
   error(err, 0)
end

--- How many hooks' programs change.
---@return integer
function Swap:count() return #self.added + #self.removed + #self.replaced end

--- The chains that run on hooks afterwards, for checks.
---@return { chain: tideway.chain, tables: fun(self): table<table, true> }[]
function Swap:afterwards()
   local list = {}
   local other = {}
   for _, hook in ipairs(self.removed) do other[hook] = true end
   for _, r in ipairs(self.replaced) do
      other[r.hook] = true
      list[#list + 1] = { chain = r.hook.chain, tables = function() return r.hook:tables(r.change.parts) end }
   end
   for _, hook in ipairs(hooks.list) do
      if not other[hook] then list[#list + 1] = hook end
   end
   for _, hook in ipairs(self.added) do list[#list + 1] = hook end
   return list
end

local function detach_all(list)
   for _, hook in ipairs(list) do
      hooks.remove(hook)
      local err = hook:detach()[1]
      if err then error(err, 0) end
   end
end

local function attach_all(list)
   for _, hook in ipairs(list) do
      hook:attach()
      hooks.add(hook)
   end
end

local function replace_all(self)
   for _, r in ipairs(self.replaced) do
      local before, err = r.hook:install(r.change)
      if not before then error(err, 0) end
      r.before = before
   end
end

--- Put the new programs in place; raises what is wrong, with the old ones there again.
function Swap:install()
   local ok, err = pcall(function()
      replace_all(self)
      detach_all(self.removed)
      attach_all(self.added)
   end)
   if ok then return end
   self:take_back()
   error(err, 0)
end

--- Put the old ones back.
function Swap:take_back()
   for _, hook in ipairs(self.added) do
      hooks.remove(hook)
      hook:detach()
   end
   for _, hook in ipairs(self.removed) do
      if not hooks.has(hook) then
         hook:attach()
         hooks.add(hook)
      end
   end
   for _, r in ipairs(self.replaced) do
      if r.before then
         r.hook:install(r.before)
         r.before, r.ran = nil, true
      end
   end
   self:discard()
end

--- Show the names of what runs now in the counters.
function Swap:show() hooks.show() end

--- Forget what was loaded and is not in place.
function Swap:discard()
   for _, hook in ipairs(self.added) do
      if not hooks.has(hook) then hook:close() end
   end
   for _, r in ipairs(self.replaced) do
      if not r.before then r.hook:forget(r.change, r.ran) end
   end
end

--- The new ones are good: let go of the old ones.
function Swap:settle()
   for _, hook in ipairs(self.removed) do hooks.finish(hook) end
   for _, r in ipairs(self.replaced) do r.hook:forget(r.before, true) end
end

return M
