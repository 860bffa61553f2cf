-- SPDX-License-Identifier: BSD-3-Clause
-- Simplification of one pure instruction: constants, algebra, cheaper operations where the ranges allow, and pointers
-- brought into the form base + variable + constant.

local bit = require "bit"
local ir = require "tideway.compiler.ir"
local arith = require "tideway.compiler.opt.arith"

local M = {}

local WORD = 2 ^ 32
local LIMIT = 2 ^ 53

local function is_const(v) return v.op == "const" end

local function num(x) return ir.const(x, "num") end

-- A constant as a Lua number, or nil.
local function number(v)
   return v.op == "const" and v.type ~= "ptr" and type(v.value) == "number" and v.value or nil
end

--- The possible one bits of a num as an unsigned 32-bit number; nil when it may need more or is negative.
local function bits_of(walk, v, depth)
   local lo, hi = walk.facts:range(v)
   if not lo or lo < 0 or hi >= WORD then return nil end
   if v.op == "const" then return v.value end
   local mask = arith.fill(hi)
   depth = depth or 3
   if depth == 0 then return mask end
   local a, b = v.args[1], v.args[2]
   if v.op == "shl" and is_const(b) and v.w ~= 32 then
      local inner = bits_of(walk, a, depth - 1)
      if inner and inner * 2 ^ b.value < WORD then return bit.band(mask, inner * 2 ^ b.value) % WORD end
   elseif v.op == "and" then
      local x, y = bits_of(walk, a, depth - 1), bits_of(walk, b, depth - 1)
      return bit.band(mask, bit.band(x or mask, y or mask)) % WORD
   elseif v.op == "or" and v.w ~= 32 then
      local x, y = bits_of(walk, a, depth - 1), bits_of(walk, b, depth - 1)
      if x and y then return bit.band(mask, bit.bor(x, y)) % WORD end
   end
   return mask
end

-- `v` without what only changes bits that an operation on the low `bits` bits does not see.
local function strip(v, bits)
   while true do
      local op, a, b = v.op, v.args[1], v.args[2]
      local mask = op == "and" and v.w ~= 32 and number(b)
      if (op == "zext" or op == "sext") and v.bits >= bits and a.type == v.type then
         v = a
      elseif mask and bits <= 32 and mask >= 0 and mask < WORD and a.type == v.type
         and bit.band(mask, 2 ^ bits - 1) % WORD == 2 ^ bits - 1 then
         v = a
      else
         return v
      end
   end
end
M.strip = strip

-- x when the types allow it, else a convert of it.
local function as(v, x)
   if x.type == v.type then return x end
   v.op, v.args, v.bits, v.w = "convert", { x }, nil, nil
   return nil
end

-- ---- one function an operation: returns what stands for v, or nil after it may have changed v itself ----

local RULES = {}

-- x + c for exact num arithmetic.
local function offset(walk, v, x, c)
   if c == 0 then return x end
   if c > 0 then v.op, v.args = "add", { x, num(c) } else v.op, v.args = "sub", { x, num(-c) } end
   walk.again = true
end

-- The x and c of x + c, or nil.
local function sum(v)
   if v.type ~= "num" or v.w == 32 or v.op ~= "add" and v.op ~= "sub" then return nil end
   local c = number(v.args[2])
   if not c then return nil end
   return v.args[1], v.op == "add" and c or -c
end
M.sum = sum

function RULES.add(walk, v, a, b)
   local c = number(b)
   if not c then return nil end
   if c == 0 and v.w ~= 32 then return a end
   if c < 0 and v.type == "num" and v.w ~= 32 then return offset(walk, v, a, c) end
   local x, inner = sum(a)
   if x and v.type == "num" and v.w ~= 32 then return offset(walk, v, x, inner + c) end
end

function RULES.sub(walk, v, a, b)
   if a == b then return arith.constant(v.type, 0) end
   local c = number(b)
   if v.w == 32 then return nil end
   if c == 0 then return a end
   if v.type ~= "num" then return nil end
   if c then
      local x, inner = sum(a)
      if x then return offset(walk, v, x, inner - c) end
      if c < 0 then return offset(walk, v, a, -c) end
   elseif a.op == "add" and a.w ~= 32 then
      if a.args[1] == b then return a.args[2] elseif a.args[2] == b then return a.args[1] end
   end
end

function RULES.mul(walk, v, a, b)
   local c = number(b)
   if c == 0 then return arith.constant(v.type, 0) end
   if c == 1 and v.w ~= 32 then return a end
   local k = c and arith.power(c)
   if k and k > 0 and k < (v.w or 64) then
      v.op, v.args = "shl", { a, num(k) }
      walk.again = true
   end
end

function RULES.div(walk, v, a, b)
   local c = number(b)
   if c == 1 and v.w ~= 32 then return a end
   local k = c and arith.power(c)
   if k and k > 0 then
      v.op, v.args = "shr", { a, num(k) }
      walk.again = true
   end
end

function RULES.mod(walk, v, a, b)
   local c = number(b)
   if c == 1 then return arith.constant(v.type, 0) end
   local al, ah = walk.facts:range(a)
   local bl = walk.facts:range(b)
   if v.type == "num" and v.w ~= 32 and al and bl and al >= 0 and ah < bl then return a end
   local k = c and arith.power(c)
   if k then
      v.op, v.args = "and", { a, arith.constant(b.type, c - 1) }
      walk.again = true
   end
end

-- band(bswap16(x), 0xff) is the high byte of x.
local function byte_of_swap(walk, v, a, c)
   if a.op ~= "bswap" or a.bits ~= 16 or c ~= 255 or v.type ~= "num" then return false end
   local x = a.args[1]
   local lo, hi = walk.facts:range(x)
   if x.type ~= "num" or not lo or lo < 0 or hi > 65535 then return false end
   v.op, v.args, v.w = "shr", { x, num(8) }, nil
   walk.again = true
   return true
end

RULES["and"] = function(walk, v, a, b)
   if a == b and v.w ~= 32 then return a end
   local c = number(b)
   if not c then return nil end
   if c == 0 then return arith.constant(v.type, 0) end
   if c < 0 or c >= WORD then
      local bits = c >= -2 ^ 31 and c < 0 and v.type == "num" and bits_of(walk, a)
      if bits and bit.band(bits, bit.bnot(c)) == 0 then return a end
      return nil
   end
   if byte_of_swap(walk, v, a, c) then return nil end
   if v.w == 32 and a.type == v.type then
      v.w = nil -- the mask clears the high half
      walk.again = true
   end
   if v.w == 32 then return nil end
   local bits = v.type == "num" and bits_of(walk, a)
   if bits and bit.band(bits, bit.bnot(c)) == 0 then return a end
   -- (x | one) & c where x has none of these bits, as when a field of a header is written after another one
   local one = a.op == "or" and a.w ~= 32 and number(a.args[2])
   if one and one >= 0 and one < WORD then
      local rest = bits_of(walk, a.args[1])
      if rest and bit.band(rest, c) == 0 then return arith.constant(v.type, bit.band(one, c) % WORD) end
   end
   local inner = a.op == "and" and a.w ~= 32 and number(a.args[2])
   if inner and inner >= 0 and inner < WORD then
      v.args = { a.args[1], arith.constant(v.type, bit.band(inner, c) % WORD) }
      walk.again = true
      return nil
   end
   local k = arith.power(c + 1)
   local plain = k and k <= 32 and strip(a, k) or a
   if plain ~= a then
      v.args = { plain, b }
      walk.again = true
   end
end

RULES["or"] = function(_, v, a, b)
   if v.w == 32 then return nil end
   if a == b or number(b) == 0 then return a end
end

function RULES.xor(_, v, a, b)
   if a == b then return arith.constant(v.type, 0) end
   if v.w ~= 32 and number(b) == 0 then return a end
end

local function double_shift(walk, v, a, c)
   local inner = a.op == v.op and a.w == v.w and number(a.args[2])
   if not inner or inner + c >= (v.w or 64) then return end
   v.args = { a.args[1], num(inner + c) }
   walk.again = true
end

function RULES.shl(walk, v, a, b)
   local c = number(b)
   if not c then return nil end
   if c == 0 and v.w ~= 32 then return a end
   double_shift(walk, v, a, c)
end

function RULES.shr(walk, v, a, b)
   local c = number(b)
   if not c then return nil end
   if c == 0 and v.w ~= 32 then return a end
   if v.w ~= 32 and a.op == "bswap" and c == a.bits - 8 and a.args[1].type == v.type then
      v.op, v.bits, v.args = "zext", 8, { a.args[1] }
      walk.again = true
      return nil
   end
   double_shift(walk, v, a, c)
end

function RULES.sar(walk, v, a, b)
   local c = number(b)
   if c == 0 and v.w ~= 32 then return a end
   local lo, hi = walk.facts:range(a)
   if lo and a.type == "num" and lo >= 0 and (v.w ~= 32 or hi < 2 ^ 31) then
      v.op, walk.again = "shr", true
   end
end

function RULES.sext(walk, v, a)
   local lo, hi = walk.facts:range(a)
   local half = 2 ^ (v.bits - 1)
   if lo and lo >= -half and hi < half then return as(v, a) end
   local plain = strip(a, v.bits)
   if plain ~= a then v.args, walk.again = { plain }, true end
end

function RULES.zext(walk, v, a)
   local lo, hi = walk.facts:range(a)
   if lo and lo >= 0 and hi < 2 ^ v.bits then return as(v, a) end
   local plain = strip(a, v.bits)
   if plain ~= a then v.args, walk.again = { plain }, true end
end

function RULES.bswap(walk, v, a)
   if a.op == "bswap" and a.bits == v.bits then
      if v.bits == 64 then return as(v, a.args[1]) end
      v.op, v.args, walk.again = "zext", { a.args[1] }, true
      return nil
   end
   if v.bits < 64 then
      local plain = strip(a, v.bits)
      if plain ~= a then v.args, walk.again = { plain }, true end
   end
end

function RULES.convert(walk, v, a)
   if a.type == v.type then return a end
   if a.op == "convert" then v.args, walk.again = { a.args[1] }, true end
end

-- base + variable + constant, the constant outermost, where it goes into the offset of loads, stores and checks.
function RULES.ptradd(walk, v, p, by)
   if not walk.on.address then return nil end
   local c = number(by)
   if c == 0 then return p end
   local inner = p.op == "ptradd" and number(p.args[2])
   if c then
      if inner and (v.space ~= "pkt" or inner + c >= 0) then
         v.args, walk.again = { p.args[1], num(inner + c) }, true
      end
      return nil
   end
   local x, extra = sum(by)
   if x then
      -- the bounds that a branch gave the sum the kernel does not know of x
      local _, hi = walk.facts:range(by)
      if extra > 0 and extra <= 32767 and x.lo >= 0 and x.hi <= 65535 and x.hi + extra <= hi then
         local q = walk:emit("ptradd", "ptr", { p, x }, { space = v.space })
         v.args, walk.again = { q, num(extra) }, true
      end
   elseif inner and inner > 0 and inner <= 32767 then
      local q = walk:emit("ptradd", "ptr", { p.args[1], by }, { space = v.space })
      v.args, walk.again = { q, num(inner) }, true
   end
end

-- ---- all of them ----

local COMMUTES = { add = true, mul = true, ["and"] = true, ["or"] = true, xor = true }

local function order(v)
   local a, b = v.args[1], v.args[2]
   if not COMMUTES[v.op] then return end
   if is_const(a) and not is_const(b) or not is_const(a) and not is_const(b) and a.id > b.id then
      v.args[1], v.args[2] = b, a
   end
end

-- An operation on 32 bits that neither wraps nor cuts is the one on 64.
local function widen(walk, v)
   local op, a, b = v.op, v.args[1], v.args[2]
   if v.w ~= 32 or v.type ~= "num" or a.type ~= "num" or b.type ~= "num" or op == "sar" then return end
   local al, ah = walk.facts:range(a)
   local bl, bh = walk.facts:range(b)
   if not al or not bl or al < 0 or bl < 0 or ah >= WORD or bh >= WORD then return end
   local shift = op == "shl" or op == "shr"
   if shift and bl ~= bh then return end
   v.w = nil
   local lo, hi = arith.range(v, al, ah, bl, bh)
   if not lo or lo < 0 or hi >= WORD then v.w = 32 else walk.again = true end
end

-- Bounds from those of the operands; a num that can only be one number is that number.
local function tighten(walk, v)
   if v.type ~= "num" or v.op == "ptradd" then return nil end
   local a, b = v.args[1], v.args[2]
   local al, ah = walk.facts:range(a)
   if not al then return nil end
   local bl, bh
   if b then
      bl, bh = walk.facts:range(b)
      if not bl then return nil end
   end
   local lo, hi = arith.range(v, al, ah, bl, bh)
   if not lo then return nil end
   lo, hi = math.max(lo, v.lo), math.min(hi, v.hi)
   if lo > hi then return nil end -- no packet comes here
   v.lo, v.hi = lo, hi
   if lo == hi then return num(lo) end
end

local function constant(v)
   local a, b = v.args[1], v.args[2]
   if a.op ~= "const" or a.type == "ptr" or b and b.op ~= "const" then return nil end
   local c = arith.evaluate(v, a.value, b and b.value)
   if c and c.type == "num" and (c.value < -LIMIT or c.value > LIMIT) then return nil end
   return c
end

--- What stands for the pure instruction `v`, or nil; `v` itself may be changed.
---@param walk table facts, on, emit
---@param v tideway.ir.value
---@return tideway.ir.value?
function M.simplify(walk, v)
   if not walk.on.fold and v.op ~= "ptradd" then return nil end
   for _ = 1, 8 do
      walk.again = false
      if v.op ~= "ptradd" then
         local c = constant(v)
         if c then return c end
         if v.args[2] then
            order(v)
            widen(walk, v)
         end
      end
      local to = RULES[v.op](walk, v, v.args[1], v.args[2])
      if to then return to end
      if not walk.again then break end
   end
   return tighten(walk, v)
end

return M
