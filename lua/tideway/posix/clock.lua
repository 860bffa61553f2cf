-- SPDX-License-Identifier: BSD-3-Clause
-- CPU time of a thread: what it ran, without the time that others had its CPU.

local bit = require "bit"
local ffi = require "ffi"
require "tideway.posix" -- declares the clock

local M = {}

local PER_THREAD_SCHEDULED = 6 -- CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED of the kernel's posix-timers.h

--- The time that a thread of this process has run, exact to the moment.
---@param tid integer
---@return number? ns nil: there is no such thread
function M.thread(tid)
   local time = ffi.new "struct tw_posix_timespec"
   local clock = bit.bor(bit.lshift(bit.bnot(tid), 3), PER_THREAD_SCHEDULED)
   if ffi.C.tw_posix_clock_gettime(clock, time) ~= 0 then return nil end
   return tonumber(time.sec) * 1e9 + tonumber(time.nsec)
end

return M
