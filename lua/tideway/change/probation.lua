-- SPDX-License-Identifier: BSD-3-Clause
-- The time after a change in which it has to prove good: what ran before is kept, and runs again when a new NF raises,
-- stalls, eats memory or writes where it must not. An lcore falls back by itself, at once; here the others follow, the
-- hooks too, and it is said why.

local ffi = require "ffi"
local abi = require "tideway.abi"
local apply = require "tideway.change.apply"
local history = require "tideway.change.history"
local loop = require "tideway.loop"
local options = require "tideway.options"

local C = abi.C
local M = {}

local LOOK = 0.002 -- seconds between looks whether an lcore fell back

local current, fault -- { applied, entry, due }; why a hook's NF failed
local line = ffi.new "char[512]"

local function say(text) loop.note(text) end

--- Is a change on probation?
---@return boolean
function M.active() return current ~= nil end

local function roll_back(why)
   local applied, entry = current.applied, current.entry
   current, fault = nil, nil
   local ok, err = pcall(apply.take_back, applied)
   history.rolled_back(entry, why)
   if ok then
      say(("rolled back (generation %d): %s; what was before runs again. It was: %s"):format(history.generation, why,
         entry.what))
   else
      say(("could not be rolled back: %s; after: %s"):format(tostring(err), why))
   end
end

-- Rolls back if something went wrong.
local function look()
   if C.tw_plan_fell_back(line, ffi.sizeof(line)) == 1 then
      roll_back(ffi.string(line))
   elseif fault then
      roll_back(fault)
   end
   return current ~= nil
end

--- The change on probation is good, if it is.
---@return boolean settled false: it was rolled back
function M.settle()
   if not current then return true end
   if not look() then return false end
   local entry = current.entry
   if not apply.settle(current.applied) then return look() end -- an lcore fell back this moment
   current, entry.state = nil, "settled"
   return true
end

--- Looks after the change on probation; to be called often while there is one.
---@return number? seconds until it wants to be called again
function M.poll()
   if not current then
      loop.off_duty(M.poll)
      return nil
   end
   if not look() then return nil end
   if tonumber(C.tw_now()) >= current.due then
      M.settle()
      return nil
   end
   return LOOK
end

--- A change was made.
---@param applied tideway.change.applied
---@param entry tideway.change.entry
function M.begin(applied, entry)
   local seconds = options.probation
   current, fault = { applied = applied, entry = entry, due = tonumber(C.tw_now()) + seconds * 1e9 }, nil
   if seconds == 0 then return M.settle() end
   loop.duty(M.poll)
end

--- An NF failed in the control thread, in the user half of a hook.
---@param nf tideway.nf.instance
---@param chain tideway.chain
---@param method string
---@param err string
function M.failed(nf, chain, method, err)
   if not current or fault then return end
   for _, change in ipairs(current.applied.diff.chains) do
      if change.chain == chain and change.new then
         for i, stage in ipairs(change.new.stages) do
            if stage == nf and (not change.origin.from[i - 1] or change.origin.fresh[i - 1]) then
               fault = ("NF %s (%s) in chain %s: %s() failed: %s"):format(nf.name, nf.where, chain.name, method, err)
            end
         end
      end
   end
end

--- Forget it, at the stop of the engine.
function M.reset() current, fault = nil, nil end

return M
