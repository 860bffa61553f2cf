-- SPDX-License-Identifier: BSD-3-Clause
-- Socket look-up in a network namespace, by link. Links add up, and each may pick the socket.

local abi = require "tideway.abi"

local M = {}

local C = abi.C
local OWN = "/proc/self/ns/net"

function M.name_of(o) return o.netns or "self" end

--- Attaches.
---@param o table  { program =, netns = path?, our own when absent }
---@return table? state
---@return string? err
function M.attach(o)
   local path = o.netns or OWN
   local netns = C.tw_bpf_open_path(path)
   if netns < 0 then return nil, abi.error() end
   local fd = C.tw_bpf_link_create(o.program.fd, netns, C.TW_BPF_AT_SK_LOOKUP, 0)
   C.tw_bpf_close(netns)
   if fd < 0 then return nil, ("network namespace %s: %s"):format(path, abi.error()) end
   return { fd = fd, target = path }
end

--- The state for a link of an earlier run.
function M.opened(o, fd) return { fd = fd, target = o.netns or OWN } end

return M
