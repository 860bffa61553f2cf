-- SPDX-License-Identifier: BSD-3-Clause
-- Moves registers that found no place to the stack: a load before each use, a store after each write. What is
-- a constant or the address of a stack object is made anew at each use instead.

local insn = require "tideway.compiler.back.ebpf.insn"
local live = require "tideway.compiler.back.ebpf.live"

local M = {}

local FIRST = insn.FIRST_VIRTUAL

local function can_repeat(inst) return inst.form == insn.DEF and not inst.src end

--- The one instruction that defines each register that can be made anew anywhere.
---@return table<integer, table>
function M.repeatable(program)
   local found, list = {}, {}
   for _, block in ipairs(program.blocks) do
      for _, inst in ipairs(block.insts) do
         for i = 1, live.writes(inst, list) do
            local reg = list[i]
            found[reg] = found[reg] == nil and can_repeat(inst) and inst or false
         end
      end
   end
   return found
end

local function copy_of(inst, dst)
   local copy = {}
   for k, v in pairs(inst) do copy[k] = v end
   copy.dst = dst
   return copy
end

---@class tideway.ebpf.spiller
---@field place table<integer, table> stack object, or instruction to repeat, of each spilled register

local function slot_access(self, form, code, reg, slot)
   local inst = { form = form, code = code, off = 0, slot = slot, pos = self.pos }
   if form == insn.DEF then inst.dst, inst.src = reg, insn.FRAME else inst.dst, inst.src = insn.FRAME, reg end
   self.program.spills = self.program.spills + 1
   return inst
end

-- A short-lived register with the value of a spilled one.
local function fetch(self, reg)
   local temp = self.program:fresh(self.program.names[reg])
   self.unspillable[temp] = true
   local at = self.place[reg]
   self.insts[#self.insts + 1] = at.form and copy_of(at, temp)
      or slot_access(self, insn.DEF, insn.LDX + insn.SIZE[64], temp, at)
   return temp
end

-- A copy to or from a spilled register is itself the store or the load. Returns true when it was one.
local function rewrite_move(self, inst)
   local from, to = self.place[inst.src], self.place[inst.dst]
   if from and from == to then return true end
   if from and not to then
      self.insts[#self.insts + 1] = from.form and copy_of(from, inst.dst)
         or slot_access(self, insn.DEF, insn.LDX + insn.SIZE[64], inst.dst, from)
      return true
   elseif to and not from and inst.src ~= insn.FRAME then
      self.insts[#self.insts + 1] = slot_access(self, insn.STORE, insn.STX + insn.SIZE[64], inst.src, to)
      return true
   end
   return false
end

local function rewrite(self, inst)
   local place, insts = self.place, self.insts
   self.pos = inst.pos
   if inst.form == insn.MOVE and rewrite_move(self, inst) then return end
   local dst, src = inst.dst, inst.src
   if can_repeat(inst) and place[dst] == inst then return end -- made anew where it is used
   if src and src >= FIRST and place[src] then
      inst.src = fetch(self, src)
   end
   if dst and dst >= FIRST and place[dst] then
      if dst == src then inst.dst = inst.src
      elseif insn.READS_DST[inst.form] then inst.dst = fetch(self, dst)
      else
         inst.dst = self.program:fresh(self.program.names[dst])
         self.unspillable[inst.dst] = true
      end
   end
   insts[#insts + 1] = inst
   local written = insn.WRITES_DST[inst.form] and dst or insn.WRITES_SRC[inst.form] and src
   if written and place[written] then
      local reg = insn.WRITES_DST[inst.form] and inst.dst or inst.src
      insts[#insts + 1] = slot_access(self, insn.STORE, insn.STX + insn.SIZE[64], reg, place[written])
   end
end

--- Rewrites the program so that the registers of `spilled` are no longer live anywhere.
---@param program table machine program
---@param spilled integer[]
---@param alias table<integer, integer> registers that became one with others
---@param unspillable table<integer, boolean> gets the new, short-lived registers
function M.spill(program, spilled, alias, unspillable)
   local repeatable, place = M.repeatable(program), {}
   local group = {}
   for _, reg in ipairs(spilled) do group[reg] = { reg } end
   for reg in pairs(alias) do
      local root = reg
      while alias[root] do root = alias[root] end
      if group[root] then table.insert(group[root], reg) end
   end
   for _, reg in ipairs(spilled) do
      local members = group[reg]
      local again = #members == 1 and repeatable[reg]
      local at = again or program:slot(8, 8)
      at.spill = not again or nil
      for _, member in ipairs(members) do place[member] = at end
   end
   local self = { program = program, place = place, unspillable = unspillable }
   for _, block in ipairs(program.blocks) do
      local old = block.insts
      self.insts = {}
      for _, inst in ipairs(old) do rewrite(self, inst) end
      block.insts = self.insts
   end
end

return M
