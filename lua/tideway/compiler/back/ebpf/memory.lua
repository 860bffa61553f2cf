-- SPDX-License-Identifier: BSD-3-Clause
-- Selection of pointers, loads, stores and atomics: offsets in the instructions, bounds where the verifier wants
-- to see them.

local insn = require "tideway.compiler.back.ebpf.insn"
local control = require "tideway.compiler.back.ebpf.control"
local known = require "tideway.compiler.back.ebpf.known"

local M = {}

-- The verifier grants a range behind a packet pointer only where all that was added to it, and what the check
-- looks ahead, is at most this.
local LARGEST_FRAME = 65535

M.OP = {}
local OP = M.OP

-- ---- pointers ----

-- Whether nothing that has an instruction stands between a pointer and the check of it that ends its block.
local function checked_next(s, pointer)
   local term, insts = s.current.term, s.current.insts
   if term.op ~= "check" or s.uses:base(term.args[1]) ~= pointer then return false end
   for i = #insts, 1, -1 do
      if insts[i] == pointer then return true end
      if s.uses:wanted(insts[i]) then return false end
   end
   return false
end

-- Shows the verifier that a pointer's index is at most `limit`, where it does not know. The front end proved that
-- it is at most index.hi, so a mask above that changes nothing. Where a mask is too coarse it takes a branch: what
-- is beyond the largest frame is outside of this one.
local function bounded(s, pointer, index, limit)
   local out, reg = s.out, s:operand(index)
   local lo, hi = s.known:range(index, s.current)
   if lo and lo >= 0 and hi <= limit then return reg end
   local mask = known.mask(index.hi)
   if mask <= limit then
      local copy = out:move(out:fresh(index.name), reg)
      return out:alu_const("and", mask > 2147483647 and 32 or 64, copy, insn.halves(mask))
   end
   local rest = out:new_block(s.current.id, out.block.depth, out.pos)
   if checked_next(s, pointer) then
      local outside = control.edge(s, s.current.term.targets[2])
      out:branch("ugt", 64, reg, nil, limit, outside, rest)
      out:at(rest)
      return reg
   end
   local copy = out:move(out:fresh(index.name), reg)
   local clamp = out:new_block(s.current.id, out.block.depth, out.pos)
   out:branch("ule", 64, copy, nil, limit, rest, clamp)
   out:at(clamp)
   out:constant(copy, insn.halves(limit))
   out:jump(rest)
   out:at(rest)
   return copy
end

function OP.ptradd(s, value)
   local u, out = s.uses, s.out
   local index = u:resolve(value.args[2])
   if index.op == "const" then -- too far for an offset in a load
      local dst = s:into(s:define(value), value.args[1])
      return out:alu("add", 64, dst, s:operand(index))
   end
   local at = s:place(value.args[1])
   local inner, constant = u:split_index(value)
   index = inner or index
   local bias = (at.slot and 0 or at.off) + (constant or 0)
   local limit = value.space == "pkt" and math.max(0, LARGEST_FRAME - u:reach(value) - bias) or index.hi
   -- An index into the frame is never negative, by the tests in front of it if not by its own range.
   local provable = index.lo and (index.lo >= 0 or value.space == "pkt")
   local reg = provable and bounded(s, value, index, limit) or s:operand(index)
   local dst = s:define(value)
   if at.slot then
      out:lea(dst, at.slot, at.off)
      s.objects[value] = { at.slot }
   else
      out:move(dst, at.reg)
      s.objects[value] = at.objects
   end
   out:alu("add", 64, dst, reg)
   if bias ~= 0 then s.bias[value] = bias end
end

function OP.alloca(s, value) s.slot[value] = s.out:slot(value.size, value.align or 8, value.pos) end

-- ---- loads and stores ----

local function place(s, value)
   local at = s:place(value.args[1])
   at.off = at.off + (value.off or 0)
   if not at.slot and at.off + value.bits / 8 > 32768 then -- an instruction's offset has 16 bits
      at.reg = s.out:alu_const("add", 64, s.out:move(s.out:fresh(), at.reg), at.off)
      at.off = 0
   end
   return at
end

-- The stack wants aligned accesses: the width of the pieces of one that is not.
local function piece(at, bits)
   if not at.slot then return bits end
   local bytes = bits / 8
   while at.off % bytes ~= 0 do bytes = bytes / 2 end
   return bytes * 8
end

function OP.load(s, value)
   local out, bits, at = s.out, value.bits, place(s, value)
   local step = piece(at, bits)
   local dst = s:define(value)
   out:load(step, dst, at, at.off + (bits - step) / 8)
   for low = bits - 2 * step, 0, -step do
      out:alu_const("shl", 64, dst, step)
      out:alu("or", 64, dst, out:load(step, out:fresh(), at, at.off + low / 8))
   end
end

local function store_pieces(s, at, bits, step, value)
   local out = s.out
   local rest = s:into(out:fresh(), value)
   for low = 0, bits - step, step do
      out:store(step, at, rest, at.off + low / 8)
      if low + step < bits then out:alu_const("shr", 64, rest, step) end
   end
end

function OP.store(s, value)
   local bits, at, content = value.bits, place(s, value), value.args[2]
   local step = piece(at, bits)
   if step ~= bits then return store_pieces(s, at, bits, step, content) end
   local low, high = s:const_of(content)
   if low and (bits < 64 or insn.fits_signed(low, high)) then
      return s.out:store_const(bits, at, bits < 32 and low % 2 ^ bits or low)
   end
   s:pin(content)
   s.out:store(bits, at, s:operand(content))
end

function OP.atomic(s, value)
   local out, at = s.out, place(s, value)
   if value.kind == "cmpxchg" then
      local new = s:operand(value.args[3])
      s:into(0, value.args[2])
      out:atomic("cmpxchg", value.bits, at, new, true)
      if value.type ~= "void" then out:move(s:define(value), 0) end
   elseif value.fetch or value.kind == "xchg" then
      local dst = s:into(s:define(value), value.args[2])
      out:atomic(value.kind, value.bits, at, dst, true)
   else
      out:atomic(value.kind, value.bits, at, s:operand(value.args[2]))
   end
end

return M
