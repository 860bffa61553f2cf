-- SPDX-License-Identifier: BSD-3-Clause
-- A hook of the kernel for the front end: fields of packets, calls of helpers, resizing, sums. What runs before the
-- first NF is in entry.lua, the ways out in leaving.lua, what copies packets for an observer in watch.lua.

local bits = require "tideway.compiler.front.bits"
local entry = require "tideway.compiler.place.entry"
local kernel = require "tideway.compiler.target.kernel"
local leaving = require "tideway.compiler.place.leaving"
local lock = require "tideway.compiler.front.intrinsic.lock"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local ipv4 = require("tideway.packet.ipv4").ipv4
local parse = require "tideway.packet.parse"
local part = require "tideway.compiler.place.part"
local start = require "tideway.compiler.hooklib.start"
local sum = require "tideway.compiler.hooklib.sum"
local value = require "tideway.compiler.front.value"
local watch = require "tideway.compiler.place.watch"
local walk = require "tideway.compiler.hooklib.walk"

local M = {}
M.__index = M
for _, functions in ipairs { entry, leaving } do
   for name, f in pairs(functions) do M[name] = f end
end

-- What programs of each hook return. tc: -1 goes on to the next filter, so that those of others still run.
local CODES = {
   xdp = { pass = 2, drop = 1, back = 3 },
   tc = { pass = -1, drop = 2 },
   cgroup_skb = { pass = 1, drop = 0 },
   socket_filter = { pass = 0x7fffffff, drop = 0 },
   sk_msg = { pass = 1, drop = 0 },
   sk_skb = { pass = 1, drop = 0 },
   sk_lookup = { pass = 1, drop = 0 },
   sk_reuseport = { pass = 1, drop = 0 },
   lwt_in = { pass = 0, drop = 2 }, lwt_out = { pass = 0, drop = 2 }, lwt_xmit = { pass = 0, drop = 2 },
}
M.codes = CODES

-- ---- calls ----

--- Call a helper; refuses where the hook lacks it.
---@return tideway.ir.value
function M:call(cx, helper, type, args, fields)
   if not self.kernel:helper(helper) then
      cx:refuse(("the kernel has no bpf_%s on hook %s"):format(helper, self.name), self.kernel:helper_hint(helper))
   end
   lock.check_helper(cx, helper)
   fields = fields or {}
   fields.fn = helper
   return cx:emit("call", type, args, fields)
end

--- The pointer to the context.
function M.context(_, cx)
   if not cx.context_ir then
      local first = cx.program.blocks[1]
      local v = require("tideway.compiler.ir").value(cx.program, "ctx", "ptr", {}, { space = "ctx", block = first })
      table.insert(first.insts, 1, v)
      cx.context_ir = v
   end
   return cx.context_ir
end

function M:ctxload(cx, name)
   local f = self.kernel.fields[name]
   if not f then return nil end
   return cx:emit("ctxload", "num", {}, { field = name, lo = 0, hi = 2 ^ f.bits - 1 })
end

-- ---- fields ----

function M:field_of(cx, name)
   if name == "port" then return value.host(self.port) end
   if name == "out" then return cx.state.vars[cx.out] end
   if name == "mark" then
      if self.kernel.fields.mark then return value.int(self:ctxload(cx, "mark")) end
      return cx.state.vars[cx.mark]
   end
   if name == "hash" then return self.kernel.fields.hash and value.int(self:ctxload(cx, "hash")) or value.host(0) end
   if name ~= "data" and name ~= "data_end" and self.kernel.fields[name] and not self.kernel.fields[name].ptr then
      return value.int(self:ctxload(cx, name))
   end
end

function M:set(cx, name, fv)
   if name == "key" then cx:refuse("pkt:hold keeps packets, which hooks can't", "pin this chain to an lcore") end
   if name == "record" and self.record then
      cx.state.vars[cx.record] = fv
      return true
   elseif name == "out" then
      cx.state.vars[cx.out] = fv
      return true
   elseif name == "mark" and not self.kernel.fields.mark then
      cx.state.vars[cx.mark] = fv
      return true
   end
   local f = self.kernel.fields[name]
   if not f or not f.write then return false end
   cx:emit("ctxstore", "void", { number.ir(cx, fv, "pkt." .. name) }, { field = name })
   return true
end

function M:time(cx)
   if not cx.state.memo.now then
      local v = self:call(cx, "ktime_get_ns", "num", {}, { lo = 0, hi = memory.LATEST })
      cx.state.memo.now = { ir = v }
   end
   return value.int(cx.state.memo.now.ir)
end

-- ---- resizing ----

local RESIZE = {
   xdp = { head = "xdp_adjust_head", tail = "xdp_adjust_tail" },
}

function M:resize(cx, which, delta)
   local helper = (RESIZE[self.name] or {})[which]
   local v = number.ir(cx, delta, "the number of bytes")
   local old = cx:range(memory.length(cx))
   local lo, hi = cx:range(v)
   local ctx = self:context(cx)
   local rc
   if helper then
      rc = self:call(cx, helper, "num", { ctx, v }, { resizes = true, writes = { pkt = true }, lo = -4095, hi = 0 })
   elseif self.name == "tc" and which == "tail" then
      local len = number.binary(cx, "+", value.int(memory.length(cx)), value.int(v))
      rc = self:call(cx, "skb_change_tail", "num", { ctx, number.ir(cx, len), cx:const(0) },
         { resizes = true, writes = { pkt = true }, lo = -4095, hi = 0 })
   elseif self.name == "tc" and which == "head" then
      rc = self:tc_head(cx, ctx, v)
   else
      cx:refuse(("packets can't be resized on hook %s"):format(self.name))
   end
   return memory.resize_outcome(cx, rc, old, which == "head" and -hi or lo)
end

-- Growing is skb_change_head; shrinking at the MAC header is what skb_adjust_room does (BPF_ADJ_ROOM_MAC), which
-- keeps the Ethernet header and takes away what follows it: only the sign that skb_change_head has is supported.
function M:tc_head(cx, ctx, v)
   local lo, hi = cx:range(v)
   if hi > 0 then
      cx:refuse("on tc the start of a packet can't be moved inwards",
         "pin the chain to xdp or an lcore; a VLAN tag is taken away by tw.bpf.skb_vlan_pop()")
   end
   local size = number.ir(cx, number.negate(cx, value.int(v)))
   local _ = lo
   return self:call(cx, "skb_change_head", "num", { ctx, size, cx:const(0) },
      { resizes = true, writes = { pkt = true }, lo = -4095, hi = 0 })
end

-- ---- sums ----

-- A sum over a constant or short run of bytes, word by word.
function M:sum_of(cx, p, length)
   if length.k == "host" and length.v % 2 == 0 and length.v <= 64 then
      local total = value.host(0)
      local at = 0
      while at < length.v do
         local n = length.v - at >= 4 and 4 or 2
         local w = value.int(memory.load(cx, p, at, n * 8))
         if n == 4 then
            total = number.binary(cx, "+", total, bits.bitop(cx, "band", { w, value.host(0xffff) }))
            total = number.binary(cx, "+", total, bits.bitop(cx, "rshift", { w, value.host(16) }))
         else
            total = number.binary(cx, "+", total, w)
         end
         at = at + n
      end
      for _ = 1, 2 do
         total = number.binary(cx, "+", bits.bitop(cx, "band", { total, value.host(0xffff) }),
            bits.bitop(cx, "rshift", { total, value.host(16) }))
      end
      return total
   end
   if self.kernel:helper "csum_diff" then return sum.of_chunks(cx, p, length) end
   return sum.of_bytes(cx, p, length)
end

-- ---- the place ----

-- Functions of the library that hooks have better ones for.
local REPLACED = {
   [parse.walk] = walk.walk,
   [parse.option] = walk.option,
   [parse.nd_option] = walk.nd_option,
   [ipv4.methods.update_checksum] = sum.update_checksum,
   [ipv4.methods.valid_checksum] = sum.valid_checksum,
}

--- A hook as a place.
---@param name string "xdp", "tc", ...
---@param options table ports = ifindex by port index, flood = those of them that a flood goes to (default: all), port =
---  index of the ingress port, sink = port index of the chain's sink, counted = count what leaves (default true),
---  attach = attach type, egress = frames on their way out, part = this is one of several programs of the chain:
---  { first = index of its first NF in the chain, from 0, next = { table = prog_array, index = }? for the program
---  behind }, watches = list of tideway.place.watch: packets that are copied out
function M.new(name, options)
   options = options or {}
   local self = setmetatable({
      name = name, checks = true, kernel = kernel.hook(name), code = CODES[name], ports = options.ports or {},
      flood_ports = options.flood or options.ports or {},
      port = options.port or 0, sink_port = options.sink, counted = options.counted ~= false, exits = {}, exit_of = {},
      reason_name = options.reason_name, record = options.attach == "stream_parser",
      punt_ring = options.punt_ring, again = options.again, egress = options.egress,
      part = options.part or { first = 0 }, watches = options.watches or {},
   }, M)
   self.load_bytes = self.kernel:helper "xdp_load_bytes" and "xdp_load_bytes"
      or self.kernel:helper "skb_load_bytes" and "skb_load_bytes"
   -- The front end calls these without self.
   self.field = function(cx, n) return self:field_of(cx, n) end
   self.set_field = function(cx, n, fv) return self:set(cx, n, fv) end
   self.now = function(cx) return self:time(cx) end
   self.random = function(cx)
      return value.int(self:call(cx, "get_prandom_u32", "num", {}, { lo = 0, hi = 2 ^ 32 - 1 }))
   end
   self.adjust = function(cx, which, delta) return self:resize(cx, which, delta) end
   self.raw_sum = function(cx, p, length) return self:sum_of(cx, p, length) end
   self.options_sum = function(cx, ip, size)
      return sum.of_options(cx, ip, size)
   end
   self.finish = function(cx, word, stage) return self:finish_with(cx, word, stage) end
   self.sink = function(cx, stage) return self:at_end(cx, stage) end
   self.go_on = function(cx) return part.go_on(self, cx) end
   self.behind = function(cx, stage) return watch.behind(self, cx, stage) end
   self.trap = function(cx)
      lock.release(cx)
      return self:leave(cx, cx.stage or 0, "drop", "out_of_frame", self.code.drop)
   end
   local other = start.by_start[self.kernel.starts]
   self.replaced = setmetatable(other and other.replaced or {}, { __index = REPLACED })
   self.methods = other and other.methods or {}
   self.tables = require("tideway.compiler.place.maps").new(self)
   return self
end

return M
