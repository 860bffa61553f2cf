-- SPDX-License-Identifier: BSD-3-Clause
-- Equal ends of the program become one: a block with all that only it leads to, compared with another one value by
-- value. Exits that return the same constant are the simplest of them.

local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local cfg = require "tideway.compiler.opt.cfg"

local M = {}

-- What may differ between two equal instructions.
local ASIDE = { id = true, args = true, pos = true, name = true, lo = true, hi = true, block = true, index = true,
   targets = true }

local function equal_fields(v, w)
   for k, x in pairs(v) do
      local y = w[k]
      if not ASIDE[k] and x ~= y then
         if (k ~= "reads" and k ~= "writes") or type(y) ~= "table" then return false end
         for name in pairs(x) do
            if not y[name] then return false end
         end
      end
   end
   for k in pairs(w) do
      if not ASIDE[k] and v[k] == nil then return false end
   end
   return true
end

local Match = {}
Match.__index = Match

function Match:arguments(a, b)
   if #a ~= #b then return false end
   for i, v in ipairs(a) do
      local w = b[i]
      local known = self.values[v]
      if known then
         if known ~= w then return false end
      elseif v ~= w and not cfg.same_constant(v, w) then
         return false
      end
   end
   return true
end

function Match:pair(v, w)
   if not equal_fields(v, w) or not self:arguments(v.args, w.args) then return false end
   self.values[v] = w
   return true
end

function Match:target(s, t)
   local within = graphs.dominates(self.graph, self.a, s.block)
   if within ~= graphs.dominates(self.graph, self.b, t.block) then return false end
   if not self:arguments(s.args, t.args) then return false end
   if not within then return s.block == t.block end
   return self:blocks(s.block, t.block)
end

function Match:blocks(a, b)
   if self.seen[a] then return self.seen[a] == b end
   if a == b or a.loop or b.loop or #a.params ~= #b.params or #a.insts ~= #b.insts then return false end
   self.seen[a] = b
   self.size = self.size + #a.insts
   if self.size > 64 then return false end
   for i, p in ipairs(a.params) do
      local q = b.params[i]
      if p.type ~= q.type or p.space ~= q.space then return false end
      self.values[p] = q
   end
   for i, v in ipairs(a.insts) do
      if not self:pair(v, b.insts[i]) then return false end
   end
   if not equal_fields(a.term, b.term) or not self:arguments(a.term.args, b.term.args) then return false end
   local to = ir.targets(b.term)
   if #ir.targets(a.term) ~= #to then return false end
   for i, t in ipairs(ir.targets(a.term)) do
      if not self:target(t, to[i]) then return false end
   end
   return true
end

local function constants(out, args)
   for _, a in ipairs(args) do
      if a.op == "const" then out[#out + 1] = tostring(a.value) end
   end
end

-- A text that equal blocks share.
local function shape(graph, block)
   local out = { #block.params }
   for _, v in ipairs(block.insts) do
      out[#out + 1] = v.op .. (v.fn or "") .. (v.bits or "")
      constants(out, v.args)
   end
   local term = block.term
   out[#out + 1] = term.op .. (term.cc or "") .. (term.n or "")
   constants(out, term.args)
   for _, t in ipairs(ir.targets(term)) do
      out[#out + 1] = graph.idom[t.block] == block and "own" or "b" .. t.block.id
   end
   return table.concat(out, ",")
end

-- A number that equal blocks share, made quickly: most blocks are like no other.
local function resemblance(block, ids)
   local insts, term = block.insts, block.term
   local first = insts[1]
   local what = term.op .. (term.cc or "") .. (first and first.op or "")
   local id = ids[what]
   if not id then
      id = ids.count
      ids[what], ids.count = id, id + 1
   end
   return (id * 256 + #insts) * 256 + #block.params
end

-- The blocks that look like another one: a set.
local function alike(graph)
   local ids, first, set = { count = 0 }, {}, {}
   for _, block in ipairs(graph.order) do
      local key = resemblance(block, ids)
      if first[key] then set[block], set[first[key]] = true, true else first[key] = block end
   end
   return set
end

-- b's part of the program gives way to a's: what holds in a is now what held in either.
local function widen(match)
   for v, w in pairs(match.values) do
      if v.lo and w.lo then v.lo, v.hi = math.min(v.lo, w.lo), math.max(v.hi, w.hi) end
   end
end

--- Makes equal ends one.
---@param program tideway.ir.program
---@return integer merged
function M.merge(program)
   local graph = graphs.of(program)
   local groups, instead, gone, count, worth = {}, {}, {}, 0, alike(graph)
   for i, block in ipairs(graph.order) do
      local parent = graph.idom[block]
      gone[block] = parent and gone[parent] or nil
      if i > 1 and worth[block] and not block.loop and not gone[block] then
         local key = shape(graph, block)
         local group = groups[key]
         if not group then
            groups[key] = { block }
         else
            for _, first in ipairs(group) do
               local match = setmetatable({
                  graph = graph, a = first, b = block, seen = {}, values = {}, size = 0,
               }, Match)
               if match:blocks(first, block) then
                  widen(match)
                  instead[block], gone[block], count = first, true, count + 1
                  break
               end
            end
            if not instead[block] then group[#group + 1] = block end
         end
      end
   end
   if count == 0 then return 0 end
   for _, block in ipairs(program.blocks) do
      for _, t in ipairs(ir.targets(block.term)) do t.block = instead[t.block] or t.block end
   end
   cfg.prune(program)
   return count
end

return M
