-- SPDX-License-Identifier: BSD-3-Clause
-- Sources that run: starts, stops, counts, rates, stamps, queues; what is refused.

local ffi = require "ffi"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local support = require "test.support.source"
local tw = require "tideway"

local C = abi.C
local bench = tw.bench
local be, close, collect, finish, plain, start, turn = support.be, support.close, support.collect, support.finish,
   support.plain, support.start, support.turn
local udp, assert_sums = support.udp, support.assert_sums

describe("a source", function()
   after_each(close)

   local simple = plain({ { at = 30, bytes = 4, index = 1, base = 0, sums = { 1, 2 } } }, { { kind = "count", n = 2 ^ 32 } })

   it("stamps the end of its frames: stream, start, number, time", function()
      local traffic = plain(simple.fields, simple.indexes)
      traffic.frames, traffic.order, traffic.stamp = { udp(("x"):rep(18)), udp(("x"):rep(101)) }, { 1, 2, 2 }, true
      local first, second = start { simple, traffic }
      for epoch = 1, 3 do
         local before = C.tw_tsc()
         assert(second:start { count = 100 })
         local frames = finish()
         for i, frame in ipairs(frames) do
            local stamp = ffi.cast("const struct tw_stamp *", ffi.cast("const char *", frame) + #frame - 16)
            assert.equal(C.TW_STAMP_MAGIC, stamp.magic)
            assert.equal(second.stream, stamp.stream)
            assert.equal(epoch, stamp.epoch)
            assert.equal(i - 1, stamp.seq)
            assert.is_true(stamp.tsc > before and stamp.tsc < C.tw_tsc())
            assert_sums(frame)
         end
         assert.equal(100, #frames)
         assert.equal(epoch, second:counters().epoch)
      end
      assert.is_not.equal(first.stream, second.stream)
   end)

   it("is idle, starts, stops, and makes exactly what was asked for", function()
      local source = start { simple }
      assert.equal(0, engine.step())
      assert.is_false(source:running())
      assert(source:start())
      assert.is_true(source:running())
      local ok, err = source:start()
      assert.is_nil(ok)
      assert.matches("runs; stop it first", err)
      ok, err = source:use(simple)
      assert.is_nil(ok)
      assert.matches("runs; stop it first", err)
      assert.is_true(engine.step() > 0)
      source:stop()
      assert.is_true(source:running()) -- the lcore has not looked yet
      assert.equal(0, engine.step())
      assert.is_false(source:running())
      collect()
      for _, count in ipairs { 1, 31, 64, 65, 1000 } do
         assert(source:start { count = count })
         assert.equal(count, #finish())
         local c = source:counters()
         assert.equal(count, c.packets)
         assert.equal(count * 60, c.bytes)
         assert.same({ [source.stream] = { packets = count, bytes = count * 60 } }, c.streams)
      end
      assert(source:use(plain({}, {}, ("z"):rep(40))))
      assert(source:start { count = 3 })
      assert.equal(udp(("z"):rep(40)):sub(43), finish()[3]:sub(43))
      assert(source:start { count = 5 })
      source:stop() -- before any lcore has seen it
      assert.is_false(source:running())
      assert.equal(0, engine.step())
   end)

   it("may be told to start before the engine runs, and does not go on by itself in the next one", function()
      support.fresh()
      local source, out = bench.source(simple), tw.port("out", "wire1")
      tw.chain("c", source, out):pin { step = true }
      assert(source:start { count = 70 })
      assert.is_true(source:running())
      engine.start()
      support.rig = { source, out = out }
      assert.equal(70, #finish())
      assert(source:start())
      engine.step()
      collect()
      engine.close()
      assert.is_false(source:running())
   end)

   -- Of `seconds` at a rate so many are due; these were made or left out.
   local function assert_rate(source, pps, slack)
      local c = source:counters()
      local due = c.seconds * pps
      assert.is_true(math.abs(c.packets + c.skipped - due) <= slack,
         ("%d made, %d left out in %g s at %g pps"):format(c.packets, c.skipped, c.seconds, pps))
      local h = source:precision()
      assert.equal(c.packets, h:count())
      return c, h
   end

   it("keeps a rate exactly on the average, and says how exactly", function()
      local source = start { simple }
      for _, options in ipairs {
         { rate = 40000 }, { rate = "123.457kpps" }, { rate = "50Mbit/s" }, { rate = "50Mbit/s", l2 = true },
         { rate = 50000, spacing = "burst", burst = 100 },
      } do
         assert(source:start(options))
         turn(0.1)
         source:stop()
         engine.step()
         assert_rate(source, source:pps(options.rate, options.l2), options.burst or 2)
      end
      assert.near(5e7 / 8 / 84, source:pps "50Mbit/s", 1e-6)
      assert.near(5e7 / 8 / 64, source:pps("50Mbit/s", true), 1e-6)
      assert(source:start { rate = 100000, spacing = "poisson" })
      turn(0.3)
      source:stop()
      engine.step()
      local c = source:counters()
      assert_rate(source, 100000, 6 * math.sqrt(c.seconds * 1e5) + 100)
      assert.is_true(c.packets > 1000)
      -- Of a count: 20 gaps, and what it is behind at the end (10 ms at most).
      assert(source:start { rate = 1000, count = 20 })
      assert.equal(20, #finish())
      c = source:counters()
      local behind = c.seconds * 1000 - c.packets - c.skipped
      assert.is_true(behind > -0.1 and behind < 11, behind)
      assert.near(20 / c.seconds, c.reached, 1e-6)
   end)

   it("catches up when its lcore was away, or leaves out and counts what is too old", function()
      local source = start { simple }
      assert(source:start { rate = 10000, catch_up = 3600 })
      engine.step()
      C.tw_sleep_ms(60)
      turn(0.01)
      source:stop()
      engine.step()
      local c, h = assert_rate(source, 10000, 2)
      assert.equal(0, c.skipped)
      assert.is_true(h:max() >= 50e6 and c.packets >= 600)
      assert(source:start { rate = 10000, catch_up = 0.01 })
      engine.step()
      C.tw_sleep_ms(60)
      turn(0.01)
      source:stop()
      engine.step()
      c = assert_rate(source, 10000, 2)
      assert.is_true(c.skipped >= 490 and c.packets >= 100)
   end)

   it("shares its packets among queues, each a stream of its own", function()
      local cpus = require("tideway.plan").cpus()
      if #cpus < 2 then return pending "needs two CPUs" end
      support.fresh()
      local traffic = plain(simple.fields, simple.indexes)
      traffic.stamp = true
      local out, source = tw.port("out", "wire1"), bench.source(traffic, { queues = 2 })
      tw.chain("c", source, out):pin { lcore = { cpus[1], cpus[2] } }
      local ok, err = pcall(engine.start)
      if not ok and tostring(err):find "does not begin to run" then return pending "the CPUs are too busy" end
      assert.is_true(ok, err)
      support.rig = { source, out = out }
      assert(source:start { count = 2001 })
      local due = tw.now() + 60e9
      while source:running() and tw.now() < due do C.tw_sleep_ms(1) end
      local seen, next_of = {}, {}
      for _, frame in ipairs(collect()) do
         local stamp = ffi.cast("const struct tw_stamp *", ffi.cast("const char *", frame) + #frame - 16)
         assert.equal(next_of[stamp.stream] or 0, stamp.seq)
         next_of[stamp.stream] = stamp.seq + 1
         local k = be(frame, 30, 4)
         assert.is_nil(seen[k])
         seen[k] = true
         assert.equal(stamp.stream, source.stream + k % 2)
         assert_sums(frame)
      end
      assert.same({ [source.stream] = 1001, [source.stream + 1] = 1000 }, next_of)
      for k = 0, 2000 do assert.is_true(seen[k]) end
      local streams = source:counters().streams
      assert.equal(1001, streams[source.stream].packets)
      assert.equal(1000, streams[source.stream + 1].packets)
   end)

   it("makes fewer packets when its buffers are all on their way, and counts it", function()
      local source = start({ simple }, { mbufs = 64 })
      assert(source:start())
      for _ = 1, 100 do engine.step() end
      local c = source:counters()
      assert.is_true(c.no_buffer > 0)
      assert.is_true(c.packets >= 64 and c.packets < 1000)
      local before = #collect()
      assert.equal(c.packets, before)
      engine.step()
      assert.is_true(source:counters().packets > c.packets)
   end)
end)

describe("what a source refuses", function()
   after_each(function()
      close()
      engine.close()
   end)

   local function base(change)
      local traffic = plain({ { at = 26, bytes = 4, index = 1, base = 1, sums = { 1, 2 } } }, { { kind = "count", n = 9 } })
      change(traffic, traffic.fields[1], traffic.indexes[1], traffic.sums[2])
      return traffic
   end

   for _, case in ipairs {
      { "frames is no list", function(t) t.frames = {} end },
      { "frame 2 has 10 bytes", function(t) t.frames[2] = ("x"):rep(10) end },
      { "frame 2 has 3000 bytes.*mbuf_size = 3008", function(t) t.frames[2] = udp(("x"):rep(2958)) end },
      { "order%[2%] is 3", function(t) t.order = { 1, 3 } end },
      { "index 1: kind is prime", function(_, _, i) i.kind = "prime" end },
      { "index 1: n is 0", function(_, _, i) i.n = 0 end },
      { "index 1: n is 0.5", function(_, _, i) i.n = 0.5 end },
      { "index 1: n is 100000000; of zipf", function(_, _, i) i.kind, i.n = "zipf", 1e8 end },
      { "zipf with n = 10000000 needs 76 MB.*memory_mb", function(_, _, i) i.kind, i.n = "zipf", 1e7 end },
      { "index 1: skew is %-1", function(_, _, i) i.kind, i.skew = "zipf", -1 end },
      { "field 1: index is 2", function(_, f) f.index = 2 end },
      { "field 1: bytes is 9", function(_, f) f.bytes = 9 end },
      { "field 1: base is 1.5", function(_, f) f.base = 1.5 end },
      { "field 1: list%[2%] is many", function(_, f) f.list = { 1, "many" } end },
      { "field 1: bytes 58 to 61 lie beyond the shortest frame, of 60", function(_, f) f.at = 58 end },
      { "field 1: it counts for sum 3; there are 2 sums", function(_, f) f.sums = { 3 } end },
      { "field 1: it is not said to count for sum 2", function(_, f) f.sums = { 1 } end },
      { "field 1: it is said to count for sum 1", function(_, f) f.at = 44 end },
      { "field 1: of its bytes, 32 to 35, sum 1 counts some", function(_, f) f.at = 32 end },
      { "field 2: bits of byte 29 .*another field", function(t)
         t.fields[2] = { at = 29, bytes = 1, index = 1, sums = { 1, 2 } }
      end },
      { "field 1: bits of byte 40|sum 2: bits of byte 40", function(_, f) f.at, f.sums = 40, { 2 } end },
      { "field 2: bytes 44 to 45 lie in the stamp", function(t)
         t.stamp, t.fields[2] = true, { at = 44, bytes = 2, index = 1, sums = { 2 } }
      end },
      { "sum 2: byte 61 lies beyond", function(_, _, _, s) s.at = 60 end },
      { "sum 2: from byte 60, 0 of them", function(_, _, _, s) s.from = 60 end },
      { "pseudo header lie beyond", function(_, _, _, s) s.pseudo = { { 58, 8 } } end },
      { "5 sums; 4 are the limit", function(t) for i = 3, 5 do t.sums[i] = t.sums[1] end end },
      { "33 fields; 32 are the limit", function(t) for i = 1, 33 do t.fields[i] = t.fields[1] end end },
      { "17 indexes; 16 are the limit", function(t) for i = 1, 17 do t.indexes[i] = t.indexes[1] end end },
      { "3 frames need 1 MB, and the source may take 0 MB|raise memory_mb", function(t)
         t.order = {}
         for i = 1, 300000 do t.order[i] = 1 end
      end },
   } do
      it(case[1], function()
         local traffic = base(case[2])
         local ok, err = pcall(function() local _ = bench.source(traffic, { memory_mb = 1 }) end)
         assert.is_false(ok)
         local found = false
         for pattern in case[1]:gmatch "[^|]+" do found = found or err:find(pattern) end
         assert.is_truthy(found, err)
         assert.matches("^test/bench_source_run_spec.lua:%d+: bench.source: ", err)
      end)
   end

   it("rates and options that are none", function()
      local source = start { plain({}, {}) }
      for _, case in ipairs {
         { { rate = "fast" }, "is no rate" }, { { rate = "5Mflops" }, "is no rate" }, { { rate = -1 }, "above 0" },
         { { rate = 0 }, "above 0" }, { { rate = 0 / 0 }, "above 0" }, { { rate = "1Tpps" }, "at most 1e10" }, { { rate = {} }, "is no rate" },
         { { spacing = "wild", rate = 1 }, "cbr, poisson and burst" }, { { spacing = "poisson" }, "needs a rate" },
         { { spacing = "burst", rate = 5 }, "needs burst" }, { { count = 0 }, "count is 0" },
         { { count = 1.5 }, "count is 1.5" }, { { speed = 5 }, "no option \"speed\"" },
         { { rate = 1, catch_up = -1 }, "catch_up is %-1" }, { "5Mpps", "table of options" },
      } do
         local ok, err = pcall(source.start, source, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err)
      end
      local started, why = source:start { rate = 1e-6 }
      assert.is_nil(started)
      assert.matches("are 1 in 278 hours; 28 are the limit", why)
      assert.is_false(source:running())
      for _, case in ipairs {
         { "queues is 17", plain({}, {}), { queues = 17 } }, { "no option \"speed\"", plain({}, {}), { speed = 1 } },
         { "traffic is nil", nil }, { "traffic is 5", "name", 5 },
      } do
         local ok, err = pcall(bench.source, case[2], case[3])
         assert.is_false(ok)
         assert.matches(case[1], err)
      end
   end)

   it("more lcores than it has queues, and a device nobody has declared packets for", function()
      support.fresh()
      tw.chain("c", tw.port "source63", tw.port("out", "wire1")):pin { step = true }
      local ok, err = pcall(engine.start)
      assert.is_false(ok)
      assert.matches("source63 has no packets to make", err)
   end)
end)
