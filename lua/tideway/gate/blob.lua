-- SPDX-License-Identifier: BSD-3-Clause
-- What a worker process, or a gate thread, gets to know of a function, packed by tideway.transfer.

local model = require "tideway.model"
local store = require "tideway.store"
local transfer = require "tideway.transfer"

local M = {}

---@class tideway.gate.function_blob
---@field chain string
---@field name string of the function, as counters show it
---@field index integer of the function in the chain's specification, from 0
---@field nf tideway.nf.instance
---@field routes table<string, integer> name of a function aside -> the way out (enum tw_exit) that leads there
---@field groups table<string, integer> upstream groups by name
---@field listeners table<integer, string> names of listeners by number (tw_msg.listener)

local FIRST_ROUTE = 2 -- TW_EXIT_ROUTE

-- Ways out by name: routes are counted in the order of the functions they lead to.
local function routes_of(state)
   local routes = {}
   for i, name in ipairs(state.aside) do routes[name] = FIRST_ROUTE + i - 1 end
   return routes
end

local function numbers()
   local groups, names = {}, {}
   for _, group in ipairs(model.groups) do groups[group.name] = group.index end
   for _, listener in ipairs(model.listeners) do names[listener.index] = listener.name end
   return groups, names
end

local function record(service, state, i)
   local groups, names = numbers()
   return {
      chain = service.name, name = state.stage_names[i], index = i - 1, nf = state.stages[i],
      routes = routes_of(state), groups = groups, listeners = names,
   }
end

local function pack(value, what, process)
   local ok, blob = pcall(transfer.pack, value, what, process)
   if ok then return blob end
   error((tostring(blob):gsub("cannot move to an lcore", "cannot move to where the function runs")), 0)
end

--- One function, for its instances.
---@param service tideway.service
---@param state table
---@param i integer from 1
---@return string blob of a tideway.gate.function_blob
---@return integer[] fds that it speaks of
function M.worker(service, state, i)
   return store.noting(pack, record(service, state, i),
      ("function %s of chain %s"):format(state.stage_names[i], service.name), true)
end

--- All functions of a chain, for the gate's threads.
---@param service tideway.service
---@param state table
---@return string blob of a list of tideway.gate.function_blob
function M.inline(service, state)
   local list = {}
   for i in ipairs(state.stages) do list[i] = record(service, state, i) end
   return pack(list, "the functions of chain " .. service.name)
end

return M
