-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: exchanges MAC addresses, IP addresses and ports in Lua, as testpmd's 5tswap does in C.
-- Arguments: source devargs, sink devargs, lcore.

local tw = require "tideway"
local source, sink, lcore = ...

local five_tuple = tw.nf("five_tuple", function()
   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return pkt:drop "too_short" end
         eth:swap()
         local ip = pkt:ipv4()
         if not ip then return end
         local src = ip.src
         ip.src = ip.dst
         ip.dst = src
         local l4 = pkt:udp() or pkt:tcp()
         if not l4 then return end
         local port = l4.src_port
         l4.src_port = l4.dst_port
         l4.dst_port = port
      end,
   }
end)

local from, to = tw.port("source", source), tw.port("sink", sink)
tw.chain("5tswap", from, five_tuple {}, to):pin { lcore = tonumber(lcore) }
