-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: the router NF with the routes of l3fwd's rule file, all by way of one neighbour.
-- Arguments: source devargs, sink devargs, lcore, rule file ("R10.0.0.0/8 1" a line).

local tw = require "tideway"
local source, sink, lcore, rules = ...

local from, to = tw.port("source", source), tw.port("sink", sink)

local routes = {}
for line in io.lines(rules) do
   local prefix = line:match "^R(%S+)"
   if prefix then routes[#routes + 1] = {prefix, via = "198.51.100.1", port = to} end
end

local router = tw.nf.router {
   ports = {
      {port = from, addresses = {"198.18.255.254/15"}},
      {port = to, addresses = {"198.51.100.254/24"}},
   },
   routes = routes,
   -- Nobody behind net_null answers ARP.
   neighbours = {["198.51.100.1"] = "02:00:00:00:00:01"},
}
tw.chain("route", from, router, to):pin {lcore = tonumber(lcore)}
