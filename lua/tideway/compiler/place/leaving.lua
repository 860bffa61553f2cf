-- SPDX-License-Identifier: BSD-3-Clause
-- The ways out of a hook's program: verdicts as the hook's return codes, ports as redirects, what leaves counted in a
-- per-CPU array. Functions of tideway.compiler.place.hook.

local bit = require "bit"
local abi = require "tideway.abi"
local bits = require "tideway.compiler.front.bits"
local ctype = require "tideway.compiler.front.ctype"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local punt = require "tideway.compiler.place.punt"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"
local watch = require "tideway.compiler.place.watch"

local C = abi.C
local M = {}

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

--- Bytes of the packet as a number whose limits the verifier sees tested: the difference of two pointers has none for
--- it, and the optimiser would make a bounds check of the test.
function M:length_of(cx)
   if self.name ~= "xdp" then return self:frame_length(cx) end
   return self:call(cx, "xdp_get_buff_len", "num", { self:context(cx) }, { lo = 0, hi = 65535 })
end

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

--- Opens the place that every way out leads to, which counts: the verifier then walks what is there once per way out,
--- not once per path that leads to one.
function M:open_way_out(cx)
   if not self.counted then return end
   self.way_out = cx:landing(watch.kinds(self, { { "num", 0, 65535 }, { "num", -2 ^ 53, 2 ^ 53 } }))
end

--- Writes the place that counts; the program is complete then.
function M:close(cx)
   punt.close(self, cx)
   if not self.way_out then return end
   local values = cx:arrive(self.way_out)
   watch.leave(self, cx, values)
   self:account(cx, values[1])
   cx:ret(values[2])
end

function M:leave(cx, stage, kind, argument, code)
   local index = self:exit_index(stage, kind, argument)
   if type(code) == "number" then code = cx:const(code) end
   if not self.counted then return cx:ret(code) end
   cx:land(self.way_out, watch.values(self, cx, self.exits[index + 1], { cx:const(index), code }))
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

return M
