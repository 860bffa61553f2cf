-- SPDX-License-Identifier: BSD-3-Clause
-- router: ICMP and ICMPv6 messages, MTU and fragmentation, on wire ports.

local frame = require "test.support.frame"
local h = require "test.support.router"

local r, router

local function drops(name) return r:drops()[name] or 0 end

local function small_wan(cfg) cfg.ports[2].mtu = 1280 end

-- An ICMP error to the host, from the LAN address, that quotes `input` from its IP header on.
local function is_error4(out, type, code, input)
   assert.is_true(h.valid_icmp4(out))
   assert.equal(h.HOST_MAC .. " " .. h.LAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
   assert.equal(h.LAN .. " " .. h.HOST, h.ip4(out, 26) .. " " .. h.ip4(out, 30))
   assert.equal(type * 256 + code, h.u16(out, 34))
   assert.equal(64, h.u8(out, 22))
   local quoted = input:sub(15, 14 + math.min(#input - 14, 576 - 28))
   assert.equal(frame.hex(quoted), frame.hex(out:sub(43)))
   assert.equal(14 + 28 + #quoted, #out)
   assert.equal(28 + #quoted, h.u16(out, 16))
end

local function is_error6(out, type, code, input)
   assert.is_true(h.valid_icmp6(out))
   assert.equal(h.HOST_MAC .. " " .. h.LAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
   assert.equal(h.LAN6 .. " " .. h.HOST6, h.ip6(out, 22) .. " " .. h.ip6(out, 38))
   assert.equal(type * 256 + code, h.u16(out, 54))
   local quoted = input:sub(15, 14 + math.min(#input - 14, 1280 - 48))
   assert.equal(frame.hex(quoted), frame.hex(out:sub(63)))
   assert.equal(14 + 48 + #quoted, #out)
end

local function quiet(input, reason, port)
   local before = drops(reason)
   r:send(port or r.lan, input)
   assert.equal(0, #r:collect(r.lan) + #r:collect(r.wan))
   assert.equal(before + 1, drops(reason), reason)
end

describe("router ICMP", function()
   after_each(function()
      if r then r:close() end
      r = nil
   end)

   it("answers echo requests to its addresses, of any size", function()
      r, router = h.start()
      for _, dst in ipairs { h.LAN, h.WAN } do
         for _, size in ipairs { 0, 1, 56, 1472 } do
            local data = ("abcdefgh"):rep(184):sub(1, size)
            local out = r:through(r.lan, h.icmp4({ dst = dst, ttl = 1 }, { type = 8, id = 7, seq = 9 }, data), r.lan)
            assert.is_true(h.valid_icmp4(out))
            assert.equal(dst .. " " .. h.HOST, h.ip4(out, 26) .. " " .. h.ip4(out, 30))
            assert.equal(h.HOST_MAC .. " " .. h.LAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
            assert.equal(0x0000, h.u16(out, 34))
            assert.equal(0x00070009, h.u32(out, 38))
            assert.equal(64, h.u8(out, 22))
            assert.equal(data, out:sub(43))
         end
      end
   end)

   it("answers ICMPv6 echo requests to its addresses and to all routers", function()
      r, router = h.start()
      for _, dst in ipairs { h.LAN6, h.WAN6, "2001:db8:1::", "ff02::2" } do
         local out = r:through(r.lan, h.icmp6({ dst = dst, hops = 1 }, { type = 128, id = 7, seq = 9 }, "ping6"), r.lan)
         assert.is_true(h.valid_icmp6(out))
         local from = dst == "ff02::2" and h.LAN6 or dst
         assert.equal(from .. " " .. h.HOST6, h.ip6(out, 22) .. " " .. h.ip6(out, 38))
         assert.equal(0x8100, h.u16(out, 54))
         assert.equal("ping6", out:sub(63))
      end
      local out = r:through(r.lan, h.icmp6({ src = "fe80::5", dst = "fe80::ff:fe00:101" }, { type = 128 }), r.lan)
      assert.equal("fe80::ff:fe00:101 fe80::5", h.ip6(out, 22) .. " " .. h.ip6(out, 38))
      quiet(h.icmp6({ src = "fe80::5", dst = "fe80::ff:fe00:102" }, { type = 128 }), "link_local")
   end)

   it("drops other ICMP to itself, and what has a wrong checksum", function()
      r, router = h.start()
      quiet(h.icmp4({ dst = h.LAN }, { type = 0 }), "icmp_ignored")
      quiet(h.icmp4({ dst = h.LAN }, { type = 13 }), "icmp_ignored")
      local f = h.icmp4({ dst = h.LAN }, { type = 8 }, "ping")
      quiet(f:sub(1, -2) .. "G", "icmp_checksum")
      quiet(h.icmp4({ dst = h.LAN, frag = 0x2000 }, { type = 8 }), "local_fragment")
   end)

   it("says time exceeded, quoting as much as fits", function()
      r, router = h.start()
      for _, size in ipairs { 0, 100, 520, 521, 1400 } do
         local input = h.udp4({ ttl = 1, tos = 8, id = 5 }, ("x"):rep(size))
         is_error4(r:through(r.lan, input, r.lan), 11, 0, input)
      end
      local input = h.udp4 { ttl = 0 }
      is_error4(r:through(r.lan, input, r.lan), 11, 0, input)
      assert.equal(6, router.export().events.sent_time_exceeded)
      for _, size in ipairs { 0, 1184, 1185, 1400 } do
         input = h.udp6({ hops = 1 }, ("x"):rep(size))
         is_error6(r:through(r.lan, input, r.lan), 3, 0, input)
      end
   end)

   it("says network unreachable without a route", function()
      r, router = h.start(function(cfg) cfg.routes = {} end)
      local input = h.udp4 {}
      is_error4(r:through(r.lan, input, r.lan), 3, 0, input)
      input = h.udp6 {}
      is_error6(r:through(r.lan, input, r.lan), 1, 0, input)
   end)

   it("says port unreachable for UDP and TCP to itself, protocol unreachable for others", function()
      r, router = h.start()
      local input = h.udp4 { dst = h.LAN }
      is_error4(r:through(r.lan, input, r.lan), 3, 3, input)
      input = frame.eth(h.eth(), frame.ipv4({ src = h.HOST, dst = h.LAN, proto = 132 }, ("s"):rep(12)))
      is_error4(r:through(r.lan, input, r.lan), 3, 2, input)
      input = h.udp6 { dst = h.LAN6 }
      is_error6(r:through(r.lan, input, r.lan), 1, 4, input)
      input = frame.eth(h.eth { type = 0x86dd }, frame.ipv6({ src = h.HOST6, dst = h.LAN6, next = 132 }, ("s"):rep(12)))
      local out = r:through(r.lan, input, r.lan)
      is_error6(out, 4, 1, input)
      assert.equal(6, h.u32(out, 58))
   end)

   it("answers a source that is not resolved to the station the packet came from", function()
      r, router = h.start(function(cfg) cfg.neighbours = {} end)
      local out = r:through(r.lan, h.icmp4({ dst = h.LAN }, { type = 8 }), r.lan)
      assert.equal(h.HOST_MAC, h.mac(out, 0))
   end)

   it("sends no error about errors, groups, later fragments and impossible sources", function()
      r, router = h.start()
      local inner = frame.ipv4({ src = h.HOST, dst = "192.0.2.9" }, ("\0"):rep(8))
      for _, type in ipairs { 3, 4, 5, 11, 12, 99 } do
         quiet(h.icmp4({ dst = "192.0.2.9", ttl = 1 }, { type = type }, inner), "ttl_expired")
      end
      quiet(h.udp4 { ttl = 1, frag = 5 }, "ttl_expired")
      quiet(h.udp4({ ttl = 1 }, "", { dst = h.BROADCAST }), "link_broadcast")
      quiet(h.udp4 { dst = h.LAN, src = "10.0.0.255" }, "martian_source")
      quiet(h.udp6 { hops = 1, src = "::" }, "martian_source")
      quiet(h.icmp6({ dst = "2001:db8:9::9", hops = 1 }, { type = 1 }), "hop_limit_exceeded")
      quiet(h.icmp6({ dst = "2001:db8:9::9", hops = 1 }, { type = 137 }), "hop_limit_exceeded")
      assert.equal(0, router.export().events.sent_time_exceeded)
      -- An echo request may be complained about.
      local input = h.icmp4({ dst = "192.0.2.9", ttl = 1 }, { type = 8 })
      is_error4(r:through(r.lan, input, r.lan), 11, 0, input)
   end)

   it("limits its errors to a rate", function()
      r, router = h.start(function(cfg) cfg.icmp_rate = 10 end)
      local function storm()
         for _ = 1, 30 do r:send(r.lan, h.udp4 { ttl = 1 }) end
         return #r:collect(r.lan)
      end
      assert.equal(10, storm())
      assert.equal(20, drops "ttl_expired")
      r:advance(0.5)
      assert.equal(5, storm())
      r:advance(10)
      assert.equal(10, storm())
      assert.equal(65, router.export().events.icmp_limited)
   end)

   describe("MTU", function()
      it("is told to senders that forbid fragmentation", function()
         r, router = h.start(function(cfg) cfg.ports[2].mtu = 1000 cfg.ports[2].addresses = { h.WAN .. "/24" }
            cfg.routes[2], cfg.neighbours[h.GATE6] = nil, nil
         end)
         assert.equal(1014, #r:through(r.lan, h.udp4({ df = true }, ("x"):rep(972)), r.wan))
         local input = h.udp4({ df = true }, ("x"):rep(973))
         local out = r:through(r.lan, input, r.lan)
         is_error4(out, 3, 4, input)
         assert.equal(1000, h.u32(out, 38))
         assert.equal(0, #r:collect(r.wan))
      end)

      it("of IPv6 is told with packet too big", function()
         r, router = h.start(small_wan)
         assert.equal(1294, #r:through(r.lan, h.udp6({}, ("x"):rep(1232)), r.wan))
         local input = h.udp6({}, ("x"):rep(1233))
         local out = r:through(r.lan, input, r.lan)
         is_error6(out, 2, 0, input)
         assert.equal(1280, h.u32(out, 58))
      end)

      -- Puts fragments together by offset; checks each.
      local function reassemble(list, mtu)
         local data, stop = {}, nil
         for _, f in ipairs(list) do
            assert.is_true(h.valid4(f))
            assert.equal(h.GATE_MAC .. " " .. h.WAN_MAC, h.mac(f, 0) .. " " .. h.mac(f, 6))
            assert.equal(14 + h.u16(f, 16), #f)
            assert.is_true(#f - 14 <= mtu)
            assert.equal(63, h.u8(f, 22))
            local flags, head = h.u16(f, 20), h.u8(f, 14) % 16 * 4
            local at = flags % 0x2000 * 8
            data[at] = f:sub(15 + head)
            if flags < 0x2000 then stop = at + #data[at] end
         end
         local text = {}
         local at = 0
         while data[at] do
            text[#text + 1] = data[at]
            at = at + #data[at]
         end
         return table.concat(text), stop == at
      end

      it("makes fragments of the others, which together are the packet", function()
         for _, case in ipairs { { 68, 300 }, { 100, 1001 }, { 576, 1472 }, { 1281, 1400 } } do
            local mtu, size = case[1], case[2]
            r, router = h.start(function(cfg)
               cfg.ports[2].mtu, cfg.ports[2].addresses = mtu, { h.WAN .. "/24" }
               cfg.routes[2], cfg.neighbours[h.GATE6] = nil, nil
            end)
            local data = {}
            for i = 1, size do data[i] = string.char(i * 7 % 251) end
            local input = h.udp4({ id = 77 }, table.concat(data))
            r:send(r.lan, input)
            local list = r:collect(r.wan)
            assert.is_true(#list > 1)
            local whole, complete = reassemble(list, mtu)
            assert.is_true(complete)
            assert.equal(frame.hex(input:sub(35)), frame.hex(whole))
            for _, f in ipairs(list) do assert.equal(77, h.u16(f, 18)) end
            assert.equal(1, router.export().events.fragmented)
            r:close()
         end
         r = nil
      end)

      it("fragments fragments, and copies the options that are for all of them", function()
         r, router = h.start(function(cfg)
            cfg.ports[2].mtu, cfg.ports[2].addresses = 200, { h.WAN .. "/24" }
            cfg.routes[2], cfg.neighbours[h.GATE6] = nil, nil
         end)
         local options = "\68\8\5\0\0\0\0\0" .. "\148\4\0\0" -- a time stamp, not copied; router alert, copied
         local ip = { src = h.HOST, dst = "192.0.2.9", frag = 0x2000 + 10, options = options }
         local input = frame.eth(h.eth(), frame.ipv4(ip, ("0123456789abcdef"):rep(32)))
         r:send(r.lan, input)
         local list = r:collect(r.wan)
         assert.equal(3, #list)
         local at = 10
         for i, f in ipairs(list) do
            assert.is_true(h.valid4(f))
            local head = h.u8(f, 14) % 16 * 4
            assert.equal(i == 1 and options or "\148\4\0\0", f:sub(35, 14 + head))
            assert.equal(0x2000 + at, h.u16(f, 20)) -- more follow even after the last
            at = at + (#f - 14 - head) / 8
         end
         assert.equal(10 + 512 / 8, at)
      end)
   end)
end)
