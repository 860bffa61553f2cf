-- SPDX-License-Identifier: BSD-3-Clause
-- Machine code that is there twice: blocks that do the same become one, as do the ends of blocks that go on to the
-- same place. Registers are given out, the places of the stack objects are known.

local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}

local GOTO, RETURN = insn.GOTO, insn.RETURN
local SHORTEST_TAIL = 3 -- a shared tail costs a jump

local function last_of(block) return block.insts[#block.insts] end

-- ---- what an instruction does, as a text ----

local Signer = {}
Signer.__index = Signer

local function signer() return setmetatable({ number = {}, count = 0 }, Signer) end

function Signer:id(object)
   if object == nil then return "" end
   if not self.number[object] then
      self.count = self.count + 1
      self.number[object] = self.count
   end
   return self.number[object]
end

function Signer:sign(inst)
   return table.concat({ inst.code, inst.dst or "", inst.src or "", inst.off or "", inst.imm or "", inst.high or "",
      inst.nargs or "", inst.cc or "", inst.lea and "lea" or "", inst.slot and inst.slot.at or "",
      self:id(inst.table), self:id(inst.yes), self:id(inst.no) }, ",")
end

-- ---- whole blocks ----

local LONGEST_TWIN = 16

local function signature(block, s)
   if #block.insts > LONGEST_TWIN then return nil end
   local parts = {}
   for i, inst in ipairs(block.insts) do parts[i] = s:sign(inst) end
   return table.concat(parts, ";")
end

--- Ends of the program stand in blocks of their own, so that one does for all that return the same.
function M.split_returns(program)
   for k = 1, #program.blocks do
      local block = program.blocks[k]
      local insts = block.insts
      local n = #insts
      if insts[n].form == RETURN and n > 2 and insts[n - 1].form == insn.DEF and insts[n - 1].dst == 0 then
         local last = program:new_block(block.id, block.depth, insts[n - 1].pos)
         last.insts = { insts[n - 1], insts[n] }
         insts[n] = nil
         insts[n - 1] = { form = GOTO, code = insn.JA, yes = last, pos = last.pos }
      end
   end
end

--- Blocks that do the same become one.
function M.merge_blocks(program)
   repeat
      local s, first, same, changed = signer(), {}, {}, false
      local kept = {}
      for i, block in ipairs(program.blocks) do
         local key = i > 1 and signature(block, s)
         if key and first[key] then
            same[block], changed = first[key], true
         else
            kept[#kept + 1] = block
            if key then first[key] = block end
         end
      end
      program.blocks = kept
      for _, block in ipairs(kept) do
         local last = last_of(block)
         last.yes, last.no = same[last.yes] or last.yes, same[last.no] or last.no
      end
   until not changed
end

-- ---- tails ----

local function common_tail(a, b, s)
   local k = 0
   local x, y = a.insts, b.insts
   while k < #x - 1 and k < #y - 1 do
      local i, j = x[#x - k - 1], y[#y - k - 1]
      if i.code ~= j.code or i.dst ~= j.dst or i.src ~= j.src or s:sign(i) ~= s:sign(j) then break end
      k = k + 1
   end
   return k
end

-- The block that starts `k` instructions and a jump before the end of this one.
local function cut(program, block, k)
   local insts = block.insts
   local at = #insts - k -- the first of the tail
   local tail = program:new_block(block.id, block.depth, insts[at].pos)
   for i = at, #insts do tail.insts[#tail.insts + 1] = insts[i] end
   for i = #insts, at, -1 do insts[i] = nil end
   insts[at] = { form = GOTO, code = insn.JA, yes = tail, pos = tail.insts[1].pos }
   return tail
end

-- Of the blocks that go on to one place, the two with the longest end in common.
local function best_pair(group, s)
   local best, first, second = SHORTEST_TAIL - 1, nil, nil
   for i = 1, #group do
      for j = i + 1, #group do
         local k = common_tail(group[i], group[j], s)
         if k > best then best, first, second = k, group[i], group[j] end
      end
   end
   return first, second, best
end

local LARGEST_GROUP = 24

--- Ends that blocks have in common become blocks of their own.
function M.merge_tails(program)
   local groups, order = {}, {}
   for _, block in ipairs(program.blocks) do
      local last = last_of(block)
      if last.form == GOTO and #block.insts > SHORTEST_TAIL then
         if not groups[last.yes] then
            groups[last.yes] = {}
            order[#order + 1] = last.yes
         end
         table.insert(groups[last.yes], block)
      end
   end
   local s = signer()
   for _, to in ipairs(order) do
      local group = groups[to]
      local a, b, k = nil, nil, nil
      if #group <= LARGEST_GROUP then a, b, k = best_pair(group, s) end
      while a do
         local tail = cut(program, a, k)
         local insts = b.insts
         for i = #insts, #insts - k, -1 do insts[i] = nil end
         insts[#insts + 1] = { form = GOTO, code = insn.JA, yes = tail, pos = tail.insts[1].pos }
         group[#group + 1] = tail
         for i = #group, 1, -1 do if group[i] == a or group[i] == b then table.remove(group, i) end end
         a, b, k = best_pair(group, s)
      end
   end
end

return M
