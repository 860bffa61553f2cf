-- SPDX-License-Identifier: BSD-3-Clause
-- The small load of an audit: requests one after the other over one connection that is kept, each answer read whole.

local ffi = require "ffi"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {}

---@class tideway.audit.client
---@field fd integer?
---@field connections integer that were made
---@field payload integer bytes of bodies that came
---@field status table<integer, integer> answers by status
local Client = {}
Client.__index = Client

--- A client of a listener.
---@param host string
---@param port integer
---@param request string all bytes of a request
---@return tideway.audit.client
function M.new(host, port, request)
   return setmetatable({
      host = host, port = port, request = request, payload = 0, status = {}, connections = 0,
   }, Client)
end

local function receive(self, seconds)
   if not posix.poll({ self.fd }, seconds * 1000)[self.fd] then return nil, "no answer came" end
   local data, n = socket.receive(self.fd)
   if not data then return nil, n end
   if n == 0 then return nil, "the connection was closed" end
   return ffi.string(data, n)
end

-- All bytes of a chunked body that begins at a position; nil: more are to come.
local function chunked(text, at)
   local bytes = 0
   while true do
      local size, from = text:match("^(%x+)[^\r]*\r\n()", at)
      if not size then return nil end
      local n = tonumber(size, 16)
      if n == 0 then return text:find("\r\n", from, true) and bytes end
      at, bytes = from + n + 2, bytes + n
      if at > #text + 1 then return nil end
   end
end

-- One answer: its status and the bytes of its body.
local function read_answer(self)
   local text = ""
   while true do
      local piece, err = receive(self, 10)
      if not piece then return nil, err end
      text = text .. piece
      local _, head = text:find("\r\n\r\n", 1, true)
      if head then
         local lower = text:sub(1, head):lower()
         local status = tonumber(lower:match "^http/1%.%d (%d%d%d)")
         if not status then return nil, "what came is no HTTP" end
         local close = lower:find "\r\nconnection: close" ~= nil
         local length = tonumber(lower:match "\r\ncontent%-length: *(%d+)")
         if length and #text >= head + length then return status, length, close end
         if not length and (status == 204 or status == 304) then return status, 0, close end
         if lower:find "\r\ntransfer%-encoding: *chunked" then
            local bytes = chunked(text, head + 1)
            if bytes then return status, bytes, close end
         end
      end
   end
end

local function connect(self)
   local fd, err = net.connect(self.host, self.port)
   if not fd then return nil, err end
   self.fd, self.connections = fd, self.connections + 1
   return true
end

--- Send so many requests, one after the other.
---@param n integer
---@return boolean? ok
---@return string? err
function Client:run(n)
   for _ = 1, n do
      if not self.fd then
         local ok, err = connect(self)
         if not ok then return nil, err end
      end
      local sent, err = socket.send(self.fd, self.request, 0, true)
      if not sent then return nil, err end
      local status, bytes, close = read_answer(self)
      if not status then return nil, bytes end
      self.payload = self.payload + bytes
      self.status[status] = (self.status[status] or 0) + 1
      if close then self:close() end
   end
   return true
end

--- Close the connection.
function Client:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

return M
