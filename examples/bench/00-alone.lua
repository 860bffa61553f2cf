-- SPDX-License-Identifier: BSD-3-Clause
-- What NFs cost, each alone: ns and cycles a packet without those of source and sink, which are measured as well. No
-- NIC is needed.
--
--    sudo build/tideway bench examples/bench/00-alone.lua
-- and what a change of an NF did to it:
--    sudo build/tideway bench --json before.json examples/bench/00-alone.lua
--    sudo build/tideway bench --json after.json examples/bench/00-alone.lua
--    build/tideway bench compare before.json after.json

local tw = require "tideway"
local bench = tw.bench

-- 64-byte UDP packets of 1,024 flows, made in memory.
local packets = bench.packets { flows = 1024 }

local ttl = tw.nf("ttl", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= 1 then return pkt:drop "ttl_expired" end
         ip.ttl = ip.ttl - 1
         ip:update_checksum()
      end,
   }
end)

local firewall = tw.nf.firewall {
   rules = [[
      allow established
      allow udp
      drop
   ]],
}

bench.alone { name = "nf", title = "NFs alone", ttl {}, tw.nf.count {}, firewall, packets = packets }
