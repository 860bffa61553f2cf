-- SPDX-License-Identifier: BSD-3-Clause
-- Where the front end is: the block it writes to, and what it knows there. Paths split and join here;
-- SSA form comes about because what differs between paths that join becomes a block parameter.

local diagnostic = require "tideway.compiler.diagnostic"
local ir = require "tideway.compiler.ir"
local merge = require "tideway.compiler.front.merge"

---@class tideway.front.state what is known at one point of the program
---@field vars table<table, table> slot of a variable -> value
---@field range table<tideway.ir.value, number[]> narrower range than the value's own
---@field nonnil table<tideway.ir.value, boolean> outcome of a nil test of a pointer
---@field inside table<tideway.ir.value, integer> bytes from a packet pointer known to be in the frame
---@field memo table<string, any> loads and pointers made already
---@field gen table generation of packet pointers: another one after a resize

---@class tideway.front.context
---@field program tideway.ir.program
---@field block tideway.ir.block? nil where the program can't get to
---@field state tideway.front.state?
---@field target table
---@field inferred table<tideway.ir.value, boolean> pointers that can't be nil, for reasons the verifier does not see
---@field pos tideway.ir.position?
local Context = {}
Context.__index = Context

local M = {}

--- Nothing is known.
---@return tideway.front.state
function M.state() return { vars = {}, range = {}, nonnil = {}, inside = {}, memo = {}, gen = {} } end

---@return tideway.front.context
function M.new(name, target, options)
   local program = ir.program(name, target.name)
   local cx = setmetatable({
      program = program, target = target, options = options or {}, joins = {}, calls = {},
      choices = {}, choice_id = {}, implied = {}, checked_at_join = {}, inferred = {},
      depth = 0, slots = 0, effects = 0, reads = {},
   }, Context)
   cx.block = ir.block(program)
   cx.state = M.state()
   cx.state.dom = { block = cx.block, depth = 0 }
   return cx
end

-- ---- errors ----

--- Refuse what stands at the current position.
---@param message string what is wrong, with the value
---@param hint? string what to write instead
function Context:refuse(message, hint)
   local err = diagnostic.new(self.pos, message, hint)
   err.stage = self.stage
   for i = #self.calls, 1, -1 do
      if self.calls[i].pos then diagnostic.note(err, self.calls[i].pos, "called here") end
   end
   error(err, 0)
end

--- Refuse, unless this is an attempt at a loop with ranges that are still too wide: it will be written again.
function Context:doubt(message, hint)
   if not self.speculative then self:refuse(message, hint) end
end

-- ---- instructions ----

-- Operations that a remembered call may hold: what loads read is kept track of.
local pure = { load = true, pktdata = true, pktend = true, pktlen = true }
for op in pairs(ir.PURE) do pure[op] = true end

---@return tideway.ir.value
function Context:emit(op, type, args, fields)
   local v = ir.value(self.program, op, type, args, fields)
   v.pos = self.pos
   v.block = self.block
   if not pure[op] and not v.pure then self.effects = self.effects + 1 end
   local insts = self.block.insts
   insts[#insts + 1] = v
   return v
end

--- Stack objects stand in the entry block.
function Context:alloca(size, align)
   local entry = self.program.blocks[1]
   local v = ir.value(self.program, "alloca", "ptr", {}, { space = "stack", size = size, align = align or 8 })
   v.pos = self.pos
   table.insert(entry.insts, 1, v)
   return v
end

local constants = {}

--- A num constant.
function Context.const(_, n)
   local c = constants[n]
   if not c then
      c = ir.const(n)
      constants[n] = c
   end
   return c
end

local nil_pointer = ir.const(0, "ptr")
function Context.null() return nil_pointer end

local function terminate(self, op, args, targets, fields)
   local term = fields or {}
   term.op, term.args, term.targets, term.pos = op, args, targets, self.pos
   self.block.term = term
   self.block, self.state = nil, nil
   return term
end

function Context:ret(value) terminate(self, "ret", { value }, {}) end

--- A variable of the current scope.
function Context:slot(name)
   self.slots = self.slots + 1
   return { name = name, id = self.slots, depth = self.depth }
end

--- Is the current point one the program can't get to?
function Context:dead() return self.block == nil end

function Context:die() self.block, self.state = nil, nil end

-- ---- ranges ----

---@return number? lo nil for 64-bit integers of unknown size
---@return number? hi
function Context:range(v)
   local r = self.state.range[v]
   if r then return r[1], r[2] end
   if v.op == "const" and not v.lo and v.type ~= "ptr" then
      local n = tonumber(v.value)
      if n >= 0 and n < 2 ^ 53 then return n, n end
   end
   return v.lo, v.hi
end

-- ---- states ----

local function copy(t)
   local out = {}
   for k, v in pairs(t) do out[k] = v end
   return out
end

local function copy_state(s)
   return {
      vars = copy(s.vars), range = copy(s.range), nonnil = copy(s.nonnil), inside = copy(s.inside), memo = copy(s.memo),
      gen = s.gen, dom = s.dom,
   }
end

-- The two points behind a block: the state goes to one, a copy to the other.
local function fork(self)
   local state, over = self.state, self.state.dom
   local yes = { block = ir.block(self.program), state = state }
   local no = { block = ir.block(self.program), state = copy_state(state) }
   yes.state.dom = { block = yes.block, parent = over, depth = over.depth + 1 }
   no.state.dom = { block = no.block, parent = over, depth = over.depth + 1 }
   return yes, no
end

--- Go on at a point that `split` made.
function Context:go(point) self.block, self.state = point.block, point.state end

-- ---- splitting ----

local STATIC = {
   lt = function(al, ah, bl, bh) if ah < bl then return true elseif al >= bh then return false end end,
   le = function(al, ah, bl, bh) if ah <= bl then return true elseif al > bh then return false end end,
   eq = function(al, ah, bl, bh)
      if al == ah and bl == bh and al == bl then return true elseif ah < bl or al > bh then return false end
   end,
}

local SIGNED = { ult = "lt", ule = "le", ugt = "gt", uge = "ge" }

-- What is known of a comparison from the ranges alone.
local function decided(cc, al, ah, bl, bh)
   if not al or not bl then return nil end
   if cc == "gt" then return decided("lt", bl, bh, al, ah) end
   if cc == "ge" then return decided("le", bl, bh, al, ah) end
   if cc == "ne" then
      local r = STATIC.eq(al, ah, bl, bh)
      if r ~= nil then return not r end
      return nil
   end
   return STATIC[cc](al, ah, bl, bh)
end

-- Narrow what is known of a and b in a state where `a cc b` holds.
local function narrow(state, cc, a, al, ah, b, bl, bh)
   local nal, nah, nbl, nbh = al, ah, bl, bh
   if cc == "lt" then nah, nbl = math.min(ah, bh - 1), math.max(bl, al + 1)
   elseif cc == "le" then nah, nbl = math.min(ah, bh), math.max(bl, al)
   elseif cc == "gt" then nal, nbh = math.max(al, bl + 1), math.min(bh, ah - 1)
   elseif cc == "ge" then nal, nbh = math.max(al, bl), math.min(bh, ah)
   elseif cc == "eq" then
      nal, nah = math.max(al, bl), math.min(ah, bh)
      nbl, nbh = nal, nah
   elseif cc == "ult" then nal, nah = math.max(al, 0), math.min(ah, bh - 1)
   elseif cc == "ne" then
      if bl == bh then
         if al == bl then nal = al + 1 end
         if ah == bl then nah = ah - 1 end
      end
      if al == ah then
         if bl == al then nbl = bl + 1 end
         if bh == al then nbh = bh - 1 end
      end
   end
   if a.op ~= "const" then state.range[a] = { nal, nah } end
   if b.op ~= "const" then state.range[b] = { nbl, nbh } end
end

-- A test found one value of a parameter that tells paths apart: what was known on these paths is known again.
local function recall(self, state, p, depth)
   local implied, r = self.implied[p], state.range[p]
   if not implied or not r then return end
   local known
   for v, facts in pairs(implied) do
      if v >= r[1] and v <= r[2] then
         if known then return end
         known = facts
      end
   end
   if not known then return end
   for v, range in pairs(known.range) do
      local now = state.range[v] or { v.lo, v.hi }
      if now[1] then
         local lo, hi = math.max(now[1], range[1]), math.min(now[2], range[2])
         if lo ~= now[1] or hi ~= now[2] then
            state.range[v] = { lo, hi }
            if v ~= p and self.implied[v] and (depth or 0) < 4 then recall(self, state, v, (depth or 0) + 1) end
         end
      end
   end
   for v, is in pairs(known.nonnil) do
      if state.nonnil[v] == nil then state.nonnil[v] = is end
   end
   if known.gen == state.gen then
      for v, n in pairs(known.inside) do state.inside[v] = math.max(n, state.inside[v] or 0) end
   end
end

--- Can a parameter that tells paths apart not be `v` here? What was known on all paths that gave it this value is known
--- to be otherwise.
---@param p tideway.ir.value
---@param v integer
function Context:excluded(p, v)
   local facts = self.implied[p] and self.implied[p][v]
   if not facts then return false end
   for other, range in pairs(facts.range) do
      local lo, hi = self:range(other)
      if lo and (lo > range[2] or hi < range[1]) then return true end
   end
   for other, is in pairs(facts.nonnil) do
      local known = self.state.nonnil[other]
      if known ~= nil and known ~= is then return true end
   end
   return false
end

--- End the block with a comparison of two values of one type; the points behind it, nil for one that can't be reached.
---@return table? yes
---@return table? no
function Context:split(cc, a, b, fields)
   local state = self.state
   local al, ah = self:range(a)
   local bl, bh = self:range(b)
   local known
   if a.type == "num" and al >= 0 and bl >= 0 then cc = SIGNED[cc] or cc end
   if a.type == "num" and not SIGNED[cc] then known = decided(cc, al, ah, bl, bh) end
   if a.type == "ptr" and b == nil_pointer and state.nonnil[a] ~= nil then
      known = state.nonnil[a] == (cc == "ne")
   end
   local here = { block = self.block, state = state }
   if known == true then return here, nil end
   if known == false then return nil, here end
   if self.watch then self.watch(cc, a, b) end
   local yes, no = fork(self)
   if a.type == "num" then
      narrow(no.state, ir.NEGATED[cc], a, al, ah, b, bl, bh)
      narrow(yes.state, cc, a, al, ah, b, bl, bh)
      for _, point in ipairs { yes, no } do
         recall(self, point.state, a)
         recall(self, point.state, b)
      end
   elseif a.type == "ptr" and b == nil_pointer then
      yes.state.nonnil[a], no.state.nonnil[a] = cc == "ne", cc == "eq"
   elseif a.type ~= "ptr" and b.op == "const" and b.value == 0 and (cc == "eq" or cc == "ne") then -- what may divide
      yes.state.nonnil[a], no.state.nonnil[a] = cc == "ne", cc == "eq"
   end
   local term = fields or {}
   term.cc = cc
   terminate(self, "br", { a, b }, { { block = yes.block, args = {} }, { block = no.block, args = {} } }, term)
   return yes, no
end

--- End the block with a bounds check of a packet pointer.
---@return table inside
---@return table outside
function Context:check(pointer, n, dend)
   local state = self.state
   local yes, no = fork(self)
   state.inside[pointer] = math.max(n, state.inside[pointer] or 0)
   terminate(self, "check", { pointer, dend },
      { { block = yes.block, args = {} }, { block = no.block, args = {} } }, { n = n })
   return yes, no
end

-- ---- places that many paths lead to, with a few numbers and nothing else ----

---@param kinds table[] { type, lo, hi } each
---@return table landing
function Context:landing(kinds)
   local block = ir.block(self.program)
   for _, kind in ipairs(kinds) do ir.param(self.program, block, kind[1], { lo = kind[2], hi = kind[3] }) end
   return block
end

--- The current path ends there.
---@param values tideway.ir.value[]
function Context:land(landing, values)
   terminate(self, "jmp", {}, { { block = landing, args = values } })
end

--- Go on there; nothing is known but the numbers, variables are what they were at the outset.
---@return tideway.ir.value[]
function Context:arrive(landing)
   assert(self:dead(), "a path is still open")
   self.block, self.state = landing, M.state()
   self.state.dom = { block = landing, depth = 0 }
   for slot, fv in pairs(self.outset or {}) do self.state.vars[slot] = fv end
   return landing.params
end

-- ---- joining ----

--- A place where paths meet again.
function Context:join()
   local join = { edges = {}, depth = self.depth }
   self.joins[join] = true
   return join
end

--- The current path goes to `join` with these values.
---@param values? table[]
function Context:jump(join, values)
   if self:dead() then return end
   join.edges[#join.edges + 1] = { block = self.block, state = self.state, values = values or {} }
   self.block, self.state = nil, nil
end

-- A pointer that may be nil and meets something that is no pointer: its path parts in two.
local function part_paths(self, edges, depth)
   local i, pointer = merge.undecided(edges, depth)
   while i do
      local edge = edges[i]
      self:go(edge)
      local yes, no = self:split("ne", pointer, nil_pointer)
      self:die()
      edges[i] = { block = yes.block, state = yes.state, values = edge.values }
      edges[#edges + 1] = { block = no.block, state = no.state, values = edge.values }
      i, pointer = merge.undecided(edges, depth)
   end
end

--- Go on where the paths to `join` meet; the merged values. Nobody comes: the point is dead.
---@return table[]
function Context:enter(join)
   assert(self:dead(), "a path is still open")
   self.joins[join] = nil
   local edges = join.edges
   if #edges == 0 then return {} end
   if #edges == 1 then
      self.block, self.state = edges[1].block, edges[1].state
      return edges[1].values
   end
   local watch = self.watch
   self.watch = nil
   part_paths(self, edges, join.depth)
   self.watch = watch
   local block = ir.block(self.program)
   for _, edge in ipairs(edges) do
      edge.args = {}
      edge.block.term = { op = "jmp", args = {}, targets = { { block = block, args = edge.args } }, pos = self.pos }
   end
   local values
   self.block = block
   self.state, values = merge.states(self, block, edges, join.depth)
   return values
end

-- ---- trying a path that may have to be taken back (loops) ----

--- Remember where we are.
function Context:checkpoint()
   local open = {}
   for join in pairs(self.joins) do open[join] = #join.edges end
   return {
      block = self.block, state = copy_state(self.state), last = self.block.insts[#self.block.insts],
      blocks = #self.program.blocks,
      open = open, calls = #self.calls, depth = self.depth,
   }
end

--- Take back all that was written since. Stack objects stay; the optimiser drops unused ones.
function Context:rollback(point)
   local blocks = self.program.blocks
   for i = #blocks, point.blocks + 1, -1 do blocks[i] = nil end
   self.block, self.state = point.block, copy_state(point.state)
   self.block.term = nil
   local insts = self.block.insts
   for i = #insts, 1, -1 do
      if insts[i] == point.last then break end
      if insts[i].op ~= "alloca" then table.remove(insts, i) end
   end
   for join in pairs(self.joins) do
      local n = point.open[join]
      if not n then
         self.joins[join] = nil
      else
         for i = #join.edges, n + 1, -1 do join.edges[i] = nil end
      end
   end
   for i = #self.calls, point.calls + 1, -1 do self.calls[i] = nil end
   self.depth = point.depth
end

return M
