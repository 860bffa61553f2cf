-- SPDX-License-Identifier: BSD-3-Clause
-- Liveness of registers: which hold a value that is still needed at the start and at the end of each block.

local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}

local FRAME = insn.FRAME
local WRITES_DST, READS_DST, WRITES_SRC = insn.WRITES_DST, insn.READS_DST, insn.WRITES_SRC
local CALLING, RETURN, EXCHANGE = insn.CALLING, insn.RETURN, insn.EXCHANGE

--- Registers read by an instruction, into `list`; returns how many.
function M.reads(inst, list)
   local n, form = 0, inst.form
   local src, dst = inst.src, inst.dst
   if src and src ~= FRAME then n = n + 1; list[n] = src end
   if READS_DST[form] and dst ~= FRAME then n = n + 1; list[n] = dst end
   if form == CALLING then
      for r = 1, inst.nargs do list[n + r] = r end
      n = n + inst.nargs
   elseif form == RETURN or form == EXCHANGE then
      n = n + 1
      list[n] = 0
   end
   return n
end

--- Registers written by an instruction, into `list`; returns how many. A call writes r0 to r5.
function M.writes(inst, list)
   local form = inst.form
   if WRITES_DST[form] then
      list[1] = inst.dst
      return 1
   elseif WRITES_SRC[form] then
      list[1] = inst.src
      return 1
   elseif form == CALLING then
      for r = 0, 5 do list[r + 1] = r end
      return 6
   elseif form == EXCHANGE then
      list[1] = 0
      return 1
   end
   return 0
end

-- Registers that a block reads before it writes them, and all that it writes.
local function local_sets(block, list)
   local exposed, killed, n = { set = {} }, {}, 0
   local set, insts = exposed.set, block.insts
   local reads, writes = M.reads, M.writes
   for k = 1, #insts do
      local inst = insts[k]
      for i = 1, reads(inst, list) do
         local r = list[i]
         if not killed[r] and not set[r] then
            n = n + 1
            set[r], exposed[n] = true, r
         end
      end
      if WRITES_DST[inst.form] then killed[inst.dst] = true
      else
         for i = 1, writes(inst, list) do killed[list[i]] = true end
      end
   end
   return exposed, killed
end

--- Predecessors of every block, as block.preds.
function M.link(blocks)
   for _, block in ipairs(blocks) do block.preds = {} end
   for _, block in ipairs(blocks) do
      local last = block.insts[#block.insts]
      if last.yes then last.yes.preds[#last.yes.preds + 1] = block end
      if last.no then last.no.preds[#last.no.preds + 1] = block end
   end
end

--- For each block: live_in and live_out, each a list of registers with the same as a `set`.
-- Every register that a block reads first is carried backwards, from block to block, up to where it is written.
---@return table<table, table> live_in
---@return table<table, table> live_out
function M.analyse(blocks)
   local list, killed_in, live_in, live_out = {}, {}, {}, {}
   M.link(blocks)
   for _, block in ipairs(blocks) do
      live_in[block], killed_in[block] = local_sets(block, list)
      live_out[block] = { set = {} }
   end
   local stack, regs, top = {}, {}, 0
   for _, block in ipairs(blocks) do
      for _, r in ipairs(live_in[block]) do
         top = top + 1
         stack[top], regs[top] = block, r
      end
   end
   while top > 0 do
      local block, r = stack[top], regs[top]
      top = top - 1
      local preds = block.preds
      for i = 1, #preds do
         local pred = preds[i]
         local out = live_out[pred]
         if not out.set[r] then
            out.set[r] = true
            out[#out + 1] = r
            local into = live_in[pred]
            if not killed_in[pred][r] and not into.set[r] then
               into.set[r] = true
               into[#into + 1] = r
               top = top + 1
               stack[top], regs[top] = pred, r
            end
         end
      end
   end
   return live_in, live_out
end

return M
