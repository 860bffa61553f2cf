-- SPDX-License-Identifier: BSD-3-Clause
-- Runs in an lcore's VM: packets go through NFs one by one, with a record for watches behind each (core/watch_edge.c).

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

local CALIBRATIONS = 64

-- Of tw_watch_stepping(): packets are followed.
local FOLLOWED = 2 ^ 32 - 1

local function nothing() end

-- What the recording itself takes between mark and step, which is not an NF's.
local function calibrate(pkt)
   for _ = 1, CALIBRATIONS do
      C.tw_watch_mark()
      nothing(pkt)
      C.tw_watch_calibrate()
   end
end
jit.off(calibrate)
jit.off(nothing)

local calibrated = false

-- A burst NF gets slow-path packets as bursts of one.
local function burst_of_one(burst, nf, pkt)
   local one = ffi.new "struct tw_burst"
   one.now, one.stage, one.chain, one.lcore, one.count = burst.now, burst.stage, burst.chain, burst.lcore, 1
   ffi.copy(one.pkts[0], pkt, ffi.sizeof "struct tw_pkt")
   nf.burst(one)
   ffi.copy(pkt, one.pkts[0], ffi.sizeof "struct tw_pkt")
end
M.burst_of_one = burst_of_one

-- Run one packet from its resume stage to its verdict, every step timed and recorded.
local function follow(burst, pkt, stages)
   if not calibrated then
      calibrated = true
      calibrate(pkt)
   end
   for s = pkt.resume, #stages - 1 do
      burst.stage = s
      local nf = stages[s + 1]
      C.tw_watch_mark()
      if nf.packet then nf.packet(pkt) else burst_of_one(burst, nf, pkt) end
      C.tw_watch_step(pkt, s, 0)
      if pkt.verdict ~= C.TW_NEXT then
         pkt.stage = s
         return
      end
   end
   pkt.verdict = C.TW_SINK
end
-- Interpreted, so that what lies between mark and step is always the same; NFs are compiled as they become hot.
jit.off(follow)

-- The same where only what comes out of some NFs is wanted.
local function pass(burst, pkt, stages, wanted)
   for s = pkt.resume, #stages - 1 do
      burst.stage = s
      local nf = stages[s + 1]
      if nf.packet then nf.packet(pkt) else burst_of_one(burst, nf, pkt) end
      if bit.band(wanted, bit.lshift(1, s)) ~= 0 then C.tw_watch_step(pkt, s, 0) end
      if pkt.verdict ~= C.TW_NEXT then
         pkt.stage = s
         return
      end
   end
   pkt.verdict = C.TW_SINK
end

--- What runs the packets of the burst in hand one by one, when there is something to record.
---@return fun(burst: ffi.cdata*, pkt: tideway.pkt, stages: tideway.nf.instance[], wanted: integer)? run
---@return integer? wanted
function M.runner()
   local wanted = C.tw_watch_stepping()
   if wanted == 0 then return nil end
   return wanted == FOLLOWED and follow or pass, wanted
end

--- Run the punt() of an NF on a packet.
---@param punt fun(pkt: tideway.pkt)
---@param pkt tideway.pkt
---@param stage integer
function M.punt(punt, pkt, stage)
   C.tw_watch_mark()
   punt(pkt)
   C.tw_watch_step(pkt, stage, C.TW_WATCH_PUNT)
end
jit.off(M.punt)

return M
