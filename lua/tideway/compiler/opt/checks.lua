-- SPDX-License-Identifier: BSD-3-Clause
-- Bounds checks: a check that every path has made already goes; a check grows to the size of the one that follows
-- anyway, where a shorter frame would have come to the same end.

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local memory = require "tideway.compiler.opt.memory"

local M = {}

-- ---- proved on all paths ----

-- What holds at the start of a block: for each packet pointer the least that every edge has proved.
local function meet(edges, out)
   local all
   for _, edge in ipairs(edges) do
      local known = out[edge.target]
      if known then -- else a back edge in the first round: taken for whatever the others prove
         if not all then
            all = {}
            for p, n in pairs(known) do all[p] = n end
         else
            for p, n in pairs(all) do
               local m = known[p]
               all[p] = m and math.min(n, m)
            end
         end
      end
   end
   return all or {}
end

-- A parameter has what its arguments have.
local function through_params(block, edges, out, known)
   for i, p in ipairs(block.params) do
      if p.type == "ptr" and p.space == "pkt" then
         local least = math.huge
         for _, edge in ipairs(edges) do
            local o = out[edge.target]
            if o then least = math.min(least, o[edge.target.args[i]] or -1) end
         end
         known[p] = least >= 0 and least < math.huge and least or nil
      end
   end
end

local function same(a, b)
   for p, n in pairs(a) do
      if b[p] ~= n then return false end
   end
   for p in pairs(b) do
      if a[p] == nil then return false end
   end
   return true
end

local function leave(block, known, out)
   local changed, term = false, block.term
   for way, t in ipairs(ir.targets(term)) do
      local o = known
      if term.op == "check" and way == 1 and term.n > (known[term.args[1]] or -1) then
         o = {}
         for p, n in pairs(known) do o[p] = n end
         o[term.args[1]] = term.n
      end
      if not out[t] or not same(out[t], o) then out[t], changed = o, true end
   end
   return changed
end

--- Removes the checks that have been made on every path to them.
---@param program tideway.ir.program
---@return integer removed
function M.available(program)
   local any = false
   for _, block in ipairs(program.blocks) do any = any or block.term.op == "check" end
   if not any then return 0 end
   local graph = graphs.of(program)
   local out, start, changed = {}, {}, true
   while changed do
      changed = false
      for _, block in ipairs(graph.order) do
         local edges = graph.preds[block]
         local known = meet(edges, out)
         through_params(block, edges, out, known)
         start[block] = known
         if leave(block, known, out) then changed = true end
      end
   end
   local count = 0
   for _, block in ipairs(graph.order) do
      local term = block.term
      if term.op == "check" and term.n <= (start[block][term.args[1]] or -1) then
         block.term = { op = "jmp", args = {}, targets = { term.targets[1] }, pos = term.pos }
         count = count + 1
      end
   end
   return count
end

-- ---- raising ----

local EVERYTHING = math.huge

local function visible(block)
   for _, v in ipairs(block.insts) do
      if memory.visible(v) then return true end
   end
   return false
end

local function returned(block, args)
   local v = block.term.args[1]
   for i, p in ipairs(block.params) do
      if p == v and args then v = args[i] end
   end
   return v.op == "const" and v or nil
end

-- The constant that is returned when an edge is taken, with nothing visible before; nil when that is not so.
local function outcome(target)
   local args = target.args
   local block = target.block
   for _ = 1, 20 do
      if visible(block) then return nil end
      local term = block.term
      if term.op == "ret" then return returned(block, args) end
      if term.op ~= "jmp" then return nil end
      args, block = term.targets[1].args, term.targets[1].block
   end
   return nil
end

-- The greatest n such that a frame without n bytes from pointer p comes from this edge to the same end as `result`,
-- with nothing visible before. Memory of blocks seen is in `memo`; a block in progress is a loop.
local function demanded(target, p, result, memo)
   local block = target.block
   local term = block.term
   if term.op == "ret" then
      if visible(block) then return 0 end
      local v = returned(block, target.args)
      return v and v.type == result.type and v.value == result.value and EVERYTHING or 0
   end
   if memo[block] then return memo[block] end
   memo[block] = 0
   local n
   if visible(block) then
      n = 0
   elseif term.op == "jmp" then
      n = demanded(term.targets[1], p, result, memo)
   else
      local first = demanded(term.targets[1], p, result, memo)
      local second = demanded(term.targets[2], p, result, memo)
      if term.op == "check" and term.args[1] == p then
         n = math.min(second, math.max(first, term.n))
      else
         n = math.min(first, second)
      end
   end
   memo[block] = n
   return n
end

-- How far from the frame's start the pointer may be; nil when that is not known.
local function reach(p)
   local far = 0
   while p.op == "ptradd" do
      far = far + p.args[2].hi
      p = p.args[1]
   end
   return p.op == "pktdata" and far or nil
end

--- Lets checks ask for as much as later ones on the same pointer will.
---@param program tideway.ir.program
---@return integer raised
function M.raise(program)
   local count = 0
   for _, block in ipairs(program.blocks) do
      local term = block.term
      if term.op == "check" then
         local result = outcome(term.targets[2])
         if result then
            local p = term.args[1]
            local n = demanded(term.targets[1], p, result, {})
            local far = reach(p)
            if n > term.n and n < EVERYTHING and far and far + n <= 65535 then
               term.n = n
               count = count + 1
            end
         end
      end
   end
   return count
end

return M
