-- SPDX-License-Identifier: BSD-3-Clause
-- bit.* with LuaJIT's meaning: 32 bits and signed results on numbers, 64 bits with a 64-bit operand.

local bit = require "bit"
local ir = require "tideway.compiler.ir"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local LIMIT = 2 ^ 53
local I32MIN, I32MAX, U32MAX = -2147483648, 2147483647, 4294967295
local floor, min, max = math.floor, math.min, math.max
local num, wide, const_of, sext32, zext32 = number.num, number.wide, number.const_of, number.sext32, number.zext32

local function in32(cx, v)
   local lo, hi = cx:range(v)
   return lo >= I32MIN and hi <= I32MAX
end

local function is_mask(cx, v) -- 0..2^31-1
   local lo, hi = cx:range(v)
   return lo >= 0 and hi <= I32MAX
end

local function ones(n) -- least 2^k - 1 that is not below n
   local r = 1
   while r <= n do r = r * 2 end
   return r - 1
end

-- ---- bit.* on Lua numbers: 32 bits, signed results ----

local narrow = {}

function narrow.band(cx, a, b)
   if is_mask(cx, a) or is_mask(cx, b) then
      local _, ah = cx:range(a)
      local _, bh = cx:range(b)
      local hi = min(is_mask(cx, a) and ah or I32MAX, is_mask(cx, b) and bh or I32MAX)
      local mask = const_of(b) or const_of(a)
      local other = const_of(b) and a or b
      if mask and is_mask(cx, other) and mask >= 0 and mask % 1 == 0 then
         local ol, oh = cx:range(other)
         if ol >= 0 and oh <= I32MAX and bit.band(mask, ones(oh)) == ones(oh) then return other end
         -- 0x46..0x4f and 15: all in one block of the mask
         if bit.band(mask, mask + 1) == 0 and ol >= 0 and floor(ol / (mask + 1)) == floor(oh / (mask + 1)) then
            return num(cx, "and", a, b, ol % (mask + 1), oh % (mask + 1))
         end
      end
      return num(cx, "and", a, b, 0, hi)
   end
   if not in32(cx, a) then a = sext32(cx, a) end
   if not in32(cx, b) then b = sext32(cx, b) end
   local al, bl = cx:range(a), cx:range(b)
   if al >= 0 or bl >= 0 then
      local _, h1 = cx:range(a)
      local _, h2 = cx:range(b)
      return num(cx, "and", a, b, 0, al >= 0 and h1 or h2)
   end
   return num(cx, "and", a, b, I32MIN, I32MAX)
end

local function or_like(op)
   return function(cx, a, b)
      if is_mask(cx, a) and is_mask(cx, b) then
         local _, ah = cx:range(a)
         local _, bh = cx:range(b)
         return num(cx, op, a, b, op == "or" and max((cx:range(a)), (cx:range(b))) or 0, ones(max(ah, bh)))
      end
      return num(cx, op, sext32(cx, a), sext32(cx, b), I32MIN, I32MAX)
   end
end
narrow.bor, narrow.bxor = or_like "or", or_like "xor"

-- Shift count 0..31.
local function count_of(cx, n, mask)
   local c = const_of(n)
   if c then return cx:const(bit.band(c, mask)) end
   local lo, hi = cx:range(n)
   if lo >= 0 and hi <= mask then return n end
   return num(cx, "and", n, cx:const(mask), 0, mask)
end

function narrow.lshift(cx, a, n)
   n = count_of(cx, n, 31)
   local _, nh = cx:range(n)
   local al, ah = cx:range(a)
   if const_of(n) == 0 then return sext32(cx, a) end
   if al >= 0 and ah * 2 ^ nh <= I32MAX then
      local nl = cx:range(n)
      return num(cx, "shl", a, n, al * 2 ^ nl, ah * 2 ^ nh)
   end
   return sext32(cx, num(cx, "shl", a, n, 0, U32MAX, { w = 32 }))
end

function narrow.rshift(cx, a, n)
   n = count_of(cx, n, 31)
   local k = const_of(n)
   if k == 0 then return sext32(cx, a) end
   -- bswap of a 16-bit number, moved down again
   if k == 16 and a.op == "sext" and a.args[1].op == "bswap" and a.args[1].bits == 32 then
      local x = a.args[1].args[1]
      local lo, hi = cx:range(x)
      if lo >= 0 and hi <= 65535 then
         return cx:emit("bswap", "num", { x }, { bits = 16, lo = 0, hi = 65535 })
      end
   end
   a = zext32(cx, a)
   local lo, hi = cx:range(a)
   if k then return num(cx, "shr", a, n, floor(lo / 2 ^ k), floor(hi / 2 ^ k)) end
   local v = num(cx, "shr", a, n, 0, hi)
   return sext32(cx, v)
end

function narrow.arshift(cx, a, n)
   n = count_of(cx, n, 31)
   a = sext32(cx, a)
   local lo, hi = cx:range(a)
   local k = const_of(n)
   if k then return num(cx, "sar", a, n, floor(lo / 2 ^ k), floor(hi / 2 ^ k)) end
   return num(cx, "sar", a, n, min(lo, 0), max(hi, 0))
end

function narrow.bnot(cx, a)
   a = sext32(cx, a)
   local lo, hi = cx:range(a)
   return num(cx, "xor", a, cx:const(-1), -hi - 1, -lo - 1)
end

function narrow.bswap(cx, a)
   return sext32(cx, cx:emit("bswap", "num", { a }, { bits = 32, lo = 0, hi = U32MAX }))
end

local function rotate(first, second)
   return function(cx, a, n)
      n = count_of(cx, n, 31)
      if const_of(n) == 0 then return sext32(cx, a) end
      a = zext32(cx, a)
      local k = const_of(n)
      local back = k and cx:const(32 - k)
         or num(cx, "and", num(cx, "sub", cx:const(32), n, 1, 32), cx:const(31), 0, 31)
      local x = num(cx, first, a, n, 0, U32MAX, { w = 32 })
      local y = num(cx, second, a, back, 0, U32MAX, { w = 32 })
      return sext32(cx, num(cx, "or", x, y, 0, U32MAX))
   end
end
narrow.rol, narrow.ror = rotate("shl", "shr"), rotate("shr", "shl")

-- ---- bit.* with a 64-bit operand ----

local broad = {}

function broad.band(cx, type, a, b)
   local _, ah = cx:range(a)
   local _, bh = cx:range(b)
   local hi = (ah and cx:range(a) >= 0 and ah) or math.huge
   if bh and cx:range(b) >= 0 then hi = min(hi, bh) end
   if b.op == "const" and type == "u64" and tonumber(b.value) <= LIMIT then hi = min(hi, tonumber(b.value)) end
   return wide(cx, "and", type, a, b, hi < math.huge and 0 or nil, hi)
end

local function wide_or(op)
   return function(cx, type, a, b)
      local al, ah = cx:range(a)
      local bl, bh = cx:range(b)
      local known = al and bl and al >= 0 and bl >= 0
      return wide(cx, op, type, a, b, known and 0 or nil, known and ones(max(ah, bh)) or nil)
   end
end
broad.bor, broad.bxor = wide_or "or", wide_or "xor"

function broad.lshift(cx, type, a, n)
   n = count_of(cx, n, 63)
   local al, ah = cx:range(a)
   local _, nh = cx:range(n)
   return wide(cx, "shl", type, a, n, al and al >= 0 and 0 or nil, ah and ah * 2 ^ nh)
end

function broad.rshift(cx, type, a, n)
   n = count_of(cx, n, 63)
   local k = const_of(n)
   local al, ah = cx:range(a)
   local hi = al and al >= 0 and ah or 2 ^ 64 - 1
   if k then hi = floor(hi / 2 ^ k) end
   return wide(cx, "shr", type, a, n, 0, hi)
end

function broad.arshift(cx, type, a, n) return wide(cx, "sar", type, a, count_of(cx, n, 63)) end
function broad.bnot(cx, type, a) return wide(cx, "xor", type, a, ir.const(-1LL, type)) end
function broad.bswap(cx, type, a) return cx:emit("bswap", type, { a }, { bits = 64 }) end
local SHIFTS = { lshift = true, rshift = true, arshift = true, rol = true, ror = true }

--- bit.NAME(...)
---@param name string
---@param args table[] values
function M.bitop(cx, name, args)
   local static = true
   for i, a in ipairs(args) do
      if a.k ~= "host" then static = false end
      if not number.type(a) then number.not_a_number(cx, a, ("bit.%s, argument %d"):format(name, i)) end
   end
   if static then
      local list = {}
      for i, a in ipairs(args) do list[i] = a.v end
      local ok, r = pcall(bit[name], unpack(list, 1, #args))
      if not ok then cx:refuse(("bit.%s: %s"):format(name, tostring(r):gsub("^.-: ", ""))) end
      return value.host(r)
   end
   cx.operator = "bit." .. name
   local type = "num"
   for i, a in ipairs(args) do
      if not (SHIFTS[name] and i == 2) then
         local t = number.type(a)
         if t == "u64" or (t == "i64" and type == "num") then type = t end
      end
   end
   local function operand(i)
      local v = number.ir(cx, args[i], cx.operator)
      return type == "num" and number.low_bits(cx, v, cx.operator) or v
   end
   local first = operand(1)
   if type == "num" then
      if name == "tobit" then return value.int(sext32(cx, first)) end
      if not args[2] then
         return value.int((narrow[name] or narrow.bor)(cx, narrow[name] and first or sext32(cx, first), cx:const(0)))
      end
      for i = 2, #args do first = narrow[name](cx, first, operand(i)) end
      return value.int(first)
   end
   if name == "tobit" then return value.int(sext32(cx, first)) end
   if not broad[name] then cx:refuse(("bit.%s on 64-bit integers"):format(name), "use bit.bor of two shifts") end
   first = number.widen(cx, first, type)
   if not args[2] then return value.int(broad[name](cx, type, first)) end
   for i = 2, #args do
      local v = number.ir(cx, args[i], "bit." .. name)
      if not SHIFTS[name] then v = number.widen(cx, v, type) end
      if SHIFTS[name] and v.type ~= "num" then v = number.tonumber(cx, value.int(v)).ir end
      first = broad[name](cx, type, first, v)
   end
   return value.int(first)
end

return M
