-- SPDX-License-Identifier: BSD-3-Clause
-- The path of live measurements: near end - lan [device under test] wan - far end, two veth pairs between three
-- namespaces. Frames start at the near end as live frames of BPF_PROG_TEST_RUN, and end in an XDP program at the far
-- one.
--
-- Everything runs one after the other on the CPU of the calling thread, and in its time: making a frame, the veths, the
-- device under test, the far end. So nothing is lost for want of time, and what the path itself costs can be
-- subtracted. On a CPU that others use as well the kernel leaves some of it to its own thread ksoftirqd there, whose
-- time is added.

local ffi = require "ffi"
local lfs = require "lfs"
local abi = require "tideway.abi"
local asm = require "tideway.bpf.asm"
local child = require "tideway.bench.child"
local clock = require "tideway.posix.clock"
local link = require "tideway.bpf.link"
local map = require "tideway.bpf.map"
local namespace = require "tideway.posix.namespace"
local posix = require "tideway.posix"
local program = require "tideway.bpf.program"

local C = abi.C
local M = {}

local DROP, TX, ABORTED = 1, 3, 0
local LOOKUP, KTIME = 1, 5
local LIVE_FRAMES = 2 -- BPF_F_TEST_XDP_LIVE_FRAMES of Linux 5.18
local LEAST, LONGEST = 60, 3000 -- bytes of a frame
local CHANGED = 64 -- bytes at the start of a frame, at most, that are its own; the rest is that of the first frame
local MARK = 64 -- the time is read every so many frames

M.MOST = 4096 -- frames that are each their own

M.MACS = { near = "02:00:00:00:01:02", lan = "02:00:00:00:01:01", wan = "02:00:00:00:02:01", far = "02:00:00:00:02:02" }

-- ---- programs ----

local function finish(a, code)
   a:mov("r0", code)
   a:exit()
end

local function dropping()
   local a = asm.new "far"
   finish(a, DROP)
   return assert(program.load(a:spec { name = "far", type = "xdp" }))
end

local function look_up(a, m)
   a:map("r1", m)
   a:mov("r2", "r10")
   a:add("r2", -4)
   a:call(LOOKUP)
   a:jump("eq", "r0", 0, "out")
end

-- Turns the page it gets into the next frame: pages come back as the path left them.
local function making(frames, state, count, changed)
   local a = asm.new "near"
   a:mov("r6", "r1")
   a:store(32, "r10", -4, 0)
   look_up(a, state) -- packets, time of the first, time of the last mark
   a:mov("r8", "r0")
   a:load(64, "r7", "r8", 0)
   a:mov("r1", "r7")
   a:add("r1", 1)
   a:store(64, "r8", 0, "r1")
   a:mov("r1", "r7")
   a["and"](a, "r1", MARK - 1)
   a:jump("ne", "r1", 0, "frame")
   a:call(KTIME)
   a:store(64, "r8", 16, "r0")
   a:jump("ne", "r7", 0, "frame")
   a:store(64, "r8", 8, "r0")
   a:label "frame"
   a["and"](a, "r7", count - 1)
   a:store(32, "r10", -4, "r7")
   look_up(a, frames)
   a:load(32, "r2", "r6", 0)
   a:load(32, "r3", "r6", 4)
   a:mov("r4", "r2")
   a:add("r4", changed)
   a:jump("gt", "r4", "r3", "out")
   for at = 0, changed - 8, 8 do
      a:load(64, "r5", "r0", at)
      a:store(64, "r2", at, "r5")
   end
   finish(a, TX)
   a:label "out"
   finish(a, ABORTED)
   return assert(program.load(a:spec { name = "near", type = "xdp" }))
end

local function words_of(frame)
   frame = frame .. ("\0"):rep(CHANGED)
   local words, bytes = {}, ffi.cast("const uint64_t *", frame)
   for i = 0, CHANGED / 8 - 1 do words[i + 1] = bytes[i] end
   return unpack(words)
end

-- As many as a power of two, so that the next one is found by a mask.
local function map_of(frames)
   local count = 1
   while count * 2 <= math.min(#frames, M.MOST) do count = count * 2 end
   local m = assert(map.new { kind = "array", name = "frames", entries = count,
      value = "u64 a; u64 b; u64 c; u64 d; u64 e; u64 f; u64 g; u64 h" })
   for i = 0, count - 1 do m:set(i, words_of(frames[i + 1])) end
   return m, count
end

--- Why frames cannot be sent; nil when they can.
---@param frames string[]
---@return string?
function M.wrong_frames(frames)
   if #frames == 0 then return "there are no frames" end
   for i, frame in ipairs(frames) do
      if #frame ~= #frames[1] then
         return ("frame %d has %d bytes and the first has %d: all need the same size"):format(i, #frame, #frames[1])
      elseif #frame < LEAST or #frame > LONGEST then
         return ("frame %d has %d bytes; the path takes %d to %d"):format(i, #frame, LEAST, LONGEST)
      end
   end
end

-- ---- namespaces ----

---@class tideway.bench.veth
---@field near tideway.posix.namespace
---@field dut tideway.posix.namespace
---@field far tideway.posix.namespace
local Path = {}
Path.__index = Path

local function put(path, text)
   local file = io.open(path, "w")
   if not file then return end
   file:write(text, "\n")
   file:close()
end

local function must(...)
   local ok, said = child.run { ... }
   if not ok then error(("%s: %s"):format(child.line { ... }, (said:gsub("%s+$", ""))), 0) end
end

-- One end of a veth pair is up, receives by NAPI, and says nothing by itself.
local function ready(device)
   must("ip", "link", "set", "lo", "up")
   must("ip", "link", "set", device, "up")
   must("ethtool", "-K", device, "gro", "on")
end

local function make_pairs(self)
   for _, name in ipairs { "near", "dut", "far" } do
      self[name] = assert(namespace.new())
      -- Nobody sends a packet that was not asked for.
      self[name]:within(put, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
   end
   self.dut:within(function()
      for _, pair in ipairs { { "lan", "near" }, { "wan", "far" } } do
         local device, peer = unpack(pair)
         must("ip", "link", "add", device, "address", M.MACS[device], "type", "veth", "peer", "name", peer, "address",
            M.MACS[peer], "netns", self[peer].path)
      end
   end)
   self.near:within(ready, "near")
   self.far:within(ready, "far")
   self.dut:within(function()
      ready "lan"
      ready "wan"
   end)
end

local function counter(device)
   local text = posix.slurp "/proc/thread-self/net/dev" or ""
   local packets = text:match("\n%s*" .. device .. ":%s*%d+%s+(%d+)")
   return assert(tonumber(packets), "there is no device " .. device)
end

-- All frames that come to a device end there.
local function swallow(device)
   local p = dropping()
   local l, err = link.attach { hook = "xdp", program = p, interface = device, mode = "native" }
   p:close() -- the link has it
   return assert(l, err)
end

local function build(self, frames)
   make_pairs(self)
   self.far_link = self.far:within(swallow, "far")
   local count
   self.frames, count = map_of(frames)
   self.state = assert(map.new { kind = "array", name = "state", entries = 1, mmapable = true,
      value = "u64 packets; u64 first; u64 last" })
   self.source = making(self.frames, self.state, count, math.min(CHANGED, #frames[1] - #frames[1] % 8))
   self.frame, self.ifindex = frames[1], self.near:within(namespace.index, "near")
end

--- Make the path.
---@param frames string[] that are sent in turn; their first 64 bytes are each one's own
---@return tideway.bench.veth? path
---@return string? error
function M.new(frames)
   local self = setmetatable({ overhead = 0 }, Path)
   local ok, err = pcall(build, self, frames)
   if ok then return self end
   self:close()
   return nil, tostring(err)
end

local context = ffi.typeof [[struct { uint32_t data, data_end, data_meta, ingress_ifindex, rx_queue_index,
   egress_ifindex; }]]

-- Live frames out of the near end, as if its driver had been told to send them back.
local function test_run(self, count)
   local run, where = ffi.new "struct tw_bpf_run", context()
   where.data_end, where.ingress_ifindex = #self.frame, self.ifindex
   run.data_in, run.data_in_size = ffi.cast("const char *", self.frame), #self.frame
   run.ctx_in, run.ctx_in_size = where, ffi.sizeof(where)
   run.repeat_count, run.flags = count, LIVE_FRAMES
   if C.tw_bpf_program_run(self.source.fd, run) < 0 then error(abi.error(), 0) end
end

local function softirq_thread(cpu)
   local name = ("ksoftirqd/%d\n"):format(cpu)
   for pid in lfs.dir "/proc" do
      if tonumber(pid) and posix.slurp(("/proc/%s/comm"):format(pid)) == name then return pid end
   end
end

-- Seconds of CPU time of this thread and ksoftirqd.
local function cpu_time(self)
   local other = (posix.slurp(("/proc/%s/schedstat"):format(self.softirq or 0)) or ""):match "^%d+"
   return (clock.thread(posix.getpid()) + (tonumber(other) or 0)) / 1e9
end

--- Work on a CPU from now on, that of the calling thread; finds out what a test run costs by itself.
---@param cpu integer
function Path:on(cpu)
   self.softirq, self.overhead = softirq_thread(cpu), 0
   local least = math.huge
   for _ = 1, 3 do least = math.min(least, self:send(MARK + 1).cpu) end
   self.overhead = least
end

--- Send so many frames. The calling thread does nothing else meanwhile: some 50 to 1000 ns for each.
---@param count integer
---@return { sent: number, lan: number, arrived: number, seconds: number, cpu: number } seconds: of sending, without the
---  kernel's preparations for it, which take some 20 ms; cpu: CPU time, without those
function Path:send(count)
   local cpu = cpu_time(self)
   self.state:set(0, 0, 0, 0)
   local lan, far = self.dut:within(counter, "lan"), self.far:within(counter, "far")
   self.near:within(test_run, self, count)
   posix.poll({}, 1) -- what the kernel has left to another thread of this CPU
   cpu = math.max(0, cpu_time(self) - cpu - self.overhead)
   local state = self.state:get(0)
   local packets = tonumber(state.packets)
   local marked = packets - 1 - (packets - 1) % MARK -- packets between the first and the last mark
   return {
      sent = packets, lan = self.dut:within(counter, "lan") - lan, arrived = self.far:within(counter, "far") - far,
      seconds = tonumber(state.last - state.first) / 1e9 * packets / marked, cpu = cpu,
   }
end

--- Drop all that comes to the device under test: what is left is the path's own cost.
function Path:shut() self.lan_link = self.dut:within(swallow, "lan") end

--- Remove everything.
function Path:close()
   for _, name in ipairs { "lan_link", "far_link" } do
      if self[name] then self[name]:detach() end
   end
   for _, name in ipairs { "source", "frames", "state" } do
      local object = self[name]
      if object then (object.close or object.free)(object) end
   end
   for _, name in ipairs { "near", "dut", "far" } do
      if self[name] then self[name]:close() end
      self[name] = nil
   end
end

return M
