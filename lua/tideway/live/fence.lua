-- SPDX-License-Identifier: BSD-3-Clause
-- What keeps an evaluation from holding the control thread: a hook that comes every few thousand instructions.
--
-- It ends the evaluation whose user cancelled or left, that took too much memory, or when the engine stops. Every 10 ms
-- it gives the rest of the control thread its turn, and with it evaluations that can be trusted to come to their end.
-- Compiled code calls no hooks, so nothing new is compiled while a user's own code runs. Library code is compiled as
-- usual; in the middle of its steps only the user's wish to stop is looked at, never other work done.

local abi = require "tideway.abi"
local loop = require "tideway.loop"

local C = abi.C
local M = {
   --- Name of chunks that users type.
   CHUNK = "=eval",
   --- How much the heap may grow during one evaluation, MB.
   memory_mb = 256,
   --- The error of an evaluation that was asked to stop.
   CANCELLED = "stopped",
}

local MB = 1024 * 1024
local INSTRUCTIONS, FIRST_NS, SLICE_NS, GRACE_NS = 2000, 1e6, 10e6, 1e9
local SOON, TRIES, FRAMES = 17, 200, 60

local current, home -- the session that runs, the thread that resumed it
local interrupted   -- the session that waits in its hook while other work is done

local function now() return tonumber(C.tw_now()) end

--- The session that runs now.
---@return tideway.live.session?
function M.current() return current end

--- The session in whose time other work is done.
---@return tideway.live.session?
function M.interrupted() return interrupted end

local LIBRARY = "@" .. abi.root
-- Of the library, but without steps: what waits for users' code, and looks names up for it.
local STEPLESS = { ["/tideway/live/session.lua"] = true, ["/tideway/live/env.lua"] = true }

-- Is nothing but the user's own code running, so that no step of the library is left half done meanwhile? What is
-- around that code expects it.
local function between_steps()
   for level = 4, FRAMES do -- 4: what the hook interrupted
      local frame = debug.getinfo(level, "S")
      if not frame or frame.what == "main" and frame.source == M.CHUNK then return true end
      local source = frame.source
      if source:sub(1, #LIBRARY) == LIBRARY and not STEPLESS[source:sub(#LIBRARY + 1)] then return false end
   end
   return false
end

-- Between two looks of the hook it may be more for a while: what is garbage already, twice as much at most.
local function limit_memory(session) C.tw_control_memory(math.max(MB, 2 * M.memory_mb * MB - session.grown)) end

local function grown(session) return session.grown + (collectgarbage "count" - session.heap) * 1024 end

local function too_much() return ("this evaluation took more than %d MB of memory and is ended"):format(M.memory_mb) end

local function check_memory(session)
   if grown(session) <= M.memory_mb * MB then return end
   collectgarbage()
   if grown(session) > M.memory_mb * MB then session.ending = too_much() end
end

-- Do other work: what the user says now, and everything else if no step of the library is interrupted.
local function look(session)
   local alone, thread = between_steps(), home
   current, interrupted = nil, session
   C.tw_control_memory(0)
   session.sink.poll()
   local stop = C.tw_signal_pending() ~= 0
   if alone and not stop then stop = loop.turn(0) end
   current, interrupted, home = session, nil, thread
   limit_memory(session)
   if stop then session.ending = "the engine stops" end
   return alone
end

local hook

-- Met in the library, which users' code calls again and again: come back soon, until that code itself is met.
local function plan_next(session, alone)
   session.tries = not alone and not session.engine_code and (session.tries or 0) + 1 or nil
   if session.tries and session.tries < TRIES then return debug.sethook(hook, "", SOON) end
   session.tries, session.look = nil, now() + SLICE_NS
   debug.sethook(hook, "", INSTRUCTIONS)
end

-- Set once more in the thread that resumed the session, before it is taken off there, and in other work that is done
-- here: an error there makes LuaJIT forget that it is in a hook.
function hook()
   local session = current
   if not session or interrupted or coroutine.running() == home or session.masked > 0 then return end
   if not session.ending then
      check_memory(session)
      local time = now()
      if time >= session.look then
         plan_next(session, look(session))
         local since = session.cancelled
         if since and (not session.engine_code or time > since + GRACE_NS) then session.ending = M.CANCELLED end
      end
      if not session.ending then return end
   end
   debug.sethook(hook, "", 1) -- a pcall may catch one error; not one at every instruction
   error(session.ending, 0)
end

--- Why an evaluation did not come to its end.
---@param session tideway.live.session
---@param err any that it raised
---@return any
function M.reason(session, err)
   if err == "not enough memory" then session.ending = session.ending or too_much() end
   return session.ending or err
end

local function leave(session, compiling, ...)
   if not interrupted then debug.sethook() end
   if compiling then jit.on() end
   C.tw_control_memory(0)
   session.grown = grown(session)
   current = nil
   return ...
end

--- Let a session go on until it waits or ends.
---@param session tideway.live.session
---@return boolean ok as coroutine.resume()
---@return any ...
function M.resume(session)
   local compiling = jit.status()
   home, current = coroutine.running(), session
   session.heap, session.look, session.tries = collectgarbage "count", now() + FIRST_NS, nil
   if not session.engine_code then jit.off() end
   limit_memory(session)
   if not interrupted then debug.sethook(hook, "", session.ending and 1 or INSTRUCTIONS) end
   return leave(session, compiling, coroutine.resume(session.co))
end

return M
