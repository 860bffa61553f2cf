-- SPDX-License-Identifier: BSD-3-Clause
-- Other programs of a benchmark: started with a log, watched, asked to end, gone when the benchmark is.

local lfs = require "lfs"
local affinity = require "tideway.affinity"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local runner = require "tideway.bench.runner"

local M = {}

local LAST_LINES, LONGEST_LINE = 5, 300

--- A word for the shell.
---@param word string
---@return string
function M.quote(word)
   if word:find "^[%w_%-./=:,@+]+$" then return word end
   return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- A command as it is typed.
---@param argv string[]
---@return string
function M.line(argv)
   local words = {}
   for i, word in ipairs(argv) do words[i] = M.quote(word) end
   return table.concat(words, " ")
end

--- Is there a program of this name?
---@param program string
---@return boolean
function M.has(program) return os.execute(("command -v %s >/dev/null"):format(M.quote(program))) == 0 end

--- Run a command to its end.
---@param argv string[]
---@return boolean ok
---@return string output what it printed, errors included
function M.run(argv)
   local pipe = assert(io.popen(M.line(argv) .. " 2>&1; echo $?"))
   local text, code = pipe:read "*a":match "^(.-)(%d+)%s*$"
   pipe:close()
   return code == "0", text
end

--- The CPU that works in a benchmark, and one for everything else.
---@return integer cpu the last that this process may use
---@return integer other the first
function M.cpus()
   local list = affinity.cpus()
   return list[#list], list[1]
end

---@class tideway.bench.child
---@field pid integer
---@field log string
---@field keep boolean the log is not removed when it ends
---@field argv string[]
---@field code integer? how it ended, 128 + signal when one ended it
local Child = {}
Child.__index = Child

--- Start a program. The kernel kills it should this process die first.
---@param argv string[] found by PATH
---@param log? string file for what it prints; default: one that is removed when it is stopped
---@return tideway.bench.child? child
---@return string? error
function M.start(argv, log)
   local keep = log ~= nil
   log = log or os.tmpname()
   -- Each becomes the next: the pid is the program's. The control thread may be kept off CPUs that programs need.
   local pid, err = process.spawn({ "setpriv", "--pdeathsig", "KILL", "taskset", "--cpu-list",
      table.concat(affinity.cpus(), ","), unpack(argv) }, { output = log })
   if not pid then return nil, err end
   return setmetatable({ pid = pid, log = log, keep = keep, argv = argv }, Child)
end

---@return boolean
function Child:running()
   if not self.code then self.code = process.ended(self.pid) end
   return self.code == nil
end

--- What it has printed.
---@return string
function Child:output() return self.said or posix.slurp(self.log) or "" end

--- How it ended and what it said last, for a message.
---@return string
function Child:epitaph()
   local lines = {}
   for text in self:output():gmatch "[^\n]+" do lines[#lines + 1] = text:sub(1, LONGEST_LINE) end
   local how = self:running() and "still runs"
      or self.code > 128 and ("was ended by signal %d"):format(self.code - 128)
      or ("ended with exit code %d"):format(self.code)
   local said = #lines == 0 and "it printed nothing" or "it printed last:\n   "
      .. table.concat(lines, "\n   ", math.max(1, #lines - LAST_LINES + 1))
   return ("%s (pid %d) %s; %s"):format(self.argv[1], self.pid, how, said)
end

-- It has ended, or does within its patience.
local function ends(self, patience, signal)
   if not self:running() then return false end
   process.terminate(self.pid, signal or process.SIGINT)
   if runner.wait(function() return not self:running() end, patience or 5) then return true end
   process.terminate(self.pid, process.SIGKILL)
   self.code = process.ended(self.pid, true)
   return false
end

--- Ask it to end and wait; kill it when it does not.
---@param patience? number seconds, default 5
---@param signal? integer default SIGINT
---@return boolean clean it ran, and ended by itself when it was asked
function Child:stop(patience, signal)
   local clean = ends(self, patience, signal)
   self.said = self:output()
   if not self.keep then os.remove(self.log) end
   return clean
end

--- How long each thread of a process ran, and how long it was ready while another one did.
---@param pid integer
---@return table<integer, { ran: number, waited: number }> seconds by thread
function M.tasks(pid)
   local list, dir = {}, ("/proc/%d/task"):format(pid)
   if not lfs.attributes(dir) then return list end
   for name in lfs.dir(dir) do
      local tid = tonumber(name)
      local ran, waited = (posix.slurp(("%s/%s/schedstat"):format(dir, name)) or ""):match "^(%d+) (%d+)"
      if tid and ran then list[tid] = { ran = tonumber(ran) / 1e9, waited = tonumber(waited) / 1e9 } end
   end
   return list
end

local function descendants(pid, seen, list)
   for name in lfs.dir "/proc" do
      local stat = tonumber(name) and not seen[tonumber(name)] and posix.slurp(("/proc/%s/stat"):format(name))
      if stat and tonumber(stat:match "^.*%)%s+%a%s+(%d+)") == pid then
         list[#list + 1], seen[tonumber(name)] = tonumber(name), true
         descendants(tonumber(name), seen, list)
      end
   end
   return list
end

--- CPU time that threads of processes and of their children have used, of those that live.
---@param pids integer[]
---@return number seconds
function M.cpu_time(pids)
   local all, seen, sum = { unpack(pids) }, {}, 0
   for _, pid in ipairs(pids) do seen[pid] = true end
   for _, pid in ipairs(pids) do descendants(pid, seen, all) end
   for _, pid in ipairs(all) do
      for _, task in pairs(M.tasks(pid)) do sum = sum + task.ran end
   end
   return sum
end

return M
