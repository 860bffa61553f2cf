-- SPDX-License-Identifier: BSD-3-Clause
-- Frames from the control thread into the kernel's network: out of an interface, or up its stack as if they had been
-- received there.

local ffi = require "ffi"
local abi = require "tideway.abi"
local backing = require "tideway.bpf.backing"
local program = require "tideway.bpf.program"
local types = require "tideway.table.type"

local C = abi.C
local M = {}

local EMSGSIZE, ENOBUFS, EAGAIN = -90, -105, -11

-- ---- out of an interface ----

local sockets = {}

local REASON = { [EMSGSIZE] = "frame_too_long", [ENOBUFS] = "tx_full", [EAGAIN] = "tx_full" }

--- Send a frame.
---@param ifindex integer
---@param data ffi.cdata*
---@param len integer
---@param direct boolean past the qdisc and the programs on egress, as XDP sends
---@return boolean sent
---@return string? reason of the drop
function M.send(ifindex, data, len, direct)
   local fd = sockets[direct]
   if not fd then
      fd = C.tw_inject_open(direct)
      if fd < 0 then error(abi.error(), 0) end
      sockets[direct] = fd
   end
   local rc = C.tw_inject(fd, ifindex, data, len)
   if rc == 0 then return true end
   return false, REASON[rc] or "tx_failed"
end

-- ---- up the stack ----

-- BPF_F_TEST_XDP_LIVE_FRAMES of BPF_PROG_TEST_RUN: what the program passes is received (Linux 5.18).
local LIVE_FRAMES = 2

local context = ffi.new [[struct { uint32_t data, data_end, data_meta, ingress_ifindex, rx_queue_index,
   egress_ifindex; }]]

-- r0 = XDP_PASS; exit
local PASS = { 0x00000002000000b7ULL, 0x95ULL }

-- Sets entry 0 of a map to 1 before that. Between this and the end of the run nothing else happens on the CPU: the
-- next program on it that looks is the one that would get the frame a second time.
local PASS_MARKED = {
   0x00000000fffc0a62ULL, -- *(u32 *)(r10 - 4) = 0
   0x000000000000a2bfULL, -- r2 = r10
   0xfffffffc00000207ULL, -- r2 += -4
   0x0000000000000118ULL, 0ULL, -- r1 = map
   0x0000000100000085ULL, -- call map_lookup_elem
   0x0000000000010015ULL, -- if r0 == 0 goto +1
   0x0000000100000062ULL, -- *(u32 *)(r0 + 0) = 1
   PASS[1], PASS[2],
}
local MAP_AT = 3

--- The table by which a program knows a frame that comes a second time.
---@return table
function M.again_table()
   return { kind = "percpu_array", name = "again", key_type = types.parse "u32", value_type = types.parse "u32",
      entries = 1, internal = true }
end

local function load(insns, relocs)
   local code = ffi.new("uint64_t[?]", #insns, insns)
   local p, err = program.load { name = "tw_pass", type = "xdp", insns = code, count = #insns, relocs = relocs }
   if not p then error(tostring(err), 0) end
   return p
end

local plain
local marked = setmetatable({}, { __mode = "k" })

local function program_of(again)
   if not again then
      plain = plain or load(PASS)
      return plain
   end
   local p = marked[again]
   if not p then
      local map = assert(backing.of(again))
      p = { program = load(PASS_MARKED, { { insn = MAP_AT, map = map } }), map = map }
      marked[again] = p
   end
   return p.program, p.map
end

local run = ffi.new "struct tw_bpf_run"

--- Let the stack receive a frame.
---@param ifindex integer the interface that it came by
---@param data ffi.cdata*
---@param len integer
---@param again? table M.again_table() of a chain whose program would see the frame once more
---@return boolean passed
---@return string? reason of the drop
function M.pass(ifindex, data, len, again)
   local p, map = program_of(again)
   ffi.fill(run, ffi.sizeof(run))
   context.data, context.data_end, context.data_meta, context.ingress_ifindex = 0, len, 0, ifindex
   run.data_in, run.data_in_size, run.repeat_count, run.flags = ffi.cast("const char *", data), len, 1, LIVE_FRAMES
   run.ctx_in, run.ctx_in_size = context, ffi.sizeof(context)
   local rc = C.tw_bpf_program_run(p.fd, run)
   if map then map:set(0, 0) end
   if rc == 0 then return true end
   M.last_error = abi.error()
   return false, "pass_failed"
end

--- Can the kernel do that?
---@return string? why not
function M.no_pass()
   local frame = ffi.new("uint8_t[?]", 64) -- to and from nobody: lo takes it and forgets it
   local lo = C.tw_bpf_ifindex "lo"
   if lo < 0 or M.pass(lo, frame, 64) then return nil end
   return M.last_error
end

--- Close what was opened.
function M.close()
   for direct, fd in pairs(sockets) do
      C.tw_bpf_close(fd)
      sockets[direct] = nil
   end
end

return M
