-- SPDX-License-Identifier: BSD-3-Clause
-- Which CPUs the gate's threads and the workers get when the script does not say.
--
-- A hop between two processes costs about 2 us on one CPU and 38 us across two, most of it the wake-up. So the
-- functions of a chain are put beside a gate thread as long as one CPU is enough for them: with one instance each,
-- beside the first one; further instances beside the other threads in turn. When it is not enough, spread.lua moves
-- some. Those that poll rings burn the CPU that they are on, so they are spread, the first ones where no gate thread
-- is.

local affinity = require "tideway.affinity"
local options = require "tideway.options"
local pins = require "tideway.gate.pin"

local M = {}

local MOST = 2 -- gate threads, unless the script says so

--- How many gate threads there are.
---@return integer
function M.gates()
   if options.gates then return options.gates end
   if options.gate_cpus then return #options.gate_cpus end
   return math.min(MOST, #affinity.cpus())
end

--- The CPU of each gate thread, from 1.
---@return integer[]
function M.gate_cpus()
   local cpus, list = options.gate_cpus or affinity.cpus(), {}
   for i = 1, M.gates() do list[i] = cpus[(i - 1) % #cpus + 1] end
   return list
end

-- CPUs without a gate thread first, each in turn.
local function spread(service, i, instance)
   local taken, free = {}, {}
   for _, cpu in ipairs(M.gate_cpus()) do taken[cpu] = true end
   for _, cpu in ipairs(affinity.cpus()) do
      if not taken[cpu] then free[#free + 1] = cpu end
   end
   local cpus = #free > 0 and free or affinity.cpus()
   local n = instance - 1
   for k = 1, i - 1 do n = n + pins.instances(service.pinned, service.stage_names[k]) end
   return cpus[(#cpus - 1 - n) % #cpus + 1]
end

--- The CPU of an instance of a function.
---@param service tideway.service
---@param i integer the function, from 1
---@param instance integer from 1
---@return integer
function M.cpu(service, i, instance)
   local said = pins.of(service.pinned.cpu, service.stage_names[i])
   if said then return said end
   if service.pinned.worker == "rings" then return spread(service, i, instance) end
   local cpus = M.gate_cpus()
   return cpus[(instance - 1) % #cpus + 1]
end

--- The CPUs of all instances of a function.
---@param service tideway.service
---@param i integer from 1
---@return integer[]
function M.cpus(service, i)
   local list = {}
   for n = 1, pins.instances(service.pinned, service.stage_names[i]) do list[n] = M.cpu(service, i, n) end
   return list
end

return M
