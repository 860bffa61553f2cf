-- SPDX-License-Identifier: BSD-3-Clause
-- The chains of a script that are pinned to hooks: started, turned and stopped by the control thread.

local abi = require "tideway.abi"
local counters = require "tideway.hook.counters"
local hook_chain = require "tideway.hook.chain"
local hook_tables = require "tideway.hook.tables"
local loop = require "tideway.loop"
local model = require "tideway.model"
local plan = require "tideway.plan"
local punt = require "tideway.hook.punt"

local C = abi.C
local M = {}

---@type tideway.hook.chain[] those that are loaded
M.list = {}

local messages = {}

--- Messages since the last call.
---@return string[]
function M.log()
   local list = messages
   messages = {}
   for _, hook in ipairs(M.list) do
      for _, line in ipairs(hook.punts.messages) do list[#list + 1] = line end
      hook.punts.messages = {}
   end
   return list
end

-- ---- checks ----

local function targets_once(chains)
   local owner = {}
   for _, chain in ipairs(chains) do
      for _, target in ipairs(chain.place.targets) do
         local other = owner[target.label]
         if other and target.link.hook == "xdp" then
            error(("%s: chain %s is pinned to %s, and so is chain %s (%s); an interface runs one XDP program: put the "
               .. "NFs into one chain"):format(chain.where, chain.name, target.label, other.name, other.where), 0)
         end
         owner[target.label] = chain
      end
   end
end

--- A table that chains on an lcore and on a hook both use would be two tables: raised.
---@param hooks { chain: tideway.chain, tables: fun(self): table<table, true> }[]
function M.check_tables(hooks)
   local owner = {}
   for _, chain in ipairs(plan.on_lcores()) do
      for t in pairs(hook_tables.of(chain.stages)) do owner[t] = chain end
   end
   for _, hook in ipairs(hooks) do
      for t in pairs(hook:tables()) do
         local other = owner[t]
         if other then
            error(("%s: table %s is used by chain %s, pinned to %s, and by chain %s (%s) on an lcore: tables of hooks "
               .. "are in the kernel, those of lcores in the engine; pin both chains alike, or give each its own table")
               :format(hook.chain.where, t.name, hook.chain.name, hook.chain.place.kind, other.name, other.where), 0)
         end
      end
   end
end

--- The chains that are pinned to hooks.
---@return tideway.chain[]
function M.chains()
   local list = {}
   for _, chain in ipairs(model.chains) do
      if chain.place then list[#list + 1] = chain end
   end
   return list
end

-- ---- turn ----

-- Calls a function of every NF once; one that raises is not called again.
local function each(method, ...)
   local done = {}
   for _, hook in ipairs(M.list) do
      for i, nf in ipairs(hook.stages) do
         if nf[method] and not done[nf] then
            done[nf] = true
            local ok, err = hook.punts:call(i - 1, nf[method], ...)
            if not ok then
               hook.punts:failed(nf, method, err)
               messages[#messages + 1] = ("NF %s of chain %s: %s() failed and is not called again: %s"):format(nf.name,
                  hook.chain.name, method, tostring(err))
               nf[method] = nil
            end
         end
      end
   end
end

local ticked, watched = 0, {}

-- tick() of NFs when it is due.
local function tick()
   local now, period = tonumber(C.tw_now()), C.tw_options().tick_ms * 1e6
   if now - ticked >= period then
      ticked = now
      each("tick", now)
      punt.follow_up()
   end
   return math.max(0, (ticked + period - now) / 1e9)
end

-- Its descriptors are closed soon.
local function forget(hook)
   for _, fd in ipairs(punt.descriptors { hook }) do
      if watched[fd] then loop.unwatch(fd) end
      watched[fd] = nil
   end
end

-- Packets that were punted, and ticks; seconds until the next turn.
local function turn()
   local due, more = tick(), punt.turn(M.list)
   for _, fd in ipairs(punt.descriptors(M.list)) do
      if not watched[fd] then
         watched[fd] = true
         loop.watch(fd, "r", function() end) -- it wakes; the next turn handles
      end
   end
   return more and 0 or due
end

-- ---- start ----

--- Compile and load the chains on hooks; nothing is attached yet.
function M.load()
   local chains = M.chains()
   targets_once(chains)
   for _, chain in ipairs(chains) do M.list[#M.list + 1] = hook_chain.load(chain) end
   M.check_tables(M.list)
end

--- Show the names of chains on hooks in the counters.
function M.show()
   for _, hook in ipairs(M.list) do
      plan.publish_names(hook.chain, hook:place_text())
      C.tw_stats().chain[hook.chain.index].hook = 1
   end
end

--- Attach them.
function M.attach()
   for _, hook in ipairs(M.list) do hook:attach() end
   M.show()
   if #M.list == 0 then return end
   loop.duty(turn)
   C.tw_stats().running = 1
   for _, place in ipairs(require("tideway.bpf.hook.tc").sweep()) do
      messages[#messages + 1] = ("removed what a killed run left at tc %s"):format(place)
   end
end

-- ---- changes ----

--- Does this one run?
---@param hook tideway.hook.chain
---@return boolean
function M.has(hook)
   for _, other in ipairs(M.list) do
      if other == hook then return true end
   end
   return false
end

--- One that was attached runs from now on.
---@param hook tideway.hook.chain
function M.add(hook)
   M.list[#M.list + 1] = hook
   loop.duty(turn)
   C.tw_stats().running = 1
end

--- It is about to be detached.
---@param hook tideway.hook.chain
function M.remove(hook)
   for i, other in ipairs(M.list) do
      if other == hook then table.remove(M.list, i) end
   end
end

-- Calls a function of the NFs of one chain that no other one has.
local function last_call(hook, method)
   local others = {}
   for _, other in ipairs(M.list) do
      for _, nf in ipairs(other.stages) do others[nf] = true end
   end
   for i, nf in ipairs(hook.stages) do
      if nf[method] and not others[nf] then hook.punts:call(i - 1, nf[method]) end
   end
end

--- One that was detached is gone for good: take its last counts, stop its NFs.
---@param hook tideway.hook.chain
function M.finish(hook)
   for _ = 1, 1000 do
      if not punt.turn { hook } then break end
   end
   forget(hook)
   hook.punts:close "nf_removed"
   hook:refresh()
   counters.retire(hook.chain.index)
   last_call(hook, "stop")
   hook:close()
end

--- What was got, for the user.
---@return string[]
function M.lines()
   local lines = {}
   for _, hook in ipairs(M.list) do
      for _, line in ipairs(hook:lines()) do lines[#lines + 1] = line end
   end
   return lines
end

--- Bring the counters up to date.
function M.refresh()
   for _, hook in ipairs(M.list) do hook:refresh() end
end

--- Detach everything, take the last counts, call stop() of the NFs. Twice does no harm.
function M.stop()
   if #M.list == 0 then return end
   loop.off_duty(turn)
   for fd in pairs(watched) do loop.unwatch(fd) end
   watched = {}
   for _, hook in ipairs(M.list) do
      for _, err in ipairs(hook:detach()) do messages[#messages + 1] = err end
   end
   for _ = 1, 1000 do
      if not punt.turn(M.list) then break end
   end
   for _, hook in ipairs(M.list) do hook.punts:close() end
   messages = M.log()
   M.refresh()
   each "stop"
   for _, hook in ipairs(M.list) do hook:close() end
   M.list = {}
   if #plan.on_lcores() == 0 then C.tw_stats().running = 0 end
end

return M
