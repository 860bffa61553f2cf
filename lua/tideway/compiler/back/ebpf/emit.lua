-- SPDX-License-Identifier: BSD-3-Clause
-- From machine blocks in their final order, registers given out, to the words of a program.

local insn = require "tideway.compiler.back.ebpf.insn"
local ir = require "tideway.compiler.ir"
local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

local BRANCH, GOTO, CALLING, RETURN = insn.BRANCH, insn.GOTO, insn.CALLING, insn.RETURN
local X, JUMP = insn.X, insn.JUMP

-- A branch is one instruction when one of its ways is the next block, else two.
local function branch_size(inst, following)
   if inst.no == following then return 1 end
   if inst.yes == following then return inst.cc == "set" and 2 or 1 end
   return 2
end

local function is_exit(block) return #block.insts == 1 and block.insts[1].form == RETURN end

local function size_of(inst, following)
   if inst.form == BRANCH then return branch_size(inst, following) end
   if inst.form == GOTO then return inst.yes == following and 0 or 1 end
   if inst.code == insn.LDDW then return 2 end
   if inst.lea then return (inst.slot.at + inst.imm) == 0 and 1 or 2 end
   return 1
end

-- Places of the blocks; also notes on each instruction where it stands.
local function measure(blocks)
   local at, place = 0, {}
   for i, block in ipairs(blocks) do
      place[block] = at
      for _, inst in ipairs(block.insts) do
         inst.at = at
         at = at + size_of(inst, blocks[i + 1])
      end
   end
   return at, place
end

local Writer = {}
Writer.__index = Writer

function Writer:word(code, dst, src, off, imm)
   local word = self.words[self.count]
   word.code, word.regs, word.off, word.imm = code, dst + src * 16, off, imm
   self.count = self.count + 1
end

function Writer:distance(block, pos)
   local off = self.place[block] - self.count - 1
   if off > 32767 or off < -32768 then
      diagnostic.raise(pos, ("the program has %d instructions: a branch reaches 32768"):format(self.total),
         "make the chain shorter or its loops smaller")
   end
   return off
end

function Writer:jump(block, pos)
   if is_exit(block) then return self:word(insn.EXIT, 0, 0, 0, 0) end
   self:word(insn.JA, 0, 0, self:distance(block, pos), 0)
end

function Writer:branch(inst, following)
   local cc, to, other = inst.cc, inst.yes, inst.no
   local function conditional(off)
      self:word(inst.code + JUMP[cc] + (inst.src and X or 0), inst.dst, inst.src or 0, off, inst.imm or 0)
   end
   if to == following and other ~= following and cc ~= "set" then
      cc, to, other = ir.NEGATED[cc], other, to
   end
   conditional(self:distance(to, inst.pos))
   if other ~= following then self:jump(other, inst.pos) end
end

function Writer:inst(inst, following)
   local form = inst.form
   if form == BRANCH then return self:branch(inst, following) end
   if form == GOTO then
      if inst.yes ~= following then self:jump(inst.yes, inst.pos) end
   elseif form == CALLING then self:word(inst.code, 0, 0, 0, inst.imm)
   elseif form == RETURN then self:word(inst.code, 0, 0, 0, 0)
   elseif inst.code == insn.LDDW then
      if inst.table then
         self.relocs[#self.relocs + 1] = { insn = self.count, table = inst.table,
            kind = inst.kind == insn.MAP_VALUE and "value" or nil,
            value = inst.kind == insn.MAP_VALUE and inst.high or nil }
      end
      self:word(inst.code, inst.dst, inst.table and inst.kind or 0, 0, inst.imm)
      self:word(0, 0, 0, 0, inst.high)
   elseif inst.lea then
      local at = inst.slot.at + inst.imm
      self:word(insn.ALU64 + X + insn.ALU.mov, inst.dst, insn.FRAME, 0, 0)
      if at ~= 0 then self:word(inst.code, inst.dst, 0, 0, at) end
   else
      local off = (inst.off or 0) + (inst.slot and inst.slot.at or 0)
      self:word(inst.code, inst.dst or 0, inst.src or 0, off, inst.imm or 0)
   end
end

---@param blocks table[] in their order
---@return table with insns, count, lines, relocs, blocks
function M.emit(blocks)
   local total, place = measure(blocks)
   local insns, words = insn.array(total)
   local self = setmetatable({ words = words, count = 0, total = total, place = place, relocs = {} }, Writer)
   local lines, starts, last = {}, {}, nil
   for i, block in ipairs(blocks) do
      starts[i] = { insn = self.count, id = block.id, pos = block.pos }
      for _, inst in ipairs(block.insts) do
         local before, pos = self.count, inst.pos
         self:inst(inst, blocks[i + 1])
         if self.count > before and pos
            and not (last and last.line == pos.line and last.col == pos.col and last.file == pos.file) then
            lines[#lines + 1] = { insn = before, pos = pos }
            last = pos
         end
      end
   end
   assert(self.count == total, "lengths do not agree")
   return { insns = insns, count = total, lines = lines, relocs = self.relocs, blocks = starts }
end

return M
