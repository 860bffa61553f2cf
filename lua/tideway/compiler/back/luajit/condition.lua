-- SPDX-License-Identifier: BSD-3-Clause
-- Comparisons of IR values as Lua conditions, with as few conversions as their ranges allow.

local ranges = require "tideway.compiler.back.luajit.range"

local within, is_u32 = ranges.within, ranges.is_u32

local SIGN = { eq = "==", ne = "~=", lt = "<", le = "<=", gt = ">", ge = ">=" }
SIGN.ult, SIGN.ule, SIGN.ugt, SIGN.uge = "<", "<=", ">", ">="

local function compare(a, cc, b) return ("%s %s %s"):format(a, SIGN[cc], b) end

-- Unsigned order of 32 bits is signed order with the top bit turned over.
local function turned(e, v)
   if v.op == "const" then return ranges.number(ranges.tobit(tonumber(v.value) - 2 ^ 31)) end
   return ("bxor(%s, -2147483648)"):format(e:bits(v))
end

local function is_low(v) return within(v, 0, 2 ^ 31 - 1) end

-- Is it a Lua number that is held in no form of 32 bits?
local function is_plain(e, v) return v.op ~= "const" and e:kind(v) == "n" end

local function compare_pointers(e, cc, a, b)
   if a.op == "const" and not a.object then a, b = b, a end
   local null = b.op == "const" and not b.object and b.value == 0
   if a.space == "pkt" then return compare(e:offset(a), cc, e:offset(b)) end
   return compare(e:pointer(a), cc, null and "nil" or e:pointer(b))
end

local function compare_nums(e, cc, a, b)
   local words = is_u32(a) and is_u32(b)
   if cc == "eq" or cc == "ne" then
      if words and not (is_plain(e, a) and is_plain(e, b)) then return compare(e:bits(a), cc, e:bits(b)) end
   elseif words and not (is_low(a) and is_low(b)) and not (is_plain(e, a) or is_plain(e, b)) then
      return compare(turned(e, a), cc, turned(e, b))
   elseif cc:sub(1, 1) == "u" and not (within(a, 0, 2 ^ 53) and within(b, 0, 2 ^ 53)) then
      return compare(e:wide(a, "u64"), cc, e:wide(b, "u64"))
   end
   return compare(e:num(a), cc, e:num(b))
end

--- A condition as Lua code.
---@param e tideway.luajit.expression
---@param cc string
---@param a tideway.ir.value
---@param b tideway.ir.value
---@param w integer?
---@return string
return function(e, cc, a, b, w)
   if a.type == "ptr" or b.type == "ptr" then return compare_pointers(e, cc, a, b) end
   if w == 32 then
      if cc:sub(1, 1) ~= "u" or (is_low(a) and is_low(b)) then return compare(e:bits(a), cc, e:bits(b)) end
      return compare(("bxor(%s, -2147483648)"):format(e:bits(a)), cc, ("bxor(%s, -2147483648)"):format(e:bits(b)))
   end
   if a.type == "num" and b.type == "num" then return compare_nums(e, cc, a, b) end
   local type = (cc:sub(1, 1) == "u" or cc == "eq" or cc == "ne") and "u64" or "i64"
   return compare(e:wide(a, type), cc, e:wide(b, type))
end
