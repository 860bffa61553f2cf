-- SPDX-License-Identifier: BSD-3-Clause
-- Repair of the SSA form after blocks were copied: a value that has come to have several definitions gets parameters
-- where they meet (Braun and others: Simple and Efficient Construction of Static Single Assignment Form).

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"

local M = {}

local Value = {}
Value.__index = Value

local function resolve(state, v)
   while state.same[v] do v = state.same[v] end
   return v
end

function Value:at_end(block)
   return self.defs[block] or self:at_start(block)
end

function Value:at_start(block)
   local known = self.start[block]
   if known then return resolve(self, known) end
   local edges = self.graph.preds[block]
   if #edges == 1 then
      local v = self:at_end(edges[1].block)
      self.start[block] = v
      return v
   end
   if #edges == 0 then error(("v%d is used where it is not defined"):format(self.of.id)) end
   local of = self.of
   local p = { op = "param", type = of.type, args = {}, lo = of.lo, hi = of.hi, space = of.space, pos = of.pos,
      name = of.name, block = block }
   self.start[block] = p
   local incoming, only = {}, nil
   for i, edge in ipairs(edges) do
      local v = self:at_end(edge.block)
      incoming[i] = v
      if v ~= p then
         if only == nil then only = v elseif only ~= v then only = false end
      end
   end
   if only then
      self.same[p], self.start[block] = only, only
      return only
   end
   self.program.values = self.program.values + 1
   p.id = self.program.values
   block.params[#block.params + 1] = p
   self.added[#self.added + 1] = { edges = edges, values = incoming }
   return p
end

local function gather(graph, defs)
   local uses, order = {}, {}
   local function look(block, list, v, i)
      if not defs[v] or defs[v][block] then return end
      if not uses[v] then
         uses[v] = {}
         order[#order + 1] = v
      end
      table.insert(uses[v], { block = block, list = list, i = i })
   end
   for _, block in ipairs(graph.order) do
      for _, v in ipairs(block.insts) do
         for i, a in ipairs(v.args) do look(block, v.args, a, i) end
      end
      for i, a in ipairs(block.term.args) do look(block, block.term.args, a, i) end
      for _, t in ipairs(ir.targets(block.term)) do
         for i, a in ipairs(t.args) do look(block, t.args, a, i) end
      end
   end
   return uses, order
end

-- The end of the frame is read again where it is needed: checks want it by name.
local function read_again(program, of, uses)
   local reads = {}
   for _, use in ipairs(uses) do
      if not reads[use.block] then
         reads[use.block] = ir.value(program, of.op, of.type, {}, { space = of.space, pos = of.pos })
         table.insert(use.block.insts, 1, reads[use.block])
      end
      use.list[use.i] = reads[use.block]
   end
end

local function join(program, graph, v, defs, uses)
   local state = setmetatable({
      of = v, defs = defs, start = {}, same = {}, added = {}, graph = graph, program = program,
   }, Value)
   for _, use in ipairs(uses) do use.to = state:at_start(use.block) end
   for _, use in ipairs(uses) do use.list[use.i] = resolve(state, use.to) end
   for _, at in ipairs(state.added) do
      for i, edge in ipairs(at.edges) do
         local args = edge.target.args
         args[#args + 1] = resolve(state, at.values[i])
      end
   end
end

--- Makes every use of the values in `defs` one of the definition that reaches it.
---@param program tideway.ir.program
---@param defs table<tideway.ir.value, table<tideway.ir.block, tideway.ir.value>> by value: its definitions by block
function M.repair(program, defs)
   local graph = graphs.of(program)
   local uses, order = gather(graph, defs)
   for _, v in ipairs(order) do
      if v.op == "pktend" then read_again(program, v, uses[v]) else join(program, graph, v, defs[v], uses[v]) end
   end
end

return M
