-- SPDX-License-Identifier: BSD-3-Clause
-- Warm-up of the chains that run: under traffic until they are machine code, or LuaJIT's traces are those of steady
-- traffic. Whoever measures before that measures the compiler.

local abi = require "tideway.abi"
local engine = require "tideway.engine"
local model = require "tideway.model"
local native = require "tideway.native"
local runner = require "tideway.bench.runner"

local C = abi.C
local M = {}

local COMPILE_SECONDS, SETTLE_SECONDS, TICK_MS, LOOKS = 60, 3, 5, 3

-- Slots of the lcores that run a chain which is not machine code.
local function slow_slots()
   local slots = {}
   for _, chain in ipairs(model.chains) do
      local cpus = {}
      for _, cpu in ipairs(#chain.stages > 0 and chain.lcores or {}) do cpus[cpu] = true end
      if C.tw_stats().chain[chain.index].tier ~= C.TW_TIER_NATIVE then
         for _, lcore in ipairs(engine.lcores) do
            if cpus[lcore.cpu] then slots[lcore.slot] = true end
         end
      end
   end
   return slots
end

-- LuaJIT has thrown its first traces away, recorded new ones, and makes no more.
local function is_settled(made)
   local settled = true
   for slot in pairs(slow_slots()) do
      local info = C.tw_stats().lcore[slot].jit
      if info.settled < 2 or info.made ~= made[slot] then settled = false end
      made[slot] = info.made
   end
   return settled
end

--- Wait until the chains that run will stay as they are. Packets must be flowing.
---@return boolean? ok
---@return string? err
function M.wait()
   if not runner.wait(function() return not native.poll() end, COMPILE_SECONDS) then
      return nil, ("the chains were not compiled in %d s"):format(COMPILE_SECONDS)
   end
   local options, made, looks = C.tw_options(), {}, 0
   local before = options.tick_ms
   options.tick_ms = TICK_MS -- traces are looked at at every tick
   local ok, err = pcall(runner.wait, function()
      looks = is_settled(made) and looks + 1 or 0
      return looks >= LOOKS
   end, SETTLE_SECONDS)
   options.tick_ms = before
   if not ok then error(err, 0) end
   return true -- chains with many rare paths never come to rest
end

return M
