-- SPDX-License-Identifier: BSD-3-Clause
-- Runs in an lcore's VM: NFs of sandboxes where packets go through a chain one by one (after a fault, when traced).
-- What runs is the compiled function, on a burst of its own with one packet.

local ffi = require "ffi"

local M = {}

local SIZE = ffi.sizeof "struct tw_pkt"

--- The NF at a place of a chain.
---@param chain table what the plan packed: { name, stages, segments }
---@param index integer from 1
---@param burst ffi.cdata* struct tw_burst * of the lcore
---@return table nf { packet }
function M.stage(chain, index, burst)
   local one, run, anchor = ffi.new "struct tw_burst", nil, nil
   for _, segment in ipairs(chain.segments) do
      if segment.first == index then
         run, anchor = assert(loadstring(segment.lua, ("=chain %s_%d"):format(chain.name, index)))(one)
      end
   end
   return {
      anchor = anchor,
      packet = function(pkt)
         one.now, one.stage, one.chain, one.lcore, one.count = burst.now, burst.stage, burst.chain, burst.lcore, 1
         ffi.copy(one.pkts[0], pkt, SIZE)
         one.pkts[0].resume = index - 1
         run(1)
         ffi.copy(pkt, one.pkts[0], SIZE)
      end,
   }
end

return M
