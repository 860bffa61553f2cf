-- SPDX-License-Identifier: BSD-3-Clause
-- Of which values nobody looks at more than the low 32 bits: extending those to 64 bits is for nothing. bit.* of
-- LuaJIT makes many of them.

local M = {}

local U32 = 2 ^ 32 - 1

-- The low bits of the result depend on the low bits of the operands only.
local SAME = { add = true, sub = true, mul = true, ["and"] = true, ["or"] = true, xor = true, convert = true }
local MEMORY_VALUE = { store = true, atomic = true }

local function within_u32(value) return value.type == "num" and value.lo and value.lo >= 0 and value.hi <= U32 end

local function is_mask(value)
   return value.op == "const" and type(value.value) == "number" and value.value >= 0 and value.value <= U32
end

--- Whether `shr` can be done on 32 bits, whatever the upper half of the register is.
function M.shifts_low(a, count)
   return within_u32(a) and count.op == "const" and type(count.value) == "number" and count.value < 32
end

local function within_s32(value)
   return value.type == "num" and value.lo and value.lo >= -2 ^ 31 and value.hi < 2 ^ 31
end

--- Whether a bit test of `a` with a constant mask can be done on 32 bits: where the mask has the upper half, it has
-- the sign, of which the upper half of `a` is copies.
function M.tests_low(a, mask)
   return is_mask(mask) or (mask.op == "const" and within_s32(mask) and within_s32(a))
end

--- Whether two numbers compare as their low halves do: "signed", then with any condition, or "unsigned", or nil.
function M.compares_low(a, b)
   return within_s32(a) and within_s32(b) and "signed" or within_u32(a) and within_u32(b) and "unsigned" or nil
end

local function is_extension(value) return (value.op == "sext" or value.op == "zext") and value.bits == 32 end

-- What an instruction looks at of its i-th operand: "low" 32 bits, "same" as is looked at of its result, or "all".
local function look(value, i, operand, is_test)
   local op = value.op
   if op == "sext" or op == "zext" or op == "bswap" then return value.bits <= 32 and "low" or "all" end
   if MEMORY_VALUE[op] then return i > 1 and value.bits <= 32 and "low" or "all" end
   if value.w == 32 then return "low" end
   if op == "and" and (is_mask(operand(3 - i)) or (is_test and M.tests_low(operand(i), operand(3 - i)))) then
      return "low"
   end
   if SAME[op] then return "same" end
   if op == "shl" then return i == 1 and "same" or "all" end
   if op == "shr" then return i == 1 and M.shifts_low(operand(1), operand(2)) and "low" or "all" end
   if op == "div" or op == "mod" then return within_u32(operand(1)) and within_u32(operand(2)) and "low" or "all" end
   return "all"
end

--- The values of which more than the low 32 bits are looked at.
---@param graph tideway.ebpf.flow
---@param uses table
---@return table<tideway.ir.value, boolean>
function M.analyse(graph, uses)
   local all, work, same = {}, {}, {}
   local function need(value)
      if value.op ~= "const" and not all[value] then
         all[value] = true
         work[#work + 1] = value
      end
   end
   local function follow(result, operand)
      same[result] = same[result] or {}
      table.insert(same[result], operand)
   end
   for _, block in ipairs(graph.order) do
      for _, value in ipairs(block.insts) do
         local args = value.args
         local function operand(i) return uses:resolve(args[i]) end
         for i = 1, (uses.count[value] or uses:wanted(value)) and #args or 0 do
            local how = look(value, i, operand, uses.test[value])
            if how == "all" then need(operand(i)) elseif how == "same" then follow(value, operand(i)) end
         end
      end
      local term = block.term
      for i, arg in ipairs(term.w ~= 32 and term.args or {}) do
         arg = uses:resolve(arg)
         local low = term.op == "br" and is_extension(arg) and M.compares_low(arg, uses:resolve(term.args[3 - i]))
         if not low then need(arg) end
      end
      for i, param in ipairs(block.params) do
         for _, edge in ipairs(graph.edges[block]) do follow(param, uses:resolve(edge.target.args[i])) end
      end
   end
   while #work > 0 do
      for _, operand in ipairs(same[table.remove(work)] or {}) do need(operand) end
   end
   return all
end

return M
