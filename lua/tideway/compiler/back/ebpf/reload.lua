-- SPDX-License-Identifier: BSD-3-Clause
-- What registers hold already: loads of spilled registers and constants that are still there go, as do stores
-- of spilled registers that nobody loads.

local insn = require "tideway.compiler.back.ebpf.insn"
local live = require "tideway.compiler.back.ebpf.live"

local M = {}

local MOV = insn.ALU64 + insn.X + insn.ALU.mov

local function loaded(inst) return inst.form == insn.DEF and inst.slot and inst.slot.spill and not inst.lea end
local function stored(inst) return inst.form == insn.STORE and inst.slot and inst.slot.spill end

-- What an instruction that reads no register puts into one, as something to compare; nil: something else.
local function content_of(inst)
   if loaded(inst) then return inst.slot end
   if inst.form == insn.DEF and not inst.src and not inst.lea and not inst.table then
      return ("%d:%d:%d"):format(inst.code, inst.imm, inst.high or 0)
   end
end

-- What registers hold: held[reg][content].
local function holder(held, content)
   for reg = 0, insn.ALLOCATABLE - 1 do if held[reg] and held[reg][content] then return reg end end
end

local function load_content(inst, content, held, kept)
   local dst = inst.dst
   if held[dst] and held[dst][content] then return end
   local reg = holder(held, content)
   if reg and (inst.slot or inst.code == insn.LDDW) then -- a copy is shorter or faster
      inst.form, inst.code, inst.src, inst.off, inst.slot = insn.MOVE, MOV, reg, nil, nil
      inst.imm, inst.high = nil, nil
   end
   kept[#kept + 1] = inst
   held[dst] = { [content] = true }
end

local function store_content(inst, held, kept)
   local slot, src = inst.slot, inst.src
   if held[src] and held[src][slot] then return end
   kept[#kept + 1] = inst
   for reg = 0, insn.ALLOCATABLE - 1 do if held[reg] then held[reg][slot] = nil end end
   held[src] = held[src] or {}
   held[src][slot] = true
end

-- Goes through a block with what each register holds at its start: values of slots, constants. What a register holds
-- already is not loaded again; what another holds is copied.
local function forward_block(block, held)
   local kept, list = {}, {}
   for _, inst in ipairs(block.insts) do
      local content = content_of(inst)
      if content then load_content(inst, content, held, kept)
      elseif stored(inst) then store_content(inst, held, kept)
      else
         kept[#kept + 1] = inst
         for i = 1, live.writes(inst, list) do held[list[i]] = nil end
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
      for reg, contents in pairs(before or {}) do
         held[reg] = {}
         for content in pairs(contents) do held[reg][content] = true end
      end
      at_end[block] = forward_block(block, held)
   end
end

--- For each block the set of slots of spilled registers that are loaded after its start before they are stored.
---@return table<table, table>
function M.wanted(program)
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
   local wanted = M.wanted(program)
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
   forward(program)
   if program.spills == 0 then return end
   drop_stores(program)
   program.spills = count(program)
end

return M
