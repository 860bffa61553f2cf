-- SPDX-License-Identifier: BSD-3-Clause
-- count: every packet is counted once in each group, passes on, and shows up by flow or address.

local frame = require "test.support.frame"
local rigs = require "test.support.rig"
local tw = require "tideway"

local A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
local I4, I6 = { src = "10.0.0.1", dst = "10.0.0.2" }, { src = "2001:db8::1", dst = "2001:db8::2" }

local function udp4(data, sport)
   return frame.udp4({ src = A, dst = B }, I4, { sport = sport or 1, dport = 53 }, data)
end

describe("count", function()
   local rig, counter

   local function start(cfg)
      rig = rigs.new { ports = { "one", "two" } }
      counter = tw.nf.count(cfg or {})
      rig:chain("c", rig.one, counter, rig.two)
      rig:start()
   end

   after_each(function() rig:close() end)

   -- Counters that are not 0.
   local function counted()
      local list = {}
      for name, n in pairs(counter.export()) do
         if n ~= 0 then list[name] = n end
      end
      return list
   end

   it("lets everything pass unchanged", function()
      start()
      local f = udp4 "hello"
      assert.equal(frame.hex(f), frame.hex(rig:through(rig.one, f, rig.two)))
      assert.equal("\1", rig:through(rig.one, "\1", rig.two))
   end)

   it("counts packets and bytes, by destination, type, protocol and size", function()
      start()
      local f = udp4 "hello"
      rig:send(rig.one, f, f)
      assert.same({
         packets = 2, bytes = 2 * #f, unicast = 2, ipv4 = 2, udp = 2, size_under_64 = 2,
      }, counted())
   end)

   local kinds = {
      { "tcp", "ipv4", frame.tcp4({}, I4, { sport = 1, dport = 2 }) },
      { "icmp", "ipv4", frame.icmp4({}, I4, { type = 8 }) },
      { "sctp", "ipv4", frame.eth({}, frame.ipv4({ src = I4.src, dst = I4.dst, proto = 132 }, ("\0"):rep(12))) },
      { "gre", "ipv4", frame.eth({}, frame.ipv4({ src = I4.src, dst = I4.dst, proto = 47 }, ("\0"):rep(12))) },
      { "other_protocol", "ipv4", frame.eth({}, frame.ipv4({ src = I4.src, dst = I4.dst, proto = 89 }, "ospf")) },
      { "other_protocol", "ipv4", frame.eth({}, "not an IPv4 header") },
      { "udp", "ipv6", frame.udp6({}, I6, { sport = 1, dport = 2 }) },
      { "icmp6", "ipv6", frame.icmp6_6({}, I6, { type = 128 }) },
   }
   for _, kind in ipairs(kinds) do
      it(("counts %s over %s"):format(kind[1], kind[2]), function()
         start()
         rig:send(rig.one, kind[3])
         local c = counted()
         assert.equal(1, c[kind[1]])
         assert.equal(1, c[kind[2]])
      end)
   end

   it("counts other frame types", function()
      start()
      local function of(ethertype) return frame.eth({ type = ethertype }, ("x"):rep(46)) end
      rig:send(rig.one, of(0x0806), of(0x8847), of(0x8848), of(0x88cc),
         frame.eth({ vlan = { { 0x8100, 5 } }, type = 0x0800 }, "x"), frame.eth({ vlan = { { 0x88a8, 5 } } }, "x"))
      local c = counted()
      assert.same({ 1, 2, 1, 2 }, { c.arp, c.mpls, c.other_type, c.vlan })
   end)

   it("tells unicast, multicast and broadcast apart", function()
      start()
      for dst, n in pairs { ["02:00:00:00:00:01"] = 3, ["01:00:5e:00:00:01"] = 2, ["ff:ff:ff:ff:ff:ff"] = 1 } do
         for _ = 1, n do rig:send(rig.one, frame.eth({ dst = dst, type = 0x88b5 }, ("x"):rep(46))) end
      end
      local c = counted()
      assert.same({ 3, 2, 1 }, { c.unicast, c.multicast, c.broadcast })
   end)

   it("puts each size into its class, frame check sequence included (RFC 2819)", function()
      start()
      local want = {
         size_under_64 = { 14, 59 }, size_64 = { 60 }, size_65_127 = { 61, 123 }, size_128_255 = { 124, 251 },
         size_256_511 = { 252, 507 }, size_512_1023 = { 508, 1019 }, size_1024_1518 = { 1020, 1514 },
         size_over_1518 = { 1515, 1900 },
      }
      for class, lengths in pairs(want) do
         local before = counter.export()[class]
         for _, length in ipairs(lengths) do
            rig:send(rig.one, frame.eth({ type = 0x88b5 }, ("x"):rep(length - 14)))
         end
         assert.equal(before + #lengths, counter.export()[class], class)
      end
   end)

   it("has groups that sum up, for frames cut at every byte too", function()
      start()
      for _, kind in ipairs(kinds) do
         for length = 1, #kind[3] do rig:send(rig.one, kind[3]:sub(1, length)) end
      end
      local c = counter.export()
      local sizes = 0
      for name, n in pairs(c) do
         if name:find "^size_" then sizes = sizes + n end
      end
      assert.equal(c.packets, sizes)
      assert.equal(c.packets, c.unicast + c.multicast + c.broadcast + c.truncated)
      assert.equal(c.packets, c.ipv4 + c.ipv6 + c.arp + c.vlan + c.mpls + c.other_type + c.truncated)
      assert.equal(c.ipv4 + c.ipv6, c.tcp + c.udp + c.icmp + c.icmp6 + c.sctp + c.gre + c.other_protocol)
      assert.equal(13 * #kinds, c.truncated)
      assert.equal(c.packets, #rig:collect(rig.two))
   end)

   it("counts each flow", function()
      start { per = "flow" }
      local a, b = udp4("x", 1000), udp4("longer", 2000)
      local six = frame.udp6({}, I6, { sport = 7, dport = 8 }, "six")
      rig:send(rig.one, a, a, a, b, six, frame.icmp4({}, I4, { type = 8 }))
      local by_port = {}
      for _, flow in ipairs(counter.export().flows) do by_port[flow.src_port] = flow end
      assert.equal(3, by_port[1000].packets)
      assert.equal(3 * #a, by_port[1000].bytes)
      assert.equal(1, by_port[2000].packets)
      assert.same({ "10.0.0.1", "10.0.0.2", 53, 17 },
         { by_port[1000].src, by_port[1000].dst, by_port[1000].dst_port, by_port[1000].protocol })
      assert.same({ "2001:db8::1", "2001:db8::2", #six }, { by_port[7].src, by_port[7].dst, by_port[7].bytes })
      assert.equal(1, by_port[0].protocol)
      assert.equal(6, counter.export().packets)
   end)

   it("counts each source address", function()
      start { per = "mac" }
      rig:send(rig.one, udp4 "x", udp4 "y", frame.eth({ src = B, type = 0x88b5 }, "z"), "short")
      local list = counter.export().stations
      assert.equal(2, #list)
      assert.same({ A, 2 }, { list[1].mac, list[1].packets })
      assert.same({ B, 1 }, { list[2].mac, list[2].packets })
   end)

   it("keeps about the most recent flows when there are more than entries", function()
      start { per = "flow", entries = 64 }
      for port = 1, 1000 do rig:send(rig.one, udp4("x", port)) end
      local c = counter.export()
      assert.is_true(#c.flows <= 64 and #c.flows > 0)
      assert.equal(1000, c.packets)
   end)

   it("gives a second counter tables of its own, and refuses unknown parameters", function()
      start()
      local second = tw.nf.count { per = "mac" }
      rig:send(rig.one, udp4 "x")
      assert.equal(0, second.export().packets)
      local ok, err = pcall(tw.nf.count, { per = "port" })
      assert.is_false(ok)
      assert.is_truthy(err:find('count: per is "port"; it can be flow, mac', 1, true), err)
   end)
end)
