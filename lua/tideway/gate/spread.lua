-- SPDX-License-Identifier: BSD-3-Clause
-- Moves instances to another CPU when that of their gate thread is not enough for them, and back when it is.
--
-- Together on one CPU a chain pays the least for its hops, so that is where instances start (placement.lua). Once a
-- second, while functions compute, it is looked at how much: a CPU with nothing left, a good part of it taken by
-- functions, and another CPU with room: then the last function of the chain goes there, so that the way of a message
-- is cut once and not at every hop. Functions that compute little stay, however busy the CPU is: a hop to another CPU
-- would cost more than they do. Instances that the script gave a CPU, and those that poll rings, are left where they
-- are.

local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local ffi = require "ffi"
local pins = require "tideway.gate.pin"
local placement = require "tideway.gate.placement"
local posix = require "tideway.posix"
local workers = require "tideway.gate.workers"

local C = abi.C
local M = {}

local EVERY = 0.9e9 -- ns between looks; the control thread wakes once a second
local FULL = 0.1 -- less of a CPU's time idle: it has nothing left
local WORTH = 0.4 -- of its time in functions: less is not worth a hop between CPUs
local LEAST = 0.02 -- of a CPU: an instance that uses less stays where it is
local ROOM = 0.25 -- idle on the other CPU, besides half of what moves there
local BACK = 0.6 -- all of it together is less than that of one CPU: it goes back
local CALM = 3 -- looks in a row that say so

---@class tideway.gate.spread.instance
---@field worker integer
---@field order integer place in its chain
---@field cpu integer where it is
---@field home integer where it starts
---@field load number CPUs that it used
---@field fixed boolean not to be moved

local function has_room(idle, cpu, load) return (idle[cpu] or 0) >= ROOM + load / 2 end

-- The last function of a chain on this CPU that can go.
local function last_on(list, cpu)
   local best
   for _, one in ipairs(list) do
      local goes = one.cpu == cpu and one.home == cpu and not one.fixed and one.load >= LEAST
      if goes and (not best or one.order > best.order) then best = one end
   end
   return best
end

local function roomiest(idle, cpu, load)
   local best
   for other in pairs(idle) do
      if other ~= cpu and has_room(idle, other, load) and (not best or idle[other] > idle[best]) then best = other end
   end
   return best
end

--- Which instance is to leave a CPU that is not enough.
---@param idle table<integer, number> by CPU, the part of its time in which it did nothing
---@param list tideway.gate.spread.instance[]
---@return tideway.gate.spread.instance? instance
---@return integer? cpu
function M.away(idle, list)
   local computes = {}
   for _, one in ipairs(list) do computes[one.cpu] = (computes[one.cpu] or 0) + one.load end
   for cpu, load in pairs(computes) do
      local one = load >= WORTH and (idle[cpu] or 1) < FULL and last_on(list, cpu)
      local to = one and roomiest(idle, cpu, one.load)
      if to then return one, to end
   end
end

--- Which instance can go back to where it started.
---@param idle table<integer, number> by CPU
---@param list tideway.gate.spread.instance[]
---@param gates table<integer, number> CPUs that gate threads used, by the one they are on
---@return tideway.gate.spread.instance?
function M.back(idle, list, gates)
   local together, first = {}, {}
   for _, one in ipairs(list) do
      local home = one.home
      together[home] = (together[home] or gates[home] or 0) + one.load
      if one.cpu ~= home and not one.fixed and (not first[home] or one.order < first[home].order) then
         first[home] = one
      end
   end
   for home, one in pairs(first) do
      if together[home] < BACK and has_room(idle, home, one.load) then return one end
   end
end

-- ---- what is looked at ----

local last, calm = nil, 0

local function number(v) return tonumber(v) end

-- Idle and all time of each CPU that we may use, in ticks.
local function read_cpus()
   local text, out = posix.slurp "/proc/stat", {}
   for _, cpu in ipairs(text and affinity.cpus() or {}) do
      local line = text:match("\ncpu" .. cpu .. " ([^\n]+)")
      local all, idle, n = 0, 0, 0
      for word in (line or ""):gmatch "%d+" do
         n = n + 1
         if n <= 8 then all = all + tonumber(word) end -- the rest is in these already
         if n == 4 or n == 5 then idle = idle + tonumber(word) end
      end
      if line then out[cpu] = { all = all, idle = idle } end
   end
   return out
end

local gate_stats = ffi.typeof "struct tw_gate_stats"

local function read_gates()
   local out, s = {}, gate_stats()
   for i, cpu in ipairs(placement.gate_cpus()) do
      if C.tw_gate_stats(i - 1, s) < 0 then break end
      out[cpu] = (out[cpu] or 0) + number(s.cpu_ns)
   end
   return out
end

local function read_instances(services)
   local list = {}
   for service, run in pairs(services) do
      for i, numbers in pairs(service.pinned.worker == "sk_msg" and run.workers or {}) do
         for n, worker in ipairs(numbers) do
            local info = workers.info(worker)
            if info and info.state == C.TW_WORKER_RUNS then
               list[#list + 1] = { worker = worker, order = i, cpu = info.cpu, home = placement.cpu(service, i, n),
                  fixed = pins.of(service.pinned.cpu, service.stage_names[i]) ~= nil, pid = info.pid,
                  cpu_ns = number(info.cpu_ns), load = 0 }
            end
         end
      end
   end
   return list
end

-- What has been used since the look before: idle parts of CPUs, CPUs of gate threads; instances get their load.
local function differences(now, was)
   local elapsed, before = now.at - was.at, {}
   for _, one in ipairs(was.list) do before[one.pid] = one.cpu_ns end
   for _, one in ipairs(now.list) do
      one.load = math.max(0, one.cpu_ns - (before[one.pid] or one.cpu_ns)) / elapsed
   end
   local gates, idle = {}, {}
   for cpu, ns in pairs(now.gates) do gates[cpu] = math.max(0, ns - (was.gates[cpu] or ns)) / elapsed end
   for cpu, t in pairs(now.cpus) do
      local w = was.cpus[cpu]
      if w and t.all > w.all then idle[cpu] = (t.idle - w.idle) / (t.all - w.all) end
   end
   return idle, gates
end

local function move(one, cpu)
   if C.tw_worker_move(one.worker, cpu) == 0 then calm = 0 end
end

--- Look, and move at most one instance. Called in every turn of the control thread; it looks once a second.
---@param services table<tideway.service, tideway.gate.running>
function M.look(services)
   local at = number(C.tw_now())
   if last and at - last.at < EVERY then return end
   if #affinity.cpus() < 2 or next(services) == nil then return end
   local was = last
   last = { at = at, list = read_instances(services), gates = {}, cpus = {} }
   if #last.list == 0 then return end
   last.gates, last.cpus = read_gates(), read_cpus()
   if not was or #was.list == 0 then return end
   local idle, gates = differences(last, was)
   local one, cpu = M.away(idle, last.list)
   if one then return move(one, cpu) end
   one = M.back(idle, last.list, gates)
   calm = one and calm + 1 or 0
   if calm >= CALM then move(one, one.home) end
end

--- Forget what was seen.
function M.reset() last, calm = nil, 0 end

return M
