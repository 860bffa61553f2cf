-- SPDX-License-Identifier: BSD-3-Clause
-- l2_bridge: learning, moving, ageing, flooding, filtering, VLANs, static stations, a full table.

local frame = require "test.support.frame"
local rigs = require "test.support.rig"
local tw = require "tideway"

local A, B, C = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
local BROADCAST = "ff:ff:ff:ff:ff:ff"
local PAYLOAD = ("x"):rep(46)

describe("l2_bridge", function()
   local rig, bridge

   -- Three ports a, b, c in one chain. A function makes the configuration when ports are open.
   local function start(cfg)
      rig = rigs.new { ports = { "a", "b", "c" } }
      bridge = tw.nf.l2_bridge(type(cfg) == "function" and cfg() or cfg or {})
      rig:chain("bridge", { rig.a, rig.b, rig.c }, bridge)
      rig:start()
   end

   after_each(function() rig:close() end)

   local function tagged(vlan, tpid) return vlan and { { tpid or 0x8100, vlan } } end

   -- Send a frame into a port; returns the ports that it left by, in order, as "bc".
   local function out(port, src, dst, vlan, tpid)
      local f = frame.eth({ src = src, dst = dst, vlan = tagged(vlan, tpid), type = 0x88b5 }, PAYLOAD)
      rig:send(port, f)
      local left = ""
      for _, name in ipairs { "a", "b", "c" } do
         for _, got in ipairs(rig:collect(rig[name])) do
            assert.equal(frame.hex(f), frame.hex(got))
            left = left .. name
         end
      end
      return left
   end

   local function station(mac)
      for _, s in ipairs(bridge.export().stations) do
         if s.mac == mac then return s end
      end
   end

   it("floods what it does not know to every port but the one it came from", function()
      start()
      assert.equal("bc", out(rig.a, A, B))
      assert.equal("ac", out(rig.b, C, B))
      assert.equal(2, bridge.export().events.unknown)
   end)

   it("floods broadcast and multicast, learned or not", function()
      start()
      assert.equal("bc", out(rig.a, A, BROADCAST))
      assert.equal("ab", out(rig.c, C, "33:33:00:00:00:01"))
      assert.equal("ab", out(rig.c, C, "01:80:c2:00:00:10"))
      assert.equal(0, bridge.export().events.unknown)
   end)

   it("learns where a station is and sends there alone", function()
      start()
      out(rig.a, A, BROADCAST)
      assert.equal("a", out(rig.b, B, A))
      assert.equal("b", out(rig.a, A, B))
      assert.equal("a", out(rig.c, C, A))
      local s = station(A)
      assert.equal(rig.a.index, s.port)
      assert.is_false(s.static)
      assert.is_true(s.expires_in > 298 and s.expires_in <= 300)
      assert.equal(3, bridge.export().events.learned)
   end)

   it("learns from what it then drops or keeps", function()
      start()
      assert.equal("", out(rig.a, A, "01:80:c2:00:00:00"))
      assert.equal("a", out(rig.b, B, A))
   end)

   it("never sends a frame back to where it came from", function()
      start()
      out(rig.a, A, BROADCAST)
      out(rig.a, B, BROADCAST)
      assert.equal("", out(rig.a, A, B))
      assert.equal("", out(rig.a, A, A))
      assert.same({ same_port = 2 }, rig:drops())
   end)

   it("follows a station that moves", function()
      start()
      out(rig.a, A, BROADCAST)
      out(rig.b, A, BROADCAST)
      assert.equal("b", out(rig.c, C, A))
      assert.equal(rig.b.index, station(A).port)
      assert.equal(1, bridge.export().events.moved)
      assert.equal(2, bridge.export().events.learned)
   end)

   it("forgets a station after the ageing time, which each frame of it starts again", function()
      start { ageing = 300 }
      out(rig.a, A, BROADCAST)
      rig:advance(200)
      out(rig.a, A, BROADCAST)
      rig:advance(200)
      assert.equal("a", out(rig.b, B, A))
      rig:advance(101)
      assert.equal("ac", out(rig.b, B, A))
      assert.is_nil(station(A))
      assert.equal("bc", out(rig.a, A, BROADCAST))
      assert.equal("a", out(rig.b, B, A))
   end)

   it("ages at the time it is given", function()
      start { ageing = 10 }
      out(rig.a, A, BROADCAST)
      rig:advance(9.5)
      assert.equal("a", out(rig.b, B, A))
      rig:advance(1)
      assert.equal("ac", out(rig.b, B, A))
   end)

   it("does not relay reserved addresses (01-80-C2-00-00-00 to -0F) and drops bad sources", function()
      start()
      for last = 0, 15 do assert.equal("", out(rig.a, A, ("01:80:c2:00:00:%02x"):format(last))) end
      assert.equal("", out(rig.a, "03:00:00:00:00:0a", B))
      assert.equal("", out(rig.a, BROADCAST, B))
      assert.equal("", out(rig.a, "00:00:00:00:00:00", B))
      assert.same({ reserved_multicast = 16, bad_source = 3 }, rig:drops())
      assert.equal(1, #bridge.export().stations)
   end)

   it("drops frames cut inside the Ethernet header or the tag", function()
      start { vlan_aware = true }
      local f = frame.eth({ src = A, dst = B, vlan = tagged(5) }, PAYLOAD)
      for length = 1, 17 do rig:send(rig.a, f:sub(1, length)) end
      assert.same({ truncated = 17 }, rig:drops())
   end)

   it("floods on when its table is full", function()
      start { entries = 2 }
      out(rig.a, A, BROADCAST)
      out(rig.b, B, BROADCAST)
      for i = 1, 2000 do out(rig.c, ("02:00:00:01:%02x:%02x"):format(math.floor(i / 256), i % 256), B) end
      local e = bridge.export()
      assert.is_true(e.events.table_full > 0)
      assert.equal(2002, e.events.learned + e.events.table_full)
      assert.equal("b", out(rig.a, A, B))
      assert.equal("ac", out(rig.b, B, "02:00:00:01:07:d0"))
   end)

   it("forwards tagged frames by address alone when it is not VLAN aware", function()
      start()
      out(rig.a, A, BROADCAST, 5)
      assert.equal("a", out(rig.b, B, A, 6))
      assert.equal("a", out(rig.b, B, A))
   end)

   describe("that is VLAN aware", function()
      it("learns in each VLAN by itself", function()
         start { vlan_aware = true }
         out(rig.a, A, BROADCAST, 5)
         out(rig.b, A, BROADCAST, 6)
         assert.equal("a", out(rig.c, C, A, 5))
         assert.equal("b", out(rig.c, C, A, 6))
         assert.equal("ab", out(rig.c, C, A, 7))
         assert.equal("ab", out(rig.c, C, A))
         assert.equal(0, bridge.export().events.moved)
      end)

      it("takes priority bits for no part of the VLAN id", function()
         start { vlan_aware = true }
         out(rig.a, A, BROADCAST, 5)
         assert.equal("a", out(rig.c, C, A, 0xe005))
      end)

      it("puts untagged and priority-tagged frames into the port VLAN", function()
         start { vlan_aware = true, pvid = 9 }
         out(rig.a, A, BROADCAST)
         assert.equal("a", out(rig.c, C, A, 0xe000))
         assert.equal("a", out(rig.c, C, A, 9))
         assert.equal(9, station(A).vlan)
      end)

      it("drops the reserved VLAN id 4095 and reads no service tag", function()
         start { vlan_aware = true }
         assert.equal("", out(rig.a, A, B, 4095))
         assert.same({ bad_vlan = 1 }, rig:drops())
         out(rig.a, A, BROADCAST, 5, 0x88a8)
         assert.equal("a", out(rig.c, C, A))
      end)
   end)

   it("keeps static stations where they are, for ever", function()
      start(function() return { static = { { mac = A, port = rig.b }, { mac = B, port = rig.c.index } } } end)
      assert.equal("b", out(rig.c, C, A))
      assert.equal("bc", out(rig.a, A, BROADCAST)) -- forwarded, not learned
      assert.equal("b", out(rig.c, C, A))
      rig:advance(3600)
      assert.equal("b", out(rig.c, C, A))
      assert.equal(0, bridge.export().events.moved)
      assert.is_true(station(A).static)
   end)

   it("works with any number of bridges in one script", function()
      start()
      local other = tw.nf.l2_bridge {}
      assert.equal("l2_bridge", bridge.export().name)
      assert.equal("l2_bridge2", other.export().name)
   end)

   it("refuses a wrong configuration with parameter and value", function()
      start()
      local function refused(cfg, text)
         local ok, err = pcall(tw.nf.l2_bridge, cfg)
         assert.is_false(ok)
         assert.is_truthy(err:find(text, 1, true), err)
      end
      refused({ ageing = 0 }, "l2_bridge: ageing is 0")
      refused({ ageing = "300" }, "l2_bridge: ageing must be a number, not string (300)")
      refused({ vlans = true }, 'there is no parameter "vlans"')
      refused({ static = { { mac = "02:00:00:00:00", port = rig.a } } }, "static[1]: mac is 02:00:00:00:00;")
      refused({ static = { { mac = BROADCAST, port = rig.a } } }, "static[1]: mac is " .. BROADCAST)
      refused({ static = { { mac = A } } }, "static[1]: port is nil; write a port")
      refused({ static = { { mac = A, port = rig.a, vlan = 5 } } }, "write vlan_aware = true")
      refused({ vlan_aware = true, static = { { mac = A, port = rig.a, vlan = 4095 } } }, "vlan is 4095")
   end)

   it("stays compiled under steady traffic", function()
      start()
      local burst = {}
      for i = 1, 32 do
         burst[i] = frame.eth({ src = i % 2 == 0 and A or B, dst = i % 2 == 0 and B or A, type = 0x88b5 }, PAYLOAD)
      end
      local function rounds(n)
         for _ = 1, n do
            for i = 1, 32 do assert(rig[i % 2 == 0 and "a" or "b"]:inject(burst[i])) end
            rig:run()
            rig:collect(rig.a)
            rig:collect(rig.b)
            rig:collect(rig.c)
         end
      end
      local traces, aborts = rig:steady(function() rounds(2) end)
      assert.equal(0, aborts)
      assert.is_true(traces <= 2)
   end)
end)
