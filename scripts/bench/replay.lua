-- SPDX-License-Identifier: BSD-3-Clause
-- Runs XDP programs many times on the same frame, although they change it.
--
-- BPF_PROG_TEST_RUN repeats a program on the frame that the last run left. So what repeats is a small program that
-- brings the frame back to what it was, length and bytes, and tail calls the program that is measured. What that
-- costs is measured with a program that does nothing, and subtracted.

local ffi = require "ffi"
local abi = require "tideway.abi"
local asm = require "test.support.asm"
local map = require "tideway.bpf.map"
local program = require "tideway.bpf.program"

local M = {}

local C = abi.C
local CPU_TIME = 3 -- CLOCK_THREAD_CPUTIME_ID
local PASS = 2
local TAIL_CALL, KTIME, ADJUST_HEAD, ADJUST_TAIL = 12, 5, 44, 65
local MOST = 256 -- bytes at the start of the frame that are brought back

ffi.cdef [[
struct tw_bench_time { long seconds, nanoseconds; };
int tw_bench_clock(int clock, struct tw_bench_time *time) __asm__("clock_gettime");
]]

local time = ffi.new "struct tw_bench_time"

-- Seconds that this thread has run: the kernel's waiting around a test run is not in it, nor are other programs.
local function cpu_time()
   ffi.C.tw_bench_clock(CPU_TIME, time)
   return tonumber(time.seconds) + tonumber(time.nanoseconds) * 1e-9
end

-- Signed 32-bit number of four bytes.
local function word(text, at)
   local a, b, c, d = text:byte(at, at + 3)
   return bit.bor(a, bit.lshift(b, 8), bit.lshift(c, 16), bit.lshift(d, 24))
end

-- Stores of the bytes from..to - 1, as few as there can be.
local function write(a, frame, to)
   local at = 0
   while at + 4 <= to do
      a:store(32, "r2", at, word(frame, at + 1))
      at = at + 4
   end
   while at < to do
      a:store(8, "r2", at, frame:byte(at + 1))
      at = at + 1
   end
end

local function ends(a)
   a:load(32, "r2", "r6", 0)
   a:load(32, "r3", "r6", 4)
end

-- Moves the end or the start of the frame to where they were.
local function resize(a, frame, which)
   ends(a)
   if which == "tail" then
      a:sub("r3", "r2")
      a:mov("r2", #frame)
      a:sub("r2", "r3")
   else
      a:sub("r3", "r2")
      a:mov("r2", "r3")
      a:sub("r2", #frame)
   end
   a:mov("r1", "r6")
   a:call(which == "tail" and ADJUST_TAIL or ADJUST_HEAD)
end

local function assemble(frame, what, slots)
   local a = asm.new "replay"
   a:mov("r6", "r1")
   if what.resizes then resize(a, frame, what.resizes) end
   if what.changes then
      local size = math.min(#frame, MOST)
      ends(a)
      a:mov("r4", "r2")
      a:add("r4", size)
      a:jump("gt", "r4", "r3", "out")
      write(a, frame, size)
      -- The stores are done before the program reads the bytes in other widths.
      a:call(KTIME)
   end
   a:mov("r1", "r6")
   a:map("r2", slots)
   a:mov("r3", 0)
   a:call(TAIL_CALL)
   a:label "out"
   a:mov("r0", 0)
   a:exit()
   return assert(program.load(a:spec { name = "replay", type = "xdp" }))
end

local function nothing()
   local a = asm.new "nothing"
   a:mov("r0", PASS)
   a:exit()
   return assert(program.load(a:spec { name = "nothing", type = "xdp" }))
end

---@class bench.Replay
---@field frame string
local Replay = {}
Replay.__index = Replay

--- For one frame.
---@param frame string
---@param what { changes: boolean?, resizes: "head"|"tail"|nil }  what the programs do with it
---@return bench.Replay
function M.new(frame, what)
   local slots = assert(map.new { kind = "prog_array", name = "slots", entries = 1 })
   M.nothing = M.nothing or nothing()
   return setmetatable({ frame = frame, slots = slots, program = assemble(frame, what, slots) }, Replay)
end

--- Runs a program so many times; returns verdict, frame after the last run, and ns of CPU time for one run.
---@param fd integer
---@param times integer
---@return integer code
---@return string bytes
---@return number ns
function Replay:run(fd, times)
   self.slots:set(0, fd)
   local from = cpu_time()
   local code, bytes = self.program:test(self.frame, { repeat_count = times })
   local ns = (cpu_time() - from) / times * 1e9
   return assert(code, bytes), bytes, ns
end

--- The same with a program that does nothing.
---@return number ns
function Replay:empty(times)
   local _, _, ns = self:run(M.nothing.fd, times)
   return ns
end

function Replay:close()
   self.program:close()
   C.tw_bpf_close(self.slots.fd)
end

return M
