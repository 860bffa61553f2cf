-- SPDX-License-Identifier: BSD-3-Clause
-- Gives the parts of a register's life that have nothing to do with each other names of their own, so that each
-- can have the register that suits it.

local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}

local NONE = {}
local READS_DST, WRITES_DST, WRITES_SRC = insn.READS_DST, insn.WRITES_DST, insn.WRITES_SRC

local function find(parent, node)
   while parent[node] ~= node do
      parent[node] = parent[parent[node]]
      node = parent[node]
   end
   return node
end

-- Numbers the parts of one register's life: nodes at block starts and at writes, joined where one goes on as another.
local function parts(program, reg, named, live_in)
   local parent, at_start, node_of = {}, {}, {}
   local function new()
      parent[#parent + 1] = #parent + 1
      return #parent
   end
   for _, block in ipairs(program.blocks) do
      if live_in[block].set[reg] then at_start[block] = new() end
   end
   for _, block in ipairs(program.blocks) do
      local node = at_start[block]
      for _, inst in ipairs(named[block] and block.insts or NONE) do
         local form = inst.form
         if inst.src == reg or (inst.dst == reg and READS_DST[form]) then node_of[inst] = { node, node } end
         if inst.dst == reg and WRITES_DST[form] and not READS_DST[form] then
            local read = node
            node = new()
            node_of[inst] = { node, read } -- what it writes, what it reads
         elseif inst.src == reg and WRITES_SRC[form] then node_of[inst] = { node, node }
         end
      end
      local last = block.insts[#block.insts]
      for _, to in ipairs { last.yes or last.no, last.yes and last.no } do
         if at_start[to] then parent[find(parent, node)] = find(parent, at_start[to]) end
      end
   end
   return parent, node_of
end

--- Renames the parts of some registers' lives.
---@param program table machine program
---@param regs integer[]
---@param named table<integer, table<table, boolean>> the blocks in which each is named
---@param live_in table<table, table>
---@param renamed fun(reg: integer, part: integer) told of every new name
function M.rename(program, regs, named, live_in, renamed)
   for _, reg in ipairs(regs) do
      local parent, node_of = parts(program, reg, named[reg], live_in)
      local names = {}
      local function name(node)
         local root = find(parent, node)
         if not names[root] then
            names[root] = next(names) and program:fresh(program.names[reg]) or reg
            if names[root] ~= reg then renamed(reg, names[root]) end
         end
         return names[root]
      end
      for _, block in ipairs(program.blocks) do -- in order: names are given out in this order
         for _, inst in ipairs(named[reg][block] and block.insts or NONE) do
            local nodes = node_of[inst]
            if nodes then
               local dst, src = inst.dst == reg, inst.src == reg
               if dst then inst.dst = name(nodes[1]) end
               if src then inst.src = name(nodes[2]) end
            end
         end
      end
   end
end

return M
