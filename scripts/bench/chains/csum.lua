-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: new MAC addresses, and the checksums of IPv4 and UDP computed anew over all their bytes, in Lua, as
-- testpmd's csum does in C where the device does not.
-- Arguments: source devargs, sink devargs, lcore.

local tw = require "tideway"
local source, sink, lcore = ...

local csum = tw.nf("csum", function(cfg)
   local dst, src = tw.mac(cfg.dst), tw.mac(cfg.src)
   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return pkt:drop "too_short" end
         eth.dst = dst
         eth.src = src
         local ip = pkt:ipv4()
         if not ip then return end
         ip:update_checksum()
         pkt:update_l4_checksum()
      end,
   }
end)

local from, to = tw.port("source", source), tw.port("sink", sink)
tw.chain("csum", from, csum { dst = "02:00:00:00:00:00", src = "02:00:00:00:00:01" }, to):pin {
   lcore = tonumber(lcore),
}
