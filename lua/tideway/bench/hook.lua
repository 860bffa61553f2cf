-- SPDX-License-Identifier: BSD-3-Clause
-- XDP programs as contenders: run on frames by BPF_PROG_TEST_RUN, in CPU time, without the cost of the test run.

local bpf_object = require "tideway.bpf.object"
local clock = require "tideway.posix.clock"
local compiler = require "tideway.compiler"
local expand = require "tideway.bench.expand"
local load = require "tideway.bpf.load"
local posix = require "tideway.posix"
local program = require "tideway.bpf.program"
local replays = require "tideway.bench.replay"
local runner = require "tideway.bench.runner"

local M = {}

-- For each test run of an XDP program the kernel waits some 20 ms until all CPUs have seen a change: few, long ones.
local REPEATS = 200000
local MOST_FRAMES = 16 -- of traffic: each takes its time
local LEAST_NS = 0.1 -- what is left when the empty program took longer

-- Frames come from port 0 and go back to it with XDP_TX.
local PLACE = { counted = false, port = 0, ports = { [0] = 1 } }

---@class tideway.bench.hook
---@field name string
---@field note string?
---@field program tideway.bpf.Program? from the first measurement on
local Hook = {}
Hook.__index = Hook

-- ---- the program ----

local function of_nfs(self)
   local compiled, err = compiler.for_hook(self.name, self.nfs, "xdp", PLACE)
   local loaded
   if compiled then loaded, err = load.load(compiled) end
   if not loaded then return nil, tostring(err) end
   self.instructions = compiled.object.count
   return loaded
end

local function of_object(self)
   local object, err = bpf_object.open(self.object)
   if not object then return nil, err end
   local ok
   ok, err = object:load()
   if not ok then return nil, tostring(err) end
   self.kept = object -- its programs end with it
   local name, found = self.program_name, nil
   for each, p in pairs(object.programs) do
      if name and each == name or not name then
         if found then return nil, ("%s has several programs; say which with program ="):format(self.object) end
         found = p
      end
   end
   if not found then return nil, ("%s has no program %s"):format(self.object, name or "") end
   return found
end

local function load_program(self)
   local loaded, err
   if self.nfs then
      loaded, err = of_nfs(self)
   elseif self.object then
      loaded, err = of_object(self)
   else
      loaded, err = self.make()
   end
   if not loaded then return nil, err end
   if loaded.type ~= "xdp" then return nil, ("it is a %s program, not an XDP program"):format(loaded.type) end
   self.program = loaded
   return true
end

local function prepare(self)
   local info = assert(program.info(self.program.fd))
   self.extras = { instructions = self.instructions or info.xlated, verified = info.verified, x86_bytes = info.jited }
   local list = {}
   for i, frame in ipairs(self.frames) do
      local replay, err = replays.fitting(self.program.fd, frame, function(data)
         local code, out = self.program:test(data)
         return assert(code, out), out
      end)
      if not replay then return nil, ("%s: frame %d: %s"):format(self.name, i, err) end
      list[i] = replay
   end
   self.replays = list
   return true
end

--- Load the program, once.
---@return boolean? ok
---@return string? error
function Hook:start()
   if self.replays then return true end
   local ok, err = load_program(self)
   if not ok then return nil, ("%s: %s"):format(self.name, err) end
   return prepare(self)
end

-- ---- measuring ----

-- Mean over the frames, each with as many repetitions of the program as of an empty one beside it.
local function turn(self, repeats)
   local sum = 0
   for _, replay in ipairs(self.replays) do
      local empty = replay:empty(repeats)
      local _, _, ns = replay:run(repeats)
      sum = sum + math.max(ns - empty, LEAST_NS)
      runner.sleep(0)
   end
   return sum / #self.replays
end

--- ns a packet, the mean over the frames.
---@param seconds number CPU time, about
---@return table sample
function Hook:measure(seconds)
   local used, sum, turns = 0, 0, 0
   local thread = posix.getpid()
   repeat
      local from = clock.thread(thread)
      sum, turns = sum + turn(self, self.repeats), turns + 1
      used = used + clock.thread(thread) - from
   until used >= seconds * 1e9
   local ns = sum / turns
   return { value = ns, unit = "ns", ns = ns, cpu_time = true, extras = self.extras }
end

--- Keep the program: loading it again would not change what is measured.
function Hook.stop() end

--- Why it cannot be measured here.
---@return string?
function Hook:missing()
   local reason = self.needs and self.needs()
   if reason then return reason end
   if posix.geteuid() ~= 0 then return "needs root to load programs; try: sudo" end
   if self.object and not posix.slurp(self.object) then return ("there is no object %s"):format(self.object) end
end

--- An XDP program, NFs of ours or another compiler's, on frames in the kernel's test run. Programs see each frame as it
--- is given, also when they change or resize it; what they keep in tables stays from run to run. The time is CPU time,
--- without that of the test run itself, which is measured beside it with a program that does nothing.
---@param o { name: string, nf: tideway.nf.instance?, nfs: tideway.nf.instance[]?, object: string?, program: any,
---  packets: string|string[]|table, repeats: integer?, note: string?, missing: (fun(): string?)? }  one of: nf, nfs:
---  compiled as a chain; object: an ELF file of clang, program: the name of one in it; program: a function that gives a
---  loaded program. packets: frames, or bench.packets (the first 16); repeats: runs in a row, default 200,000
---@return tideway.bench.hook contender
function M.hook(o)
   local function wrong(...) error("bench.hook: " .. string.format(...), 3) end
   if type(o) ~= "table" or type(o.name) ~= "string" then wrong "a table with a name is needed" end
   local nfs, make = o.nfs or o.nf and { o.nf }, type(o.program) == "function" and o.program or nil
   if (nfs and 1 or 0) + (o.object and 1 or 0) + (make and 1 or 0) ~= 1 then
      wrong("%s: one of nf, nfs, object, and program = a function is needed", o.name)
   end
   local frames, why = expand.frames(o.packets or {}, MOST_FRAMES)
   if not frames then wrong("%s: %s", o.name, why) end
   if #frames == 0 then wrong("%s: packets are frames, at least one", o.name) end
   for i, frame in ipairs(frames) do
      if type(frame) ~= "string" or #frame < 14 then wrong("%s: frame %d is no string of 14 bytes", o.name, i) end
   end
   return setmetatable({
      name = o.name, apart = true, note = o.note, nfs = nfs, object = o.object, make = make, frames = frames,
      program_name = type(o.program) == "string" and o.program or nil, repeats = o.repeats or REPEATS,
      needs = o.missing,
   }, Hook)
end

return M
