-- SPDX-License-Identifier: BSD-3-Clause
-- The control flow graph of a program: reverse postorder, predecessors, dominators. A picture of the moment: a pass
-- that changes edges asks for a new one. Dominators are found when somebody looks at them.

local M = {}

---@class tideway.ir.graph
---@field order tideway.ir.block[] the reachable blocks in reverse postorder; order[1] is the entry
---@field index table<tideway.ir.block, integer> a block's place in order; nil when unreachable
---@field preds table<tideway.ir.block, { block: tideway.ir.block, target: table }[]> edges into a block
---@field idom table<tideway.ir.block, tideway.ir.block> immediate dominator; nil for the entry
---@field children table<tideway.ir.block, tideway.ir.block[]> of the dominator tree, in reverse postorder
---@field enter table<tideway.ir.block, integer> when a walk of the dominator tree enters
---@field leave table<tideway.ir.block, integer> and leaves the block

local NONE = {}

local function postorder(entry)
   local order, state, stack, at = {}, { [entry] = true }, { entry }, { 1 }
   local depth = 1
   while depth > 0 do
      local block = stack[depth]
      local targets = block.term.targets or NONE
      local i = at[depth]
      -- the last target first: in reverse postorder the first then follows its source
      local target = targets[#targets - i + 1]
      if target then
         at[depth] = i + 1
         local to = target.block
         if not state[to] then
            state[to] = true
            depth = depth + 1
            stack[depth], at[depth] = to, 1
         end
      else
         order[#order + 1] = block
         depth = depth - 1
      end
   end
   return order
end

-- Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm.
local function dominators(graph)
   local order, index, preds = graph.order, graph.index, graph.preds
   local idom = { 1 }
   local changed = true
   while changed do
      changed = false
      for i = 2, #order do
         local new
         local edges = preds[order[i]]
         for e = 1, #edges do
            local p = index[edges[e].block]
            if idom[p] then
               if not new then
                  new = p
               else
                  local q = new
                  while p ~= q do
                     while p > q do p = idom[p] end
                     while q > p do q = idom[q] end
                  end
                  new = p
               end
            end
         end
         if idom[i] ~= new then
            idom[i] = new
            changed = true
         end
      end
   end
   return idom
end

local function number_tree(graph)
   graph.enter, graph.leave = {}, {}
   local clock = 0
   local function visit(block)
      clock = clock + 1
      graph.enter[block] = clock
      local children = graph.children[block]
      for i = 1, #children do visit(children[i]) end
      clock = clock + 1
      graph.leave[block] = clock
   end
   visit(graph.order[1])
end

local function dominator_tree(graph)
   local order, idom = graph.order, dominators(graph)
   graph.idom, graph.children = {}, {}
   for i = 1, #order do graph.children[order[i]] = {} end
   for i = 2, #order do
      local block, parent = order[i], order[idom[i]]
      graph.idom[block] = parent
      local children = graph.children[parent]
      children[#children + 1] = block
   end
end

-- What is made when it is asked for.
local LATER = { idom = dominator_tree, children = dominator_tree, enter = number_tree, leave = number_tree }
local meta = { __index = function(graph, key)
   if LATER[key] then
      LATER[key](graph)
      return rawget(graph, key)
   end
end }

--- The graph of a program, of its reachable blocks.
---@param program tideway.ir.program
---@return tideway.ir.graph
function M.of(program)
   local back = postorder(program.blocks[1])
   local order, index, preds = {}, {}, {}
   local n = #back
   for i = 1, n do
      local block = back[n - i + 1]
      order[i], index[block], preds[block] = block, i, {}
   end
   for i = 1, n do
      local block = order[i]
      local targets = block.term.targets or NONE
      for t = 1, #targets do
         local target = targets[t]
         local list = preds[target.block]
         list[#list + 1] = { block = block, target = target }
      end
   end
   return setmetatable({ order = order, index = index, preds = preds }, meta)
end

--- Whether every path to block `b` goes through block `a` (also when they are one).
function M.dominates(graph, a, b)
   return graph.enter[a] <= graph.enter[b] and graph.leave[a] >= graph.leave[b]
end

--- The natural loops: a list of { header =, blocks = set, latches = {blocks}, entries = {edges from outside} }, inner
--- ones after the ones around them.
function M.loops(graph)
   local loops, by_header = {}, {}
   for i, block in ipairs(graph.order) do
      for _, edge in ipairs(graph.preds[block]) do
         if graph.index[edge.block] >= i and M.dominates(graph, block, edge.block) then
            local loop = by_header[block]
            if not loop then
               loop = { header = block, blocks = { [block] = true }, latches = {}, entries = {} }
               by_header[block], loops[#loops + 1] = loop, loop
            end
            loop.latches[#loop.latches + 1] = edge.block
            local work = { edge.block }
            while #work > 0 do
               local b = table.remove(work)
               if not loop.blocks[b] then
                  loop.blocks[b] = true
                  for _, e in ipairs(graph.preds[b]) do work[#work + 1] = e.block end
               end
            end
         end
      end
   end
   for _, loop in ipairs(loops) do
      for _, edge in ipairs(graph.preds[loop.header]) do
         if not loop.blocks[edge.block] then loop.entries[#loop.entries + 1] = edge end
      end
   end
   return loops
end

return M
