-- SPDX-License-Identifier: BSD-3-Clause
-- Selection of arithmetic: two addresses, immediates where they fit, 32 bits where that is shorter or faster.

local insn = require "tideway.compiler.back.ebpf.insn"
local build = require "tideway.compiler.back.ebpf.build"
local demand = require "tideway.compiler.back.ebpf.demand"
local known = require "tideway.compiler.back.ebpf.known"

local M = {}

local U32 = 2 ^ 32 - 1

--- Whether a value is a num within lo..hi.
function M.in_range(value, lo, hi)
   return value.type == "num" and value.lo ~= nil and value.lo >= lo and value.hi <= hi
end

--- Whether a value is a num of 32 bits without sign.
function M.within_u32(value) return M.in_range(value, 0, U32) end

-- The immediate for `op` with a constant, and the width to do it in; nil when there is none.
local function immediate(op, w, low, high, a, result)
   if w == 32 then return low, 32 end
   if insn.fits_signed(low, high) then return low, 64 end
   -- 32-bit operations clear the upper half.
   if high == 0 and (op == "and" or (M.within_u32(a) and M.within_u32(result))) then return low, 32 end
end

-- Multiplication, division and remainder by 2^k. Returns true when that was it.
local function by_power_of_two(s, op, w, dst, low, high)
   local shift = high == 0 and low > 0 and known.log2(low)
   if not shift then return false end
   if op == "mul" then s.out:alu_const("shl", w, dst, shift)
   elseif op == "div" then s.out:alu_const("shr", w, dst, shift)
   elseif op == "mod" then s.out:alu_const("and", w, dst, low - 1)
   else return false
   end
   return true
end

-- A mask of the low k bits that no immediate holds: two shifts.
local function masked(s, op, w, dst, low, high)
   local ones = op == "and" and w == 64 and high > 0 and low == -1 and known.log2(high + 1)
   if not ones then return false end
   s.out:alu_const("shl", 64, dst, 32 - ones)
   s.out:alu_const("shr", 64, dst, 32 - ones)
   return true
end

local function with_constant(s, value, w, dst, a, low, high)
   local op, out = value.op, s.out
   if op == "and" and w == 64 and low == -1 and high == 0 then return out:move32(dst, s:operand(a)) end
   s:into(dst, a)
   if by_power_of_two(s, op, w, dst, low, high) or masked(s, op, w, dst, low, high) then return end
   if op == "sub" and low ~= -2147483648 and insn.fits_signed(low, high) then
      op, low = "add", -low
      high = low < 0 and -1 or 0
   end
   local imm, width = immediate(op, w, low, high, a, value)
   if imm then return out:alu_const(op, width, dst, imm) end
   out:alu(op, w, dst, out:constant(out:fresh(), low, high))
end

-- 2^k - 1 less a value of k bits is the value with all of them changed.
local function flips_bits(a, b)
   return a.op == "const" and a.type == "num" and a.value < 2 ^ 31 and known.log2(a.value + 1) ~= nil
      and M.in_range(b, 0, a.value)
end

local function arithmetic(s, value)
   local op, w, u = value.op, value.w or 64, s.uses
   local a, b = u:resolve(value.args[1]), u:resolve(value.args[2])
   if build.COMMUTES[op] and a.op == "const" then a, b = b, a end
   -- A short division is several times faster.
   if (op == "div" or op == "mod") and M.within_u32(a) and M.within_u32(b) then w = 32 end
   if op == "shr" and s.loose[a] and demand.shifts_low(a, b) then w = 32 end
   local low, high = s:const_of(b)
   local cleans = op == "and" and high == 0 -- a mask of up to 32 bits
   if w == 64 and (s.loose[a] or s.loose[b]) and not cleans then s.loose[value] = true end
   local dst = s:define(value)
   if low then return with_constant(s, value, w, dst, a, low, high) end
   if op == "sub" and insn.is_zero(a) then
      s:into(dst, b)
      return s.out:alu_const("neg", w, dst, 0)
   end
   if op == "sub" and flips_bits(a, b) then
      s:into(dst, b)
      return s.out:alu_const("xor", 64, dst, a.value)
   end
   local rb = s:operand(b)
   s:into(dst, a)
   s.out:alu(op, w, dst, rb)
end

M.OP = {}
local OP = M.OP

for op in ("add sub mul div mod and or xor shl shr sar"):gmatch "%S+" do OP[op] = arithmetic end

-- Whether the extension of a value changes nothing, or nothing that is looked at.
local function extends_nothing(s, value, a, lo, hi)
   if M.in_range(a, lo, hi) and not s.loose[a] then return true end
   if value.bits < 32 or s.whole[value] then return false end
   s.loose[value] = true
   return true
end

function OP.zext(s, value)
   local a, bits = s.uses:resolve(value.args[1]), value.bits
   local dst = s:define(value)
   if extends_nothing(s, value, a, 0, 2 ^ bits - 1) then return s:into(dst, a) end
   if bits == 32 then return s.out:move32(dst, s:operand(a)) end
   s:into(dst, a)
   s.out:alu_const("and", 64, dst, 2 ^ bits - 1)
end

function OP.sext(s, value)
   local a, bits = s.uses:resolve(value.args[1]), value.bits
   local dst = s:into(s:define(value), a)
   if extends_nothing(s, value, a, -2 ^ (bits - 1), 2 ^ (bits - 1) - 1) then return end
   s.out:alu_const("shl", 64, dst, 64 - bits)
   s.out:alu_const("sar", 64, dst, 64 - bits)
end

function OP.bswap(s, value) s.out:swap(value.bits, s:into(s:define(value), value.args[1])) end

function OP.convert(s, value)
   s.loose[value] = s.loose[s.uses:resolve(value.args[1])]
   s:into(s:define(value), value.args[1])
end

return M
