-- SPDX-License-Identifier: BSD-3-Clause
-- A DPDK program as a contender: started for each measurement, counted through its telemetry socket from outside, so
-- that every program is counted the same way.

local lfs = require "lfs"
local child = require "tideway.bench.child"
local disturbance = require "tideway.bench.disturbance"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local runner = require "tideway.bench.runner"
local telemetry = require "tideway.bench.telemetry"

local M = {}

local START_LIMIT, STOP_LIMIT = 20, 5 -- seconds
local WARM_UP = 0.7
local STALL = 5 -- without a packet: it does not work

---@class tideway.bench.process.context what a command is made of
---@field cpu integer CPU that works
---@field other integer CPU for the program's other threads
---@field prefix string --file-prefix for DPDK, of this benchmark's own
---@field tideway string this binary

---@class tideway.bench.process
---@field name string
---@field note string?
---@field cpu integer the CPU that works
local Process = {}
Process.__index = Process

-- ---- hugepages ----

local PAGES = "/proc/sys/vm/nr_hugepages"

local function meminfo(what) return tonumber((posix.slurp "/proc/meminfo":match(what .. ":%s*(%d+)"))) or 0 end

local function write(path, number)
   local file = io.open(path, "w")
   if not file then return end
   file:write(number, "\n")
   file:close()
end

--- Have so much memory free in hugepages.
---@param mb number
---@return boolean|fun() give_back what was reserved; true: nothing was
---@return string? error
function M.reserve(mb)
   local size = meminfo "Hugepagesize" / 1024
   if size == 0 then return nil, "this kernel has no hugepages" end
   local lacking, total = math.ceil(mb / size) - meminfo "HugePages_Free", meminfo "HugePages_Total"
   if lacking <= 0 then return true end
   write(PAGES, total + lacking)
   local function give_back() write(PAGES, total) end
   if math.ceil(mb / size) > meminfo "HugePages_Free" then
      give_back()
      return nil, ("%d MB of free hugepages are needed, there are %d MB, and the kernel gave no more; free memory or "
         .. "try: sysctl -w vm.compact_memory=1"):format(mb, meminfo "HugePages_Free" * size)
   end
   return give_back
end

-- ---- one run ----

local RUNTIME = "/run/dpdk"

-- What DPDK leaves of programs that this benchmark started, and of those of benchmarks that were killed.
local function sweep()
   if lfs.attributes(RUNTIME, "mode") ~= "directory" then return end
   for name in lfs.dir(RUNTIME) do
      local pid = tonumber(name:match "^tideway%-bench%-(%d+)$")
      local over = pid and (pid == posix.getpid() or not posix.alive(pid))
      if over then child.run { "rm", "-rf", RUNTIME .. "/" .. name } end
   end
end

local function context()
   local cpu, other = child.cpus()
   return { cpu = cpu, other = other, prefix = ("tideway-bench-%d"):format(posix.getpid()),
      tideway = posix.readlink "/proc/self/exe" }
end

local function find(self)
   local t, err = telemetry.open(self.child.pid)
   if not t then return nil, err end
   local sink, source
   sink, err = t:port(self.count.device)
   if sink and self.from then source, err = t:port(self.from) end
   if not sink or self.from and not source then
      t:close()
      return nil, err
   end
   self.telemetry, self.sink, self.source = t, sink, source
   return true
end

local function wait_for_packets(self)
   local why
   local moving = runner.wait(function()
      if not self.child:running() then return "ended" end
      if not self.telemetry then
         local _, err = find(self)
         why = err
      end
      local counters = self.telemetry and self.telemetry:counters(self.sink)
      return counters and counters.sent > 0
   end, self.start_limit)
   if moving == true then return true end
   why = moving == "ended" and "it ended before it moved a packet"
      or self.telemetry and ("%s sent nothing in %g s"):format(self.count.device, self.start_limit) or why
   return nil, ("%s: %s; %s"):format(self.name, why, self.child:epitaph())
end

--- Start the program and wait until it has moved packets for a while.
---@return boolean? ok
---@return string? error
function Process:start()
   local give_back, err = M.reserve(self.memory_mb)
   if not give_back then return nil, ("%s: %s"):format(self.name, err) end
   self.give_back, self.argv = give_back, self.command(context())
   self.child, err = child.start(self.argv, self.log)
   if not self.child then
      self:stop()
      return nil, ("%s: %s"):format(self.name, err)
   end
   local ok
   ok, err = wait_for_packets(self)
   if not ok then
      self:stop()
      return nil, err
   end
   runner.sleep(self.warm_up)
   return true
end

-- The counters of sink and source are read one after the other: the sink's first at the start and last at the end, so
-- that the delay is never taken for a loss.
local function look(self, at_end)
   local devices, found = { self.sink, self.source }, {}
   for i = at_end and #devices or 1, at_end and 1 or #devices, at_end and -1 or 1 do
      local counters, err = self.telemetry:counters(devices[i])
      if not counters then return nil, err end
      found[i] = counters
   end
   return { sink = found[1], source = found[2], cpu = child.cpu_time { self.child.pid },
      tasks = child.tasks(self.child.pid) }
end

-- Seconds that the thread that worked most ran, and why the rest was not its own.
local function worker_of(from, to, took)
   local ran, waited = 0, 0
   for tid, after in pairs(to) do
      local before = from[tid] or { ran = 0, waited = 0 }
      if after.ran - before.ran > ran then ran, waited = after.ran - before.ran, after.waited - before.waited end
   end
   local share = math.min(1, waited / took)
   if share <= disturbance.OTHERS then return ran end
   return ran, { { text = ("other processes had %.0f %% of its CPU"):format(share * 100), load = true } }
end

local function sample_of(self, from, to)
   local packets, took = to.sink.sent - from.sink.sent, to.sink.time - from.sink.time
   local ran, why = worker_of(from.tasks, to.tasks, took)
   if packets == 0 then
      return nil, ("no packet arrived in %.1f s%s"):format(took, why and " and " .. why[1].text or "")
   end
   local sample = {
      value = packets / took / 1e6, unit = "Mpps", ns = ran / packets * 1e9, cpu_time = true,
      cpu = (to.cpu - from.cpu) / took,
      why = why, extras = { command = child.line(self.argv) },
   }
   if from.source then
      sample.loss = math.max(0, 1 - packets / (to.source.received - from.source.received))
   end
   return sample
end

--- Packets a second that arrived at the device that is counted.
---@param seconds number
---@return table? sample  ns: CPU time of the thread that worked most; cpu: CPUs that all its threads had
---@return string? error
function Process:measure(seconds)
   local from, err = look(self)
   local to, due = nil, posix.now() + STALL * 1e9
   while from do
      runner.sleep(seconds)
      to, err = look(self, true)
      -- On a CPU that others use, too, nothing may arrive for a while: that is said, and no failure.
      if not to or to.sink.sent > from.sink.sent or posix.now() > due then break end
   end
   local sample
   if to then sample, err = sample_of(self, from, to) end
   if not sample then
      -- The socket is closed a moment before the process is gone.
      runner.wait(function() return not self.child:running() end, 0.5)
      return nil, ("%s: %s while it was measured; %s"):format(self.name, err, self.child:epitaph())
   end
   self.sample = sample
   return sample
end

--- End the program and remove what DPDK leaves.
function Process:stop()
   if self.telemetry then self.telemetry:close() end
   if self.child then
      self.child:stop(STOP_LIMIT, self.signal)
      if self.after and self.sample then self.after(self.sample, self.child:output()) end
   end
   sweep()
   if type(self.give_back) == "function" then self.give_back() end
   self.telemetry, self.child, self.give_back, self.sample = nil, nil, nil, nil
end

--- Why it cannot run here.
---@return string?
function Process:missing()
   local reason = self.needs and self.needs()
   if reason then return reason end
   if posix.geteuid() ~= 0 then return "needs root for hugepages; try: sudo" end
   local program = self.command(context())[1]
   if not child.has(program) then return program .. " is not installed" end
end

--- A program of DPDK's kind, from outside. It must count what it sends in a device, as every poll mode driver does.
---@param o { name: string, command: string[]|fun(context: tideway.bench.process.context): string[],
---  count: { device: string }, from: string?, note: string?, missing: (fun(): string?)?, warm_up: number?,
---  start_limit: number?, memory_mb: number?, log: string?, signal: integer?,
---  after: fun(sample: table, said: string)? }  command: the program, found by PATH, with its arguments; count: the
---  device whose sent packets count; from: the device that packets come from, for losses; note: settings, for the
---  report; missing: why it cannot run here; warm_up: seconds, default 0.7; start_limit: seconds until it moves
---  packets, default 20; memory_mb: hugepages, default 400; log: file for what it prints; signal: what ends it,
---  default SIGINT; after: completes a sample from what it printed
---@return tideway.bench.process contender
function M.process(o)
   local function wrong(...) error("bench.process: " .. string.format(...), 3) end
   if type(o) ~= "table" or type(o.name) ~= "string" then wrong "a table with a name is needed" end
   if type(o.command) ~= "table" and type(o.command) ~= "function" then
      wrong("%s: command is the program with its arguments, a list of strings or a function that makes it", o.name)
   end
   if type(o.count) ~= "table" or type(o.count.device) ~= "string" then
      wrong("%s: count says whose sent packets count, e.g. { device = \"net_null1\" }", o.name)
   end
   local command = o.command
   return setmetatable({
      name = o.name, apart = true, note = o.note, count = o.count, from = o.from, needs = o.missing, log = o.log,
      start_limit = o.start_limit or START_LIMIT,
      signal = o.signal or process.SIGINT, warm_up = o.warm_up or WARM_UP, memory_mb = o.memory_mb or 400,
      command = type(command) == "function" and command or function() return command end, after = o.after,
      cpu = (child.cpus()),
   }, Process)
end

--- The command line of such a contender, as it is typed.
---@return string
function Process:line() return child.line(self.command(context())) end

return M
