-- SPDX-License-Identifier: BSD-3-Clause
-- How much a chain does without loss, and how long packets take at 10, 50 and 90 % of that. No NIC is needed.
--
--    sudo build/tideway bench examples/bench/10-throughput.lua
--    sudo build/tideway bench --seconds 2 --html throughput.html examples/bench/10-throughput.lua 50000
--
-- The NF here is a policer, so the answer is known: the argument, 100,000 packets a second when it is left out. With a
-- chain that drops nothing, the throughput is all that the source can do before the chain slows it down.

local tw = require "tideway"
local bench = tw.bench

local limit = tonumber(arg[1]) or 100000
local SIZE = 60 -- bytes of a frame that counts as 64 with its FCS

local policer = tw.nf("policer", function(cfg)
   local meter = tw.meter { cir = cfg.rate * SIZE, cbs = cfg.rate * SIZE / 50, ebs = 0 } -- 20 ms at once
   return {
      packet = function(pkt)
         if meter:mark(0, pkt.len) ~= 0 then return pkt:drop "too_fast" end
      end,
   }
end)

local source = bench.source(bench.packets { size = 64, flows = 1000, stamp = true })
local sink = bench.sink()
tw.chain("dut", source, policer { rate = limit }, sink)

local path = bench.path { source = source, sink = sink }
bench.search("throughput", { title = "no loss", path = path, high = limit * 4, verify = 2 })
bench.search("goals", {
   title = "without loss, and with 1 %", method = "mlr", path = path, high = limit * 4,
   goals = { { loss = 0 }, { loss = 0.01, width = 0.01 } },
})
bench.latency("latency", { title = "latency of the chain", path = path, of = limit })
