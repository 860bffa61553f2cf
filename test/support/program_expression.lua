-- SPDX-License-Identifier: BSD-3-Clause
-- Random expressions of NF Lua with the range of their values, so that few leave the integers of a Lua number.

local M = {}

local LIMIT = 2 ^ 51 -- what bit.* takes exactly
local floor, min, max = math.floor, math.min, math.max

---@class test.program.expressions
---@field r traffic.random
---@field scope table { vars, views, functions }
local E = {}
E.__index = E
M.E = E

local function node(t, lo, hi, fmt, ...)
   local e = { fmt = fmt, t = t, lo = lo, hi = hi, ... }
   return e
end
M.node = node

-- ---- numbers ----

local EDGES = {
   0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1000, 4095, 32767, 32768, 65535, 65536, 0x00ffffff,
   2147483647, 2147483648, 4294967295, 4294967296, 0x123456789abc, 2 ^ 48 - 1,
}

local function constant(n)
   local text = ("%.0f"):format(n)
   if n < 0 then text = "(" .. text .. ")" end
   return node("num", n, n, text)
end
M.constant = constant

function E:constant(most)
   local r = self.r
   for _ = 1, 20 do
      local n = r:one_in(2) and r:pick(EDGES) or r:range(0, 300)
      if n <= (most or LIMIT) then return constant(n > 0 and r:one_in(6) and -n or n) end
   end
   return constant(r:range(0, 7))
end

-- A variable of this type that is in scope.
function E:variable(t)
   local list = {}
   for _, v in ipairs(self.scope.vars) do
      if v.t == t then list[#list + 1] = v end
   end
   if #list == 0 then return nil end
   local v = list[max(1, #list - floor(self.r:range(0, 1000) ^ 2 / 1e6 * #list))]
   return node(t, v.lo, v.hi, v.name), v
end

-- A field of a view, or nil.
function E:field(t)
   local views = self:live_views()
   if #views == 0 then return nil end
   local view = self.r:pick(views)
   local list = {}
   for _, f in ipairs(view.fields) do
      if f.t == t then list[#list + 1] = f end
   end
   if #list == 0 then return nil end
   local f = self.r:pick(list)
   return node(t, f.lo, f.hi, view.name .. "." .. f.name)
end

function E:live_views()
   local list = {}
   for _, v in ipairs(self.scope.views) do
      if v.gen == self.gen.n then list[#list + 1] = v end
   end
   return list
end

function E:leaf()
   local r = self.r
   local what = r:range(1, 10)
   local e = what <= 5 and self:variable "num" or what <= 8 and self:field "num" or nil
   if not e and what == 9 and not self.inside_function then e = node("num", 14, 4000, "pkt.len") end
   return e or self:constant()
end

local function fits(lo, hi) return lo >= -LIMIT and hi <= LIMIT end

local function ones(n)
   local x = 1
   while x <= n do x = x * 2 end
   return x - 1
end

local NUM = {}

function NUM.add(self, d)
   local a, b = self:num(d), self:num(d)
   if fits(a.lo + b.lo, a.hi + b.hi) then return node("num", a.lo + b.lo, a.hi + b.hi, "(%s + %s)", a, b) end
end

function NUM.sub(self, d)
   local a, b = self:num(d), self:num(d)
   if fits(a.lo - b.hi, a.hi - b.lo) then return node("num", a.lo - b.hi, a.hi - b.lo, "(%s - %s)", a, b) end
end

function NUM.mul(self, d)
   local a, b = self:num(d), self:num(d)
   local p, q, x, y = a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi
   local lo, hi = min(p, q, x, y), max(p, q, x, y)
   if fits(lo, hi) then return node("num", lo, hi, "(%s * %s)", a, b) end
end

-- What divides, at least 1.
function E:divisor(d)
   local r = self.r
   if r:one_in(2) then return constant(r:pick { 1, 2, 3, 5, 7, 8, 10, 16, 255, 256, 1000, 65536, 4294967296 }) end
   local b = self:num(d)
   return node("num", max(1, b.lo), max(1, b.hi), "math.max(%s, 1)", b)
end

local function is_power(n)
   local m = math.frexp(n)
   return m == 0.5
end

function NUM.div(self, d)
   local a, b = self:num(d), self:divisor(d)
   if a.lo < 0 and not (b.lo == b.hi and is_power(b.lo)) then return nil end
   local lo = a.lo < 0 and floor(a.lo / b.lo) or floor(a.lo / b.hi)
   return node("num", lo, floor(a.hi / b.lo), "math.floor(%s / %s)", a, b)
end

function NUM.mod(self, d)
   local a, b = self:num(d), self:divisor(d)
   if a.lo < 0 and not (b.lo == b.hi and is_power(b.lo)) then return nil end
   return node("num", 0, a.lo < 0 and b.hi - 1 or min(a.hi, b.hi - 1), "(%s %% %s)", a, b)
end

function NUM.min(self, d)
   local a, b = self:num(d), self:num(d)
   return node("num", min(a.lo, b.lo), min(a.hi, b.hi), "math.min(%s, %s)", a, b)
end

function NUM.max(self, d)
   local a, b = self:num(d), self:num(d)
   return node("num", max(a.lo, b.lo), max(a.hi, b.hi), "math.max(%s, %s)", a, b)
end

function NUM.abs(self, d)
   local a = self:num(d)
   return node("num", a.lo > 0 and a.lo or a.hi < 0 and -a.hi or 0, max(-a.lo, a.hi), "math.abs(%s)", a)
end

function NUM.neg(self, d)
   local a = self:num(d)
   return node("num", -a.hi, -a.lo, "(-%s)", a)
end

local I32MIN, I32MAX = -2147483648, 2147483647

function NUM.band(self, d)
   local a, b = self:num(d), self:num(d)
   local hi = I32MAX
   local known = false
   for _, e in ipairs { a, b } do
      if e.lo >= 0 and e.hi <= I32MAX then hi, known = min(hi, e.hi), true end
   end
   return node("num", known and 0 or I32MIN, hi, "bit.band(%s, %s)", a, b)
end

local function or_like(name)
   return function(self, d)
      local a, b = self:num(d), self:num(d)
      if self.r:one_in(5) then
         return node("num", I32MIN, I32MAX, "bit." .. name .. "(%s, %s, %s)", a, b, self:num(d))
      end
      if a.lo >= 0 and b.lo >= 0 and a.hi <= I32MAX and b.hi <= I32MAX then
         return node("num", 0, ones(max(a.hi, b.hi)), "bit." .. name .. "(%s, %s)", a, b)
      end
      return node("num", I32MIN, I32MAX, "bit." .. name .. "(%s, %s)", a, b)
   end
end
NUM.bor, NUM.bxor = or_like "bor", or_like "bxor"

local function unary(name)
   return function(self, d) return node("num", I32MIN, I32MAX, "bit." .. name .. "(%s)", (self:num(d))) end
end
NUM.bnot, NUM.bswap, NUM.tobit = unary "bnot", unary "bswap", unary "tobit"

function E:shift_count(d, most)
   local r = self.r
   if r:one_in(4) then return self:num(d) end
   return constant(r:range(0, most))
end

local function shift(name)
   return function(self, d)
      local a, n = self:num(d), self:shift_count(d, 31)
      if name == "rshift" and n.lo == n.hi and n.lo >= 0 and n.lo < 32 and a.lo >= 0 and a.hi <= 4294967295 and n.lo > 0 then
         return node("num", 0, floor(a.hi / 2 ^ n.lo), "bit.rshift(%s, %s)", a, n)
      end
      return node("num", I32MIN, I32MAX, "bit." .. name .. "(%s, %s)", a, n)
   end
end
for _, name in ipairs { "lshift", "rshift", "arshift", "rol", "ror" } do NUM[name] = shift(name) end

function NUM.choose(self, d)
   local c, a, b = self:condition(d), self:num(d), self:num(d)
   return node("num", min(a.lo, b.lo), max(a.hi, b.hi), "(%s and %s or %s)", c, a, b)
end

function NUM.narrow(self, d)
   local a = self:u64(d)
   local bits = self.r:pick { 8, 16, 31, 32, 48 }
   return node("num", 0, 2 ^ bits - 1, ("tonumber(bit.band(%%s, 0x%xULL))"):format(2 ^ bits - 1), a)
end

function NUM.maybe(self, d)
   local v, var = self:variable "maybe"
   if not v then return nil end
   local b = self:num(d)
   return node("num", min(var.lo, b.lo), max(var.hi, b.hi), "(%s or %s)", v, b)
end

function NUM.call(self, d)
   local functions = self.scope.functions
   if #functions == 0 or self.inside_function then return nil end
   local f = self.r:pick(functions)
   local args, marks = {}, {}
   for i, p in ipairs(f.params) do args[i], marks[i] = self:fitting(self:num(d), p.lo, p.hi), "%s" end
   return node("num", f.lo, f.hi, ("(%s(%s))"):format(f.name, table.concat(marks, ", ")), unpack(args))
end

local NAMES = {}
for name in pairs(NUM) do NAMES[#NAMES + 1] = name end
table.sort(NAMES)

--- A number; d bounds the depth.
function E:num(d)
   if d <= 0 or self.r:one_in(4) then return self:leaf() end
   local e = NUM[self.r:pick(NAMES)](self, d - 1)
   return e or self:leaf()
end

--- The expression brought into a range: 0..2^k-1, or that of a signed 32-bit number.
function E:fitting(e, lo, hi)
   if e.lo >= lo and e.hi <= hi then return e end
   if lo < 0 then return node("num", I32MIN, I32MAX, "bit.tobit(%s)", e) end
   if hi <= I32MAX and self.r:range(1, 3) > 1 then return node("num", 0, hi, "bit.band(%s, %s)", e, constant(hi)) end
   return node("num", 0, hi, "(%s %% %s)", e, constant(hi + 1))
end

-- ---- 64-bit integers ----

local WIDE = { "0ULL", "1ULL", "0xffffffffffffffffULL", "0x8000000000000000ULL", "0x123456789abcdefULL", "255ULL",
   "0xffffffffULL", "65536ULL" }
local SIGNED = { "0LL", "1LL", "-1LL", "0x7fffffffffffffffLL", "-5LL", "256LL", "0x123456789LL" }

-- A number that may meet a 64-bit integer of this type: LuaJIT makes no unsigned one of a negative number.
function E:companion(t, d)
   local e = self:num(d)
   return t == "u64" and e.lo < 0 and self:fitting(e, 0, 65535) or e
end

function E:wide_leaf(t)
   local r = self.r
   local what = r:range(1, 6)
   local e = what <= 3 and self:variable(t) or what == 4 and self:field(t) or nil
   if not e and what == 5 then
      return node(t, nil, nil, t == "u64" and "(%s + 0ULL)" or "(0LL + %s)", self:companion(t, 1))
   end
   return e or node(t, nil, nil, "(" .. r:pick(t == "u64" and WIDE or SIGNED) .. ")")
end

-- A 64-bit operand and another one, or a number.
function E:mixed(t, d)
   local a, b = self:wide(t, d), self.r:one_in(3) and self:companion(t, d) or self:wide(t, d)
   if self.r:one_in(2) then a, b = b, a end
   return a, b
end

function E:wide(t, d)
   local r = self.r
   if d <= 0 or r:one_in(4) then return self:wide_leaf(t) end
   d = d - 1
   local what = r:range(1, 10)
   if what <= 3 then
      return node(t, nil, nil, r:pick { "(%s + %s)", "(%s - %s)", "(%s * %s)" }, self:mixed(t, d))
   elseif what == 4 and t == "u64" then
      return node(t, nil, nil, r:pick { "(%s / bit.bor(%s, 1ULL))", "(%s %% bit.bor(%s, 1ULL))" },
         self:wide(t, d), self:wide(t, d))
   elseif what <= 6 then
      return node(t, nil, nil, r:pick { "bit.band(%s, %s)", "bit.bor(%s, %s)", "bit.bxor(%s, %s)" }, self:mixed(t, d))
   elseif what <= 8 then
      local fmt = r:pick { "bit.lshift(%s, %s)", "bit.rshift(%s, %s)", "bit.arshift(%s, %s)" }
      return node(t, nil, nil, fmt, self:wide(t, d), self:shift_count(d, 63))
   elseif what == 9 then
      return node(t, nil, nil, r:pick { "bit.bnot(%s)", "bit.bswap(%s)", "(-%s)" }, self:wide(t, d))
   end
   return node(t, nil, nil, "(%s and %s or %s)", self:condition(d), self:wide(t, d), self:wide(t, d))
end

function E:u64(d) return self:wide("u64", d) end

-- ---- conditions ----

local CC = { "<", "<=", ">", ">=", "==", "~=" }

function E:condition(d)
   local r = self.r
   local what = d <= 0 and r:range(1, 5) or r:range(1, 12)
   if what <= 4 then return node("cond", nil, nil, "(%s " .. r:pick(CC) .. " %s)", self:num(d - 1), self:num(d - 1)) end
   if what == 5 then
      local v = self:variable "bool"
      if v then return node("cond", nil, nil, r:pick { "%s", "(%s == true)", "(%s == false)" }, v) end
      return node("cond", nil, nil, "(%s " .. r:pick(CC) .. " %s)", self:num(0), self:num(0))
   end
   if what == 6 then return node("cond", nil, nil, "(%s and %s)", self:condition(d - 1), self:condition(d - 1)) end
   if what == 7 then return node("cond", nil, nil, "(%s or %s)", self:condition(d - 1), self:condition(d - 1)) end
   if what == 8 then return node("cond", nil, nil, "(not %s)", self:condition(d - 1)) end
   if what == 9 then
      local t = r:pick { "u64", "i64" }
      return node("cond", nil, nil, "(%s " .. r:pick(CC) .. " %s)", self:mixed(t, d - 1))
   end
   if what == 11 then
      local t = r:pick { "bool", "maybe" }
      local a, b = self:variable(t), self:variable(r:pick { t, t, "bool", "maybe" })
      if a and b then return node("cond", nil, nil, r:pick { "(%s == %s)", "(%s ~= %s)" }, a, b) end
   end
   if what == 10 then
      local v = self:variable "maybe"
      if v then return node("cond", nil, nil, r:pick { "(%s ~= nil)", "(%s == nil)", "(not %s)" }, v) end
   end
   return node("cond", nil, nil, "(%s " .. r:pick(CC) .. " %s)", self:num(d - 1), self:num(d - 1))
end

return M
