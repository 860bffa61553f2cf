-- SPDX-License-Identifier: BSD-3-Clause
-- RFC 2544: throughput, latency, frame loss rate and back-to-back frames of a chain of NFs, over frame sizes.
--
--    sudo build/tideway bench examples/bench/11-rfc2544.lua                # short; what differs from the RFC is listed
--    sudo build/tideway bench --seconds 60 examples/bench/11-rfc2544.lua   # as long as the RFC has it: hours
--
-- Two lcores with a ring between them, so that the NFs can be offered more than they can do: one has the source, the
-- other one the NFs. The ring's 1,023 places are the buffer that back-to-back frames find.

local tw = require "tideway"
local bench = tw.bench

local SIZES = { 64, 512, 1518 }

local function packets(size)
   return bench.packets {
      size = size, flows = 1000, stamp = true, eth = { dst = "02:00:00:00:00:01" },
      ipv4 = { src = bench.flow "198.18.0.0/16", dst = bench.flow "198.19.0.0/16" },
   }
end

local source = bench.source("in", packets(SIZES[1]))
local sink = bench.sink "out"
local queue = tw.ring "queue"

local guard = tw.nf("guard", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip or ip.ttl <= 1 then return pkt:drop "ttl" end
         ip.ttl = ip.ttl - 1
         ip:update_checksum()
      end,
   }
end)

tw.chain("offer", source, queue):pin { lcore = 0 }
tw.chain("dut", queue, guard {}, tw.nf.count {}, sink):pin { lcore = 1 }

bench.search("guard", {
   method = "rfc2544", title = "TTL and counters", path = bench.path { source = source, sink = sink },
   traffic = packets, sizes = SIZES, precision = 0.02, burst_times = 5,
})
