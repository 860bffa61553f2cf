-- SPDX-License-Identifier: BSD-3-Clause
-- Evaluations beside the engine's own work: a coroutine each, that may wait, stream and be stopped.

local abi = require "tideway.abi"
local fence = require "tideway.live.fence"
local loop = require "tideway.loop"

local C = abi.C
local M = { CHUNK = fence.CHUNK }

local TURN_NS, POLL_NS = 5e6, 10e6
local CANCELLED = fence.CANCELLED

---@class tideway.live.session
---@field co thread
---@field sink tideway.live.sink
---@field role? "view"|"operate"|"admin" of its user
---@field client? table who asked
---@field cancelled number? when it was asked to stop, monotonic ns
---@field ending string? why it is ended: raised until it does
---@field engine_code boolean code of the engine runs, not the user's

--- Where a session's output goes.
---@class tideway.live.sink
---@field send fun(kind: string, data: any): boolean false when there was no room and it is lost
---@field room fun(): integer bytes that send() takes now
---@field poll fun() looks whether the user said something

local ready, waiting = {}, {}

local function now() return tonumber(C.tw_now()) end

-- ---- taking turns ----

local function finish(session, ok, ...)
   for i = #session.deferred, 1, -1 do
      local fine, err = pcall(session.deferred[i])
      if not fine then loop.note(("what an evaluation left to be done failed: %s"):format(tostring(err))) end
   end
   if ok then session.done(true, ...) else session.done(false, fence.reason(session, (...))) end
   if session.ending then collectgarbage() end -- what a runaway one took
end

local function resumed(session, ok, ...)
   if coroutine.status(session.co) == "dead" then return finish(session, ok, ...) end
   if session.due then waiting[session] = true else ready[#ready + 1] = session end
end

local function resume(session)
   if session.cancelled and not session.begun then return finish(session, false, CANCELLED) end
   session.due, session.begun = nil, true
   resumed(session, fence.resume(session))
end

local function wake()
   local time = now()
   for session in pairs(waiting) do
      if session.cancelled or session.each or session.due <= time then
         waiting[session] = nil
         ready[#ready + 1] = session
      end
   end
end

-- The next that may run: any, or while another one is interrupted, one that needs no hook to come to its end.
local function next_ready()
   for i, session in ipairs(ready) do
      if not fence.interrupted() or session.trusted then return table.remove(ready, i) end
   end
end

local function next_due()
   local due
   for session in pairs(waiting) do
      local at = session.each and now() + POLL_NS or session.due
      due = math.min(due or at, at)
   end
   return due
end

-- In every turn of the loop.
local function duty()
   if fence.current() then return nil end
   wake()
   local stop = now() + TURN_NS
   for _ = 1, #ready do
      local session = now() < stop and next_ready()
      if not session then break end
      resume(session)
   end
   if #ready > 0 then return not fence.interrupted() and 0 or nil end
   local due = next_due()
   if due then return math.max(0, (due - now()) / 1e9) end
   if not fence.interrupted() then loop.off_duty(duty) end
end

--- Evaluate fn in a session of its own, from the next turn of the loop on.
---@param fn fun(): ...
---@param options { sink: tideway.live.sink, role: string?, client: table?, done: fun(ok: boolean, ...),
--- engine_code: boolean?, trusted: boolean? } done: called with what fn returned or the error it raised; engine_code:
--- fn is no user's code; trusted: and it changes nothing and soon comes to its end
---@return tideway.live.session
function M.start(fn, options)
   local session = {
      co = coroutine.create(fn), sink = options.sink, done = options.done, engine_code = options.engine_code or false,
      trusted = options.trusted, role = options.role, client = options.client, deferred = {}, masked = 0, grown = 0,
   }
   ready[#ready + 1] = session
   loop.duty(duty)
   return session
end

--- Ask a session to stop: its next wait returns early, the one after that raises; what computes is ended.
---@param session tideway.live.session
function M.cancel(session) session.cancelled = session.cancelled or now() end

--- End all sessions; what they left to be done is done.
function M.stop()
   local list = ready
   for session in pairs(waiting) do list[#list + 1] = session end
   ready, waiting = {}, {}
   for _, session in ipairs(list) do finish(session, false, "the engine stops") end
   loop.off_duty(duty)
end

-- ---- what runs in one may call ----

--- The session that runs now.
---@return tideway.live.session?
function M.current() return fence.current() end

--- Was this evaluation asked to stop, or did its user leave?
---@return boolean
function M.cancelled()
   local session = fence.current()
   return session ~= nil and session.cancelled ~= nil
end

-- Without a session (in a script, in specs) the loop is turned here.
local function wait_alone(predicate, due)
   repeat
      local value = predicate and predicate()
      if value then return value end
      if now() >= due then return nil end
   until loop.turn(math.max(0, math.min(10, (due - now()) / 1e6)))
   return nil, CANCELLED
end

--- Wait until a condition holds, at most so long; the engine's other work goes on.
---@generic T
---@param predicate? fun(): T? looked at in every turn of the loop
---@param seconds? number default: for ever
---@return T? value what the predicate gave; nil when the time ran out
---@return string? stopped when the evaluation was asked to stop; the next wait then raises
function M.wait(predicate, seconds)
   local session, due = fence.current(), now() + (seconds or math.huge) * 1e9
   if not session then return wait_alone(predicate, due) end
   if coroutine.running() ~= session.co then
      error("waiting is not possible in a coroutine of your own; call it from the outside of that", 2)
   end
   while true do
      if session.cancelled then
         if session.told then error(CANCELLED, 0) end
         session.told = true
         return nil, CANCELLED
      end
      local value = predicate and predicate()
      if value then return value end
      if now() >= due then return nil end
      session.each, session.due = predicate ~= nil, due
      coroutine.yield()
   end
end

--- Wait so long; the engine's other work goes on.
---@param seconds number
---@return boolean whole false when the evaluation was asked to stop; the next wait then raises
function M.sleep(seconds)
   local _, stopped = M.wait(nil, seconds)
   return not stopped
end

--- Stream something to the user: "out" text, "record" bytes, "note" a table.
---@param kind "out"|"record"|"note"
---@param data any
---@return boolean taken false: no room, it is lost and counted
function M.send(kind, data)
   local session = fence.current()
   if session then return M.uninterrupted(session.sink.send, kind, data) end
   if kind == "out" then io.stdout:write(data) end
   return kind == "out"
end

--- How many bytes the user's stream takes now, for those who would rather wait than lose.
---@return integer
function M.room()
   local session = fence.current()
   return session and session.sink.room() or math.huge
end

--- Call fn when this evaluation ends, whichever way; the last one first.
---@param fn fun()
function M.defer(fn)
   local session = fence.current()
   if session then table.insert(session.deferred, fn) end
end

local function unmask(session, ok, ...)
   session.masked = session.masked - 1
   if not ok then error((...), 0) end
   return ...
end

--- Call fn so that it is neither ended nor interrupted: for steps that must not be left half done. It must not wait.
---@param fn fun(...): ...
---@return ... what fn returns
function M.uninterrupted(fn, ...)
   local session = fence.current()
   if not session then return fn(...) end
   session.masked = session.masked + 1
   return unmask(session, pcall(fn, ...))
end

local function back(session, ok, ...)
   session.engine_code = false
   jit.off()
   if not ok then error((...), 0) end
   return ...
end

--- Call fn as code of the engine: compiled as usual, never interrupted for other work, a second to end when cancelled.
---@param fn fun(...): ...
---@return ... what fn returns
function M.engine_code(fn, ...)
   local session = fence.current()
   if not session or session.engine_code then return fn(...) end
   session.engine_code = true
   jit.on()
   return back(session, pcall(fn, ...))
end

--- xpcall() without the handler of an evaluation that is ended: it would run where no hook comes, maybe for ever.
function M.xpcall(fn, handler, ...)
   return xpcall(fn, function(err)
      local session = fence.current()
      if session and session.ending then return err end
      return handler(err)
   end, ...)
end

--- print() for the user of this evaluation.
function M.print(...)
   local words = {}
   for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
   M.send("out", table.concat(words, "\t") .. "\n")
end

return M
