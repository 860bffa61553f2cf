-- SPDX-License-Identifier: BSD-3-Clause
-- router: address resolution for IPv4 (ARP) and IPv6 (neighbor discovery), on wire ports.

local frame = require "test.support.frame"
local h = require "test.support.router"

local r, router

local function no_neighbours(cfg) cfg.neighbours = {} end

local function drops(name) return r:drops()[name] or 0 end

-- Turn the engine second by second: one timer at a time.
local function seconds(n)
   for _ = 1, n do r:advance(1.01) end
end

local function neighbour(address)
   for _, n in ipairs(router.export().neighbours) do
      if n.address == address then return n end
   end
end

local function is_arp_request(f, tpa, dst)
   assert.equal(0x0806, h.u16(f, 12))
   assert.equal(dst or h.BROADCAST, h.mac(f, 0))
   assert.equal(h.WAN_MAC .. " " .. h.WAN_MAC, h.mac(f, 6) .. " " .. h.mac(f, 22))
   assert.equal("0001080006040001", frame.hex(f:sub(15, 22)))
   assert.equal(h.WAN .. " " .. tpa, h.ip4(f, 28) .. " " .. h.ip4(f, 38))
   assert.equal(42, #f)
end

describe("router neighbours", function()
   after_each(function()
      if r then r:close() end
      r = nil
   end)

   describe("by ARP", function()
      it("asks, keeps the packets, and sends them in order when the answer comes", function()
         r, router = h.start(no_neighbours)
         r:send(r.lan, h.udp4({}, "one"), h.udp4({}, "two"), h.udp4({}, "three"))
         local out = r:collect(r.wan)
         assert.equal(1, #out)
         is_arp_request(out[1], h.GATE)
         assert.equal("incomplete", neighbour(h.GATE).state)
         r:send(r.wan, h.arp_reply(h.GATE_MAC, h.GATE, h.WAN_MAC, h.WAN))
         out = r:collect(r.wan)
         assert.equal(3, #out)
         for i, data in ipairs { "one", "two", "three" } do
            assert.is_true(h.valid4(out[i]))
            assert.equal(h.GATE_MAC, h.mac(out[i], 0))
            assert.equal(63, h.u8(out[i], 22))
            assert.equal(data, out[i]:sub(43))
         end
         assert.equal("reachable", neighbour(h.GATE).state)
         assert.equal(h.GATE_MAC, h.mac(r:through(r.lan, h.udp4 {}, r.wan), 0))
      end)

      it("keeps no more than three packets for a neighbour", function()
         r, router = h.start(no_neighbours)
         for i = 1, 5 do r:send(r.lan, h.udp4({}, tostring(i))) end
         assert.equal(2, drops "hold_full")
         assert.equal(1, #r:collect(r.wan))
         r:send(r.wan, h.arp_reply(h.GATE_MAC, h.GATE, h.WAN_MAC, h.WAN))
         assert.equal(3, #r:collect(r.wan))
      end)

      it("gives up after three questions and says so to the senders", function()
         r, router = h.start(function(cfg) cfg.neighbours = { [h.HOST] = h.HOST_MAC } end)
         r:send(r.lan, h.udp4 {}, h.udp4 {})
         local asked = #r:collect(r.wan)
         for _ = 1, 4 do
            seconds(1)
            for _, f in ipairs(r:collect(r.wan)) do
               is_arp_request(f, h.GATE)
               asked = asked + 1
            end
         end
         assert.equal(3, asked)
         local out = r:collect(r.lan)
         assert.equal(2, #out)
         assert.is_true(h.valid_icmp4(out[1]))
         assert.equal(0x0301, h.u16(out[1], 34))
         assert.equal(h.LAN .. " " .. h.HOST, h.ip4(out[1], 26) .. " " .. h.ip4(out[1], 30))
         -- For a while nobody asks again, and further packets are answered at once.
         r:send(r.lan, h.udp4 {})
         assert.equal(0x0301, h.u16(r:collect(r.lan)[1], 34))
         assert.equal(0, #r:collect(r.wan))
         seconds(4)
         r:send(r.lan, h.udp4 {})
         assert.equal(1, #r:collect(r.wan))
      end)

      it("counts what it may not answer as neighbour_unresolved", function()
         r, router = h.start(function(cfg)
            cfg.neighbours, cfg.icmp_rate = {}, 0
         end)
         r:send(r.lan, h.udp4 {})
         seconds(4)
         assert.equal(1, drops "neighbour_unresolved")
      end)

      it("resolves hosts of connected networks, each for itself", function()
         r, router = h.start(no_neighbours)
         for i = 20, 22 do r:send(r.lan, h.udp4 { dst = "198.51.100." .. i }) end
         local out = r:collect(r.wan)
         assert.equal(3, #out)
         for i = 20, 22 do
            is_arp_request(out[i - 19], "198.51.100." .. i)
            r:send(r.wan, h.arp_reply("02:00:00:00:07:" .. i, "198.51.100." .. i, h.WAN_MAC, h.WAN))
         end
         assert.equal(3, #r:collect(r.wan))
         for i = 20, 22 do
            local f = r:through(r.lan, h.udp4 { dst = "198.51.100." .. i }, r.wan)
            assert.equal("02:00:00:00:07:" .. i, h.mac(f, 0))
         end
         assert.equal(0, router.export().events.forwarded_slow)
      end)

      it("does not let a neighbour take over a more specific route", function()
         r, router = h.start(function(cfg)
            cfg.routes[3] = { "198.51.100.128/25", via = h.GATE }
         end)
         r:send(r.wan, h.arp_request("02:00:00:00:07:07", "198.51.100.200", h.WAN))
         r:collect(r.wan)
         assert.equal(h.GATE_MAC, h.mac(r:through(r.lan, h.udp4 { dst = "198.51.100.200" }, r.wan), 0))
      end)

      it("answers requests for its own addresses and learns from them", function()
         r, router = h.start(no_neighbours)
         local out = r:through(r.lan, h.arp_request(h.HOST_MAC, h.HOST, h.LAN), r.lan)
         assert.equal(h.HOST_MAC .. " " .. h.LAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
         assert.equal("0001080006040002", frame.hex(out:sub(15, 22)))
         assert.equal(h.LAN_MAC .. " " .. h.LAN, h.mac(out, 22) .. " " .. h.ip4(out, 28))
         assert.equal(h.HOST_MAC .. " " .. h.HOST, h.mac(out, 32) .. " " .. h.ip4(out, 38))
         assert.equal(h.HOST_MAC, neighbour(h.HOST).mac)
      end)

      it("learns nothing from requests for others, probes and foreign networks", function()
         r, router = h.start(no_neighbours)
         assert.is_nil(r:through(r.lan, h.arp_request(h.HOST_MAC, h.HOST, "10.0.0.77"), r.lan))
         assert.is_nil(r:through(r.lan, h.arp_request(h.HOST_MAC, h.HOST, h.WAN), r.lan))
         assert.is_nil(neighbour(h.HOST))
         assert.is_truthy(r:through(r.lan, h.arp_request(h.HOST_MAC, "0.0.0.0", h.LAN), r.lan))
         assert.is_truthy(r:through(r.lan, h.arp_request(h.HOST_MAC, "172.16.0.1", h.LAN), r.lan))
         assert.equal(2, #router.export().neighbours) -- the gateways
      end)

      it("follows a neighbour that moves, announced or not, but not a configured one", function()
         r, router = h.start(no_neighbours)
         r:through(r.lan, h.arp_request(h.HOST_MAC, h.HOST, h.LAN), r.lan)
         local moved = "02:00:00:00:08:08"
         r:send(r.lan, h.arp_request(moved, h.HOST, h.HOST)) -- gratuitous
         assert.equal(moved, neighbour(h.HOST).mac)
         assert.equal(1, router.export().events.neighbours_moved)
         r:close()
         r, router = h.start()
         r:send(r.lan, h.arp_request(moved, h.HOST, h.HOST))
         assert.equal(h.HOST_MAC, neighbour(h.HOST).mac)
      end)

      it("drops conflicts, bad senders and malformed packets by name", function()
         r, router = h.start(no_neighbours)
         r:send(r.lan, h.arp_request(h.HOST_MAC, h.LAN, "10.0.0.9"))
         r:send(r.lan, h.arp_request("03:00:00:00:00:01", h.HOST, h.LAN))
         r:send(r.lan, h.arp_request(h.HOST_MAC, h.HOST, h.LAN):sub(1, 40))
         local token_ring = h.arp_request(h.HOST_MAC, h.HOST, h.LAN)
         r:send(r.lan, token_ring:sub(1, 14) .. "\0\6" .. token_ring:sub(17))
         assert.equal(0, #r:collect(r.lan))
         assert.equal(1, drops "arp_conflict")
         assert.equal(1, drops "arp_bad_sender")
         assert.equal(2, drops "arp_malformed")
         assert.equal(1, router.export().events.address_conflicts)
      end)

      it("asks a neighbour again after its time, and forgets one that is gone", function()
         r, router = h.start(function(cfg)
            cfg.neighbours, cfg.reachable = {}, 30
         end)
         r:send(r.lan, h.udp4 { dst = "198.51.100.20" })
         r:collect(r.wan)
         r:send(r.wan, h.arp_reply(h.GATE_MAC, "198.51.100.20", h.WAN_MAC, h.WAN))
         r:collect(r.wan)
         r:advance(29)
         assert.equal(0, #r:collect(r.wan))
         r:advance(1.5)
         local out = r:collect(r.wan)
         assert.equal(1, #out)
         is_arp_request(out[1], "198.51.100.20", h.GATE_MAC)
         -- It still forwards meanwhile.
         assert.equal(h.GATE_MAC, h.mac(r:through(r.lan, h.udp4 { dst = "198.51.100.20" }, r.wan), 0))
         r:send(r.wan, h.arp_reply(h.GATE_MAC, "198.51.100.20", h.WAN_MAC, h.WAN))
         assert.equal("reachable", neighbour("198.51.100.20").state)
         r:advance(31)
         seconds(4)
         assert.equal(3, #r:collect(r.wan))
         assert.is_nil(neighbour("198.51.100.20"))
         r:send(r.lan, h.udp4 { dst = "198.51.100.20" })
         is_arp_request(r:collect(r.wan)[1], "198.51.100.20")
      end)

      it("makes room by forgetting those that did not answer, and refuses when there is none", function()
         r, router = h.start(function(cfg)
            cfg.neighbours, cfg.max_neighbours, cfg.icmp_rate = {}, 4, 0
         end)
         for i = 20, 29 do r:send(r.lan, h.udp4 { dst = "198.51.100." .. i }) end
         assert.equal(4, #r:collect(r.wan))
         assert.equal(6, drops "neighbour_table_full")
         seconds(4)
         r:collect(r.wan)
         r:send(r.lan, h.udp4 { dst = "198.51.100.50" })
         is_arp_request(r:collect(r.wan)[1], "198.51.100.50")
      end)
   end)

   describe("by neighbor discovery", function()
      local GROUP, GROUP_MAC = "ff02::1:ff00:2", "33:33:ff:00:00:02"

      local function advertisement(flags, option, from)
         from = from or h.GATE6
         local e = { dst = h.WAN_MAC, src = h.GATE_MAC }
         return h.nd(e, { src = from, dst = h.WAN6 }, 136, flags, from, option)
      end

      it("asks the solicited-node group, keeps the packet and sends it after the answer", function()
         r, router = h.start(no_neighbours)
         local out = r:through(r.lan, h.udp6 {}, r.wan)
         assert.is_true(h.valid_icmp6(out))
         assert.equal(GROUP_MAC .. " " .. h.WAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
         assert.equal(h.WAN6 .. " " .. GROUP, h.ip6(out, 22) .. " " .. h.ip6(out, 38))
         assert.equal(255, h.u8(out, 21))
         assert.equal(0x8700, h.u16(out, 54))
         assert.equal(h.GATE6, h.ip6(out, 62))
         assert.equal(0x0101, h.u16(out, 78))
         assert.equal(h.WAN_MAC, h.mac(out, 80))
         out = r:through(r.wan, advertisement(0x60000000, { 2, h.GATE_MAC }), r.wan)
         assert.equal(h.GATE_MAC, h.mac(out, 0))
         assert.equal(63, h.u8(out, 21))
         assert.equal("reachable", neighbour(h.GATE6).state)
      end)

      it("says address unreachable after three questions", function()
         r, router = h.start(function(cfg) cfg.neighbours = { [h.HOST6] = h.HOST_MAC } end)
         r:send(r.lan, h.udp6 {})
         seconds(4)
         assert.equal(3, #r:collect(r.wan))
         local out = r:collect(r.lan)[1]
         assert.is_true(h.valid_icmp6(out))
         assert.equal(0x0103, h.u16(out, 54))
         assert.equal(h.LAN6 .. " " .. h.HOST6, h.ip6(out, 22) .. " " .. h.ip6(out, 38))
      end)

      it("answers solicitations: solicited, router and override flags, target address option", function()
         r, router = h.start(no_neighbours)
         for _, target in ipairs { h.LAN6, "fe80::ff:fe00:101", "2001:db8:1::" } do
            local ip = { src = h.HOST6, dst = "ff02::1:ff00:1" }
            local input = h.nd(h.eth { dst = "33:33:ff:00:00:01" }, ip, 135, 0, target, { 1, h.HOST_MAC })
            local out = r:through(r.lan, input, r.lan)
            assert.is_true(h.valid_icmp6(out))
            assert.equal(h.HOST_MAC .. " " .. h.LAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
            assert.equal(target .. " " .. h.HOST6, h.ip6(out, 22) .. " " .. h.ip6(out, 38))
            assert.equal(255, h.u8(out, 21))
            assert.equal(0x8800, h.u16(out, 54))
            assert.equal(0xe000, h.u16(out, 58))
            assert.equal(target, h.ip6(out, 62))
            assert.equal(0x0201, h.u16(out, 78))
            assert.equal(h.LAN_MAC, h.mac(out, 80))
         end
         assert.equal(h.HOST_MAC, neighbour(h.HOST6).mac)
      end)

      it("defends its address against duplicate address detection", function()
         r, router = h.start(no_neighbours)
         local ip = { src = "::", dst = "ff02::1:ff00:1" }
         local out = r:through(r.lan, h.nd(h.eth { dst = "33:33:ff:00:00:01" }, ip, 135, 0, h.LAN6), r.lan)
         assert.is_true(h.valid_icmp6(out))
         assert.equal("33:33:00:00:00:01", h.mac(out, 0))
         assert.equal(h.LAN6 .. " ff02::1", h.ip6(out, 22) .. " " .. h.ip6(out, 38))
         assert.equal(0xa000, h.u16(out, 58)) -- not solicited
      end)

      it("drops what RFC 4861 7.1 calls invalid", function()
         r, router = h.start(no_neighbours)
         local function solicit(ip, target, option)
            ip.src, ip.dst = ip.src or h.HOST6, ip.dst or h.LAN6
            r:send(r.lan, h.nd(h.eth(), ip, 135, 0, target, option))
         end
         solicit({ hops = 254 }, h.LAN6)
         solicit({}, "ff02::1:ff00:1")
         solicit({ src = "::" , dst = "ff02::1:ff00:1" }, h.LAN6, { 1, h.HOST_MAC })
         local long = h.nd(h.eth(), { src = h.HOST6, dst = h.LAN6 }, 135, 0, h.LAN6, { 1, h.HOST_MAC })
         local i = { src = h.HOST6, dst = h.LAN6, hops = 255 }
         r:send(r.lan, frame.icmp6_6(h.eth(), i, { type = 135, rest = "\0\0\0\0" },
            frame.ip6(h.LAN6) .. "\1\0" .. frame.mac(h.HOST_MAC)))
         assert.equal(4, drops "nd_malformed")
         r:send(r.lan, long:sub(1, 60) .. "\1" .. long:sub(62))
         assert.equal(1, drops "icmp_checksum")
         solicit({}, "2001:db8:1::77")
         assert.equal(1, drops "nd_not_for_us")
         assert.equal(0, #r:collect(r.lan))
         assert.is_nil(neighbour(h.HOST6))
      end)

      it("resolves a link-local gateway", function()
         r, router = h.start(function(cfg, rig)
            cfg.neighbours, cfg.routes = {}, { { "::/0", via = "fe80::2", port = rig.wan } }
         end)
         local out = r:through(r.lan, h.udp6 {}, r.wan)
         assert.equal("fe80::ff:fe00:102 ff02::1:ff00:2", h.ip6(out, 22) .. " " .. h.ip6(out, 38))
         local ip = { src = "fe80::2", dst = "fe80::ff:fe00:102" }
         out = r:through(r.wan, h.nd({ dst = h.WAN_MAC, src = h.GATE_MAC }, ip, 136, 0x60000000, "fe80::2",
            { 2, h.GATE_MAC }), r.wan)
         assert.equal(h.GATE_MAC, h.mac(out, 0))
      end)

      it("takes a new address only with the override flag", function()
         r, router = h.start(no_neighbours)
         r:send(r.lan, h.udp6 {})
         r:send(r.wan, advertisement(0x60000000, { 2, h.GATE_MAC }))
         local other = "02:00:00:00:08:08"
         r:send(r.wan, advertisement(0x40000000, { 2, other }))
         assert.equal(h.GATE_MAC, neighbour(h.GATE6).mac)
         r:send(r.wan, advertisement(0x60000000, { 2, other }))
         assert.equal(other, neighbour(h.GATE6).mac)
      end)

      it("probes a neighbour by unicast before it forgets it", function()
         r, router = h.start(no_neighbours)
         r:send(r.lan, h.udp6 { dst = "2001:db8:2::20" })
         r:collect(r.wan)
         r:send(r.wan, advertisement(0x60000000, { 2, h.GATE_MAC }, "2001:db8:2::20"))
         r:collect(r.wan)
         r:advance(61)
         local out = r:collect(r.wan)
         assert.equal(1, #out)
         assert.is_true(h.valid_icmp6(out[1]))
         assert.equal(h.GATE_MAC, h.mac(out[1], 0))
         assert.equal("2001:db8:2::20", h.ip6(out[1], 38))
         seconds(4)
         assert.is_nil(neighbour("2001:db8:2::20"))
      end)
   end)
end)
