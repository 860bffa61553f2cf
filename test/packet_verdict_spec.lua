-- SPDX-License-Identifier: BSD-3-Clause
-- Verdicts and what else a packet does with the engine: reasons, hold keys, time, growing and shrinking.

local bit = require "bit"
local abi = require "tideway.abi"
local frame = require "test.support.frame"
local packets = require "test.support.packets"
local rigs = require "test.support.rig"
local tideway = require "tideway"

local C = abi.C

describe("verdicts", function()
   local pkt

   before_each(function() pkt = packets.new(("x"):rep(60)) end)

   local function verdict() return bit.band(pkt.verdict, 0xff), bit.rshift(pkt.verdict, 8) end

   it("are words that C understands", function()
      for _, case in ipairs {
         { "send", C.TW_PORT, 5 }, { "flood", C.TW_FLOOD, 0 }, { "pass", C.TW_PASS, 0 }, { "punt", C.TW_PUNT, 0 },
      } do
         assert.is_nil(pkt[case[1]](pkt, case[3]))
         assert.same({ case[2], case[3] }, { verdict() }, case[1])
      end
   end)

   it("drop names its reason with the engine, once", function()
      pkt:drop "spec_one"
      local kind, one = verdict()
      assert.equal(C.TW_DROP, kind)
      assert.equal(one, C.tw_reason_id "spec_one")
      pkt:drop "spec_two"
      local _, two = verdict()
      assert.equal(two, C.tw_reason_id "spec_two")
      assert.is_true(one ~= two)
      pkt:drop "spec_one"
      assert.equal(one, (select(2, verdict())))
   end)

   it("drop wants a string, at the caller's line", function()
      for _, wrong in ipairs { 5, {}, false } do
         local ok, err = pcall(function() pkt:drop(wrong) end)
         assert.is_false(ok)
         assert.truthy(tostring(err):find("packet_verdict_spec.lua:%d+"), err)
      end
   end)

   it("route chooses the port and is no verdict", function()
      pkt:route(3)
      assert.equal(3, pkt.out)
      assert.equal(0, pkt.verdict)
   end)

   it("hold keeps the key", function()
      pkt:hold({ id = 4 }, 2 ^ 52 + 1)
      assert.same({ C.TW_HOLD, 4 }, { verdict() })
      assert.equal(2 ^ 52 + 1, tonumber(pkt.key))
   end)

   it("unknown names are refused at the caller's line", function()
      for _, attempt in ipairs {
         function() return pkt.ttl end, function() pkt:ipv5() end, function() pkt.ttl = 1 end,
      } do
         local ok, err = pcall(attempt)
         assert.is_false(ok)
         assert.truthy(err:find("packet_verdict_spec.lua:%d+"), err)
      end
   end)

   it("a packet prints what it is", function()
      pkt:send(2)
      assert.equal("packet{len=60 port=0 out=65535 mark=0 verdict=port}", tostring(pkt))
   end)

   it("now is a number", function()
      local before = tonumber(C.tw_now())
      assert.is_true(pkt:now() >= before or require("tideway.packet").burst ~= nil)
   end)
end)

describe("in the engine", function()
   local rig

   local function start(nf)
      rig = rigs.new { ports = { "one", "two" } }
      rig:chain("c", rig.one, tideway.nf("spec", function() return { packet = nf } end) {}, rig.two)
      rig:start()
   end

   after_each(function() rig:close() end)

   local UDP4 = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 5, dport = 6 }, "payload")

   local function tagged(...)
      local tags = {}
      for i, id in ipairs { ... } do tags[i] = { id > 100 and 0x88a8 or 0x8100, id } end
      return frame.udp4({ vlan = tags }, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 5, dport = 6 }, "payload")
   end

   it("VLAN tags are pushed", function()
      start(function(pkt)
         if not pkt:push_vlan(5) or not pkt:push_vlan(101, 0x88a8) then return pkt:drop "no_room" end
         local udp = pkt:udp()
         if not udp or pkt:vlan().vid ~= 101 or pkt:vlan(2).vid ~= 5 then return pkt:drop "not_found" end
      end)
      assert.equal(frame.hex(tagged(101, 5)), frame.hex(rig:through(rig.one, UDP4, rig.two)))
   end)

   it("VLAN tags are popped", function()
      start(function(pkt)
         pkt:pop_vlan()
         pkt:pop_vlan()
         if pkt:pop_vlan() then return pkt:drop "one_too_many" end
      end)
      assert.equal(frame.hex(UDP4), frame.hex(rig:through(rig.one, tagged(101, 5), rig.two)))
      assert.equal(frame.hex(UDP4), frame.hex(rig:through(rig.one, tagged(5), rig.two)))
      assert.equal(frame.hex(UDP4), frame.hex(rig:through(rig.one, UDP4, rig.two)))
   end)

   it("frames grow and shrink at both ends", function()
      start(function(pkt)
         local len = pkt.len
         if not pkt:adjust_head(-8) or pkt.len ~= len + 8 then return pkt:drop "head" end
         if not pkt:adjust_tail(4) or pkt.len ~= len + 12 then return pkt:drop "tail" end
         pkt:set_u32(0, 0x01020304)
         pkt:set_u32(4, 0x05060708)
         pkt:set_u32(pkt.len - 4, 0x0a0b0c0d)
         if pkt:adjust_head(pkt.len) or pkt:adjust_tail(-pkt.len - 1) or pkt:adjust_head(-100000) then
            return pkt:drop "must_fail"
         end
         if not pkt:adjust_head(2) or not pkt:adjust_tail(-1) then return pkt:drop "shrink" end
      end)
      assert.equal(frame.hex("\3\4\5\6\7\8" .. UDP4 .. "\10\11\12"), frame.hex(rig:through(rig.one, UDP4, rig.two)))
   end)

   it("now is the time of the burst", function()
      start(function(pkt)
         local now = pkt:now()
         pkt:set_u32(pkt.len - 4, math.floor(now / 2 ^ 32))
         pkt:set_u32(pkt.len - 8, now % 2 ^ 32)
      end)
      local before = tonumber(C.tw_now())
      local out = rig:through(rig.one, UDP4, rig.two)
      local word = function(at) return tonumber(out:sub(at, at + 3):gsub(".", function(c)
         return ("%02x"):format(c:byte())
      end), 16) end
      local now = word(#out - 3) * 2 ^ 32 + word(#out - 7)
      assert.is_true(now >= before and now <= tonumber(C.tw_now()))
   end)

   it("headers of one's own move to the lcore", function()
      local mine = tideway.header("mine", "be16 tag; u4 a; u4 b", { sum = function(self) return self.a + self.b end })
      start(function(pkt)
         local h = pkt:header(mine, pkt.len - 3)
         if not h then return pkt:drop "short" end
         h.tag = h:sum()
      end)
      assert.equal("\0\7\52", rig:through(rig.one, UDP4 .. "ab\52", rig.two):sub(-3))
   end)

   it("addresses and headers of tideway are known on the lcore", function()
      local ip6, net, udp_header = tideway.ip6 "2001:db8::7", tideway.prefix "10.0.0.0/24", tideway.headers.udp
      start(function(pkt)
         local ip = pkt:ipv4()
         if not ip or not net:contains(ip.src) then return pkt:drop "not_in_net" end
         if ip6:u32(3) ~= 7 or ip6 ~= ip6:copy() then return pkt:drop "address" end
         local udp = pkt:header(udp_header, 34)
         udp.dst_port = 77
      end)
      assert.equal("\0\77", rig:through(rig.one, UDP4, rig.two):sub(37, 38))
   end)
end)
