-- SPDX-License-Identifier: BSD-3-Clause
-- The small load of an audit in DNS: a query, what its answers are called, and queries over TCP, one after the other
-- over one connection.

local bit = require "bit"
local clients = require "tideway.audit.client"

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

local function read_answer(client)
   local text = ""
   while true do
      local high, low = text:byte(1, 2)
      if low and #text >= high * 256 + low + 2 then return M.kind(text:sub(3)), #text - 2 end
      local piece, err = client:receive()
      if not piece then return nil, err end
      text = text .. piece
   end
end

--- A client of a listener for TCP: the length stands in front of each message (RFC 7766).
---@param host string
---@param port integer
---@param query string
---@return tideway.audit.client
function M.stream(host, port, query)
   return clients.new(host, port, string.char(math.floor(#query / 256), #query % 256) .. query, read_answer)
end

return M
