-- SPDX-License-Identifier: BSD-3-Clause
-- Run by test/malformed_spec.lua in a process of its own, because what it looks for is a SIGSEGV: every method of
-- a packet on every frame of the corpus, between guard pages.
--
--    tideway run test/support/views_child.lua MARKER [N | overrun]
--
-- N: every N-th frame only, in the interpreter. overrun: read a byte too many, to see that this is noticed.
--
-- Method by method and not frame by frame: so each method is compiled, and its machine code runs on all frames.

local ffi = require "ffi"
local exercise = require "test.support.exercise"
local guard = require "test.support.guard"
local malform = require "test.support.malform"
local marker = require "test.support.marker"

local path, step = ...
marker.open(path)
step = tonumber(step)
if step then jit.off() end
if select(2, ...) == "overrun" then
   table.insert(exercise.read, 3, { name = "overrun", run = function(p) return p.data[p.len] end })
end

local base = guard.new(1)
local box = ffi.new "struct tw_pkt[1]"
local p = box[0]
local corpus = malform.all()

-- For calls that take an offset: some frames of each length.
local by_length, some = {}, {}
for _, entry in ipairs(corpus) do
   local n = (by_length[#entry.frame] or 0) + 1
   by_length[#entry.frame] = n
   if n <= 2 then some[#some + 1] = entry end
end

local function put(bytes, at_start)
   p.len, p.verdict, p.out = #bytes, 0, 0xffff
   p.data = guard.place(base, 0, #bytes, at_start)
   ffi.copy(p.data, bytes, #bytes)
end

local function fail(entry, call, message)
   io.stderr:write(("%s\n%s: %s\n%s\n"):format(call.name, entry.name, message, (entry.frame:gsub(".", function(c)
      return ("%02x"):format(c:byte())
   end))))
   os.exit(1)
end

local function put_and(act, call, entry, at_start)
   put(entry.frame, at_start)
   marker.input(entry.frame)
   local ok, err = pcall(act, p, call)
   if not ok then fail(entry, call, err) end
end

local runs = 0

-- The end of a frame is what most often is run over: both places only for what is cheap and reads.
local function each(call, act, reads)
   local list = call.by_offset and some or corpus
   marker.title(call.name)
   for i = 1, #list, step or 1 do
      local entry = list[i]
      put_and(act, call, entry, false)
      if reads then
         put_and(act, call, entry, true)
         if ffi.string(p.data, p.len) ~= entry.frame then fail(entry, call, "it changed the frame") end
      end
      runs = runs + 1
   end
end

local function run(_, call) call.run(p) end

for _, call in ipairs(exercise.read) do each(call, exercise.check, true) end
for _, call in ipairs(exercise.read) do
   if call.gives_view then each(call, exercise.change, false) end
end
for _, call in ipairs(exercise.write) do each(call, run, false) end
print(("%d frames, %d calls"):format(#corpus, runs))
os.exit(0)
