-- SPDX-License-Identifier: BSD-3-Clause
-- The small load of an audit over UDP: datagrams one after the other, each sent when the one before was answered.

local ffi = require "ffi"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {}

local WAIT_MS = 1000
local LOST_MAX = 5

---@class tideway.audit.datagrams
---@field fd integer?
---@field connections integer sockets that were opened
---@field payload integer bytes of answers
---@field status table<string, integer> datagrams by what became of them
local Client = {}
Client.__index = Client

--- A client of a listener.
---@param host string
---@param port integer
---@param bytes string what each datagram says
---@param kind? fun(answer: string): string what an answer is called; default "answered"
---@return tideway.audit.datagrams
function M.new(host, port, bytes, kind)
   return setmetatable({
      host = host, port = port, bytes = bytes, kind = kind, payload = 0, status = {}, connections = 0, lost = 0,
   }, Client)
end

local function count(self, what) self.status[what] = (self.status[what] or 0) + 1 end

-- An answer that comes later finds nobody: the next datagram has another port.
local function give_up(self)
   self.lost = self.lost + 1
   count(self, "not answered")
   self:close()
   if self.lost > LOST_MAX then
      return nil, ("%d datagrams were not answered within %d ms each; what is sent must be something that the chain "
         .. "and its servers answer (--dns, --send)"):format(self.lost, WAIT_MS)
   end
   return true
end

local function one(self)
   local err
   if not self.fd then
      self.fd, err = net.connect(self.host, self.port, true)
      if not self.fd then return nil, err end
      self.connections = self.connections + 1
   end
   local sent
   sent, err = socket.send(self.fd, self.bytes, 0)
   if not sent then return nil, err end
   if not posix.poll({ self.fd }, WAIT_MS)[self.fd] then return give_up(self) end
   local data, n = socket.receive(self.fd)
   if not data then return nil, n end
   self.payload = self.payload + n
   count(self, self.kind and self.kind(ffi.string(data, n)) or "answered")
   return true
end

--- Send so many, one after the other.
---@param n integer
---@return boolean? ok
---@return string? err
function Client:run(n)
   for _ = 1, n do
      local ok, err = one(self)
      if not ok then return nil, err end
   end
   return true
end

--- Close the socket.
function Client:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

return M
