-- SPDX-License-Identifier: BSD-3-Clause
-- What looking costs: nothing when nobody looks, also afterwards; while somebody does, what is printed. The figures are
-- shown: CPU time of this thread for a packet, the least of interleaved rounds, as a machine with other work has more.
-- Runs alone: it measures.

local ffi = require "ffi"
local edges = require "tideway.live.edge"
local engine = require "tideway.engine"
local loop = require "tideway.loop"
local rigs = require "test.support.rig"
local tw = require "tideway"
local watch = require "tideway.live.watch"
require "tideway.posix"

local ROUNDS, TURNS = 15, 2000

local time = ffi.new "struct tw_posix_timespec"
local function cpu_ns()
   ffi.C.tw_posix_clock_gettime(3, time) -- CLOCK_THREAD_CPUTIME_ID
   return tonumber(time.sec) * 1e9 + tonumber(time.nsec)
end

describe("watching", function()
   local rig

   before_each(function()
      rig = rigs.new { ports = {} }
      local null = tw.port("null", "net_null0,size=64")
      rig:chain("c", null, tw.nf("odd", function()
         return { packet = function(pkt) if pkt:u8(0) == 1 then return pkt:drop "odd" end end }
      end) {}, tw.nf("mark", function() return { packet = function(pkt) pkt.mark = 5 end } end) {}, null)
      rig:start()
      require("tideway.native").finish(120)
   end)
   after_each(function() rig:close() end)

   local function passed() return tonumber(require("tideway.abi").C.tw_stats().lcore[0].chain[0].rx) end

   -- ns for a packet
   local function cost()
      local before, since = passed(), cpu_ns()
      for _ = 1, TURNS do engine.step() end
      return (cpu_ns() - since) / (passed() - before)
   end

   -- ns for a packet while somebody watches; what that says of itself
   local function watched_cost(edge, options)
      local w = watch.open(edges.parse(edge), options)
      local ns = cost()
      w:stop()
      while w:read(function() end) do loop.turn(0) end
      local counts = w:counts()
      w:close()
      return ns, counts
   end

   for _, case in ipairs {
      { "c:in", { filter = "udp port 53" }, "a filter that finds nothing, at the first edge" },
      { "c:out", {}, "everything, at the last edge" },
      { "c:odd", { filter = "udp port 53" }, "a filter that finds nothing, between two NFs" },
   } do
      it("costs nothing before and afterwards; " .. case[3], function()
         local never, off, on, counts = math.huge, math.huge, math.huge, nil
         for _ = 1, 5 do never = math.min(never, cost()) end
         local said = math.huge
         for _ = 1, ROUNDS do
            local ns
            ns, counts = watched_cost(case[1], case[2])
            on = math.min(on, ns)
            said = math.min(said, tonumber(counts.ns) / tonumber(counts.looked))
            off = math.min(off, cost())
         end
         print(("\n   %s: %.1f ns a packet unwatched, %.1f watched, %.1f afterwards; it says: %s"):format(case[3], never, on,
            off, table.concat(watch.cost(counts), "; ")))
         assert.is_true(off < never * 1.25 + 1, ("%.1f ns before, %.1f afterwards"):format(never, off))
         assert.is_true(on > off, ("%.1f ns watched, %.1f not"):format(on, off))
         -- What it says is what it takes, within what a clock that is read for every packet or burst can tell.
         assert.is_true(said > 0 and said < (on - off) * 2 + 20, ("it says %.1f ns and takes %.1f"):format(said, on - off))
      end)
   end
end)
