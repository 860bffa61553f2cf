-- SPDX-License-Identifier: BSD-3-Clause
-- The small load of an audit: the same bytes again and again over one socket, each time when the answer to those before
-- has been read.

local ffi = require "ffi"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {}

local WAIT_MS = 10000

---@class tideway.audit.client
---@field fd integer?
---@field connections integer that were made, or sockets of datagrams
---@field payload integer bytes that came, without heads
---@field status table<string|integer, integer> answers by what they are called
local Client = {}
Client.__index = Client

--- A client of a listener.
---@param host string
---@param port integer
---@param bytes string what is sent each time
---@param read fun(client: tideway.audit.client): string|integer|nil, integer|string?, boolean? reads an answer: what it
--- is called, its bytes, whether the socket is to be closed; or nil and an error
---@param datagrams? boolean
---@return tideway.audit.client
function M.new(host, port, bytes, read, datagrams)
   return setmetatable({
      host = host, port = port, bytes = bytes, read = read, datagrams = datagrams, payload = 0, status = {},
      connections = 0,
   }, Client)
end

--- What comes next.
---@param ms? integer how long it is waited for
---@return string? bytes
---@return string? err
---@return boolean? late nothing came
function Client:receive(ms)
   if not posix.poll({ self.fd }, ms or WAIT_MS)[self.fd] then return nil, "no answer came", true end
   local data, n = socket.receive(self.fd)
   if not data then return nil, n end
   if n == 0 and not self.datagrams then return nil, "the connection was closed" end
   return ffi.string(data, n)
end

local function one(self)
   local err
   if not self.fd then
      self.fd, err = net.connect(self.host, self.port, self.datagrams)
      if not self.fd then return nil, err end
      self.connections = self.connections + 1
   end
   local sent
   sent, err = socket.send(self.fd, self.bytes, 0, not self.datagrams)
   if not sent then return nil, err end
   local what, bytes, close = self:read()
   if not what then return nil, bytes end
   self.payload, self.status[what] = self.payload + bytes, (self.status[what] or 0) + 1
   if close then self:close() end
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
