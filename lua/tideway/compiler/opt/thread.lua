-- SPDX-License-Identifier: BSD-3-Clause
-- Jump threading: where the edge on which a block is entered decides the block's branch, a copy of the block for that
-- edge goes straight on. This takes apart what inlining leaves behind: a function returns nil or a value in many
-- places, and its caller asks at once which it was.

local ir = require "tideway.compiler.ir"
local arith = require "tideway.compiler.opt.arith"
local copying = require "tideway.compiler.opt.copy"
local ssa = require "tideway.compiler.opt.ssa"

local M = {}

-- So many instructions may be copied; a call counts for four.
local COST = 6

local function cost(block)
   local sum = 0
   for _, v in ipairs(block.insts) do
      if v.op == "alloca" then return math.huge end
      sum = sum + (v.op == "call" and 4 or 1)
   end
   return sum
end

-- What `v` is on the edge: a parameter's argument, a constant, or a stand-in with better bounds.
local function on_edge(walk, known, v)
   if v.op == "const" then return v end
   return known[v] or walk.facts:resolve(v)
end

-- A packet pointer: the same sum made before, or a pointer and a constant.
local function follow_pointer(walk, known, v)
   local p, by = on_edge(walk, known, v.args[1]), on_edge(walk, known, v.args[2])
   if by.op == "const" then
      if p.op == "edge" then
         known[v] = { op = "edge", type = "ptr", args = {}, base = p.base, more = p.more + by.value }
      else
         known[v] = { op = "edge", type = "ptr", args = {}, base = p, more = by.value }
      end
   elseif p.op ~= "edge" and by.op ~= "edge" then
      known[v] = walk:numbered { op = "ptradd", type = "ptr", args = { p, by } }
   end
end

local function follow(walk, known, v)
   if v.op == "ptradd" and v.space == "pkt" then return follow_pointer(walk, known, v) end
   if v.type ~= "num" or not ir.PURE[v.op] then return end
   local a, b = v.args[1], v.args[2]
   a = on_edge(walk, known, a)
   b = b and on_edge(walk, known, b)
   if a.op == "const" and a.type ~= "ptr" and (not b or b.op == "const") then
      known[v] = arith.evaluate(v, a.value, b and b.value)
      return
   end
   local al, ah = walk.facts:range(a)
   local bl, bh
   if b then bl, bh = walk.facts:range(b) end
   if not al or b and not bl then return end
   local lo, hi = arith.range(v, al, ah, bl, bh)
   if not lo then return end
   lo, hi = math.max(lo, v.lo), math.min(hi, v.hi)
   if lo <= hi then known[v] = { op = "edge", type = "num", args = {}, id = v.id, lo = lo, hi = hi } end
end

--- Notes that `block`'s edge `target` decides the branch of the block it goes to.
function M.consider(walk, block, target)
   local to = target.block
   local term = to.term
   if to == block or to.loop or #walk.graph.preds[to] < 2 or term.op ~= "br" and term.op ~= "check" then return end
   if cost(to) > COST then return end
   local known = {}
   for i, p in ipairs(to.params) do
      local a = target.args[i]
      local lo, hi = walk.facts:range(a)
      if p.type == "num" and lo and a.op ~= "const" and (p.lo > lo or p.hi < hi) then
         a = { op = "edge", type = "num", args = {}, id = a.id, lo = math.max(lo, p.lo), hi = math.min(hi, p.hi) }
      end
      known[p] = a
   end
   for _, v in ipairs(to.insts) do follow(walk, known, v) end
   local a, b = term.args[1], term.args[2]
   a, b = on_edge(walk, known, a), on_edge(walk, known, b)
   local way = walk.facts:way(term, a.base or a, b, a.more)
   if not way then return end
   walk.threads[#walk.threads + 1] = {
      target = target, block = to, goal = term.targets[way], known = term.op == "check" and known or nil,
      branch = term.op == "br",
   }
end

-- What was proved, was proved of the pointer that is known on the edge: the copy uses that very one.
local function proved_pointer(program, known, v)
   local p = known and v.op == "ptradd" and known[v]
   if not p or p.op ~= "edge" then return p or nil end
   return nil, ir.value(program, "ptradd", "ptr", { p.base, ir.const(p.more, "num") }, { space = v.space, pos = v.pos })
end

local function clone(program, block, goal, known)
   local copy, map, mapped = copying.block(program, block, function(v) return proved_pointer(program, known, v) end)
   copy.term = {
      op = "jmp", args = {}, targets = { { block = goal.block, args = mapped(goal.args) } }, pos = block.term.pos,
   }
   return copy, map
end

-- The pointers that a copy will use from elsewhere.
local function proved_pointers(t)
   local list = {}
   for _, v in ipairs(t.known and t.block.insts or {}) do
      local p = v.op == "ptradd" and t.known[v]
      if p then list[#list + 1] = p.op == "edge" and p.base or p end
   end
   return list
end

-- A value that a copy uses from elsewhere must stay the only one of its name: a block that makes it is not copied as
-- well. The next round may do it.
local function apart(t, defs, used)
   for _, p in ipairs(proved_pointers(t)) do
      if defs[p] then return false end
   end
   for _, list in ipairs { t.block.params, t.block.insts } do
      for _, v in ipairs(list) do
         if used[v] then return false end
      end
   end
   return true
end

-- Whether the block still ends in that target: the walk may have decided its branch since. A comparison of the frame's
-- length that is a check by now has proved what comes behind it: it may not be left out by what is known of a number.
local function has(block, goal, branch)
   if branch and block.term.op == "check" then return false end
   for _, t in ipairs(ir.targets(block.term)) do
      if t == goal then return true end
   end
   return false
end

--- Takes the edges that were noted past the branches they decide, and repairs the SSA form.
---@param program tideway.ir.program
---@param threads table[] from consider
---@return integer edges
function M.apply(program, threads)
   local copies, defs, used, done = {}, {}, {}, 0
   for _, t in ipairs(threads) do
      local block, goal = t.block, t.goal
      local copy = not t.known and copies[goal]
      if not copy and has(block, goal, t.branch) and apart(t, defs, used) then
         local map
         for _, p in ipairs(proved_pointers(t)) do used[p] = true end
         copy, map = clone(program, block, goal, t.known)
         copies[goal] = copy
         copying.define(block, copy, map, defs)
      end
      if copy then
         t.target.block = copy
         done = done + 1
      end
   end
   if done > 0 then ssa.repair(program, defs) end
   return done
end

return M
