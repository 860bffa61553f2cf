-- SPDX-License-Identifier: BSD-3-Clause
-- Chains of messages: listeners, functions in order, an upstream group; functions aside that others route to.

local chain_edit = require "tideway.chain_edit"
local listeners = require "tideway.gate.listen"
local model = require "tideway.model"
local nfs = require "tideway.nf"
local pins = require "tideway.gate.pin"
local upstreams = require "tideway.gate.upstream"

local M = {}

local SERVICES_MAX = 31
local ASIDE_MAX = 14 -- ways out of a function, less the two that every one has

---@class tideway.service
---@field name string
---@field sources tideway.listener[]
---@field stages tideway.nf.instance[] functions in order, then those aside
---@field stage_names string[]
---@field aside string[] names of the last ones of `stages`, which only routes lead to
---@field sink tideway.upstream?
---@field pinned tideway.gate.pin
---@field where string file:line of its declaration
local Service = model.class()
Service.is_service = true

function Service:__newindex(key, value) model.edit(self)[key] = value end
function Service:__tostring() return "chain " .. rawget(self, "name") end

local function names_of(stages, aside)
   local in_order = { unpack(stages, 1, #stages - #aside) }
   local names = chain_edit.stage_names(in_order)
   for _, name in ipairs(aside) do names[#names + 1] = name end
   return names
end

local function function_of(chain, nf, n, level)
   if type(nf) == "function" then return nfs.instance("function" .. n, { message = nf }, level + 1) end
   if not nfs.is_instance(nf) then
      error(("chain %s: expected an NF instance, such as tw.nf.log {}, or a function, not %s"):format(chain,
         tostring(nf)), level + 1)
   end
   if not nfs.takes_messages(nf) then
      error(("chain %s: NF %s takes packets (%s), and behind a listener there are messages; NFs of packets belong to a "
         .. "chain behind a port"):format(chain, nf.name, nf.packet and "packet" or "burst"), level + 1)
   end
   return nf
end

local function set_stages(self, stages, aside, level)
   if #stages > chain_edit.STAGES_MAX then
      error(("chain %s: %d functions are more than a chain takes (%d)"):format(self.name, #stages,
         chain_edit.STAGES_MAX), level + 1)
   end
   local names, seen = names_of(stages, aside), {}
   for _, name in ipairs(names) do
      if seen[name] then error(("chain %s has two functions %q"):format(self.name, name), level + 1) end
      seen[name] = true
   end
   local state = model.edit(self)
   local before = state.stages
   state.stages, state.aside, state.stage_names = stages, aside, names
   chain_edit.release(before)
end

--- Say how messages reach the functions: `{ worker = "sk_msg" }` (each in a process of its own, woken by the kernel),
--- `"rings"` (the same, polling) or `"inline"` (in the gate's threads; for functions that are trusted). Besides:
--- `instances = { log = 2 }` or a number for all, `cpu = 1` or `{ log = 1 }`, `memory_mb`, `cpu_percent`, `stuck` of an
--- instance, `pool_mb`, `whole_bytes` of the chain. A chain that is not pinned has sk_msg workers.
---@param place table
---@return tideway.service self
function Service:pin(place)
   local pin, err = pins.parse(place, self.stage_names)
   if not pin then error(("chain %s: pin: %s"):format(self.name, err), 2) end
   model.edit(self).pinned = pin
   return self
end

--- Name a function aside: it stands in no order, and others reach it by `msg:route "name"`.
---@param name string
---@param nf tideway.nf.instance|function
---@return tideway.service self
function Service:route(name, nf)
   if type(name) ~= "string" or not name:find "^[%w_]+$" then
      error(("chain %s: route: the name is a word of letters, digits and _, not %s"):format(self.name,
         tostring(name)), 2)
   end
   local stages, aside = { unpack(self.stages) }, { unpack(self.aside) }
   if #aside >= ASIDE_MAX then
      error(("chain %s: %d routes are more than a function can have (%d)"):format(self.name, #aside + 1, ASIDE_MAX), 2)
   end
   stages[#stages + 1] = function_of(self.name, nf, #stages + 1, 2)
   aside[#aside + 1] = name
   set_stages(self, stages, aside, 2)
   return self
end

--- Have so many instances of a function: `chains.web:scale("log", 3)`.
---@param which any its name, itself, or its number from 1
---@param n integer 1 to 32
---@return tideway.service self
function Service:scale(which, n)
   local name = self.stage_names[chain_edit.find(self, which, 2, "function")]
   local pin = self.pinned
   if pin.worker == "inline" then
      error(("chain %s: its functions run in the gate's threads; there are no instances to scale (pin it to "
         .. "worker = \"sk_msg\")"):format(self.name), 2)
   end
   local checked, err = pins.parse({ instances = { [name] = n } }, self.stage_names)
   if not checked then error(("chain %s: %s"):format(self.name, err), 2) end
   local instances = { [name] = n }
   for other, count in pairs(pin.instances) do
      if other ~= name then instances[other] = count end
   end
   model.edit(self).pinned = pins.with(pin, "instances", instances)
   return self
end

--- Put a function into the chain: `chains.web:insert(tw.nf.log {}, { before = "access" })`; at the end without a place.
---@param nf tideway.nf.instance|function
---@param where? { before?: any, after?: any, at?: integer } a function by its name, itself, or its number; `at` from 1
---@return tideway.service self
function Service:insert(nf, where)
   local stages, last = { unpack(self.stages) }, #self.stages - #self.aside
   local at = chain_edit.position(self, where, last, 2, "function")
   if at > last + 1 then error(("chain %s: that one is not in its order"):format(self.name), 2) end
   table.insert(stages, at, function_of(self.name, nf, at, 2))
   set_stages(self, stages, self.aside, 2)
   return self
end

--- Take a function out of the chain, or one aside away.
---@param which any its name, itself, or its number from 1
---@return tideway.service self
function Service:remove(which)
   local at = chain_edit.find(self, which, 2, "function")
   local stages, aside, last = { unpack(self.stages) }, { unpack(self.aside) }, #self.stages - #self.aside
   table.remove(stages, at)
   if at > last then table.remove(aside, at - last) end
   if #stages - #aside == 0 and not self.sink then
      error(("chain %s would have neither a function nor an upstream; chain:delete() takes it away"):format(self.name),
         2)
   end
   set_stages(self, stages, aside, 2)
   return self
end

--- Put another function in the place of one: its instances are started, then those before are drained and end.
---@param which any its name, itself, or its number from 1
---@param nf tideway.nf.instance|function
---@return tideway.service self
function Service:replace(which, nf)
   local stages, at = { unpack(self.stages) }, chain_edit.find(self, which, 2, "function")
   if type(nf) == "function" then nf = nfs.instance(stages[at].name, { message = nf }, 2) end
   stages[at] = function_of(self.name, nf, at, 2)
   set_stages(self, stages, self.aside, 2)
   return self
end

--- Let the chain end in another upstream group, or in none.
---@param group tideway.upstream?
---@return tideway.service self
function Service:to(group)
   if group ~= nil and not upstreams.is_upstream(group) then
      error(("chain %s: to takes an upstream group, not %s"):format(self.name, tostring(group)), 2)
   end
   model.edit(self).sink = group
   return self
end

--- Take the chain away. Its listeners must go with it or feed another one.
function Service:delete()
   chain_edit.release(model.remove("services", self).stages)
end

-- ---- declaration ----

--- Is the source of a chain one of messages?
---@param source any what tw.chain() was given
---@return boolean
function M.is_source(source)
   if listeners.is_listener(source) then return true end
   if type(source) ~= "table" or getmetatable(source) then return false end
   for _, item in ipairs(source) do
      if listeners.is_listener(item) then return true end
   end
   return false
end

local function sources_of(name, source, level)
   local list = listeners.is_listener(source) and { source } or source
   local protocol
   for i, item in ipairs(list) do
      if not listeners.is_listener(item) then
         error(("tw.chain(%q, ...): source %d is %s, and those before it are listeners; a chain takes messages or "
            .. "packets, not both"):format(name, i, tostring(item)), level + 1)
      end
      if protocol and item.protocol ~= protocol then
         error(("tw.chain(%q, ...): %s speaks %s and those before it %s; give each protocol a chain of its own"):format(
            name, tostring(item), item.protocol, protocol), level + 1)
      end
      protocol = item.protocol
   end
   return { unpack(list) }
end

local function parts_of(name, level, ...)
   local stages, sink, n = {}, nil, select("#", ...)
   for i = 1, n do
      local item = select(i, ...)
      if upstreams.is_upstream(item) then
         if i ~= n then
            error(("tw.chain(%q, ...): %s stands before other functions; the upstream group is the last argument")
               :format(name, tostring(item)), level + 1)
         end
         sink = item
      elseif type(item) == "table" and not nfs.is_instance(item) and rawget(item, "devargs") then
         error(("tw.chain(%q, ...): %s takes packets; a chain behind a listener ends in an upstream group "
            .. "(tw.upstream) or in none"):format(name, tostring(item)), level + 1)
      else
         stages[#stages + 1] = function_of(name, item, i, level + 1)
      end
   end
   if #stages == 0 and not sink then
      error(("tw.chain(%q, ...): it has neither a function nor an upstream group"):format(name), level + 1)
   end
   return stages, sink
end

--- Declare a chain of messages; called by tw.chain().
---@param name string
---@param source tideway.listener|tideway.listener[]
---@param ... any functions, at the end optionally an upstream group
---@return tideway.service
function M.declare(name, source, ...)
   local where = model.where(3)
   local wrong = listeners.wrong_name(name)
   if wrong then error("tw.chain: " .. wrong, 3) end
   local sources = sources_of(name, source, 3)
   local stages, sink = parts_of(name, 3, ...)
   local service = model.handle(Service, "services", name, SERVICES_MAX)
   if not service then error(("tw.chain: %d chains of messages are the limit"):format(SERVICES_MAX), 3) end
   model.declare("services", service, {
      sources = sources, sink = sink, stages = {}, stage_names = {}, aside = {}, where = where,
   })
   set_stages(service, stages, {}, 3)
   model.state(service).pinned = pins.parse({ worker = #stages == 0 and "inline" or nil }, service.stage_names)
   return service
end

--- Is it a chain of messages?
function M.is_service(value) return getmetatable(value) == Service end

return M
