-- SPDX-License-Identifier: BSD-3-Clause
-- Places of the stack objects in the 512 bytes that a program has. Two that are not in use at the same time
-- may lie at the same place.

local reload = require "tideway.compiler.back.ebpf.reload"
local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

M.LARGEST = 512

-- Calls visit(slot, index in the block) for everything that an instruction touches.
local function each_touch(block, visit)
   for i, inst in ipairs(block.insts) do
      if inst.slot then visit(inst.slot, i) end
      for _, slot in ipairs(inst.objects or {}) do visit(slot, i) end
   end
end

-- For each slot: per block the first and last place where it is touched.
local function touches(program)
   local spans = {}
   for _, block in ipairs(program.blocks) do
      each_touch(block, function(slot, i)
         spans[slot] = spans[slot] or {}
         local of = spans[slot]
         local span = of[block]
         if span then span[2] = i else of[block] = { i, i } end
      end)
   end
   return spans
end

local function closure(start, following)
   local seen, work = {}, {}
   for block in pairs(start) do work[#work + 1] = block end
   while #work > 0 do
      for _, to in ipairs(following(table.remove(work))) do
         if not seen[to] then
            seen[to] = true
            work[#work + 1] = to
         end
      end
   end
   return seen
end

local function successors(block)
   local last = block.insts[#block.insts]
   return { last.yes or last.no, last.yes and last.no }
end

-- Whether blocks start and end with the slot in use: from the first touch on any way here to the last on any way
-- from here. For a spilled register it is known exactly.
local function in_use(slot, of, wanted)
   if not slot.spill then
      local before, after = closure(of, successors), closure(of, function(block) return block.preds end)
      return function(block) return before[block] and after[block], before[block], after[block] end
   end
   return function(block)
      local after = false
      for _, to in ipairs(successors(block)) do after = after or wanted[to][slot] end
      return wanted[block][slot] and after, wanted[block][slot], after
   end
end

local function extend(program, slot, of, wanted)
   local status = in_use(slot, of, wanted)
   for _, block in ipairs(program.blocks) do
      local span, through, before, after = of[block], status(block)
      if span or through then
         of[block] = { before and 0 or span[1], after and math.huge or span[2] }
      end
   end
end

local function overlap(a, b)
   for block, span in pairs(a) do
      local other = b[block]
      if other and span[1] <= other[2] and other[1] <= span[2] then return true end
   end
   return false
end

-- Lowest place below the frame pointer where a slot meets none that is in use with it.
local function find_place(slot, conflicts)
   table.sort(conflicts, function(a, b) return a.top < b.top end)
   local align = math.max(slot.align, slot.size >= 8 and 8 or slot.size >= 4 and 4 or slot.size >= 2 and 2 or 1)
   local size = math.ceil(slot.size / align) * align
   local depth = 0
   for _, other in ipairs(conflicts) do
      if depth + size <= other.top then break end
      depth = math.max(depth, math.ceil(other.bottom / align) * align)
   end
   slot.top, slot.bottom = depth, depth + size
end

--- Gives every stack object that the program touches its offset from the frame pointer, as slot.at.
---@param program table machine program, with block.preds
---@return integer bytes of stack
function M.layout(program)
   local spans, slots, used = touches(program), {}, 0
   local wanted = program.spills > 0 and reload.wanted(program) or nil
   for i, slot in ipairs(program.slots) do
      if spans[slot] then
         slot.order = i
         slots[#slots + 1] = slot
         extend(program, slot, spans[slot], wanted)
      end
   end
   table.sort(slots, function(a, b)
      if a.size ~= b.size then return a.size > b.size end
      return a.order < b.order
   end)
   for i, slot in ipairs(slots) do
      local conflicts = {}
      for j = 1, i - 1 do
         local other = slots[j]
         if slot.pinned or other.pinned or overlap(spans[slot], spans[other]) then
            conflicts[#conflicts + 1] = other
         end
      end
      find_place(slot, conflicts)
      slot.at = -slot.bottom
      used = math.max(used, slot.bottom)
   end
   used = math.ceil(used / 8) * 8
   if used > M.LARGEST then
      local err = diagnostic.new(slots[1].pos,
         ("the program needs %d bytes of stack, a program in the kernel has %d"):format(used, M.LARGEST),
         "use fewer or smaller keys and values at the same time, or keep them in a table's value")
      err.too_large = true
      error(err, 0)
   end
   return used
end

return M
