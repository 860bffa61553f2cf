-- SPDX-License-Identifier: BSD-3-Clause
-- Runs in an lcore's VM: builds, from what the control VM packed, the functions that C calls.

local ffi = require "ffi"
local bit = require "bit"
local util = require "jit.util"
local vmdef = require "jit.vmdef"
local abi = require "tideway.abi"
local chain_code = require "tideway.chain_code"
local packet = require "tideway.packet"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

-- Room for large NFs: the defaults of LuaJIT 2.1 are for scripts. loopunroll also bounds the tail calls of a
-- trace, of which NFs make many ("return pkt:drop ...").
local JIT_OPTIONS = {
   "maxtrace=8000", "maxrecord=20000", "maxirconst=8000", "maxside=1000", "maxsnap=2000", "hotloop=28",
   "hotexit=6", "sizemcode=256", "loopunroll=100", "maxmcode=16384",
}

-- ---- what the JIT compiler does, for the fence and for top ----

local function watch_jit(jit_info)
   local started = {}
   local function where(fn, pc)
      local info = util.funcinfo(fn, pc)
      return info.loc or (info.addr and "C function") or "?"
   end
   jit.attach(function(what, trace, fn, pc)
      if what == "start" then
         started[trace] = where(fn, pc)
      elseif what == "stop" then
         jit_info.traces = jit_info.traces + 1
         local code, address = util.tracemc(trace)
         if code and trace < C.TW_TRACES_MAX then
            local slot = jit_info.trace[trace]
            slot.start = address < 0 and address + 2 ^ 64 or address
            slot["end"] = slot.start + #code
            ffi.copy(slot.where, (started[trace] or "?"):sub(-C.TW_WHERE_LEN + 1))
         end
      elseif what == "abort" then
         jit_info.aborts = jit_info.aborts + 1
         ffi.copy(jit_info.last_abort, where(fn, pc):sub(-C.TW_WHERE_LEN + 1))
      elseif what == "flush" then
         jit_info.flushes = jit_info.flushes + 1
      end
   end, "trace")
end

-- ---- stages ----

local function quarantined(stage)
   local verdict = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "nf_quarantined", 8))
   local function pass() end
   local function drop(pkt) pkt.verdict = verdict end
   local policy = stage.bypass and pass or drop
   return { packet = policy, punt = policy }
end

-- The NF instances of a chain, those in quarantine replaced by their policy.
local function stages_of(chain, mask)
   local list = {}
   for i, stage in ipairs(chain.stages) do
      local out = bit.band(mask, bit.lshift(1, i - 1)) ~= 0
      list[i] = out and quarantined(stage) or stage.nf
   end
   return list
end

-- ---- slow paths ----

-- A burst NF gets slow-path packets as bursts of one.
local function burst_of_one(burst, nf, pkt)
   local one = ffi.new "struct tw_burst"
   one.now, one.stage, one.chain, one.lcore, one.count = burst.now, burst.stage, burst.chain, burst.lcore, 1
   ffi.copy(one.pkts[0], pkt, ffi.sizeof "struct tw_pkt")
   nf.burst(one)
   ffi.copy(pkt, one.pkts[0], ffi.sizeof "struct tw_pkt")
end

-- Run one packet from its resume stage to its verdict.
local function run_from(burst, pkt, stages)
   for s = pkt.resume, #stages - 1 do
      burst.stage = s
      local nf = stages[s + 1]
      if nf.packet then nf.packet(pkt) else burst_of_one(burst, nf, pkt) end
      if pkt.verdict ~= C.TW_NEXT then
         pkt.stage = s
         return
      end
   end
   pkt.verdict = C.TW_SINK
end

local function make_resume(burst, chains)
   return function()
      local stages = chains[burst.chain + 1]
      for i = 0, burst.count - 1 do
         local pkt = burst.pkts[i]
         if pkt.verdict == C.TW_NEXT then run_from(burst, pkt, stages) end
      end
   end
end

local function punt_one(burst, pkt, stages)
   local s = pkt.stage
   local nf = stages[s + 1]
   local punt = nf.punt
   pkt.resume, pkt.stage = s + 1, C.TW_STAGE_ENGINE
   if not punt then
      pkt.stage = s
      pkt.verdict = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "no_punt", 8))
      return
   end
   pkt.verdict = C.TW_NEXT
   burst.stage = s
   punt(pkt)
   if pkt.verdict == C.TW_NEXT then run_from(burst, pkt, stages) else pkt.stage = s end
end

local function make_punt(burst, chains)
   return function()
      local stages = chains[burst.chain + 1]
      for i = 0, burst.count - 1 do
         local pkt = burst.pkts[i]
         local guard = #stages
         while bit.band(pkt.verdict, 0xff) == C.TW_PUNT and guard > 0 do
            punt_one(burst, pkt, stages)
            guard = guard - 1
         end
      end
   end
end

-- Calls `method` of every NF that has it; an instance that stands in several places once. Not compiled: it runs
-- too seldom to be worth traces, and would be tried again and again.
local function make_each(burst, chains, method)
   local calls, done = {}, {}
   for c, stages in ipairs(chains) do
      for s, nf in ipairs(stages) do
         if nf[method] and not done[nf] then
            done[nf] = true
            calls[#calls + 1] = { fn = nf[method], chain = c - 1, stage = s - 1 }
         end
      end
   end
   local function each()
      for i = 1, #calls do
         local call = calls[i]
         burst.chain, burst.stage = call.chain, call.stage
         call.fn(tonumber(burst.now))
      end
   end
   jit.off(each)
   return each
end

-- Traces are recorded from the first packets, which are unlike the rest (new flows, unresolved neighbours);
-- what comes after lives in side traces. So when the traces have settled they are thrown away, once early and
-- once later, and recorded again from the traffic as it is.
local SETTLED_TICKS = { 3, 20 }

local BLACKLISTED = { IFORL = true, ILOOP = true, IITERL = true, IFUNCF = true }

-- Does LuaJIT refuse to compile a loop of this function? It notes that in the bytecode.
local function is_interpreted(fn)
   for pc = 0, util.funcinfo(fn).bytecodes - 1 do
      local op = bit.band(util.funcbc(fn, pc), 0xff) * 6
      if BLACKLISTED[vmdef.bcnames:sub(op + 1, op + 6):match "%S+"] then return true end
   end
   return false
end

local function make_tick(tick, jit_info, functions)
   local seen, still = 0, 0
   local function settle()
      tick()
      local interpreted = 0
      for i = 1, #functions do
         if is_interpreted(functions[i]) then interpreted = interpreted + 1 end
      end
      jit_info.interpreted = interpreted
      local wanted = SETTLED_TICKS[jit_info.settled + 1]
      if not wanted then return end
      still = jit_info.traces == seen and still + 1 or 0
      seen = jit_info.traces
      if seen > 0 and still >= wanted then
         local flushes = jit_info.flushes
         jit.flush()
         jit_info.flushes, jit_info.settled, still = flushes, jit_info.settled + 1, 0
      end
   end
   jit.off(settle)
   jit.off(is_interpreted)
   return settle
end

--- Build everything C needs from this VM.
---@param blob string from tideway.transfer, a list of chains
---@param burst_address number of struct tw_burst
---@param jit_address number of struct tw_jit
---@param quarantine integer[] bit mask of stages per chain
---@return function resume
---@return function punt
---@return function tick
---@return function stop
---@return function ... one per chain
function M.build(blob, burst_address, jit_address, quarantine)
   jit.opt.start(unpack(JIT_OPTIONS))
   -- The heap is bounded: collect early rather than let garbage reach the limit.
   collectgarbage("setpause", 120)
   collectgarbage("setstepmul", 400)
   local jit_info = ffi.cast("struct tw_jit *", jit_address)
   watch_jit(jit_info)
   local burst = ffi.cast("struct tw_burst *", burst_address)
   packet.set_burst(burst)
   local list = transfer.unpack(blob)
   local chains, functions, loops = {}, {}, {}
   for i, chain in ipairs(list) do
      chains[i] = stages_of(chain, quarantine[i])
      local own
      functions[i], own = chain_code.build(chain, chains[i], quarantine[i], burst)
      for _, loop in ipairs(own) do loops[#loops + 1] = loop end
   end
   local tick = make_tick(make_each(burst, chains, "tick"), jit_info, loops)
   return make_resume(burst, chains), make_punt(burst, chains), tick, make_each(burst, chains, "stop"),
      unpack(functions)
end

return M
