-- SPDX-License-Identifier: BSD-3-Clause
-- Requests of an audit over one connection that is kept, and answers of HTTP, each read whole.

local clients = require "tideway.audit.client"

local M = {}

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

-- One answer: its status, the bytes of its body, and whether the connection ends.
local function read_answer(client)
   local text = ""
   while true do
      local piece, err = client:receive()
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

--- A client that asks for a path.
---@param host string
---@param port integer
---@param path string
---@return tideway.audit.client
function M.new(host, port, path)
   local request = ("GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: tideway-audit\r\n\r\n"):format(path, host, port)
   return clients.new(host, port, request, read_answer)
end

return M
