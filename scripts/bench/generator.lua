-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: making packets. bench.source on an lcore against testpmd's txonly, both into net_null, 64-byte packets.

local bench = require "tideway".bench
local dpdk = require "peers.dpdk"

local GOAL = 1.5

local function txonly(name, more, note)
   return dpdk.contender {
      name = name, device = "net_null0", note = "Debian's dpdk-testpmd, its defaults (bursts of 32), " .. note,
      missing = dpdk.no_testpmd,
      command = function(ctx)
         return dpdk.join({ "dpdk-testpmd", "--lcores", ("0@%d,1@%d"):format(ctx.other, ctx.cpu), "--in-memory",
            "--file-prefix=" .. ctx.prefix, "-m", "384", "--no-pci", "--vdev", "net_null0,no-rx=1", "--",
            "--forward-mode=txonly", "--port-topology=loop", "--auto-start", "--nb-cores=1", "--total-num-mbufs=16384",
            "--stats-period=3600" }, more)
      end,
   }
end

local function source(name, note, spec)
   spec.size = 64
   return bench.chain { bench.packets(spec), name = name, note = note }
end

bench.group("generator", {
   title = "packets made and sent to net_null, 64 bytes", unit = "Mpps", rounds = 5, seconds = 0.5,
   contenders = {
      txonly("txonly", {}, "always the same packet"),
      txonly("txonly-multi-flow", { "--txonly-multi-flow" }, "source addresses vary"),
      source("source", "always the same packet", { flows = 1 }),
      source("source-addresses", "source and destination address of each packet at random, checksums right", {
         ipv4 = { src = bench.random "10.0.0.0/8", dst = bench.random "198.18.0.0/15" },
      }),
      source("source-flows", "1,000,000 flows, checksums right", { flows = 1000000 }),
   },
   reference = "txonly", goals = { ["source-addresses"] = GOAL },
})
