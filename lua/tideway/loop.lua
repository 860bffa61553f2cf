-- SPDX-License-Identifier: BSD-3-Clause
-- What the control thread waits for and does: descriptors, timers, and duties of every turn.
--
-- Nothing here may block. A callback that raises is taken off and its error is a message of the engine's log.

local ffi = require "ffi"
local abi = require "tideway.abi"
local posix = require "tideway.posix"

local C = abi.C
local M = {}

local epoll
local watches, timers, duties = {}, {}, {}
local messages = {}
local wait_for = ffi.new "int[1]"

--- Messages since the last call.
---@return string[]
function M.log()
   local list = messages
   messages = {}
   return list
end

--- Say something in the engine's log.
---@param text string
function M.note(text) messages[#messages + 1] = text end

local function now() return tonumber(C.tw_now()) end

local function call(what, drop, fn, ...)
   local ok, value = xpcall(fn, debug.traceback, ...)
   if ok then return value end
   drop()
   messages[#messages + 1] = ("<3>%s of the control thread failed and is taken off; this is a bug, please report it: "
      .. "%s"):format(what, tostring(value))
end

-- ---- descriptors ----

--- Call fn(fd, readable, writable) whenever the descriptor is ready. Again for the same one: change it.
---@param fd integer
---@param interest "r"|"w"|"rw"
---@param fn fun(fd: integer, readable: boolean, writable: boolean)
function M.watch(fd, interest, fn)
   epoll = epoll or assert(posix.epoll())
   local known = watches[fd]
   if not known or known.interest ~= interest then assert(posix.epoll_set(epoll, fd, interest, known ~= nil)) end
   watches[fd] = { interest = interest, fn = fn }
end

--- Forget a descriptor; before it is closed.
---@param fd integer
function M.unwatch(fd)
   if not watches[fd] then return end
   watches[fd] = nil
   posix.epoll_set(epoll, fd, nil)
end

-- ---- timers ----

---@class tideway.loop.timer
---@field due number monotonic ns
---@field period number? ns

local function add(seconds, fn, period)
   local timer = { due = now() + seconds * 1e9, fn = fn, period = period }
   timers[timer] = true
   return timer
end

--- Call fn once, after so many seconds.
---@param seconds number
---@param fn fun()
---@return tideway.loop.timer
function M.after(seconds, fn) return add(seconds, fn) end

--- Call fn every so many seconds.
---@param seconds number
---@param fn fun()
---@return tideway.loop.timer
function M.every(seconds, fn) return add(seconds, fn, seconds * 1e9) end

--- Call it no more.
---@param timer tideway.loop.timer?
function M.cancel(timer)
   if timer then timers[timer] = nil end
end

--- Call fn in every turn; it returns the seconds until it wants the next one (nil: none of its own).
---@param fn fun(): number?
function M.duty(fn) duties[fn] = true end

--- Call it no more.
---@param fn fun(): number?
function M.off_duty(fn) duties[fn] = nil end

-- ---- turns ----

local function run_duties(due)
   local list = {}
   for fn in pairs(duties) do list[#list + 1] = fn end
   for _, fn in ipairs(list) do
      local seconds = call("a duty", function() duties[fn] = nil end, fn)
      if seconds then due = math.min(due, now() + seconds * 1e9) end
   end
   return due
end

local function run_timers(due)
   local clock, ready = now(), {}
   for timer in pairs(timers) do
      if timer.due <= clock then ready[#ready + 1] = timer end
   end
   table.sort(ready, function(a, b) return a.due < b.due end)
   for _, timer in ipairs(ready) do
      if timers[timer] then
         if timer.period then timer.due = clock + timer.period else timers[timer] = nil end
         call("a timer", function() timers[timer] = nil end, timer.fn)
      end
   end
   for timer in pairs(timers) do due = math.min(due, timer.due) end
   return due
end

local function run_watches()
   for _, event in ipairs(epoll and posix.epoll_ready(epoll) or {}) do
      local watch = watches[event.fd] -- one before it may have taken it off
      if watch then
         call("a descriptor", function() M.unwatch(event.fd) end, watch.fn, event.fd, event.readable, event.writable)
      end
   end
end

--- Do what is due, wait for more at most so long, do that.
---@param ms number at most
---@return boolean stop a signal asked the engine to stop
function M.turn(ms)
   local due = run_timers(run_duties(now() + ms * 1e6))
   local nap = math.max(0, math.ceil((due - now()) / 1e6))
   wait_for[0] = epoll or -1
   local rc = C.tw_wait(wait_for, epoll and 1 or 0, nap)
   if rc == 1 then return true end
   if rc == 2 then run_watches() end
   return false
end

--- Forget everything.
function M.reset()
   for fd in pairs(watches) do M.unwatch(fd) end
   watches, timers, duties, messages = {}, {}, {}, {}
   if epoll then posix.close(epoll) end
   epoll = nil
end

return M
