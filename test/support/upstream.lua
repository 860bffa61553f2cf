-- SPDX-License-Identifier: BSD-3-Clause
-- For specs of the gate's way to servers: one gate thread in this process, a service without functions in front of a
-- group of servers, and both ends of it as sockets that the spec itself holds. So a spec plays client and server byte
-- by byte; only the gate is not played.

local abi = require "tideway.abi"
local ffi = require "ffi"
local gateway = require "test.support.gateway"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local C = abi.C
local M = {}

local PATIENCE = 60 -- seconds; a machine may be busy

-- ---- a connection, either end ----

local connection = {}
connection.__index = connection

local function wrap(fd) return setmetatable({ fd = fd, got = "" }, connection) end

local LOOK = 50 -- ms

local function now() return tonumber(posix.now()) / 1e9 end

--- Send all of it.
function connection:send(text)
   local at, until_when = 0, now() + PATIENCE
   while at < #text do
      local n, err, number = socket.send(self.fd, text, at)
      if n then
         at = at + n
      elseif number ~= socket.EAGAIN then
         return nil, err
      elseif now() > until_when then
         return nil, "it takes no more"
      else
         ffi.C.tw_posix_poll(nil, 0, 1)
      end
   end
   return true
end

--- What has come is in self.got; false: the end, nil: nothing in time.
function connection:more(seconds)
   local until_when = now() + (seconds or PATIENCE)
   while true do
      local bytes, n = socket.receive(self.fd)
      if bytes and n > 0 then
         self.got = self.got .. ffi.string(bytes, n)
         return true
      elseif bytes then
         return false
      elseif n ~= "Resource temporarily unavailable" then
         self.reset = n
         return false
      end
      if now() > until_when then return nil end
      posix.poll({ self.fd }, math.max(0, math.min(LOOK, math.ceil((until_when - now()) * 1000))))
   end
end

--- Take everything up to and with the pattern (plain text); nil and what there is: it did not come.
function connection:take(text, seconds)
   while true do
      local _, stop = self.got:find(text, 1, true)
      if stop then
         local taken = self.got:sub(1, stop)
         self.got = self.got:sub(stop + 1)
         return taken
      end
      if not self:more(seconds) then return nil, self.got end
   end
end

--- Take so many bytes.
function connection:bytes(n, seconds)
   local parts, have = { self.got }, #self.got
   while have < n do
      self.got = ""
      if not self:more(seconds) then
         self.got = table.concat(parts) .. self.got
         return nil, self.got
      end
      parts[#parts + 1], have = self.got, have + #self.got
   end
   local all = table.concat(parts)
   self.got = all:sub(n + 1)
   return all:sub(1, n)
end

--- Everything up to the end of the connection.
function connection:rest(seconds)
   while self:more(seconds) do end
   local all = self.got
   self.got = ""
   return all
end

--- The end comes (with nothing in front of it).
function connection:ends(seconds)
   return self.got == "" and self:more(seconds) == false
end

--- Ask for a path.
function connection:get(path)
   assert(self:send(("GET %s HTTP/1.1\r\nHost: example\r\n\r\n"):format(path or "/")))
end

function connection:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

--- Closes with a reset.
function connection:abort()
   local linger = ffi.new("int[2]", 1, 0)
   ffi.C.tw_posix_setsockopt(self.fd, 1, 13, linger, 8)
   self:close()
end

--- Status, headers (lower case) and body of a response with a length or without a body; `interim`: heads in front.
function connection:response(method)
   local interim, head, status = {}
   repeat
      interim[#interim + 1] = head
      local got
      head, got = self:take "\r\n\r\n"
      if not head then return nil, got end
      status = tonumber(head:match "^HTTP/1%.1 (%d+)")
   until not status or status >= 200 or status == 101
   local headers = {}
   for name, value in head:gmatch "\r\n([%w-]+): *([^\r]*)" do headers[name:lower()] = value end
   local body = ""
   if method ~= "HEAD" and headers["content-length"] then
      body = self:bytes(tonumber(headers["content-length"]))
   elseif headers["transfer-encoding"] == "chunked" and method ~= "HEAD" then
      local parts = {}
      while true do
         local line = self:take "\r\n"
         local size = line and tonumber(line:match "^%x+", 16)
         if not size then return nil, "broken off", table.concat(parts) end
         local part = self:bytes(size + 2)
         if not part then return nil, "broken off", table.concat(parts) end
         if size == 0 then break end
         parts[#parts + 1] = part:sub(1, -3)
      end
      body = table.concat(parts)
   end
   return { status = status, headers = headers, body = body, head = head, interim = interim }
end

-- ---- servers that the spec plays ----

local server = {}
server.__index = server

--- A server that listens (on a port, or with a socket and its port); server:accept() is its next connection.
function M.server(port_or_fd, actual)
   local fd = port_or_fd
   if not actual then fd, actual = net.listen("127.0.0.1", port_or_fd or 0) end
   assert(fd, actual)
   return setmetatable({ fd = fd, port = actual }, server)
end

function server:accept(seconds)
   local until_when = now() + (seconds or PATIENCE)
   while now() < until_when do
      local fd = socket.accept(self.fd)
      if fd then return wrap(fd) end
      posix.poll({ self.fd }, LOOK)
   end
end

--- The next connection and the head of its first request; `answer`, if there is one, is sent.
function server:serve(answer)
   local conn = assert(self:accept())
   local head = assert(conn:take "\r\n\r\n")
   if answer then assert(conn:send(answer)) end
   return conn, head
end

function server:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

--- One at a path.
function M.server_at(path)
   local fd = assert(socket.listen(path, 384)) -- 0600
   return setmetatable({ fd = fd, path = path }, server)
end

--- A port nobody listens on.
M.unused = gateway.port

-- ---- the gate ----

local function address(to, port, v6)
   to.family, to.port = v6 and 6 or 4, port
   if v6 then to.bytes[15] = 1 else to.bytes[0], to.bytes[3] = 127, 1 end
end

local function check(r)
   if r ~= 0 then error(ffi.string(C.tw_error()), 3) end
end

--- (Re)define a group. servers: ports, paths, or { port, weight =, v6 = }; other keys as in struct tw_group_spec.
function M.group(index, options)
   local spec = ffi.new "struct tw_group_spec"
   spec.name, spec.protocol, spec.keepalive, spec.queue_ms = "app", C.TW_LISTEN_HTTP, 8, 0
   spec.connect_ms, spec.response_ms, spec.idle_ms = 10000, 20000, 20000
   for name, value in pairs(options) do
      if name ~= "servers" then spec[name] = value end
   end
   spec.n_servers = #options.servers
   for i, entry in ipairs(options.servers) do
      local port = type(entry) == "table" and entry[1] or entry
      local s = spec.server[i - 1]
      local path = type(port) == "string" and port
      s.name = path and "unix:" .. path:sub(-40) or "127.0.0.1:" .. port
      s.weight = type(entry) == "table" and entry.weight or 1
      if path then
         s.address.family, s.address.path, s.host = C.TW_ADDRESS_UNIX, path, "localhost"
      else
         address(s.address, port, type(entry) == "table" and entry.v6)
      end
   end
   check(C.tw_gate_group(index, spec))
end

--- Figures of a server.
function M.figures(group, number)
   local stats = ffi.new "struct tw_server_stats"
   if C.tw_group_stats(group, number, stats) ~= 0 then return nil, ffi.string(C.tw_error()) end
   return stats
end

--- A counter of the gate thread, by name.
function M.counter(name)
   local stats = ffi.new "struct tw_gate_stats"
   check(C.tw_gate_stats(0, stats))
   local i = 0
   while C.tw_gate_counter_name(i) ~= nil do
      if ffi.string(C.tw_gate_counter_name(i)) == name then return tonumber(stats.counter[i]) end
      i = i + 1
   end
end

--- Until a function returns something true; what it returned.
function M.eventually(fn, seconds)
   local until_when = now() + (seconds or PATIENCE)
   while true do
      local r = fn()
      if r or now() > until_when then return r end
      ffi.C.tw_posix_poll(nil, 0, 2)
   end
end

--- Start the gate with a listener for a service without functions and group 0.
function M.start(options, gates, memory_mb)
   check(C.tw_gates_start(gates or 1, nil))
   M.group(0, options)
   local service = ffi.new "struct tw_service_spec"
   service.name, service.transport, service.group = "up", C.TW_TRANSPORT_INLINE, 0
   service.memory_mb = memory_mb or 32
   service.whole_bytes = 1024 * 1024
   check(C.tw_gate_service(0, service))
   local listener = ffi.new "struct tw_listener_spec"
   listener.name, listener.protocol, listener.service = "up", C.TW_LISTEN_HTTP, 0
   M.port = M.unused()
   address(listener.address, M.port)
   listener.backlog, listener.connections, listener.head_bytes = 64, 1000, 16384
   listener.body_bytes = 2 ^ 30
   listener.idle_ms, listener.head_ms, listener.body_ms, listener.send_ms, listener.request_ms =
      30000, 10000, 10000, 10000, 30000
   check(C.tw_gate_listener(0, listener))
end

function M.stop()
   C.tw_gates_stop(0)
   C.tw_gate_group_remove(0)
end

--- A figure of the service.
function M.service(name)
   local stats = ffi.new "struct tw_service_stats"
   check(C.tw_service_stats(0, stats))
   return tonumber(stats[name])
end

--- Blocks of the service's pool that are in use.
function M.blocks() return M.service "pool_used" end

--- What a spec can do with a connected socket.
M.wrap = wrap

--- A connection to the gate, or to another port.
function M.client(port)
   return wrap(assert(net.connect("127.0.0.1", port or M.port)))
end

return M
