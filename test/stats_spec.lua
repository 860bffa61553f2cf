-- SPDX-License-Identifier: BSD-3-Clause
-- Counters: snapshot, rates, the sum that must add up, `tideway top`, and the run directory.

local ffi = require "ffi"
local json = require "tideway.json"
local posix = require "tideway.posix"
local shell = require "test.shell"
local stats = require "tideway.stats"
local text = require "tideway.text"
require "tideway.abi"

local ENGINE = ffi.C.TW_STAGE_ENGINE

-- Two ports, one chain of two NFs replicated on two lcores; 100 + 50 packets in, all accounted for.
local function example()
   local s = ffi.new "struct tw_stats"
   s.magic, s.abi, s.pid, s.running = "tideway", ffi.C.TW_ABI_VERSION, posix.getpid(), 0
   s.instance, s.script, s.tsc_hz = "edge", "edge.lua", 2000000000
   s.ports, s.chains, s.rings, s.reasons = 2, 1, 1, 3
   for i, reason in ipairs { "tx_full", "denied", "ttl_expired" } do s.reason[i - 1] = reason end
   for i, name in ipairs { "lan", "wan" } do
      s.port[i - 1].name, s.port[i - 1].device, s.port[i - 1].mode = name, "net_null" .. i, "test"
   end
   s.ring[0].name, s.ring[0].size, s.ring[0].used = "mid", 512, 2
   local chain = s.chain[0]
   chain.name, chain.stages = "up", 2
   chain.stage[0], chain.stage[1] = "firewall", "router"
   chain.quarantined[1] = 1
   for slot = 0, ffi.C.TW_LCORES_MAX - 1 do s.lcore[slot].cpu = -1 end
   for slot, rx in ipairs { 100, 50 } do
      local l = s.lcore[slot - 1]
      l.cpu, l.busy_cycles, l.idle_cycles, l.heartbeat = slot - 1, 3000, 1000, 1
      l.port[0].rx_packets, l.port[0].rx_bytes = rx, rx * 64
      l.port[1].tx_packets = rx - 9
      local c = l.chain[0]
      c.rx, c.sent, c.dropped, c.held, c.originated, c.cycles = rx, rx - 8, 8, 1, 1, rx * 80
      l.stage_in[0][0], l.stage_in[0][1] = rx, rx - 5
      l.drops[0][0][1], l.drops[0][1][2], l.drops[0][ENGINE][0] = 5, 2, 1
   end
   return s
end

describe("stats.snapshot", function()
   it("sums every lcore, and names drops by NF and reason", function()
      local snap = stats.snapshot(example())
      assert.equal(150, snap.ports[1].rx_packets)
      assert.equal(150 * 64, snap.ports[1].rx_bytes)
      assert.equal(132, snap.ports[2].tx_packets)
      local chain = snap.chains[1]
      assert.equal(150, chain.rx)
      assert.equal(80, chain.cycles_per_packet)
      assert.same({ { reason = "denied", count = 10 } }, chain.nfs[1].drops)
      assert.same({ { reason = "ttl_expired", count = 4 } }, chain.nfs[2].drops)
      assert.same({ { reason = "tx_full", count = 2 } }, chain.engine.drops)
      assert.equal(140, chain.nfs[2].received)
      assert.is_true(chain.nfs[2].quarantined)
      assert.is_false(chain.nfs[1].quarantined)
      assert.equal(2, #snap.lcores)
      assert.equal(0.75, snap.lcores[1].load)
      assert.same({
         { reason = "denied", count = 10 }, { reason = "ttl_expired", count = 4 }, { reason = "tx_full", count = 2 },
      }, stats.drops(snap))
   end)

   it("keeps the packets of an lcore that is not used any more", function()
      local s = example()
      s.lcore[1].cpu = -1
      local snap = stats.snapshot(s)
      assert.equal(150, snap.chains[1].rx)
      assert.equal(1, #snap.lcores)
   end)

   it("adds up: received + originated = sent + dropped + in flight", function()
      local snap = stats.snapshot(example())
      -- 150 + 2 = 132 + 16 + (2 held + 2 in the ring)
      assert.equal(0, snap.totals.difference)
      assert.equal(4, snap.totals.in_flight)
      assert.equal(0, snap.chains[1].difference)
      assert.is_true(stats.adds_up(snap))
      assert.is_truthy(stats.final_table(snap):find(
         "received 150 + originated 2 = sent 132 + dropped 16 + in flight 4: adds up", 1, true))
   end)

   it("shows one lost packet", function()
      local s = example()
      s.lcore[1].port[1].tx_packets = s.lcore[1].port[1].tx_packets - 1
      local snap = stats.snapshot(s)
      assert.is_false(stats.adds_up(snap))
      assert.is_truthy(stats.final_table(snap):find("OFF BY 1", 1, true))
   end)

   it("shows one packet lost in a chain", function()
      local s = example()
      s.lcore[0].chain[0].sent = s.lcore[0].chain[0].sent - 1
      local snap = stats.snapshot(s)
      assert.is_false(stats.adds_up(snap))
      assert.is_truthy(stats.final_table(snap):find("chain up OFF BY 1", 1, true))
   end)

   it("prints a table with every port, NF, reason and lcore", function()
      local out = stats.final_table(stats.snapshot(example()), 2.5)
      for _, part in ipairs {
         "edge: ran 2.5 s", "lan", "wan", "  firewall", "denied 10", "ttl_expired 4, QUARANTINED",
         "(engine)", "tx_full 2", "75%",
      } do
         assert.is_truthy(out:find(part, 1, true), part .. " is not in\n" .. out)
      end
   end)
end)

describe("stats.rates", function()
   local function later()
      local s = example()
      local l = s.lcore[0]
      l.port[0].rx_packets = l.port[0].rx_packets + 1000
      l.port[0].rx_bytes = l.port[0].rx_bytes + 64000
      l.chain[0].rx, l.chain[0].cycles = l.chain[0].rx + 1000, l.chain[0].cycles + 30000
      l.chain[0].bursts = l.chain[0].bursts + 50
      l.drops[0][0][1] = l.drops[0][0][1] + 200
      l.busy_cycles, l.idle_cycles = l.busy_cycles + 100, l.idle_cycles + 300
      return s
   end

   it("gives growth a second", function()
      local r = stats.rates(stats.snapshot(example()), stats.snapshot(later()), 2)
      assert.equal(500, r.ports[1].rx_pps)
      assert.equal(0.256, r.ports[1].rx_mbps)
      assert.equal(0, r.ports[2].tx_pps)
      assert.equal(30, r.chains[1].cycles_per_packet)
      assert.equal(20, r.chains[1].packets_per_burst)
      assert.same({ { reason = "denied", pps = 100 } }, r.chains[1].nfs[1].drops)
      assert.equal(0.25, r.lcores[1].load)
      assert.is_truthy(stats.line(r):find("lan in 500 pps out 0 pps | wan", 1, true))
   end)

   it("never gives a negative rate", function()
      local r = stats.rates(stats.snapshot(later()), stats.snapshot(example()), 1)
      assert.equal(0, r.ports[1].rx_pps)
      assert.equal(0, r.chains[1].rx_pps)
   end)

   it("starts from nothing after a restart", function()
      local s = later()
      s.pid = s.pid + 1
      local r = stats.rates(stats.snapshot(example()), stats.snapshot(s), 1)
      assert.equal(1150, r.ports[1].rx_pps)
   end)
end)

describe("tideway top", function()
   local dir, env
   setup(function()
      dir = shell.directory()
      env = "TIDEWAY_RUN_DIR=" .. dir
   end)
   teardown(function() shell.remove(dir) end)

   -- The file of a running instance, sparse but for what example() uses.
   local function publish(name, s)
      local size, first = ffi.sizeof "struct tw_stats", ffi.offsetof("struct tw_stats", "lcore")
      local step, cpu = ffi.sizeof "struct tw_lcore_stats", ffi.offsetof("struct tw_lcore_stats", "cpu")
      shell.write(dir .. "/" .. name .. "/stats", ffi.string(s, first + 2 * step))
      local f = assert(io.open(dir .. "/" .. name .. "/stats", "r+b"))
      for slot = 2, ffi.C.TW_LCORES_MAX - 1 do
         f:seek("set", first + slot * step + cpu)
         f:write "\255\255\255\255"
      end
      f:seek("set", size - 1)
      f:write "\0"
      f:close()
   end

   it("says that no instance runs, and exits with 1", function()
      local r = shell.tideway("top --once", env)
      assert.equal(1, r.code)
      assert.equal("", r.out)
      assert.is_truthy(r.err:find("no instance runs (looked in " .. dir, 1, true))
   end)

   it("prints exact counters and rates as JSON", function()
      local s = example()
      s.lcore[0].port[0].rx_bytes = 9007199254740991ULL - 50 * 64 -- 2^53 - 1 in sum
      publish("edge", s)
      local r = shell.tideway("top --once --json --interval 0.05", env)
      assert.equal("", r.err)
      assert.equal(0, r.code)
      assert.is_truthy(r.out:find('"rx_bytes":9007199254740991', 1, true))
      local value = json.decode(r.out)
      assert.equal("edge", value.instance)
      assert.equal(16, value.totals.dropped)
      assert.equal("denied", value.chains[1].nfs[1].drops[1].reason)
      assert.equal(0, value.rates.ports[1].rx_pps)
      assert.is_truthy(r.out:find('"drops":[]', 1, true)) -- an empty list stays a list
   end)

   it("prints the view as text with --once", function()
      publish("edge", example())
      local r = shell.tideway("top edge --once --interval 0.05", env)
      assert.equal(0, r.code)
      for _, part in ipairs { "firewall", "LCORE", "QUARANTINED", "in flight 4: adds up" } do
         assert.is_truthy(r.out:find(part, 1, true), part .. " is not in\n" .. r.out)
      end
   end)

   it("names the running instances when another is asked for", function()
      publish("edge", example())
      local r = shell.tideway("top egde --once", env)
      assert.equal(1, r.code)
      assert.is_truthy(r.err:find("no instance named 'egde' runs; these do: edge", 1, true))
   end)

   it("refuses counters of another ABI, naming both", function()
      local s = example()
      s.abi = 77
      publish("edge", s)
      local r = shell.tideway("top --once", env)
      assert.equal(1, r.code)
      assert.is_truthy(r.err:find(("has ABI 77, this tideway has ABI %d"):format(ffi.C.TW_ABI_VERSION), 1, true))
   end)

   it("refuses a file of another size", function()
      shell.write(dir .. "/edge/stats", ffi.string(example(), 4096))
      local r = shell.tideway("top --once", env)
      assert.equal(1, r.code)
      assert.is_truthy(r.err:find("another build", 1, true))
   end)

   it("takes no dead instance for a running one", function()
      local s = example()
      s.pid = tonumber(shell.run("sh -c 'echo $$'").out)
      publish("edge", s)
      local r = shell.tideway("top --once", env)
      assert.equal(1, r.code)
      assert.is_truthy(r.err:find("no instance runs", 1, true))
   end)
end)

describe("the run directory", function()
   local dir, rundir, getenv
   before_each(function()
      dir, rundir, getenv = shell.directory() .. "/base", require "tideway.rundir", os.getenv
      os.getenv = function(name) return name == "TIDEWAY_RUN_DIR" and dir or getenv(name) end -- luacheck: ignore 122
   end)
   after_each(function()
      os.getenv = getenv -- luacheck: ignore 122
      shell.remove(dir:match "^(.*)/base$")
   end)

   local function header(pid)
      return "tideway\0" .. ffi.string(ffi.new("uint32_t[2]", 1, pid), 8)
   end

   it("is claimed by name, and made fit for a file name", function()
      local path, name = rundir.claim "my edge/1"
      assert.equal("my_edge_1", name)
      assert.equal(dir .. "/my_edge_1", path)
   end)

   it("gives the second instance of a name another one, unless it was asked for by name", function()
      shell.write(dir .. "/edge/stats", header(1)) -- pid 1 lives
      local path, name = rundir.claim "edge"
      assert.equal("edge-2", name)
      assert.equal(dir .. "/edge-2", path)
      local none, err = rundir.claim("edge", true)
      assert.is_nil(none)
      assert.is_truthy(err:find("choose another --name", 1, true))
   end)

   it("takes over what a killed instance left", function()
      shell.write(dir .. "/edge/stats", header(tonumber(shell.run("sh -c 'echo $$'").out)))
      local _, name = rundir.claim("edge", true)
      assert.equal("edge", name)
   end)

   it("takes over an empty directory", function() -- of an instance that was killed while it ended
      assert.equal(0, shell.run(("mkdir -p %s/empty"):format(dir)).code)
      assert.equal("empty", select(2, rundir.claim("empty", true)))
   end)

   it("removes what an instance left that was killed while it claimed a name", function()
      local dead = shell.run("sh -c 'echo $$'").out:match "%d+"
      shell.write(("%s/.claim-%s/stats"):format(dir, dead), "tide")
      rundir.claim "edge"
      assert.equal("edge\n", shell.run("ls -A " .. dir).out)
   end)

   it("is the one of each of many that claim, are killed and clean up at the same time", function()
      local script = dir:match "^(.*)/base$" .. "/claim.lua"
      shell.write(script, ([[
         local rundir, posix, ffi = require "tideway.rundir", require "tideway.posix", require "ffi"
         local dead = ffi.string(ffi.new("uint32_t[2]", 1, %s), 8)
         for i = 1, 200 do
            local dir, err = rundir.claim "edge"
            assert(dir, err)
            local own = posix.slurp(dir .. "/stats")
            if i %% 3 == 0 then posix.poll({}, 1) end
            rundir.instances()
            assert(own and own == posix.slurp(dir .. "/stats"), "somebody took " .. dir)
            if i %% 4 == 0 then
               rundir.remove { dir = dir } -- it ends
            else
               local file = assert(io.open(dir .. "/stats", "r+")) -- it is killed
               file:write("tideway\0", dead)
               file:close()
            end
         end
         print "all were mine"]]):format(shell.run("sh -c 'echo $$'").out:match "%d+"))
      local one = ("env TIDEWAY_RUN_DIR=%s %s check %s 2>&1 & "):format(dir, shell.binary, script)
      local out = shell.run(one:rep(4) .. "wait").out
      assert.equal(4, select(2, out:gsub("all were mine", "")), out)
   end)

   it("leaves a directory alone that is not an instance's", function()
      shell.write(dir .. "/lab/state", "x")
      local _, name = rundir.claim "lab"
      assert.equal("lab-2", name)
      assert.equal("x", posix.slurp(dir .. "/lab/state"))
   end)
end)

describe("text", function()
   it("groups digits", function()
      assert.equal("0", text.count(0))
      assert.equal("999", text.count(999))
      assert.equal("1,000", text.count(1000))
      assert.equal("-12,345,678", text.count(-12345678))
   end)

   it("shortens rates", function()
      assert.equal("0", text.si(0))
      assert.equal("0.5", text.si(0.5))
      assert.equal("999", text.si(999))
      assert.equal("1.00 k", text.si(1000))
      assert.equal("12.3 M", text.si(12345678))
      assert.equal("44.0 M", text.si(44e6))
      assert.equal("150 G", text.si(150e9))
   end)

   it("aligns and cuts by characters, not bytes", function()
      assert.same({ "a   1", "äö  2" }, text.columns("lr", { { "a", "1" }, { "äö", "2" } }))
      assert.equal("ä", text.cut("äö", 1))
      assert.equal("äö", text.cut("äö", 2))
   end)
end)
