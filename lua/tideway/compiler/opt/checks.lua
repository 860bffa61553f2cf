-- SPDX-License-Identifier: BSD-3-Clause
-- Bounds checks: a check that every path has made already goes; a check grows to the size of the one that follows
-- anyway, where a shorter frame would have come to the same end.

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local cfg = require "tideway.compiler.opt.cfg"
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

-- Bytes from `p` that are proved; -1 when none.
local function from(known, p)
   local off = 0
   while p.op == "ptradd" and p.args[2].op == "const" and p.args[2].value >= 0 do
      off, p = off + p.args[2].value, p.args[1]
   end
   return (known[p] or -1) - off
end

-- A parameter has what its arguments have.
local function through_params(block, edges, out, known)
   for i, p in ipairs(block.params) do
      if p.type == "ptr" and p.space == "pkt" then
         local least = math.huge
         for _, edge in ipairs(edges) do
            local o = out[edge.target]
            if o then least = math.min(least, from(o, edge.target.args[i])) end
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

-- Whether a block does anything that can be told from outside, or, with `strict`, from the rest of the program.
local function acts(block, strict)
   for _, v in ipairs(block.insts) do
      if memory.visible(v) or strict and v.op == "store" then return true end
   end
   return false
end

local function returned(block, args)
   local v = block.term.args[1]
   for i, p in ipairs(block.params) do
      if p == v then v = args[i] end
   end
   return v.op == "const" and v or nil
end

-- The edge behind a block that does nothing but hand on its parameters; nil when more depends on which edge led here:
-- what it computes, or whoever uses the parameters later.
local function handed_on(target, escaped)
   local block, next = target.block, target.block.term.targets[1]
   if #block.params == 0 then return next end
   if #block.insts > 0 then return nil end
   local given, args = {}, {}
   for i, p in ipairs(block.params) do
      if escaped[p] then return nil end
      given[p] = target.args[i]
   end
   for i, a in ipairs(next.args) do args[i] = given[a] or a end
   return { block = next.block, args = args }
end

-- What comes of taking an edge: the block where the program first does something or branches, with its arguments;
-- or the constant that it returns without having done anything.
local function outcome(target, escaped)
   for _ = 1, 20 do
      local block, term = target.block, target.block.term
      local next
      if not acts(block, true) then
         if term.op == "ret" then return { ret = returned(block, target.args), block = block, args = target.args } end
         next = term.op == "jmp" and handed_on(target, escaped)
      end
      if not next then return { block = block, args = target.args } end
      target = next
   end
   return nil
end

-- The parameters that are used outside of their blocks.
local function escaping(program)
   local home, escaped = {}, {}
   for _, block in ipairs(program.blocks) do
      for _, p in ipairs(block.params) do home[p] = block end
   end
   for _, block in ipairs(program.blocks) do
      local function look(args)
         for _, a in ipairs(args) do
            if home[a] and home[a] ~= block then escaped[a] = true end
         end
      end
      for _, v in ipairs(block.insts) do look(v.args) end
      look(block.term.args)
      for _, t in ipairs(ir.targets(block.term)) do look(t.args) end
   end
   return escaped
end

local function reached(target, result)
   if target.block == result.block then return cfg.same_args(target.args, result.args) end
   if not result.ret or target.block.term.op ~= "ret" or acts(target.block, false) then return false end
   local v = returned(target.block, target.args)
   return v ~= nil and cfg.same_constant(v, result.ret)
end

-- The greatest n such that a frame without n bytes from pointer p comes from this edge to `result`, with nothing done
-- before. `memo` keeps what blocks gave; a block in progress is a loop.
local function demanded(target, p, result, memo)
   if reached(target, result) then return EVERYTHING end
   local block = target.block
   local term = block.term
   if memo[block] then return memo[block] end
   memo[block] = 0
   local n = 0
   if term.op ~= "ret" and not acts(block, not result.ret) then
      n = demanded(term.targets[1], p, result, memo)
      if term.op ~= "jmp" then
         local second = demanded(term.targets[2], p, result, memo)
         if term.op == "check" and term.args[1] == p then n = math.max(n, term.n) end
         n = math.min(n, second)
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
   local count, escaped = 0, escaping(program)
   for _, block in ipairs(program.blocks) do
      local term = block.term
      if term.op == "check" then
         local result = outcome(term.targets[2], escaped)
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
