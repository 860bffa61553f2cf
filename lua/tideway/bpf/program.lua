-- SPDX-License-Identifier: BSD-3-Clause
-- Programs in the kernel: load with BTF and lines of Lua, what the kernel made of them, test runs.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local btf = require "tideway.bpf.btf"

local M = {}

local C = abi.C
local E2BIG, ENOSPC = -7, -28
local LOG_FIRST = 256 * 1024
local LDDW, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE = 0x18, 1, 2

--- Program types: number in the kernel, name of the context structure, default attach type.
local types = {
   xdp = { C.TW_BPF_XDP, "xdp_md", C.TW_BPF_AT_XDP },
   tc = { C.TW_BPF_SCHED_CLS, "__sk_buff" },
   socket_filter = { C.TW_BPF_SOCKET_FILTER, "__sk_buff" },
   cgroup_skb = { C.TW_BPF_CGROUP_SKB, "__sk_buff", C.TW_BPF_AT_CGROUP_INGRESS },
   lwt_in = { C.TW_BPF_LWT_IN, "__sk_buff" },
   lwt_out = { C.TW_BPF_LWT_OUT, "__sk_buff" },
   lwt_xmit = { C.TW_BPF_LWT_XMIT, "__sk_buff" },
   sk_skb = { C.TW_BPF_SK_SKB, "__sk_buff", C.TW_BPF_AT_STREAM_VERDICT },
   sk_msg = { C.TW_BPF_SK_MSG, "sk_msg_md", C.TW_BPF_AT_SK_MSG_VERDICT },
   sk_lookup = { C.TW_BPF_SK_LOOKUP, "bpf_sk_lookup", C.TW_BPF_AT_SK_LOOKUP },
   sk_reuseport = { C.TW_BPF_SK_REUSEPORT, "sk_reuseport_md", C.TW_BPF_AT_REUSEPORT_SELECT },
   flow_dissector = { C.TW_BPF_FLOW_DISSECTOR, "__sk_buff" },
   sock_ops = { C.TW_BPF_SOCK_OPS, "bpf_sock_ops" },
}
M.types = types

--- Attach types by name, where a program type has several.
M.attach_types = {
   xdp = C.TW_BPF_AT_XDP, xdp_devmap = C.TW_BPF_AT_XDP_DEVMAP, xdp_cpumap = C.TW_BPF_AT_XDP_CPUMAP,
   cgroup_ingress = C.TW_BPF_AT_CGROUP_INGRESS, cgroup_egress = C.TW_BPF_AT_CGROUP_EGRESS,
   stream_parser = C.TW_BPF_AT_STREAM_PARSER, stream_verdict = C.TW_BPF_AT_STREAM_VERDICT,
   verdict = C.TW_BPF_AT_SK_SKB_VERDICT, sk_msg = C.TW_BPF_AT_SK_MSG_VERDICT,
   sk_lookup = C.TW_BPF_AT_SK_LOOKUP, reuseport_select = C.TW_BPF_AT_REUSEPORT_SELECT,
   reuseport_migrate = C.TW_BPF_AT_REUSEPORT_MIGRATE,
}

local type_names = {}
for name, t in pairs(types) do type_names[t[1]] = name end

---@class tideway.bpf.Program
---@field fd integer
---@field name string
---@field type string
---@field id integer  the kernel's
---@field xlated integer  instructions after the verifier's rewriting
---@field jited integer  bytes of machine code, 0: interpreted
---@field verified integer  instructions the verifier walked, 0 before kernel 5.16
---@field log string?  of the verifier, when asked for
local Program = {}
Program.__index = Program
Program.__tostring = function(self) return ("%s program %s (id %d)"):format(self.type, self.name, self.id) end

---@class tideway.bpf.LoadError
---@field message string
---@field errno integer
---@field log string  the verifier's, "" when it did not get so far
local LoadError = { __tostring = function(self) return self.message end }
LoadError.__index = LoadError

--- At most 15 bytes that the kernel takes as a name.
---@param name string
---@return string
function M.kernel_name(name)
   return (name:gsub("[^%w_.]", "_"):sub(1, C.TW_BPF_NAME_LEN - 1))
end

local function info_of(fd)
   local info = ffi.new "struct tw_bpf_program_info"
   if C.tw_bpf_program_get_info(fd, info) < 0 then return nil, abi.error() end
   return info
end

--- What the kernel says about a program, also one that is not ours.
---@param fd integer
---@return table? info  { id, name, type, tag, xlated, jited, verified, map_ids, run_ns, run_count, btf_id }
---@return string? err
function M.info(fd)
   local info, err = info_of(fd)
   if not info then return nil, err end
   local ids = {}
   for i = 1, info.maps do ids[i] = info.map_ids[i - 1] end
   local tag = ffi.string(info.tag, 8):gsub(".", function(c) return ("%02x"):format(c:byte()) end)
   return {
      id = info.id, name = ffi.string(info.name), type = type_names[info.type] or ("type " .. info.type), tag = tag,
      xlated = info.xlated_size / 8, jited = info.jited_size, verified = info.verified_insns, map_ids = ids,
      run_ns = tonumber(info.run_ns), run_count = tonumber(info.run_count), btf_id = info.btf_id,
   }
end

--- What the kernel says about the program of an id, e.g. one that holds a hook.
---@param id integer
---@return table? info  as M.info
---@return string? err
function M.by_id(id)
   local fd = C.tw_bpf_program_by_id(id)
   if fd < 0 then return nil, abi.error() end
   local info, err = M.info(fd)
   C.tw_bpf_close(fd)
   return info, err
end

--- The object for a descriptor of a loaded program; the object owns the descriptor.
---@param fd integer
---@param name? string  full name; the kernel keeps 15 bytes
---@return tideway.bpf.Program? program
---@return string? err
function M.from_fd(fd, name)
   local info, err = M.info(fd)
   if not info then return nil, err end
   return setmetatable({
      fd = fd, name = name or info.name, type = info.type, id = info.id, xlated = info.xlated,
      jited = info.jited, verified = info.verified,
   }, Program)
end

-- The instructions with descriptors of maps in their places.
local function relocate(spec)
   local insns = ffi.new("uint64_t[?]", spec.count)
   ffi.copy(insns, spec.insns, spec.count * 8)
   for _, r in ipairs(spec.relocs or {}) do
      local at, map, value = r.insn or r[1], r.map or r[2], r.value
      local op = tonumber(bit.band(insns[at], 0xff))
      if at + 1 >= spec.count or op ~= LDDW then
         error(("relocation of map %s at instruction %d: there is no 64-bit load"):format(map.name, at), 3)
      end
      local pseudo = value and PSEUDO_MAP_VALUE or PSEUDO_MAP_FD
      local head = bit.bor(bit.band(insns[at], 0x0fff), bit.lshift(pseudo, 12))
      insns[at] = bit.bor(head + 0ULL, bit.lshift(map.fd + 0ULL, 32))
      insns[at + 1] = bit.lshift((value or 0) + 0ULL, 32)
   end
   return insns
end

local function attach_type_of(spec, default)
   local t = spec.attach_type
   if t == nil then return default or 0 end
   if type(t) == "number" then return t end
   return M.attach_types[t] or error(("attach type '%s' is not known"):format(tostring(t)), 3)
end

-- BTF of the program; a kernel that refuses it (none before 5.0, or a bug of ours) is told.
local function describe(spec, context)
   local b = btf.new()
   local functions = spec.functions or { { insn = 0, name = spec.name } }
   local starts = {}
   for _, f in ipairs(functions) do starts[f.insn] = true end
   local func_info = b:func_info(functions, context)
   local line_info = spec.lines and b:line_info(spec.lines, starts) or ""
   local fd, err = b:load()
   if not fd then return nil, err end
   return { fd = fd, func_info = func_info, line_info = line_info, functions = #functions }
end

-- Tries with a growing log until the log fits or the program loads.
local function load_with_log(load, level)
   local size = LOG_FIRST
   while true do
      local log = ffi.new("char[?]", size)
      load.log, load.log_size, load.log_level = log, size, level
      local fd = C.tw_bpf_program_load(load)
      if fd ~= ENOSPC or size >= C.TW_BPF_LOG_MAX then
         return fd, ffi.string(log)
      end
      size = math.min(size * 4, C.TW_BPF_LOG_MAX)
   end
end

local function load_error(spec, errno, sentence, log)
   local last
   for line in (log or ""):gmatch "[^\n]+" do
      if not line:match "^processed %d+ insns" and not line:match "^verification time" then last = line end
   end
   local message = last and ("%s: %s"):format(sentence, last) or sentence
   return setmetatable({ message = message, errno = -errno, log = log or "", name = spec.name }, LoadError)
end

--- Loads a program. First without a log, which is fast; when the kernel refuses it, again with one.
---@param spec table  { name =, type = "xdp", attach_type = name or number?, insns = uint64_t[],
---  count =, relocs = { { insn =, map =, value = offset in the map's value? } }?,
---  lines = { { insn =, pos = { file =, line =, col = } } }?,
---  functions = { { insn =, name = } }? (default: one), license = "Dual BSD/GPL"?, log_level = 0?,
---  brief = no log when it is too large? }
---@return tideway.bpf.Program? program
---@return tideway.bpf.LoadError? err  tostring() gives a sentence, .log the verifier's log
function M.load(spec)
   local kind = types[spec.type] or error(("program type '%s' is not known"):format(tostring(spec.type)), 2)
   local insns = relocate(spec)
   local described, err = describe(spec, kind[2])
   if not described then
      return nil, load_error(spec, 0, ("program %s: %s"):format(spec.name, err))
   end
   local name, license = M.kernel_name(spec.name), spec.license or "Dual BSD/GPL"
   local load = ffi.new("struct tw_bpf_program_spec", {
      name = name, license = license, insns = insns, count = spec.count, type = kind[1],
      attach_type = attach_type_of(spec, kind[3]), flags = spec.flags or 0, ifindex = spec.ifindex or 0,
      btf = described.fd, functions = ffi.cast("const char *", described.func_info),
      functions_count = described.functions,
      lines = ffi.cast("const char *", described.line_info), lines_count = #described.line_info / 16,
   })
   M.loading = { name, license, insns, described } -- the load points to these: not to be collected
   local fd, log
   if spec.log_level and spec.log_level > 0 then
      fd, log = load_with_log(load, spec.log_level)
   else
      fd = C.tw_bpf_program_load(load)
      if fd < 0 and not (fd == E2BIG and spec.brief) then
         -- Of a program that is too large the log of all paths would take minutes: that of the last one.
         local again, text = load_with_log(load, fd == E2BIG and 1 or 2)
         fd, log = again, text
      end
   end
   local sentence = fd < 0 and abi.error()
   C.tw_bpf_close(described.fd)
   M.loading = nil
   if fd < 0 then return nil, load_error(spec, fd, sentence, log) end
   local program = assert(M.from_fd(fd, spec.name))
   program.log, program.type = log, spec.type
   return program
end

--- Closes the descriptor. The program stays where it is attached by a link, or pinned.
function Program:close()
   C.tw_bpf_close(self.fd)
   self.fd = -1
end

--- What the kernel says about it now.
function Program:info() return M.info(self.fd) end

-- Contexts of test runs: only some types and fields take one.
local xdp_context = ffi.typeof [[struct { uint32_t data, data_end, data_meta, ingress_ifindex, rx_queue_index,
   egress_ifindex; }]]
local skb_context = ffi.typeof [[struct { uint32_t len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci,
   vlan_proto, priority, ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family,
   remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta; uint64_t flow_keys, tstamp;
   uint32_t wire_len, gso_segs; uint64_t sk; uint32_t gso_size; uint8_t tstamp_type, pad[3]; uint64_t hwtstamp; }]]
local lookup_context = ffi.typeof [[struct { uint64_t cookie; uint32_t family, protocol, remote_ip4, remote_ip6[4];
   uint16_t remote_port, pad; uint32_t local_ip4, local_ip6[4], local_port, ingress_ifindex; }]]
local contexts = {
   xdp = xdp_context, tc = skb_context, cgroup_skb = skb_context, lwt_in = skb_context, lwt_out = skb_context,
   lwt_xmit = skb_context, socket_filter = skb_context, sk_lookup = lookup_context,
}

local function context_of(program, fields, data)
   local ctype = contexts[program.type]
   if not fields then
      -- sk_lookup runs on a context alone
      return program.type == "sk_lookup" and ctype() or nil
   end
   if not ctype then
      error(("a test run of a %s program takes no context"):format(program.type), 3)
   end
   local ctx = ctype()
   for name, value in pairs(fields) do ctx[name] = value end
   if program.type == "xdp" and ctx.data_end == 0 then ctx.data_end = ctx.data + #data end
   return ctx
end

--- Runs the program on a frame in the kernel, without attaching it (BPF_PROG_TEST_RUN).
---@param data string  the frame; at least 14 bytes
---@param options? table  { repeat_count = 1, ctx = { mark =, ingress_ifindex =, ... }, room = bytes
---  of the result at most }; repeated runs work on the frame that the run before has changed
---@return integer? retval
---@return string data_out  or the reason, when retval is nil
---@return integer ns  the mean of one run
---@return ffi.cdata*? ctx_out  the context after the run, when one was given
function Program:test(data, options)
   options = options or {}
   local ctx = context_of(self, options.ctx, data)
   local room = options.room or #data + 4096
   local out = ffi.new("uint8_t[?]", room)
   local run = ffi.new "struct tw_bpf_run"
   local ctx_out = ctx and ffi.new(ffi.typeof(ctx))
   if self.type ~= "sk_lookup" then
      run.data_in, run.data_in_size = ffi.cast("const char *", data), #data
      run.data_out, run.data_out_size = out, room
      run.repeat_count = options.repeat_count or 1
   end
   if ctx then
      run.ctx_in, run.ctx_in_size, run.ctx_out, run.ctx_out_size = ctx, ffi.sizeof(ctx), ctx_out, ffi.sizeof(ctx)
   end
   if C.tw_bpf_program_run(self.fd, run) < 0 then return nil, abi.error(), 0 end
   return run.retval, ffi.string(out, run.data_out_size), run.duration, ctx_out
end

return M
