-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: programs that poll ports, Tideway and its peers, each alone on one CPU from a looped pcap to net_null.

local bench = require "tideway".bench
local dpdk = require "peers.dpdk"
local ovs = require "peers.ovs"
local statistics = require "tideway.bench.statistics"
local tideway = require "peers.tideway"

local ROUNDS, SECONDS = 5, 0.5
local MORE_PREFIXES = 100000
local ENTRY = 1.0 -- goal: ns a packet

local function group(name, spec)
   spec.unit, spec.rounds, spec.seconds = "Mpps", ROUNDS, SECONDS
   spec.reference = spec.contenders[1].name
   bench.group(name, spec)
end

group("forward", {
   title = "port to port, packets untouched",
   contenders = {
      dpdk.testpmd("testpmd-io", "io"), dpdk.l2fwd("l2fwd", false), ovs("ovs", "output:2", "one rule: output"),
      tideway("tideway-forward", "forward"),
   },
   goals = { ["tideway-forward"] = 0.95 },
})

group("macswap", {
   title = "MAC addresses exchanged or rewritten",
   contenders = {
      dpdk.testpmd("testpmd-macswap", "macswap"), dpdk.l2fwd("l2fwd-mac", true),
      ovs("ovs-mac", "mod_dl_src:02:00:00:00:00:01,mod_dl_dst:02:00:00:00:00:02,output:2",
         "one rule: both addresses set, output"),
      tideway("tideway-macswap", "macswap"),
   },
   goals = { ["tideway-macswap"] = 0.9 },
})

group("5tswap", {
   title = "MAC addresses, IP addresses and ports exchanged",
   contenders = { dpdk.testpmd("testpmd-5tswap", "5tswap"), tideway("tideway-5tswap", "5tswap") },
   goals = { ["tideway-5tswap"] = 0.9 },
})

group("csum", {
   title = "MAC addresses set, IPv4 and UDP checksums computed over all their bytes",
   contenders = {
      dpdk.testpmd("testpmd-csum", "csum", "checksums by software, as it does where the device has no offload"),
      tideway("tideway-csum", "csum"),
   },
   goals = { ["tideway-csum"] = 0.9 },
})

group("route", {
   title = "longest prefix match over 10,000 prefixes, TTL, checksum, MACs",
   contenders = {
      dpdk.l3fwd "l3fwd-lpm", tideway("tideway-lpm", "lpm", { prefixes = 10000 }),
      tideway("tideway-route", "route", { prefixes = 10000 }),
   },
   goals = { ["tideway-lpm"] = 0.9 }, -- the router does more, see README
})

group("route-100k", {
   title = "longest prefix match over 100,000 prefixes, TTL, checksum, MACs",
   contenders = {
      dpdk.l3fwd("l3fwd-lpm-100k", MORE_PREFIXES),
      tideway("tideway-lpm-100k", "lpm", { prefixes = MORE_PREFIXES, warm_up = 2 }),
      tideway("tideway-route-100k", "route", { prefixes = MORE_PREFIXES, warm_up = 2 }),
   },
   goals = { ["tideway-lpm-100k"] = 0.9 },
})

group("edge", {
   title = "library NFs alone and as the edge chain (NAT, firewall, router, NAT), established flows",
   contenders = {
      tideway("tideway-forward", "forward"),
      tideway("tideway-firewall", "edge", { arguments = { "firewall" }, warm_up = 3 }),
      tideway("tideway-router", "edge", { arguments = { "router" }, warm_up = 3 }),
      tideway("tideway-napt44", "edge", { arguments = { "napt44" }, warm_up = 3 }),
      tideway("tideway-edge", "edge", { arguments = { "edge" }, warm_up = 3 }),
   },
})

-- ---- what entering Lua costs ----

-- Keeps the ns of each round.
local function kept(list, contender)
   local measure = contender.measure
   function contender:measure(seconds)
      local sample, err = measure(self, seconds)
      list[#list + 1] = sample and sample.ns
      return sample, err
   end
   return contender
end

local ns = { forward = {}, entry = {}, forward16 = {}, entry16 = {} }

group("entry", {
   title = "a chain of one empty NF: filling the burst, entering Lua, loop, verdicts",
   contenders = {
      kept(ns.forward, tideway("tideway-forward", "forward")), kept(ns.entry, tideway("tideway-entry", "entry")),
      kept(ns.forward16, tideway("forward-16", "forward", { burst = 16 })),
      kept(ns.entry16, tideway("entry-16", "entry", { burst = 16 })),
   },
   base = "tideway-forward",
})

-- Under load an entry takes two bursts: 64 packets, or 32 at bursts of 16. What is done per packet costs the same in
-- both, so the difference is half of an entry's share of 32 packets.
local function entry_alone()
   local list = {}
   for i = 1, math.min(#ns.forward, #ns.entry, #ns.forward16, #ns.entry16) do
      list[i] = 2 * ((ns.entry16[i] - ns.forward16[i]) - (ns.entry[i] - ns.forward[i]))
   end
   return list
end

bench.experiment {
   kind = "table", name = "entry-alone", title = "the entry alone, for 32 packets, of the group entry (ns a packet)",
   run = function()
      local s = statistics.summary(entry_alone())
      if not s then error("it is computed from the group entry; run both: --only entry,entry-alone", 0) end
      return {
         columns = { "rounds", "median", "low", "high", "goal", "" },
         rows = { { #ns.entry, s.median, s.low, s.high, ENTRY, s.median < ENTRY and "met" or "missed" } },
      }
   end,
}
