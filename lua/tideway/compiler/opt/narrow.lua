-- SPDX-License-Identifier: BSD-3-Clause
-- 32-bit arithmetic without sign extensions: where only the low 32 bits of a value are looked at, what made its high
-- bits right goes away, and what works on it becomes an operation of 32 bits.
--
-- bit.* on numbers gives signed results, so hashes and checksums are full of sext32; most of them end in a mask, a
-- shift of 32 bits or a store.

local cfg = require "tideway.compiler.opt.cfg"
local ir = require "tideway.compiler.ir"

local M = {}

local TOP = 2 ^ 32 - 1

-- Operations of 64 bits whose low 32 bits depend on the low 32 bits of their operands alone.
local MODULAR = { add = true, sub = true, mul = true, ["and"] = true, ["or"] = true, xor = true }

-- Does this use look at more than the low 32 bits of operand i? "same": at as much as is looked at of the user.
local function looks_high(v, i)
   if v.op == "store" then return i == 1 or v.bits > 32 end
   if v.op == "zext" or v.op == "sext" then return false end
   if v.op == "bswap" then return v.bits > 32 end
   if v.w == 32 then return false end
   if v.type == "num" and (MODULAR[v.op] or (v.op == "shl" and i == 1)) then
      if v.op == "and" then
         local other = v.args[3 - i]
         if other.op == "const" and type(other.value) == "number" and other.value >= 0 and other.value <= TOP then
            return false
         end
      end
      return "same"
   end
   return true
end

-- Values of which somebody looks at the high bits.
local function high(program)
   local marked, work = {}, {}
   local function mark(v)
      if v.op ~= "const" and not marked[v] then
         marked[v] = true
         work[#work + 1] = v
      end
   end
   local pending = {}
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         for i, a in ipairs(v.args) do
            local how = looks_high(v, i)
            if how == true then
               mark(a)
            elseif how == "same" then
               pending[v] = pending[v] or {}
               table.insert(pending[v], a)
            end
         end
      end
      for _, a in ipairs(block.term.args) do mark(a) end
      for _, t in ipairs(ir.targets(block.term)) do
         for _, a in ipairs(t.args) do mark(a) end
      end
   end
   while #work > 0 do
      local v = table.remove(work)
      for _, a in ipairs(pending[v] or {}) do mark(a) end
   end
   return marked
end

local function extends(v) return (v.op == "sext" or v.op == "zext") and v.bits == 32 and v.args[1].type == "num" end

--- Drops extensions nobody looks at.
---@param program tideway.ir.program
---@return integer dropped
function M.run(program)
   local marked = high(program)
   local map, changed, n = {}, {}, 0
   -- Definitions stand before uses in each block's dominators: walk until nothing changes.
   local again = true
   while again do
      again = false
      for _, block in ipairs(program.blocks) do
         for _, v in ipairs(block.insts) do
            if extends(v) and not marked[v] and not map[v] and v.args[1].op ~= "const" then
               map[v] = v.args[1]
               changed[v] = true
               n, again = n + 1, true
            elseif not changed[v] and not marked[v] and v.type == "num" and v.w ~= 32
               and (MODULAR[v.op] or v.op == "shl") then
               local touched = false
               for i, a in ipairs(v.args) do touched = touched or (changed[a] and looks_high(v, i) == "same") end
               if touched then
                  v.w, v.lo, v.hi = 32, 0, TOP
                  changed[v], again = true, true
               end
            end
         end
      end
   end
   if n > 0 then cfg.substitute(program, map) end
   for _, block in ipairs(program.blocks) do
      local kept = {}
      for _, v in ipairs(block.insts) do
         if not map[v] then kept[#kept + 1] = v end
      end
      block.insts = kept
   end
   return n
end

return M
