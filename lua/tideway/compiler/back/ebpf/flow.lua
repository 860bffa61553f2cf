-- SPDX-License-Identifier: BSD-3-Clause
-- Control flow of an IR program: order of the blocks, edges into each, how deep in loops each stands.

local graph = require "tideway.compiler.ir.graph"

local M = {}

---@class tideway.ebpf.flow
---@field order tideway.ir.block[] reachable blocks in reverse postorder
---@field number table<tideway.ir.block, integer> place of a block in `order`
---@field edges table<tideway.ir.block, table[]> edges into a block: { block = from where, target = { block, args } }
---@field depth table<tideway.ir.block, integer> loops around a block

---@return tideway.ebpf.flow
function M.analyse(program)
   local g = graph.of(program)
   local depth = {}
   for _, block in ipairs(g.order) do depth[block] = 0 end
   for _, loop in ipairs(graph.loops(g)) do
      for block in pairs(loop.blocks) do depth[block] = depth[block] + 1 end
   end
   return { order = g.order, number = g.index, edges = g.preds, depth = depth }
end

return M
