-- SPDX-License-Identifier: BSD-3-Clause
-- Runs XDP programs many times on the same frame, although they change it.
--
-- BPF_PROG_TEST_RUN repeats a program on the frame that the last run left. So what repeats is a small program that
-- brings the frame back to what it was, length and bytes, and tail calls the program that is measured. What that
-- costs is measured with a program that does nothing, and subtracted.

local bit = require "bit"
local abi = require "tideway.abi"
local asm = require "tideway.bpf.asm"
local clock = require "tideway.posix.clock"
local map = require "tideway.bpf.map"
local posix = require "tideway.posix"
local program = require "tideway.bpf.program"

local M = {}

local PASS = 2
local TAIL_CALL, KTIME, ADJUST_HEAD, ADJUST_TAIL = 12, 5, 44, 65
local thread = posix.getpid() -- the control thread's
-- More than there are bytes in a page: one that moves the wrong end of the frame has no room left by then.
local TRIES = 5000
local MOST = 256 -- bytes at the start of the frame that are brought back

-- Signed 32-bit number of four bytes.
local function word(text, at)
   local a, b, c, d = text:byte(at, at + 3)
   return bit.bor(a, bit.lshift(b, 8), bit.lshift(c, 16), bit.lshift(d, 24))
end

-- Stores of the bytes up to `to`, as few as there can be.
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

-- What repeats, around the program that stands in the slot.
local function assemble(frame, what, slot)
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
   a:map("r2", slot)
   a:mov("r3", 0)
   a:call(TAIL_CALL)
   a:label "out"
   a:mov("r0", 0)
   a:exit()
   return assert(program.load(a:spec { name = "replay", type = "xdp" }))
end

local function around(fd, frame, what)
   local slot = assert(map.new { kind = "prog_array", name = "slot", entries = 1 })
   slot:set(0, fd)
   return { slot = slot, program = assemble(frame, what, slot) }
end

local function nothing()
   local a = asm.new "nothing"
   a:mov("r0", PASS)
   a:exit()
   return assert(program.load(a:spec { name = "nothing", type = "xdp" }))
end

---@class tideway.bench.replay
---@field frame string
local Replay = {}
Replay.__index = Replay

--- For one program and one frame.
---@param fd integer
---@param frame string
---@param what { changes: boolean?, resizes: "head"|"tail"|nil }  what the program does with it
---@return tideway.bench.replay
function M.new(fd, frame, what)
   M.nothing = M.nothing or nothing()
   return setmetatable({
      frame = frame, full = around(fd, frame, what), bare = around(M.nothing.fd, frame, what),
   }, Replay)
end

local function run(self, which, times)
   local from = clock.thread(thread)
   local code, bytes = which.program:test(self.frame, { repeat_count = times })
   local ns = (clock.thread(thread) - from) / times
   return assert(code, bytes), bytes, ns
end

--- Run the program so many times.
---@param times integer
---@return integer code
---@return string bytes the frame after the last run
---@return number ns CPU time of one run: what the kernel waits for around it is not in it, nor are other programs
function Replay:run(times) return run(self, self.full, times) end

--- The same with a program that does nothing.
---@param times integer
---@return number ns
function Replay:empty(times)
   local _, _, ns = run(self, self.bare, times)
   return ns
end

function Replay:close()
   for _, which in ipairs { self.full, self.bare } do
      which.program:close()
      abi.C.tw_bpf_close(which.slot.fd)
   end
end

--- What a program does with a frame, found by trying.
---@param fd integer
---@param frame string
---@param once fun(frame: string): integer, string  one run from the outside
---@return tideway.bench.replay? replay nil: its runs differ from each other
---@return string? error
function M.fitting(fd, frame, once)
   once(frame) -- the first packet may add an entry to a table
   local code, out = once(frame)
   local ways = #out ~= #frame and { "head", "tail" } or { false }
   for _, way in ipairs(ways) do
      local replay = M.new(fd, frame, { changes = out ~= frame, resizes = way or nil })
      local again, bytes = replay:run(TRIES)
      if again == code and bytes == out then return replay end
      -- Another verdict, as of one that lets through no more than so many.
      if not way and again ~= code and (bytes == out or bytes == frame) then return replay end
      replay:close()
   end
   return nil, ("it does not do the same with the same %d bytes each time, so repeated runs say nothing"):format(#frame)
end

return M
