-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: the edge of a site in one chain, as in examples/04-edge.lua: NAT, firewall, router, NAT.
-- Arguments: source devargs, sink devargs, lcore, how much of it ("firewall", "router", "napt44", "edge").

local tw = require "tideway"
local source, sink, lcore, what = ...

local from, to = tw.port("source", source), tw.port("sink", sink)

local router = tw.nf.router {
   ports = {
      {port = from, addresses = {"198.18.255.254/15"}},
      {port = to, addresses = {"198.51.100.254/24"}},
   },
   routes = {{"0.0.0.0/0", via = "198.51.100.1"}},
   -- Nobody behind net_null answers ARP.
   neighbours = {["198.51.100.1"] = "02:00:00:00:00:01"},
}
local nat = tw.nf.napt44 {outside = to, address = "198.51.100.254", inside = "198.18.0.0/15"}
local inline = tw.nf.napt44 {outside = to, address = "198.51.100.253", inside = "198.18.0.0/15", place = "inline"}
local firewall = tw.nf.firewall {
   ports = {source = from, sink = to},
   rules = [[
      allow established
      drop from 192.0.2.0/24
      drop tcp to any port 25
      drop udp to any port 137-139
      drop tcp to any port 137-139,445
      drop to 203.0.113.7
      allow in source tcp from 198.18.0.0/15
      allow in source udp from 198.18.0.0/15
      allow icmp echo
      drop
   ]],
}

local chains = {
   firewall = {firewall}, router = {router}, napt44 = {inline}, edge = {nat, firewall, router, nat},
}
local stages = chains[what or "edge"]
stages[#stages + 1] = to
tw.chain("edge", from, unpack(stages)):pin {lcore = tonumber(lcore)}
