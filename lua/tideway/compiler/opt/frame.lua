-- SPDX-License-Identifier: BSD-3-Clause
-- Start, end and length of the frame as it came in: read once, at the program's start, where several places would
-- read them. The kernel knows checked bytes by the register, so one pointer means one check for all of its users.

local graphs = require "tideway.compiler.ir.graph"
local cfg = require "tideway.compiler.opt.cfg"

local M = {}

local FRAME = { pktdata = true, pktend = true, pktlen = true }

-- The reads that no call which resizes can come before, by operation.
local function first_reads(graph)
   local after, found, changed = {}, { pktdata = {}, pktend = {}, pktlen = {} }, true
   while changed do
      changed = false
      for _, block in ipairs(graph.order) do
         local resized = false
         for _, edge in ipairs(graph.preds[block]) do resized = resized or after[edge.block] or false end
         for _, v in ipairs(block.insts) do resized = resized or v.op == "call" and v.resizes or false end
         if resized and not after[block] then after[block], changed = true, true end
      end
   end
   for _, block in ipairs(graph.order) do
      local resized = false
      for _, edge in ipairs(graph.preds[block]) do resized = resized or after[edge.block] or false end
      for _, v in ipairs(block.insts) do
         resized = resized or v.op == "call" and v.resizes or false
         if FRAME[v.op] and not v.anew and not resized then table.insert(found[v.op], { block = block, value = v }) end
      end
   end
   return found
end

--- Moves such reads into the entry block.
---@param program tideway.ir.program
---@return integer moved
function M.hoist(program)
   local graph = graphs.of(program)
   local entry, map, moved, count = program.blocks[1], {}, {}, 0
   for _, list in pairs(first_reads(graph)) do
      local first = list[1]
      if first and (#list > 1 or #graph.preds[first.block] > 1) then
         moved[#moved + 1] = first.value
         for i, read in ipairs(list) do
            if i > 1 then map[read.value] = first.value end
            local insts = read.block.insts
            for k, v in ipairs(insts) do
               if v == read.value then
                  table.remove(insts, k)
                  break
               end
            end
            count = count + 1
         end
      end
   end
   table.sort(moved, function(a, b) return a.id < b.id end)
   for i, v in ipairs(moved) do table.insert(entry.insts, i, v) end
   cfg.substitute(program, map)
   return count
end

return M
