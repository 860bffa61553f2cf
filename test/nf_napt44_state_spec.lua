-- SPDX-License-Identifier: BSD-3-Clause
-- napt44 over time: how long mappings live, what happens when ports run out, and that nothing is leaked.

local abi = require "tideway.abi"
local engine = require "tideway.engine"
local napt = require "test.support.napt"

local EXT, HOST, OTHER, SERVER = napt.EXT, napt.HOST, napt.OTHER, napt.SERVER
local udp, tcp, icmp = napt.udp, napt.tcp, napt.icmp
local FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

local nat

local function close_rig()
   if nat then nat.rig:close() end
   nat = nil
end

describe("napt44 forgets", function()
   after_each(close_rig)

   local function up(flags, to) return nat:up(tcp(HOST .. ":5000", to or (SERVER .. ":80"), { flags = flags })) end
   local function down(flags, from)
      return nat:down(tcp(from or (SERVER .. ":80"), EXT .. ":5000", { flags = flags })) ~= nil
   end

   local function handshake()
      up(SYN)
      down(SYN + ACK)
      up(ACK)
   end

   -- Does the mapping live after `seconds`? Asks with a packet that changes nothing.
   local function lives_after(seconds, protocol)
      nat.rig:advance(seconds)
      if protocol == "udp" then return nat:down(udp(SERVER .. ":53", EXT .. ":5000")) ~= nil end
      if protocol == "icmp" then return nat:down(icmp(SERVER, EXT, { type = 0, id = 5000 })) ~= nil end
      return down(ACK)
   end

   it("UDP after 5 minutes without a packet out", function()
      nat = napt.inline()
      nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
      assert.is_true(lives_after(200, "udp"))
      assert.is_true(lives_after(99, "udp"))
      assert.is_false(lives_after(3, "udp"))
   end)

   it("UDP not while packets go out", function()
      nat = napt.inline()
      nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
      for _ = 1, 5 do
         nat.rig:advance(290)
         assert.equal(5000, nat:up(udp(HOST .. ":5000", SERVER .. ":53")).sport)
      end
      assert.is_true(lives_after(299, "udp"))
      assert.is_false(lives_after(3, "udp"))
   end)

   it("UDP not while packets come in, when told so", function()
      nat = napt.inline { refresh_inbound = true }
      nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
      for _ = 1, 5 do assert.is_true(lives_after(290, "udp")) end
      assert.is_false(lives_after(303, "udp"))
   end)

   it("ICMP after 60 seconds", function()
      nat = napt.inline()
      nat:up(icmp(HOST, SERVER, { type = 8, id = 5000 }))
      assert.is_true(lives_after(59, "icmp"))
      assert.is_false(lives_after(3, "icmp"))
   end)

   it("a TCP connection that is not answered after 4 minutes", function()
      nat = napt.inline()
      up(SYN)
      nat.rig:advance(239)
      assert.is_true(down(SYN + ACK))
      nat.rig:advance(3)
      assert.is_false(down(SYN + ACK))
   end)

   it("an established one after 2 hours and 4 minutes", function()
      nat = napt.inline()
      handshake()
      assert.is_true(lives_after(7439))
      assert.is_false(lives_after(3))
      assert.is_true(7440 >= 2 * 3600 + 4 * 60)
   end)

   it("one that both sides closed after 4 minutes, not when one did", function()
      nat = napt.inline()
      handshake()
      up(FIN + ACK)
      assert.is_true(lives_after(1000))
      assert.is_true(down(FIN + ACK))
      up(ACK)
      assert.is_true(lives_after(239))
      assert.is_false(lives_after(3))
   end)

   it("one that was reset 4 minutes after, from either side", function()
      for _, who in ipairs { "up", "down" } do
         nat = napt.inline()
         handshake()
         if who == "up" then up(RST) else down(RST) end
         assert.is_true(lives_after(239))
         assert.is_false(lives_after(3))
         close_rig()
      end
   end)

   it("not one that goes on after a forged reset", function()
      nat = napt.inline()
      handshake()
      down(RST)
      up(ACK)
      assert.is_true(lives_after(7000))
   end)

   it("not one connection because another one of the same endpoint closed", function()
      nat = napt.inline()
      handshake()
      up(SYN, "192.0.2.1:80")
      down(RST, "192.0.2.1:80")
      up(ACK)
      down(RST)
      assert.is_true(lives_after(7000))
   end)

   it("nothing of a new connection over a closed one's mapping", function()
      nat = napt.inline()
      handshake()
      up(FIN + ACK)
      down(FIN + ACK)
      up(SYN, "192.0.2.1:80")
      down(SYN + ACK, "192.0.2.1:80")
      up(ACK, "192.0.2.1:80")
      assert.is_true(lives_after(7000))
      up(FIN + ACK, "192.0.2.1:80")
      down(FIN + ACK, "192.0.2.1:80")
      up(ACK, "192.0.2.1:80")
      assert.is_false(lives_after(243))
   end)

   it("by the times of the configuration", function()
      nat = napt.inline { timeouts = { udp = 10, icmp = 5, tcp = 50, tcp_transitory = 7 } }
      nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
      nat:up(icmp(HOST, SERVER, { type = 8, id = 5000 }))
      up(SYN)
      nat.rig:advance(5.5)
      assert.same({ true, false, true }, { lives_after(0, "udp"), lives_after(0, "icmp"), lives_after(0) })
      nat.rig:advance(2)
      assert.same({ true, false }, { lives_after(0, "udp"), lives_after(0) })
      assert.is_false(lives_after(4, "udp"))
   end)
end)

describe("napt44 runs out", function()
   after_each(close_rig)

   local function open(i, base)
      return nat:up(udp(("10.%d.%d.1:%d"):format(i / 256, i % 256, base or 9), SERVER .. ":53"))
   end

   it("of ports: every one is given away, then a named drop, and it recovers", function()
      nat = napt.inline { ports = "2000-2299", timeouts = { udp = 100 } }
      local seen = {}
      for i = 1, 300 do
         local p = open(i)
         assert.is_true(p and p.sport >= 2000 and p.sport <= 2299 and not seen[p.sport])
         seen[p.sport] = true
      end
      assert.is_nil(open(301))
      assert.is_nil(open(302))
      assert.equal(2, nat:drops().nat_ports_exhausted)
      assert.is_table(open(7)) -- those that have one go on
      assert.is_table(nat:up(tcp("10.9.9.9:1", SERVER .. ":80"))) -- and other protocols too
      nat.rig:advance(102)
      for i = 301, 400 do assert.is_table(open(i)) end
      assert.equal(2, nat:drops().nat_ports_exhausted)
   end)

   it("of ports, but not of those whose time is over and the sweep has not seen", function()
      nat = napt.inline { ports = "2000-2003", timeouts = { udp = 0.05 } }
      for i = 1, 4 do assert.is_table(open(i)) end
      nat.rig:advance(0.06)
      for i = 5, 8 do assert.is_table(open(i)) end
   end)

   it("of mappings", function()
      nat = napt.inline { mappings = 16, timeouts = { udp = 100 } }
      for i = 1, 16 do assert.is_table(open(i)) end
      assert.is_nil(open(17))
      assert.equal(1, nat:drops().nat_table_full)
      nat:pass(110)
      for i = 17, 32 do assert.is_table(open(i)) end
   end)

   it("of what one host may have", function()
      nat = napt.inline { max_ports_per_host = 3, timeouts = { udp = 100 } }
      for port = 1, 3 do assert.is_table(open(1, port)) end
      assert.is_nil(open(1, 4))
      assert.is_table(open(1, 2))
      assert.is_table(open(2, 4))
      assert.equal(1, nat:drops().nat_host_limit)
      nat:pass(110)
      for port = 4, 6 do assert.is_table(open(1, port)) end
      assert.is_nil(open(1, 7))
   end)

   it("of nothing over 50,000 mappings made and ended", function()
      nat = napt.inline { timeouts = { udp = 200 }, max_ports_per_host = 60000 }
      local lan, wan = nat.rig.lan, nat.rig.wan
      local function fill()
         local seen, n = {}, 0
         for i = 0, 49999 do
            assert(lan:inject(udp(("10.%d.%d.1:4000"):format(i / 256, i % 256), SERVER .. ":53")))
            if i % 50 == 49 then
               nat.rig:run()
               for _, f in ipairs(nat.rig:collect(wan)) do
                  local port = f:byte(35) * 256 + f:byte(36)
                  if not seen[port] then n = n + 1 end
                  seen[port] = true
               end
            end
         end
         return n
      end
      for _ = 1, 2 do
         assert.equal(50000, fill())
         assert.equal(50000, nat:count())
         nat:pass(250)
         assert.equal(0, nat:count())
         assert.same({}, nat.nf.export())
      end
      for _, t in ipairs(require("tideway").tables()) do
         if t.name == "napt44.hosts" then assert.equal(0, t.count) end
      end
      -- Every port can be had again: none is claimed by a mapping that is gone.
      local busy = 0
      for _, table in ipairs { nat.nf.tables.claims, nat.nf.tables.used } do
         for _, n in table:pairs() do busy = busy + n end
      end
      assert.equal(0, busy)
      assert.same({}, nat:drops())
   end)
end)

describe("napt44 in the long run", function()
   after_each(close_rig)

   local function jit_state()
      local info = abi.C.tw_lcore_jit(engine.lcores[1].slot)
      return { info.traces, info.aborts }
   end

   it("is compiled, and stays so", function()
      nat = napt.edge()
      local lan, wan = nat.rig.lan, nat.rig.wan
      local frames = {}
      for i = 1, 32 do
         local host = "10.0.0." .. i .. ":5000"
         frames[#frames + 1] = { lan, udp(host, SERVER .. ":53") }
         frames[#frames + 1] = { lan, tcp(host, SERVER .. ":80", { flags = ACK }) }
         frames[#frames + 1] = { wan, udp(SERVER .. ":53", EXT .. ":5000") }
         frames[#frames + 1] = { wan, tcp(SERVER .. ":80", EXT .. ":5000", { flags = ACK }) }
      end
      local function rounds(n)
         for _ = 1, n do
            for _, f in ipairs(frames) do assert(f[1]:inject(f[2])) end
            nat.rig:run()
            assert.equal(64, #nat.rig:collect(wan))
            assert.equal(64, #nat.rig:collect(lan))
         end
      end
      rounds(150)
      local before = jit_state()
      assert.is_true(before[1] > 0)
      rounds(150)
      assert.same(before, jit_state())
   end)

   it("shows its mappings", function()
      nat = napt.inline { forward = { { proto = "tcp", port = 80, to = OTHER .. ":8080" } } }
      nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
      local list = nat.nf.export()
      assert.same({ proto = "tcp", inside = OTHER .. ":8080", outside = EXT .. ":80", static = true }, list[1])
      assert.is_true(list[2].expires_in > 298 and list[2].expires_in < 302)
      assert.same({ "udp", HOST .. ":5000", EXT .. ":5000" }, { list[2].proto, list[2].inside, list[2].outside })
   end)
end)
