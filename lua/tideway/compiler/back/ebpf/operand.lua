-- SPDX-License-Identifier: BSD-3-Clause
-- Operands of the instructions that are being selected: what register an IR value is in, what place a pointer
-- points to. Every part of the selector calls these, as methods of it.

local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}

---@class tideway.ebpf.selector
---@field out table what is built (build.lua)
---@field uses table which values are needed, and how (uses.lua)
---@field known table what the verifier will know (known.lua)
---@field flow tideway.ebpf.flow
---@field target tideway.kernel.target
---@field current tideway.ir.block
---@field edges table registers with data and data_end, of this block
---@field block table<tideway.ir.block, table> machine block where each begins
---@field reg table<tideway.ir.value, integer> register of a value
---@field slot table<tideway.ir.value, table> stack object of an alloca
---@field bias table<tideway.ir.value, integer> what a pointer's register lacks: a constant left to its uses
---@field whole table<tideway.ir.value, boolean> more than the low 32 bits are looked at (demand.lua)
---@field loose table<tideway.ir.value, boolean> the upper half of its register may be anything
---@field objects table<tideway.ir.value, table[]> stack objects that a pointer in a register may point into

--- Halves of a constant, when the value is one and not an object; else nothing.
function M:const_of(value)
   value = self.uses:resolve(value)
   if value.op == "const" and not value.object then return insn.halves(value.value) end
end

--- Where a pointer points: { slot =, off = } in a stack object, or { reg =, off = }.
function M:place(pointer)
   pointer = self.uses:resolve(pointer)
   if pointer.op == "alloca" then return { slot = self.slot[pointer], off = 0 } end
   local base, off = self.uses:folded(pointer)
   if base then
      local at = self:place(base)
      at.off = at.off + off
      return at
   end
   return { reg = self.reg[pointer] or self:operand(pointer), off = self.bias[pointer] or 0,
      objects = self.objects[pointer] }
end

--- Makes register dst hold a value; returns dst.
function M:into(dst, value)
   local out = self.out
   value = self.uses:resolve(value)
   if value.op == "const" then
      if value.object then return out:map(dst, value.object, value.direct) end
      local low, high = insn.halves(value.value)
      return out:constant(dst, low, high)
   elseif value.type == "ptr" then
      local at = self:place(value)
      if at.slot then return out:lea(dst, at.slot, at.off) end
      out:move(dst, at.reg)
      if at.off ~= 0 then out:alu_const("add", 64, dst, at.off) end
      return dst
   end
   return out:move(dst, self.reg[value])
end

--- A register that holds a value; not to be written.
function M:operand(value)
   value = self.uses:resolve(value)
   local reg = self.reg[value]
   if reg and not self.bias[value] then return reg end
   return self:into(self.out:fresh(value.name), value)
end

--- The register that an instruction's result goes to.
function M:define(value)
   local reg = self.out:fresh(value.name)
   self.reg[value] = reg
   return reg
end

--- Register of the context, moved from r1 at the entry when somebody wants it.
function M:context()
   if not self.ctx then self.ctx = self.out:fresh "ctx" end
   return self.ctx
end

--- Stack object that a pointer points into, when it is known.
function M:object(pointer)
   pointer = self.uses:resolve(pointer)
   if pointer.op == "alloca" then return self.slot[pointer] end
   if pointer.op == "ptradd" then return self:object(pointer.args[1]) end
end

--- A pointer to the stack goes where the selector does not follow it: its object is there during the whole program.
function M:pin(pointer)
   local slot = self:object(pointer)
   if slot then slot.pinned = true end
end

return M
