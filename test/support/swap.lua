-- SPDX-License-Identifier: BSD-3-Clause
-- Plans by hand, for swap_spec: lcores with chains of NF instances, published one after the other on wire ports, with
-- nothing of the Lua engine in between.
--
--    local s = swap.new { "a", "b" }                     -- ports 0 and 1
--    local c = { stages = { { nf = { packet = f } } }, sink = 1, inputs = { 0 } }
--    s:publish { { cpu = -1, c } }                       -- cpu -1: stepped by hand
--    s:send(0, frame, frame); s:collect(1)
--    s:close()                                           -- the counters must add up

local ffi = require "ffi"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local stats = require "tideway.stats"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}
local Swap = {}
Swap.__index = Swap

local function check(rc) return rc < 0 and error(abi.error(), 3) or rc end

--- @param names string[] of wire ports, numbered from 0
function M.new(names)
   engine.close() -- whatever a failed spec left behind
   C.tw_stats_close()
   assert(C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
   local self = setmetatable({ steps = {} }, Swap)
   for i, name in ipairs(names) do self:open(i - 1, name, "wire" .. i - 1) end
   return self
end

function Swap:open(index, name, device, queues)
   check(C.tw_port_open(index, name, device))
   check(C.tw_port_reserve(index, queues or 1, 4))
   check(C.tw_port_start(index, queues or 1, 4))
end

local function fill_stage(spec, s, stage)
   spec.bypass[s] = stage.bypass and 1 or 0
   spec.from[s] = stage.from or C.TW_STAGE_NEW
   spec.fresh[s] = stage.fresh and 1 or 0
   spec.carry[s] = stage.carry and 1 or 0
   ffi.copy(spec.name[s], stage.name or "nf" .. s + 1)
   ffi.copy(spec.where[s], ("%s:%d"):format(stage.name or "nf", s + 1))
end

local function publish_names(index, chain)
   local info = C.tw_stats().chain[index]
   ffi.fill(info, ffi.sizeof(info))
   ffi.copy(info.name, chain.name or "chain" .. index)
   info.stages = #chain.stages
   for s, stage in ipairs(chain.stages) do ffi.copy(info.stage[s - 1], stage.name or "nf" .. s) end
   C.tw_stats().chains = math.max(C.tw_stats().chains, index + 1)
end

local function fill_chain(spec, chain)
   spec.chain, spec.stages, spec.code = chain.index or 0, #chain.stages, #chain.stages > 0 and 1 or 0
   spec.sink_kind = chain.ring and C.TW_END_RING or chain.sink and C.TW_END_PORT or C.TW_END_NONE
   spec.sink, spec.kernel = chain.ring or chain.sink or 0, C.TW_PORT_NONE
   for s, stage in ipairs(chain.stages) do fill_stage(spec, s - 1, stage) end
end

local function add(plan, lcore)
   local specs, packed = ffi.new("struct tw_chain_spec[?]", math.max(1, #lcore)), {}
   local inputs, n = ffi.new "struct tw_input_spec[64]", 0
   for i, chain in ipairs(lcore) do
      fill_chain(specs[i - 1], chain)
      local stages = {}
      for s, stage in ipairs(chain.stages) do stages[s] = { nf = stage.nf, bypass = stage.bypass } end
      packed[i] = { name = chain.name or "chain", index = chain.index or 0, stages = stages, segments = chain.segments }
      for _, input in ipairs(chain.inputs) do
         local ring, queue = type(input) == "table" and input.ring, type(input) == "table" and input.queue
         inputs[n].kind = ring and C.TW_END_RING or C.TW_END_PORT
         inputs[n].index = ring or type(input) == "table" and input.port or input
         inputs[n].queue, inputs[n].chain = queue or 0, i - 1
         n = n + 1
      end
   end
   local blob = transfer.pack(packed, "spec")
   return check(C.tw_plan_add_lcore(plan, lcore.cpu, specs, #lcore, inputs, n, blob, #blob))
end

--- Builds a plan; the caller publishes or frees it.
---@param lcores table[] each a list of chains with `cpu`, or { cpu = n, keep = true }
function Swap:plan(lcores, without)
   local plan = C.tw_plan_new()
   self.slots = {}
   local ok, err = pcall(function()
      for _, lcore in ipairs(lcores) do
         self.slots[lcore.cpu] = lcore.keep and check(C.tw_plan_keep_lcore(plan, lcore.cpu)) or add(plan, lcore)
      end
      for _, port in ipairs(without or {}) do C.tw_plan_without_port(plan, port) end
   end)
   if ok then return plan end
   C.tw_plan_free(plan)
   error(err, 0)
end

--- Builds a plan and publishes it.
---@return ffi.cdata* struct tw_publish
function Swap:publish(lcores, without)
   local plan, out = self:plan(lcores, without), ffi.new "struct tw_publish"
   for _, lcore in ipairs(lcores) do
      for _, chain in ipairs(lcore) do publish_names(chain.index or 0, chain) end
   end
   check(C.tw_plan_publish(plan, out))
   self.steps = {}
   for cpu, slot in pairs(self.slots) do
      if cpu < 0 then self.steps[#self.steps + 1] = slot end
   end
   return out
end

function Swap:settle() check(C.tw_plan_settle()) end

function Swap:rollback()
   local out = ffi.new "struct tw_publish"
   check(C.tw_plan_rollback(out))
   return out
end

--- Why an lcore has fallen back, or nil.
function Swap:fell()
   local why = ffi.new "char[512]"
   return C.tw_plan_fell_back(why, 512) == 1 and ffi.string(why) or nil
end

--- Turns all lcores that are stepped by hand, until nothing moves.
function Swap:run()
   for _ = 1, 100 do
      local moved = 0
      for _, slot in ipairs(self.steps) do moved = moved + check(C.tw_lcore_step(slot)) end
      if moved == 0 then return end
   end
end

function Swap:advance(seconds)
   C.tw_clock_advance(seconds * 1e9)
   self:run()
end

function Swap:inject(port, frame) return C.tw_wire_inject(port, frame, #frame) == 0 end

function Swap:send(port, ...)
   for _, frame in ipairs { ... } do check(C.tw_wire_inject(port, frame, #frame)) end
   self:run()
end

local room = ffi.new "uint8_t[2048]"

function Swap:collect(port)
   local list = {}
   while true do
      local n = C.tw_wire_collect(port, room, 2048)
      if n <= 0 then return list end
      list[#list + 1] = ffi.string(room, n)
   end
end

function Swap:log()
   local line, list = ffi.new "char[512]", {}
   while C.tw_log_next(line, 512) == 1 do list[#list + 1] = ffi.string(line) end
   return table.concat(list, "\n")
end

function Swap:snapshot()
   C.tw_ports_refresh()
   return stats.snapshot(C.tw_stats())
end

--- Sums over all lcores: packets that entered each NF, and its drops.
---@return integer[] stage_in from stage 0 to the stages that are gone
---@return integer[] drops
function Swap:stages(chain)
   local all, received, dropped = C.tw_stats(), {}, {}
   for s = 0, C.TW_STAGES_MAX - 1 do
      received[s], dropped[s] = 0, 0
      for slot = 0, all.lcores - 1 do
         local l = all.lcore[slot]
         received[s] = received[s] + tonumber(l.stage_in[chain][s])
         for r = 0, all.reasons - 1 do dropped[s] = dropped[s] + tonumber(l.drops[chain][s][r]) end
      end
   end
   return received, dropped
end

--- Drops of all chains by reason.
function Swap:drops()
   local out = {}
   for _, d in ipairs(stats.drops(self:snapshot())) do out[d.reason] = d.count end
   return out
end

--- Stops everything; the counters must be exact.
function Swap:close()
   C.tw_engine_stop()
   local snap = self:snapshot()
   engine.close()
   local t = snap.totals
   assert(stats.adds_up(snap), ("counters: %d received + %d originated = %d sent + %d dropped + %d in flight is off by %d")
      :format(t.received, t.originated, t.sent, t.dropped, t.in_flight, t.difference))
   return snap
end

return M
