-- SPDX-License-Identifier: BSD-3-Clause
-- A packet filter inside a hook's program: classic BPF, as libpcap compiles pcap-filter expressions to, as IR. Its
-- jumps all go forwards, so each instruction is written once, where the paths to it meet.

local bit = require "bit"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local band = bit.band
local U32 = 2 ^ 32 - 1

---@class tideway.filter.instruction struct bpf_insn
---@field code integer
---@field jt integer instructions to skip when the test holds
---@field jf integer
---@field k integer unsigned

-- Instruction classes and sizes (linux/bpf_common.h).
local LD, LDX, ST, STX, ALU, JMP, RET, MISC = 0, 1, 2, 3, 4, 5, 6, 7
local SIZE = { [0x00] = 4, [0x08] = 2, [0x10] = 1 }
local IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xa0
local ALU_OP = {
   [0x00] = "add", [0x10] = "sub", [0x20] = "mul", [0x30] = "div", [0x40] = "or", [0x50] = "and", [0x60] = "shl",
   [0x70] = "shr", [0x80] = "neg", [0x90] = "mod", [0xa0] = "xor",
}
local JUMP_CC = { [0x10] = "eq", [0x20] = "ugt", [0x30] = "uge", [0x40] = "set" }

---@class tideway.place.filter
---@field cx tideway.front.context
---@field place table
---@field a table slot of the accumulator
---@field x table slot of the index register
---@field m table<integer, table> slots of the scratch memory
---@field yes table join of the packets that match
---@field no table join of the others
local Filter = {}
Filter.__index = Filter


-- ---- registers ----

function Filter:get(slot) return number.ir(self.cx, self.cx.state.vars[slot], "a register") end
function Filter:set(slot, v) self.cx.state.vars[slot] = value.int(v) end

-- The path ends: the registers are nobody's any more.
function Filter:leave(join)
   local vars = self.cx.state.vars
   vars[self.a], vars[self.x] = nil, nil
   for _, slot in pairs(self.m) do vars[slot] = nil end
   self.cx:jump(join)
end

-- Goes on where `cc` holds; where it does not the packet does not match.
function Filter:need(cc, a, b)
   local cx = self.cx
   local yes, no = cx:split(cc, a, b)
   if no then
      cx:go(no)
      self:leave(self.no)
   end
   if yes then cx:go(yes) end
   return yes ~= nil
end

-- ---- the packet ----

-- `size` bytes of the frame as a number, from its first byte. nil: the path is at its end.
function Filter:bytes(at, size)
   local cx, place = self.cx, self.place
   if not self.buffer then self.buffer = cx:alloca(8, 8) end
   local rc = place:call(cx, place.load_bytes, "num", { place:context(cx), at, self.buffer, cx:const(size) },
      { lo = -4095, hi = 0, reads = { pkt = true }, writes = { stack = true } })
   if not self:need("eq", rc, cx:const(0)) then return nil end
   local raw = cx:emit("load", "num", { self.buffer }, { bits = size * 8, off = 0, lo = 0, hi = 256 ^ size - 1 })
   if size == 1 then return raw end
   return cx:emit("bswap", "num", { raw }, { bits = size * 8, lo = 0, hi = 256 ^ size - 1 })
end

-- Where the frame has its VLAN tag in the context and not in itself, what the frame with the tag has at a constant
-- offset: EtherType and tag at 12, all behind it moved by 4.
function Filter:tagged_bytes(at, size)
   local cx = self.cx
   if at + size <= 12 then return self:bytes(cx:const(at), size) end
   if at >= 16 then return self:bytes(cx:const(at - 4), size) end
   if size == 2 and at % 2 == 0 then
      if at == 14 then return self.place:ctxload(cx, "vlan_tci") end
      local proto = self.place:ctxload(cx, "vlan_proto")
      return cx:emit("bswap", "num", { proto }, { bits = 16, lo = 0, hi = 65535 })
   elseif size == 1 then
      local word = self:tagged_bytes(at - at % 2, 2)
      if at % 2 == 1 then return cx:emit("and", "num", { word, cx:const(255) }, { lo = 0, hi = 255 }) end
      return cx:emit("shr", "num", { word, cx:const(8) }, { lo = 0, hi = 255 })
   end
   local high = self:tagged_bytes(at, size / 2)
   local low = high and self:tagged_bytes(at + size / 2, size / 2)
   if not low then return nil end
   high = cx:emit("shl", "num", { high, cx:const(size * 4) }, { lo = 0, hi = 256 ^ size - 1 })
   return cx:emit("or", "num", { high, low }, { lo = 0, hi = 256 ^ size - 1 })
end

-- At an offset that the program computes.
function Filter:indexed_bytes(k, size)
   local cx = self.cx
   local at = cx:emit("add", "num", { self:get(self.x), cx:const(k) }, { w = 32, lo = 0, hi = U32 })
   if self.tagged then
      if not self:need("uge", at, cx:const(16)) then return nil end
      at = cx:emit("sub", "num", { at, cx:const(4) }, { lo = 0, hi = U32 })
   end
   if not self:need("ult", at, cx:const(65536)) then return nil end
   return self:bytes(at, size)
end

function Filter:constant_bytes(k, size)
   if self.tagged then return self:tagged_bytes(k, size) end
   if k > 65535 then
      self:leave(self.no)
      return nil
   end
   return self:bytes(self.cx:const(k), size)
end

function Filter:length()
   local cx = self.cx
   local length = self.place:length_of(cx)
   if not self.tagged then return length end
   return cx:emit("add", "num", { length, cx:const(4) }, { lo = 4, hi = 65539 })
end

-- ---- instructions ----

local function refuse(self, i, insn)
   self.cx:refuse(("instruction %d of the filter has the code 0x%02x, which is none of classic BPF"):format(i - 1,
      insn.code), "compile the filter with libpcap")
end

-- A load: the register's new value, nil at the end of a path.
function Filter:load(i, insn, size)
   local mode, cx = band(insn.code, 0xe0), self.cx
   if mode == IMM then return cx:const(insn.k) end
   if mode == ABS then return self:constant_bytes(insn.k, size) end
   if mode == IND then return self:indexed_bytes(insn.k, size) end
   if mode == MEM and self.m[insn.k] then return self:get(self.m[insn.k]) end
   if mode == LEN then return self:length() end
   if mode == MSH then -- 4 * (byte & 15): the length of an IPv4 header
      local byte = self:constant_bytes(insn.k, 1)
      if not byte then return nil end
      local low = cx:emit("and", "num", { byte, cx:const(15) }, { lo = 0, hi = 15 })
      return cx:emit("shl", "num", { low, cx:const(2) }, { lo = 0, hi = 60 })
   end
   refuse(self, i, insn)
end

local OP = {}

OP[LD] = function(self, i, insn)
   local v = self:load(i, insn, SIZE[band(insn.code, 0x18)])
   if v then self:set(self.a, v) end
end
OP[LDX] = function(self, i, insn)
   local v = self:load(i, insn, 4)
   if v then self:set(self.x, v) end
end
OP[ST] = function(self, _, insn) self:set(self.m[insn.k], self:get(self.a)) end
OP[STX] = function(self, _, insn) self:set(self.m[insn.k], self:get(self.x)) end

-- Shifts by 32 and more give 0.
function Filter:shift(op, a, b)
   local cx = self.cx
   local small, large = cx:split("ult", b, cx:const(32))
   local join = cx:join()
   if large then
      cx:go(large)
      cx:jump(join, { value.host(0) })
   end
   if small then
      cx:go(small)
      local by = b.op == "const" and b or cx:emit("and", "num", { b, cx:const(31) }, { lo = 0, hi = 31 })
      cx:jump(join, { value.int(cx:emit(op, "num", { a, by }, { w = 32, lo = 0, hi = U32 })) })
   end
   return number.ir(cx, cx:enter(join)[1], "a shift")
end

OP[ALU] = function(self, i, insn)
   local cx, op = self.cx, ALU_OP[band(insn.code, 0xf0)]
   local a = self:get(self.a)
   local b = band(insn.code, 8) ~= 0 and self:get(self.x) or cx:const(insn.k)
   if not op then refuse(self, i, insn) end
   if op == "neg" then
      op, a, b = "sub", cx:const(0), a
   elseif op == "shl" or op == "shr" then
      return self:set(self.a, self:shift(op, a, b))
   elseif (op == "div" or op == "mod") and not self:need("ne", b, cx:const(0)) then
      return
   end
   self:set(self.a, cx:emit(op, "num", { a, b }, { w = 32, lo = 0, hi = U32 }))
end

OP[JMP] = function(self, i, insn)
   local cx, kind = self.cx, band(insn.code, 0xf0)
   if kind == 0 then return cx:jump(self:join_at(i + 1 + insn.k)) end
   local cc, a = JUMP_CC[kind], self:get(self.a)
   local b = band(insn.code, 8) ~= 0 and self:get(self.x) or cx:const(insn.k)
   if not cc then refuse(self, i, insn) end
   if cc == "set" then
      cc, a, b = "ne", cx:emit("and", "num", { a, b }, { lo = 0, hi = U32 }), cx:const(0)
   end
   local yes, no = cx:split(cc, a, b)
   for _, way in ipairs { { yes, insn.jt }, { no, insn.jf } } do
      if way[1] then
         cx:go(way[1])
         cx:jump(self:join_at(i + 1 + way[2]))
      end
   end
end

OP[RET] = function(self, _, insn)
   if band(insn.code, 0x18) == 0x10 then -- the accumulator
      if not self:need("ne", self:get(self.a), self.cx:const(0)) then return end
      return self:leave(self.yes)
   end
   self:leave(insn.k ~= 0 and self.yes or self.no)
end

OP[MISC] = function(self, _, insn)
   if band(insn.code, 0x80) ~= 0 then
      self:set(self.a, self:get(self.x))
   else
      self:set(self.x, self:get(self.a))
   end
end

-- The place in front of instruction i, from 1.
function Filter:join_at(i)
   self.joins[i] = self.joins[i] or self.cx:join()
   return self.joins[i]
end

-- ---- the filter ----

-- Slots of the memory that the filter uses.
local function memory_slots(cx, insns)
   local m = {}
   for _, insn in ipairs(insns) do
      local class = band(insn.code, 7)
      local is_store = class == ST or class == STX
      if is_store or (class <= LDX and band(insn.code, 0xe0) == MEM) then m[insn.k] = m[insn.k] or cx:slot "M" end
   end
   return m
end

local function run(self, insns)
   local cx = self.cx
   self.a, self.x, self.m, self.joins = cx:slot "A", cx:slot "X", memory_slots(cx, insns), {}
   for _, slot in ipairs { self.a, self.x } do cx.state.vars[slot] = value.host(0) end
   for _, slot in pairs(self.m) do cx.state.vars[slot] = value.host(0) end
   for i, insn in ipairs(insns) do
      local join = self.joins[i]
      if join then
         cx:jump(join)
         cx:enter(join)
      end
      if not cx:dead() then OP[band(insn.code, 7)](self, i, insn) end
   end
   if not cx:dead() then self:leave(self.no) end
end

--- Test the packet; the current path ends.
---@param place table
---@param cx tideway.front.context
---@param insns tideway.filter.instruction[]
---@param yes table join of those that match
---@param no table
function M.test(place, cx, insns, yes, no)
   local function filter(tagged)
      run(setmetatable({ place = place, cx = cx, yes = yes, no = no, tagged = tagged }, Filter), insns)
   end
   if not place.kernel.fields.vlan_present or place.kernel.starts ~= "l2" then return filter(false) end
   local present = place:ctxload(cx, "vlan_present")
   local some, none = cx:split("ne", present, cx:const(0))
   cx:go(some)
   filter(true)
   cx:go(none)
   filter(false)
end

return M
