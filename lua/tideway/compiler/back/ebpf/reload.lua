-- SPDX-License-Identifier: BSD-3-Clause
-- Spilling loads before every use and stores after every write. Here go the loads of what a register still
-- holds, and the stores that nobody loads.

local insn = require "tideway.compiler.back.ebpf.insn"
local live = require "tideway.compiler.back.ebpf.live"

local M = {}

local MOV = insn.ALU64 + insn.X + insn.ALU.mov

local function loaded(inst) return inst.form == insn.DEF and inst.slot and inst.slot.spill and not inst.lea end
local function stored(inst) return inst.form == insn.STORE and inst.slot and inst.slot.spill end

-- Which register holds what each slot does, at the end of a block that is gone through from `held`.
local function forward_block(block, held)
   local kept, list = {}, {}
   local function forget(reg)
      for slot, r in pairs(held) do if r == reg then held[slot] = nil end end
   end
   for _, inst in ipairs(block.insts) do
      local slot = inst.slot
      if loaded(inst) then
         local reg, dst = held[slot], inst.dst
         if reg and reg ~= dst then
            inst.form, inst.code, inst.src, inst.off, inst.slot = insn.MOVE, MOV, reg, nil, nil
         end
         if reg ~= dst then
            kept[#kept + 1] = inst
            forget(dst)
            held[slot] = held[slot] or dst
         end
      elseif stored(inst) then
         if held[slot] ~= inst.src then kept[#kept + 1] = inst end
         held[slot] = inst.src
      else
         kept[#kept + 1] = inst
         for i = 1, live.writes(inst, list) do forget(list[i]) end
      end
   end
   block.insts = kept
   return held
end

local function forward(program)
   local at_end = {}
   for _, block in ipairs(program.blocks) do
      local held = {}
      local before = #block.preds == 1 and at_end[block.preds[1]]
      for slot, reg in pairs(before or {}) do held[slot] = reg end
      at_end[block] = forward_block(block, held)
   end
end

-- Slots that are loaded after the start of each block before they are stored.
local function wanted_slots(program)
   local wanted, work = {}, {}
   local stores = {}
   for _, block in ipairs(program.blocks) do
      wanted[block], stores[block] = {}, {}
      for _, inst in ipairs(block.insts) do
         if loaded(inst) and not stores[block][inst.slot] and not wanted[block][inst.slot] then
            wanted[block][inst.slot] = true
            work[#work + 1] = { block, inst.slot }
         elseif stored(inst) then stores[block][inst.slot] = true
         end
      end
   end
   while #work > 0 do
      local block, slot = unpack(table.remove(work))
      for _, pred in ipairs(block.preds) do
         if not stores[pred][slot] and not wanted[pred][slot] then
            wanted[pred][slot] = true
            work[#work + 1] = { pred, slot }
         end
      end
   end
   return wanted
end

local function drop_stores(program)
   local wanted = wanted_slots(program)
   for _, block in ipairs(program.blocks) do
      local needed, kept, last = {}, {}, block.insts[#block.insts]
      for _, to in ipairs { last.yes or last.no, last.yes and last.no } do
         for slot in pairs(wanted[to]) do needed[slot] = true end
      end
      for i = #block.insts, 1, -1 do
         local inst = block.insts[i]
         if loaded(inst) then needed[inst.slot] = true end
         if stored(inst) then
            if needed[inst.slot] then kept[#kept + 1] = inst end
            needed[inst.slot] = nil
         else
            kept[#kept + 1] = inst
         end
      end
      for i = 1, #kept do block.insts[i] = kept[#kept + 1 - i] end
      for i = #kept + 1, #block.insts do block.insts[i] = nil end
   end
end

local function count(program)
   local n = 0
   for _, block in ipairs(program.blocks) do
      for _, inst in ipairs(block.insts) do if loaded(inst) or stored(inst) then n = n + 1 end end
   end
   return n
end

--- Registers are given out; block.preds is known. Counts the accesses that are left, as program.spills.
---@param program table machine program
function M.simplify(program)
   if program.spills == 0 then return end
   forward(program)
   drop_stores(program)
   program.spills = count(program)
end

return M
