-- SPDX-License-Identifier: BSD-3-Clause
-- Splitting of paths: where paths meet and a later branch asks which of them it was (TCP or UDP? found or not?), what
-- lies between is copied for the paths that have a constant answer, until jump threading can take the branch out.

local copying = require "tideway.compiler.opt.copy"
local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local ssa = require "tideway.compiler.opt.ssa"

local M = {}

local STEPS = 32 -- blocks copied at most

-- Look-ups in tables with more entries are best done for all packets at once (back/c/bulk.lua), so there is to be one.
local LARGE = 16384

-- Instructions of a block; a call counts for four. Objects on the stack have one place.
local function cost(block)
   local sum = 1
   for _, v in ipairs(block.insts) do
      if v.op == "alloca" or v.op == "call" and v.table and (v.table.entries or 0) > LARGE then return math.huge end
      sum = sum + (v.op == "call" and 4 or 1)
   end
   return sum
end

-- Parameters that branches compare with a constant: those that another block's branch does, itself or by way of a
-- parameter of its own, and all.
local function asked(graph)
   local later, all, goes_to, work = {}, {}, {}, {}
   local function ask(p, elsewhere)
      if elsewhere then later[p] = true end
      if all[p] then return end
      all[p] = true
      work[#work + 1] = p
   end
   for _, block in ipairs(graph.order) do
      local a, b = block.term.args[1], block.term.args[2]
      if block.term.op == "br" and b.op == "const" then a, b = b, a end
      if block.term.op == "br" and a.op == "const" and b.op == "param" then ask(b, b.block ~= block) end
      for _, t in ipairs(ir.targets(block.term)) do
         for i, v in ipairs(t.args) do
            local q = t.block.params[i]
            goes_to[q] = goes_to[q] or {}
            if v.op == "param" then table.insert(goes_to[q], v) end
         end
      end
   end
   while #work > 0 do
      for _, p in ipairs(goes_to[table.remove(work)] or {}) do
         later[p] = true
         ask(p)
      end
   end
   return later
end

-- The edges into a block that bring different constants for a parameter that is asked for later; all but one of them.
local function edges_of(graph, block, later)
   for i, p in ipairs(block.params) do
      if later[p] then
         local first, list = nil, {}
         for _, edge in ipairs(graph.preds[block]) do
            local a = edge.target.args[i]
            if a.op == "const" and first == nil then
               first = a
            elseif a.op == "const" and (a.value ~= first.value or a.object ~= first.object) then
               list[#list + 1] = edge
            end
         end
         if #list == 0 and first and #graph.preds[block] > 1 then -- the others are not known
            for _, edge in ipairs(graph.preds[block]) do
               if edge.target.args[i] == first then list[#list + 1] = edge end
            end
         end
         if #list > 0 and #list < #graph.preds[block] then return list end
      end
   end
end

local function clone(program, block)
   local copy, map, mapped = copying.block(program, block)
   local term = {}
   for k, x in pairs(block.term) do term[k] = x end
   term.args, term.targets = mapped(block.term.args), {}
   for i, t in ipairs(ir.targets(block.term)) do term.targets[i] = { block = t.block, args = mapped(t.args) } end
   copy.term = term
   return copy, map
end

local function in_loops(graph)
   local set = {}
   for _, loop in ipairs(graphs.loops(graph)) do
      for block in pairs(loop.blocks) do set[block] = true end
   end
   return set
end

-- Copies the first block that should be; what it cost, nil when there is none.
local function step(program, budget)
   local graph = graphs.of(program)
   local later, looped = asked(graph), in_loops(graph)
   for _, block in ipairs(graph.order) do
      local edges = #graph.preds[block] > 1 and not looped[block] and cost(block) <= budget
         and edges_of(graph, block, later)
      if edges then
         local copy, map = clone(program, block)
         for _, edge in ipairs(edges) do edge.target.block = copy end
         local defs = {}
         copying.define(block, copy, map, defs)
         ssa.repair(program, defs)
         return cost(block)
      end
   end
end

--- Copies what lies between paths that meet and branches that ask which one was taken.
---@param program tideway.ir.program
---@param budget integer instructions that may be added
---@param clean fun() drops what the copies have decided
---@return integer blocks copied
function M.run(program, budget, clean)
   local done = 0
   while done < STEPS do
      local spent = step(program, budget)
      if not spent then break end
      clean()
      budget, done = budget - spent, done + 1
   end
   return done
end

return M
