-- SPDX-License-Identifier: BSD-3-Clause
-- The engine as a whole: what was declared is started, turned, looked at, closed.

local ffi = require "ffi"
local abi = require "tideway.abi"
local hold = require "tideway.hold"
local gate = require "tideway.gate.engine"
local gate_figures = require "tideway.gate.figures"
local hooks = require "tideway.hook"
local loop = require "tideway.loop"
local model = require "tideway.model"
local native = require "tideway.native"
local plan = require "tideway.plan"
local published = require "tideway.table.published"
local scope = require "tideway.table.scope"
local stats = require "tideway.stats"
local transfer = require "tideway.transfer"

local C = abi.C
local M = {}

transfer.record_cdefs()

--- Start what was declared with tw.port, tw.listen, tw.chain, ...
---@param may_be_empty? boolean no chain is declared yet: changes will bring them
---@return { cpu: integer|"step", slot: integer }[] lcores
function M.start(may_be_empty)
   plan.validate(may_be_empty)
   require("tideway.change.adopt").note()
   hooks.load()
   M.lcores = plan.start()
   hooks.attach()
   gate.start()
   require("tideway.change").start()
   return M.lcores
end

--- One turn of every lcore that is pinned with { step = true }.
---@return integer moved packets
function M.step()
   local moved = 0
   native.poll()
   require("tideway.change.probation").poll()
   for _, entry in ipairs(M.lcores) do
      if entry.cpu == "step" then
         local n = C.tw_lcore_step(entry.slot)
         if n < 0 then error(abi.error(), 2) end
         moved = moved + n
      end
   end
   return moved
end

--- Messages since the last call. One that begins with "<3>" is an error, with "<6>" no trouble; others are warnings.
---@return string[]
function M.log()
   local line, list = ffi.new "char[512]", native.log()
   for _, from in ipairs { hooks, loop } do
      for _, text in ipairs(from.log()) do list[#list + 1] = text end
   end
   while C.tw_log_next(line, 512) == 1 do list[#list + 1] = ffi.string(line) end
   return list
end

--- Bring the counters of devices and hooks up to date.
function M.refresh()
   C.tw_ports_refresh()
   hooks.refresh()
   published.refresh(hooks.list)
end

--- Counters now.
function M.snapshot()
   M.refresh()
   local snapshot = stats.snapshot(C.tw_stats())
   snapshot.gate = gate_figures.snapshot()
   return snapshot
end

--- Stop lcores and the gate, detach from hooks, close ports, rings and tables, forget the model.
function M.close()
   require("tideway.change").stop()
   native.stop()
   gate.stop()
   gate_figures.forget()
   hooks.stop()
   C.tw_engine_close()
   C.tw_helper_stop()
   scope.forget()
   hold.forget()
   loop.reset()
   model.reset()
   M.lcores = {}
end

return M
