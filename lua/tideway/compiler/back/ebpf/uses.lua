-- SPDX-License-Identifier: BSD-3-Clause
-- Which values of an IR program are needed, how often, and which are part of another instruction: constant
-- offsets fold into loads and stores, bit tests into branches.

local ir = require "tideway.compiler.ir"
local insn = require "tideway.compiler.back.ebpf.insn"

local M = {}
M.__index = M

local LARGEST_OFFSET = 32000 -- offsets of loads are 16 bits, signed; some room for the fields

--- The value itself, or for the parameter of a block with one way in, the argument that comes there.
function M:resolve(value)
   local same = self.same
   while same[value] do value = same[value] end
   return value
end

-- Sum of the constant offsets in a chain of pointer additions, down to a base that is none.
local function chain(self, pointer)
   local total = 0
   while pointer.op == "ptradd" do
      local index = self:resolve(pointer.args[2])
      if index.op ~= "const" then break end
      total = total + index.value
      pointer = self:resolve(pointer.args[1])
   end
   return total, pointer
end

--- For a pointer plus a constant that can be an offset in the instructions that use it: base, offset.
function M:folded(pointer)
   if pointer.op ~= "ptradd" then return nil end
   local index = self:resolve(pointer.args[2])
   if index.op ~= "const" then return nil end
   local total = chain(self, pointer)
   if math.abs(total) > LARGEST_OFFSET then return nil end
   return self:resolve(pointer.args[1]), index.value
end

--- For `ptradd p, (add x, c)` where nobody else wants the sum: x, c.
function M:split_index(pointer)
   local index = self:resolve(pointer.args[2])
   if index.op ~= "add" or index.w == 32 or self.count[index] ~= 1 or pointer.space == "stack" then return nil end
   local x, c = self:resolve(index.args[1]), self:resolve(index.args[2])
   if x.op == "const" then x, c = c, x end
   if c.op ~= "const" or c.value < 0 or c.value > LARGEST_OFFSET / 2 then return nil end
   if x.type ~= "num" or not x.lo or x.lo < 0 then return nil end
   return x, c.value
end

--- The pointer that a chain of constant offsets starts at.
function M:base(pointer)
   local _, base = chain(self, self:resolve(pointer))
   return base
end

--- How many bytes behind a pointer the checks of it look.
function M:reach(pointer) return self.checked[pointer] or 0 end

--- Whether an instruction is to be emitted on its own.
function M:wanted(value)
   if not ir.PURE[value.op] and (value.type == "void" or value.op == "atomic" or value.op == "ctxstore") then
      return true
   end
   if value.op == "call" and not value.pure then return true end
   if not self.count[value] or self.test[value] or self.skipped[value] then return false end
   return not self:folded(value)
end

-- ---- the pass ----

local function is_root(value)
   local op = value.op
   return op == "store" or op == "atomic" or op == "ctxstore" or (op == "call" and not value.pure)
end

-- Counts the uses of everything that is needed, from the effects and branches back.
local function count_uses(self, graph)
   local count, work, incoming = self.count, {}, {}
   local function need(value)
      value = self:resolve(value)
      if value.op == "const" then return end
      local n = count[value]
      count[value] = (n or 0) + 1
      if not n then work[#work + 1] = value end
   end
   for _, block in ipairs(graph.order) do
      for i, param in ipairs(block.params) do
         local list = {}
         for _, edge in ipairs(graph.edges[block]) do list[#list + 1] = edge.target.args[i] end
         incoming[param] = list
      end
   end
   for _, block in ipairs(graph.order) do
      for _, value in ipairs(block.insts) do
         if is_root(value) then for _, arg in ipairs(value.args) do need(arg) end end
      end
      for _, arg in ipairs(block.term.args or {}) do need(arg) end
   end
   while #work > 0 do
      local value = table.remove(work)
      for _, arg in ipairs(incoming[value] or (not is_root(value) and value.args) or {}) do need(arg) end
   end
end

-- `br eq/ne (and x, mask), 0` as one instruction, where the mask is a constant that it can hold.
local function find_test(self, term)
   if term.op ~= "br" or (term.cc ~= "eq" and term.cc ~= "ne") then return end
   local a, b = self:resolve(term.args[1]), self:resolve(term.args[2])
   if not insn.is_zero(b) or a.op ~= "and" or self.count[a] ~= 1 then return end
   local x, mask = self:resolve(a.args[1]), self:resolve(a.args[2])
   if x.op == "const" then x, mask = mask, x end
   if mask.op ~= "const" or x.op == "const" then return end
   local low, high = insn.halves(mask.value)
   if a.w == 32 or high == 0 or insn.fits_signed(low, high) then self.test[a] = term end
end

---@param graph tideway.ebpf.flow
function M.analyse(graph)
   local self = setmetatable({ count = {}, same = {}, checked = {}, test = {}, skipped = {} }, M)
   for _, block in ipairs(graph.order) do
      local edges = graph.edges[block]
      if #edges == 1 then
         for i, param in ipairs(block.params) do self.same[param] = edges[1].target.args[i] end
      end
   end
   count_uses(self, graph)
   for _, block in ipairs(graph.order) do
      local term = block.term
      find_test(self, term)
      if term.op == "check" then
         local off, base = chain(self, self:resolve(term.args[1]))
         self.checked[base] = math.max(self.checked[base] or 0, off + term.n)
      end
   end
   for _, block in ipairs(graph.order) do
      for _, value in ipairs(block.insts) do
         if value.op == "ptradd" and self.count[value] and self:split_index(value) then
            self.skipped[self:resolve(value.args[2])] = true
         end
      end
   end
   return self
end

return M
