-- SPDX-License-Identifier: BSD-3-Clause
-- The bursts that are timed, one in sixteen: how large they were and how long a chain took for them.

local M = {}

local SIZES, TIMES = 7, 32

---@class tideway.stats.sample
---@field packets number in these bursts
---@field size number[] bursts by size: bucket i those of at most 2^(i-1) packets that do not fit the one before
---@field ns number[] bursts by time, likewise in nanoseconds

local function zero()
   local out = { packets = 0, size = {}, ns = {} }
   for i = 1, SIZES do out.size[i] = 0 end
   for i = 1, TIMES do out.ns[i] = 0 end
   return out
end

--- Of one chain, over all lcores.
---@param lcores ffi.cdata*[] struct tw_lcore_stats
---@param chain integer
---@return tideway.stats.sample
function M.read(lcores, chain)
   local out = zero()
   for _, l in ipairs(lcores) do
      local from = l.sample[chain]
      if from.packets > 0 then
         out.packets = out.packets + tonumber(from.packets)
         for i = 1, SIZES do out.size[i] = out.size[i] + tonumber(from.size[i - 1]) end
         for i = 1, TIMES do out.ns[i] = out.ns[i] + tonumber(from.ns[i - 1]) end
      end
   end
   return out
end

--- What came between two of them; a chain that was counted anew has only the later.
---@param new tideway.stats.sample
---@param old? tideway.stats.sample
---@return tideway.stats.sample
function M.since(new, old)
   if not old or old.packets > new.packets then return new end
   local out = zero()
   out.packets = new.packets - old.packets
   for i = 1, SIZES do out.size[i] = math.max(0, new.size[i] - old.size[i]) end
   for i = 1, TIMES do out.ns[i] = math.max(0, new.ns[i] - old.ns[i]) end
   return out
end

--- The bound that a share of the values does not pass: a power of two; nil when there is no value.
---@param buckets number[]
---@param share number 0..1
---@return number?
function M.quantile(buckets, share)
   local all, sum = 0, 0
   for _, n in ipairs(buckets) do all = all + n end
   if all == 0 then return nil end
   for i, n in ipairs(buckets) do
      sum = sum + n
      if sum >= all * share then return 2 ^ (i - 1) end
   end
end

--- { ns_50, ns_99, ns_max, size_50 }: upper bounds; absent when nothing was timed.
---@param s tideway.stats.sample
---@return table<string, number>
function M.quantiles(s)
   return {
      ns_50 = M.quantile(s.ns, 0.5), ns_99 = M.quantile(s.ns, 0.99), ns_max = M.quantile(s.ns, 1),
      size_50 = M.quantile(s.size, 0.5),
   }
end

return M
