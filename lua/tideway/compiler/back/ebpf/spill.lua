-- SPDX-License-Identifier: BSD-3-Clause
-- Moves registers that found no place to the stack. What is a constant or the address of a stack object is made
-- anew at each use instead. What lives across calls is split first: stored where it is written, loaded again at
-- its first use behind a call, in a register between. Only when that does not help it is loaded before each use.

local insn = require "tideway.compiler.back.ebpf.insn"
local live = require "tideway.compiler.back.ebpf.live"
local web = require "tideway.compiler.back.ebpf.web"

local M = {}

local WRITES_DST, READS_DST, WRITES_SRC = insn.WRITES_DST, insn.READS_DST, insn.WRITES_SRC
local LOAD, STORE = insn.LDX + insn.SIZE[64], insn.STX + insn.SIZE[64]

local NONE = {}

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

local function load(reg, slot, pos)
   return { form = insn.DEF, code = LOAD, dst = reg, src = insn.FRAME, off = 0, slot = slot, pos = pos }
end

local function store(slot, reg, pos)
   return { form = insn.STORE, code = STORE, dst = insn.FRAME, src = reg, off = 0, slot = slot, pos = pos }
end

local function reads(inst, reg) return inst.src == reg or (inst.dst == reg and READS_DST[inst.form]) end

local function writes(inst, reg)
   return (inst.dst == reg and WRITES_DST[inst.form]) or (inst.src == reg and WRITES_SRC[inst.form])
end

-- ---- splitting at calls ----

-- Where registers are named: for each the set of blocks. And the blocks with calls.
local function look(program)
   local named, calls = setmetatable({}, { __index = function() return NONE end }), {}
   local function note(reg, block)
      local set = rawget(named, reg)
      if set then set[block] = true else named[reg] = { [block] = true } end
   end
   for _, block in ipairs(program.blocks) do
      for _, inst in ipairs(block.insts) do
         if inst.dst then note(inst.dst, block) end
         if inst.src then note(inst.src, block) end
         if inst.form == insn.CALLING then calls[block] = true end
      end
   end
   return { named = named, calls = calls }
end

-- A fact about a register that instructions make true or false: `change(block, i)` says which, or nil. Gives the
-- blocks at whose start it is true whatever way led there; at the entry it is not. Only the blocks of `matter` can
-- change it.
local function always(program, matter, change)
   local effects, at_start, work = {}, {}, {}
   for k, block in ipairs(program.blocks) do
      for i = 1, matter[block] and #block.insts or 0 do
         local to = change(block, i)
         if to ~= nil then effects[block] = to end
      end
      at_start[block] = k > 1
      if effects[block] == false or (k == 1 and effects[block] == nil) then work[#work + 1] = block end
   end
   while #work > 0 do
      local last = table.remove(work).insts
      last = last[#last]
      for _, to in ipairs { last.yes or last.no, last.yes and last.no } do
         if at_start[to] then
            at_start[to] = false
            if effects[to] == nil then work[#work + 1] = to end
         end
      end
   end
   return at_start
end

-- Whether a register's value is needed behind an instruction.
local function needed_after(block, i, reg, live_out)
   for k = i + 1, #block.insts do
      local inst = block.insts[k]
      if reads(inst, reg) then return true end
      if writes(inst, reg) then return false end
   end
   return live_out[block].set[reg] == true
end

-- The value is in the register: since it was written or loaded, until the next call.
local function in_register(reg)
   return function(block, i)
      local inst = block.insts[i]
      if inst.dst == reg or inst.src == reg then return true end
      if inst.form == insn.CALLING then return false end
   end
end

-- The value is in the slot, when it is stored before calls: since a call, until it is written.
local function in_slot(reg, live_out)
   return function(block, i)
      local inst = block.insts[i]
      if writes(inst, reg) then return false end
      if inst.form == insn.CALLING and needed_after(block, i, reg, live_out) then return true end
   end
end

-- The blocks that name a register, and those where it lives across a call.
local function concerned(program, reg, live_out, where)
   local matter, named = {}, where.named[reg]
   for _, block in ipairs(program.blocks) do
      matter[block] = named[block] or where.calls[block] and live_out[block].set[reg] or nil
   end
   return matter
end

-- Calls visit(block, i, inst, in register, in slot) for each instruction that may matter, with what holds before it.
local function each(program, reg, live_out, matter, visit)
   local register, slot = in_register(reg), in_slot(reg, live_out)
   local register_at, slot_at = always(program, matter, register), always(program, matter, slot)
   for _, block in ipairs(program.blocks) do
      local here, there = register_at[block], slot_at[block]
      for i, inst in ipairs(matter[block] and block.insts or NONE) do
         visit(block, i, inst, here, there)
         local to = register(block, i)
         if to ~= nil then here = to end
         to = slot(block, i)
         if to ~= nil then there = to end
      end
   end
end

-- Where a register has to be loaded, where it is written, and where it would be stored before calls: nil when that
-- is not possible, as where a way on which it was written meets one on which it has only been stored.
local function plan(program, reg, live_out, matter)
   local loads, writings, stores = {}, {}, {}
   each(program, reg, live_out, matter, function(block, i, inst, here, there)
      if not here and reads(inst, reg) then
         loads[#loads + 1] = inst
         if not there then stores = nil end
      end
      if writes(inst, reg) then writings[#writings + 1] = inst end
      if stores and not there and inst.form == insn.CALLING and needed_after(block, i, reg, live_out) then
         stores[#stores + 1] = inst
         if not here then stores = nil end
      end
   end)
   return loads, writings, stores
end

local function set_of(list)
   local set = {}
   for _, item in ipairs(list) do set[item] = true end
   return set
end

-- Splits a register; false when no call is in its way. It is stored where it is written or, where that takes no
-- more stores, before calls: what leaves the program early then stores nothing.
local function split(program, reg, slot, live_out, where)
   local matter = concerned(program, reg, live_out, where)
   local loads, writings, stores = plan(program, reg, live_out, matter)
   if #loads == 0 then return false end
   local late = stores and #stores <= #writings
   local load_at, store_before = set_of(loads), set_of(late and stores or {})
   local store_after = set_of(late and {} or writings)
   for block in pairs(matter) do
      local insts = {}
      for _, inst in ipairs(block.insts) do
         if load_at[inst] then insts[#insts + 1] = load(reg, slot, inst.pos) end
         if store_before[inst] then insts[#insts + 1] = store(slot, reg, inst.pos) end
         insts[#insts + 1] = inst
         if store_after[inst] then insts[#insts + 1] = store(slot, reg, inst.pos) end
      end
      block.insts = insts
   end
   where.named[reg] = matter
   return true
end

-- ---- spilling everywhere ----

local function copy_of(inst, dst)
   local copy = {}
   for k, v in pairs(inst) do copy[k] = v end
   copy.dst = dst
   return copy
end

---@class tideway.ebpf.spiller
---@field place table<integer, table> stack object, or instruction to repeat, of each spilled register
---@field insts table[] what is written

-- Makes `reg` hold the value of a spilled register.
local function fetch_into(self, reg, spilled)
   local at = self.place[spilled]
   self.insts[#self.insts + 1] = at.form and copy_of(at, reg) or load(reg, at, self.pos)
   return reg
end

local function short_lived(self, spilled)
   local reg = self.program:fresh(self.program.names[spilled])
   self.unspillable[reg] = true
   return reg
end

-- A copy to or from a spilled register is itself the store or the load; what splitting has added goes. Returns
-- true when it was one.
local function rewrite_copy(self, inst)
   local place = self.place
   local from, to = place[inst.src], place[inst.dst]
   if can_repeat(inst) and to == inst then return true end
   if inst.slot and (from == inst.slot or to == inst.slot) then return true end
   if inst.form ~= insn.MOVE then return false end
   if from and not to then
      fetch_into(self, inst.dst, inst.src)
      return true
   elseif to and not to.form and not from and inst.src ~= insn.FRAME then
      self.insts[#self.insts + 1] = store(to, inst.src, self.pos)
      return true
   end
   return false
end

local function rewrite(self, inst)
   local place, insts, form = self.place, self.insts, inst.form
   self.pos = inst.pos
   if rewrite_copy(self, inst) then return end
   local dst, src = inst.dst, inst.src
   local spilled_dst, spilled_src = dst and place[dst] and dst, src and place[src] and src
   if spilled_src then inst.src = fetch_into(self, short_lived(self, src), src) end
   if spilled_dst then
      if dst == src then inst.dst = inst.src
      elseif READS_DST[form] then inst.dst = fetch_into(self, short_lived(self, dst), dst)
      else inst.dst = short_lived(self, dst)
      end
   end
   insts[#insts + 1] = inst
   if spilled_dst and WRITES_DST[form] then insts[#insts + 1] = store(place[dst], inst.dst, self.pos) end
   if spilled_src and WRITES_SRC[form] then insts[#insts + 1] = store(place[src], inst.src, self.pos) end
end

-- ---- which and how ----

-- Registers that became one with a spilled one get its name.
local function unite(program, spilled, alias)
   local is_spilled, rename = {}, {}
   for _, reg in ipairs(spilled) do is_spilled[reg] = true end
   for reg in pairs(alias) do
      local root = reg
      while alias[root] do root = alias[root] end
      if is_spilled[root] then
         rename[reg] = root
         program.names[root] = program.names[root] or program.names[reg]
      end
   end
   for _, block in ipairs(program.blocks) do
      local kept = {}
      for _, inst in ipairs(block.insts) do
         inst.dst, inst.src = rename[inst.dst] or inst.dst, rename[inst.src] or inst.src
         if inst.form ~= insn.MOVE or inst.dst ~= inst.src then kept[#kept + 1] = inst end
      end
      block.insts = kept
   end
end

--- Rewrites the program so that the registers of `spilled` are live in fewer places.
---@param program table machine program
---@param spilled integer[]
---@param alias table<integer, integer> registers that became one with others
---@param unspillable table<integer, boolean> gets the new, short-lived registers
---@param slots table<integer, table> stack objects of what was split before; gets those that are split now
function M.spill(program, spilled, alias, unspillable, slots)
   unite(program, spilled, alias)
   local repeatable, place, parted = M.repeatable(program), {}, {}
   local _, live_out = live.analyse(program.blocks)
   local where = look(program)
   for _, reg in ipairs(spilled) do
      if repeatable[reg] then place[reg] = repeatable[reg]
      else
         local slot = slots[reg]
         if not slot then
            slot = program:slot(8, 8)
            slot.spill = true
         end
         if slots[reg] or not split(program, reg, slot, live_out, where) then place[reg] = slot
         else parted[#parted + 1] = reg
         end
         slots[reg] = slot
      end
   end
   if #parted > 0 then
      local live_in = live.analyse(program.blocks)
      web.rename(program, parted, where.named, live_in, function(reg, part) slots[part] = slots[reg] end)
   end
   if not next(place) then return end
   local self = { program = program, place = place, unspillable = unspillable }
   for _, block in ipairs(program.blocks) do
      local old = block.insts
      self.insts = {}
      for _, inst in ipairs(old) do rewrite(self, inst) end
      block.insts = self.insts
   end
end

return M
