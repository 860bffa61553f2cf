-- SPDX-License-Identifier: BSD-3-Clause
-- Bursts, soaks, RFC 2544 and RFC 8219 runs on models with a known answer; searches as experiments of a script.

local bench = require "tideway.bench"
local burst = require "tideway.bench.search.burst"
local models = require "test.support.bench_models"
local report = require "tideway.bench.report.document"
local rfc2544 = require "tideway.bench.search.rfc2544"
local rfc8219 = require "tideway.bench.search.rfc8219"
local runner = require "tideway.bench.runner"
local soak = require "tideway.bench.search.soak"

local near = models.near

describe("bursts", function()
   -- Of a burst of n packets n / 5 wait: 1000 fit, so 5000 is the longest one, and 5001 lose nothing whole.
   local send = models.buffer { most = 8e6, source = 1e7, buffer = 1000 }

   it("are sent in growing sizes until they lose", function()
      local found = burst.response(send, { low = 1, high = 65536, times = 3 })
      assert.equal(4096, found.longest)
      assert.equal(8192, found.shortest.size)
      assert.equal(3, found.shortest.lossy)
      assert.equal(3 * 638, found.shortest.lost)
      assert.equal(16, #found.rows) -- up to three sizes with loss
      assert.equal(48, #found.trials)
      assert.equal("bursts of 8192 packets lose 7.79 %; the longest that never lost a packet: 4096 packets", found.why)
      found = burst.response(send, { sizes = { 10, 100 } })
      assert.equal("no burst of up to 100 packets lost a packet", found.why)
   end)

   it("have a longest one that passes whole", function()
      local found = burst.longest(models.buffer { most = 7.5e6, source = 1e7, buffer = 1000 }, { times = 3, precision = 1e-9 })
      assert.same({ 4003, 4003, 4003 }, found.values) -- of which 1000.75 wait
      assert.equal(0, found.deviation)
      found = burst.longest(send, { times = 5 })
      near(5000, found.average, 0.01)
      assert.is_false(found.capped)
      assert(#found.trials < 100)
      found = burst.longest(models.buffer { most = 1, source = 2, buffer = 1e9 }, { high = 1e5, times = 5 })
      assert.is_true(found.capped)
      assert.equal(1e5, found.average)
      found = burst.longest(models.buffer { most = 0, source = 1e6, buffer = 0 }, { times = 2 })
      assert.equal(0, found.average)
   end)

   it("count as passing up to the first size that loses", function()
      local found = burst.response(function(n) return { sent = n, lost = n == 4 and 1 or 0, received = n, seconds = 1 } end,
         { high = 16, times = 1 })
      assert.same({ 2, 4, 5 }, { found.longest, found.shortest.size, #found.rows })
   end)

   it("say what went wrong", function()
      local found = burst.response(function(n)
         if n > 4 then return nil, "the peer is gone" end
         return send(n)
      end)
      assert.equal("a burst of 8 packets failed: the peer is gone; so far: no burst of up to 4 packets lost a packet", found.why)
      found = burst.response(function() return send(7) end)
      assert.matches("a burst of 1 packets was asked for and 7 were sent", found.why)
      assert.has_error.matches(function() burst.response(send, { low = 0 }) end, "low is 0; it must be a number from 1 to 65536")
   end)
end)

describe("soak", function()
   local function run(behave, options)
      local open, clock = models.flow(1e6, behave)
      options.rate, options.now, options.sleep = 1e6, clock.now, clock.sleep
      local found = soak.run(open, options)
      assert.is_true(clock.stopped)
      return found
   end

   it("runs to its end and adds up", function()
      local found = run(function() end, { seconds = 100, interval = 10 })
      assert.is_true(found.met)
      assert.equal(10, #found.intervals)
      assert.equal(1e7, found.intervals[3].sent)
      assert.equal("100000000 packets in 100 s, none lost", found.why)
      assert.equal(5, #run(function() end, { seconds = 0.5 }).intervals)
      assert.equal(60, #run(function() end, { seconds = 7200 }).intervals)
   end)

   it("stops at the first interval with loss, or goes on and counts them", function()
      local function lose(t, c) c.lost = math.max(0, math.floor((t - 42) * 10)) end
      local found = run(lose, { seconds = 100, interval = 10 })
      assert.is_false(found.met)
      assert.equal(5, #found.intervals)
      assert.equal("lost 80 of 10000000 packets (0.0008 %) after 50 s", found.why)
      found = run(lose, { seconds = 100, interval = 10, stop = false })
      assert.equal(6, found.violations)
      assert.matches("after 50 s, the first of 6 of 10 intervals", found.why)
      assert.is_true(run(lose, { seconds = 100, interval = 10, loss = 0.001 }).met)
   end)

   it("sees latency, silence and memory that grows", function()
      local found = run(function(t, c) c.latency = models.times(1, t > 25 and 5000 or 1000) end, { seconds = 100, interval = 10, latency = 2000 })
      assert.matches("^latency of 499%d ns at 99.9 %%, above 2000 after 30 s$", found.why)
      found = run(function(t, c) c.received = t > 25 and 25e6 or c.received end, { seconds = 100, interval = 10 })
      assert.equal("nothing arrived after 40 s", found.why)
      local mb = 99
      found = run(function() end, { seconds = 100, interval = 10, memory = 3.5, used = function() mb = mb + 1 return mb end })
      assert.equal("memory grew by 4.0 MB, more than 3.5 after 50 s", found.why)
      assert.equal(4, found.growth)
      near(4 / 40 * 3600, found.growth_per_hour, 1e-6)
   end)

   it("keeps what there is when something breaks", function()
      local found = run(function(t, c) c.gone = t > 35 and "the peer is gone" or nil end, { seconds = 100, interval = 10 })
      assert.is_false(found.met)
      assert.equal(3, #found.intervals)
      assert.matches("^after 40 s: the peer is gone", found.why)
   end)

   it("puts many intervals together, with the worst of each", function()
      local list = {}
      for i = 1, 600 do list[i] = { at = i, sent = 10, lost = i == 77 and 3 or 0, latency = i, wrong = i == 77 and "lost 3" or nil } end
      local short = soak.condense(list)
      assert.equal(60, #short)
      assert.same({ at = 80, sent = 100, lost = 3, latency = 80, wrong = "lost 3" }, short[8])
   end)
end)

-- A path of each frame size: 8 Gbit/s of layer 1 through, in front of it a buffer of 1000 packets.
local function tester(size)
   local most = rfc2544.line_rate(8e9, size)
   local source = rfc2544.line_rate(1e10, size)
   local trial = models.limiter { most = most, source = source }
   return {
      trial = function(rate, seconds)
         local result = trial(rate, seconds)
         result.latency = models.times(1000, 1999)
         result.ipdv = { pairs = 10, mean = 7, max = 70 }
         return result
      end,
      send = models.buffer { most = most, source = source, buffer = 1000 },
   }
end

describe("experiments", function()
   after_each(runner.reset)

   -- All that were declared; each entry must be one that reports can show.
   local function run(context)
      local entries = {}
      for _, e in ipairs(runner.list()) do
         local entry = e.run(context or models.context())
         entry.kind, entry.name = entry.kind or e.kind, e.name
         assert(report.check { results = { entry } })
         assert(require("tideway.bench.report.section").of(entry))
         assert(require("tideway.json").encode(entry))
         entries[e.name] = entry
      end
      return entries
   end

   it("RFC 2544: all four tests, each an entry of its own", function()
      bench.search("dut", { method = "rfc2544", tester = tester, line = 1e10, precision = 0.001, burst_times = 3, sizes = { 64, 1518 } })
      local entries = run()
      local rows = entries.dut.rows
      near(rfc2544.line_rate(8e9, 64) / 1e6, rows[1].rate, 0.001) -- 11.9 Mpps
      near(8, rows[1].gbit, 0.001)
      near(8, rows[2].gbit, 0.001)
      assert.equal("met", entries.dut.verdict)
      assert.equal("deviation from RFC 2544, 24: trials of 0.5 s, not 60", entries.dut.why[1])
      assert.equal("deviation from RFC 2544, 9.1: no frames of 128, 256, 512, 1024, 1280 bytes", entries.dut.why[3])

      local latency = entries["dut-latency"].series
      assert.equal(1000, latency[1].count)
      assert.equal(1000, latency[1].min)
      assert.equal("64 B at 11.90 Mpps", latency[1].name)
      assert.equal("tsc", entries["dut-latency"].clock)

      local points = entries["dut-loss"].series[1].points
      assert.equal(4, #points) -- 100, 90, then two without loss
      near(20, points[1].median, 0.001)
      near(100 / 9, points[2].median, 0.001)
      assert.same({ 0, 0, 80, 70 }, { points[3].median, points[4].median, points[3].x, points[4].x })

      local bursts = entries["dut-bursts"].rows[1]
      near(5000, bursts.average, 0.011)
      near(5000 / rfc2544.line_rate(1e10, 64) * 1e6, bursts.implied, 0.011)
      near(1000 / rfc2544.line_rate(1e10, 64) * 1e6, bursts.corrected, 0.02)
   end)

   it("RFC 2544: durations as the RFC has them when they are asked for", function()
      local seen = {}
      bench.search("dut", { method = "rfc2544", duration = 60, sizes = rfc2544.SIZES, tests = { "throughput", "latency" },
         tester = function(size)
            local t = tester(size)
            return { trial = function(rate, seconds)
               seen[seconds] = true
               return t.trial(rate, seconds)
            end }
         end })
      local entries = run()
      assert.same({ [60] = true, [120] = true }, seen)
      for _, text in ipairs(entries.dut.why) do assert.is_nil(text:find ", 24:" or text:find "9.1") end
      assert.equal(7, #entries.dut.rows)
   end)

   it("RFC 2544: how a test that runs alone differs from the RFC is said, too", function()
      bench.search("dut", { method = "rfc2544", tester = tester, sizes = { 64 }, tests = { "loss" } })
      local context = models.context()
      local entry = run(context)["dut-loss"]
      assert.equal("deviation from RFC 2544, 24: trials of 0.5 s, not 60", entry.deviations[1])
      assert.matches("deviation from RFC 2544, 24: trials of 0.5 s, not 60", table.concat(context.said, "\n"))
   end)

   it("RFC 2544: what cannot be measured is said, the rest is measured", function()
      bench.search("dut", { method = "rfc2544", line = 1e10, burst_times = 2, sizes = { 64, 128, 256 }, tester = function(size)
         if size == 128 then return { trial = models.leaky(function() return 1 end), send = tester(64).send } end
         if size == 256 then return { trial = models.limiter { most = 1e9 }, send = tester(64).send } end
         return tester(64)
      end })
      local entries = run()
      assert.equal("not met", entries.dut.verdict)
      assert.matches("^128 bytes: nothing arrived", entries.dut.why[1])
      assert.equal("line rate", entries.dut.rows[3].note)
      assert.matches("nothing arrived", entries["dut-latency"].series[2].missing)
      assert.matches("nothing is lost at the highest rate", entries["dut-bursts"].rows[3].note)
   end)

   it("RFC 8219: typical and worst-case latency, PDV and IPDV of each direction", function()
      bench.search("nat64", { method = "rfc8219", sizes = { 64, 1280 }, times = 3, directions = {
         { name = "IPv4 to IPv6", tester = tester }, { name = "IPv6 to IPv4", tester = tester, grow = 20 } } })
      local entry = run().nat64
      assert.equal(4, #entry.rows)
      assert.same({ "IPv6 to IPv4", 84 }, { entry.rows[3].direction, entry.rows[3].size })
      near(rfc2544.line_rate(8e9, 84) / 1e6, entry.rows[3].rate, 0.011)
      near(1.5, entry.rows[1].typical, 0.002)
      near(1.998, entry.rows[1].worst, 0.002)
      near(0.998, entry.rows[1].pdv, 0.003)
      assert.same({ 0.007, 0.07 }, { entry.rows[1].ipdv, entry.rows[1].ipdv_max })
      assert.matches("RFC 8219, 7.2 and 7.3: 3 x 0.5 s, not 20 x 120 s", table.concat(entry.why, "\n"))
      local figures = rfc8219.figures { models.times(1, 1000), models.times(1, 2000), models.times(1, 9000) }
      assert.equal(1000, figures.typical)
   end)

   it("binary and MLRsearch, with the durations of the command line first", function()
      local trial = models.limiter { most = 1.234e6 }
      bench.search("one", { trial = trial, high = 1e7, seconds = 5 })
      bench.search("two", { method = "mlr", trial = trial, high = 1e7, goals = { { loss = 0 }, { loss = 0.01, duration = 4 } } })
      local entries = run()
      near(1.234, entries.one.rows[1].rate, 0.01)
      assert.equal(5, entries.one.trials[1].seconds)
      assert.equal(2, #entries.two.rows)
      near(1.234, entries.two.rows[2].rate, 0.006)
      assert.equal(4, entries.two.rows[2].duration)
      entries = run(models.context(2))
      assert.equal(2, entries.one.trials[1].seconds)
   end)

   it("a goal that is not met is an entry that says so", function()
      bench.search("one", { trial = models.leaky(function() return 0.5 end), high = 1e6, low = 1e5 })
      local entry = run().one
      assert.equal("not met", entry.verdict)
      assert.matches("^no rate from 100.0 kpps to 1.000 Mpps has no loss", entry.why[1])
      assert.is_false(entry.rows[1].met)
   end)

   it("burst response and soak", function()
      local began, context = runner.now(), models.context()
      context.sleep = runner.sleep
      local function counts()
         local n = math.floor((runner.now() - began) * 1e5)
         return { sent = n, received = n, lost = 0 }
      end
      local function open() return { read = counts, stop = counts } end
      bench.search("bursts", { method = "burst", send = tester(64).send, high = 64 })
      bench.search("soak", { method = "soak", stream = open, rate = 1e5, seconds = 0.05 })
      local entries = run(context)
      assert.equal(7, #entries.bursts.rows)
      assert.equal("met", entries.bursts.verdict)
      assert(#entries.soak.rows >= 1 and entries.soak.rows[1].memory > 1) -- MB
   end)

   it("latency at shares of the throughput, which is searched first, or at given rates", function()
      local trial = tester(64).trial
      bench.latency("shares", { trial = trial, loads = { 10, 100 }, high = 2e7 })
      bench.latency("rates", { trial = trial, rate = { 1e6, 2e6 } })
      local entries = run()
      near(rfc2544.line_rate(8e9, 64), entries.shares.series[2].rate, 0.011)
      near(rfc2544.line_rate(8e9, 64) / 10, entries.shares.series[1].rate, 0.011)
      assert.equal(1e6, entries.rates.series[1].rate)
      assert.equal("2.000 Mpps", entries.rates.series[2].name)
      local cdf = entries.rates.series[1].cdf
      assert.equal(1, cdf[#cdf][2])
      bench.latency("none", { trial = models.leaky(function() return 1 end), high = 1e6 })
      assert.has_error.matches(function() run() end, "the throughput, of which loads are shares, was not found: nothing arrived")
   end)

   it("refuse what cannot be meant", function()
      for options, message in pairs {
         [{ method = "bisect" }] = 'there is no method "bisect"; there are: binary, burst, mlr, rfc2544, rfc8219, soak',
         [{ method = "mlr" }] = "path = bench.path { source =, sink = } is missing",
         [{ method = "rfc2544" }] = "path = bench.path { ... } and traffic = function%(size%)",
         [{ method = "rfc2544", tester = tester, tests = { "latencies" } }] = 'there is no test "latencies"',
         [{ method = "rfc2544", tester = tester, sizes = { 60 } }] = "sizes%[1%] is 60; it must be a number from 64",
         [{ method = "rfc8219" }] = "directions = ",
      } do
         assert.has_error.matches(function() bench.search("x", options) end, message)
      end
      assert.has_error.matches(function() bench.latency("x", {}) end, "path = bench.path { ... } is missing")
      assert.has_error.matches(function() bench.path {} end, "source is nil, not what bench.source")
   end)
end)
