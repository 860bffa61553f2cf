-- SPDX-License-Identifier: BSD-3-Clause
-- Where threads may run.

local ffi = require "ffi"
local bit = require "bit"

local M = {}

ffi.cdef [[
int tw_posix_sched_setaffinity(int tid, size_t size, const void *set) __asm__("sched_setaffinity");
]]

local CPUS = 1024

--- Let a thread run on these CPUs only.
---@param tid integer
---@param cpus integer[]
---@return boolean ok false: there is no such thread, or none of the CPUs
function M.set_cpus(tid, cpus)
   local set = ffi.new("uint8_t[?]", CPUS / 8)
   for _, cpu in ipairs(cpus) do
      if cpu < CPUS then set[cpu / 8] = bit.bor(set[cpu / 8], bit.lshift(1, cpu % 8)) end
   end
   return ffi.C.tw_posix_sched_setaffinity(tid, CPUS / 8, set) == 0
end

return M
