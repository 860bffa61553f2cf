-- SPDX-License-Identifier: BSD-3-Clause
-- What becomes of each value in Lua source: an expression inside the statement that uses it, or a local variable.
-- Variables are shared by values that do not live at the same time.

local graphs = require "tideway.compiler.ir.graph"
local ir = require "tideway.compiler.ir"

local M = {}

local DEPTH = 20 -- operations in one expression
local NONE = {}

-- Made of constants and variables of the loop: repeated wherever it is used. A length outlives a resize, which
-- changes the loop's variable.
local function is_free(flow, v)
   return v.op == "pktdata" or v.op == "pktend" or (v.op == "pktlen" and not flow.resizes) or v.op == "alloca" or
      (v.op == "ptradd" and v.args[2].op == "const")
end

local function has_effect(v)
   return v.op == "store" or v.op == "atomic" or v.op == "call" or v.op == "ctxstore"
end

-- What an lcore's program returns is of no interest.
local function read_by(term) return term.op == "ret" and NONE or term.args end

local function reads_memory(v) return v.op == "load" or v.op == "ctxload" end

---@class tideway.luajit.flow
---@field graph tideway.ir.graph
---@field inline table<tideway.ir.value, boolean> expressions
---@field dead table<tideway.ir.value, boolean> not needed at all
---@field slot table<tideway.ir.value, integer> number of the variable
---@field slots integer how many there are
---@field resizes boolean does the program change the length of frames?
---@field stale table<tideway.ir.block, integer[]> variables whose values are of no use from here on
local Flow = {}
Flow.__index = Flow

function Flow:use(v, count, block, at, depth)
   if v.op == "const" then return end
   local use = self.uses[v]
   if not use then
      use = { count = 0, depth = 0 }
      self.uses[v] = use
   end
   use.count = use.count + count
   use.block, use.at, use.depth = block, at, depth
end

-- Nothing between a load and the statement it goes into may write.
local function undisturbed(block, from, to)
   for i = from + 1, to - 1 do
      if has_effect(block.insts[i]) then return false end
   end
   return true
end

function Flow:can_inline(v, use, block, at)
   if has_effect(v) or v.op == "pktlen" or use.count ~= 1 or use.depth >= DEPTH then return false end
   if reads_memory(v) then return use.block == block and undisturbed(block, at, use.at) end
   return ir.PURE[v.op] and (use.block == block or not self.loops)
end

function Flow:decide_value(v, block, at)
   local use = self.uses[v]
   if not use and not has_effect(v) then
      -- Also when dead, the statements of these set the loop's variables.
      self.dead[v] = true
      return
   end
   local count, to_block, to_at, depth = 1, block, at, 1
   if is_free(self, v) then
      self.inline[v] = true
      count, to_block, to_at, depth = use.count, use.block, use.at, use.depth
   elseif use and self:can_inline(v, use, block, at) then
      self.inline[v] = true
      to_block, to_at, depth = use.block, use.at, use.depth + 1
   end
   for _, a in ipairs(v.args) do self:use(a, count, to_block, to_at, depth) end
end

-- Backwards, so that all users of a value are known when its turn comes.
function Flow:decide()
   local order = self.graph.order
   for b = #order, 1, -1 do
      local block, term = order[b], order[b].term
      local last = #block.insts + 1
      for _, a in ipairs(read_by(term)) do self:use(a, 1, block, last, 1) end
      for _, t in ipairs(ir.targets(term)) do
         for _, a in ipairs(t.args) do self:use(a, 1, block, last, 1) end
      end
      for i = #block.insts, 1, -1 do self:decide_value(block.insts[i], block, i) end
   end
end

-- ---- liveness of variables ----

-- Calls visit(v) for every variable that an expression reads.
function Flow:leaves(v, visit)
   if v.op == "const" then return end
   if not self.inline[v] then
      visit(v)
      return
   end
   for _, a in ipairs(v.args) do self:leaves(a, visit) end
end

function Flow:leaves_of_end(block, visit)
   for _, a in ipairs(read_by(block.term)) do self:leaves(a, visit) end
   for _, t in ipairs(ir.targets(block.term)) do
      for _, a in ipairs(t.args) do self:leaves(a, visit) end
   end
end

local function is_statement(flow, v) return not flow.inline[v] and not flow.dead[v] end

function Flow:live_in_of(block)
   local live = {}
   for v in pairs(self.live_out[block]) do live[v] = true end
   local function add(v) live[v] = true end
   self:leaves_of_end(block, add)
   for i = #block.insts, 1, -1 do
      local v = block.insts[i]
      if is_statement(self, v) then
         live[v] = nil
         for _, a in ipairs(v.args) do self:leaves(a, add) end
      end
   end
   for _, p in ipairs(block.params) do live[p] = nil end
   return live
end

function Flow:liveness()
   local order = self.graph.order
   self.live_in, self.live_out = {}, {}
   for _, block in ipairs(order) do self.live_in[block], self.live_out[block] = {}, {} end
   local changed
   repeat
      changed = false
      for b = #order, 1, -1 do
         local block = order[b]
         local out = self.live_out[block]
         for _, t in ipairs(ir.targets(block.term)) do
            for v in pairs(self.live_in[t.block]) do out[v] = true end
         end
         local live = self:live_in_of(block)
         for v in pairs(live) do
            if not self.live_in[block][v] then changed = true end
         end
         self.live_in[block] = live
      end
   until not changed
end

-- ---- variables ----

local function lowest(taken)
   local n = 1
   while taken[n] do n = n + 1 end
   return n
end

-- A parameter takes the variable of an argument when that is free: no assignment then.
function Flow:slot_of_param(index, block, taken)
   for _, edge in ipairs(self.graph.preds[block]) do
      local a = edge.target.args[index]
      local slot = a.op ~= "const" and self.slot[a]
      if slot and not taken[slot] then return slot end
   end
   return lowest(taken)
end

function Flow:place(v, slot, taken)
   self.slot[v], taken[slot] = slot, v
   self.slots = math.max(self.slots, slot)
end

-- What each statement of a block is the last to read.
function Flow:last_reads(block)
   local last, seen = {}, {}
   local function note(at)
      return function(v)
         if not seen[v] and not self.live_out[block][v] then
            seen[v] = true
            last[at] = last[at] or {}
            table.insert(last[at], v)
         end
      end
   end
   self:leaves_of_end(block, note(#block.insts + 1))
   for i = #block.insts, 1, -1 do
      local v = block.insts[i]
      if is_statement(self, v) then
         for _, a in ipairs(v.args) do self:leaves(a, note(i)) end
      end
   end
   return last, seen
end

function Flow:place_block(block)
   local taken = {}
   for v in pairs(self.live_in[block]) do taken[self.slot[v]] = v end
   for i, p in ipairs(block.params) do
      if self.uses[p] then self:place(p, self:slot_of_param(i, block, taken), taken) end
   end
   local last, read = self:last_reads(block)
   for i, v in ipairs(block.insts) do
      for _, gone in ipairs(last[i] or {}) do taken[self.slot[gone]] = nil end
      if is_statement(self, v) and v.type ~= "void" and self.uses[v] then
         self:place(v, lowest(taken), taken)
         if not read[v] and not self.live_out[block][v] then taken[self.slot[v]] = nil end
      end
   end
end

-- A variable that keeps a value nobody reads keeps a register busy: every exit of the trace would restore it.
function Flow:find_stale()
   self.stale = {}
   local dirty_out = {}
   for _, block in ipairs(self.graph.order) do
      local live, dirty, stale = {}, {}, {}
      for v in pairs(self.live_in[block]) do live[self.slot[v]] = true end
      for _, p in ipairs(block.params) do
         if self.slot[p] then live[self.slot[p]] = true end
      end
      for _, edge in ipairs(self.graph.preds[block]) do
         for slot in pairs(dirty_out[edge.block] or {}) do
            if not live[slot] and not dirty[slot] then
               stale[#stale + 1] = slot
               dirty[slot] = true
            end
         end
      end
      table.sort(stale)
      self.stale[block] = stale
      for _, v in ipairs(block.insts) do
         if self.slot[v] then live[self.slot[v]] = true end
      end
      dirty_out[block] = live
   end
end

local function resizes(program)
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.resizes then return true end
      end
   end
   return false
end

--- Decide for every value of a program.
---@param program tideway.ir.program
---@return tideway.luajit.flow
function M.of(program)
   local flow = setmetatable({
      graph = graphs.of(program), uses = {}, inline = {}, dead = {}, slot = {}, slots = 0,
   }, Flow)
   flow.loops, flow.resizes = #graphs.loops(flow.graph) > 0, resizes(program)
   flow:decide()
   flow:liveness()
   for _, block in ipairs(flow.graph.order) do flow:place_block(block) end
   flow:find_stale()
   return flow
end

return M
