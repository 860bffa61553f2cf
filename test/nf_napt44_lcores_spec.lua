-- SPDX-License-Identifier: BSD-3-Clause
-- napt44 on two lcores at once, both with packets of the same hosts: tables stay consistent, accounting exact.

local abi = require "tideway.abi"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local plan = require "tideway.plan"
local stats = require "tideway.stats"
local tw = require "tideway"

local FLOWS = 1000

local function le32(n)
   return string.char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256, math.floor(n / 16777216))
end

-- A capture file with one packet of each flow, in an order of its own.
local function capture(order)
   local name = os.tmpname()
   local file = assert(io.open(name, "wb"))
   file:write("\212\195\178\161\2\0\4\0", le32(0), le32(0), le32(65535), le32(1))
   for i = 0, FLOWS - 1 do
      local k = i * order % FLOWS
      local f = frame.udp4({}, { src = ("10.0.%d.%d"):format(k / 250, k % 250 + 1), dst = "203.0.113.9" },
         { sport = 777, dport = 53 }, "x")
      file:write(le32(0), le32(0), le32(#f), le32(#f), f)
   end
   file:close()
   return name
end

-- What must hold between the tables when nobody works on them.
local function check(t)
   local claimed, used, mapped = 0, {}, {}
   for _, place in t.inner:pairs() do
      assert.equal(1, t.claims:get(place))
      assert.is_nil(mapped[place]) -- no place for two inside endpoints
      mapped[place] = true
   end
   for place, n in t.claims:pairs() do
      if n ~= 0 then
         assert.equal(1, n)
         -- Two lcores may each make one for the same endpoint: then one is in use, and the other runs out.
         assert.is_true(mapped[place] or t.outer:get(place).expires > 0)
         claimed = claimed + 1
         local block = math.floor(place / 256)
         used[block] = (used[block] or 0) + 1
      end
   end
   for block, n in t.used:pairs() do assert.equal(used[block] or 0, n) end
   local hosts = 0
   for _, n in t.hosts:pairs() do hosts = hosts + n end
   assert.is_true(t.inner:count() <= claimed and claimed <= t.inner:count() + 8)
   assert.is_true(math.abs(claimed - hosts) <= 2)
end

describe("napt44 on two lcores", function()
   it("makes and ends mappings without losing or doubling one", function()
      local cpus = plan.cpus()
      if #cpus < 2 then return pending "needs two CPUs" end
      abi.C.tw_stats_close()
      assert(abi.C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
      local files = { capture(7), capture(333) }
      local a = tw.port("a", "net_pcap0,infinite_rx=1,rx_pcap=" .. files[1])
      local b = tw.port("b", "net_pcap1,infinite_rx=1,rx_pcap=" .. files[2])
      local out = tw.port("out", "net_null0")
      -- Fewer ports than flows and a life of some milliseconds, so that there is always something to fight for.
      local nf = tw.nf.napt44 {
         outside = out, address = "198.51.100.1", place = "inline", ports = "2000-2799", preserve_port = false,
         timeouts = { udp = 0.05 }, max_ports_per_host = 5,
      }
      tw.chain("one", a, nf, out):pin { lcore = cpus[1] }
      tw.chain("two", b, nf, out):pin { lcore = cpus[2] }
      engine.start()
      for _ = 1, 8 do
         abi.C.tw_sleep_ms(100)
         abi.C.tw_clock_advance(1e9) -- ends all mappings at once
      end
      abi.C.tw_engine_stop()
      local exact = stats.adds_up(stats.snapshot(abi.C.tw_stats()))
      local made, log = nf.tables.events:sum "created", table.concat(engine.log(), "\n")
      check(nf.tables)
      engine.close()
      for _, name in ipairs(files) do os.remove(name) end
      assert.is_true(exact)
      assert.equal("", log)
      assert.is_true(made > 1600)
   end)
end)
