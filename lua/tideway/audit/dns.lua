-- SPDX-License-Identifier: BSD-3-Clause
-- The small load of an audit in DNS: a query, what its answers are called, and queries over TCP, one after the other
-- over one connection.

local bit = require "bit"
local ffi = require "ffi"
local net = require "tideway.posix.net"
local posix = require "tideway.posix"
local socket = require "tideway.posix.socket"

local M = {}

local RCODES = { [0] = "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED" }

--- A query for the IPv4 addresses of a name (RFC 1035 4.1); raises when it is none.
---@param name string
---@return string
function M.query(name)
   local encoded, text = "", name:gsub("%.$", "")
   for label in (text == "" and "" or text .. "."):gmatch "(.-)%." do
      if #label == 0 or #label > 63 then error(("%q is no name: %q cannot be a label"):format(name, label), 0) end
      encoded = encoded .. string.char(#label) .. label
   end
   encoded = encoded .. "\0"
   if #encoded > 255 then error(("%q is no name: it is too long"):format(name), 0) end
   return "\18\52\1\0\0\1\0\0\0\0\0\0" .. encoded .. "\0\1\0\1"
end

--- What an answer is called: by its response code.
---@param answer string
---@return string
function M.kind(answer)
   if #answer < 12 or answer:byte(3) < 128 then return "no DNS" end
   local rcode = answer:byte(4) % 16
   return (RCODES[rcode] or "RCODE " .. rcode) .. (bit.band(answer:byte(3), 2) ~= 0 and " (truncated)" or "")
end

---@class tideway.audit.dns as tideway.audit.client
local Client = {}
Client.__index = Client

--- A client of a listener for TCP.
---@param host string
---@param port integer
---@param query string
---@return tideway.audit.dns
function M.stream(host, port, query)
   return setmetatable({
      host = host, port = port, bytes = string.char(math.floor(#query / 256), #query % 256) .. query, payload = 0,
      status = {}, connections = 0,
   }, Client)
end

local function read_answer(self)
   local text = ""
   while true do
      local high, low = text:byte(1, 2)
      if low and #text >= high * 256 + low + 2 then return text:sub(3) end
      if not posix.poll({ self.fd }, 10000)[self.fd] then return nil, "no answer came" end
      local data, n = socket.receive(self.fd)
      if not data then return nil, n end
      if n == 0 then return nil, "the connection was closed" end
      text = text .. ffi.string(data, n)
   end
end

local function one(self)
   local err
   if not self.fd then
      self.fd, err = net.connect(self.host, self.port)
      if not self.fd then return nil, err end
      self.connections = self.connections + 1
   end
   local sent, answer
   sent, err = socket.send(self.fd, self.bytes, 0, true)
   if not sent then return nil, err end
   answer, err = read_answer(self)
   if not answer then return nil, err end
   local kind = M.kind(answer)
   self.payload, self.status[kind] = self.payload + #answer, (self.status[kind] or 0) + 1
   return true
end

--- Send so many queries, one after the other.
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

--- Close the connection.
function Client:close()
   if self.fd then posix.close(self.fd) end
   self.fd = nil
end

return M
