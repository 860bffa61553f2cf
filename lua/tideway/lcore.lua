-- SPDX-License-Identifier: BSD-3-Clause
-- Runs in an lcore's VM: builds, from what the control VM packed, the functions that C calls.

local ffi = require "ffi"
local bit = require "bit"
local buffer = require "string.buffer"
local abi = require "tideway.abi"
local chain_code = require "tideway.chain_code"
local jit_watch = require "tideway.jit_watch"
local lcore_trace = require "tideway.lcore_trace"
local packet = require "tideway.packet"
local sandboxed = require "tideway.sandbox.lcore"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

-- Room for large NFs: the defaults of LuaJIT 2.1 are for scripts. loopunroll also bounds the tail calls of a
-- trace, of which NFs make many ("return pkt:drop ...").
local JIT_OPTIONS = {
   "maxtrace=8000", "maxrecord=20000", "maxirconst=8000", "maxside=1000", "maxsnap=2000", "hotloop=28",
   "hotexit=6", "sizemcode=256", "loopunroll=100", "maxmcode=16384",
}

-- ---- stages ----

local function quarantined(stage)
   local verdict = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "nf_quarantined", 8))
   local function pass() end
   local function drop(pkt) pkt.verdict = verdict end
   local policy = stage.bypass and pass or drop
   return { packet = policy, punt = policy }
end

-- The NF instances of a chain, those in quarantine replaced by their policy.
local function stages_of(chain, mask, burst)
   local list = {}
   for i, stage in ipairs(chain.stages) do
      local out = bit.band(mask, bit.lshift(1, i - 1)) ~= 0
      list[i] = out and quarantined(stage) or stage.nf.sandboxed and sandboxed.stage(chain, i, burst) or stage.nf
   end
   return list
end

-- ---- slow paths ----

-- Run one packet from its resume stage to its verdict.
local function run_from(burst, pkt, stages)
   for s = pkt.resume, #stages - 1 do
      burst.stage = s
      local nf = stages[s + 1]
      if nf.packet then nf.packet(pkt) else lcore_trace.burst_of_one(burst, nf, pkt) end
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
      local run, wanted = lcore_trace.runner()
      run = run or run_from
      for i = 0, burst.count - 1 do
         local pkt = burst.pkts[i]
         if pkt.verdict == C.TW_NEXT then run(burst, pkt, stages, wanted) end
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
   local run, wanted = lcore_trace.runner()
   if run then lcore_trace.punt(punt, pkt, s) else punt(pkt) end
   run = run or run_from
   if pkt.verdict == C.TW_NEXT then run(burst, pkt, stages, wanted) else pkt.stage = s end
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

-- ---- state that goes from one plan's NF to the next one's ----

-- Plain data, which is most of it, is fast to write down; all else goes as NFs do.
local function written(state, name)
   local ok, text = pcall(buffer.encode, state)
   return ok and "plain" .. text or "graph" .. transfer.pack(state, name)
end

local function read(text)
   local kind, body = text:sub(1, 5), text:sub(6)
   return kind == "plain" and buffer.decode(body) or transfer.unpack(body)
end

local function make_export(burst, chains)
   return function(chain, stage)
      burst.chain, burst.stage = chain, stage
      local export = chains[chain + 1][stage + 1].export
      local state = export and export()
      if state ~= nil then return written(state, "the state that export() returned") end
   end
end

local function make_import(burst, chains)
   return function(chain, stage, address, length)
      burst.chain, burst.stage = chain, stage
      local import = chains[chain + 1][stage + 1].import
      if import then import(read(ffi.string(ffi.cast("const char *", address), length))) end
   end
end

-- The functions that should be compiled: loops of chains, and those of NFs, which stay when a chain has none.
local function hot_functions(chains, loops)
   local list = { unpack(loops) }
   for _, stages in ipairs(chains) do
      for _, nf in ipairs(stages) do list[#list + 1] = nf.packet or nf.burst end
   end
   return list
end

--- Build everything C needs from this VM.
---@param blob string from tideway.transfer, a list of chains
---@param burst_address number of struct tw_burst
---@param jit_address number of struct tw_jit
---@param quarantine integer[] bit mask of stages per chain
---@param bank integer of native words
---@return function resume
---@return function punt
---@return function tick
---@return function stop
---@return function export
---@return function import
---@return function ... one per chain
function M.build(blob, burst_address, jit_address, quarantine, bank)
   jit.opt.start(unpack(JIT_OPTIONS))
   -- The heap is bounded: collect early rather than let garbage reach the limit.
   collectgarbage("setpause", 120)
   collectgarbage("setstepmul", 400)
   local jit_info = ffi.cast("struct tw_jit *", jit_address)
   jit_watch.attach(jit_info)
   local burst = ffi.cast("struct tw_burst *", burst_address)
   packet.set_burst(burst)
   local list = transfer.unpack(blob)
   local chains, functions, loops = {}, {}, {}
   for i, chain in ipairs(list) do
      chains[i] = stages_of(chain, quarantine[i], burst)
      local own
      functions[i], own = chain_code.build(chain, chains[i], quarantine[i], burst, bank)
      for _, loop in ipairs(own) do loops[#loops + 1] = loop end
   end
   local tick = jit_watch.make_tick(make_each(burst, chains, "tick"), jit_info, hot_functions(chains, loops))
   return make_resume(burst, chains), make_punt(burst, chains), tick, make_each(burst, chains, "stop"),
      make_export(burst, chains), make_import(burst, chains), unpack(functions)
end

return M
