-- SPDX-License-Identifier: BSD-3-Clause
-- The NFs of examples/nf that put headers in front of packets and take them away: VLAN tags, load balancers,
-- tunnels. And the ring that the load balancer stands on.

local frame = require "test.support.frame"
local suite = require "test.support.suite"
local tw = require "tideway"

local maglev = tw.maglev

local hex = frame.hex
local A, B, GATEWAY = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:fe"

local s
local function start(name, config) s = suite.start(name, config) end
local function stop() s:close() end
local function same(want, got) assert.equal(hex(want), got and hex(got)) end

describe("vlan", function()
   before_each(function()
      start("vlan", { map = {
         [0] = { push = 10 }, [20] = { pop = true }, [30] = { to = 31 }, [5] = {}, [6] = { push = 7 },
      } })
   end)
   after_each(stop)

   local function tagged(...)
      local tags = {}
      for i, tci in ipairs { ... } do tags[i] = { 0x8100, tci } end
      return frame.udp4({ vlan = tags }, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, "data")
   end
   local function gives(want, f)
      local verdict, out = s:run(f)
      assert.equal("next", verdict)
      same(want, out)
   end

   it("pushes a tag, also in front of another", function()
      gives(tagged(10), tagged())
      gives(tagged(7, 6), tagged(6))
   end)

   it("pops the outer tag only", function()
      gives(tagged(), tagged(20))
      gives(tagged(99), tagged(20, 99))
   end)

   it("translates and keeps the priority", function()
      gives(tagged(0xe000 + 31), tagged(0xe000 + 30))
      gives(tagged(0x5000 + 31, 30), tagged(0x5000 + 30, 30))
   end)

   it("lets a VLAN pass as it is and drops those it does not know", function()
      gives(tagged(5), tagged(5))
      assert.equal("vlan_unknown", (s:run(tagged(21))))
      assert.equal("vlan_short", (s:run "short"))
   end)

   it("counts, and pushes service tags", function()
      s:run(tagged(20))
      s:run(tagged(0x2000 + 20))
      assert.equal(2, tonumber(s.tables.vlans:get(20).packets))
      stop()
      start("vlan", { map = { [0] = { push = 10 } }, service = true })
      gives(frame.udp4({ vlan = { { 0x88a8, 10 } } }, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 },
         "data"), tagged())
   end)
end)

describe("maglev", function()
   local function names(n)
      local list = {}
      for i = 1, n do list[i] = "10.0.0." .. i end
      return list
   end
   local function counts(ring)
      local n = {}
      for _, name in ipairs(ring) do n[name] = (n[name] or 0) + 1 end
      return n
   end

   it("gives every name about the same share", function()
      local ring = maglev(names(10), 65537)
      assert.equal(65537, #ring)
      for _, n in pairs(counts(ring)) do assert.is_true(n >= 6553 and n <= 6554, n) end
   end)

   it("does not depend on the order of the names", function()
      local list = names(7)
      local ring = maglev(list, 10007)
      table.sort(list, function(a, b) return a > b end)
      assert.same(ring, maglev(list, 10007))
   end)

   it("moves little when one of ten goes away", function()
      local before, after = maglev(names(10), 65537), maglev(names(9), 65537)
      local moved = 0
      for i, name in ipairs(before) do
         if name ~= "10.0.0.10" and after[i] ~= name then moved = moved + 1 end
      end
      assert.is_true(moved < 65537 / 20, moved)
   end)

   it("is empty without names, and refuses sizes that are no primes", function()
      assert.same({}, maglev({}, 7))
      local ok, err = pcall(maglev, names(2), 65536)
      assert.is_false(ok)
      assert.truthy(err:find("size is 65536; it must be a prime", 1, true), err)
   end)
end)

local VIPS = {
   { address = "192.0.2.1", port = 80, proto = 6, reals = { "10.0.0.2", "10.0.0.3", "10.0.0.4" } },
   { address = "192.0.2.1", port = 443, proto = 17, reals = { "10.0.0.5" } },
}

local function client(sport, o)
   o = o or {}
   local i = { src = "203.0.113.1", dst = o.dst or "192.0.2.1", tos = 0x28, options = o.options, frag = o.frag }
   local t = { sport = sport, dport = o.dport or 80 }
   return frame[o.kind or "tcp4"]({ dst = B, src = A }, i, t, o.data or "hello")
end

for tunnel, extra in pairs { ipip = 20, gue = 28 } do
   describe("lb " .. tunnel, function()
      before_each(function() start("lb", { vips = VIPS, gateway = GATEWAY, tunnel = tunnel }) end)
      after_each(stop)

      it("puts the packet behind a tunnel header that is right", function()
         local f = client(1000)
         local verdict, out = s:run(f)
         assert.equal("send", verdict)
         assert.equal(#f + extra, #out)
         same(frame.mac(GATEWAY) .. frame.mac(B) .. "\8\0", out:sub(1, 14))
         assert.equal(0, frame.checksum(out:sub(15, 34)))
         assert.equal("4528" .. hex(frame.u16(#f - 14 + extra)), hex(out:sub(15, 18)))
         assert.equal(tunnel == "gue" and 17 or 4, out:byte(24))
         same(f:sub(15), out:sub(15 + extra))
         if tunnel == "gue" then assert.equal("17c0" .. hex(frame.u16(#f - 14 + 8)) .. "0000", hex(out:sub(37, 42))) end
      end)

      it("keeps a flow at one server and spreads flows over all of them", function()
         local seen, count = {}, 0
         for sport = 1, 300 do
            local _, out = s:run(client(sport))
            local _, again = s:run(client(sport))
            local real = hex(out:sub(31, 34))
            same(out, again)
            if not seen[real] then seen[real], count = 0, count + 1 end
            seen[real] = seen[real] + 1
         end
         assert.equal(3, count)
         for _, n in pairs(seen) do assert.is_true(n > 60, n) end
      end)

      it("balances UDP by its own servers, and counts", function()
         local _, out = s:run(client(5, { kind = "udp4", dport = 443 }))
         same(frame.ip4 "10.0.0.5", out:sub(31, 34))
         s:run(client(6, { kind = "udp4", dport = 443 }))
         s:run(client(6))
         assert.same({ 1, 2 }, { s.tables.packets:sum(0), s.tables.packets:sum(1) })
      end)

      it("leaves other packets alone", function()
         for _, o in ipairs {
            { dport = 81 }, { dst = "192.0.2.2" }, { kind = "udp4" }, { frag = 0x2000 }, { frag = 3 },
            { options = "\1\1\1\1" },
         } do
            local verdict, out = s:run(client(1, o))
            assert.equal("next", verdict)
            same(client(1, o), out)
         end
      end)

      it("drops what would not fit the path", function()
         local room = 1500 - extra - 40
         assert.equal("send", (s:run(client(1, { data = ("x"):rep(room) }))))
         assert.equal("lb_too_big", (s:run(client(1, { data = ("x"):rep(room + 1) }))))
      end)
   end)
end

describe("decap", function()
   before_each(function() start("decap", { addresses = { "10.0.0.2" } }) end)
   after_each(stop)

   local inner = frame.udp4({}, { src = "203.0.113.1", dst = "192.0.2.1" }, { sport = 1, dport = 2 }, "data"):sub(15)
   local inner6 = frame.udp6({}, { src = "::1", dst = "::2" }, { sport = 1, dport = 2 }, "data"):sub(15)
   local function ipip(payload, proto, o)
      local i = { src = "10.9.0.1", dst = "10.0.0.2", proto = proto or 4 }
      for k, v in pairs(o or {}) do i[k] = v end
      return frame.eth({ dst = B, src = A, vlan = i.vlan }, frame.ipv4(i, payload))
   end
   local function gue(payload, dport)
      return frame.udp4({ dst = B, src = A }, { src = "10.9.0.1", dst = "10.0.0.2" },
         { sport = 50000, dport = dport or 6080 }, payload)
   end
   local function gives(want, type, f)
      local verdict, out = s:run(f)
      assert.equal("next", verdict)
      same(frame.eth({ dst = B, src = A, type = type }, want), out)
   end

   it("takes IPIP headers away, options and tags with them", function()
      gives(inner, 0x0800, ipip(inner))
      gives(inner, 0x0800, ipip(inner, 4, { options = "\1\1\1\1\1\1\1\1" }))
      gives(inner, 0x0800, ipip(inner, 4, { vlan = { { 0x8100, 5 } } }))
   end)

   it("takes IPv6 out of IPv4", function() gives(inner6, 0x86dd, ipip(inner6, 41)) end)

   it("takes GUE away, with its header and without", function()
      gives(inner, 0x0800, gue(inner))
      gives(inner6, 0x86dd, gue(inner6))
      gives(inner, 0x0800, gue("\0\4\0\0" .. inner))
      assert.equal("decap_unsupported", (s:run(gue("\0\4\0\1" .. inner))))
      assert.equal("decap_unsupported", (s:run(gue("\2\4\0\0" .. inner))))
   end)

   it("leaves what is not for it alone", function()
      for _, f in ipairs {
         ipip(inner, 4, { dst = "10.0.0.3" }), ipip(inner, 47), gue(inner, 6081), ipip(inner, 4, { frag = 0x2000 }),
      } do
         local verdict, out = s:run(f)
         assert.equal("next", verdict)
         same(f, out)
      end
   end)

   it("drops packets with nothing whole inside", function()
      for _, payload in ipairs {
         "", inner:sub(1, 19), inner:sub(1, -2), "\70" .. inner:sub(2, 21), "\68" .. inner:sub(2), ("\0"):rep(40),
         inner6:sub(1, 39),
      } do
         assert.equal("decap_malformed", (s:run(ipip(payload))))
      end
      assert.equal(0, tonumber(s.tables.ours:get(0x0a000002).packets))
   end)

   it("undoes what the load balancer did", function()
      stop()
      for tunnel, extra in pairs { ipip = 20, gue = 28 } do
         start("lb", { vips = VIPS, gateway = GATEWAY, tunnel = tunnel })
         local _, out = s:run(client(77))
         local real = out:sub(31, 34)
         stop()
         start("decap", { addresses = { ("%d.%d.%d.%d"):format(real:byte(1, 4)) } })
         local verdict, plain = s:run(out)
         assert.equal("next", verdict)
         assert.equal(#out - extra, #plain)
         same(client(77):sub(15), plain:sub(15))
         stop()
      end
      start("decap", { addresses = {} })
   end)
end)

describe("vxlan", function()
   local CONFIG = {
      address = "172.16.0.1", mac = A, gateway = GATEWAY, vlans = { [10] = 7001, [20] = 0xabcdef },
      stations = { { mac = B, vni = 7001, at = "172.16.0.2" } },
   }
   before_each(function() start("vxlan", CONFIG) end)
   after_each(stop)

   local I = { src = "10.1.0.1", dst = "10.1.0.2" }
   local function plain(vid, dst)
      return frame.udp4({ dst = dst or B, src = "02:00:00:00:00:77", vlan = vid and { { 0x8100, vid } } }, I,
         { sport = 1, dport = 2 }, "data")
   end
   local function tunnelled(vni, f, flags, sport, i)
      i = i or { src = "172.16.0.2", dst = "172.16.0.1" }
      return frame.udp4({ dst = A, src = GATEWAY }, i, { sport = sport or 50000, dport = 4789 },
         frame.u32(flags or 0x08000000) .. frame.u32(vni * 256) .. f)
   end

   it("sends a station's frame, without its tag, to where it lives", function()
      local verdict, out = s:run(plain(10))
      assert.equal("send", verdict)
      local sport = out:byte(35) * 256 + out:byte(36)
      assert.is_true(sport >= 0xc000)
      local want = frame.udp4({ dst = GATEWAY, src = A }, { src = "172.16.0.1", dst = "172.16.0.2", df = true },
         { sport = sport, dport = 4789, no_checksum = true }, frame.u32(0x08000000) .. frame.u32(7001 * 256) .. plain())
      same(want, out)
   end)

   it("brings frames out of tunnels into the VLAN", function()
      local verdict, out = s:run(tunnelled(0xabcdef, plain()))
      assert.equal("send", verdict)
      same(plain(20), out)
   end)

   it("drops unknown stations and networks, and frames too long", function()
      assert.equal("vxlan_unknown_station", (s:run(plain(20))))
      assert.equal("vxlan_unknown_station", (s:run(plain(10, GATEWAY))))
      assert.equal("vxlan_unknown_vni", (s:run(tunnelled(7002, plain()))))
      assert.equal("vxlan_short", (s:run(tunnelled(7001, "no frame"))))
      assert.equal("vxlan_too_big", (s:run(plain(10) .. ("x"):rep(1500))))
   end)

   it("leaves other frames alone", function()
      for _, f in ipairs {
         plain(30), plain(), tunnelled(7001, plain(), 0),
         tunnelled(7001, plain(), nil, nil, { src = "172.16.0.2", dst = "172.16.0.9" }),
      } do
         local verdict, out = s:run(f)
         assert.equal("next", verdict)
         same(f, out)
      end
   end)

   it("comes out of a tunnel as it went in", function()
      local _, out = s:run(plain(10))
      stop()
      CONFIG.address, CONFIG.stations = "172.16.0.2", {}
      start("vxlan", CONFIG)
      local verdict, back = s:run(out)
      assert.equal("send", verdict)
      same(plain(10), back)
   end)
end)
