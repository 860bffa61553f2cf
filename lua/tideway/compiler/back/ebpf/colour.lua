-- SPDX-License-Identifier: BSD-3-Clause
-- Gives each virtual register a real one: iterated register coalescing (L. George, A. W. Appel, "Iterated
-- Register Coalescing", TOPLAS 1996) on the interference graph.

local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}
M.__index = M

local FIRST, COLOURS = insn.FIRST_VIRTUAL, insn.ALLOCATABLE
-- Registers that calls leave alone come last: values that live across calls need them.
local PREFERRED = { 1, 2, 3, 4, 5, 0, 6, 7, 8, 9 }

-- ---- where a register stands ----

local function find(self, reg)
   local alias = self.alias
   while alias[reg] do reg = alias[reg] end
   return reg
end

local function gone(state) return state == "stacked" or state == "merged" end

local function is_move_related(self, reg)
   local moves = self.graph.moves_of[reg]
   if moves then
      for _, move in ipairs(moves) do if move.state == "ready" or move.state == "active" then return true end end
   end
   return false
end

local function put(self, reg, state)
   self.state[reg] = state
   local list = self.list[state]
   list[#list + 1] = reg
end

-- Lists keep registers that went to another one; those are passed over here.
local function take(self, state)
   local list, states = self.list[state], self.state
   while #list > 0 do
      local reg = list[#list]
      list[#list] = nil
      if states[reg] == state then return reg end
   end
end

local function enable_moves(self, reg)
   local moves = self.graph.moves_of[reg]
   if not moves then return end
   for _, move in ipairs(moves) do
      if move.state == "active" then
         move.state = "ready"
         self.ready[#self.ready + 1] = move
      end
   end
end

local function lower_degree(self, reg)
   if reg < FIRST then return end
   local graph, state = self.graph, self.state
   local degree = graph.degree[reg]
   graph.degree[reg] = degree - 1
   if degree ~= COLOURS then return end
   enable_moves(self, reg)
   for _, other in ipairs(graph.neighbours[reg]) do if not gone(state[other]) then enable_moves(self, other) end end
   if state[reg] == "spill" then put(self, reg, is_move_related(self, reg) and "freeze" or "simplify") end
end

-- ---- the steps ----

local function simplify(self, reg)
   self.state[reg] = "stacked"
   self.stack[#self.stack + 1] = reg
   local state = self.state
   for _, other in ipairs(self.graph.neighbours[reg]) do
      if not gone(state[other]) then lower_degree(self, other) end
   end
end

local function simplify_later(self, reg)
   if reg >= FIRST and self.state[reg] == "freeze" and self.graph.degree[reg] < COLOURS
      and not is_move_related(self, reg) then
      put(self, reg, "simplify")
   end
end

-- George: every neighbour of v is no obstacle to u.
local function george(self, u, v)
   local graph, state = self.graph, self.state
   for _, other in ipairs(graph.neighbours[v]) do
      if not gone(state[other]) and other >= FIRST and graph.degree[other] >= COLOURS
         and not graph:interfere(other, u) then
         return false
      elseif other < FIRST and other ~= u and u >= FIRST and not graph:interfere(other, u) then
         return false
      end
   end
   return true
end

-- Counts the neighbours of a register that cannot be simplified and have not been counted in this round.
local function count_high(self, reg, high)
   local graph, state, seen, round = self.graph, self.state, self.seen, self.round
   local neighbours, degree = graph.neighbours[reg], graph.degree
   for i = 1, #neighbours do
      local other = neighbours[i]
      if degree[other] >= COLOURS and seen[other] ~= round and not gone(state[other]) then
         seen[other] = round
         high = high + 1
         if high >= COLOURS then break end
      end
   end
   return high
end

-- Briggs: fewer than all colours are taken by neighbours of the two that cannot be simplified.
local function briggs(self, u, v)
   self.round = self.round + 1
   local high = count_high(self, u, 0)
   return high < COLOURS and count_high(self, v, high) < COLOURS
end

local function merge(self, u, v)
   local graph, state = self.graph, self.state
   state[v] = "merged"
   self.alias[v] = u
   local of, more = graph.moves_of[u], graph.moves_of[v]
   if not of then
      of = {}
      graph.moves_of[u] = of
   end
   for _, move in ipairs(more or {}) do of[#of + 1] = move end
   enable_moves(self, v)
   for _, other in ipairs(graph.neighbours[v]) do
      if not gone(state[other]) then
         if graph:interfere(other, u) then
            lower_degree(self, other)
         else
            graph:connect(other, u) -- in place of its edge to v
            if other >= FIRST then graph.degree[other] = graph.degree[other] - 1 end
         end
      end
   end
   if u >= FIRST then
      graph.cost[u] = graph.cost[u] + graph.cost[v]
      if graph.degree[u] >= COLOURS and state[u] == "freeze" then put(self, u, "spill") end
   end
end

local function coalesce(self, move)
   local graph = self.graph
   local u, v = find(self, move.dst), find(self, move.src)
   if v < FIRST then u, v = v, u end
   if u == v then
      move.state = "done"
      simplify_later(self, u)
   elseif v < FIRST or graph:interfere(u, v) or u >= COLOURS and u < FIRST then
      move.state = "constrained"
      simplify_later(self, u)
      simplify_later(self, v)
   elseif (u < FIRST and george(self, u, v)) or (u >= FIRST and (briggs(self, u, v) or george(self, u, v))) then
      move.state = "done"
      merge(self, u, v)
      simplify_later(self, u)
   else
      move.state = "active"
   end
end

local function freeze(self, reg)
   for _, move in ipairs(self.graph.moves_of[reg] or {}) do
      if move.state == "active" or move.state == "ready" then
         move.state = "frozen"
         local u, v = find(self, move.dst), find(self, move.src)
         simplify_later(self, u == find(self, reg) and v or u)
      end
   end
end

-- The register that is cheapest to spill, for the room that it makes.
local function cheapest(self)
   local best, least
   for reg, state in pairs(self.state) do
      if state == "spill" then
         local cost = (self.unspillable[reg] and math.huge or self.graph.cost[reg] * (self.weight[reg] or 1))
            / self.graph.degree[reg]
         if not best or cost < least or (cost == least and reg < best) then best, least = reg, cost end
      end
   end
   return best
end

-- ---- colours ----

local function pick(self, reg, taken)
   for _, move in ipairs(self.graph.moves_of[reg] or {}) do
      local u, v = find(self, move.dst), find(self, move.src)
      local other = u == reg and v or u
      local colour = self.colour[other]
      if colour and not taken[colour] then return colour end
   end
   for _, colour in ipairs(PREFERRED) do if not taken[colour] then return colour end end
end

local function assign(self, program)
   local colour, spilled = self.colour, {}
   for reg = 0, COLOURS - 1 do colour[reg] = reg end
   for i = #self.stack, 1, -1 do
      local reg = self.stack[i]
      local taken = {}
      for _, other in ipairs(self.graph.neighbours[reg]) do
         local c = colour[find(self, other)]
         if c then taken[c] = true end
      end
      colour[reg] = pick(self, reg, taken)
      if not colour[reg] then spilled[#spilled + 1] = reg end
   end
   for reg = FIRST, program.regs - 1 do
      if self.alias[reg] then colour[reg] = colour[find(self, reg)] end
   end
   return spilled
end

--- Colours a graph. Returns the real register of each virtual one, those that got none, and for each register
-- that became one with another, that other.
---@param program table machine program
---@param graph tideway.ebpf.interference; changed
---@param unspillable table<integer, boolean> registers that live too shortly for a spill to help
---@param weight table<integer, number> factor of the cost of spilling
function M.colour(program, graph, unspillable, weight)
   local self = setmetatable({
      graph = graph, alias = {}, colour = {}, state = {}, stack = {}, ready = {}, unspillable = unspillable,
      weight = weight, seen = {}, round = 0, list = { simplify = {}, freeze = {}, spill = {} },
   }, M)
   for _, move in ipairs(graph.moves) do
      move.state = "ready"
      self.ready[#self.ready + 1] = move
   end
   for reg = FIRST, program.regs - 1 do
      if graph.cost[reg] > 0 then
         put(self, reg, graph.degree[reg] >= COLOURS and "spill" or is_move_related(self, reg) and "freeze"
            or "simplify")
      end
   end
   while true do
      local reg = take(self, "simplify")
      local move = not reg and table.remove(self.ready)
      if reg then simplify(self, reg)
      elseif move then
         if move.state == "ready" then coalesce(self, move) end
      else
         reg = take(self, "freeze")
         if not reg then
            reg = cheapest(self)
            if not reg then break end
         end
         put(self, reg, "simplify")
         freeze(self, reg)
      end
   end
   return self.colour, assign(self, program), self.alias
end

return M
