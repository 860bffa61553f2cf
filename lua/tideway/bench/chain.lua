-- SPDX-License-Identifier: BSD-3-Clause
-- Chains of this process as contenders: a source, NFs, a sink on an lcore, measured by the engine's own counters.

local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local change = require "tideway.change"
local clock = require "tideway.posix.clock"
local disturbance = require "tideway.bench.disturbance"
local engine = require "tideway.engine"
local log = require "tideway.log"
local model = require "tideway.model"
local nfs = require "tideway.nf"
local ports = require "tideway.port"
local runner = require "tideway.bench.runner"
local specs = require "tideway.bench.spec"
local tw = require "tideway"
local warm = require "tideway.bench.warm"

local C = abi.C
local NULL = "bench_null" -- the sink of chains that name none
local FIRST, SETTLE = 0.2, 0.02
local TIERS = { [0] = "lua", "luajit", "native" }

local M = {}

---@class tideway.bench.chain : tideway.bench.contender
---@field source? tideway.port a source that was declared; else there is traffic
---@field traffic? table
---@field stages any[] NFs
---@field sink? tideway.port
---@field lcores integer[]
---@field chain? tideway.chain while it is part of the engine
local Chain = { seconds_to_start = 5 }
Chain.__index = Chain
Chain.__tostring = function(self) return "bench.chain " .. self.name end

local function is_traffic(value) return type(value) == "table" and type(rawget(value, "frames")) == "table" end
local function is_endpoint(value) return ports.is_port(value) or ports.is_ring(value) end

local function name_of(stages)
   local names = {}
   for i, nf in ipairs(stages) do names[i] = type(nf) == "table" and nf.name or "function" end
   return #names > 0 and table.concat(names, "+") or "source"
end

local function split(spec, n)
   local first, stages, sink = spec[1], {}, spec.sink
   if not is_traffic(first) and not is_endpoint(first) then
      error(("bench.chain: the first item is %s, not traffic (bench.packets { ... }), a source or a port")
         :format(tostring(first)), 3)
   end
   for i = 2, n do
      local item = spec[i]
      if i == n and is_endpoint(item) then
         sink = item
      elseif type(item) == "function" or nfs.is_instance(item) then
         stages[#stages + 1] = item
      else
         error(("bench.chain: item %d is %s; expected an NF instance, such as tw.nf.count {}, or a function; a port "
            .. "stands last"):format(i, tostring(item)), 3)
      end
   end
   return first, stages, sink
end

--- A chain of this process as a contender: `bench.chain { traffic, nf, nf, ..., sink }`. The first item is traffic
--- (bench.packets) or a port that packets come from, the last one may be the port they go to (default: one that frees
--- them). It is part of the engine only while it is measured, and has its lcore for itself.
---@param spec table items, and name =, note =, lcore = CPU or list of them (default: the last CPU), rate = of the
--- source (default: as fast as it is asked)
---@return tideway.bench.chain
function M.chain(spec)
   if type(spec) ~= "table" then error("bench.chain takes { traffic, nf, ..., name = }", 2) end
   specs.known("bench.chain", spec, "name note lcore rate sink where", 2)
   local first, stages, sink = split(spec, table.maxn(spec))
   local cpus = affinity.cpus()
   local lcores = spec.lcore == nil and { cpus[#cpus] } or type(spec.lcore) == "table" and spec.lcore or { spec.lcore }
   local self = setmetatable({
      name = spec.name or name_of(stages), note = spec.note, stages = stages, sink = sink, lcores = lcores,
      rate = spec.rate, cpu = lcores[1], where = spec.where or model.where(2),
   }, Chain)
   if is_traffic(first) then self.traffic = first else self.source = first end
   return self
end

--- Is it one?
function M.is_chain(value) return getmetatable(value) == Chain end

-- ---- part of the engine ----

local function free_name(kind, wanted)
   local name, n = wanted, 1
   while model.find(model[kind], "name", name) do
      n = n + 1
      name = ("%s#%d"):format(wanted, n)
   end
   return name
end

local function null_sink()
   return model.find(model.ports, "name", NULL) or tw.port(NULL, "net_null_bench,no-rx=1")
end

-- Sources of traffic that several chains of a group have, by the traffic and the number of its queues.
local shared = {} ---@type table<table, table<integer, tideway.port>>

-- The source of its traffic, or an error at the place of the script that declared the chain.
local function source_of(self)
   if self.source then return self.source end
   local queues = #self.lcores
   shared[self.traffic] = shared[self.traffic] or {}
   local known = shared[self.traffic][queues]
   if known then return known end
   local ok, source = pcall(tw.bench.source, free_name("ports", "packets"), self.traffic, { queues = queues })
   if not ok then error(("%s: %s"):format(self.where, tostring(source):gsub("^[^:]+:%d+: ", "")), 0) end
   shared[self.traffic][queues] = source
   return source
end

-- A change of the running engine: chains are part of it only while they are measured, so that they have the lcore for
-- themselves. A quiet input costs the others some 0.1 ns a packet, and an lcore that idles costs peers its CPU.
local function transact(fn)
   change.transaction(fn, "the benchmark")
   runner.keep_off()
end

function Chain:declare()
   transact(function()
      local items = { unpack(self.stages) }
      self.from = source_of(self)
      items[#items + 1] = self.sink or null_sink()
      self.chain = tw.chain(free_name("chains", self.name), self.from, unpack(items)):pin { lcore = self.lcores }
   end)
end

function Chain:withdraw()
   if not self.chain then return end
   local chain = self.chain
   self.chain, self.from = nil, nil
   if model.find(model.chains, "name", chain.name) == chain then transact(function() chain:delete() end) end
end

-- Can its source be started and stopped?
function Chain:is_quiet()
   return self.traffic ~= nil or ports.is_port(self.source) and type(rawget(self.source, "start")) == "function"
end

--- Take away what chains had in common: sources of their traffic. None of them is part of the engine any more.
function M.close()
   local list = {}
   for _, by_queues in pairs(shared) do
      for _, source in pairs(by_queues) do list[#list + 1] = source end
   end
   shared = {}
   if #list == 0 then return end
   transact(function()
      for _, source in ipairs(list) do
         if model.find(model.ports, "name", source.name) == source then source:delete() end
      end
   end)
   collectgarbage() -- sources are freed with their handles, and there are 64 at most
end

-- ---- counters ----

-- The lcores that run it.
function Chain:slots()
   local list = {}
   for _, lcore in ipairs(engine.lcores) do
      for _, cpu in ipairs(self.lcores) do
         if lcore.cpu == cpu then list[#list + 1] = lcore.slot end
      end
   end
   return list
end

local SUMS = { "rx", "rx_bytes", "sent", "dropped", "faults", "originated", "bursts" }

---@return table sums over the lcores; tsc: when
function Chain:counters()
   local stats, index = C.tw_stats(), self.chain.index
   local out = { tsc = tonumber(C.tw_tsc()), ran = 0, busy = 0, idle = 0, aborts = 0 }
   for _, thread in ipairs(self.threads or {}) do out.ran = out.ran + (clock.thread(thread) or 0) end
   for _, key in ipairs(SUMS) do out[key] = 0 end
   for _, slot in ipairs(self:slots()) do
      local lcore = stats.lcore[slot]
      for _, key in ipairs(SUMS) do out[key] = out[key] + tonumber(lcore.chain[index][key]) end
      out.busy = out.busy + tonumber(lcore.busy_cycles)
      out.idle = out.idle + tonumber(lcore.idle_cycles)
      out.aborts = out.aborts + lcore.jit.aborts
   end
   return out
end

--- The tier that runs: "native", "luajit", "lua"; of a chain without NFs "direct".
function Chain:tier()
   if #self.stages == 0 then return "direct" end
   return TIERS[C.tw_stats().chain[self.chain.index].tier]
end

-- ---- warm-up ----

-- Runs a chain for the first time; what it started is stopped.
local function first_run(chain)
   local caught, ok, err = pcall(chain.start, chain)
   if caught and ok then caught, err = pcall(runner.sleep, FIRST) end
   if not caught then err = err or ok end
   runner.finally(chain.stop, chain)
   if runner.interrupted() then error(err, 0) end
   return caught and ok, err
end

--- Run chains for the first time, each until its machine code is there: tables have their entries from then on. One
--- that fails twice has given up.
---@param list tideway.bench.chain[]
function M.warm_up(list)
   for _, chain in ipairs(list) do
      local ok, err = first_run(chain)
      if not ok then ok, err = first_run(chain) end
      chain.gave_up = not ok and tostring(err) or nil
   end
end

-- ---- a contender ----

function Chain:packets_came(before)
   return runner.wait(function() return self:counters().rx > before or self:is_gone() end, self.seconds_to_start)
end

-- A change that brings a chain whose NF fails at once is taken back.
function Chain:is_gone() return model.find(model.chains, "name", self.chain.name) ~= self.chain end

-- Has an NF been taken out since? What runs then is not what was to be measured.
function Chain:failed(before)
   if not self:is_gone() and self:counters().faults == before.faults then return nil end
   for _, line in ipairs(engine.log()) do log.engine(line) end
   return ("chain %s: one of its NFs failed and was taken out; the messages say why"):format(self.name)
end

--- Make it part of the engine, start its source, and wait until what runs will stay.
---@return boolean? ok
---@return string? err
function Chain:start()
   if self.gave_up then return nil, self.gave_up end
   self:declare()
   if self:is_quiet() then
      local ok, err = self.from:start { rate = self.rate }
      if not ok then return nil, err end
   end
   local before = self:counters()
   if not self:packets_came(before.rx) then
      return nil, ("chain %s: no packet came from %s in %g s"):format(self.name, tostring(self.from),
         self.seconds_to_start)
   end
   if not self:is_gone() then
      local ok, err = warm.wait()
      if not ok then return nil, err end
   end
   local why = self:failed(before)
   return not why, why
end

local function drops_of(chain)
   local snapshot = engine.snapshot()
   for _, c in ipairs(snapshot.chains) do
      if c.name == chain.chain.name then
         local top
         for _, nf in ipairs({ c.engine, unpack(c.nfs) }) do
            for _, d in ipairs(nf.drops) do
               if not top or d.count > top.count then top = { count = d.count, text = nf.name .. " " .. d.reason } end
            end
         end
         return top and top.text
      end
   end
end

--- Packets a second, ns and TSC cycles a packet over some time.
---@param seconds number
---@return table? sample
---@return string? err
function Chain:measure(seconds)
   runner.sleep(SETTLE)
   self.threads = {}
   for i, cpu in ipairs(self.lcores) do self.threads[i] = disturbance.lcore_thread(cpu) end
   local a = self:counters()
   runner.sleep(seconds)
   self:packets_came(a.rx) -- when others have the CPU it may be none so far
   local b = self:counters()
   local packets, hz = b.rx - a.rx, tonumber(C.tw_tsc_hz())
   if packets == 0 then return nil, ("chain %s: its source has stopped"):format(self.name) end
   local failed = self:failed(a)
   if failed then return nil, failed end
   -- CPU time, so that other processes' turns are not in it; the time without packets is not either.
   local took, ran, why = (b.tsc - a.tsc) / hz, b.ran - a.ran, {}
   local busy = (b.busy - a.busy) / math.max(1, b.busy - a.busy + b.idle - a.idle)
   if b.aborts > a.aborts and self:tier() ~= "native" then
      why[1] = { text = ("%d trace aborts"):format(b.aborts - a.aborts) }
   end
   local timed = ran > 0
   local ns = (timed and ran * busy or (b.busy - a.busy) / hz * 1e9) / packets
   local lost = (b.dropped - a.dropped) / packets
   return {
      value = packets / took / 1e6, unit = "Mpps", ns = ns, cycles = ns * hz / 1e9, cpu_time = timed,
      tier = self:tier(), why = why, dropped = lost > 0 and lost or nil,
      drops = lost > 0.001 and drops_of(self) or nil, burst = packets / math.max(1, b.bursts - a.bursts),
      cpu = ran / 1e9 / took,
   }
end

--- Stop its source, and take it out of the engine.
function Chain:stop()
   if not self.chain then return end
   if self:is_quiet() then
      self.from:stop()
      -- The lcore hears of it when it polls next.
      runner.wait(function() return not self.from:running() end, 1, 0.001)
   end
   self:withdraw()
end

-- ---- NFs alone ----

--- Measure NFs alone: `bench.alone { tw.nf.count {}, packets = bench.packets { ... } }`. Each is a chain of its own;
--- the empty chain, which is what source and sink cost, is measured in the same rounds, shown and subtracted.
---@param spec table NF instances, and packets = traffic or a port, name = of the group (default: the NFs'),
--- title =, lcore =, goals = { NF = most ns }, rounds =, seconds =
---@return tideway.bench.experiment
function M.alone(spec)
   if type(spec) ~= "table" or #spec == 0 or spec.packets == nil then
      error("bench.alone takes { nf, ..., packets = traffic }", 2)
   end
   specs.known("bench.alone", spec, "packets name title lcore goals rounds seconds", 2)
   local where = model.where(2)
   local list = {
      M.chain { spec.packets, name = "source", note = "the empty chain", lcore = spec.lcore, where = where },
   }
   for i, nf in ipairs(spec) do list[i + 1] = M.chain { spec.packets, nf, lcore = spec.lcore, where = where } end
   local name = spec.name or name_of { unpack(spec) }
   return require("tideway.bench.group").group(name, {
      title = spec.title or name .. " alone, without the cost of source and sink", unit = "ns", contenders = list,
      base = "source", goals = spec.goals, rounds = spec.rounds, seconds = spec.seconds,
   })
end

return M
