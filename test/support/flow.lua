-- SPDX-License-Identifier: BSD-3-Clause
-- For specs of services with functions: gate threads in this process, functions inline or in workers, an upstream
-- server that answers in a thread of control of its own, and clients that the spec plays byte by byte.

local abi = require "tideway.abi"
local bit = require "bit"
local ffi = require "ffi"
local nf = require "tideway.nf"
local posix = require "tideway.posix"
local store = require "tideway.store"
local transfer = require "tideway.transfer"
local upstream = require "test.support.upstream"

local C = abi.C
local M = {}

pcall(ffi.cdef, [[
   void tw_supervisor_stop(void);
   int kill(int pid, int sig);
]])

local TRANSPORT = { sk_msg = C.TW_TRANSPORT_SK_MSG, rings = C.TW_TRANSPORT_RINGS, inline = C.TW_TRANSPORT_INLINE }
local ON_FAULT = { fail = C.TW_FAULT_FAIL, retry = C.TW_FAULT_RETRY, bypass = C.TW_FAULT_BYPASS }

local function check(r)
   if r < 0 then error(abi.error(), 3) end
   return r
end

local function takes(f)
   return bit.bor(f.message and C.TW_TAKES_MESSAGE or 0, f.response and C.TW_TAKES_RESPONSE or 0,
      f.data and C.TW_TAKES_DATA or 0, f.body == "whole" and C.TW_TAKES_WHOLE or 0,
      f.response_body == "whole" and C.TW_TAKES_WHOLE_BACK or 0)
end

local Service = {}
Service.__index = Service

local function fill(self)
   local spec = ffi.new "struct tw_service_spec"
   spec.name, spec.transport, spec.group, spec.memory_mb = "flow", TRANSPORT[self.transport], self.group, self.memory_mb
   spec.whole_bytes, spec.n_functions = self.whole_bytes, #self.functions
   for i, f in ipairs(self.functions) do
      local to = spec["function"][i - 1]
      to.name, to.takes, to.on_fault = f.name, takes(f), ON_FAULT[f.on_fault or "fail"]
      to.readonly, to.aside = f.readonly and 1 or 0, f.aside and 1 or 0
      to.sticky = f.sticky == "exchange" and 1 or f.sticky == "connection" and 2 or 0
      for k, other in ipairs(self.functions) do
         if other.aside then to.routes = bit.bor(to.routes, bit.lshift(1, k - 1)) end
      end
   end
   return spec
end

local function record(self, i)
   local routes, n = {}, 0
   for _, f in ipairs(self.functions) do
      if f.aside then
         routes[f.name] = C.TW_EXIT_ROUTE + n
         n = n + 1
      end
   end
   local f = self.functions[i]
   return {
      chain = "flow", name = f.name, index = i - 1, nf = f.nf, routes = routes, groups = { app = 0, other = 1 },
      listeners = {},
   }
end

local function address(to, port)
   to.family, to.port = 4, port
   to.bytes[0], to.bytes[3] = 127, 1
end

local function listen(self)
   local listener = ffi.new "struct tw_listener_spec"
   listener.name, listener.protocol, listener.service = "flow", self.protocol, 0
   address(listener.address, self.port)
   listener.backlog, listener.connections, listener.head_bytes = 1024, 1000, 16384
   listener.body_bytes = 2 ^ 30
   listener.idle_ms, listener.head_ms, listener.body_ms, listener.send_ms, listener.request_ms =
      30000, 10000, 10000, 10000, self.request_ms
   check(C.tw_gate_listener(0, listener))
end

--- Start an instance of a function (from 1) in a worker, and wait until it runs; its number.
function Service:add(i, options)
   local blob, fds = store.noting(transfer.pack, record(self, i), "a function", true)
   local spec = ffi.new "struct tw_worker_spec"
   spec.service, spec["function"], spec.blob, spec.blob_len, spec.cpu = 0, i - 1, blob, #blob, -1
   for key, value in pairs(options or {}) do spec[key] = value end
   spec.n_fds = #fds
   for k, fd in ipairs(fds) do spec.fds[k - 1] = fd end
   local worker = check(C.tw_worker_add(spec))
   self.workers[#self.workers + 1] = worker
   assert(upstream.eventually(function() return M.info(worker).state == C.TW_WORKER_RUNS end), "it does not run")
   return worker
end

function M.info(worker)
   local info = ffi.new "struct tw_worker_info"
   return C.tw_worker_info(worker, info) == 0 and info or nil
end

--- Give the functions (again): a list of tables with name and the methods and keys of an NF.
function Service:set(functions)
   self.functions = functions
   for i, f in ipairs(functions) do
      f.name = f.name or "function" .. i
      local methods = {}
      for key, value in pairs(f) do
         if key ~= "name" and key ~= "aside" and key ~= "instances" and key ~= "nf" then methods[key] = value end
      end
      f.nf = f.nf or nf.instance("spec", methods, 1)
   end
   check(C.tw_gate_service(0, fill(self)))
   if self.transport == "inline" then
      local list = {}
      for i in ipairs(functions) do list[i] = record(self, i) end
      local blob = transfer.pack(list, "functions")
      check(C.tw_gate_inline(0, blob, #blob))
   end
end

--- Start gate and functions. options: transport, gates, group (-1: none), whole_bytes, request_ms, protocol, servers
--- (ports of group 0), others (ports of group 1).
function M.start(functions, options)
   options = options or {}
   local self = setmetatable({
      transport = options.transport or "inline", group = options.group or 0, workers = {},
      whole_bytes = options.whole_bytes or 1024 * 1024, memory_mb = options.memory_mb or 32, request_ms = options.request_ms or 20000,
      port = options.port or upstream.unused(), protocol = options.protocol or C.TW_LISTEN_HTTP,
   }, Service)
   upstream.port = self.port
   check(C.tw_gates_start(options.gates or 1, nil))
   self.has_groups = { options.servers, options.others }
   local ok, err = pcall(function()
      if options.servers then upstream.group(0, { servers = options.servers }) end
      if options.others then upstream.group(1, { servers = options.others }) end
      self:set(functions)
      if self.transport ~= "inline" then
         for i, f in ipairs(self.functions) do
            for _ = 1, f.instances or 1 do self:add(i) end
         end
      end
      listen(self)
   end)
   if not ok then
      self:close()
      error(err, 0)
   end
   return self
end

--- The same in front of a server that the spec plays: the service, and the server.
function M.before(transport, functions, options)
   options = options or {}
   local app = upstream.server()
   options.transport, options.servers = options.transport or transport, options.servers or { app.port }
   return M.start(functions or {}, options), app
end

--- Figures of the service.
function Service.stats()
   local stats = ffi.new "struct tw_service_stats"
   check(C.tw_service_stats(0, stats))
   return stats
end

--- Requests begun are those answered, closed and in flight; once nothing is under way no block is in use.
function Service:exact()
   local stats = self:stats()
   local sum = stats.in_flight
   for i = 0, 5 do sum = sum + stats.status[i] end
   assert(stats.requests == sum, ("requests %d, accounted for %d"):format(tonumber(stats.requests), tonumber(sum)))
end

--- Waits until nothing is under way and all blocks are back; how many are not.
function Service:settle(seconds)
   local stats
   -- One look counts: behind it, connections that end take a block each to see that nothing came.
   upstream.eventually(function()
      stats = self:stats()
      self:exact()
      return stats.in_flight == 0 and stats.pool_used == 0
   end, seconds)
   return tonumber(stats.in_flight), tonumber(stats.pool_used)
end

--- The end of a test: all is settled, or it raises; the service is closed, and what else there is.
---@param ... { close: fun(self) } servers, clients
function Service:finish(...)
   local in_flight, blocks = self:settle()
   self:close()
   for i = 1, select("#", ...) do select(i, ...):close() end
   assert(in_flight == 0 and blocks == 0, ("%d requests are under way, %d blocks in use"):format(in_flight, blocks))
end

function Service:close()
   C.tw_gates_stop(0)
   for _, worker in ipairs(self.workers) do C.tw_worker_remove(worker, 0) end
   C.tw_supervisor_stop()
   for i = 1, 2 do
      if self.has_groups[i] then C.tw_gate_group_remove(i - 1) end
   end
end

--- Ask on a connection of its own; the response, and the connection.
function M.ask(method, path, body, headers)
   local c = upstream.client()
   local lines = { ("%s %s HTTP/1.1\r\nHost: spec\r\n"):format(method, path) }
   for name, value in pairs(headers or {}) do lines[#lines + 1] = ("%s: %s\r\n"):format(name, value) end
   if body then lines[#lines + 1] = ("Content-Length: %d\r\n"):format(#body) end
   lines[#lines + 1] = "\r\n"
   assert(c:send(table.concat(lines) .. (body or "")))
   return c
end

--- The same, with the server's end of it, and the head that came there.
function M.reach(app, ...)
   local c = M.ask(...)
   local s = assert(app:accept(), "no request came to the server")
   return c, s, assert(s:take "\r\n\r\n")
end

--- As ask() and the answer to it, when no server has a part in it.
function M.get(path, headers)
   local c = M.ask("GET", path, nil, headers)
   local response, got = c:response()
   c:close()
   return response, got
end

M.server, M.eventually, M.counter, M.client = upstream.server, upstream.eventually, upstream.counter, upstream.client
M.now = posix.now
return M
