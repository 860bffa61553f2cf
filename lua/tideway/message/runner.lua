-- SPDX-License-Identifier: BSD-3-Clause
-- Runs NFs on messages: in workers, and inline in gate threads. Whoever runs it moves the descriptors.
--
--   local host = runner.host()       -- or another object with begin(), done() and put()
--   local r = runner.new(pool, member, { context }, host)
--   r:batch(descs, n)          -- struct tw_desc[n] that were received: functions run, host:put() sends
--   r:timers(now)              -- the same for what was asleep
--   due = r:due()              -- ns, when timers() is to be called; nil: nothing sleeps
--
-- Functions run in coroutines ("drivers") that go from message to message, so one that is held keeps its coroutine and
-- another one goes on with the batch: what does not hold a message costs no switch. A function that raises ends its
-- coroutine.

local bit = require "bit"
local coroutine = require "coroutine"
local ffi = require "ffi"
local abi = require "tideway.abi"
local build = require "tideway.message.build"
local facts = require "tideway.message.facts"
local heap = require "tideway.message.heap"
local hosts = require "tideway.message.host"
local message = require "tideway.message"
local verdict = require "tideway.message.verdict"

local C = abi.C
local M = { host = hosts.new }
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local take, enter, leave = message.take, message.enter, message.leave
local SLEEP, FETCH, IDLE = verdict.SLEEP, verdict.FETCH, verdict.IDLE
local NEXT, GATE = C.TW_EXIT_NEXT, C.TW_EXIT_GATE
local REQUEST, RESPONSE, DATA, ANSWER = C.TW_MSG_REQUEST, C.TW_MSG_RESPONSE, C.TW_MSG_DATA, C.TW_MSG_ANSWER
local OPEN, DATAGRAM = C.TW_MSG_OPEN, C.TW_MSG_DATAGRAM
local RESPOND, FAULT = C.TW_V_RESPOND, C.TW_V_FAULT
local LAST_BACK = bit.bor(C.TW_MSG_LAST, C.TW_MSG_BACKWARD)

--- Messages that can be held at the same time.
M.HELD_MAX = 4096
-- Drivers that wait for work.
local IDLE_MAX = 64
-- Sleepers woken by one call.
local WAKE_MAX = 64
-- What is held is looked at so often: its exchange may have ended, and its block is to be let go then.
local LOOK_NS = 1e9

---@class tideway.message.context what a function is run with
---@field name string
---@field stage integer its index in the service
---@field routes table<string, integer> enum tw_exit by name
---@field groups table<string, integer> upstream groups by name
---@field readonly boolean
---@field states table see facts.lua
---@field board ffi.cdata* struct tw_member_board *
---@field message function|false
---@field response function|false
---@field data function|false
---@field nf table

--- Make the context of a function.
---@param info { nf: table, name?: string, index?: integer, routes?: table<string, integer>,
--- groups?: table<string, integer>, listeners?: table<integer, string> } as tideway.gate.blob packs it
---@param board? ffi.cdata* struct tw_member_board *, nil: nobody looks
---@return tideway.message.context
function M.context(info, board)
   local nf = info.nf
   return {
      nf = nf, name = info.name or nf.name or "?", stage = info.index or 0, routes = info.routes or {},
      groups = info.groups or {}, listeners = info.listeners or {}, readonly = nf.readonly == true,
      states = facts.states(), board = board or ffi.new "struct tw_member_board", message = nf.message or false,
      response = nf.response or false, data = nf.data or false,
   }
end

-- ---- one message ----

local function handler(ctx, kind)
   if kind == REQUEST or kind == DATAGRAM or kind == OPEN then return ctx.message end
   if kind == RESPONSE then return ctx.response end
   if kind == DATA then return ctx.data end
   return false
end
M.handler = handler

local function not_a_verdict(ctx, value)
   error(("%s returned %s; a function returns nothing, or what msg:respond, msg:route, msg:upstream, msg:drop or "
      .. "msg:reply returned"):format(ctx.name, type(value) == "table" and "a table" or tostring(value)), 0)
end

-- Writes what the function has decided; its exit.
local function apply(msg, ctx, token)
   local m = msg.v.m
   if token == nil then
      if not ctx.readonly then m.verdict = 0 end
      return NEXT
   end
   if token ~= msg.verdict then not_a_verdict(ctx, token) end
   local kind = msg.verdict_kind
   if not ctx.readonly then
      if kind == RESPOND then m.answer = build.hand_over(msg) end
      m.verdict, m.stage = kind, ctx.stage
   end
   return msg.verdict_exit
end

-- Nothing of the exchange comes to this function any more: what it kept can go.
local function is_last(ctx, m)
   local kind = m.kind
   if kind == RESPONSE then return not ctx.data end
   return kind == DATA and bit.band(m.flags, LAST_BACK) == LAST_BACK
end

--- Run one function on the message that the record's object stands for.
---@param self table runner
---@param ctx tideway.message.context
---@param fn function
---@param record table
---@return integer exit enum tw_exit
local function call(self, ctx, fn, record)
   local msg = record.msg
   record.ctx, record.fn = ctx, fn
   enter(msg, ctx)
   local token = fn(msg)
   local exit = apply(msg, ctx, token)
   build.discard(msg)
   if is_last(ctx, msg.v.m) then facts.forget(ctx.states, tonumber(msg.v.m.id)) end
   self.host:done(ctx)
   return exit
end
M.call = call

-- Who waits for this answer.
local function waits_for(self, msg)
   local asked = msg.v.m.request
   local waiting = self.held[tonumber(bit.band(asked, 0xffffffffULL))]
   if waiting and waiting.fetching and waiting.msg.v.handle == asked then return waiting end
   return nil
end

-- It goes on behind this batch.
local function read(self, waiting, msg)
   local ok, answer, err = pcall(verdict.read_answer, msg)
   if not ok then answer, err = nil, "the answer cannot be read: " .. tostring(answer) end
   waiting.answer, waiting.err, waiting.fetching = answer, err, false
   self.ready[#self.ready + 1] = waiting
end

local function answered(self, msg, handle, gate)
   local waiting = waits_for(self, msg)
   if waiting then read(self, waiting, msg) end
   self.host:put(handle, GATE, gate, 0)
end

-- To the gate, readonly functions say the verdict by the key: they cannot leave it in the message.
local function finish(self, record, handle, exit)
   local key = record.key
   if exit == GATE then key = record.ctx.readonly and record.msg.verdict_kind or 0 end
   self.host:put(handle, exit, record.gate, key)
end

-- A worker's: one function, the message goes on by a descriptor.
local function one(self, record, at)
   local desc = self.descs[at]
   local msg, handle, gate, key = record.msg, desc.handle, desc.gate, desc.key
   if not take(msg, handle) then
      self.stale = self.stale + 1
      if msg.v.size > 0 then -- its head was written over: the gate knows whose it is
         leave(msg)
         self.host:put(handle, GATE, gate, 0)
      else
         C.tw_pool_free(msg.pool, handle, msg.v.member)
      end
      return
   end
   local kind = msg.v.m.kind
   record.gate, record.key, record.runs = gate, key, true
   if kind == ANSWER then
      answered(self, msg, handle, gate)
   else
      local ctx = self.functions[1]
      local fn = handler(ctx, kind)
      if not fn then
         self.host:put(handle, NEXT, gate, key)
      elseif self.host:begin(ctx, handle, false) then
         local exit = call(self, ctx, fn, record)
         self.finish(self, record, handle, exit)
      else
         C.tw_pool_free(msg.pool, handle, msg.v.member) -- taken away: it only has to be let go
      end
   end
   record.runs = false
   leave(msg)
end

-- ---- drivers ----

local function drive(self, record)
   while true do
      while self.current == record and self.at < self.n do
         local at = self.at
         self.at = at + 1
         self.one(self, record, at)
      end
      yield(IDLE)
   end
end

local function driver(self)
   local idle = self.idle
   local n = #idle
   if n > 0 then
      local record = idle[n]
      idle[n] = nil
      return record
   end
   local record = { msg = message.object(self.where), co = create(drive), fresh = true, due = 0, wakes = 0,
      place = false, ctx = false, fn = false, gate = 0, key = 0, at = 0, runs = false, held = false, fetching = false,
      answer = false, err = false }
   record.msg.runs = self
   return record
end

local function rest(self, record)
   if #self.idle < IDLE_MAX then self.idle[#self.idle + 1] = record end
end

-- Errors of calls in tail position know no line any more: the function's first one, then.
local function located(err, fn)
   err = tostring(err)
   if err:find "^[^:%s]+:%d+: " then return err end
   local info = debug.getinfo(fn, "S")
   return ("%s:%d: %s"):format(info.short_src, info.linedefined, err)
end

-- The coroutine is dead; its message says why and goes to the gate.
local function fault(self, record, err)
   local msg, ctx = record.msg, record.ctx
   if not record.runs or not ctx then error(err, 0) end -- not the NF's
   local v = msg.v
   self.host:done(ctx)
   ctx.board.faults = ctx.board.faults + 1
   err = located(err, record.fn)
   if self.inline or not ctx.readonly then
      verdict.put_why(msg, err:sub(1, 400))
      v.m.verdict, v.m.stage = FAULT, ctx.stage
   end
   msg.verdict_kind = FAULT
   self.fault_text = err
   if self.report then self.report(err, record.co, ctx.name) end
   self.finish(self, record, v.handle, GATE)
   leave(msg)
end

local function hold(self, record, why, seconds)
   local msg, board = record.msg, record.ctx.board
   local handle = msg.v.handle
   self.host:done(record.ctx)
   self.held[tonumber(bit.band(handle, 0xffffffffULL))] = record
   record.held = true
   self.n_held = self.n_held + 1
   board.held = board.held + 1
   local now = tonumber(C.tw_now())
   record.wakes = why == SLEEP and now + seconds * 1e9 or math.huge
   record.due = math.min(record.wakes, now + LOOK_NS)
   heap.put(self.heap, record)
   if why == FETCH then
      record.fetching = true
      self.host:put(build.release(msg), self.fetch_exit, record.gate, 0)
   end
end

-- Resumes a coroutine; true when it has come to its end and can be used again.
local function go(self, record, a, b)
   local ok, why, what
   if record.fresh then
      record.fresh = false
      ok, why, what = resume(record.co, self, record)
   else
      ok, why, what = resume(record.co, a, b)
   end
   if not ok then
      fault(self, record, why)
   elseif why == IDLE then
      return true
   elseif why == SLEEP or why == FETCH then
      hold(self, record, why, what)
   else
      record.co = false
      fault(self, record, record.ctx.name .. " called coroutine.yield outside of a coroutine of its own")
   end
   return false
end

-- Takes a record out of what is held; nil when its message was taken away meanwhile.
local function release(self, record)
   local msg = record.msg
   local handle = msg.v.handle
   self.held[tonumber(bit.band(handle, 0xffffffffULL))] = nil
   self.n_held = self.n_held - 1
   local board = record.ctx.board
   board.held = board.held - 1
   heap.remove(self.heap, record)
   if take(msg, handle) and self.host:begin(record.ctx, handle, true) then return record end
   C.tw_pool_free(msg.pool, handle, msg.v.member)
   leave(msg)
   return nil
end

local gone_size = ffi.new "uint32_t[1]"

local function is_gone(record)
   local msg = record.msg
   return C.tw_pool_at(msg.pool, msg.v.handle, msg.v.member, gone_size) == nil
end

local function wake(self, record, a, b)
   if release(self, record) and go(self, record, a, b) then rest(self, record) end
end

local function wake_ready(self)
   local ready = self.ready
   local i = 1
   while ready[i] do
      local record = ready[i]
      ready[i] = nil
      local answer, err = record.answer, record.err
      record.answer, record.err = false, false
      wake(self, record, answer, err)
      i = i + 1
   end
end

local Runner = {}
Runner.__index = Runner

--- Run functions on these messages. What is to be sent is put to the host.
---@param descs ffi.cdata* struct tw_desc *, whose blocks this member holds
---@param n integer at most TW_DESC_BATCH
function Runner:batch(descs, n)
   self.descs, self.at, self.n = descs, 0, n
   while self.at < self.n do
      local record = driver(self)
      self.current = record
      local free = go(self, record)
      self.current = false
      if free then rest(self, record) end
   end
   if self.ready[1] then wake_ready(self) end
end

--- Wake what has slept enough, at most 64 of them; `due` says whether there are more.
---@param now number ns
function Runner:timers(now)
   for _ = 1, WAKE_MAX do
      local first = self.heap[1]
      if not first or first.due > now then break end
      if first.wakes <= now then
         wake(self, first)
      elseif is_gone(first) then
         release(self, first)
      else
         heap.remove(self.heap, first)
         first.due = math.min(first.wakes, now + LOOK_NS)
         heap.put(self.heap, first)
      end
   end
end

--- When timers() is to be called.
---@return number? ns nil: nothing sleeps
function Runner:due()
   local first = self.heap[1]
   return first and first.due
end

--- A held message is given up: its function does not go on. It is the caller's.
---@param handle ffi.cdata* uint64_t
---@return boolean held
function Runner:forget(handle)
   local record = self.held[tonumber(bit.band(handle, 0xffffffffULL))]
   if not record or record.msg.v.handle ~= handle then return false end
   self.held[tonumber(bit.band(handle, 0xffffffffULL))] = nil
   self.n_held = self.n_held - 1
   record.ctx.board.held = record.ctx.board.held - 1
   record.fetching = false
   heap.remove(self.heap, record)
   leave(record.msg)
   return true
end

--- Wake the message that this answer is for; the answer is read when this returns. For who gets answers by itself.
---@param handle ffi.cdata* uint64_t of an answer that this member holds
---@return boolean ours
function Runner:answered(handle)
   local msg = self.answer_msg
   if not msg then
      msg = message.object(self.where)
      self.answer_msg = msg
   end
   if not take(msg, handle) then return false end
   local waiting = waits_for(self, msg)
   if waiting then read(self, waiting, msg) end
   leave(msg)
   if waiting then wake_ready(self) end
   return waiting ~= nil
end

--- Call tick(now) of the functions that have it.
---@param now number ns
function Runner:tick(now)
   for _, ctx in ipairs(self.functions) do
      if ctx.nf.tick then ctx.nf.tick(now) end
   end
end

--- Call stop() of the functions that have it.
function Runner:stop()
   for _, ctx in ipairs(self.functions) do
      if ctx.nf.stop then ctx.nf.stop() end
   end
end

--- A runner of functions; a worker's has one.
---@param pool ffi.cdata* struct tw_pool *
---@param member integer
---@param functions tideway.message.context[]
---@param host table see M.host
---@return table runner
function M.new(pool, member, functions, host)
   return setmetatable({
      where = message.attach(pool, member), functions = functions, host = host, descs = false, at = 0,
      n = 0, current = false, idle = {}, held = {}, n_held = 0, heap = {},
      ready = {}, HELD_MAX = M.HELD_MAX, stale = 0, fault_text = false, answer_msg = false,
      one = one, fetch_exit = GATE, finish = finish,
   }, Runner)
end

local JIT_OPTIONS = {
   "maxtrace=8000", "maxrecord=20000", "maxirconst=8000", "maxside=1000", "maxsnap=2000", "hotloop=28",
   "hotexit=6", "sizemcode=256", "loopunroll=100", "maxmcode=16384",
}

--- Set this VM up for messages: room for large functions, garbage collected early.
function M.tune()
   jit.opt.start(unpack(JIT_OPTIONS))
   collectgarbage("setpause", 120)
   collectgarbage("setstepmul", 400)
end

return M
