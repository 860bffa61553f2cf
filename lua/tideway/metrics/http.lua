-- SPDX-License-Identifier: BSD-3-Clause
-- A small HTTP/1.1 server on the control thread's loop: GET of a few paths, one request a connection.
--
-- Nothing here waits and everything is bounded: clients, the bytes of a request, the time a client may take.

local loop = require "tideway.loop"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {
   --- Clients at a time; the one that has been there longest goes when another comes.
   CLIENTS_MAX = 16,
   --- Bytes of a request, its head.
   REQUEST_MAX = 8192,
   --- Seconds from the connection to the last byte of the answer.
   TIME_MAX = 5,
}

---@class tideway.metrics.server
---@field fd integer
---@field clients table<integer, table> by descriptor
---@field count integer
---@field answer fun(path: string): integer, string, string status, content type, body
local Server = {}
Server.__index = Server

local REASONS = {
   [200] = "OK", [400] = "Bad Request", [404] = "Not Found", [405] = "Method Not Allowed", [408] = "Request Timeout",
   [431] = "Request Header Fields Too Large", [500] = "Internal Server Error", [505] = "HTTP Version Not Supported",
}

local function response(status, content_type, body, without_body)
   local allow = status == 405 and "Allow: GET, HEAD\r\n" or ""
   return ("HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s"):format(status,
      REASONS[status], content_type, #body, allow, without_body and "" or body)
end

local function refusal(status, sentence) return response(status, "text/plain; charset=utf-8", sentence .. "\n") end

function Server:drop(fd)
   if not self.clients[fd] then return end
   loop.unwatch(fd)
   posix.close(fd)
   self.clients[fd], self.count = nil, self.count - 1
end

function Server:flush(fd)
   local client = self.clients[fd]
   local sent, _, errno = socket.send(fd, client.out, client.sent)
   if not sent then
      if errno ~= socket.EAGAIN then self:drop(fd) end
      return
   end
   client.sent = client.sent + sent
   if client.sent < #client.out then return end
   self:drop(fd)
end

function Server:reply(fd, text)
   local client = self.clients[fd]
   client.out, client.sent, client.input = text, 0, nil
   loop.watch(fd, "w", function() self:flush(fd) end)
   self:flush(fd)
end

-- The answer to the head of a request.
function Server:respond(head)
   local method, target, version = head:match "^(%u+) (%S+) HTTP/(%d%.%d)\r?\n"
   if not method then return refusal(400, "this is no HTTP request; GET /metrics HTTP/1.1 is one") end
   if version ~= "1.1" and version ~= "1.0" then return refusal(505, "HTTP/1.1 and 1.0 are spoken here") end
   if method ~= "GET" and method ~= "HEAD" then
      return refusal(405, ("%s is not possible, GET and HEAD are"):format(method))
   end
   local ok, status, content_type, body = pcall(self.answer, target:gsub("%?.*$", ""))
   if not ok then return refusal(500, tostring(status)) end
   return response(status, content_type, body, method == "HEAD")
end

function Server:receive(fd)
   local client = self.clients[fd]
   local bytes, count, errno = socket.receive(fd)
   if not bytes then
      if errno ~= socket.EAGAIN then self:drop(fd) end
      return
   end
   if count == 0 then return self:drop(fd) end
   client.input = client.input .. require("ffi").string(bytes, math.min(count, M.REQUEST_MAX + 1))
   if client.input:find "\r?\n\r?\n" then
      self:reply(fd, self:respond(client.input))
   elseif #client.input > M.REQUEST_MAX then
      self:reply(fd, refusal(431, ("the head of a request has at most %d bytes here"):format(M.REQUEST_MAX)))
   end
end

function Server:oldest()
   local oldest
   for fd, client in pairs(self.clients) do
      if not oldest or client.since < self.clients[oldest].since then oldest = fd end
   end
   return oldest
end

function Server:accept()
   for _ = 1, M.CLIENTS_MAX do
      local fd = socket.accept(self.fd)
      if not fd then return end
      if self.count == M.CLIENTS_MAX then self:drop(self:oldest()) end
      self.clients[fd], self.count = { input = "", since = posix.now() }, self.count + 1
      loop.watch(fd, "r", function() self:receive(fd) end)
   end
end

-- Ends clients that take too long.
function Server:tidy()
   local limit = posix.now() - M.TIME_MAX * 1e9
   for fd, client in pairs(self.clients) do
      if client.since < limit then
         if client.input then socket.send(fd, refusal(408, "the request took too long"), 0) end
         self:drop(fd)
      end
   end
end

--- Serve a socket that listens.
---@param fd integer
---@param answer fun(path: string): integer, string, string status, content type, body
---@return tideway.metrics.server
function M.serve(fd, answer)
   local server = setmetatable({ fd = fd, clients = {}, count = 0, answer = answer }, Server)
   loop.watch(fd, "r", function() server:accept() end)
   server.timer = loop.every(1, function() server:tidy() end)
   return server
end

--- End it and its clients.
function Server:close()
   loop.cancel(self.timer)
   for fd in pairs(self.clients) do self:drop(fd) end
   loop.unwatch(self.fd)
   posix.close(self.fd)
end

return M
