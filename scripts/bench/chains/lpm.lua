-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: what l3fwd does, and no more, as an NF of one's own: longest prefix, TTL, checksum, MAC addresses of the
-- port. The library's router (route.lua) also checks checksums, lengths, source addresses and who a frame is for.
-- Arguments: source devargs, sink devargs, lcore, rule file ("R10.0.0.0/8 1" a line).

local tw = require "tideway"
local source, sink, lcore, rules = ...

local from, to = tw.port("source", source), tw.port("sink", sink)

local routes = tw.lpm { name = "routes", value = "u16", entries = 131072, groups = 4096 }
for line in io.lines(rules) do
   local prefix = line:match "^R(%S+)"
   if prefix then routes:set(prefix, to.index) end
end

local addresses = tw.array { name = "addresses", value = "mac dst; mac src", entries = 64 }
addresses:set(to.index, tw.mac "02:00:00:00:00:01", tw.mac "02:00:00:00:00:02")

local lpm = tw.nf("lpm", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return pkt:drop "not_ipv4" end
         if ip.ttl <= 1 then return pkt:drop "ttl_expired" end
         local port = routes:get(ip.dst)
         if not port then return pkt:drop "no_route" end
         local hop = addresses:get(port)
         if not hop then return pkt:drop "no_hop" end
         ip:decrement_ttl()
         local eth = pkt:eth()
         eth.dst = hop.dst
         eth.src = hop.src
         return pkt:send(port)
      end,
   }
end)
tw.chain("lpm", from, lpm {}, to):pin { lcore = tonumber(lcore) }
