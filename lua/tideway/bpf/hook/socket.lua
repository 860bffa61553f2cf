-- SPDX-License-Identifier: BSD-3-Clause
-- The filter of one socket, and the program that picks a socket of its reuseport group. They end with
-- the socket.

local abi = require "tideway.abi"

local M = {}

local C = abi.C

--- Attaches.
---@param o table  { hook = "socket_filter" or "sk_reuseport", program =, socket = fd }
---@return table? state
---@return string? err
function M.attach(o)
   local reuseport = o.hook == "sk_reuseport"
   if not reuseport then
      local taken = C.tw_bpf_socket_taken(o.socket)
      if taken < 0 then return nil, abi.error() end
      if taken == 1 then
         return nil, ("socket %d has a filter, which is not ours; detach it first (SO_DETACH_FILTER)"):format(o.socket)
      end
   end
   if C.tw_bpf_socket_attach(o.socket, o.program.fd, reuseport) < 0 then return nil, abi.error() end
   return { socket = o.socket, reuseport = reuseport, target = ("socket %d"):format(o.socket) }
end

function M.replace(link, program)
   if C.tw_bpf_socket_attach(link.socket, program.fd, link.reuseport) < 0 then return nil, abi.error() end
   return true
end

function M.detach(link)
   if C.tw_bpf_socket_detach(link.socket, link.reuseport) < 0 then return nil, abi.error() end
   return true
end

--- The kernel does not tell what runs on a socket.
function M.info(link) return { program = link.program.id } end

return M
