-- SPDX-License-Identifier: BSD-3-Clause
-- What packets can look like, and what it costs to make them: each kind of traffic from a source to a sink that frees
-- them. No NIC is needed.
--
--    sudo build/tideway bench --quick examples/bench/01-packets.lua

local tw = require "tideway"
local bench = tw.bench

local function contender(name, traffic, note) return bench.chain { traffic, name = name, note = note } end

bench.group("sources", {
   title = "packets of a source, 64 bytes where not said",
   contenders = {
      contender("fixed", bench.packets { size = 64 }, "every packet the same"),
      contender("counted", bench.packets {
         size = 64, ipv4 = { src = bench.count "198.18.0.0/16" }, udp = { src = bench.count(1024, 65535) },
      }, "source address and port count"),
      contender("random", bench.packets {
         size = 64, ipv4 = { src = bench.random "198.18.0.0/16", dst = bench.random "198.19.0.0/16" },
      }, "both addresses by chance"),
      contender("flows", bench.packets { size = 64, flows = 1e6 }, "a million flows, one after another"),
      contender("zipf", bench.packets { size = 64, flows = { n = 1e6, order = "zipf", skew = 1.1 } },
         "a million flows, few of them often"),
      contender("stamped", bench.packets { size = 64, flows = 1e6, stamp = true },
         "a million flows, with a sequence number and the time"),
      contender("imix", bench.packets { size = bench.imix(), flows = 1e6 }, "7 of 64, 4 of 594, 1 of 1518 bytes"),
      contender("syn flood", bench.presets.syn_flood(), "addresses, ports, sequence numbers by chance"),
      contender("dns", bench.presets.dns_queries(), "queries for www.example.com"),
      contender("vxlan", bench.presets.vxlan(1000), "1,000 flows in a tunnel"),
   },
   reference = "fixed",
})
