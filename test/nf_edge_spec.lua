-- SPDX-License-Identifier: BSD-3-Clause
-- The edge chain as a whole (NAT, firewall, router, NAT again): that it works together and stays machine code.

local tw = require "tideway"
local Rig = require "test.support.rig"
local frame = require "test.support.frame"

local CLIENT, SERVER, OUTSIDE = "10.0.0.2", "203.0.113.9", "198.51.100.1"
local CLIENT_MAC, GATEWAY_MAC = "02:00:00:00:01:02", "02:00:00:00:02:02"

describe("edge chain", function()
   local rig, lan_mac, wan_mac

   before_each(function()
      rig = Rig.new { ports = { "lan", "wan" } }
      lan_mac, wan_mac = "02:00:00:00:01:01", "02:00:00:00:02:01"
      local router = tw.nf.router {
         ports = {
            { port = rig.lan, addresses = { "10.0.0.1/24" }, mac = lan_mac },
            { port = rig.wan, addresses = { OUTSIDE .. "/24" }, mac = wan_mac },
         },
         routes = { { "0.0.0.0/0", via = "198.51.100.2" } },
         neighbours = { [CLIENT] = CLIENT_MAC, ["198.51.100.2"] = GATEWAY_MAC },
      }
      local nat = tw.nf.napt44 { outside = rig.wan, address = OUTSIDE, inside = "10.0.0.0/24" }
      local firewall = tw.nf.firewall {
         ports = { lan = rig.lan, wan = rig.wan }, rules = "allow established\nallow in lan\ndrop",
      }
      rig:chain("edge", { rig.lan, rig.wan }, nat, firewall, router, nat)
      rig:start()
   end)
   after_each(function() if rig then rig:close() end end)

   local function out(i)
      return frame.udp4({ dst = lan_mac, src = CLIENT_MAC }, { src = CLIENT, dst = SERVER },
         { sport = 5000 + i, dport = 53 }, "question")
   end

   -- The answer to a frame that left by wan.
   local function answer(sent)
      local port = sent:byte(35) * 256 + sent:byte(36)
      return frame.udp4({ dst = wan_mac, src = GATEWAY_MAC }, { src = SERVER, dst = OUTSIDE },
         { sport = 53, dport = port }, "answer")
   end

   it("lets an inside host talk and nobody else in", function()
      local sent = rig:through(rig.lan, out(1), rig.wan)
      assert.equal(frame.ip4(OUTSIDE), sent:sub(27, 30))
      assert.equal(63, sent:byte(23))
      assert.equal(0, frame.checksum(sent:sub(15, 34)))
      local back = rig:through(rig.wan, answer(sent), rig.lan)
      assert.equal(frame.ip4(CLIENT), back:sub(31, 34))
      assert.equal(frame.mac(CLIENT_MAC), back:sub(1, 6))
      rig:send(rig.wan, frame.udp4({ dst = wan_mac }, { src = SERVER, dst = CLIENT }, { sport = 53, dport = 5999 }))
      assert.same({}, rig:collect(rig.lan))
   end)

   it("stays machine code, all four places of it", function()
      local sent, answers = {}, {}
      for i = 1, 32 do sent[i] = out(i) end
      rig:send(rig.lan, unpack(sent))
      for i, f in ipairs(rig:collect(rig.wan)) do answers[i] = answer(f) end
      assert.equal(32, #answers)
      local traces, aborts, where = rig:steady(function()
         for i = 1, 32 do assert(rig.lan:inject(sent[i]) and rig.wan:inject(answers[i])) end
         rig:run()
         assert.equal(32, #rig:collect(rig.wan))
         assert.equal(32, #rig:collect(rig.lan))
      end)
      assert.equal(0, aborts, where)
      assert.is_true(traces <= 16, ("%d new traces"):format(traces))
   end)
end)
