-- SPDX-License-Identifier: BSD-3-Clause
-- Datagrams of an audit, each sent when the one before was answered.

local clients = require "tideway.audit.client"

local M = {}

local WAIT_MS = 1000
local LOST_MAX = 5

--- A client of a listener.
---@param host string
---@param port integer
---@param bytes string what each datagram says
---@param kind? fun(answer: string): string what an answer is called; default "answered"
---@return tideway.audit.client
function M.new(host, port, bytes, kind)
   local lost = 0
   return clients.new(host, port, bytes, function(client)
      local answer, err, late = client:receive(WAIT_MS)
      if answer then return kind and kind(answer) or "answered", #answer end
      if not late then return nil, err end
      lost = lost + 1
      if lost > LOST_MAX then
         return nil, ("%d datagrams were not answered within %d ms each; what is sent must be something that the chain "
            .. "and its servers answer (--dns, --send)"):format(lost, WAIT_MS)
      end
      return "not answered", 0, true -- one that comes later finds nobody: the next datagram has another port
   end, true)
end

return M
