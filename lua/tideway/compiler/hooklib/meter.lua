-- SPDX-License-Identifier: BSD-3-Clause
-- Meters on hooks: srTCM (RFC 2697) and trTCM (RFC 2698) on the entries of a map with a lock, in NF Lua. What they say
-- is what core/table_meter.c says, which runs DPDK's rte_meter: tokens come in whole periods.

local ffi = require "ffi"
local bit = require "bit"

local M = {}

local cast, u64 = ffi.cast, ffi.typeof "uint64_t"
local GREEN, YELLOW, RED = 0, 1, 2

--- The value of a meter's map. pir_period is 0 for srTCM, whose second bucket (pbs, tp) is the excess one.
M.value = [[u64 cir_period; u64 cir_bytes; u64 pir_period; u64 pir_bytes; u64 cbs; u64 pbs;
   u64 time_tc; u64 time_tp; u64 tc; u64 tp]]

local function single_rate(e, length, color, now)
   local periods = (now - e.time_tc) / e.cir_period
   e.time_tc = e.time_tc + periods * e.cir_period
   local tc, te, result = e.tc + periods * e.cir_bytes, e.tp, RED
   if tc > e.cbs then
      te = te + (tc - e.cbs)
      if te > e.pbs then te = e.pbs end
      tc = e.cbs
   end
   if color == GREEN and tc >= length then
      tc, result = tc - length, GREEN
   elseif color ~= RED and te >= length then
      te, result = te - length, YELLOW
   end
   e.tc, e.tp = tc, te
   return result
end

local function two_rates(e, length, color, now)
   local committed, peak = (now - e.time_tc) / e.cir_period, (now - e.time_tp) / e.pir_period
   e.time_tc = e.time_tc + committed * e.cir_period
   e.time_tp = e.time_tp + peak * e.pir_period
   local tc, tp, result = e.tc + committed * e.cir_bytes, e.tp + peak * e.pir_bytes, RED
   if tc > e.cbs then tc = e.cbs end
   if tp > e.pbs then tp = e.pbs end
   if color ~= RED and tp >= length then
      tp, result = tp - length, YELLOW
      if color == GREEN and tc >= length then
         tc, result = tc - length, GREEN
      end
   end
   e.tc, e.tp = tc, tp
   return result
end

--- The colour of a packet. The caller holds the entry's lock.
---@param e ffi.cdata*|table an entry of a meter's map
---@param length integer bytes
---@param color integer that an earlier marker gave it; 0 in the colour-blind mode
---@param now integer ns
---@return integer 0 green, 1 yellow, 2 red
function M.mark(e, length, color, now)
   local bytes, at = cast(u64, length), cast(u64, now)
   if e.time_tc > at then at = e.time_tc end -- two CPUs may come out of order
   if e.pir_period == 0ULL then
      if e.cir_period == 0ULL then return RED end
      return (single_rate(e, bytes, color, at))
   end
   if e.cir_period == 0ULL then return RED end
   if e.time_tp > at then at = e.time_tp end
   return (two_rates(e, bytes, color, at))
end

-- `bytes` come every `period` ns: set_period() of core/table_meter.c.
local SECOND, AIM = 1000000000ULL, 10000ULL

local function period_of(rate, burst)
   if rate == 0 then return SECOND, 0ULL end
   local bytes = (rate * AIM + SECOND - 1) / SECOND
   local half = bit.rshift(burst, 1)
   if bytes > half then bytes = half end
   if bytes == 0 then bytes = 1ULL end
   local period = (bytes * SECOND + rate / 2) / rate
   return period > 0 and period or 1ULL, bytes
end

--- What an entry holds for a rate, buckets full.
---@param rate ffi.cdata* struct tw_meter_rate
---@param now number ns
---@return table fields by name
function M.entry(rate, now)
   local e = { cbs = rate.cbs, pbs = rate.pbs, tc = rate.cbs, tp = rate.pbs, time_tc = now, time_tp = now,
      pir_period = 0, pir_bytes = 0 }
   if rate.pir ~= 0 then
      e.cir_period, e.cir_bytes = period_of(rate.cir, rate.cbs)
      e.pir_period, e.pir_bytes = period_of(rate.pir, rate.pbs)
   else
      e.cir_period, e.cir_bytes = period_of(rate.cir, rate.cbs > rate.pbs and rate.cbs or rate.pbs)
   end
   return e
end

return M
