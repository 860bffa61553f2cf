-- SPDX-License-Identifier: BSD-3-Clause
-- Runs in a gate thread's VM: the functions of a service one after the other over the same message, without a
-- descriptor in between. Called by core/gate/inline.c.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local guard = require "tideway.worker.guard"
local message = require "tideway.message"
local runner = require "tideway.message.runner"
local transfer = require "tideway.transfer"
local verdict = require "tideway.message.verdict"

local C = abi.C
local M = {}
local take, leave, call, handler = message.take, message.leave, runner.call, runner.handler
local RESPONSE, DATA, BACKWARD = C.TW_MSG_RESPONSE, C.TW_MSG_DATA, C.TW_MSG_BACKWARD
local GATE, ROUTE, FAULT = C.TW_EXIT_GATE, C.TW_EXIT_ROUTE, C.TW_V_FAULT
local DONE, STALE = C.TW_INLINE_DONE, C.TW_INLINE_STALE
local NOBODY, HOPS_MAX = C.TW_INLINE_NOBODY, C.TW_INLINE_HOPS_MAX

-- ---- the order of functions ----

-- For each function which one is next, by method and direction; functions aside stand in no order.
local function order(list, aside, method, step)
   local next_of = {}
   for i = 1, #list do
      local j = i + step
      while list[j] and (aside[list[j].name] or not list[j].nf[method]) do j = j + step end
      next_of[i] = list[j] and j or 0
   end
   return next_of
end

local function orders_of(list)
   local aside = {}
   for _, info in ipairs(list) do
      for name in pairs(info.routes or {}) do aside[name] = true end
   end
   return {
      message = order(list, aside, "message", 1), response = order(list, aside, "response", -1),
      data = order(list, aside, "data", 1), back = order(list, aside, "data", -1),
   }
end

-- Functions by the way out that leads to them.
local function by_exit(list, info)
   local index, out = {}, {}
   for i, other in ipairs(list) do index[other.name] = i end
   for name, exit in pairs(info.routes or {}) do out[exit] = index[name] end
   return out
end

local function direction(orders, m)
   local kind = m.kind
   if kind == RESPONSE then return orders.response end
   if kind ~= DATA then return orders.message end
   return bit.band(m.flags, BACKWARD) ~= 0 and orders.back or orders.data
end

-- ---- a message through the functions ----

local function finish(self, record, handle)
   local shared = self.shared
   shared["function"] = NOBODY
   if record.held then self.host:put(handle, GATE, 0, 0) else shared.result[record.at] = DONE end
end

-- It can go no further: the function's fault.
local function astray(self, record, ctx, why)
   local msg = record.msg
   local m = msg.v.m
   verdict.put_why(msg, ctx.name .. ": " .. why)
   m.verdict, m.stage = FAULT, ctx.stage
   ctx.board.faults = ctx.board.faults + 1
   record.runs = false
   finish(self, record, msg.v.handle)
   leave(msg)
end

local CIRCLES = ("the message goes in circles: %d functions"):format(HOPS_MAX)

local function one(self, record, number)
   local msg, shared = record.msg, self.shared
   local handle = self.descs[number].handle
   record.at = number
   if not take(msg, handle) then
      shared.result[number] = STALE
      return
   end
   local kind, at, hops = msg.v.m.kind, shared.first + 1, 0
   local next_of = direction(self.orders, msg.v.m)
   local ctx = self.functions[at]
   record.held, record.runs = false, true
   while ctx do
      local fn, exit = handler(ctx, kind), 0
      if fn then
         shared["function"] = at - 1
         self.host:begin(ctx, handle, false)
         exit = call(self, ctx, fn, record)
      end
      if exit == GATE then break end
      if exit >= ROUTE then
         at = ctx.by_exit[exit]
         if not at then return astray(self, record, ctx, "there is no such way out of this function") end
      else
         at = next_of[at]
      end
      hops = hops + 1
      if hops >= HOPS_MAX then return astray(self, record, ctx, CIRCLES) end
      ctx = self.functions[at]
   end
   record.runs = false
   finish(self, record, handle)
   leave(msg)
end

-- ---- faults, ticks ----

local TICK_NS = 1e9

local function note(shared, text)
   text = text:sub(1, ffi.sizeof(shared.fault) - 1)
   ffi.copy(shared.fault, text)
   shared.faults = shared.faults + 1
end

local function fault_of(shared, chain, name, err)
   note(shared, ("chain %q: %s, gate thread %d: %s"):format(chain, name, shared.member, err))
end

local function reporter(shared, chain)
   return function(err, _, name) fault_of(shared, chain, name, err) end
end

local function has_tick(list)
   for _, info in ipairs(list) do
      if info.nf.tick then return true end
   end
   return false
end

local function ticks(service, now)
   if not service.tick_due or service.tick_due > now then return end
   service.tick_due = now + TICK_NS
   for i, ctx in ipairs(service.current.functions) do
      if ctx.nf.tick then
         service.shared["function"] = i - 1
         local ok, err = pcall(ctx.nf.tick, now)
         if not ok then fault_of(service.shared, service.chain, ctx.name, "tick: " .. tostring(err)) end
      end
   end
   service.shared["function"] = NOBODY
end

-- ---- what C calls ----

-- By service: the runner, and those before it as long as they hold messages.
local services = {}

local function set_due(service)
   local due = service.current:due()
   local older, tick_due = service.older, service.tick_due
   if tick_due and (not due or tick_due < due) then due = tick_due end
   for i = #older, 1, -1 do
      local other = older[i]:due()
      if other and (not due or other < due) then due = other end
      if older[i].n_held == 0 then table.remove(older, i) end
   end
   service.shared.next_due = due or 0
end

-- A fetch was made: its record is told apart from a message that is done by its exit.
local function make_host(shared)
   local host = runner.host()
   host.shared = shared
   function host:put(handle, exit, gate, key)
      local s = self.shared
      local n = s.n_out
      local desc = s.out[n]
      desc.handle, desc.exit, desc.gate, desc.key = handle, exit, gate, key
      s.n_out = n + 1
   end
   return host
end

local function chain_of(list) return list[1] and list[1].chain or "?" end

local function make_runner(list, shared)
   local contexts = {}
   for i, info in ipairs(list) do
      contexts[i] = runner.context(info, shared.boards + info.index)
      contexts[i].by_exit = by_exit(list, info)
   end
   local r = runner.new(shared.pool, shared.member, contexts, make_host(shared))
   r.shared, r.orders, r.one, r.finish = shared, orders_of(list), one, finish
   r.fetch_exit, r.inline = C.TW_INLINE_FETCH, true
   r.report = reporter(shared, chain_of(list))
   return r
end

local function each(service, method, a)
   if service.current[method](service.current, a) then return true end
   for _, r in ipairs(service.older) do
      if r[method](r, a) then return true end
   end
   return false
end

--- Build the functions of a service, or build them anew.
---@param blob string from tideway.transfer: a list of tideway.gate.function_blob
---@param address lightuserdata of struct tw_inline
---@return function run over `n` messages of `in` from function `first` on; result
---@return function timers wakes what is due at `now`
---@return function answered in[0] is the answer to a fetch
---@return function forget in[0] is given up
---@return function stop
function M.build(blob, address)
   local shared = ffi.cast("struct tw_inline *", address)
   local input = shared["in"]
   local before = services[shared.service]
   runner.tune()
   guard.close_library()
   local list = transfer.unpack(blob)
   local service = {
      shared = shared, chain = chain_of(list), current = make_runner(list, shared),
      older = before and before.older or {},
      tick_due = has_tick(list) and tonumber(C.tw_now()) + TICK_NS or nil,
   }
   if before then table.insert(service.older, before.current) end
   services[shared.service] = service
   set_due(service)
   local current = service.current

   local function run(n, now)
      current.host.since = now
      current:batch(input, n)
      if current.heap[1] then set_due(service) end
   end
   local function timers()
      current:timers(tonumber(shared.now))
      for _, r in ipairs(service.older) do r:timers(tonumber(shared.now)) end
      ticks(service, tonumber(shared.now))
      set_due(service)
   end
   local function answered()
      each(service, "answered", input[0].handle)
      set_due(service)
   end
   local function forget()
      each(service, "forget", input[0].handle)
      set_due(service)
   end
   local function stop()
      services[shared.service] = nil
      current:stop()
   end
   return run, timers, answered, forget, stop
end

return M
