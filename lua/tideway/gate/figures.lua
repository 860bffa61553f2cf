-- SPDX-License-Identifier: BSD-3-Clause
-- The counters of the gate, its chains, functions, listeners and upstream groups as tables, and their rates.

local ffi = require "ffi"
local abi = require "tideway.abi"
local engine = require "tideway.gate.engine"
local model = require "tideway.model"
local report = require "tideway.gate.report"
local sample = require "tideway.stats_sample"
local workers = require "tideway.gate.workers"

local C = abi.C
local M = {}

local STATES = {
   [C.TW_WORKER_NONE] = "gone", [C.TW_WORKER_STARTS] = "starts", [C.TW_WORKER_RUNS] = "runs",
   [C.TW_WORKER_WAITS] = "waits", [C.TW_WORKER_LEAVES] = "leaves",
}

local BOARD = {
   "started", "done", "received", "sent", "batches", "wakeups", "faults", "held", "busy_ns", "heap_bytes",
}

local function number(value) return tonumber(value) end

local function buckets(from)
   local out = {}
   for i = 1, C.TW_TIME_BUCKETS do out[i] = number(from[i - 1]) end
   return out
end

local function add_buckets(to, from)
   for i, n in ipairs(from) do to[i] = (to[i] or 0) + n end
end

--- Bounds that shares of the times do not pass, ns.
---@param time number[]
---@return { ns_50: number?, ns_90: number?, ns_99: number?, ns_max: number? }
function M.quantiles(time)
   return {
      ns_50 = sample.quantile(time, 0.5), ns_90 = sample.quantile(time, 0.9), ns_99 = sample.quantile(time, 0.99),
      ns_max = sample.quantile(time, 1),
   }
end

-- ---- gate threads ----

local function counter_names()
   local names = {}
   for i = 0, 31 do
      local name = C.tw_gate_counter_name(i)
      if name == nil then break end
      names[i + 1] = ffi.string(name)
   end
   return names
end

local function read_gates()
   local list, names, s = {}, counter_names(), ffi.new "struct tw_gate_stats"
   for i = 0, C.TW_GATES_MAX - 1 do
      if C.tw_gate_stats(i, s) < 0 then break end
      local gate = { index = i, cpu_ns = number(s.cpu_ns), connections = s.connections, exchanges = s.exchanges,
         counters = {} }
      for k, name in ipairs(names) do gate.counters[name] = number(s.counter[k - 1]) end
      list[i + 1] = gate
   end
   return list
end

-- ---- functions and their instances ----

local function read_board(b)
   local out = { time = buckets(b.time) }
   for _, key in ipairs(BOARD) do out[key] = number(b[key]) end
   return out
end

local function read_instance(worker)
   local info = workers.info(worker)
   if not info then return nil end
   local out = read_board(info.board)
   out.worker, out.instance, out.member = worker, info.instance, info.member
   out.state, out.pid, out.uid, out.cpu = STATES[tonumber(info.state)], info.pid, info.uid, info.cpu
   out.restarts, out.cpu_ns, out.last = number(info.restarts), number(info.cpu_ns), ffi.string(info.last)
   out.since_ns = number(info.since_ns)
   for _, key in ipairs { "queued", "in", "out", "denied", "full" } do out[key] = number(info[key]) end
   return out
end

local SUMS = { "queued", "restarts", "cpu_ns", "in", "out", "denied", "full" }

local function zero_function(service, i)
   local f = { name = service.stage_names[i], aside = i > #service.stages - #service.aside, instances = {}, time = {},
      on_fault = service.stages[i].on_fault }
   for _, key in ipairs(BOARD) do f[key] = 0 end
   for _, key in ipairs(SUMS) do f[key] = 0 end
   return f
end

local function add_instance(f, instance)
   f.instances[#f.instances + 1] = instance
   for _, key in ipairs(BOARD) do f[key] = f[key] + instance[key] end
   for _, key in ipairs(SUMS) do f[key] = f[key] + instance[key] end
   add_buckets(f.time, instance.time)
   instance.time = nil
end

local function read_function(service, run, stats, i)
   local f = zero_function(service, i)
   if service.pinned.worker == "inline" then
      local board = read_board(stats.inline_board[i - 1])
      for key, value in pairs(board) do f[key] = value end
   else
      for _, worker in ipairs(run.workers[i] or {}) do
         local instance = read_instance(worker)
         if instance then add_instance(f, instance) end
      end
   end
   f.quantiles = M.quantiles(f.time)
   return f
end

-- ---- chains ----

local SERVICE = { "requests", "responses", "failed", "in_flight", "bytes_in", "bytes_out" }
local POOL = { "blocks", "used", "empty", "refused", "bytes" }

-- What chains of a name did that were started anew since, or are gone.
local gone = {}

local function sums_of(s)
   local out = { status = {}, time = buckets(s.time) }
   for _, key in ipairs(SERVICE) do out[key] = number(s[key]) end
   for i = 1, 5 do out.status[i .. "xx"] = number(s.status[i]) end
   out.closed = number(s.status[0])
   return out
end

local function add_sums(to, from)
   for _, key in ipairs(SERVICE) do to[key] = to[key] + from[key] end
   for class, n in pairs(from.status) do to.status[class] = to.status[class] + n end
   to.closed = to.closed + from.closed
   add_buckets(to.time, from.time)
end

-- What was under way when it ended was closed.
function engine.on_gone(run)
   local s = ffi.new "struct tw_service_stats"
   if C.tw_service_stats(run.slot, s) < 0 then return end
   local sums, name = sums_of(s), rawget(run.service or {}, "name")
   if not name then return end
   sums.closed, sums.in_flight = sums.closed + sums.in_flight, 0
   if gone[name] then add_sums(gone[name], sums) else gone[name] = sums end
end

--- Forget what was counted of chains that are gone.
function M.forget() gone = {} end

local function read_service(service)
   local run = engine.running(service)
   local s = ffi.new "struct tw_service_stats"
   if not run or C.tw_service_stats(run.slot, s) < 0 then return nil end
   local out, sums = {
      name = service.name, path = report.path_of(service), place = report.place_of(service),
      transport = service.pinned.worker, listeners = {}, upstream = service.sink and service.sink.name,
      pool = { hugepages = s.pool_huge }, functions = {},
   }, sums_of(s)
   if gone[service.name] then add_sums(sums, gone[service.name]) end
   for key, value in pairs(sums) do out[key] = value end
   for i, listener in ipairs(service.sources) do out.listeners[i] = listener.name end
   for _, key in ipairs(POOL) do out.pool[key] = number(s["pool_" .. key]) end
   for i in ipairs(service.stages) do out.functions[i] = read_function(service, run, s, i) end
   out.quantiles = M.quantiles(out.time)
   out.difference = out.requests - out.responses - out.closed - out.in_flight
   return out
end

-- ---- listeners and groups ----

local function read_group(group)
   local out = { name = group.name, protocol = group.protocol or "http", balance = group.options.balance, servers = {} }
   local s = ffi.new "struct tw_server_stats"
   for i, server in ipairs(group.servers) do
      if C.tw_group_stats(group.index, i - 1, s) < 0 then break end
      out.servers[i] = {
         name = server.name, address = server.address.text, weight = server.weight, up = s.up ~= 0, active = s.active,
         idle = s.idle, requests = number(s.requests), failures = number(s.failures),
         checks = number(s.checks), failed_checks = number(s.failed_checks), last = ffi.string(s.last),
      }
   end
   return out
end

---@class tideway.gate.snapshot
---@field gates table[]
---@field listeners table[]
---@field services table[]
---@field upstreams table[]

--- The counters now; nil when there is no gate.
---@return tideway.gate.snapshot?
function M.snapshot()
   if not engine.is_running() then return nil end
   local out = { gates = read_gates(), listeners = {}, services = {}, upstreams = {} }
   for _, service in ipairs(model.running.services) do
      local ok, read = model.with(model.running, read_service, service)
      if not ok then error(read, 0) end
      out.services[#out.services + 1] = read
   end
   for i, listener in ipairs(model.running.listeners) do
      local state = model.running.state[listener]
      out.listeners[i] = { name = listener.name, protocol = state.protocol, address = state.address.text }
   end
   for i, group in ipairs(model.running.groups) do
      local ok, read = model.with(model.running, read_group, group)
      if not ok then error(read, 0) end
      out.upstreams[i] = read
   end
   return out
end

--- Do the counters of all chains add up: requests = responses + closed without one + under way?
---@param snapshot? tideway.gate.snapshot of a gate that has stopped
---@return boolean
function M.adds_up(snapshot)
   for _, service in ipairs(snapshot and snapshot.services or {}) do
      if service.difference ~= 0 then return false end
   end
   return true
end

-- ---- rates ----

local function rate(new, old, seconds)
   local delta = new - (old or 0)
   return delta > 0 and delta / seconds or 0
end

local function since(new, old)
   local out = {}
   for i, n in ipairs(new) do out[i] = math.max(0, n - (old and old[i] or 0)) end
   return out
end

local function by_name(list)
   local map = {}
   for _, item in ipairs(list or {}) do map[item.name] = item end
   return map
end

local function function_rates(new, old, seconds)
   old = old or {}
   local n = math.max(1, #new.instances)
   return {
      name = new.name, aside = new.aside, instances = #new.instances, queued = new.queued, held = new.held,
      restarts = new.restarts, faults = new.faults, mps = rate(new.done, old.done, seconds),
      busy = rate(new.busy_ns, old.busy_ns, seconds) / 1e9 / n, wakeups_ps = rate(new.wakeups, old.wakeups, seconds),
      batch = new.batches > (old.batches or 0) and (new.received - (old.received or 0))
         / (new.batches - (old.batches or 0)) or 0,
      quantiles = M.quantiles(since(new.time, old.time)),
      last = new.instances[1] and new.instances[1].last or "",
   }
end

local function service_rates(new, old, seconds)
   old = old or {}
   local function r(key) return rate(new[key], old[key], seconds) end
   local out = {
      name = new.name, transport = new.transport, place = new.place, path = new.path, rps = r "requests",
      responses_ps = r "responses", failed_ps = r "failed", in_flight = new.in_flight, mbps_in = r "bytes_in" * 8 / 1e6,
      mbps_out = r "bytes_out" * 8 / 1e6, quantiles = M.quantiles(since(new.time, old.time)), functions = {},
      listeners = new.listeners, upstream = new.upstream, closed_ps = r "closed",
      errors_ps = rate(new.status["5xx"], old.status and old.status["5xx"], seconds),
   }
   local before = by_name(old.functions)
   for i, f in ipairs(new.functions) do out.functions[i] = function_rates(f, before[f.name], seconds) end
   return out
end

local function gate_rates(new, old, seconds)
   return {
      index = new.index, connections = new.connections, exchanges = new.exchanges,
      busy = rate(new.cpu_ns, old and old.cpu_ns, seconds) / 1e9,
   }
end

local function server_rates(new, old, seconds)
   return {
      name = new.name, up = new.up, weight = new.weight, active = new.active, idle = new.idle, last = new.last,
      rps = rate(new.requests, old and old.requests, seconds),
      failures_ps = rate(new.failures, old and old.failures, seconds),
   }
end

--- What happened a second between two snapshots.
---@param a? tideway.gate.snapshot
---@param b tideway.gate.snapshot
---@param seconds number
---@return { gates: table[], services: table[], upstreams: table[] }
function M.rates(a, b, seconds)
   a = a or { gates = {}, services = {}, upstreams = {} }
   local out = { gates = {}, services = {}, upstreams = {} }
   for i, gate in ipairs(b.gates) do out.gates[i] = gate_rates(gate, a.gates[i], seconds) end
   local before = by_name(a.services)
   for i, service in ipairs(b.services) do
      out.services[i] = service_rates(service, before[service.name], seconds)
   end
   before = by_name(a.upstreams)
   for i, group in ipairs(b.upstreams) do
      local servers = by_name(before[group.name] and before[group.name].servers)
      out.upstreams[i] = { name = group.name, balance = group.balance, servers = {} }
      for k, server in ipairs(group.servers) do
         out.upstreams[i].servers[k] = server_rates(server, servers[server.name], seconds)
      end
   end
   return out
end

return M
