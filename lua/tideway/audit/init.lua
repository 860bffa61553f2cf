-- SPDX-License-Identifier: BSD-3-Clause
-- The overhead of a chain of messages, measured: a script runs as an instance of its own, gets a small load, and what
-- that costs is read from the kernel, from strace and from the counters.
--
-- Costs that strace would change (context switches, wake-ups, CPU time, copies) are taken in one round, system calls in
-- another one.

local calls = require "tideway.audit.calls"
local clients = require "tideway.audit.client"
local control = require "tideway.control.client"
local descriptor = require "tideway.posix.descriptor"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local process = require "tideway.posix.process"

local M = {}

local WARM = 50

-- Answers every request with so many bytes.
local ORIGIN = [[
local tw = require "tideway"
tw.options { gates = 1, drain = 0 }
local body = ("x"):rep(%d)
local headers = { ["Content-Type"] = "text/plain" }
local origin = tw.nf("origin", function()
   return { message = function(msg) return msg:respond(200, headers, body) end }
end)
local listeners = { %s }
tw.chain("origin", listeners, origin {}):pin { worker = "inline" }
]]

---@class tideway.audit.options
---@field requests integer
---@field bytes integer of bodies of the built-in origin's answers
---@field path string that is asked for
---@field listener? string name of the one that is asked; default: the first
---@field args? string[] of the script
---@field dir string for instances
---@field binary string

-- ---- instances ----

---@class tideway.audit.instance
local Instance = {}
Instance.__index = Instance

local function start(o, name, script, options, arguments)
   local self = setmetatable({ name = name, output = ("%s/%s.out"):format(o.dir, name) }, Instance)
   local argv = { "env", "TIDEWAY_RUN_DIR=" .. o.dir, o.binary, "run", "--name", name }
   for _, word in ipairs(options) do argv[#argv + 1] = word end
   argv[#argv + 1] = script
   for _, word in ipairs(arguments or {}) do argv[#argv + 1] = word end
   local err
   self.pid, err = process.spawn(argv, { output = self.output })
   if not self.pid then return nil, err end
   for _ = 1, 300 do
      local text = posix.slurp(self.output) or ""
      if text:find("\nready: ", 1, true) or text:find "^ready: " then
         self.client, err = control.open({ name = name, dir = o.dir .. "/" .. name, pid = self.pid }, 10)
         if not self.client then self:stop() end
         return self.client and self, err
      end
      if process.ended(self.pid) then
         self.pid = nil
         return nil, (text:gsub("%s+$", ""))
      end
      posix.poll({}, 50)
   end
   self:stop()
   return nil, "the instance did not start within 15 s"
end

function Instance:gate()
   local reply = self.client:call("gate", {}, { seconds = 10 })
   return reply.ok and reply.view.data or error(reply.error or "the instance does not answer", 0)
end

function Instance:stop()
   if self.client then self.client:close() end
   if not self.pid then return end
   process.terminate(self.pid, process.SIGINT)
   process.ended(self.pid, true)
   self.pid = nil
end

-- ---- origin ----

local function split(text)
   local host, port = text:match "^%[(.-)%]:(%d+)$"
   if not host then host, port = text:match "^(.-):(%d+)$" end
   return host, tonumber(port)
end

local function answers(host, port)
   local fd = net.connect(host, port)
   if fd then posix.close(fd) end
   return fd ~= nil
end

-- Servers of this machine that are not there are stood in for.
local function missing_servers(upstreams)
   local list = {}
   for _, group in ipairs(upstreams) do
      for _, server in ipairs(group.servers) do
         local host, port = split(server.address)
         local here = host and (host:find "^127%." or host == "::1")
         if here and not answers(host, port) then list[#list + 1] = server.address end
      end
   end
   return list
end

local function start_origin(o, addresses)
   if #addresses == 0 then return nil end
   local listeners = {}
   for i, address in ipairs(addresses) do
      listeners[i] = ("tw.listen(\"o%d\", \"http://%s\", { requests = 0 })"):format(i, address)
   end
   local path = o.dir .. "/origin.lua"
   local file = assert(io.open(path, "w"))
   file:write(ORIGIN:format(o.bytes, table.concat(listeners, ", ")))
   file:close()
   local origin, err = start(o, "audit-origin", path, {})
   if not origin then error("the built-in origin did not start: " .. err, 0) end
   return origin
end

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

local function segments(pid)
   local text = posix.slurp(("/proc/%d/net/snmp"):format(pid)) or ""
   local names, values = text:match "Tcp: ([^\n]*)\nTcp: ([^\n]*)"
   local list, i = {}, 0
   for value in (values or ""):gmatch "%S+" do list[#list + 1] = tonumber(value) end
   for name in (names or ""):gmatch "%S+" do
      i = i + 1
      if name == "OutSegs" then return list[i] end
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
   local now = { service = service_of(snapshot, service_name), tasks = {}, segments = segments(engine.pid),
      counters = {} }
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
   by_name.gate.wakeups = ((after.counters.turns or 0) - (before.counters.turns or 0)) / n
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

local function client_of(engine, o)
   local reply = engine.client:call("listeners", {}, { seconds = 10 })
   if not reply.ok then error(reply.error, 0) end
   local found
   for _, listener in ipairs(reply.view.data) do
      if listener.protocol ~= "udp" and (not o.listener or o.listener == listener.name) then
         found = found or listener
      end
   end
   if not found then
      error("the script has no listener for HTTP or TCP" .. (o.listener and " of that name" or ""), 0)
   end
   local host, port = split(found.address)
   if host == "0.0.0.0" then host = "127.0.0.1" elseif host == "::" then host = "::1" end
   local request = ("GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: tideway-audit\r\n\r\n"):format(o.path, host, port)
   return clients.new(host, port, request), found
end

local function measure(engine, o)
   local client, listener = client_of(engine, o)
   local function load(n)
      local ok, err = client:run(n)
      if not ok then error(("requests to %s: %s"):format(listener.address, err), 0) end
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
   local function counter(name) return ((after.counters[name] or 0) - (before.counters[name] or 0)) / n end
   return {
      chain = listener.chain, requests = n, status = client.status, rows = rows, all = all, hop = hop, traced = traced,
      payload_bytes = payload / n, copied_bytes = counter "copied",
      copies = payload > 0 and counter "copied" / (payload / n) or 0,
      gate_calls = counter "syscalls", segments = (after.segments - before.segments) / n,
      connections = client.connections,
   }
end

--- Audit a script with one transport.
---@param script string
---@param transport string
---@param o tideway.audit.options
---@return table? result
---@return string? err
function M.one(script, transport, o)
   local engine, err = start(o, "audit-" .. transport, script, { "--worker", transport, "--privileges", "keep" },
      o.args)
   if not engine then return nil, err end
   local origin
   local ok, result = pcall(function()
      local reply = engine.client:call("gate", {}, { seconds = 10 })
      if not reply.ok or #reply.view.data.services == 0 then error("the script has no chain behind a listener", 0) end
      origin = start_origin(o, missing_servers(reply.view.data.upstreams))
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
