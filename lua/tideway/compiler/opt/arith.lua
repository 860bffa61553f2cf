-- SPDX-License-Identifier: BSD-3-Clause
-- Arithmetic on constants and on ranges: what an operation gives for known operands, and within which bounds its
-- result lies for operands within bounds.

local bit = require "bit"
local ffi = require "ffi"
local ir = require "tideway.compiler.ir"

local M = {}

local LIMIT, WORD = 2 ^ 53, 2 ^ 32
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"
local floor, max, min = math.floor, math.max, math.min

-- ---- constants ----

local function raw(x) return type(x) == "number" and int64(x) or ffi.cast(int64, x) end

--- A constant of `kind` with the 64 bits of `x`, or nil when a num cannot hold it.
---@return tideway.ir.value?
function M.constant(kind, x)
   if type(x) == "number" then
      if kind == "u64" and x < 0 then x = raw(x) else return ir.const(x, kind) end
   end
   local v = ffi.cast(kind == "u64" and uint64 or int64, x)
   local plain = tonumber(v)
   if plain >= -LIMIT and plain <= LIMIT then return ir.const(plain, kind) end
   if kind == "num" then return nil end
   return ir.const(v, kind)
end

local EXACT = {
   add = function(a, b) return a + b end,
   sub = function(a, b) return a - b end,
   mul = function(a, b) return a * b end,
}

local function divide(f)
   return function(a, b)
      if b == 0 then return nil end
      return f(ffi.cast(uint64, a), ffi.cast(uint64, b))
   end
end

local function shift(f)
   return function(a, b, w)
      local n = tonumber(b)
      if n < 0 or n >= w then return nil end
      return f(a, n)
   end
end

local BINARY = {
   add = function(a, b) return a + b end,
   sub = function(a, b) return a - b end,
   mul = function(a, b) return a * b end,
   div = divide(function(a, b) return a / b end),
   mod = divide(function(a, b) return a % b end),
   ["and"] = function(a, b) return bit.band(a, b) end,
   ["or"] = function(a, b) return bit.bor(a, b) end,
   xor = function(a, b) return bit.bxor(a, b) end,
   shl = shift(bit.lshift), shr = shift(bit.rshift), sar = shift(bit.arshift),
}

local SIGNED = { [8] = ffi.typeof "int8_t", [16] = ffi.typeof "int16_t", [32] = ffi.typeof "int32_t" }

local function unary(v, a)
   local x = raw(a)
   if v.op == "sext" then return int64(ffi.cast(SIGNED[v.bits], x)) end
   if v.op == "zext" then return bit.band(x, int64(2 ^ v.bits) - 1) end
   if v.op == "bswap" then return v.bits == 64 and bit.bswap(x) or bit.rshift(bit.bswap(x), 64 - v.bits) end
   return x -- convert
end

--- What `v`, an operation of ir.PURE on integers, gives for constant operand values: a constant, or nil when it
--- cannot be said (division by 0, a shift too far, a num beyond 2^53).
---@param v tideway.ir.value
---@return tideway.ir.value?
function M.evaluate(v, a, b)
   local op, kind = v.op, v.type
   if b == nil then
      local x = unary(v, a)
      return x and M.constant(kind, x)
   end
   if kind == "num" and v.w ~= 32 and EXACT[op] then
      local x = EXACT[op](tonumber(a), tonumber(b))
      return x >= -LIMIT and x <= LIMIT and ir.const(x, "num") or nil
   end
   local f = BINARY[op]
   if not f then return nil end
   a, b = raw(a), raw(b)
   if v.w == 32 then
      a, b = bit.band(a, 0xffffffffll), bit.band(b, 0xffffffffll)
      if op == "sar" then a = int64(ffi.cast("int32_t", a)) end
   end
   local x = f(a, b, v.w or 64)
   if not x then return nil end
   return M.constant(kind, v.w == 32 and bit.band(x, 0xffffffffll) or x)
end

--- Whether `a cc b` holds for constant values.
function M.compare(cc, w, a, b)
   a, b = raw(a), raw(b)
   if w == 32 then a, b = int64(ffi.cast("int32_t", a)), int64(ffi.cast("int32_t", b)) end
   if cc == "eq" then return a == b elseif cc == "ne" then return a ~= b end
   if cc:sub(1, 1) == "u" then
      a, b, cc = ffi.cast(uint64, a), ffi.cast(uint64, b), cc:sub(2)
   end
   if cc == "lt" then return a < b elseif cc == "le" then return a <= b elseif cc == "gt" then return a > b end
   return a >= b
end

--- The number with its low `bits` bits (16 or 32) in the other order of bytes.
function M.swap(x, bits)
   local y = bit.bswap(bit.tobit(x))
   if bits == 16 then return bit.band(bit.rshift(y, 16), 0xffff) end
   return y % WORD
end

--- k when x is 2^k, else nil.
function M.power(x)
   if type(x) ~= "number" or x < 1 then return nil end
   local m, e = math.frexp(x)
   return m == 0.5 and e - 1 or nil
end

-- ---- ranges ----

-- The least 2^k - 1 that is not below x.
local function fill(x)
   if x <= 0 then return 0 end
   local _, e = math.frexp(x)
   return 2 ^ e - 1
end

local RANGE = {}

function RANGE.add(al, ah, bl, bh) return al + bl, ah + bh end
function RANGE.sub(al, ah, bl, bh) return al - bh, ah - bl end

function RANGE.mul(al, ah, bl, bh)
   local p, q, r, s = al * bl, al * bh, ah * bl, ah * bh
   return min(p, q, r, s), max(p, q, r, s)
end

function RANGE.div(al, ah, bl, bh)
   if al < 0 or bl < 1 then return nil end
   return floor(al / bh), floor(ah / bl)
end

function RANGE.mod(al, ah, bl, bh)
   if al < 0 or bl < 1 then return nil end
   if ah < bl then return al, ah end
   return 0, min(ah, bh - 1)
end

RANGE["and"] = function(al, ah, bl, bh)
   if al < 0 and bl < 0 then return nil end
   if al < 0 then return 0, bh elseif bl < 0 then return 0, ah end
   local m = M.power(bh + 1)
   if bl == bh and m and floor(al / 2 ^ m) == floor(ah / 2 ^ m) then return al % 2 ^ m, ah % 2 ^ m end
   return 0, min(ah, bh)
end

RANGE["or"] = function(al, ah, bl, bh)
   if al < 0 or bl < 0 then return nil end
   return max(al, bl), fill(max(ah, bh))
end

function RANGE.xor(al, ah, bl, bh)
   if al < 0 or bl < 0 then return nil end
   return 0, fill(max(ah, bh))
end

function RANGE.shl(al, ah, bl, bh)
   if bl ~= bh then return nil end
   return al * 2 ^ bl, ah * 2 ^ bl
end

function RANGE.shr(al, ah, bl, bh)
   if al < 0 then return nil end
   return floor(al / 2 ^ bh), floor(ah / 2 ^ bl)
end

function RANGE.sar(al, ah, bl, bh)
   if bl ~= bh then return nil end
   return floor(al / 2 ^ bl), floor(ah / 2 ^ bl)
end

local function narrow(al, ah, lo, hi)
   if al >= lo and ah <= hi then return al, ah end
   return lo, hi
end

--- Bounds of the result of `v` for a num operand within al..ah and, where it has two, a second within bl..bh.
--- nil where nothing better than the declared range is known.
---@return number? lo, number? hi
function M.range(v, al, ah, bl, bh)
   local op, lo, hi = v.op, nil, nil
   if op == "sext" then
      return narrow(al, ah, -2 ^ (v.bits - 1), 2 ^ (v.bits - 1) - 1)
   elseif op == "zext" then
      return narrow(al, ah, 0, 2 ^ v.bits - 1)
   elseif op == "bswap" then
      if v.bits == 64 then return nil end
      return 0, 2 ^ v.bits - 1
   elseif op == "convert" then
      return al, ah
   end
   local f = RANGE[op]
   if not f or not bl then return nil end
   if v.w == 32 then
      local shifts = op == "shl" or op == "shr" or op == "sar"
      if al >= 0 and ah < WORD and bl >= 0 and bh < WORD and not (op == "sar" and ah >= 2 ^ 31) then
         if not shifts or bh < 32 then lo, hi = f(al, ah, bl, bh) end
      end
      if lo and lo >= 0 and hi < WORD then return lo, hi end
      return 0, WORD - 1
   end
   lo, hi = f(al, ah, bl, bh)
   if lo and lo >= -LIMIT and hi <= LIMIT then return lo, hi end
   return nil
end

M.fill = fill

return M
