-- SPDX-License-Identifier: BSD-3-Clause
-- What else happened on a CPU while something was measured on it: time stolen by the hypervisor, other processes, a
-- clock frequency that changed.

local bit = require "bit"
local lfs = require "lfs"
local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local posix = require "tideway.posix"
local scheduler = require "tideway.posix.scheduler"

local C = abi.C
local M = {
   --- Shares of the time from which on they are named as a reason.
   STEAL = 0.01, OTHERS = 0.01,
   --- The same for the change of the CPU's speed between rounds.
   SPEED = 0.03,
}

local TICKS = 100 -- a second, in /proc/stat

-- ---- steal time, other processes ----

-- Of one CPU, in ticks.
local function cpu_times(cpu)
   local line = (posix.slurp "/proc/stat" or ""):match("\ncpu" .. cpu .. " ([^\n]+)")
   if not line then return nil end
   local n = {}
   for word in line:gmatch "%d+" do n[#n + 1] = tonumber(word) end
   return { steal = n[8] or 0, busy = n[1] + n[2] + n[3] + (n[6] or 0) + (n[7] or 0) }
end

-- Time that a thread ran, and time that it was ready and another one ran, ns.
local function thread_times(tid)
   local ran, waited = (posix.slurp(("/proc/self/task/%d/schedstat"):format(tid)) or ""):match "^(%d+) (%d+)"
   return ran and { ran = tonumber(ran), waited = tonumber(waited) }
end

--- The id of the thread of an lcore.
---@param cpu integer
---@return integer? tid
function M.lcore_thread(cpu)
   local name, youngest = ("tw-lcore-%d\n"):format(cpu), nil -- one that has ended may not be gone yet
   for task in lfs.dir "/proc/self/task" do
      local tid = tonumber(task)
      if tid and posix.slurp(("/proc/self/task/%d/comm"):format(tid)) == name then
         youngest = math.max(youngest or 0, tid)
      end
   end
   return youngest
end

local Watch = {}
Watch.__index = Watch

--- Look at a CPU from now on.
---@param cpu? integer nil: nothing is known of where the work is done
---@return tideway.bench.watch
function M.watch(cpu)
   local self = setmetatable({ cpu = cpu, at = posix.now() }, Watch)
   if not cpu then return self end
   self.times, self.thread = cpu_times(cpu), M.lcore_thread(cpu)
   self.own = self.thread and thread_times(self.thread)
   return self
end

---@class tideway.bench.disturbance shares of the time
---@field steal number? taken by the hypervisor
---@field others number? other threads ran while ours was ready

--- What happened since.
---@return tideway.bench.disturbance
---@return tideway.bench.reason[] why not to trust what was measured
function Watch:stop()
   local out, why, ns = {}, {}, posix.now() - self.at
   local times = self.times and cpu_times(self.cpu)
   if times then
      local ticks = times.steal - self.times.steal
      out.steal = ticks / TICKS / (ns / 1e9)
      -- One tick may be a rounded sliver of it.
      if out.steal > M.STEAL and ticks > 1 then why[1] = { text = ("steal time %.0f %%"):format(out.steal * 100) } end
   end
   local own = self.own and thread_times(self.thread)
   if own then
      out.others = (own.waited - self.own.waited) / ns
      if out.others > M.OTHERS then
         why[#why + 1] = {
            text = ("other processes had %.0f %% of CPU %d"):format(out.others * 100, self.cpu), load = true,
         }
      end
   end
   return out, why
end

-- ---- speed of the CPU ----

local STEPS, CHUNKS = 20000, 15

-- Each step waits for the one before, so it takes a fixed number of the CPU's cycles.
local function chunk(x)
   for _ = 1, STEPS do x = bit.bxor(bit.tobit(x + 0x9e3779b9), bit.rol(x, 5)) end
   return x
end

local function quickest()
   local best, x = math.huge, 1
   for _ = 1, CHUNKS do
      local from = C.tw_tsc()
      x = chunk(x)
      best = math.min(best, tonumber(C.tw_tsc() - from))
   end
   return best / STEPS, x
end

--- Ticks of the TSC for a step of a loop that takes a fixed number of the CPU's cycles: more when the CPU is slower.
--- Measured there by the control thread; the quickest of some short stretches, so that interruptions do not count.
---@param cpu? integer nil: wherever the control thread runs
---@return number
function M.speed(cpu)
   local home = cpu and (posix.slurp "/proc/self/status"):match "\nCpus_allowed_list:%s*([^\n]+)"
   if not cpu or not scheduler.set_cpus(posix.getpid(), { cpu }) then return (quickest()) end
   local ok, ticks = pcall(quickest)
   scheduler.set_cpus(posix.getpid(), affinity.parse(home))
   if not ok then error(ticks, 0) end
   return ticks
end

--- The rounds in which the CPU's speed was not what it was in most of them.
---@param speeds table<integer, number> M.speed() by round
---@return table<integer, tideway.bench.reason> why by round
function M.speed_changes(speeds)
   local list, out = {}, {}
   for _, ticks in pairs(speeds) do list[#list + 1] = ticks end
   local median = require("tideway.bench.statistics").median(list)
   for round, ticks in pairs(speeds) do
      local change = median / ticks - 1
      if math.abs(change) > M.SPEED then
         out[round] = { text = ("the CPU was %.0f %% %s than in most rounds"):format(math.abs(change) * 100,
            change > 0 and "faster" or "slower") }
      end
   end
   return out
end

return M
