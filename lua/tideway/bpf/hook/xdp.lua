-- SPDX-License-Identifier: BSD-3-Clause
-- The XDP hook of an interface, by link: the kernel refuses to put a link where a program is, so
-- nobody's is replaced but our own.

local ffi = require "ffi"
local abi = require "tideway.abi"
local other = require "tideway.bpf.hook.other"

local M = {}

local C = abi.C
local EBUSY, EEXIST = -16, -17

local flags = { native = C.TW_BPF_XDP_NATIVE, generic = C.TW_BPF_XDP_GENERIC, offload = C.TW_BPF_XDP_OFFLOAD }

--- What a pin of it is called after.
function M.name_of(o) return o.interface end

--- What runs on an interface now.
---@param ifindex integer
---@return table? state  { native = program id, generic =, offload = }, those that are there
---@return string? err
function M.query(ifindex)
   local state = ffi.new "struct tw_bpf_xdp_state"
   if C.tw_bpf_xdp_query(ifindex, state) < 0 then return nil, abi.error() end
   local found = {}
   for mode in pairs(flags) do
      if state[mode] ~= 0 then found[mode] = state[mode] end
   end
   return found
end

-- Why the interface cannot be had: whose program runs there, and how it goes away.
local function busy(name, ifindex)
   local mode, id = next(M.query(ifindex) or {})
   if mode then
      local link = other.link_of(function(info) return info.ifindex == ifindex and info.program == id end)
      local remedy = link and ("it is held by BPF link %d; stop what made it, or: bpftool link detach id %d"):format(
         link, link) or ("stop what attached it, or if nothing needs it: ip link set dev %s xdp off"):format(name)
      return ("interface %s already runs %s in %s mode, which is not ours; %s"):format(name, other.program(id), mode,
         remedy)
   end
   return ("interface %s is taken by another XDP program"):format(name)
end

local function create(o, mode)
   return C.tw_bpf_link_create(o.program.fd, o.ifindex, C.TW_BPF_AT_XDP, flags[mode])
end

local no_mode = "interface %s cannot run XDP in %s mode (%s)%s"
local advice = {
   native = "; mode = \"auto\" falls back to generic, which is slower",
   offload = "; few network cards can",
   generic = "",
}

--- Attaches. auto: native where the driver can, else generic.
---@param o table  { program =, interface = name, mode = "auto" }
---@return table? state  { fd =, mode = what was got, target = }
---@return string? err
function M.attach(o)
   local ifindex = C.tw_bpf_ifindex(o.interface)
   if ifindex < 0 then return nil, abi.error() end
   local wanted = o.mode or "auto"
   if wanted ~= "auto" and not flags[wanted] then
      return nil, ("XDP mode is %s, not auto, native, generic or offload"):format(tostring(wanted))
   end
   local try = { program = o.program, ifindex = ifindex }
   local mode = wanted == "auto" and "native" or wanted
   local fd = create(try, mode)
   local fell_back
   if wanted == "auto" and fd < 0 and fd ~= EBUSY and fd ~= EEXIST then
      -- A driver without XDP, or one that cannot as it is set up now (MTU, queues, offloads).
      mode, fell_back = "generic", abi.error()
      fd = create(try, mode)
   end
   if fd >= 0 then
      return { fd = fd, mode = mode, fell_back = fell_back, ifindex = ifindex, target = o.interface }
   end
   if fd == EBUSY or fd == EEXIST then return nil, busy(o.interface, ifindex) end
   return nil, no_mode:format(o.interface, mode, abi.error(), advice[mode])
end

--- The state for a link of an earlier run; nil when its interface has gone.
function M.opened(o, fd, info)
   local ifindex = C.tw_bpf_ifindex(o.interface)
   if info.ifindex == 0 or ifindex < 0 then return nil end
   if info.ifindex ~= ifindex then
      return nil, ("its pinned link is on interface %d, %s is %d; remove the pin, or another instance's name"):format(
         info.ifindex, o.interface, ifindex)
   end
   local mode
   for m, id in pairs(M.query(ifindex) or {}) do
      if id == info.program then mode = m end
   end
   return { fd = fd, mode = mode, ifindex = ifindex, target = o.interface }
end

return M
