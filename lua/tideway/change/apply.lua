-- SPDX-License-Identifier: BSD-3-Clause
-- Carries a difference out: prepare, off the data path, all that can fail; switch lcores and hooks; remember what must
-- go when the change has proved good. When something fails what ran before runs on.

local ffi = require "ffi"
local abi = require "tideway.abi"
local diff_lib = require "tideway.change.diff"
local draft_lib = require "tideway.change.draft"
local engine = require "tideway.engine"
local gate = require "tideway.gate.engine"
local hook_swap = require "tideway.hook.swap"
local hooks = require "tideway.hook"
local known = require "tideway.change.known"
local model = require "tideway.model"
local native = require "tideway.native"
local plan = require "tideway.plan"
local session = require "tideway.live.session"

local C = abi.C
local M = {
   --- How long the C compiler may take before a change is made with what LuaJIT makes of it, seconds.
   compile_seconds = 2,
}

---@class tideway.change.applied what was done, to be settled or taken back
---@field diff tideway.change.diff
---@field base tideway.model.version
---@field version tideway.model.version
---@field lcores_before tideway.plan.lcore[]
---@field published boolean lcores took a new plan
---@field hooks tideway.hook.swap
---@field report string

-- ---- prepare ----

local function same_stages(a, b)
   if not a or #a.stages ~= #b.stages then return false end
   for i, nf in ipairs(a.stages) do
      if nf ~= b.stages[i] then return false end
   end
   return true
end

-- What was declared anew just as it is goes on as it is.
local function keep_states(diff, base, draft)
   local changed = {}
   for _, change in ipairs(diff.chains) do changed[change.chain] = change end
   for _, action in ipairs(diff.gate) do changed[action.handle] = action end
   for _, kind in ipairs { "listeners", "groups", "services" } do
      for _, handle in ipairs(draft[kind]) do
         if not changed[handle] then draft.state[handle] = base.state[handle] end
      end
   end
   for _, chain in ipairs(draft.chains) do
      local change, old = changed[chain], base.state[chain]
      if not change then
         draft.state[chain] = old
      elseif change.old and change.new and diff_lib.same_place(change.old, change.new) then
         model.edit(chain).place = change.old.place
      end
   end
end

local function compile_one(chain, old)
   if same_stages(old, chain) then return native.compile(chain, old.segments) end
   local key = known.key(chain)
   local segments = known.find(key)
   native.compile(chain, segments)
   if not segments then known.add(key, chain) end
end

local function compile(diff, base)
   local wait = {}
   for _, entry in ipairs(diff.lcores) do
      for _, chain in ipairs(diff.kept[entry.cpu] and {} or entry.chains) do
         local old = base.state[chain]
         if not old or model.state(chain) ~= old then compile_one(chain, old) end
         wait[#wait + 1] = chain
      end
   end
   if #wait == 0 then return end
   -- What is done meanwhile is done with what runs.
   local ok, value, stopped = model.with(model.running, session.wait, native.prepare(wait), M.compile_seconds)
   if not ok then error(value, 0) end
   if stopped then error("the change was given up", 0) end
end

local function has_lcore_changes(diff)
   for _, action in ipairs(diff.actions) do
      if action.cpu ~= nil then return true end
   end
   return false
end

local function build(diff)
   local change = { kept = {}, origins = {}, without = diff.closed.ports }
   for _, entry in ipairs(engine.lcores) do
      if diff.kept[entry.cpu] then change.kept[entry.cpu] = entry end
   end
   for _, c in ipairs(diff.chains) do change.origins[c.chain] = c.origin end
   for _, entry in ipairs(diff.lcores) do
      for _, chain in ipairs(entry.chains) do
         change.origins[chain] = change.origins[chain] or diff_lib.unchanged_origin(model.state(chain))
      end
   end
   return plan.build(diff.lcores, change)
end

-- ---- what a switch loses ----

local REASONS = { "nf_removed", "engine_stopped", "vm_lost" }

-- Packets dropped so far for what only a switch does.
local function lost_so_far()
   local stats, n = C.tw_stats(), 0
   for _, reason in ipairs(REASONS) do
      local id = C.tw_reason_id(reason)
      for slot = 0, C.TW_LCORES_MAX - 1 do
         local lcore = stats.lcore[slot]
         if id >= 0 and (lcore.cpu >= 0 or lcore.heartbeat > 0) then
            for chain = 0, C.TW_CHAINS_MAX - 1 do
               if lcore.chain[chain].dropped > 0 then
                  for stage = 0, C.TW_STAGES_MAX - 1 do n = n + tonumber(lcore.drops[chain][stage][id]) end
               end
            end
         end
      end
   end
   return n
end

-- ---- switch ----

local function publish_names()
   for _, chain in ipairs(plan.on_lcores()) do plan.publish_names(chain, plan.place_text(chain)) end
end

local function show(lcores)
   engine.lcores = lcores
   publish_names()
   native.start(lcores, true)
end

local function publish(lcore_plan, out)
   C.tw_mark "switch"
   if lcore_plan and C.tw_plan_publish(lcore_plan, out) < 0 then error(abi.error(), 0) end
   C.tw_mark "published"
end

local function count(n, what) return ("%d %s%s"):format(n, what, n == 1 and "" or "s") end

-- Lcores that have nothing to run any more.
local function stopped(diff)
   local n = 0
   for _, action in ipairs(diff.actions) do
      if action.kind == "stop lcore" then n = n + 1 end
   end
   return n
end

local function report_of(applied, out, hook_ns, lost)
   local parts = {}
   local told = #applied.diff.gate > 0
   if applied.published then
      local lcores = out.lcores + stopped(applied.diff)
      parts[1] = ("%d/%d lcores"):format(lcores, lcores)
   end
   local n = applied.hooks:count()
   if n > 0 then parts[#parts + 1] = count(n, "hook") end
   if #parts == 0 then return told and "applied to the gate" or "applied" end
   if told then parts[#parts + 1] = "the gate" end
   return ("applied to %s in %.1f ms, %s lost"):format(table.concat(parts, " and "),
      (tonumber(out.ns) + hook_ns) / 1e6, count(lost, "packet"))
end

local function switch(applied, lcore_plan)
   local out, lost = ffi.new "struct tw_publish", lost_so_far()
   publish(lcore_plan, out)
   local clock = C.tw_now()
   local ok, err = pcall(applied.hooks.install, applied.hooks)
   if ok then
      ok, err = pcall(gate.install, applied.gate)
      if not ok then applied.hooks:take_back() end
   end
   if not ok then
      if applied.published then C.tw_plan_rollback(nil) end
      error(err, 0)
   end
   local hook_ns = tonumber(C.tw_now() - clock)
   C.tw_mark "hooks"
   model.running = applied.version
   applied.out = out
   show(applied.published and applied.diff.lcores or applied.lcores_before)
   applied.hooks:show()
   applied.report = report_of(applied, out, hook_ns, lost_so_far() - lost)
   if out.not_carried > 0 then
      applied.report = ("%s; the state of %s was not carried over"):format(applied.report,
         count(out.not_carried, "NF"))
   end
   C.tw_mark "switched"
end

-- The draft as the version that runs.
local function version_of(draft)
   local version = { state = draft.state, tables = draft.tables }
   for _, list in ipairs(model.LISTS) do version[list] = draft[list] end
   return version
end

--- The difference that a draft makes, which is the one that is seen. Opens what is new; raises what is wrong.
---@param draft tideway.change.draft
---@return tideway.change.diff
function M.difference(draft)
   plan.validate()
   local diff = diff_lib.of(draft.base, draft, engine.lcores)
   keep_states(diff, draft.base, draft)
   return diff
end

--- Carry it out; raises what is wrong, with everything as it was.
---@param draft tideway.change.draft the version that is seen
---@param diff tideway.change.diff
---@return tideway.change.applied
function M.apply(draft, diff)
   C.tw_mark "prepare"
   compile(diff, draft.base)
   if model.running ~= draft.base then error("what runs was changed meanwhile; repeat it", 0) end
   local applied = {
      diff = diff, base = draft.base, version = version_of(draft), lcores_before = engine.lcores,
      -- A plan has every port that was open when it was made, so that NFs can send to it.
      published = has_lcore_changes(diff) or #diff.closed.ports > 0,
   }
   applied.hooks = hook_swap.prepare(diff)
   local ok, err = pcall(function()
      applied.gate = gate.prepare(diff.gate)
      if model.running ~= draft.base then error("what runs was changed meanwhile; repeat it", 0) end
      C.tw_mark "hooks_loaded"
      hooks.check_tables(applied.hooks:afterwards())
      local lcore_plan = applied.published and build(diff) or nil
      C.tw_mark "prepared"
      session.uninterrupted(switch, applied, lcore_plan)
   end)
   if ok then return applied end
   applied.hooks:discard()
   if applied.gate then gate.discard(applied.gate) end
   error(err, 0)
end

-- ---- afterwards ----

--- The change is good: close what is gone.
---@param applied tideway.change.applied
function M.settle(applied)
   if applied.published and C.tw_plan_settle() < 0 then return nil, abi.error() end
   applied.hooks:settle()
   for _, change in ipairs(applied.diff.chains) do
      if not change.new then C.tw_chain_gone(change.chain.index) end
   end
   for _, port in ipairs(applied.diff.closed.ports) do draft_lib.close_port(port) end
   for _, ring in ipairs(applied.diff.closed.rings) do draft_lib.close_ring(ring) end
   C.tw_mark "finished"
   return true
end

--- Take it back: what ran before runs again.
---@param applied tideway.change.applied
function M.take_back(applied)
   model.running = applied.base
   if applied.published and C.tw_plan_rollback(nil) < 0 then error(abi.error(), 0) end
   applied.hooks:take_back()
   gate.move(applied.version, applied.base)
   show(applied.lcores_before)
   applied.hooks:show()
   for _, change in ipairs(applied.diff.chains) do
      if not change.old then C.tw_chain_gone(change.chain.index) end
   end
   for _, port in ipairs(applied.diff.opened.ports) do draft_lib.close_port(port) end
   for _, ring in ipairs(applied.diff.opened.rings) do draft_lib.close_ring(ring) end
end

return M
