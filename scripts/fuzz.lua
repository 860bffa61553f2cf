-- SPDX-License-Identifier: BSD-3-Clause
-- The fuzzer's command line, run by scripts/fuzz inside the engine's binary; the fuzzer is test/support/fuzz.lua.

local ffi = require "ffi"

ffi.cdef [[unsigned tw_fuzz_alarm(unsigned) __asm__("alarm");]]

local frame = require "test.support.frame"
local marker = require "test.support.marker"

local FAILED = 3 -- exit code; other ones are crashes
local TOO_LONG = 30 -- seconds for 256 rounds, many times what they take in a sanitizer's build

local options = {}
do
   local words = { ... }
   local takes = { seconds = tonumber, seed = tonumber, iterations = tonumber, nf = tostring, port = tostring,
      replay = tostring, marker = tostring, crashed = tostring }
   for i = 1, #words, 2 do
      local key = words[i]:match "^%-%-(%a+)$"
      local value = takes[key] and words[i + 1] and takes[key](words[i + 1])
      if not value then error(("scripts/fuzz: %s: see the head of scripts/fuzz"):format(words[i]), 0) end
      options[key] = value
   end
end

local function bytes_of(hex)
   return (hex:gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local function failed(failure)
   local fuzz = require "test.support.fuzz"
   print(("FAILED in %s:\n   %s"):format(failure.nf, failure.fault))
   if failure.nf ~= "(all)" then
      print(("   input   %s\n   replay  %s"):format(frame.hex(failure.input), fuzz.command(failure)))
   end
   return FAILED
end

local function crashed(path)
   local title, input = marker.read(path)
   if not title then return FAILED end
   local seed = title:match "^compiler (%d+)"
   if seed then
      print(("FAILED in the compiler: the process ended in one of 16 programs\n"
         .. "   replay  scripts/fuzz --nf compiler --seed %s --iterations 16"):format(seed))
      return FAILED
   end
   local nf, port = title:match "^(%S+) (%l+)"
   return failed { nf = nf or title, port = port, input = input, fault = "the process ended at " .. title }
end

-- Random NFs on all back-ends of the compiler.
local function compile()
   local compiler_fuzz = require "test.support.compiler_fuzz"
   local counts, failure = compiler_fuzz.run {
      seed = options.seed, seconds = options.seconds or 60, iterations = options.iterations,
      before = function(seed)
         ffi.C.tw_fuzz_alarm(TOO_LONG * 4)
         marker.title("compiler " .. seed)
      end,
   }
   local runs, refused = {}, {}
   for _, name in ipairs { "luajit", "c", "tc", "xdp" } do
      runs[#runs + 1] = ("%d on %s"):format(counts.runs[name] or 0, name)
   end
   for name, n in pairs(counts.refused) do refused[#refused + 1] = ("%d on %s"):format(n, name) end
   table.sort(refused)
   print(("fuzz compiler: seed %d, %d programs, ran %s, refused %s"):format(options.seed, counts.programs,
      table.concat(runs, ", "), #refused > 0 and table.concat(refused, ", ") or "none"))
   if not failure then return 0 end
   ffi.C.tw_fuzz_alarm(0)
   print("FAILED: " .. compiler_fuzz.report(failure))
   return FAILED
end

local function run()
   if options.marker then marker.open(options.marker) end
   if options.nf == "compiler" then return compile() end
   local fuzz = require "test.support.fuzz"
   if options.replay then
      local input = bytes_of(options.replay)
      local fault = fuzz.replay(options.nf, options.port, input)
      if fault then return failed { nf = options.nf, port = options.port, input = input, fault = fault } end
      print "nothing is wrong with this input"
      return 0
   end
   local seed = options.seed
   local iterations, failure = fuzz.run {
      seed = seed, seconds = options.seconds or 60, iterations = options.iterations, nf = options.nf,
      alive = function() ffi.C.tw_fuzz_alarm(TOO_LONG) end,
   }
   print(("fuzz: seed %d, %d iterations"):format(seed, iterations))
   return failure and failed(failure) or 0
end

local code = options.crashed and crashed(options.crashed) or run()
io.stdout:flush()
os.exit(code)
