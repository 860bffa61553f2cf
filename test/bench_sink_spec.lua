-- SPDX-License-Identifier: BSD-3-Clause
-- Sinks and probes: loss, duplicates, reordering and latency of crafted sequences, against a plain model of RFC 4737;
-- frames that are none of ours; several streams, queues and starts; resets. On wire ports, turned by hand.

local tw = require "tideway"
local abi = require "tideway.abi"
local change = require "tideway.change"
local engine = require "tideway.engine"
local model = require "tideway.model"
local sinks = require "tideway.bench.sink"
local Rig = require "test.support.rig"
local lab = require "test.support.lab"
local stamped = require "test.support.stamped"
local shell = require "test.shell"

local C = abi.C
local WINDOW = C.TW_PROBE_WINDOW - 64 -- what is told apart for certain

local frame, expect = stamped.frame, stamped.expect

local function tsc() return C.tw_tsc() end

local KEYS = { "received", "unique", "duplicated", "reordered", "extent", "highest" }

local function counted(stream)
   local out = { pairs = stream.ipdv.pairs }
   for _, key in ipairs(KEYS) do out[key] = stream[key] end
   return out
end

local rig, sink

local function start(options)
   rig = Rig.new { ports = { "a", "b" } }
   sink = sinks.sink("out", options)
   rig:chain("c", rig.a, sink)
end

-- Puts frames on a port, as many at a time as fit.
local function send(frames, port)
   for i, f in ipairs(frames) do
      assert((port or rig.a):inject(f))
      if i % 1000 == 0 then rig:run() end
   end
   rig:run()
end

local function send_numbers(numbers, of)
   local frames = {}
   for i, seq in ipairs(numbers) do
      frames[i] = frame { seq = seq, stream = of and of.stream, epoch = of and of.epoch, tsc = of and of.tsc }
   end
   send(frames)
end

local function range(first, last, step)
   local list = {}
   for i = first, last, step or 1 do list[#list + 1] = i end
   return list
end

after_each(function()
   if rig then rig:close() end
   rig = nil
end)

describe("a sink", function()
   before_each(function()
      start()
      rig:start()
   end)

   it("counts a sequence without faults", function()
      send_numbers(range(0, 999))
      local c = sink:counters()
      assert.same(expect(range(0, 999)), counted(c.streams[0]))
      assert.same({ 1000, 60000, 0, 1000, 1000 }, { c.packets, c.bytes, c.foreign, c.received, c.unique })
      assert.same({ 999, 999, 0, 0 },
         { c.streams[0].highest, c.streams[0].ipdv.pairs, c.streams[0].old, c.streams[0].stale })
   end)

   it("tells loss, copies and disorder apart in small sequences", function()
      for i, case in ipairs {
         { 0, 1, 3, 4 }, { 0, 0, 0 }, { 0, 1, 2, 1, 2, 3 }, { 1, 0 }, { 3, 2, 1, 0 }, { 0, 5, 1, 5, 2, 4, 4, 3, 6 },
         { 0, 1, 3, 4, 5, 6, 2, 7 }, { 7, 0, 1, 2, 3, 4, 5, 6 }, { 10, 20, 15, 12, 18, 11, 30, 12 }, { 63, 64, 0, 65, 1 },
      } do
         assert(sink:reset())
         send_numbers(case, { stream = i })
         assert.same(expect(case), counted(sink:counters().streams[i]), "case " .. i)
      end
      assert.same({ [10] = true }, { [next(sink:counters().streams)] = true })
   end)

   it("agrees with the plain model on random ones", function()
      math.randomseed(1)
      for round = 1, 12 do
         local numbers, keep, spread = {}, math.random(), math.random(1, 400)
         for i = 0, 1500 do
            if math.random() < keep then numbers[#numbers + 1] = { i, i + math.random(spread) } end
            if math.random() < 0.05 then numbers[#numbers + 1] = { i, i + math.random(spread * 3) } end
         end
         table.sort(numbers, function(x, y)
            if x[2] ~= y[2] then return x[2] < y[2] end
            return x[1] < y[1]
         end)
         for i, pair in ipairs(numbers) do numbers[i] = pair[1] end
         send_numbers(numbers, { stream = round })
         assert.same(expect(numbers), counted(sink:counters().streams[round]), "round " .. round)
      end
   end)

   it("remembers as many numbers as it says, and says what it does not remember", function()
      send_numbers { 0, 1, 1 + WINDOW }
      send_numbers { 0 } -- in the window no more
      local c = sink:counters().streams[0]
      assert.same({ 4, 3, 0, 0, 1 }, { c.received, c.unique, c.duplicated, c.reordered, c.old })
      send_numbers { 2 }
      send_numbers { 1 + WINDOW, 2 }
      c = sink:counters().streams[0]
      assert.same({ 7, 4, 2, 1, 1 }, { c.received, c.unique, c.duplicated, c.reordered, c.old })
      assert.equal(c.received, c.unique + c.duplicated + c.old)
   end)

   it("forgets what the window has left, all of it", function()
      local far = {}
      -- The window turns over once and more; 65,536 % 321 = 52, so old and new ones share words.
      for i = 0, 400 do far[#far + 1] = i * 321 end
      send_numbers(far)
      local late, all = {}, {}
      for i = far[#far] - WINDOW + 1, far[#far], 100 do late[#late + 1] = i end
      for i = 1, 190 do late[#late + 1] = far[i] + C.TW_PROBE_WINDOW end -- where older ones were noted
      send_numbers(late)
      for _, list in ipairs { far, late } do for _, s in ipairs(list) do all[#all + 1] = s end end
      assert.same(expect(all), counted(sink:counters().streams[0]))
   end)

   it("forgets it behind a long run without faults, too", function()
      local numbers = range(0, C.TW_PROBE_WINDOW)
      for _, ahead in ipairs { 2, 1, 63, 62, 64, 66, 65 } do numbers[#numbers + 1] = C.TW_PROBE_WINDOW + ahead end
      send_numbers(numbers)
      local c = sink:counters().streams[0]
      assert.same({ #numbers, #numbers, 0, 3, 0 }, { c.received, c.unique, c.duplicated, c.reordered, c.old })
   end)

   it("follows numbers over their end, again and again", function()
      local numbers, at = {}, 0
      for _ = 1, 5 do
         for _, jump in ipairs { 1, 2 ^ 31 - 1, 1, 3, 2 ^ 30, 2 ^ 30 - 2 } do
            at = at + jump
            numbers[#numbers + 1] = at
         end
      end
      send_numbers(numbers)
      local c = sink:counters().streams[0]
      assert.same(expect(numbers), counted(c))
      assert.is_true(c.highest > 4 * 2 ^ 32)
   end)

   it("takes up a stream that runs already where it is", function()
      local numbers = { 3e9, 3e9 + 1, 3e9 + 1, 3e9 + 5, 3e9 - 2 }
      send_numbers(numbers)
      assert.same(expect(numbers), counted(sink:counters().streams[0]))
      numbers = range(2 ^ 32 - 3, 2 ^ 32 + 3)
      send_numbers(numbers, { stream = 1 })
      assert.same(expect(numbers), counted(sink:counters().streams[1]))
   end)

   it("keeps streams apart that come in one burst", function()
      local frames = {}
      for i = 0, 9 do
         for stream = 0, C.TW_STREAMS_MAX - 1 do
            if stream ~= i then frames[#frames + 1] = frame { seq = i, stream = stream } end
         end
         frames[#frames + 1] = frame { seq = i, stream = 63 }
      end
      send(frames)
      local c = sink:counters()
      for stream, s in pairs(c.streams) do
         assert.equal(stream < 10 and 9 or 10, s.unique)
         assert.equal(stream == 63 and 10 or 0, s.duplicated)
      end
      assert.equal(63, #c.streams)
      assert.same({ 640, 630, 640 }, { c.received, c.unique, c.packets })
   end)

   it("takes frames of others for such, whatever is in them", function()
      local now, hour = tsc(), C.tw_tsc_hz() * 3600
      local others = {
         ("\0"):rep(60), ("\255"):rep(60), ("x"):rep(14), ("\87\84"):rep(8), ("\87\84"):rep(500),
         frame { seq = 0, magic = 0x5754 }, frame { seq = 0, stream = 64 }, frame { seq = 0, stream = 255 },
         frame { seq = 0, tsc = 0 }, frame { seq = 0, tsc = now + C.tw_tsc_hz() }, frame { seq = 0, tsc = -1ULL },
         frame { seq = 0, tsc = now - hour - C.tw_tsc_hz() * 10 }, frame { seq = 0, tsc = now + 2ULL ^ 63 },
         frame({ seq = 0 }) .. "\0", (frame { seq = 0 }):sub(1, -2), (frame { seq = 0 }):sub(1, 15),
      }
      send(others)
      send { (frame { seq = 0, padding = 0 }) } -- nothing but a stamp is one
      local c = sink:counters()
      assert.same({ #others + 1, #others, 1 }, { c.packets, c.foreign, c.unique })
      math.randomseed(2)
      for _ = 1, 2000 do
         local bytes = {}
         for i = 1, math.random(14, 90) do bytes[i] = string.char(math.random(0, 255)) end
         send { table.concat(bytes) }
      end
      c = sink:counters()
      assert.same({ #others + 2000, 1 }, { c.foreign, c.received })
   end)

   it("survives stamps that were made to hurt", function()
      math.randomseed(3)
      local frames = {}
      for i = 1, 1500 do
         frames[i] = frame { seq = math.random(0, 2 ^ 32 - 1), stream = math.random(0, 70), epoch = math.random(0, 255) }
      end
      send(frames)
      local c = sink:counters()
      assert.equal(#frames, c.received + c.stale + c.foreign)
      assert.equal(c.received, c.unique + c.duplicated + c.old)
   end)
end)

describe("starts of a source", function()
   before_each(function()
      start()
      rig:start()
   end)

   it("are told apart: packets of an earlier one are none of this one's", function()
      local before = tsc()
      send_numbers(range(0, 9), { epoch = 3 })
      send_numbers(range(0, 4), { epoch = 4 })
      send_numbers({ 10, 11 }, { epoch = 3, tsc = before })
      local c = sink:counters()
      assert.same({ 4, 5, 5, 0, 4, 12 }, {
         c.streams[0].epoch, c.received, c.unique, c.duplicated, c.streams[0].highest, c.stale,
      })
      assert.equal(5, sink:latency():count())
   end)

   it("also where their number turns over, or begins anew", function()
      for _, epoch in ipairs { 254, 255, 0, 1, 200, 0 } do send_numbers(range(0, 6), { epoch = epoch }) end
      local c = sink:counters()
      assert.same({ 0, 7, 7, 35 }, { c.streams[0].epoch, c.unique, c.received, c.stale })
   end)

   it("and stragglers behind a reset give way to what follows", function()
      local before = tsc()
      send_numbers(range(0, 99), { epoch = 1 })
      assert(sink:reset())
      assert.same({}, sink:counters().streams)
      send_numbers({ 100, 101 }, { epoch = 1, tsc = before })
      send_numbers(range(0, 49), { epoch = 2 })
      local c = sink:counters()
      assert.same({ 2, 50, 50, 49, 2 }, { c.streams[0].epoch, c.received, c.unique, c.streams[0].highest, c.stale })
      assert.equal(52, c.packets)
   end)
end)

describe("a reset", function()
   before_each(function()
      start()
      rig:start()
   end)

   it("begins everything from 0, in the middle of a stream too", function()
      send_numbers(range(0, 99))
      send { ("y"):rep(60) }
      for _ = 1, 3 do
         assert(sink:reset())
         local c = sink:counters()
         assert.same({ 0, 0, 0, 0, 0 }, { c.packets, c.bytes, c.foreign, c.received, c.stale })
         assert.equal(0, sink:latency():count())
      end
      send_numbers(range(70000, 70099))
      local c = sink:counters()
      assert.same({ 100, 100, 0, 70099 }, { c.received, c.unique, c.reordered, c.streams[0].highest })
      assert(sink:reset())
      send_numbers { 70099, 70100 }
      c = sink:counters()
      assert.same({ 2, 2, 0 }, { c.received, c.unique, c.duplicated })
   end)
end)

describe("without stamps", function()
   it("a sink counts packets and bytes, and knows no latency", function()
      start { stamps = false }
      rig:start()
      send { ("x"):rep(60), frame { seq = 0 }, ("x"):rep(100) }
      local c = sink:counters()
      assert.same({ 3, 220, 0, {} }, { c.packets, c.bytes, c.foreign, c.streams })
      local none, err = sink:latency()
      assert.is_nil(none)
      assert.equal("port out (net_null_count0,no-rx=1) was made with stamps = false, so it knows no latency", err)
      assert(sink:reset())
      assert.equal(0, sink:counters().packets)
   end)
end)

describe("a probe", function()
   it("reads what a port receives, and what others probe is their own", function()
      start()
      local early = sinks.probe(rig.a)
      rig:chain("d", rig.b, sink)
      rig:start()
      local b = sinks.probe(rig.b)
      send_numbers { 0, 1, 2 }
      send({ frame { seq = 0, stream = 5 }, ("z"):rep(20) }, rig.b)
      local ca, cb, cs = early:counters(), b:counters(), sink:counters()
      assert.same({ 3, 3, 0, 180 }, { ca.packets, ca.unique, ca.foreign, ca.bytes })
      assert.same({ 2, 1, 1, 1 }, { cb.packets, cb.unique, cb.foreign, cb.streams[5].unique })
      assert.same({ 5, 4, 1 }, { cs.packets, cs.unique, cs.foreign })
      assert.equal("tsc", early:latency().clock)
      b:close()
      assert.equal("nothing watches what port 1 receives: it is closed, or its probe is", select(2, b:counters()))
      send({ frame { seq = 1, stream = 5 } }, rig.b)
      assert.equal(0, sinks.probe(rig.b):counters().unique)
      assert.equal(2, sink:counters().streams[5].unique)
   end)

   it("goes with its port, and leaves nothing on the next one of that number", function()
      start()
      sinks.probe(rig.a)
      rig:start()
      send_numbers { 0, 1 }
      local old = sink
      rig:close()
      assert.matches("is not open", select(2, old:counters()))
      start()
      rig:start()
      send_numbers { 0, 1, 2 }
      assert.equal(3, sink:counters().unique)
      assert.matches("is not open", select(2, old:counters()))
   end)

   it("comes and goes with its port in an engine that runs", function()
      start()
      local chain = rig:chain("d", rig.b, sink)
      rig:start()
      send({ frame { seq = 0 } }, rig.b)
      local second
      change.transaction(function()
         chain:delete()
         second = sinks.sink "second"
         chain = rig:chain("e", rig.b, second)
      end, "spec")
      local probe = sinks.probe(rig.b)
      send({ frame { seq = 1 }, frame { seq = 2 } }, rig.b)
      send_numbers { 5 }
      assert.same({ 2, 2, 2 }, { second:counters().unique, probe:counters().unique, sink:counters().unique })
      change.transaction(function()
         chain:delete()
         second:delete()
         rig.b:delete()
      end, "spec")
      require("tideway.change.probation").settle()
      assert.matches("is not open", select(2, second:counters()))
      assert.matches("is not open", select(2, probe:counters()))
      send_numbers { 6 }
      assert.equal(3, sink:counters().unique)
   end)

   it("reads stamps that lie in several segments of a frame", function()
      local dir = shell.directory()
      local function u32(n)
         return string.char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256, math.floor(n / 16777216))
      end
      local records = { u32(0xa1b2c3d4) .. "\2\0\4\0" .. u32(0) .. u32(0) .. u32(65535) .. u32(1) }
      for i, size in ipairs { 60, 2048, 2049, 2055, 2056, 2063, 2064, 4100, 9000 } do -- buffers of 2,048 bytes
         records[#records + 1] = u32(i) .. u32(0) .. u32(size) .. u32(size) .. frame { seq = i - 1, padding = size - 16 }
      end
      shell.write(dir .. "/in.pcap", table.concat(records))
      rig = Rig.new { ports = {} }
      local port = tw.port("in", ("net_pcap0,rx_pcap=%s/in.pcap"):format(dir))
      sink = sinks.sink "out"
      rig:chain("c", port, sink)
      local probe = sinks.probe(port)
      rig:start()
      rig:run()
      shell.remove(dir)
      assert.same(expect(range(0, 8)), counted(probe:counters().streams[0]))
   end)
end)

describe("several lcores", function()
   it("send one stream to one sink, and none of it is counted twice or not at all", function()
      rig = Rig.new { ports = { "a", "b" } }
      sink = sinks.sink "out"
      tw.chain("c", rig.a, sink):pin { lcore = 0 }
      tw.chain("d", rig.b, sink):pin { lcore = 1 }
      rig:start()
      local sent = 0
      for round = 0, 19 do
         for i = 0, 999 do
            local seq = round * 1000 + i
            local f = frame { seq = seq }
            assert((seq % 2 == 0 and rig.a or rig.b):inject(f))
            sent = sent + 1
            if seq % 10 == 0 then -- a copy by the other way
               assert((seq % 2 == 0 and rig.b or rig.a):inject(f))
               sent = sent + 1
            end
         end
         assert(lab.eventually(60, function()
            local c = sink:counters()
            for _, s in pairs(c.streams) do assert.equal(s.received, s.unique + s.duplicated + s.old) end
            return c.received == sent
         end), "packets are missing")
      end
      local c = sink:counters()
      assert.same({ 20000, 2000, 0, 19999, 22000 }, {
         c.unique, c.duplicated, c.foreign, c.streams[0].highest, c.packets,
      })
      assert.equal(20000, sink:latency():count())
   end)
end)

describe("while packets come", function()
   local source
   before_each(function()
      rig = Rig.new { ports = {} }
      source = tw.bench.source({ frames = { ("s"):rep(60) }, stamp = true })
      sink = sinks.sink "out"
      tw.chain("c", source, sink):pin { lcore = 1 }
      rig:start()
   end)

   -- What one look at a stream without faults must show, whenever it is taken.
   local function whole(s, first)
      assert.same({ s.received, 0, 0, 0 }, { s.unique, s.duplicated, s.reordered, s.old })
      assert.equal(s.received - 1, s.ipdv.pairs)
      if first then assert.equal(s.highest - first + 1, s.unique) end
      return s.unique
   end

   it("what is read fits together, and nothing is lost of it in the end", function()
      assert(source:start { rate = 300000 })
      local before, looks = 0, 0
      assert(lab.eventually(60, function()
         local s = sink:counters().streams[source.stream]
         if not s then return end
         local n, h = whole(s, 0), sink:latency()
         assert.is_true(n >= before and h:count() >= n)
         looks, before = looks + (n > before and 1 or 0), n
         return looks == 20
      end))
      source:stop()
      assert(lab.eventually(60, function() return not source:running() end))
      local c, sent = sink:counters(), source:counters()
      assert.same({ sent.packets, sent.packets, sent.bytes, sent.epoch },
         { whole(c.streams[source.stream], 0), c.packets, c.bytes, c.streams[source.stream].epoch })
      assert.equal(sent.packets, sink:latency():count())
   end)

   it("a reset forgets what was, and nothing that comes", function()
      assert(source:start { rate = 300000 })
      local highest, resets = -1, 0
      assert(lab.eventually(60, function()
         local s = sink:counters().streams[source.stream]
         if not s or s.highest < 70000 then return end -- from there on streams begin where they are taken up
         local n = whole(s)
         assert.is_true(s.highest >= highest and n <= s.highest - highest)
         assert(sink:reset())
         highest, resets = s.highest, resets + 1
         return resets == 20
      end))
      source:stop()
      assert(lab.eventually(60, function() return not source:running() end))
      assert(sink:reset())
      assert(source:start { count = 1000 })
      assert(lab.eventually(60, function() return not source:running() and sink:counters().unique == 1000 end))
      assert.equal(1000, whole(sink:counters().streams[source.stream], 0))
      assert.equal(1000, sink:counters().packets)
   end)
end)

describe("what is asked wrongly", function()
   it("is said", function()
      rig = Rig.new { ports = { "a" } }
      sink = sinks.sink "out"
      assert.equal("port out (sink0) is not open: no chain of an engine that runs has it", select(2, sink:counters()))
      assert.equal("port out (sink0) is not open: no chain of an engine that runs has it", select(2, sink:reset()))
      assert.matches("bench_sink_spec.lua:%d+$", sink.where)
      assert.matches('bench_sink_spec.lua:%d+: bench.sink: the name "out" is taken',
         select(2, pcall(function() sinks.sink "out" end)))
      assert.error_matches(function() sinks.sink { stamp = false } end, 'there is no option "stamp"; there are: name, stamps')
      assert.error_matches(function() sinks.probe "a" end, "its argument is a port, not a")
      assert.same({ "sink1", "sink2" }, { sinks.sink().name, sinks.sink().devargs })
      rig:chain("c", rig.a, sink)
      rig:start()
      assert.error_matches(function() assert(sink:latency(64)) end, "stream 64: streams are 0 to 63, %-1: all")
      assert.is_true(model.find(model.ports, "name", "out") == sink)
      engine.step()
   end)
end)
