-- SPDX-License-Identifier: BSD-3-Clause
-- A hook of the kernel for the front end: fields of packets, verdicts as the hook's return codes, what leaves
-- counted in a per-CPU array.

local bit = require "bit"
local abi = require "tideway.abi"
local bits = require "tideway.compiler.front.bits"
local ctype = require "tideway.compiler.front.ctype"
local kernel = require "tideway.compiler.target.kernel"
local lock = require "tideway.compiler.front.intrinsic.lock"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local ipv4 = require("tideway.packet.ipv4").ipv4
local parse = require "tideway.packet.parse"
local part = require "tideway.compiler.place.part"
local punt = require "tideway.compiler.place.punt"
local start = require "tideway.compiler.hooklib.start"
local sum = require "tideway.compiler.hooklib.sum"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"
local walk = require "tideway.compiler.hooklib.walk"

local C = abi.C
local M = {}
M.__index = M

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

-- Bytes of the frame that are made linear on hooks that see socket buffers.
local LINEAR = 256

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
      local entry = cx.program.blocks[1]
      local v = require("tideway.compiler.ir").value(cx.program, "ctx", "ptr", {}, { space = "ctx", block = entry })
      table.insert(entry.insts, 1, v)
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
         "pin the chain to xdp or an lcore")
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

-- ---- leaving ----

--- Entry of the counters for what leaves here: one per stage, kind and argument.
function M:exit_index(stage, kind, argument)
   local key = ("%d:%s:%s"):format(stage, kind, tostring(argument or ""))
   local i = self.exit_of[key]
   if not i then
      i = #self.exits
      self.exits[i + 1] = { stage = stage, kind = kind, argument = argument }
      self.exit_of[key] = i
   end
   return i
end

local u64 = ctype.int.uint64_t

-- Bytes of the packet as it leaves, 0 where there is none. Asked for anew: nothing is kept for this until then.
function M:frame_length(cx)
   if not self.kernel.packet and not self.kernel.length then return cx:const(0) end
   return cx:emit("pktlen", "num", {}, { anew = true, lo = 0, hi = 65535 })
end

-- One entry of the exits' counters: packets and bytes.
function M:account(cx, index)
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, index }, { bits = 32, off = 0 })
   local p = self:call(cx, "map_lookup_elem", "ptr", { cx:table_const(self.exit_table), key },
      { space = "value", reads = { stack = true }, table = self.exit_table })
   local yes, no = cx:split("ne", p, cx:null())
   local join = cx:join()
   cx:go(no)
   cx:jump(join)
   cx:go(yes)
   local entry = value.ptr(p, 0, u64)
   for i, by in ipairs { cx:const(1), self:frame_length(cx) } do
      local old = memory.load(cx, entry, (i - 1) * 8, 64)
      memory.store(cx, entry, (i - 1) * 8, 64, cx:emit("add", "u64", { old, number.widen(cx, by, "u64") }))
   end
   cx:jump(join)
   cx:enter(join)
end

-- Every way out leads to one place, which counts: the verifier then walks what is there once per way out, not once per
-- path that leads to one.
function M:exit(cx, index, code)
   if not self.counted then return cx:ret(code) end
   cx:land(self.way_out, { cx:const(index), code })
end

--- Writes the place that counts; the program is complete then.
function M:close(cx)
   punt.close(self, cx)
   if not self.way_out then return end
   local index, code = unpack(cx:arrive(self.way_out))
   self:account(cx, index)
   cx:ret(code)
end

function M:leave(cx, stage, kind, argument, code)
   self:exit(cx, self:exit_index(stage, kind, argument), type(code) == "number" and cx:const(code) or code)
end

--- Indexes of the ports, in order.
local function indexes(set)
   local list = {}
   for index in pairs(set) do list[#list + 1] = index end
   table.sort(list)
   return list
end

-- To a port known now, or by a table of ports when it is known only at run time.
function M:to_port(cx, stage, fv)
   if fv.k == "host" then
      local ifindex = self.ports[fv.v]
      if not ifindex then
         return self:leave(cx, stage, "drop", "no_such_port", self.code.drop)
      end
      if fv.v == self.port and self.code.back then
         return self:leave(cx, stage, "port", fv.v, self.code.back)
      end
      local code = self:call(cx, "redirect", "num", { cx:const(ifindex), cx:const(0) }, { lo = -4095, hi = 255 })
      return self:leave(cx, stage, "port", fv.v, code)
   end
   -- One test per port: there are few.
   local list = indexes(self.ports)
   local port = number.ir(cx, fv, "a port")
   for _, index in ipairs(list) do
      local yes, no = cx:split("eq", port, cx:const(index))
      if yes then
         cx:go(yes)
         self:to_port(cx, stage, value.host(index))
      end
      if not no then return end
      cx:go(no)
   end
   self:leave(cx, stage, "drop", "no_such_port", self.code.drop)
end

--- Kind of a verdict word that holds the code a helper gave.
M.RETURN = 0x40

local KIND = {}

function KIND.drop(self, cx, stage, argument)
   self:leave(cx, stage, "drop", self.reason_name(argument), self.code.drop)
end
function KIND.pass(self, cx, stage) self:leave(cx, stage, "pass", nil, self.code.pass) end
function KIND.port(self, cx, stage, argument) self:to_port(cx, stage, value.host(argument)) end
function KIND.flood(self, cx, stage) self:flood(cx, stage) end
function KIND.sink(self, cx, stage) self:at_end(cx, stage) end
function KIND.punt(self, cx, stage) self:punt(cx, stage) end
function KIND.hold(_, cx)
   cx:refuse("pkt:hold keeps packets, which hooks can't", "pin this chain to an lcore")
end

local NAMES = { [1] = "drop", [2] = "port", [3] = "flood", [4] = "pass", [5] = "punt", [6] = "hold", [7] = "sink" }

-- BPF_F_BROADCAST and BPF_F_EXCLUDE_INGRESS of bpf_redirect_map.
local BROADCAST = 8 + 16

-- Copies to the other ports of the chain: one redirect through a map of all of them (XDP), clones (tc).
function M:flood(cx, stage)
   if self.name ~= "tc" and self.name ~= "xdp" then
      cx:refuse(("pkt:flood() on hook %s"):format(self.name), "pin the chain to xdp, tc or an lcore")
   end
   if self.name == "xdp" then
      self.flood_table = self.flood_table or { kind = "devmap_hash", name = "flood", key_type = types.parse "u32",
         entries = math.max(1, #indexes(self.flood_ports)), internal = true }
      local code = self:call(cx, "redirect_map", "num",
         { cx:table_const(self.flood_table), cx:const(0), cx:const(BROADCAST) }, { lo = -4095, hi = 255 })
      return self:leave(cx, stage, "flood", nil, code)
   end
   for _, index in ipairs(indexes(self.flood_ports)) do
      if index ~= self.port then
         self:call(cx, "clone_redirect", "num", { self:context(cx), cx:const(self.flood_ports[index]), cx:const(0) },
            { writes = { pkt = true }, resizes = true })
      end
   end
   self:leave(cx, stage, "flood", nil, self.code.drop)
end

function M:punt(cx, stage) punt.leave(self, cx, stage) end

--- A packet leaves at a stage with a verdict word (enum tw_verdict of core/abi.h).
function M:finish_with(cx, word, stage)
   if word.redirected then return self:leave(cx, stage, "redirect", nil, word.redirected) end
   if word.k == "host" then
      local kind = bit.band(word.v, 0xff)
      return KIND[NAMES[kind]](self, cx, stage, bit.rshift(word.v, 8))
   end
   local v = number.ir(cx, word, "a verdict")
   -- A port chosen at run time: TW_PORT | port << 8.
   local kind = bits.bitop(cx, "band", { word, value.host(0xff) })
   local yes, no = number.compare(cx, "eq", kind, value.host(C.TW_PORT))
   if yes then
      cx:go(yes)
      self:to_port(cx, stage, bits.bitop(cx, "rshift", { word, value.host(8) }))
   end
   if no then
      cx:go(no)
      self:other_words(cx, v, stage)
   end
end

--- The packet leaves with what a helper said: a verdict word of its own, which paths may join.
---@param rc tideway.ir.value
function M:redirect(cx, rc)
   local high = cx:emit("shl", "num", { rc, cx:const(8) }, { lo = 0, hi = 0xff00 })
   local word = value.int(cx:emit("or", "num", { high, cx:const(M.RETURN) }, { lo = M.RETURN, hi = 0xff00 + M.RETURN }))
   word.redirected, self.redirects = rc, true
   cx.state.vars[cx.verdict] = word
end

-- Verdicts that were joined: one of those that this stage can give.
function M:other_words(cx, v, stage)
   if self.redirects then
      local kind = bits.bitop(cx, "band", { value.int(v), value.host(0xff) })
      local yes, no = number.compare(cx, "eq", kind, value.host(M.RETURN))
      if yes then
         cx:go(yes)
         local code = bits.bitop(cx, "rshift", { value.int(v), value.host(8) })
         self:leave(cx, stage, "redirect", nil, number.ir(cx, code))
      end
      if not no then return end
      cx:go(no)
   end
   local words = {}
   for word in pairs(cx.words) do words[#words + 1] = word end
   table.sort(words)
   for _, word in ipairs(words) do
      local yes, no = cx:split("eq", v, cx:const(word))
      if yes then
         cx:go(yes)
         self:finish_with(cx, value.host(word), stage)
      end
      if not no then return end
      cx:go(no)
   end
   self:leave(cx, stage, "drop", "bad_verdict", self.code.drop)
end

function M:at_end(cx, stage)
   if self.record then -- a stream parser says how long the next record is
      local n = number.ir(cx, cx.state.vars[cx.record], "pkt.record")
      return self:leave(cx, stage, "pass", nil, n)
   end
   local out = cx.state.vars[cx.out]
   if out and not value.is_host(out, C.TW_PORT_NONE) then
      local yes, no = number.compare(cx, "eq", out, value.host(C.TW_PORT_NONE))
      if no then
         cx:go(no)
         self:to_port(cx, stage, out)
      end
      if not yes then return end
      cx:go(yes)
   end
   if self.sink_port then return self:to_port(cx, stage, value.host(self.sink_port)) end
   self:leave(cx, stage, "pass", nil, self.code.pass)
end

-- ---- entry ----

-- Helpers that make the first bytes of a packet readable in one piece, and their arguments.
local PULL = {
   skb = function(self, cx, want) return "skb_pull_data", { self:context(cx), want } end,
   msg = function(self, cx, want) return "msg_pull_data", { self:context(cx), cx:const(0), want, cx:const(0) } end,
}

--- What runs before the first NF.
function M:enter(cx)
   punt.enter(self, cx)
   if self.counted then self.way_out = cx:landing { { "num", 0, 65535 }, { "num", -2 ^ 53, 2 ^ 53 } } end
   self:open(cx)
   if self.part.first > 0 then part.resume(self, cx) end
end

-- Where packets may lie in pieces, makes the headers linear.
function M:open(cx)
   if self.name == "socket_filter" then return self:enter_copy(cx) end
   if not self.kernel.packet or not self.kernel.length then return end
   local pull = self.name == "sk_msg" and PULL.msg or PULL.skb
   if pull == PULL.skb and not self.kernel:helper "skb_pull_data" then return end
   local len = memory.length(cx)
   local want = number.ir(cx, number.extreme(cx, "min", value.int(len), value.host(LINEAR)))
   local inside, outside = cx:check(memory.data(cx), LINEAR, memory.data_end(cx))
   local join = cx:join()
   cx:go(inside)
   cx:jump(join)
   cx:go(outside)
   local helper, args = pull(self, cx, want)
   self:call(cx, helper, "num", args, { resizes = true, lo = -4095, hi = 0 })
   cx:jump(join)
   cx:enter(join)
   memory.resized(cx)
end

-- Bytes that a socket filter sees of a packet.
local COPIED = 256

local scratch

-- A place per CPU for the copy: the stack takes no unaligned access.
local function scratch_table()
   if not scratch then
      local fields = {}
      for i = 1, COPIED / 8 do fields[i] = "u64 w" .. i end
      scratch = { kind = "percpu_array", name = "frame", key_type = types.parse "u32",
         value_type = types.parse(table.concat(fields, "; ")), entries = 1, internal = true }
   end
   return scratch
end

-- Socket filters have no access to the packet: its first bytes are copied.
function M:enter_copy(cx)
   local t = scratch_table()
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, cx:const(0) }, { bits = 32, off = 0 })
   local copy = self:call(cx, "map_lookup_elem", "ptr", { cx:table_const(t), key },
      { space = "value", reads = { stack = true }, table = t })
   local there, gone = cx:split("ne", copy, cx:null())
   cx:go(gone)
   cx:ret(cx:const(self.code.pass))
   cx:go(there)
   local len = cx:emit("pktlen", "num", {}, { lo = 0, hi = 65535 })
   local n = number.ir(cx, number.extreme(cx, "min", value.int(len), value.host(COPIED)))
   local some, none = cx:split("gt", n, cx:const(0))
   cx:go(none)
   self:leave(cx, 0, "pass", nil, self.code.pass)
   cx:go(some)
   local rc = self:call(cx, "skb_load_bytes", "num", { self:context(cx), cx:const(0), copy, n },
      { lo = -4095, hi = 0, writes = { value = true } })
   local done, failed = cx:split("eq", rc, cx:const(0))
   cx:go(failed)
   self:leave(cx, 0, "pass", nil, self.code.pass)
   cx:go(done)
   cx.copied = { data = copy, length = n, size = COPIED, frame_length = len }
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
---  behind }
function M.new(name, options)
   options = options or {}
   local self = setmetatable({
      name = name, checks = true, kernel = kernel.hook(name), code = CODES[name], ports = options.ports or {},
      flood_ports = options.flood or options.ports or {},
      port = options.port or 0, sink_port = options.sink, counted = options.counted ~= false, exits = {}, exit_of = {},
      reason_name = options.reason_name, record = options.attach == "stream_parser",
      punt_ring = options.punt_ring, again = options.again, egress = options.egress,
      part = options.part or { first = 0 },
   }, M)
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
