-- SPDX-License-Identifier: BSD-3-Clause
-- Arithmetic with LuaJIT's meaning on exact integers: ranges are carried along, and what could leave the
-- integers a Lua number holds exactly (2^53) is refused. 64-bit cdata wraps, as in LuaJIT.

local ffi = require "ffi"
local bit = require "bit"
local ir = require "tideway.compiler.ir"
local value = require "tideway.compiler.front.value"

local M = {}

local LIMIT = 2 ^ 53
local I32MIN, I32MAX, U32MAX = -2147483648, 2147483647, 4294967295
local floor, min, max = math.floor, math.min, math.max
local u64_t, i64_t = ffi.typeof "uint64_t", ffi.typeof "int64_t"

-- ---- operands ----

--- "num", "i64" or "u64"; nil when it is no number.
function M.type(fv)
   if fv.k == "int" then return fv.narrow and "i64" or fv.ir.type end
   if fv.k == "host" then
      if type(fv.v) == "number" then return "num" end
      if value.is_wide_host(fv) then return value.wide_type(fv.v) end
   end
end

--- The value as an IR integer; refuses what is none.
---@param what string the operation, for the message
---@return tideway.ir.value
function M.ir(cx, fv, what)
   if fv.k == "int" then return fv.ir end
   if fv.k == "host" then
      local v = fv.v
      if type(v) == "number" then
         if v % 1 ~= 0 or v < -LIMIT or v > LIMIT then
            cx:refuse(("%s: %s is not a whole number within 2^53"):format(what, tostring(v)),
               "NF Lua computes with integers only")
         end
         return cx:const(v)
      elseif value.is_wide_host(fv) then
         return ir.const(v, value.wide_type(v))
      end
   end
   M.not_a_number(cx, fv, what)
end

function M.not_a_number(cx, fv, what)
   if fv.k == "quotient" then
      cx:refuse(("%s: what '/' gives may have a fraction"):format(what), "write math.floor(a / b)")
   elseif fv.k == "conflict" then
      cx:refuse(("%s: this value can't be used here: %s"):format(what, fv.why))
   elseif fv.k == "tagged" or (fv.k == "ptr" and fv.nilable) then
      cx:refuse(("%s: the value may be nil here"):format(what), "test it first: if x then ... end")
   end
   cx:refuse(("%s: a number is needed, this is %s"):format(what, value.describe(fv)))
end

--- Refuses what is no Lua number: LuaJIT's math.* takes no 64-bit integers.
function M.lua_number(cx, fv, what)
   local type = M.type(fv)
   if not type then M.not_a_number(cx, fv, what) end
   if type ~= "num" then
      cx:refuse(("%s: a number is needed, this is a 64-bit integer"):format(what),
         "compare with < and >, or use tonumber where the value is known to be small")
   end
end

local function is_static(fv) return fv.k == "host" end

--- A constant as a Lua number, else nil.
function M.const_of(v) return v.op == "const" and type(v.value) == "number" and v.value or nil end

--- A num result within lo..hi.
function M.num(cx, op, a, b, lo, hi, fields)
   if lo < -LIMIT or hi > LIMIT then
      if not cx.speculative then
         cx:refuse(("'%s': the result may be as large as %.0f, beyond the 2^53 a Lua number holds exactly")
            :format(cx.operator or op, hi > LIMIT and hi or lo),
            "limit an operand with bit.band or math.min, or use 64-bit integers (0ULL + x)")
      end
      lo, hi = max(lo, -LIMIT), min(hi, LIMIT)
   end
   fields = fields or {}
   fields.lo, fields.hi = lo, hi
   return cx:emit(op, "num", { a, b }, fields)
end

--- A 64-bit result; the range when it is known and within 2^53.
function M.wide(cx, op, type, a, b, lo, hi, fields)
   fields = fields or {}
   if lo and hi and lo >= 0 and hi <= LIMIT then fields.lo, fields.hi = lo, hi end
   return cx:emit(op, type, { a, b }, fields)
end

local num, wide, const_of = M.num, M.wide, M.const_of

--- As a 64-bit integer of that type (LuaJIT converts numbers when they meet 64-bit cdata). What LuaJIT makes of a
--- negative number where uint64_t is wanted depends on its build.
function M.widen(cx, v, type)
   if v.type == type then return v end
   local lo, hi = cx:range(v)
   if type == "u64" and v.type == "num" and lo < 0 then
      cx:doubt(("a number that may be negative (%.0f) meets an unsigned 64-bit integer"):format(lo),
         "make it a signed one first: 0LL + x")
   end
   if v.op == "const" then return ir.const(ffi.cast(type == "u64" and u64_t or i64_t, v.value), type) end
   local known = lo and lo >= 0
   return cx:emit("convert", type, { v }, { lo = known and lo or nil, hi = known and hi or nil })
end

local function common_type(a, b)
   local s, t = M.type(a), M.type(b)
   if s == "u64" or t == "u64" then return "u64" end
   if s == "i64" or t == "i64" then return "i64" end
   return "num"
end

-- ---- arithmetic ----

local RANGE = {
   ["+"] = function(al, ah, bl, bh) return al + bl, ah + bh end,
   ["-"] = function(al, ah, bl, bh) return al - bh, ah - bl end,
   ["*"] = function(al, ah, bl, bh)
      local p, q, r, s = al * bl, al * bh, ah * bl, ah * bh
      return min(p, q, r, s), max(p, q, r, s)
   end,
}
local OPCODE = { ["+"] = "add", ["-"] = "sub", ["*"] = "mul" }

local function power_of_two(n)
   if not n or n < 1 or n % 1 ~= 0 then return nil end
   local m, e = math.frexp(n)
   return m == 0.5 and e - 1 or nil
end

local function add_sub_mul(cx, op, a, b)
   local type = common_type(a, b)
   local x, y = M.ir(cx, a, "'" .. op .. "'"), M.ir(cx, b, "'" .. op .. "'")
   local al, ah = cx:range(x)
   local bl, bh = cx:range(y)
   local lo, hi
   if al and bl then lo, hi = RANGE[op](al, ah, bl, bh) end
   if type ~= "num" then
      x, y = M.widen(cx, x, type), M.widen(cx, y, type)
      return value.int(wide(cx, OPCODE[op], type, x, y, lo, hi))
   end
   if op ~= "*" and const_of(y) == 0 then return a end
   if op == "+" and const_of(x) == 0 then return b end
   if op == "*" and const_of(y) == 1 then return a end
   if op == "*" and const_of(x) == 1 then return b end
   cx.operator = op
   -- What the operands were here, which later tests no longer tell: for the bounds of loops.
   local step = op ~= "*" and { [x] = { al, ah }, [y] = { bl, bh } } or nil
   return value.int(num(cx, OPCODE[op], x, y, lo, hi, { step = step }))
end

local function divisor_checked(cx, v, what)
   local lo, hi = cx:range(v)
   if lo and (lo > 0 or hi < 0) then return end
   if v.op == "const" and v.value ~= 0 then return end
   if cx.state.nonnil[v] == true then return end -- a 64-bit integer that was tested
   if v.op == "or" and v.args[2].op == "const" and v.args[2].value ~= 0 then return end
   cx:doubt(("%s: the divisor may be 0 here"):format(what), "test it first: if d == 0 then return end")
end

-- x % y of an x that may be negative: Lua's % is floored, the machine's is of unsigned numbers.
local function floored(cx, x, y, bh)
   local join = cx:join()
   local positive, negative = cx:split("ge", x, cx:const(0))
   if positive then
      cx:go(positive)
      local _, ah = cx:range(x)
      cx:jump(join, { value.int(num(cx, "mod", x, y, 0, min(ah, bh - 1))) })
   end
   if negative then
      cx:go(negative)
      local al = cx:range(x)
      local below = num(cx, "sub", cx:const(-1), x, 0, -al - 1) -- -x - 1
      local rest = num(cx, "mod", below, y, 0, min(-al - 1, bh - 1))
      local top = num(cx, "sub", y, cx:const(1), 0, bh - 1)
      cx:jump(join, { value.int(num(cx, "sub", top, rest, 0, bh - 1)) })
   end
   return cx:enter(join)[1]
end

local function modulo(cx, a, b)
   local type = common_type(a, b)
   local x, y = M.ir(cx, a, "'%'"), M.ir(cx, b, "'%'")
   divisor_checked(cx, y, "'%'")
   local al, ah = cx:range(x)
   local bl, bh = cx:range(y)
   if type ~= "num" then
      if type == "i64" and not (al and al >= 0 and bl and bl > 0) then
         cx:doubt("'%' of a signed 64-bit integer that may be negative", "use unsigned ones: 0ULL + x")
      end
      x, y = M.widen(cx, x, type), M.widen(cx, y, type)
      local most = select(2, cx:range(y))
      return value.int(wide(cx, "mod", type, x, y, 0, most and most - 1))
   end
   local k = power_of_two(const_of(y))
   if k then -- floored modulo by a power of two is a mask, for negative numbers too
      return value.int(num(cx, "and", x, cx:const(y.value - 1), 0, al >= 0 and min(ah, y.value - 1) or y.value - 1))
   end
   if al < 0 and bl > 0 then return floored(cx, x, y, bh) end
   if al < 0 or bl < 0 then
      cx:doubt("'%': the divisor may be negative here", "Lua's % has the sign of the divisor; make it positive")
   end
   return value.int(num(cx, "mod", x, y, 0, max(0, min(ah, bh - 1))))
end

local function wide_divide(cx, type, x, y)
   divisor_checked(cx, y, "'/'")
   local al, bl = cx:range(x), cx:range(y)
   if type == "i64" and not (al and al >= 0 and bl and bl > 0) then
      cx:doubt("'/' of a signed 64-bit integer that may be negative", "use unsigned ones: 0ULL + x")
   end
   x, y = M.widen(cx, x, type), M.widen(cx, y, type)
   return value.int(wide(cx, "div", type, x, y, 0, (select(2, cx:range(x)))))
end

--- floor(a / b) of a quotient made by `/`, or of a product with a negative power of two.
function M.floor(cx, fv)
   if fv.k ~= "quotient" then M.lua_number(cx, fv, "math.floor") end
   if fv.k == "int" then return fv end
   if fv.k == "host" then return value.host(floor(fv.v)) end
   local x, y = M.ir(cx, fv.a, "'/'"), M.ir(cx, fv.b, "'/'")
   divisor_checked(cx, y, "math.floor(a / b)")
   local al, ah = cx:range(x)
   local bl, bh = cx:range(y)
   local k = power_of_two(const_of(y))
   if k then
      return value.int(num(cx, al >= 0 and "shr" or "sar", x, cx:const(k), floor(al / y.value), floor(ah / y.value)))
   end
   if al < 0 or bl < 0 then
      cx:doubt("math.floor(a / b): an operand may be negative here",
         "make both non-negative, or divide by a constant power of two")
   end
   al, ah, bl, bh = max(al, 0), max(ah, 0), max(bl, 1), max(bh, 1)
   return value.int(num(cx, "div", x, y, floor(al / bh), floor(ah / bl)))
end

local HOST = {
   ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
   ["*"] = function(a, b) return a * b end, ["/"] = function(a, b) return a / b end,
   ["%"] = function(a, b) return a % b end, ["^"] = function(a, b) return a ^ b end,
   [".."] = function(a, b) return a .. b end,
}

--- A binary operator of Lua but for comparisons.
function M.binary(cx, op, a, b)
   if is_static(a) and is_static(b) then
      local ok, result = pcall(HOST[op], a.v, b.v)
      if not ok then cx:refuse(("'%s' of %s and %s"):format(op, value.describe(a), value.describe(b))) end
      return value.host(result == 0 and type(result) == "number" and 0 or result)
   end
   if op == ".." then
      cx:refuse("strings are not made at run time in NF Lua", "use numbers, and constant strings for drop reasons")
   elseif op == "^" then
      cx:refuse("'^' is floating point in Lua", "multiply, or shift with bit.lshift")
   end
   for _, operand in ipairs { a, b } do
      if not M.type(operand) then M.not_a_number(cx, operand, "'" .. op .. "'") end
   end
   if op == "/" then
      local type = common_type(a, b)
      if type == "num" then return { k = "quotient", a = a, b = b } end
      return wide_divide(cx, type, M.ir(cx, a, "'/'"), M.ir(cx, b, "'/'"))
   elseif op == "*" then
      for x, y in pairs { [a] = b, [b] = a } do -- v * 2^-32, for math.floor
         if y.k == "host" and type(y.v) == "number" and power_of_two(1 / y.v) and y.v < 1 then
            return { k = "quotient", a = x, b = value.host(1 / y.v) }
         end
      end
   elseif op == "%" then
      return modulo(cx, a, b)
   end
   return add_sub_mul(cx, op, a, b)
end

--- Unary minus.
function M.negate(cx, a)
   if a.k == "host" and M.type(a) then return value.host(0 - a.v) end -- no -0, which prints as such
   return M.binary(cx, "-", M.type(a) == "num" and value.host(0) or value.host(0LL), a)
end

-- ---- 32-bit views of a num ----

--- Refuses a number whose low bits LuaJIT does not take exactly: beyond 2^51 for bit.* and for fields that are
--- written with it, beyond 32 bits for fields of C of up to 16 bits (`most` = 2^31).
---@return tideway.ir.value
function M.low_bits(cx, v, what, most)
   local lo, hi = cx:range(v)
   most = most or 2 ^ 51
   if v.type == "num" and (lo < -most or hi > most) then
      cx:doubt(("%s: the number may be as large as %.0f, and LuaJIT takes the low bits of numbers within 2^%d only")
         :format(what, hi > most and hi or lo, most == 2 ^ 51 and 51 or 31),
         "take them yourself: x % 2^32" .. (most < 2 ^ 51 and ", bit.band(x, 0xffff)" or ""))
   end
   return v
end

--- The low 32 bits as a signed number (bit.tobit).
function M.sext32(cx, v)
   local lo, hi = cx:range(v)
   if v.type == "num" and lo >= I32MIN and hi <= I32MAX then return v end
   if v.op == "const" then
      return cx:const(bit.tobit(v.type == "num" and v.value or tonumber(bit.band(v.value, 0xffffffffULL))))
   end
   if v.op == "zext" and v.bits == 32 then return M.sext32(cx, v.args[1]) end
   return cx:emit("sext", "num", { v }, { bits = 32, lo = I32MIN, hi = I32MAX })
end

--- The low 32 bits as an unsigned number.
function M.zext32(cx, v)
   local lo, hi = cx:range(v)
   if v.type == "num" and lo >= 0 and hi <= U32MAX then return v end
   if v.op == "const" and v.type == "num" then return cx:const(v.value % 2 ^ 32) end
   if v.op == "sext" and v.bits == 32 then return M.zext32(cx, v.args[1]) end
   return cx:emit("zext", "num", { v }, { bits = 32, lo = 0, hi = U32MAX })
end

-- ---- conversions ----

--- tonumber(x) of a number or 64-bit integer.
function M.tonumber(cx, fv)
   if fv.k == "host" then return value.host(tonumber(fv.v)) end
   local v = M.ir(cx, fv, "tonumber")
   if v.type == "num" then return value.int(v) end
   local lo, hi = cx:range(v)
   if not lo then
      cx:doubt("tonumber: this 64-bit integer may be beyond the 2^53 that a Lua number holds exactly",
         "limit it first: bit.band(x, 0xffffffffULL), or stay with 64-bit integers")
      lo, hi = v.type == "u64" and 0 or -LIMIT, LIMIT
   end
   return value.int(cx:emit("convert", "num", { v }, { lo = lo, hi = hi }))
end

--- ffi.cast to an integer type.
---@param t tideway.ctype
function M.cast(cx, t, fv)
   local v = M.ir(cx, fv, "ffi.cast")
   if t.size == 8 then return value.int(M.widen(cx, v, t.signed and "i64" or "u64")) end
   local out
   if t.size == 4 then
      out = value.int(t.signed and M.sext32(cx, v) or M.zext32(cx, v))
   else
      out = value.int(M.truncate(cx, v, t.size * 8, t.signed))
   end
   out.narrow = true
   return out
end

--- The low `bits` bits.
function M.truncate(cx, v, bits, signed)
   local lo, hi = cx:range(v)
   local l, h = signed and -2 ^ (bits - 1) or 0, signed and 2 ^ (bits - 1) - 1 or 2 ^ bits - 1
   if v.type == "num" and lo >= l and hi <= h then return v end
   return cx:emit(signed and "sext" or "zext", "num", { v }, { bits = bits, lo = l, hi = h })
end

-- ---- comparisons ----

local UNSIGNED = { lt = "ult", le = "ule", gt = "ugt", ge = "uge", eq = "eq", ne = "ne" }

--- The points behind `a cc b` of two numbers.
function M.compare(cx, cc, a, b)
   local what = "comparison"
   local type = common_type(a, b)
   local x, y = M.ir(cx, a, what), M.ir(cx, b, what)
   if type ~= "num" then
      local al, ah = cx:range(x)
      local bl, bh = cx:range(y)
      x, y = M.widen(cx, x, type), M.widen(cx, y, type)
      if al and bl and al >= 0 and bl >= 0 and (ah < bl or bh < al or (al == ah and bl == bh)) then
         return M.compare(cx, cc, value.host(al), value.host(bl))
      end
      if type == "u64" then cc = UNSIGNED[cc] end
   end
   return cx:split(cc, x, y)
end

--- The number without its sign (math.abs).
function M.absolute(cx, fv)
   if is_static(fv) then return value.host(math.abs(fv.v)) end
   local yes, no = M.compare(cx, "ge", fv, value.host(0))
   local join = cx:join()
   if yes then
      cx:go(yes)
      cx:jump(join, { fv })
   end
   if no then
      cx:go(no)
      cx:jump(join, { M.negate(cx, fv) })
   end
   return cx:enter(join)[1]
end

--- The smaller or larger of two numbers (math.min, math.max).
function M.extreme(cx, name, a, b)
   if is_static(a) and is_static(b) then return value.host(math[name](a.v, b.v)) end
   local yes, no = M.compare(cx, name == "min" and "le" or "ge", a, b)
   local join = cx:join()
   if yes then
      cx:go(yes)
      cx:jump(join, { a })
   end
   if no then
      cx:go(no)
      cx:jump(join, { b })
   end
   return cx:enter(join)[1]
end

return M
