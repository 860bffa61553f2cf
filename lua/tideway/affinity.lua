-- SPDX-License-Identifier: BSD-3-Clause
-- Which CPUs the process may use, and keeping every thread but lcores off those of lcores.

local lfs = require "lfs"
local posix = require "tideway.posix"
local scheduler = require "tideway.posix.scheduler"

local M = {}

local TASKS = "/proc/self/task"

--- The CPUs of a list as the kernel writes it, "0-2,5".
---@param text string
---@return integer[]
function M.parse(text)
   local list = {}
   for a, b in text:gmatch "(%d+)%-?(%d*)" do
      for cpu = tonumber(a), tonumber(b ~= "" and b or a) do list[#list + 1] = cpu end
   end
   return list
end

-- What the process was started with: the control thread's own set is smaller later.
local allowed = M.parse(posix.slurp "/proc/self/status":match "\nCpus_allowed_list:%s*([^\n]+)")
local taken = ""

--- Numbers of the CPUs this process may use.
---@return integer[]
function M.cpus() return { unpack(allowed) } end

-- An lcore's thread has the name of one, and a moment before that it has one CPU only, as no other is started with.
local function is_lcore(task, busy)
   local status = posix.slurp(("%s/%s/status"):format(TASKS, task))
   if not status then return true end -- it has ended
   local only = tonumber(status:match "\nCpus_allowed_list:%s*(%d+)\n")
   return status:find "^Name:%s*tw%-lcore%-" ~= nil or only and busy[only] and tonumber(task) ~= posix.getpid() or false
end

--- Move all threads but lcores to CPUs without an lcore, if there are any, else to all. Threads and programs that
--- they start later inherit it. Called again with the same lcores it does nothing.
---@param lcores { cpu: integer|"step" }[]
function M.keep_off(lcores)
   local busy, free, names = {}, {}, {}
   for _, lcore in ipairs(lcores) do busy[lcore.cpu] = true end
   for _, cpu in ipairs(allowed) do
      if busy[cpu] then names[#names + 1] = cpu else free[#free + 1] = cpu end
   end
   local wanted = table.concat(names, ",")
   if wanted == taken then return end
   local done = true
   for task in lfs.dir(TASKS) do
      if tonumber(task) and not is_lcore(task, busy) then
         done = scheduler.set_cpus(tonumber(task), #free > 0 and free or allowed) and done
      end
   end
   if done then taken = wanted end -- else a thread has ended meanwhile: once more, next time
end

return M
