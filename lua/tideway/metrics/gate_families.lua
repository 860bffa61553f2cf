-- SPDX-License-Identifier: BSD-3-Clause
-- The metrics of a gate: its threads, chains of messages, functions, servers.

local exposition = require "tideway.metrics.exposition"

local M = {}

local labels = exposition.labels

local SERVICE = {
   { "counter", "tideway_service_requests", nil, "requests", "Requests, connections and datagrams that came." },
   { "counter", "tideway_service_failed", nil, "failed", "Of these, answered by the gate itself with a 5xx." },
   { "counter", "tideway_service_closed", nil, "closed", "Of these, closed without an answer." },
   { "counter", "tideway_service_received_bytes", "bytes", "bytes_in", "Bytes of bodies and streams from clients." },
   { "counter", "tideway_service_sent_bytes", "bytes", "bytes_out", "Bytes of bodies and streams to clients." },
   { "gauge", "tideway_service_in_flight", nil, "in_flight", "Requests that are under way." },
}

local POOL = {
   { "gauge", "tideway_service_pool_bytes", "bytes", "bytes", "Shared memory of the chain." },
   { "gauge", "tideway_service_pool_blocks", "blocks", "blocks", "Blocks that it is divided into." },
   { "gauge", "tideway_service_pool_used_blocks", "blocks", "used", "Blocks that hold something." },
   { "counter", "tideway_service_pool_empty", nil, "empty", "Requests for a block that found none." },
   { "counter", "tideway_service_pool_refused", nil, "refused", "Handles that were stale or somebody else's." },
}

local FUNCTION = {
   { "counter", "tideway_function_messages", "messages", "done", "Messages that the function has done." },
   { "counter", "tideway_function_faults", nil, "faults", "Messages in which it raised." },
   { "counter", "tideway_function_restarts", nil, "restarts", "Instances that were started anew." },
   { "counter", "tideway_function_denied", nil, "denied", "Descriptors that the allow matrix refused." },
   { "counter", "tideway_function_wakeups", nil, "wakeups", "Times that its instances were woken." },
   { "gauge", "tideway_function_queued_messages", "messages", "queued", "Messages in the queues of its instances." },
   { "gauge", "tideway_function_held_messages", "messages", "held", "Messages that it holds." },
}

local SERVER = {
   { "counter", "tideway_server_requests", nil, "requests", "Requests that the server got." },
   { "counter", "tideway_server_failures", nil, "failures", "Of these, those that failed." },
   { "counter", "tideway_server_failed_checks", nil, "failed_checks", "Health checks that failed." },
   { "gauge", "tideway_server_connections", nil, "active", "Connections in use." },
   { "gauge", "tideway_server_kept_connections", nil, "idle", "Connections that are kept open." },
   { "gauge", "tideway_server_weight", nil, "weight", "Its share; 0: it is drained." },
}

local BOUNDS, counts_of = exposition.powers(14, 34) -- 16 us to 17 s

-- Middles of the buckets: the gate keeps no sum.
local function sum_of(time)
   local sum = 0
   for i, n in ipairs(time) do sum = sum + n * 2 ^ (i - 1) * 0.75e-9 end
   return sum
end

local function services(text, gate)
   local function of(s) return labels("chain", s.name) end
   if #gate.services == 0 then return end
   text:family("info", "tideway_service", nil, "How messages reach the functions of a chain.")
   for _, s in ipairs(gate.services) do text:sample(labels("chain", s.name, "transport", s.transport), 1) end
   text:rows(SERVICE, gate.services, of)
   text:rows(POOL, gate.services, of, function(s) return s.pool end)
   text:family("counter", "tideway_service_responses", nil, "Answers by class of their status.")
   for _, s in ipairs(gate.services) do
      for class = 1, 5 do text:sample(labels("chain", s.name, "class", class .. "xx"), s.status[class .. "xx"]) end
   end
   text:family("histogram", "tideway_service_duration_seconds", "seconds",
      "Time from the first byte of a request to the last byte of its answer; the sum is an estimate.")
   for _, s in ipairs(gate.services) do text:histogram(of(s), BOUNDS, counts_of(s.time), sum_of(s.time)) end
end

local function functions(text, gate)
   local list = {}
   for _, s in ipairs(gate.services) do
      for _, f in ipairs(s.functions) do list[#list + 1] = { chain = s.name, f = f } end
   end
   local function of(entry) return labels("chain", entry.chain, "function", entry.f.name) end
   text:rows(FUNCTION, list, of, function(entry) return entry.f end)
   if #list == 0 then return end
   text:family("counter", "tideway_function_busy_seconds", "seconds", "CPU time in messages.")
   for _, entry in ipairs(list) do text:sample(of(entry), entry.f.busy_ns / 1e9) end
   text:family("gauge", "tideway_function_instances", nil, "Instances that run.")
   for _, entry in ipairs(list) do
      local n = 0
      for _, instance in ipairs(entry.f.instances) do n = n + (instance.state == "runs" and 1 or 0) end
      text:sample(of(entry), n)
   end
end

local function servers(text, gate)
   local list = {}
   for _, group in ipairs(gate.upstreams) do
      for _, server in ipairs(group.servers) do list[#list + 1] = { group = group.name, server = server } end
   end
   local function of(entry) return labels("upstream", entry.group, "server", entry.server.name) end
   text:rows(SERVER, list, of, function(entry) return entry.server end)
   if #list == 0 then return end
   text:family("gauge", "tideway_server_up", nil, "1: it gets requests.")
   for _, entry in ipairs(list) do text:sample(of(entry), entry.server.up and 1 or 0) end
end

local function threads(text, gate)
   local function of(thread) return labels("gate", thread.index) end
   if #gate.gates == 0 then return end
   text:family("counter", "tideway_gate_cpu_seconds", "seconds", "CPU time of the gate's thread.")
   for _, thread in ipairs(gate.gates) do text:sample(of(thread), thread.cpu_ns / 1e9) end
   text:family("gauge", "tideway_gate_connections", nil, "Connections of clients that are open.")
   for _, thread in ipairs(gate.gates) do text:sample(of(thread), thread.connections) end
   text:family("counter", "tideway_gate_events", nil, "What the gate's thread has counted, by name.")
   for _, thread in ipairs(gate.gates) do
      local names = {}
      for name in pairs(thread.counters) do names[#names + 1] = name end
      table.sort(names)
      for _, name in ipairs(names) do
         text:sample(labels("gate", thread.index, "event", name), thread.counters[name])
      end
   end
end

--- The families of a gate.
---@param text tideway.metrics.text
---@param gate tideway.gate.snapshot?
function M.add(text, gate)
   if not gate then return end
   threads(text, gate)
   services(text, gate)
   functions(text, gate)
   servers(text, gate)
end

return M
