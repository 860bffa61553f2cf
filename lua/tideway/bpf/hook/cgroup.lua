-- SPDX-License-Identifier: BSD-3-Clause
-- Packets of a cgroup's sockets, in and out, by link. Links add up: everybody's programs run.

local abi = require "tideway.abi"

local M = {}

local C = abi.C
local EBADF = -9

local attach_types = { cgroup_ingress = C.TW_BPF_AT_CGROUP_INGRESS, cgroup_egress = C.TW_BPF_AT_CGROUP_EGRESS }

function M.name_of(o) return o.cgroup end

--- Attaches.
---@param o table  { hook =, program =, cgroup = path of its directory in cgroup2 }
---@return table? state
---@return string? err
function M.attach(o)
   local cgroup = C.tw_bpf_open_path(o.cgroup)
   if cgroup < 0 then return nil, abi.error() end
   local fd = C.tw_bpf_link_create(o.program.fd, cgroup, attach_types[o.hook], 0)
   C.tw_bpf_close(cgroup)
   if fd == EBADF then
      return nil, ("%s is no directory of cgroup2, which programs need; where that is: findmnt -t cgroup2"):format(
         o.cgroup)
   end
   if fd < 0 then return nil, ("cgroup %s: %s"):format(o.cgroup, abi.error()) end
   return { fd = fd, target = o.cgroup }
end

--- The state for a link of an earlier run; nil when its cgroup has gone.
function M.opened(o, fd, info)
   if info.cgroup == 0 then return nil end
   return { fd = fd, target = o.cgroup }
end

return M
