-- SPDX-License-Identifier: BSD-3-Clause
-- Stores within one block: those that are overwritten before anybody looks go, copies of neighbouring fields and
-- stores of neighbouring constants become wider.

local bit = require "bit"
local ffi = require "ffi"
local ir = require "tideway.compiler.ir"
local memory = require "tideway.compiler.opt.memory"

local M = {}

local function remove(insts, gone)
   local kept, n = 0, #insts
   for i = 1, n do
      if not gone[insts[i]] then
         kept = kept + 1
         insts[kept] = insts[i]
      end
   end
   for i = kept + 1, n do insts[i] = nil end
   return n - kept
end

-- ---- dead stores ----

-- Whether store `v` at place `i` is overwritten in its block before anything can read it.
local function overwritten(insts, i)
   local v = insts[i]
   local p, off, size = v.args[1], v.off or 0, v.bits / 8
   for k = i + 1, #insts do
      local w = insts[k]
      if memory.reads(w, p, off, size) then return false end
      if w.op == "call" and (w.resizes or not w.pure and p.space ~= "stack") then return false end
      if w.op == "store" and w.args[1] == p and (w.off or 0) <= off and (w.off or 0) + w.bits / 8 >= off + size then
         return true
      end
   end
   return false
end

--- Removes stores to stack and frame that are overwritten in the same block.
---@param program tideway.ir.program
---@return integer removed
function M.dead(program)
   local count = 0
   for _, block in ipairs(program.blocks) do
      local gone, insts = nil, block.insts
      for i, v in ipairs(insts) do
         if v.op == "store" and (v.args[1].space == "stack" or v.args[1].space == "pkt") and overwritten(insts, i) then
            gone = gone or {}
            gone[v] = true
         end
      end
      if gone then count = count + remove(insts, gone) end
   end
   return count
end

-- ---- wider ones ----

-- The stack must be accessed at multiples of the size: the kernel refuses the rest.
local function aligned(p, off, size)
   if p.space ~= "stack" then return true end
   local root, lo, hi = memory.locate(p)
   if root.op ~= "alloca" or lo ~= hi then return false end
   return (root.align or 8) % size == 0 and (lo + off) % size == 0
end

-- Nothing from insts[from] to insts[to], but `but`, reads or (when `reading` is false) writes the bytes.
local function undisturbed(insts, from, to, p, off, size, but, writes_only)
   for k = from, to do
      local w = insts[k]
      if w ~= but then
         if memory.writes(w, p, off, size) then return false end
         if not writes_only and memory.reads(w, p, off, size) then return false end
      end
   end
   return true
end

local function wide_constant(a, b, bits)
   local x, y = a.value, b.value
   if type(x) ~= "number" or type(y) ~= "number" or bits > 32 then return nil end
   local all = 2 ^ bits
   local low, high = x % all, y % all
   if bits < 32 then return ir.const(low + high * all, "num") end
   -- 64 bits only where one instruction can hold it: a sign-extended 32-bit constant
   local v = bit.bor(ffi.cast("int64_t", ffi.cast("uint64_t", low)), bit.lshift(ffi.cast("int64_t", high), 32))
   local plain = tonumber(v)
   if plain >= -2 ^ 31 and plain < 2 ^ 31 then return ir.const(plain, "i64") end
   return nil
end

-- Two loads of neighbouring bytes, each only stored: their places and the pointer when they can be one.
local function wide_load(insts, place, uses, a, b)
   if a.op ~= "load" or b.op ~= "load" or a == b or uses[a] ~= 1 or uses[b] ~= 1 then return nil end
   if a.bits ~= b.bits or a.args[1] ~= b.args[1] or (b.off or 0) ~= (a.off or 0) + a.bits / 8 then return nil end
   local i, k = place[a], place[b]
   if not i or not k then return nil end -- of another block
   local p, size = a.args[1], a.bits / 8
   if p.space == "value" or p.space == "mem" or not aligned(p, a.off or 0, 2 * size) then return nil end
   local first, last = math.min(i, k), math.max(i, k)
   local moved = i < k and b or a -- the later one moves up to the earlier
   if not undisturbed(insts, first, last, p, moved.off or 0, size, moved, true) then return nil end
   return first
end

local function find_neighbour(insts, i)
   local v = insts[i]
   local p, off, bits = v.args[1], v.off or 0, v.bits
   for k = i + 1, #insts do
      local w = insts[k]
      if w.op == "store" and w.args[1] == p and w.bits == bits then
         local other = w.off or 0
         if other == off + bits / 8 then return k, v, w end
         if other == off - bits / 8 then return k, w, v end
      end
      -- the earlier store moves down to the later
      if memory.reads(w, p, off, bits / 8) or memory.writes(w, p, off, bits / 8) then return nil end
      if w.op == "call" and not w.pure and p.space ~= "stack" then return nil end
   end
end

local function join(program, insts, i, place, uses)
   local v = insts[i]
   if v.args[1].space == "value" or v.args[1].space == "mem" or v.bits > 32 then return nil end
   local k, low, high = find_neighbour(insts, i)
   if not k then return nil end
   local bits, p = v.bits, v.args[1]
   local off = low.off or 0
   if not aligned(p, off, bits / 4) then return nil end
   local x, y = low.args[2], high.args[2]
   local value, at
   if x.op == "const" and y.op == "const" then
      value = wide_constant(x, y, bits)
      if not value then return nil end
   else
      at = x.bits == bits and wide_load(insts, place, uses, x, y) -- a byte stored as a word is not copied
      if not at then return nil end
      local fields = { bits = 2 * bits, off = x.off or 0, pos = x.pos }
      if bits < 32 then fields.lo, fields.hi = 0, 2 ^ (2 * bits) - 1 end
      value = ir.value(program, "load", bits < 32 and "num" or "u64", { x.args[1] }, fields)
   end
   local store = ir.value(program, "store", "void", { p, value }, { bits = 2 * bits, off = off, pos = v.pos })
   insts[k] = store
   if at then
      insts[at] = value
      local other = place[x] == at and y or x
      return { [v] = true, [other] = true }
   end
   return { [v] = true }
end

-- A load that becomes wider may stand where its narrow one did; what it reads is there.
local function widen(program, block, uses)
   local insts, count, place = block.insts, 0, nil
   local i = 1
   while i <= #insts do
      local v = insts[i]
      local gone
      if v.op == "store" and i < #insts then
         if not place then
            place = {}
            for k, w in ipairs(insts) do place[w] = k end
         end
         gone = join(program, insts, i, place, uses)
      end
      if gone then
         for _, w in ipairs(insts) do
            if w.op == "load" and uses[w] == nil then uses[w] = 1 end
         end
         remove(insts, gone)
         count, i, place = count + 1, 1, nil
      else
         i = i + 1
      end
   end
   return count
end

--- Makes pairs of neighbouring stores of constants or of loaded neighbours one store.
---@param program tideway.ir.program
---@return integer joined
function M.widen(program)
   local uses, count = {}, 0
   local function look(list)
      for _, a in ipairs(list) do uses[a] = (uses[a] or 0) + 1 end
   end
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do look(v.args) end
      look(block.term.args)
      for _, t in ipairs(ir.targets(block.term)) do look(t.args) end
   end
   for _, block in ipairs(program.blocks) do
      local stores = 0
      for _, v in ipairs(block.insts) do
         if v.op == "store" then stores = stores + 1 end
      end
      if stores > 1 then count = count + widen(program, block, uses) end
   end
   return count
end

return M
