-- SPDX-License-Identifier: BSD-3-Clause
-- trace() on an lcore that is turned by hand: what it says of each NF, and that packets fare as they do untraced.

local loop = require "tideway.loop"
local rigs = require "test.support.rig"
local trace = require "tideway.live.trace"
local tw = require "tideway"
local view = require "tideway.live.view"
local watched = require "test.support.watched"

local udp, ttl, guard, bulk, fields = watched.udp, watched.ttl, watched.guard, watched.bulk, watched.fields

describe("trace", function()
   local rig

   -- make(rig): the NFs and the sink
   local function start(make)
      rig = rigs.new { ports = { "lan", "wan" } }
      rig:chain("up", rig.lan, make(rig))
      rig:start()
   end

   local function start_usual()
      start(function(r) return guard {}, ttl {}, r.wan end)
   end

   after_each(function() rig:close() end)

   -- Runs trace(...) while these frames come in, a burst each turn of the loop.
   local function traced(frames, n, ...)
      local at_frame = 0
      local function feed()
         at_frame = at_frame + 1
         if frames[at_frame] then rig:send(rig.lan, unpack(frames[at_frame])) end
         return 0.001
      end
      loop.duty(feed)
      local ok, result = pcall(trace.trace, n, ...)
      loop.off_duty(feed)
      assert(ok, result)
      return result.data.packets, result
   end

   local function changes_of(step)
      local list = {}
      for i, c in ipairs(step.changes) do list[i] = ("%s %s %s"):format(c.field, c.before, c.after) end
      table.sort(list)
      return list
   end

   it("follows a packet through every NF, with what each changed and how long it took", function()
      start(function(r) return guard {}, bulk {}, ttl {}, r.wan end)
      local packets, result = traced({ { udp(64, 9) } }, 1)
      local p = packets[1]
      assert.same({ "up", "lan", "sent", "wan" }, { p.chain, p.from, p.result, p.to })
      assert.equal("10.0.0.1:1000 > 10.0.0.2:9 udp", p.summary)
      assert.equal(5, result.data.cost.records) -- as it came, three NFs, as it left
      assert.same({ "guard", "bulk", "ttl" }, fields(p.steps, "nf"))
      assert.same({ "next", "next", "next" }, fields(p.steps, "verdict"))
      assert.same({ "mark 0 5" }, changes_of(p.steps[1]))
      assert.same({ "mark 5 7" }, changes_of(p.steps[2]))
      local last = changes_of(p.steps[3])
      assert.equal("ipv4.ttl 64 63", last[2])
      assert.matches("^ipv4.checksum 0x%x+ 0x%x+$", last[1])
      for _, step in ipairs(p.steps) do assert.is_true(step.ns > 0 and step.ns < 1e9) end
      local text = table.concat(view.lines(result), "\n")
      assert.matches("ipv4.ttl 64 %-> 63", text)
      assert.matches("sent to wan", text)
      assert.matches("cost: ", text)
      assert.matches("as plain Lua", text)
   end)

   it("gives exactly as many as asked for, of those that match", function()
      start_usual()
      local frames = {}
      for i = 1, 5 do frames[i] = { udp(64), udp(64, 9), udp(10 + i), udp(20, 9) } end
      local packets = traced(frames, 3, "udp port 9")
      assert.equal(3, #packets)
      for _, p in ipairs(packets) do assert.matches(":9 udp", p.summary) end
   end)

   it("ends at the NF that drops, and finds those that are dropped for a reason", function()
      start_usual()
      rig:send(rig.lan, udp(1), udp(64, 7))
      local packets = traced({ { udp(64), udp(1), udp(64, 7), udp(1, 9) } }, 2, nil, { reason = "ttl_expired" })
      assert.equal(2, #packets)
      for _, p in ipairs(packets) do
         assert.same({ "dropped", "ttl", "ttl_expired" }, { p.result, p.by, p.reason })
         assert.same({ "guard", "ttl" }, fields(p.steps, "nf"))
      end
      assert.matches(":9 udp", packets[2].summary)
   end)

   it("ends with what there is when its time is over", function()
      start_usual()
      local packets, result = traced({ { udp(64) } }, 5, nil, { seconds = 0.1 })
      assert.equal(1, #packets)
      assert.matches("1 of 5 packets: the time is over", table.concat(view.lines(result), "\n"))
   end)

   it("follows into punt() and what comes behind it", function()
      start(function(r)
         return tw.nf("slow", function()
            return {
               packet = function(pkt) return pkt:punt() end,
               punt = function(pkt) pkt:ipv4().dscp = 3 end,
            }
         end) {}, ttl {}, r.wan
      end)
      local p = traced({ { udp(64) } }, 1)[1]
      assert.same({ "slow", "slow", "ttl" }, fields(p.steps, "nf"))
      assert.same({ "punt", "next", "next" }, fields(p.steps, "verdict"))
      assert.is_true(p.steps[2].punt)
      assert.same({ "ipv4.dscp 0 3" }, changes_of(p.steps[2]))
      assert.equal("sent", p.result)
   end)

   it("says of a packet that waits that it is held", function()
      start(function(r)
         local queue = tw.hold_queue { timeout = 0.1 }
         return tw.nf("wait", function()
            return { packet = function(pkt) return pkt:hold(queue, 1) end }
         end) {}, r.wan
      end)
      local p = traced({ { udp(64) } }, 1)[1]
      assert.same({ "held", "wait" }, { p.result, p.by })
      rig:advance(1)
   end)

   it("shows headers that come and go, lengths and payload", function()
      start(function(r)
         return tw.nf("tag", function()
            return { packet = function(pkt) pkt:push_vlan(100) end }
         end) {}, tw.nf("scribble", function()
            return { packet = function(pkt) pkt:set_u8(pkt:payload_offset(), 0x58) end }
         end) {}, r.wan
      end)
      local p = traced({ { udp(64) } }, 1)[1]
      local first, second = changes_of(p.steps[1]), changes_of(p.steps[2])
      assert.is_truthy(table.concat(first, "\n"):find("vlan.vid nil 100", 1, true))
      assert.is_truthy(table.concat(first, "\n"):find("length 47 51", 1, true))
      assert.same({ "payload nil 1 bytes differ" }, second)
   end)

   it("does what the compiled chain does: verdicts, bytes, counters", function()
      start(function(r) return guard {}, bulk {}, ttl {}, r.wan end)
      local frames = { udp(64), udp(1), udp(30, 7), udp(20, 9) }
      rig:send(rig.lan, unpack(frames))
      local plain, before = rig:collect(rig.wan), rig:drops()
      traced({ frames }, 4)
      assert.same(plain, rig:collect(rig.wan))
      local after = rig:drops()
      assert.same({ before.echo * 2, before.ttl_expired * 2 }, { after.echo, after.ttl_expired })
      local nf = rig:snapshot().chains[1].nfs
      assert.same({ 8, 6, 6 }, fields(nf, "received"))
   end)

   it("goes on when an NF faults", function()
      start(function(r)
         return guard {}, tw.nf("bad", function()
            return { packet = function(pkt) if pkt:ipv4().ttl == 13 then error "no" end end }
         end) {}, r.wan
      end)
      local packets = traced({ { udp(64), udp(13), udp(12) }, { udp(64) } }, 3)
      assert.same({ "sent", "dropped", "dropped" }, fields(packets, "result"))
      assert.equal("nf_fault", packets[2].reason)
      assert.equal("nf_quarantined", packets[3].reason)
      rig:log()
   end)

   it("begins and ends while lcores are busy", function()
      rig = rigs.new { ports = {} }
      local from, to = tw.port("from", "net_null0"), tw.port("to", "net_null1") -- packets without end
      tw.chain("up", from, tw.nf("mark", function()
         return { packet = function(pkt) pkt.mark = 1 end }
      end) {}, ttl {}, to):pin { lcore = 0 }
      rig:start()
      local capture = require "tideway.live.capture"
      for n = 1, 30 do
         local packets = trace.trace(n).data.packets
         assert.equal(n, #packets)
         for _, p in ipairs(packets) do
            assert.same({ "sent", "to" }, { p.result, p.to })
            assert.same({ "mark", "ttl" }, fields(p.steps, "nf"))
         end
         assert.equal(10 * n, capture.capture("up", "len < 100", { count = 10 * n, records = true }).data.packets)
      end
   end)

   it("refuses what makes no sense", function()
      start_usual()
      for _, args in ipairs { { 0 }, { 1.5 }, { "x" }, { 1, "tcp", { chain = "uo" } }, { 1, nil, { reason = "no" } },
         { 1, nil, { colour = "red" } } } do
         assert.is_false((pcall(trace.trace, unpack(args, 1, 3))))
      end
   end)
end)
