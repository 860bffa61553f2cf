-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: exchanges the MAC addresses in Lua, as testpmd's macswap does in C.
-- Arguments: source devargs, sink devargs, lcore.

local tw = require "tideway"
local source, sink, lcore = ...

local macswap = tw.nf("macswap", function()
   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return pkt:drop "too_short" end
         eth:swap()
      end,
   }
end)

local from, to = tw.port("source", source), tw.port("sink", sink)
tw.chain("macswap", from, macswap {}, to):pin {lcore = tonumber(lcore)}
