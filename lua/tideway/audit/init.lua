-- SPDX-License-Identifier: BSD-3-Clause
-- The overhead of a chain of messages, measured: a script runs as an instance of its own, gets a small load, and what
-- that costs is read from the kernel, from strace and from the counters.
--
-- Costs that strace would change (context switches, wake-ups, CPU time, copies) are taken in one round, system calls in
-- another one.

local address = require "tideway.audit.address"
local calls = require "tideway.audit.calls"
local datagrams = require "tideway.audit.datagram"
local descriptor = require "tideway.posix.descriptor"
local dns = require "tideway.audit.dns"
local http = require "tideway.audit.http"
local instances = require "tideway.audit.instance"
local origins = require "tideway.audit.origin"
local posix = require "tideway.posix"

local M = {}

local WARM = 50

---@class tideway.audit.options
---@field requests integer
---@field bytes integer of bodies of the built-in origin's answers, and its datagrams
---@field path string that is asked for
---@field dns? string name that is asked for in DNS, by listeners for UDP or TCP
---@field send? string what a datagram says
---@field listener? string name of the one that is asked; default: the first
---@field args? string[] of the script
---@field dir string for instances
---@field binary string

-- ---- measuring ----

local function task(pid, tid)
   local status = posix.slurp(("/proc/%d/task/%d/status"):format(pid, tid)) or ""
   local sched = posix.slurp(("/proc/%d/task/%d/schedstat"):format(pid, tid)) or ""
   return {
      name = status:match "Name:%s*([^\n]*)" or "?",
      voluntary = tonumber(status:match "\nvoluntary_ctxt_switches:%s*(%d+)") or 0,
      forced = tonumber(status:match "nonvoluntary_ctxt_switches:%s*(%d+)") or 0,
      cpu_ns = tonumber(sched:match "^(%d+)") or 0,
   }
end

-- A counter of the kernel's stack, of the machine.
local function of_stack(pid, protocol, what)
   local text = posix.slurp(("/proc/%d/net/snmp"):format(pid)) or ""
   local names, values = text:match(("%s: ([^\n]*)\n%s: ([^\n]*)"):format(protocol, protocol))
   local list, i = {}, 0
   for value in (values or ""):gmatch "%S+" do list[#list + 1] = tonumber(value) end
   for name in (names or ""):gmatch "%S+" do
      i = i + 1
      if name == what then return list[i] end
   end
   return 0
end

-- The processes and threads that work on messages: the gate's threads, and each instance.
local function parts_of(engine, service)
   local parts = {}
   for _, tid in ipairs(descriptor.threads(engine.pid)) do
      local name = task(engine.pid, tid).name
      if name:find "gate" then parts[#parts + 1] = { what = "gate", pid = engine.pid, tid = tid } end
   end
   for _, f in ipairs(service.functions) do
      for _, instance in ipairs(f.instances) do
         for _, tid in ipairs(descriptor.threads(instance.pid)) do
            parts[#parts + 1] = { what = f.name, pid = instance.pid, tid = tid }
         end
      end
   end
   return parts
end

local function service_of(snapshot, name)
   for _, s in ipairs(snapshot.services) do
      if s.name == name then return s end
   end
end

local function look(engine, service_name, parts)
   local snapshot = engine:gate()
   local now = { service = service_of(snapshot, service_name), tasks = {}, counters = {},
      segments = of_stack(engine.pid, "Tcp", "OutSegs"), datagrams = of_stack(engine.pid, "Udp", "OutDatagrams") }
   for _, gate in ipairs(snapshot.gates) do
      for name, n in pairs(gate.counters) do now.counters[name] = (now.counters[name] or 0) + n end
   end
   for i, part in ipairs(parts) do now.tasks[i] = task(part.pid, part.tid) end
   return now
end

local function names_in_order(service)
   local names = { "gate" }
   for _, f in ipairs(service.functions) do names[#names + 1] = f.name end
   return names
end

local function row(name) return { where = name, messages = 0, wakeups = 0, switches = 0, forced = 0, cpu_us = 0,
   calls = 0, waits = 0, external = 0, internal = 0 } end

local function cost_rows(before, after, parts, n)
   local rows, by_name = {}, {}
   for i, name in ipairs(names_in_order(after.service)) do
      rows[i] = row(name)
      by_name[name] = rows[i]
   end
   for i, part in ipairs(parts) do
      local a, b, r = before.tasks[i], after.tasks[i], by_name[part.what]
      r.switches = r.switches + (b.voluntary - a.voluntary) / n
      r.forced = r.forced + (b.forced - a.forced) / n
      r.cpu_us = r.cpu_us + (b.cpu_ns - a.cpu_ns) / n / 1e3
   end
   for i, f in ipairs(after.service.functions) do
      local old, r = before.service.functions[i], by_name[f.name]
      r.messages, r.wakeups = (f.done - old.done) / n, (f.wakeups - old.wakeups) / n
      if #f.instances == 0 then r.cpu_us = (f.busy_ns - old.busy_ns) / n / 1e3 end
   end
   by_name.gate.messages = (after.service.requests - before.service.requests) / n
   by_name.gate.wakeups = (after.counters.turns - before.counters.turns) / n
   return rows, by_name
end

local function add_calls(by_name, parts, threads, n)
   for _, part in ipairs(parts) do
      local c, r = threads[part.tid], by_name[part.what]
      if c then
         r.calls, r.waits = r.calls + c.all / n, r.waits + c.waits / n
         r.external, r.internal = r.external + c.external / n, r.internal + c.internal / n
      end
   end
end

local KEYS = { "messages", "wakeups", "switches", "forced", "cpu_us", "calls", "waits", "external", "internal" }

-- The sum, and what a function costs in all: the functions' share of it.
local function sums(rows)
   local all, hops = row "all", math.max(1, #rows - 1)
   for _, r in ipairs(rows) do
      for _, key in ipairs(KEYS) do all[key] = all[key] + r[key] end
   end
   all.messages = rows[1].messages
   local hop = row "a function"
   for i = 2, #rows do
      for _, key in ipairs(KEYS) do hop[key] = hop[key] + rows[i][key] / hops end
   end
   return all, #rows > 1 and hop or nil
end

local function listener_of(engine, o)
   local reply = engine.client:call("listeners", {}, { seconds = 10 })
   if not reply.ok then error(reply.error, 0) end
   for _, listener in ipairs(reply.view.data) do
      if not o.listener or o.listener == listener.name then return listener end
   end
   error("the script has no listener" .. (o.listener and " of that name" or ""), 0)
end

-- Who asks a listener, and what one thing is called that it asks for.
local function client_of(listener, o)
   local host, port = address.split(listener.address)
   if host == "0.0.0.0" then host = "127.0.0.1" elseif host == "::" then host = "::1" end
   if listener.protocol == "http" and o.dns then
      error(("listener %s is for HTTP; queries of DNS go to one for UDP or TCP (--listener)"):format(listener.name), 0)
   elseif listener.protocol == "udp" then
      local query = o.dns and dns.query(o.dns)
      return datagrams.new(host, port, query or o.send, query and dns.kind), "datagram"
   elseif o.dns then
      return dns.stream(host, port, dns.query(o.dns)), "query"
   end
   return http.new(host, port, o.path), "request"
end

local function measure(engine, o)
   local listener = listener_of(engine, o)
   local client, what = client_of(listener, o)
   local function load(n)
      local ok, err = client:run(n)
      if not ok then error(("to listener %s (%s): %s"):format(listener.name, listener.address, err), 0) end
   end
   load(WARM)
   local n, parts = o.requests, parts_of(engine, assert(service_of(engine:gate(), listener.chain)))
   local before, payload = look(engine, listener.chain, parts), client.payload
   load(n)
   local after = look(engine, listener.chain, parts)
   payload = client.payload - payload
   local rows, by_name = cost_rows(before, after, parts, n)
   local traced = false
   if calls.available() then
      local pids, seen = {}, {}
      for _, part in ipairs(parts) do
         if not seen[part.pid] then pids[#pids + 1] = part.pid end
         seen[part.pid] = true
      end
      local threads, err = calls.during(pids, function() load(n) end)
      if not threads then error("strace: " .. tostring(err), 0) end
      add_calls(by_name, parts, threads, n)
      traced = true
   end
   client:close()
   local all, hop = sums(rows)
   local function counter(name) return (after.counters[name] - before.counters[name]) / n end
   local packets = listener.protocol == "udp" and "datagrams" or "segments"
   return {
      chain = listener.chain, protocol = listener.protocol, what = what, requests = n, status = client.status,
      rows = rows, all = all, hop = hop, traced = traced,
      payload_bytes = payload / n, copied_bytes = counter "copied_bytes",
      copies = payload > 0 and counter "copied_bytes" / (payload / n) or 0,
      gate_calls = counter "syscalls", [packets] = (after[packets] - before[packets]) / n,
      connections = client.connections,
   }
end

-- Servers that were not there a moment ago are down until they are checked again.
local function wait_until_up(engine, addresses)
   for _ = 1, 100 do
      local down = false
      for _, group in ipairs(engine:gate().upstreams) do
         for _, server in ipairs(group.servers) do down = down or addresses[server.address] and not server.up end
      end
      if not down then return end
      posix.poll({}, 100)
   end
end

--- Audit a script with one transport.
---@param script string
---@param transport string
---@param o tideway.audit.options
---@return table? result
---@return string? err
function M.one(script, transport, o)
   local engine, err = instances.start(o, "audit-" .. transport, script,
      { "--worker", transport, "--privileges", "keep" }, o.args)
   if not engine then return nil, err end
   local origin
   local ok, result = pcall(function()
      local reply = engine.client:call("gate", {}, { seconds = 10 })
      if not reply.ok or #reply.view.data.services == 0 then error("the script has no chain behind a listener", 0) end
      local addresses
      origin, addresses = origins.start(o, reply.view.data.upstreams)
      if origin then wait_until_up(engine, addresses) end
      local found = measure(engine, o)
      found.transport, found.origin = transport, origin and "built in" or "the script's"
      return found
   end)
   engine:stop()
   if origin then origin:stop() end
   if not ok then return nil, result end
   return result
end

return M
