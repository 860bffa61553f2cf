-- SPDX-License-Identifier: BSD-3-Clause
-- What the gate has: its threads, groups, chains of messages, instances, listeners. Started with the engine, brought
-- from one version of the model to the next, stopped.

local ffi = require "ffi"
local abi = require "tideway.abi"
local blob = require "tideway.gate.blob"
local diff = require "tideway.gate.diff"
local listen = require "tideway.gate.listen"
local loop = require "tideway.loop"
local model = require "tideway.model"
local names = require "tideway.gate.names"
local options = require "tideway.options"
local posix = require "tideway.posix"
local placement = require "tideway.gate.placement"
local service_spec = require "tideway.gate.spec"
local spread = require "tideway.gate.spread"
local upstream = require "tideway.gate.upstream"
local workers = require "tideway.gate.workers"

local C = abi.C
local M = {}

local running = false

---@class tideway.gate.running what runs of a chain
---@field slot integer the service's number in the gate
---@field workers integer[][] by function

---@type table<tideway.service, tideway.gate.running>
local services = {}
local slots = {} -- slot -> true
local ending = {} -- of chains that end -> timer

--- Calls a function with what ran of a chain just before it is gone; set by tideway.gate.figures.
---@type fun(run: tideway.gate.running)
M.on_gone = function() end

local function drain_ms() return math.floor(options.drain * 1000) end
local function check(rc) if rc < 0 then error(abi.error(), 0) end return rc end

-- ---- a change: what was done can be taken back ----

---@class tideway.gate.change
---@field actions tideway.gate.action[]
---@field undo (fun())[]
---@field later (fun())[] what goes when all of it is there
---@field started { worker: integer, name: string }[] instances that must run

local function remember(change, fn) change.undo[#change.undo + 1] = fn end
local function afterwards(change, fn) change.later[#change.later + 1] = fn end

local function take_back(change)
   for i = #change.undo, 1, -1 do
      local ok, err = pcall(change.undo[i])
      if not ok then loop.note(("<3>a change was refused, and a part of it cannot be taken back: %s"):format(err)) end
   end
   change.undo = {}
end

-- ---- groups ----

local function tell_group(group, state)
   local spec = ffi.new "struct tw_group_spec"
   upstream.fill(group, state, spec)
   check(C.tw_gate_group(group.index, spec))
end

local function add_group(change, action)
   local group = action.handle
   tell_group(group, action.new)
   remember(change, function() C.tw_gate_group_remove(group.index) end)
end

local function change_group(change, action)
   local group = action.handle
   tell_group(group, action.new)
   remember(change, function() tell_group(group, action.old) end)
end

-- ---- chains ----

local function free_slot()
   for slot = 0, C.TW_SERVICES_MAX - 1 do
      if not slots[slot] then return slot end
   end
   error("all numbers of chains are taken; those that end keep theirs until they are drained", 0)
end

local function tell_service(slot, service, state)
   local spec = ffi.new "struct tw_service_spec"
   service_spec.fill(service, state, spec)
   check(C.tw_gate_service(slot, spec))
end

local function load_inline(slot, service, state)
   local packed = #state.stages > 0 and blob.inline(service, state) or ""
   check(C.tw_gate_inline(slot, packed, #packed))
end

-- Instances of function i, by their numbers.
local function start_instances(change, run, service, state, i, first, last)
   local list = run.workers[i] or {}
   run.workers[i] = list
   for n = first, last do
      local worker = workers.add(run.slot, service, state, i, n)
      list[#list + 1] = worker
      change.started[#change.started + 1] = { worker = worker, name = state.stage_names[i] }
      remember(change, function() workers.remove(worker) end)
   end
end

-- ---- chains that end: what they have under way ends first ----

local LOOK, QUIET = 0.02, 5 -- seconds between looks; looks in a row that find nothing under way

local stats_t = ffi.typeof "struct tw_service_stats"

local function under_way(slot)
   local stats = stats_t()
   return C.tw_service_stats(slot, stats) == 0 and stats.in_flight > 0
end

local function leave(run)
   for _, list in pairs(run.workers) do
      for _, worker in ipairs(list) do workers.remove(worker, 0) end
   end
   M.on_gone(run)
   C.tw_gate_service_remove(run.slot, 0)
   slots[run.slot] = nil
end

-- Its number is free again when that is done. Nothing new comes to it any more.
local function end_service(run)
   local due, quiet = C.tw_now() + drain_ms() * 1000000ULL, 0
   local timer
   timer = loop.every(LOOK, function()
      quiet = under_way(run.slot) and 0 or quiet + 1
      if quiet < QUIET and C.tw_now() < due then return end
      loop.cancel(timer)
      ending[run] = nil
      leave(run)
   end)
   ending[run] = timer
end

local function add_service(change, action)
   local service, state = action.handle, action.new
   local run = { slot = free_slot(), workers = {}, service = service, state = state }
   slots[run.slot] = true
   tell_service(run.slot, service, state)
   local before = services[service]
   services[service] = run
   remember(change, function()
      services[service] = before
      leave { slot = run.slot, workers = {} }
   end)
   if state.pinned.worker == "inline" then
      load_inline(run.slot, service, state)
   else
      for i in ipairs(state.stages) do
         start_instances(change, run, service, state, i, 1, workers.wanted(state, i))
      end
   end
   return before
end

local function replace_service(change, action)
   local before = add_service(change, action)
   afterwards(change, function() end_service(before) end)
end

-- Instances more or fewer, or all of a function anew.
local function change_instances(change, run, action, i, anew)
   local service, old, new = action.handle, action.old, action.new
   local list, wanted = run.workers[i], workers.wanted(new, i)
   if anew then
      run.workers[i] = {}
      remember(change, function() run.workers[i] = list end)
      start_instances(change, run, service, new, i, 1, wanted)
      afterwards(change, function()
         for _, worker in ipairs(list) do workers.remove(worker) end
      end)
      return
   end
   local have = workers.wanted(old, i)
   if wanted > have then
      local kept = { unpack(list) }
      remember(change, function() run.workers[i] = kept end)
      start_instances(change, run, service, new, i, have + 1, wanted)
   elseif wanted < have then
      afterwards(change, function()
         for n = have, wanted + 1, -1 do
            workers.remove(list[n])
            list[n] = nil
         end
      end)
   end
end

local function change_service(change, action)
   local service, old, new = action.handle, action.old, action.new
   local run, anew = services[service], {}
   run.state = new
   tell_service(run.slot, service, new)
   remember(change, function()
      run.state = old
      tell_service(run.slot, service, old)
   end)
   for _, i in ipairs(action.functions) do anew[i] = true end
   if new.pinned.worker ~= "inline" then
      for i in ipairs(new.stages) do change_instances(change, run, action, i, anew[i] or action.all) end
   elseif next(anew) then
      remember(change, function() load_inline(run.slot, service, old) end)
      load_inline(run.slot, service, new)
   end
end

-- ---- listeners ----

---@type table<tideway.listener, { state: table, slot: integer }> what the gate was told last
local told = {}

local function tell_listener(listener, state, slot)
   local spec = ffi.new "struct tw_listener_spec"
   listen.fill(listener, state, slot, spec)
   check(C.tw_gate_listener(listener.index, spec))
   told[listener] = { state = state, slot = slot }
end

local function slot_of(version, listener)
   local owner = diff.owner(version, listener)
   return owner and services[owner] and services[owner].slot
end

local function remove_listener(listener)
   C.tw_gate_listener_remove(listener.index, drain_ms())
   told[listener] = nil
end

local function add_listener(change, action, version)
   local listener = action.handle
   tell_listener(listener, action.new, slot_of(version, listener))
   remember(change, function() remove_listener(listener) end)
end

local function change_listener(change, action, version)
   local listener, before = action.handle, told[action.handle]
   tell_listener(listener, action.new, slot_of(version, listener))
   remember(change, function() tell_listener(listener, before.state, before.slot) end)
end

-- ---- all of it ----

local PREPARE = {
   ["add group"] = add_group, ["change group"] = change_group, ["add service"] = add_service,
   ["replace service"] = replace_service, ["change service"] = change_service,
}
local INSTALL = { ["add listener"] = add_listener, ["change listener"] = change_listener }
local REMOVE = {
   ["remove listener"] = function(handle) remove_listener(handle) end,
   ["remove service"] = function(handle)
      end_service(services[handle])
      services[handle] = nil
   end,
   ["remove group"] = function(handle) C.tw_gate_group_remove(handle.index) end,
}

-- Listeners of chains that are started anew go to the new one, though nothing of them is different.
local function follow(actions, version)
   local named = {}
   for _, action in ipairs(actions) do named[action.handle] = true end
   for _, action in ipairs(actions) do
      for _, listener in ipairs(action.kind == "replace service" and action.new.sources or {}) do
         if not named[listener] then
            actions[#actions + 1] = {
               kind = "change listener", handle = listener, new = version.state[listener], gate = true,
            }
         end
      end
   end
end

-- A duty without a time of its own: the control thread wakes once a second anyway.
local function look() spread.look(services) end

local function start_threads()
   if running then return end
   posix.raise_rlimit(posix.RLIMIT_NOFILE) -- each connection is one
   local cpus = placement.gate_cpus()
   local array = ffi.new("int[?]", #cpus, cpus)
   check(C.tw_gates_start(#cpus, array))
   loop.duty(look)
   loop.duty(names.look)
   running = true
end

local function needs_gate(actions)
   for _, action in ipairs(actions) do
      if action.kind:find "^add" then return true end
   end
   return false
end

--- Start all that a change needs and that can fail: groups, chains, instances. Raises what fails; then nothing of it is
--- left. The version after it is the one that is seen.
---@param actions tideway.gate.action[]
---@return tideway.gate.change change to be installed or discarded
function M.prepare(actions)
   local change = { actions = { unpack(actions) }, undo = {}, later = {}, started = {} }
   if #actions == 0 then return change end
   local version = model.current()
   local ok, err = pcall(function()
      if needs_gate(actions) then start_threads() end
      follow(change.actions, version)
      for _, action in ipairs(change.actions) do
         local fn = PREPARE[action.kind]
         if fn then fn(change, action) end
      end
      workers.wait(change.started)
   end)
   if ok then return change end
   take_back(change)
   error(err, 0)
end

--- Let what was prepared be reached, and end what is gone. Raises what fails; then nothing of the change is left.
---@param change tideway.gate.change
function M.install(change)
   local version = model.current()
   local ok, err = pcall(function()
      for _, action in ipairs(change.actions) do
         local fn = INSTALL[action.kind]
         if fn then fn(change, action, version) end
      end
   end)
   if not ok then
      take_back(change)
      error(err, 0)
   end
   for _, kind in ipairs { "remove listener", "remove service", "remove group" } do
      for _, action in ipairs(change.actions) do
         if action.kind == kind then REMOVE[kind](action.handle) end
      end
   end
   for _, fn in ipairs(change.later) do fn() end
end

--- Give up what was prepared.
---@param change tideway.gate.change
function M.discard(change) take_back(change) end

--- Bring the gate from one version to another: the way back of a change.
---@param base tideway.model.version what it has
---@param version tideway.model.version
function M.move(base, version)
   local ok, err = model.with(version, function()
      local actions = diff.of(base, version)
      if #actions > 0 then M.install(M.prepare(actions)) end
   end)
   if not ok then error(err, 0) end
end

--- Start what was declared.
function M.start()
   local actions = diff.of(model.version(), model.current())
   if #actions > 0 then M.install(M.prepare(actions)) end
end

--- Listeners close, and what is under way has tw.options { drain = } to end.
function M.drain()
   if not running then return end
   local due, busy = C.tw_now() + drain_ms() * 1000000ULL, true
   for _, listener in ipairs(model.running.listeners) do remove_listener(listener) end
   while busy and C.tw_now() < due do
      busy = false
      for _, run in pairs(services) do busy = busy or under_way(run.slot) end
      if busy then posix.poll({}, LOOK * 1000) end
   end
end

--- Workers and threads end; what is under way is closed.
function M.stop()
   if not running then return end
   for run, timer in pairs(ending) do
      loop.cancel(timer)
      leave(run)
   end
   ending = {}
   loop.off_duty(look)
   loop.off_duty(names.look)
   spread.reset()
   C.tw_gates_stop(0)
   running, services, slots, told = false, {}, {}, {}
end

--- Does the gate run?
---@return boolean
function M.is_running() return running end

--- What runs of a chain.
---@param service tideway.service
---@return tideway.gate.running?
function M.running(service) return services[service] end

return M
