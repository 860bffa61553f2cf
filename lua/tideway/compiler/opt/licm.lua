-- SPDX-License-Identifier: BSD-3-Clause
-- Loop-invariant code: a pure instruction whose operands come from outside of the loop moves in front of it, where its
-- declared range holds there too.

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local arith = require "tideway.compiler.opt.arith"

local M = {}

local function bounds(v)
   if v.op == "const" then
      if type(v.value) == "number" and v.type ~= "ptr" then return v.value, v.value end
      return nil
   end
   return v.lo, v.hi
end

-- Whether the instruction may run where the branches inside of the loop have not been taken.
local function anywhere(v)
   if v.op == "ptradd" or v.op == "div" or v.op == "mod" then return false end
   if v.type ~= "num" then return true end
   local al, ah = bounds(v.args[1])
   local bl, bh
   if v.args[2] then bl, bh = bounds(v.args[2]) end
   if not al or v.args[2] and not bl then return false end
   local lo, hi = arith.range(v, al, ah, bl, bh)
   return lo ~= nil and lo >= v.lo and hi <= v.hi
end

local function invariant(v, inside)
   for _, a in ipairs(v.args) do
      if inside[a] then return false end
   end
   return true
end

local function hoist(loop, order)
   local entry = loop.entries[1].block
   if #loop.entries ~= 1 or entry.term.op ~= "jmp" then return 0 end
   local inside, count = {}, 0
   for block in pairs(loop.blocks) do
      for _, p in ipairs(block.params) do inside[p] = true end
      for _, v in ipairs(block.insts) do inside[v] = true end
   end
   for _, block in ipairs(order) do
      if loop.blocks[block] then
         local kept = {}
         for _, v in ipairs(block.insts) do
            if ir.PURE[v.op] and invariant(v, inside) and (block == loop.header or anywhere(v)) then
               entry.insts[#entry.insts + 1] = v
               inside[v] = nil
               count = count + 1
            else
               kept[#kept + 1] = v
            end
         end
         block.insts = kept
      end
   end
   return count
end

--- Moves what does not change in a loop in front of it.
---@param program tideway.ir.program
---@return integer moved
function M.run(program)
   local any = false
   for _, block in ipairs(program.blocks) do any = any or block.loop ~= nil end
   if not any then return 0 end
   local graph = graphs.of(program)
   local loops, count = graphs.loops(graph), 0
   for i = #loops, 1, -1 do count = count + hoist(loops[i], graph.order) end
   return count
end

return M
