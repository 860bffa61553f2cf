-- SPDX-License-Identifier: BSD-3-Clause
-- Run-time options, from the script (tw.options {...}) and from the command line (which wins).

local abi = require "tideway.abi"

local M = {}

--- How far chains on lcores are compiled: "native", "luajit", "off".
M.compile = "native"

--- What `tideway run` does once everything is started: "drop" gives up what running and live changes do not need,
--- "least" what is needed for opening more too, "keep" nothing.
M.privileges = "drop"
--- How long a change has to prove good before what ran before is forgotten, seconds; 0: not at all.
M.probation = 1
--- Threads of the gate, and their CPUs; nil: tideway.gate.placement decides.
M.gates, M.gate_cpus = nil, nil
--- How messages reach the functions of all chains, whatever the script pins them to; nil: as it says.
M.worker = nil
--- How long what is under way in the gate may take to end when the engine stops or something is taken away, seconds.
M.drain = 10
--- Where metrics are offered: "unix:/path", "127.0.0.1:9464"; nil: nowhere.
M.metrics = nil

local IDLE = {
   spin = "TW_IDLE_SPIN", pause = "TW_IDLE_PAUSE", sleep = "TW_IDLE_SLEEP", interrupt = "TW_IDLE_INTERRUPT",
}

-- name -> { minimum, maximum } of numbers; what each means stands in core/abi.h, struct tw_options.
local NUMBERS = {
   burst = { 1, 64 }, memory_mb = { 64, 1048576 }, mbufs = { 0, 2 ^ 26 }, mbuf_size = { 256, 65000 },
   rx_desc = { 0, 65535 }, tx_desc = { 0, 65535 }, tx_retries = { 0, 1000000 }, stall_ms = { 1, 10000 },
   vm_memory_mb = { 8, 65536 }, tick_ms = { 1, 10000 },
}
local COMPILE = { native = true, luajit = true, off = true }
local PRIVILEGES = { drop = true, least = true, keep = true }
local FLAGS = { no_huge = true, verbose = true }
local BEFORE_EAL = { memory_mb = true, no_huge = true, verbose = true, mbuf_size = true, mbufs = true }

local from_command_line = {}

local function refuse(level, ...) error("tw.options: " .. string.format(...), level + 1) end

local GATES_MAX = abi.C.TW_GATES_MAX

local function is_cpu(value) return type(value) == "number" and value % 1 == 0 and value >= 0 and value < 1024 end

local function gate_cpus(value, level)
   local fine = type(value) == "table" and #value > 0 and #value <= GATES_MAX
   for _, cpu in ipairs(fine and value or {}) do fine = fine and is_cpu(cpu) end
   if not fine then
      refuse(level + 1, "gate_cpus is a list of CPU numbers, one for each thread of the gate (%d at most)", GATES_MAX)
   end
   return { unpack(value) }
end

local function set(c, key, value, level)
   if key == "idle" then
      if not IDLE[value] then refuse(level + 1, "idle is spin, pause, sleep or interrupt, not %s", tostring(value)) end
      c.idle = abi.C[IDLE[value]]
   elseif key == "compile" then
      if not COMPILE[value] then refuse(level + 1, "compile is native, luajit or off, not %s", tostring(value)) end
      M.compile = value
   elseif key == "probation" then
      if type(value) ~= "number" or not (value >= 0 and value <= 3600) then
         refuse(level + 1, "probation is a number of seconds from 0 to 3600, not %s", tostring(value))
      end
      M.probation = value
   elseif key == "gates" then
      if not is_cpu(value) or value < 1 or value > GATES_MAX then
         refuse(level + 1, "gates is a whole number from 1 to %d, not %s", GATES_MAX, tostring(value))
      end
      M.gates = value
   elseif key == "worker" then
      M.worker = value
   elseif key == "gate_cpus" then
      M.gate_cpus = gate_cpus(value, level + 1)
   elseif key == "drain" then
      if type(value) ~= "number" or not (value >= 0 and value <= 3600) then
         refuse(level + 1, "drain is a number of seconds from 0 to 3600, not %s", tostring(value))
      end
      M.drain = value
   elseif key == "metrics" then
      local address, err = require("tideway.metrics.address").parse(tostring(value))
      if not address then refuse(level + 1, "%s", err) end
      M.metrics = value
   elseif key == "privileges" then
      if not PRIVILEGES[value] then
         refuse(level + 1, "privileges is drop, least or keep, not %s", tostring(value))
      end
      M.privileges = value
   elseif NUMBERS[key] then
      local min, max = NUMBERS[key][1], NUMBERS[key][2]
      if type(value) ~= "number" or value % 1 ~= 0 or value < min or value > max then
         refuse(level + 1, "%s must be a whole number from %d to %d, not %s", key, min, max, tostring(value))
      end
      c[key] = value
   elseif FLAGS[key] then
      if type(value) ~= "boolean" then refuse(level + 1, "%s is true or false, not %s", key, tostring(value)) end
      c[key] = value
   else
      local known = { "compile", "drain", "gate_cpus", "gates", "idle", "metrics", "privileges", "probation" }
      for name in pairs(NUMBERS) do known[#known + 1] = name end
      for name in pairs(FLAGS) do known[#known + 1] = name end
      table.sort(known)
      refuse(level + 1, "there is no option %q; there are: %s", tostring(key), table.concat(known, ", "))
   end
end

--- Set run-time options; those about memory before the first port is opened.
---@param list table<string, any>
function M.options(list)
   local c = abi.C.tw_options()
   for key, value in pairs(list) do
      if BEFORE_EAL[key] and abi.C.tw_eal_info().started and c[key] ~= value then
         refuse(2, "%s must be set before the first port is opened", key)
      end
      if not from_command_line[key] then set(c, key, value, 2) end
   end
end

--- Set options that the script cannot override.
---@param list table<string, any>
function M.command_line(list)
   local c = abi.C.tw_options()
   for key, value in pairs(list) do
      local ok, err = pcall(set, c, key, value, 1)
      if not ok then error("--" .. key:gsub("_", "-") .. ": " .. err:gsub("^.-tw%.options: ", ""), 0) end
      from_command_line[key] = true
   end
end

return M
