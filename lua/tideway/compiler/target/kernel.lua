-- SPDX-License-Identifier: BSD-3-Clause
-- The kernel's hooks as places for programs: what the context has where, which fields may be read and written,
-- which helpers may be called. Fields and helpers were measured by offering programs to Linux 6.18's verifier.

local helpers = require "tideway.compiler.target.helpers"

local M = {}

---@class tideway.kernel.field
---@field off integer
---@field bits integer
---@field write boolean
---@field ptr boolean? a pointer; "data" and "data_end" into the packet, others into the kernel
---@field type string of the IR
---@field attach string? only programs with this attach type have it

---@class tideway.kernel.target
---@field name string the hook, and the name of its program type
---@field attach string[] attach types
---@field fields table<string, tideway.kernel.field>
---@field packet boolean has data and data_end: packet bytes can be reached directly
---@field writable boolean packet bytes may be written
---@field length string? the context field with the frame's length; nil: data_end - data
---@field starts "l2"|"l3"|"l4"|"payload"|nil what lies at data
local Target = {}
Target.__index = Target

-- ---- contexts ----

local POINTERS = { data = true, data_end = true, data_meta = true, sk = true, migrating_sk = true, flow_keys = true }

-- Fields from a text of name:bits or name*count:bits, laid out as C does it. Elements of arrays are name0, name1...
local function layout(text)
   local fields, off = {}, 0
   local function add(name, bits)
      off = math.ceil(off / (bits / 8)) * (bits / 8)
      local ptr = POINTERS[name]
      fields[name] = { off = off, bits = bits, write = false, ptr = ptr,
         type = ptr and "ptr" or bits == 64 and "u64" or "num" }
      off = off + bits / 8
   end
   for name, count, bits in text:gmatch "([%w_]+)%*?(%d*):(%d+)" do
      if count == "" then add(name, tonumber(bits)) end
      for i = 0, (tonumber(count) or 0) - 1 do add(name .. i, tonumber(bits)) end
   end
   return fields
end

local XDP = "data:32 data_end:32 data_meta:32 ingress_ifindex:32 rx_queue_index:32 egress_ifindex:32"

local SKB = [[ len:32 pkt_type:32 mark:32 queue_mapping:32 protocol:32 vlan_present:32 vlan_tci:32 vlan_proto:32
   priority:32 ingress_ifindex:32 ifindex:32 tc_index:32 cb*5:32 hash:32 tc_classid:32 data:32 data_end:32 napi_id:32
   family:32 remote_ip4:32 local_ip4:32 remote_ip6_*4:32 local_ip6_*4:32 remote_port:32 local_port:32 data_meta:32
   flow_keys:64 tstamp:64 wire_len:32 gso_segs:32 sk:64 gso_size:32 tstamp_type:8 hwtstamp:64 ]]

local SK_MSG = [[ data:64 data_end:64 family:32 remote_ip4:32 local_ip4:32 remote_ip6_*4:32 local_ip6_*4:32
   remote_port:32 local_port:32 size:32 sk:64 ]]

local SK_LOOKUP = [[ sk:64 family:32 protocol:32 remote_ip4:32 remote_ip6_*4:32 remote_port:16 pad:16 local_ip4:32
   local_ip6_*4:32 local_port:32 ingress_ifindex:32 ]]

local SK_REUSEPORT = [[ data:64 data_end:64 len:32 eth_protocol:32 ip_protocol:32 bind_inany:32 hash:32 sk:64
   migrating_sk:64 ]]

local SOCKET_FIELDS = "family remote_ip4 local_ip4 remote_ip6_* local_ip6_* remote_port local_port"

-- ---- hooks ----

-- The fields of a list of names; a name that ends in * stands for an array.
local function matching(fields, names)
   local found = {}
   for name in names:gmatch "%S+" do
      local stem = name:match "^(.*)%*$"
      for field in pairs(fields) do
         if field == name or (stem and field:sub(1, #stem) == stem and tonumber(field:sub(#stem + 1))) then
            found[#found + 1] = field
         end
      end
   end
   return found
end

-- A hook: its context less the fields that its programs may not read, and those that they may write.
local function hook(name, context, less, write, more)
   local target = setmetatable(more, Target)
   target.name, target.fields = name, layout(context)
   for _, field in ipairs(matching(target.fields, less)) do target.fields[field] = nil end
   for _, field in ipairs(matching(target.fields, write)) do target.fields[field].write = true end
   target.packet = target.fields.data ~= nil
   return target
end

local LWT_LESS = "tc_classid data_meta flow_keys tstamp wire_len tstamp_type hwtstamp " .. SOCKET_FIELDS

local HOOKS = {
   hook("xdp", XDP, "", "", { attach = { "xdp", "xdp_devmap", "xdp_cpumap" }, writable = true, starts = "l2" }),
   hook("tc", SKB, "flow_keys " .. SOCKET_FIELDS,
      "mark queue_mapping priority tc_index cb* tc_classid tstamp",
      { attach = { "tcx_ingress", "tcx_egress" }, writable = true, length = "len", starts = "l2" }),
   hook("socket_filter", SKB,
      "tc_classid data data_end data_meta flow_keys tstamp wire_len tstamp_type hwtstamp " .. SOCKET_FIELDS,
      "cb*", { attach = {}, writable = false, length = "len" }),
   hook("cgroup_skb", SKB, "tc_classid data_meta flow_keys wire_len tstamp_type", "mark priority cb* tstamp",
      { attach = { "cgroup_ingress", "cgroup_egress" }, writable = false, length = "len", starts = "l3" }),
   hook("sk_skb", SKB, "mark tc_classid data_meta flow_keys tstamp wire_len tstamp_type hwtstamp",
      "priority tc_index",
      { attach = { "stream_verdict", "stream_parser", "verdict" }, writable = true, length = "len",
         starts = "payload" }),
   hook("sk_msg", SK_MSG, "", "", { attach = { "sk_msg" }, writable = true, length = "size", starts = "payload" }),
   hook("sk_lookup", SK_LOOKUP, "pad", "", { attach = { "sk_lookup" }, writable = false }),
   hook("sk_reuseport", SK_REUSEPORT, "", "",
      { attach = { "reuseport_select", "reuseport_migrate" }, writable = false, length = "len", starts = "l4" }),
   hook("lwt_in", SKB, LWT_LESS, "mark priority cb*",
      { attach = {}, writable = false, length = "len", starts = "l3" }),
   hook("lwt_out", SKB, LWT_LESS, "mark priority cb*",
      { attach = {}, writable = false, length = "len", starts = "l3" }),
   hook("lwt_xmit", SKB, LWT_LESS, "mark priority cb*",
      { attach = {}, writable = true, length = "len", starts = "l3" }),
}

--- Hooks by name.
---@type table<string, tideway.kernel.target>
M.hooks = {}
for _, target in ipairs(HOOKS) do M.hooks[target.name] = target end

M.hooks.xdp.fields.egress_ifindex.attach = "xdp_devmap"
M.hooks.sk_lookup.fields.cookie = { off = 0, bits = 64, write = false, type = "u64" }

--- A hook by name; raises when there is none.
---@return tideway.kernel.target
function M.hook(name)
   return M.hooks[name] or error(("the kernel has no hook '%s'"):format(tostring(name)), 2)
end

-- ---- questions ----

--- Number of a helper that programs of this hook may call, else nil.
---@param name string without bpf_
function Target:helper(name)
   local types = helpers.types[name]
   return types and types[self.name] and helpers.id[name] or nil
end

--- Where a helper that is not here may be called, as a sentence.
---@return string?
function Target:helper_hint(name)
   local types = helpers.types[name]
   if not types then return nil end
   local names = {}
   for type in pairs(types) do names[#names + 1] = type end
   table.sort(names)
   return ("%s is there on %s"):format(name, table.concat(names, ", "))
end

--- The names of the context's fields, as a sentence.
---@return string
function Target:fields_hint()
   local names = {}
   for field in pairs(self.fields) do names[#names + 1] = field end
   table.sort(names)
   return "its fields are " .. table.concat(names, ", ")
end

return M
