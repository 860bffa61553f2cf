-- SPDX-License-Identifier: BSD-3-Clause
-- Which virtual registers hold values at the same time, which are copies of each other, what spilling each costs.

local insn = require "tideway.compiler.back.ebpf.insn"
local live = require "tideway.compiler.back.ebpf.live"

local M = {}
M.__index = M

local FIRST = insn.FIRST_VIRTUAL
local KEY = 2 ^ 24

---@class tideway.ebpf.interference
---@field neighbours table<integer, integer[]> of virtual registers
---@field degree table<integer, integer>
---@field moves table[] { dst, src }
---@field moves_of table<integer, table[]> moves that a register takes part in
---@field cost table<integer, number> of spilling, nil: never seen

function M:interfere(a, b)
   if a > b then a, b = b, a end
   return self.pairs[a * KEY + b]
end

function M:connect(a, b)
   if a == b then return end
   if a > b then a, b = b, a end
   local pairs, key = self.pairs, a * KEY + b
   if pairs[key] then return end
   pairs[key] = true
   local degree, neighbours = self.degree, self.neighbours
   if a >= FIRST then
      local list = neighbours[a]
      list[#list + 1] = b
      degree[a] = degree[a] + 1
   end
   if b >= FIRST then
      local list = neighbours[b]
      list[#list + 1] = a
      degree[b] = degree[b] + 1
   end
end

-- Live registers as an array with the place of each, so that it can be walked, added to and taken from quickly.
local function add(set, place, n, reg)
   if place[reg] then return n end
   set[n + 1], place[reg] = reg, n + 1
   return n + 1
end

local function remove(set, place, n, reg)
   local at = place[reg]
   if not at then return n end
   local last = set[n]
   set[at], place[last] = last, at
   place[reg] = nil
   return n - 1
end

local function note_for(self, reg, move)
   local list = self.moves_of[reg]
   if list then list[#list + 1] = move else self.moves_of[reg] = { move } end
end

local function note_move(self, dst, src)
   local move = { dst = dst, src = src }
   self.moves[#self.moves + 1] = move
   note_for(self, dst, move)
   note_for(self, src, move)
end

-- `dst := a; dst := dst op b` the other way round, when that way the copy can disappear: a is needed afterwards
-- and b is not.
local function commute(inst, copy, place)
   if inst.commutes and copy and copy.form == insn.MOVE and copy.dst == inst.dst and copy.dst ~= inst.src
      and place[copy.src] and not place[inst.src] and inst.src >= FIRST then
      copy.src, inst.src = inst.src, copy.src
   end
end

local function walk_block(self, block, live_out)
   local set, place, n = {}, {}, 0
   local reads, writes, list, cost, known = live.reads, live.writes, {}, self.cost, self.pairs
   local weight = 10 ^ math.min(block.depth, 4)
   for _, reg in ipairs(live_out) do n = add(set, place, n, reg) end
   for i = #block.insts, 1, -1 do
      local inst = block.insts[i]
      commute(inst, block.insts[i - 1], place)
      local moving = inst.form == insn.MOVE and inst.src ~= insn.FRAME
      if moving then
         n = remove(set, place, n, inst.src)
         note_move(self, inst.dst, inst.src)
      end
      local count = writes(inst, list)
      for k = 1, count do n = add(set, place, n, list[k]) end
      for k = 1, count do
         local reg = list[k]
         for j = 1, n do
            local other = set[j]
            local pair = reg < other and reg * KEY + other or other * KEY + reg
            if not known[pair] then self:connect(reg, other) end
         end
         if reg >= FIRST then cost[reg] = cost[reg] + weight end
      end
      for k = 1, count do n = remove(set, place, n, list[k]) end
      count = reads(inst, list)
      for k = 1, count do
         local reg = list[k]
         n = add(set, place, n, reg)
         if reg >= FIRST then cost[reg] = cost[reg] + weight end
      end
   end
end

---@param program table machine program
---@return tideway.ebpf.interference
function M.build(program)
   local self = setmetatable({ pairs = {}, neighbours = {}, degree = {}, moves = {}, moves_of = {}, cost = {} }, M)
   for reg = 0, insn.ALLOCATABLE - 1 do self.degree[reg] = math.huge end
   for reg = FIRST, program.regs - 1 do
      self.neighbours[reg], self.degree[reg], self.cost[reg] = {}, 0, 0
   end
   local _, live_out = live.analyse(program.blocks)
   for _, block in ipairs(program.blocks) do walk_block(self, block, live_out[block]) end
   return self
end

return M
