-- SPDX-License-Identifier: BSD-3-Clause
-- reflect: addresses and ports exchanged, back by the port of entry, every checksum still right.

local frame = require "test.support.frame"
local rigs = require "test.support.rig"
local tw = require "tideway"

local A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"

describe("reflect", function()
   local rig

   local function start(cfg)
      rig = rigs.new { ports = { "one", "two" } }
      rig:chain("c", { rig.one, rig.two }, tw.nf.reflect(cfg))
      rig:start()
   end

   -- What comes back for a frame, by the port that it went in by.
   local function reflected(f, port)
      rig:send(port or rig.one, f)
      local back = rig:collect(port or rig.one)
      assert.equal(0, #rig:collect(port == rig.two and rig.one or rig.two))
      return back[1]
   end

   after_each(function() rig:close() end)

   -- Builders: the frame from x to y; the frame from y to x is what must come back, byte for byte.
   local cases = {
      ["UDP over IPv4"] = function(x, y, e)
         return frame.udp4(e, { src = x.ip4, dst = y.ip4 }, { sport = x.port, dport = y.port }, "payload")
      end,
      ["TCP over IPv4 with options"] = function(x, y, e)
         return frame.tcp4(e, { src = x.ip4, dst = y.ip4, options = "\1\1\1\0" },
            { sport = x.port, dport = y.port }, "GET")
      end,
      ["UDP over IPv6"] = function(x, y, e)
         return frame.udp6(e, { src = x.ip6, dst = y.ip6 }, { sport = x.port, dport = y.port }, "payload")
      end,
      ["ICMP over IPv4"] = function(x, y, e)
         return frame.icmp4(e, { src = x.ip4, dst = y.ip4 }, { type = 8, id = 7, seq = 1 }, "ping")
      end,
      ["ICMPv6"] = function(x, y, e)
         return frame.icmp6_6(e, { src = x.ip6, dst = y.ip6 }, { type = 128 }, "ping")
      end,
      ["a later fragment, whose payload is no header"] = function(x, y, e)
         return frame.eth(e, frame.ipv4({ src = x.ip4, dst = y.ip4, frag = 100 }, "\1\2\3\4\5\6\7\8"))
      end,
      ["a VLAN tag"] = function(x, y, e)
         e.vlan = { { 0x8100, 5 } }
         return frame.udp4(e, { src = x.ip4, dst = y.ip4 }, { sport = x.port, dport = y.port })
      end,
      ["another protocol"] = function(_, _, e)
         e.type = 0x88b5
         return frame.eth(e, "local experimental")
      end,
   }
   local one = { ip4 = "10.0.0.1", ip6 = "2001:db8::1", port = 1000 }
   local other = { ip4 = "192.0.2.200", ip6 = "2001:db8:ffff::2:3", port = 53 }

   for name, build in pairs(cases) do
      it("exchanges addresses and ports of " .. name, function()
         start {}
         local sent, want = build(one, other, { src = A, dst = B }), build(other, one, { src = B, dst = A })
         assert.equal(frame.hex(want), frame.hex(reflected(sent) or ""))
         assert.equal(frame.hex(want), frame.hex(reflected(sent, rig.two) or ""))
      end)
   end

   it("exchanges only Ethernet addresses with ip = false", function()
      start { ip = false }
      local i, u = { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }
      local back = reflected(frame.udp4({ src = A, dst = B }, i, u))
      assert.equal(frame.hex(frame.udp4({ src = B, dst = A }, i, u)), frame.hex(back))
   end)

   it("leaves the SCTP ports that the CRC32c covers", function()
      start {}
      local sctp = frame.u16(1) .. frame.u16(2) .. ("\0"):rep(8)
      local ip = frame.ipv4({ src = "10.0.0.1", dst = "10.0.0.2", proto = 132 }, sctp)
      local back = reflected(frame.eth({ src = A, dst = B }, ip))
      assert.equal(sctp, back:sub(-12))
   end)

   it("drops group destinations, which must not become sources", function()
      start {}
      rig:send(rig.one, frame.eth({ src = A, dst = "ff:ff:ff:ff:ff:ff" }, ("\0"):rep(46)),
         frame.eth({ src = A, dst = "01:00:5e:00:00:01" }, ("\0"):rep(46)))
      assert.equal(0, #rig:collect(rig.one))
      assert.same({ multicast = 2 }, rig:drops())
   end)

   it("drops what is shorter than an Ethernet header, sends back what is cut behind it", function()
      start {}
      local i = { src = "10.0.0.1", dst = "10.0.0.2" }
      local whole = frame.udp4({ src = A, dst = B }, i, { sport = 1, dport = 2 }, "abc")
      for length = 1, #whole do rig:send(rig.one, whole:sub(1, length)) end
      local back = rig:collect(rig.one)
      assert.equal(#whole - 13, #back)
      for _, f in ipairs(back) do assert.equal(frame.hex(frame.mac(A)), frame.hex(f:sub(1, 6))) end
      assert.same({ truncated = 13 }, rig:drops())
   end)

   it("refuses a parameter that it does not have", function()
      start {}
      local ok, err = pcall(function() tw.nf.reflect { ports = true } end)
      assert.is_false(ok)
      assert.is_truthy(err:find('nf_reflect_spec.lua:%d+: reflect: there is no parameter "ports"; there are: ip$'), err)
   end)
end)
