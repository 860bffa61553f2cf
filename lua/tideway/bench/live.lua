-- SPDX-License-Identifier: BSD-3-Clause
-- Forwarding as it is in a running kernel, as a contender: chains on XDP and TC, the kernel's own forwarding, nftables,
-- between two veth pairs. See veth.lua for the path.

local affinity = require "tideway.affinity"
local child = require "tideway.bench.child"
local expand = require "tideway.bench.expand"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"
local runner = require "tideway.bench.runner"
local scheduler = require "tideway.posix.scheduler"
local veth = require "tideway.bench.veth"

local M = {}

local START_LIMIT = 20 -- seconds
local FIRST, CHUNK = 8192, 0.05 -- frames to begin with; seconds that a stretch of sending takes
local LEAST, MOST = 4096, 1000000 -- frames in a stretch
local WARM_UP = 0.1

M.MACS = veth.MACS

---@class tideway.bench.live.context
---@field cpu integer the CPU that everything runs on
---@field other integer another one, for programs that only watch
---@field tideway string this binary

---@class tideway.bench.live
---@field name string
---@field note string?
---@field cpu integer
local Live = {}
Live.__index = Live

local function context()
   local cpu, other = child.cpus()
   return { cpu = cpu, other = other, tideway = posix.readlink "/proc/self/exe" }
end

local function set_up(self)
   for _, line in ipairs(self.setup) do
      local ok, said = child.run { "sh", "-c", line }
      if not ok then error(("%s: %s"):format(line, (said:gsub("%s+$", ""))), 0) end
   end
end

local function start_command(self)
   local words = self.command
   if type(words) == "function" then words = words(self.context) end
   return child.start({ "taskset", "--cpu-list", tostring(self.context.other), unpack(words) }, self.log)
end

-- Until the program says that it is ready.
local function wait_for_command(self)
   local found = runner.wait(function()
      return not self.child:running() or self.child:output():find(self.ready, 1, true)
   end, START_LIMIT)
   if found and self.child:running() then return end
   error(("it did not say %q in %d s: %s"):format(self.ready, START_LIMIT, self.child:epitaph()), 0)
end

local function begin(self)
   self.context = context()
   self.path = assert(veth.new(self.frames))
   self.path.dut:within(set_up, self)
   if self.shut then self.path:shut() end
   if self.command then
      self.child = assert(self.path.dut:within(start_command, self))
      wait_for_command(self)
   end
   self.home = affinity.parse(posix.slurp "/proc/self/status":match "\nCpus_allowed_list:%s*([^\n]+)")
   assert(scheduler.set_cpus(posix.getpid(), { self.context.cpu }), "the control thread cannot work on that CPU")
   self.path:on(self.context.cpu)
   self:send(WARM_UP)
end

--- Make the path and what stands in it, and send for a moment.
---@return boolean? ok
---@return string? error
function Live:start()
   local ok, err = pcall(begin, self)
   if ok then return true end
   self:stop()
   if runner.interrupted() then error(err, 0) end
   return nil, ("%s: %s"):format(self.name, tostring(err))
end

-- Frames for so long, in stretches between which the control thread does its other work.
function Live:send(seconds)
   local sum = { sent = 0, lan = 0, arrived = 0, seconds = 0, cpu = 0 }
   local count = FIRST
   repeat
      local part = self.path:send(count)
      for key, value in pairs(part) do sum[key] = sum[key] + value end
      count = math.floor(math.max(LEAST, math.min(MOST, part.sent / part.seconds * CHUNK)))
      runner.sleep(0)
   until sum.seconds >= seconds
   return sum
end

--- Frames a second that arrived at the far end (with shut: at the device under test).
---@param seconds number
---@return table? sample  ns: CPU time for one, which knows nothing of other processes
---@return string? error
function Live:measure(seconds)
   local ok, sum = pcall(self.send, self, seconds)
   if not ok then
      if runner.interrupted() then error(sum, 0) end
      return nil, ("%s: %s"):format(self.name, tostring(sum))
   end
   if self.child and not self.child:running() then return nil, ("%s: %s"):format(self.name, self.child:epitaph()) end
   local arrived = self.shut and sum.lan or sum.arrived
   if arrived == 0 then
      return nil, ("%s: of %d frames %d came to the device under test and none to the far end"):format(self.name,
         sum.sent, sum.lan)
   end
   local rate = arrived / sum.seconds
   return {
      value = rate / 1e6, unit = "Mpps", ns = sum.cpu / arrived * 1e9, cpu_time = true,
      loss = math.max(0, 1 - arrived / sum.sent), extras = { Mpps = rate / 1e6 },
   }
end

--- Remove everything.
function Live:stop()
   if self.child then self.child:stop(5, process.SIGINT) end
   if self.path then self.path:close() end
   if self.home then scheduler.set_cpus(posix.getpid(), self.home) end
   self.child, self.path, self.home = nil, nil, nil
end

--- Why it cannot run here.
---@return string?
function Live:missing()
   local reason = self.needs and self.needs()
   if reason then return reason end
   if posix.geteuid() ~= 0 then return "needs root for network namespaces; try: sudo" end
   for _, tool in ipairs { "ip", "ethtool", "taskset" } do
      if not child.has(tool) then
         return tool .. " is not installed; try: apt-get install iproute2 ethtool util-linux"
      end
   end
end

local function default_packets()
   return require("tideway.bench.packets").packets { size = 64, flows = 1024,
      eth = { src = M.MACS.near, dst = M.MACS.lan } }
end

--- Frames that go through something in a kernel's network, in namespaces of their own: `near - lan [it] wan - far`.
--- Everything runs on one CPU, the last that this process may use, also making the frames and swallowing them; what
--- that costs is measured by one with `shut = true`, which is the group's `base`.
---@param o { name: string, packets: string[]|table|nil, setup: string[]?,
---  command: (string[]|fun(context: tideway.bench.live.context): string[])?, ready: string?, shut: boolean?,
---  note: string?, missing: (fun(): string?)?, log: string? }  packets: frames of one size, or bench.packets; to
---  bench.live MACs: `lan` is 02:00:00:00:01:01, the far end 02:00:00:00:02:02; setup: shell lines that run inside;
---  command: a program that runs inside meanwhile, e.g. `tideway run`, and `ready`, what it prints when it is ready;
---  shut: drop everything at lan
---@return tideway.bench.live contender
function M.live(o)
   local function wrong(...) error("bench.live: " .. string.format(...), 3) end
   if type(o) ~= "table" or type(o.name) ~= "string" then wrong "a table with a name is needed" end
   local frames, why = expand.frames(o.packets or default_packets(), veth.MOST)
   why = why or veth.wrong_frames(frames)
   if why then wrong("%s: %s", o.name, why) end
   if o.command and not o.ready then wrong("%s: ready is missing: what the program prints when it is ready", o.name) end
   return setmetatable({
      name = o.name, apart = true, note = o.note, frames = frames,
      setup = o.setup or {}, command = o.command, ready = o.ready,
      shut = o.shut, needs = o.missing, log = o.log, cpu = (child.cpus()),
   }, Live)
end

return M
