-- SPDX-License-Identifier: BSD-3-Clause
-- One NF that does as much as it is told, alone. For scripts/bench/detect: does `bench compare` find what got slower?
-- Argument: how many steps of a few cycles it takes for each packet.

local bit = require "bit"
local tw = require "tideway"
local bench = tw.bench

local work = tw.nf("work", function(cfg)
   local steps = cfg.steps
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local x = ip.id + 1
         for _ = 1, steps do x = bit.bxor(x, bit.lshift(x, 5)) + 1 end
         if x == 0 then return pkt:drop "zero" end
      end,
   }
end)

bench.alone { name = "work", work { steps = tonumber((...)) or 100 }, packets = bench.packets { flows = 1024 } }
