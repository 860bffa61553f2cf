-- SPDX-License-Identifier: BSD-3-Clause
-- Whether every access to the frame is behind a check of its bytes on every path, as the kernel wants it: a check
-- counts for the pointer it was made of, for the same pointer with a constant added, and for a parameter that gets one.

local graphs = require "tideway.compiler.ir.graph"
local ir = require "tideway.compiler.ir"
local text = require "tideway.compiler.ir.text"

-- The pointer without the constants added to it, and their sum.
local function base_of(p)
   local off = 0
   while p.op == "ptradd" and p.args[2].op == "const" do
      off, p = off + p.args[2].value, p.args[1]
   end
   return p, off
end

-- Bytes from `p` that `state` says are in the frame.
local function proved(state, p)
   local base, off = base_of(p)
   return math.max(0, (state[base] or 0) - math.max(off, 0)), off
end

local function entering(block, edges, out)
   local state
   for _, edge in ipairs(edges) do
      local known = out[edge.target]
      if known then
         local mine = {}
         for p, n in pairs(known) do mine[p] = n end
         for i, p in ipairs(block.params) do
            if p.space == "pkt" and edge.target.args[i].op ~= "const" then
               mine[p] = proved(known, edge.target.args[i])
            end
         end
         if state then
            for p, n in pairs(state) do state[p] = mine[p] and math.min(n, mine[p]) or nil end
         else
            state = mine
         end
      end
   end
   return state or {}
end

local function leaving(block, state, out)
   local term, changed = block.term, false
   for way, t in ipairs(ir.targets(term)) do
      local after = {}
      for p, n in pairs(state) do after[p] = n end
      if term.op == "check" and way == 1 then
         local base, off = base_of(term.args[1])
         after[base] = math.max(after[base] or 0, off + term.n)
      end
      local old = out[t]
      for p, n in pairs(after) do changed = changed or not old or old[p] ~= n end
      for p in pairs(old or {}) do changed = changed or not after[p] end
      if not old or changed then
         changed = changed or not old
         out[t] = after
      end
   end
   return changed
end

local ACCESS = { load = true, store = true, atomic = true }

--- Whether the frame is only accessed where checks allow it: true, or nil and a sentence about an access that is not.
---@param program tideway.ir.program
---@return true?, string?
return function(program)
   if program.target == "lcore" then return true end
   local graph = graphs.of(program)
   local out, start, changed = {}, {}, true
   while changed do
      changed = false
      for _, block in ipairs(graph.order) do
         start[block] = entering(block, graph.preds[block], out)
         if leaving(block, start[block], out) then changed = true end
      end
   end
   for _, block in ipairs(graph.order) do
      for _, v in ipairs(block.insts) do
         if ACCESS[v.op] and v.args[1].space == "pkt" then
            local n, off = proved(start[block], v.args[1])
            local first = (v.off or 0)
            if off + first < 0 or first + v.bits / 8 > n then
               return nil, ("b%d: %s: only %d bytes are proved"):format(block.id, text.line(v), n)
            end
         end
      end
   end
   return true
end
