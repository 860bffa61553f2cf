-- SPDX-License-Identifier: BSD-3-Clause
-- Lightweight tunnels: a route of ours that runs a program on the packets it takes. The kernel keeps
-- the route when the process goes.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"

local M = {}

local C = abi.C
local EEXIST = -17
local MAIN_TABLE = 254

local hook_numbers = { lwt_in = C.TW_BPF_ROUTE_IN, lwt_out = C.TW_BPF_ROUTE_OUT, lwt_xmit = C.TW_BPF_ROUTE_XMIT }

function M.name_of(o) return ("%s-%d-%d"):format(o.to, o.table or MAIN_TABLE, o.metric or 0) end

-- The kernel takes two routes for the same when the names of their programs are: so the id is part of it.
local function label(program) return ("%s#%d"):format(program.name:sub(1, 32), program.id) end

-- An address or prefix in network order, and the length of the prefix.
local function store(text, family, bytes)
   local length, host = ffi.new "uint32_t[1]", ffi.new "uint32_t[4]"
   if C.tw_prefix_parse(text, family, host, length) < 0 then return nil, abi.error() end
   if family == 4 then ffi.cast("int32_t *", host)[0] = bit.bswap(ffi.cast("int32_t *", host)[0]) end
   ffi.copy(bytes, host, family == 4 and 4 or 16)
   return length[0]
end

local function state_of(o)
   local family = tostring(o.to):find(":", 1, true) and 6 or 4
   local route = ffi.new("struct tw_bpf_route", {
      family = family, table = o.table or MAIN_TABLE, metric = o.metric or 0, hook = hook_numbers[o.hook],
      headroom = o.headroom or 0, name = label(o.program),
   })
   local length, err = store(o.to, family, route.destination)
   if not length then return nil, err end
   route.length = length
   if o.via then
      local ok
      ok, err = store(o.via, family, route.gateway)
      if not ok then return nil, err end
      route.has_gateway = 1
   end
   if o.interface then
      route.ifindex = C.tw_bpf_ifindex(o.interface)
      if route.ifindex > 2 ^ 31 then return nil, abi.error() end
   end
   return { route = route, target = ("route to %s"):format(o.to) }
end

--- Attaches: adds the route.
---@param o table  { hook =, program =, to = prefix, via = address?, interface =?, table = 254, metric = 0,
---  headroom = bytes that lwt_xmit may add }
---@return table? state
---@return string? err
function M.attach(o)
   local state, err = state_of(o)
   if not state then return nil, err end
   local rc = C.tw_bpf_route_attach(state.route, o.program.fd, false)
   if rc == EEXIST then
      return nil, ("there is a route to %s of this metric, which is not ours; give another metric or table")
         :format(o.to)
   end
   if rc < 0 then return nil, abi.error() end
   return state
end

--- The state for a route of an earlier run; one that has gone meanwhile, as routes do with their interface,
--- is there again.
function M.adopt(o)
   local state, err = state_of(o)
   if not state then return nil, err end
   local rc = C.tw_bpf_route_attach(state.route, o.program.fd, false)
   if rc < 0 and rc ~= EEXIST then return nil, abi.error() end
   return state
end

function M.replace(link, program)
   link.route.name = label(program)
   if C.tw_bpf_route_attach(link.route, program.fd, true) < 0 then return nil, abi.error() end
   return true
end

function M.detach(link)
   if C.tw_bpf_route_detach(link.route) < 0 then return nil, abi.error() end
   return true
end

--- The kernel does not tell the program's id, only its name.
function M.info(link) return { program = link.program.id } end

return M
