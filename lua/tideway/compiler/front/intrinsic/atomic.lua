-- SPDX-License-Identifier: BSD-3-Clause
-- t:exchange(key..., value) and t:compare_exchange(key..., expected, new): one atomic instruction on the entry's value.

local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local ARGUMENTS = { exchange = { "value" }, compare_exchange = { "expected", "new" } }
local KIND = { exchange = "xchg", compare_exchange = "cmpxchg" }
local INTEGER = { u32 = "num", i32 = "num", u64 = "u64", i64 = "i64", ns = "num" }

-- What the instruction gives: the old value as the table's type reads.
local function emit(cx, what, t, pointer, args)
   local type = t.fields[1].type
   local fields = { kind = KIND[what], bits = t.size * 8, off = 0, fetch = true, lo = nil, hi = nil }
   if t.size == 4 then
      fields.lo, fields.hi = 0, 2 ^ 32 - 1
   elseif INTEGER[type] == "num" then
      fields.lo, fields.hi = 0, memory.LATEST
   end
   memory.forget(cx, pointer.space)
   local old = cx:emit("atomic", INTEGER[type], { pointer, unpack(args) }, fields)
   if type == "i32" then old = number.truncate(cx, old, 32, true) end
   return value.int(old)
end

-- The values that go into the instruction.
local function operands(cx, what, t, args, first)
   local list = {}
   for i, name in ipairs(ARGUMENTS[what]) do
      local fv = args[first + i - 1] or value.NIL
      local text = ("%s:%s, %s"):format(t.name, what, name)
      if not number.type(fv) then number.not_a_number(cx, fv, text) end
      list[i] = number.ir(cx, fv, text)
      if t.value_type.size == 8 then list[i] = number.widen(cx, list[i], "u64") end
   end
   return list
end

--- On an entry that may not be there.
---@param pointer tideway.ir.value?
---@param first integer index of the first value among the arguments
---@return table value the old one, or nil
function M.on(cx, what, t, pointer, args, first)
   if not t.value_type.scalar or not INTEGER[t.value_type.fields[1].type] then
      cx:refuse(("%s:%s is for values that are one integer of 4 or 8 bytes"):format(t.name, what))
   elseif t.per_cpu then
      cx:refuse(("%s:%s: every CPU has a value of its own in a %s"):format(t.name, what, t.kind),
         "use tw.hash or tw.array")
   end
   local list = operands(cx, what, t, args, first)
   if not pointer then return value.NIL end
   local join = cx:join()
   local yes, no = cx:split("ne", pointer, cx:null())
   if no then
      cx:go(no)
      cx:jump(join, { value.NIL })
   end
   if yes then
      cx:go(yes)
      cx:jump(join, { emit(cx, what, t.value_type, pointer, list) })
   end
   return cx:enter(join)[1]
end

M.names = { "exchange", "compare_exchange" }

return M
