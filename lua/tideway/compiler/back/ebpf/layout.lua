-- SPDX-License-Identifier: BSD-3-Clause
-- Order of the machine blocks, and what follows from it: jumps to jumps, a copy moved before a branch so that the
-- block it stood in disappears.

local insn = require "tideway.compiler.back.ebpf.insn"
local live = require "tideway.compiler.back.ebpf.live"

local M = {}

local BRANCH, GOTO = insn.BRANCH, insn.GOTO

local function last_of(block) return block.insts[#block.insts] end

-- ---- clean-up ----

-- Where a jump to a block ends up: past blocks that only jump on.
local function destination(block)
   local seen = {}
   while #block.insts == 1 and block.insts[1].form == GOTO and not seen[block] do
      seen[block] = true
      block = block.insts[1].yes
   end
   return block
end

--- Jumps go where they end up; a branch with both ways the same is a jump.
function M.thread(program)
   for _, block in ipairs(program.blocks) do
      local last = last_of(block)
      if last.yes then last.yes = destination(last.yes) end
      if last.no then last.no = destination(last.no) end
      if last.form == BRANCH and last.yes == last.no then
         block.insts[#block.insts] = { form = GOTO, code = insn.JA, yes = last.yes, pos = last.pos }
      end
   end
end

--- Drops what cannot be reached, and joins a block to the only one that jumps to it.
function M.simplify(program)
   local seen, kept = {}, {}
   local work = { program.blocks[1] }
   seen[work[1]] = true
   while #work > 0 do
      local last = last_of(table.remove(work))
      for _, to in ipairs { last.yes or last.no, last.yes and last.no } do
         if not seen[to] then
            seen[to] = true
            work[#work + 1] = to
         end
      end
   end
   for _, block in ipairs(program.blocks) do if seen[block] then kept[#kept + 1] = block end end
   program.blocks = kept
   live.link(kept)
   local gone = {}
   for _, block in ipairs(kept) do
      while not gone[block] and last_of(block).form == GOTO do
         local to = last_of(block).yes
         if #to.preds ~= 1 or to == block or to == kept[1] then break end
         block.insts[#block.insts] = nil
         if #block.insts == 0 then block.id = to.id end
         for _, inst in ipairs(to.insts) do block.insts[#block.insts + 1] = inst end
         gone[to] = true
      end
   end
   local blocks = {}
   for _, block in ipairs(kept) do if not gone[block] then blocks[#blocks + 1] = block end end
   program.blocks = blocks
   live.link(blocks)
end

-- ---- copies before branches ----

-- Whether an instruction may be carried out although it was not asked for.
local function harmless(inst)
   return inst.form == insn.MOVE or (inst.form == insn.DEF and not inst.src and not inst.lea and not inst.slot
      and inst.code ~= insn.LDDW)
end

-- A block of one copy and a jump, behind a branch: its copy goes before the branch when the other way does
-- not need the register. The jump is saved.
local function hoist_from(block, side, other, live_in)
   local last = last_of(block)
   local between = last[side]
   local copy = between.insts[1]
   if #between.insts ~= 2 or #between.preds ~= 1 or not harmless(copy) then return false end
   if between.insts[2].form ~= GOTO then return false end
   local reg = copy.dst
   if reg == last.dst or reg == last.src or live_in[last[other]].set[reg] then return false end
   table.insert(block.insts, #block.insts, copy)
   last[side] = between.insts[2].yes
   return true
end

--- Registers are given out: blocks of one copy behind branches disappear where that is possible. What lives where
-- does not change elsewhere by that. Returns whether there was one.
function M.hoist(program)
   local live_in = live.analyse(program.blocks)
   local changed = false
   for _, block in ipairs(program.blocks) do
      if last_of(block).form == BRANCH then
         changed = hoist_from(block, "yes", "no", live_in) or hoist_from(block, "no", "yes", live_in) or changed
      end
   end
   return changed
end

-- ---- order ----

-- The way that a branch should fall through to: into the loop, else where more is done. Out of a loop whose end the
-- verifier does not know: it goes that way first, with what it knows after the fewest rounds, and finds the same or
-- more in the others then, which end there.
local function preferred(last)
   if last.form ~= BRANCH then return last.yes, nil end
   local yes, no = last.yes, last.no
   if last.cc == "set" then return no, yes end
   if yes.depth ~= no.depth then
      if (yes.depth > no.depth) ~= (last.out_first or false) then return yes, no end
      return no, yes
   end
   if last_of(no).form == insn.RETURN and last_of(yes).form ~= insn.RETURN then return yes, no end
   return no, yes
end

--- Blocks in the order in which they are emitted: each after all that lead to it (save over back edges).
function M.order(program)
   local state, waiting, order, back = {}, {}, {}, {}
   local function depth_first(block)
      state[block] = "open"
      local last = last_of(block)
      for _, to in ipairs { last.yes or last.no, last.yes and last.no } do
         if state[to] == "open" then back[block] = back[block] or {}; back[block][to] = true
         else
            waiting[to] = (waiting[to] or 0) + 1
            if not state[to] then depth_first(to) end
         end
      end
      state[block] = "closed"
   end
   depth_first(program.blocks[1])
   local ready = { program.blocks[1] }
   while #ready > 0 do
      local block = table.remove(ready)
      while block do
         order[#order + 1] = block
         local first, second = preferred(last_of(block))
         local following
         for _, to in ipairs { second or false, first or false } do
            if to and not (back[block] and back[block][to]) then
               waiting[to] = waiting[to] - 1
               if waiting[to] == 0 then
                  if to == first then following = to else ready[#ready + 1] = to end
               end
            end
         end
         block = following
      end
   end
   program.blocks = order
   return order
end

return M
