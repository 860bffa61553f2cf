-- SPDX-License-Identifier: BSD-3-Clause
-- What a running engine gives up: which capabilities it keeps and why; what a process has, for doctor.

local bit = require "bit"
local abi = require "tideway.abi"
local model = require "tideway.model"
local options = require "tideway.options"

local C = abi.C
local M = {}

---@class tideway.privilege.capability
---@field name string
---@field bit integer capabilities(7)
---@field needs string[] any of these makes it needed
---@field why string

-- What an engine that runs may need. "interface": a port stands for a network interface of the kernel, "af_xdp": an
-- AF_XDP port, "hooks": chains in the kernel, "sk_msg": workers that programs of the kernel wake, "open": ports, hooks
-- and tables may still be added, "gate_open": and there are listeners.
---@type tideway.privilege.capability[]
M.CAPABILITIES = {
   {
      name = "CAP_NET_ADMIN", bit = 12, needs = { "interface", "hooks", "sk_msg", "open" },
      why = "to attach and detach programs of XDP, TC and routes; to set promiscuous mode; for sockmaps of workers",
   },
   {
      name = "CAP_NET_BIND_SERVICE", bit = 10, needs = { "gate_open" }, why = "for new listeners at ports below 1024",
   },
   { name = "CAP_NET_RAW", bit = 13, needs = { "open" }, why = "for packet and AF_XDP sockets of new ports" },
   { name = "CAP_IPC_LOCK", bit = 14, needs = { "open" }, why = "to lock the memory of new AF_XDP ports" },
   { name = "CAP_PERFMON", bit = 38, needs = { "open" }, why = "for new programs that compute with pointers" },
   {
      name = "CAP_BPF", bit = 39, needs = { "af_xdp", "hooks", "sk_msg", "open" },
      why = "for programs and maps in the kernel",
   },
}

--- What the model needs of the kernel while it runs.
---@param mode "drop"|"least"
---@return table<string, boolean>
function M.needs(mode)
   local needs = { open = mode == "drop" }
   for _, port in ipairs(model.ports) do
      if port.iface then needs.interface = true end
      if port.opened and port.devargs:find "^net_af_xdp" then needs.af_xdp = true end
   end
   for _, chain in ipairs(model.chains) do needs.hooks = needs.hooks or chain.place ~= nil end
   for _, service in ipairs(model.services) do
      needs.sk_msg = needs.sk_msg or service.pinned.worker == "sk_msg"
      needs.gate_open = needs.open
   end
   return needs
end

local function wanted(capability, needs)
   for _, need in ipairs(capability.needs) do
      if needs[need] then return true end
   end
   return false
end

--- The capabilities that an engine with such needs keeps.
---@param needs table<string, boolean>
---@return tideway.privilege.capability[]
function M.kept(needs)
   local list = {}
   for _, capability in ipairs(M.CAPABILITIES) do
      if wanted(capability, needs) then list[#list + 1] = capability end
   end
   return list
end

local function mask_of(list)
   local mask = 0ULL
   for _, capability in ipairs(list) do mask = bit.bor(mask, bit.lshift(1ULL, capability.bit)) end
   return mask
end

--- Give up what the running engine does not need. There is no way back.
---@return string line what was done
function M.drop()
   if options.privileges == "keep" then return "privileges: kept, as asked" end
   local needs = M.needs(options.privileges)
   local calls = 0
   if needs.open then calls = bit.bor(calls, C.TW_CALLS_OPEN) end
   if needs.open or needs.hooks or needs.af_xdp or needs.sk_msg then calls = bit.bor(calls, C.TW_CALLS_BPF) end
   if C.tw_privileges_drop(mask_of(M.kept(needs)), calls) < 0 then
      error(("%s; --privileges keep runs without giving any up"):format(abi.error()), 0)
   end
   return ("privileges: %s; no new ones; %d system calls"):format(M.words(M.names(C.tw_privileges_capabilities())),
      C.tw_privileges_calls())
end

--- Names of capabilities, those that no engine keeps as numbers.
---@param mask integer|ffi.cdata* bit per capability
---@return string[]
function M.names(mask)
   local known, list = {}, {}
   for _, capability in ipairs(M.CAPABILITIES) do known[capability.bit] = capability.name end
   for n = 0, 63 do
      if bit.band(mask, bit.lshift(1ULL, n)) ~= 0 then list[#list + 1] = known[n] or "capability " .. n end
   end
   return list
end

--- Those names in one line.
---@param names string[]
---@return string
function M.words(names)
   local most = #M.CAPABILITIES
   if #names == 0 then return "no capability" end
   if #names <= most then return table.concat(names, " ") end
   return ("%d capabilities"):format(#names)
end

---@class tideway.privilege.state
---@field threads integer
---@field capabilities ffi.cdata* uint64_t, bit per capability that any of its threads may use
---@field no_new boolean no thread can get more by running a program
---@field filtered boolean every thread's system calls are filtered

local function number(hex) return loadstring(("return 0x%sULL"):format(hex:match "^%x+$"))() end

--- What a process may do, all its threads together.
---@param pid integer
---@param read fun(path: string): string?
---@param list fun(dir: string): string[]
---@return tideway.privilege.state? state nil when there is no such process
function M.state(pid, read, list)
   local dir = ("/proc/%d/task"):format(pid)
   local state = { threads = 0, capabilities = 0ULL, no_new = true, filtered = true }
   for _, tid in ipairs(list(dir)) do
      local status = read(("%s/%s/status"):format(dir, tid))
      local has = status and status:match "CapPrm:%s*(%x+)"
      if has then
         state.threads = state.threads + 1
         state.capabilities = bit.bor(state.capabilities, number(has))
         state.no_new = state.no_new and status:match "NoNewPrivs:%s*(%d)" == "1"
         state.filtered = state.filtered and status:match "Seccomp:%s*(%d)" == "2"
      end
   end
   return state.threads > 0 and state or nil
end

return M
