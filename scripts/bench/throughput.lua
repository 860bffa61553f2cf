-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: what a chain does without loss (binary search, MLRsearch), and how long packets take at shares of that.

local tw = require "tideway"
local bench = tw.bench

local LIMIT, SIZE = 200000, 60 -- packets a second; bytes of a frame that is 64 with its FCS

-- Lets a known rate through, so that it is known what the searches should find.
local policer = tw.nf("policer", function(cfg)
   local meter = tw.meter { cir = cfg.rate * SIZE, cbs = cfg.rate * SIZE / 50, ebs = 0 } -- 20 ms at once
   return {
      packet = function(pkt)
         if meter:mark(0, pkt.len) ~= 0 then return pkt:drop "too_fast" end
      end,
   }
end)

local source = bench.source(bench.packets { size = 64, flows = 1024, stamp = true })
local sink = bench.sink()
tw.chain("policed", source, policer { rate = LIMIT }, sink)

local path = bench.path { source = source, sink = sink }

bench.search("throughput", {
   title = ("binary search for no loss, behind a policer of %d packets a second"):format(LIMIT), method = "binary",
   path = path, high = LIMIT * 4, verify = 2,
})
bench.search("mlrsearch", {
   title = "MLRsearch for no loss, and for 1 %, behind the same policer", method = "mlr", path = path, high = LIMIT * 4,
   goals = { { loss = 0 }, { loss = 0.01, width = 0.01 } },
})
bench.latency("latency", { title = "latency of the chain, at shares of its throughput", path = path, of = LIMIT })
