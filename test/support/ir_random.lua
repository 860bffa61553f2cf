-- SPDX-License-Identifier: BSD-3-Clause
-- Random IR programs for hook xdp, as text: a frame of 256 bytes is input in its first half and gets results in
-- its second. They are well formed, end, and are the same for the same seed; what they compute has no meaning.

local M = {}

local Maker = {}
Maker.__index = Maker

local EXACT = 2 ^ 53
local INPUT, OUTPUT = 128, 128
M.FRAME = INPUT + OUTPUT

-- ---- a random sequence of our own: the same on every machine ----

function Maker:random(n)
   self.seed = (self.seed * 1103515245 + 12345) % 2147483648
   return math.floor(self.seed / 65536) % n + 1
end

function Maker:pick(list) return list[self:random(#list)] end

-- ---- writing ----

function Maker:line(format, ...) self.out[#self.out + 1] = "  " .. format:format(...) end

function Maker:block(params, loop)
   self.blocks = self.blocks + 1
   return { id = self.blocks, params = params or {}, loop = loop }
end

function Maker:begin(block)
   local params = {}
   for i, p in ipairs(block.params) do params[i] = ("%s:%s"):format(p.name, p.shown) end
   self.out[#self.out + 1] = ("b%d(%s)%s:"):format(block.id, table.concat(params, ", "),
      block.loop and (" loop %d"):format(block.loop) or "")
end

-- A new value, not yet in scope: what it is called, its type, its range.
function Maker:value(type, lo, hi)
   self.count = self.count + 1
   local shown = type == "num" and ("num %.0f..%.0f"):format(lo, hi) or type
   return { name = "v" .. self.count, type = type, lo = lo, hi = hi, shown = shown }
end

function Maker:define(type, lo, hi, format, ...)
   local v = self:value(type, lo, hi)
   self:line("%s:%s = " .. format, v.name, v.shown, ...)
   self.scope[#self.scope + 1] = v
   return v
end

-- ---- operands ----

local CONSTANTS = { 0, 1, 2, 3, 7, 8, 255, 256, 65535, 65536, 2147483647, 2147483648, 4294967295, 4294967296,
   1099511627776, 9007199254740991 }
local WIDE = { "0ULL", "1ULL", "255ULL", "4294967295ULL", "4294967296ULL", "0x8000000000000000ULL",
   "0xffffffffffffffffULL", "0x123456789abcdef0ULL", "2147483648ULL", "0xffffffff80000000ULL" }

local function constant(n) return { name = ("%.0f"):format(n), type = "num", lo = n, hi = n, const = true } end

function Maker:old(type, lo, hi)
   local found = {}
   for _, v in ipairs(self.scope) do
      if v.type == type and (not lo or (v.lo >= lo and v.hi <= hi)) then found[#found + 1] = v end
   end
   return #found > 0 and found[self:random(#found)] or nil
end

function Maker:num(lo, hi)
   lo, hi = lo or -EXACT, hi or EXACT
   if self:random(5) > 1 then
      local v = self:old("num", lo, hi)
      if v then return v end
   end
   for _ = 1, 8 do
      local c = self:pick(CONSTANTS)
      if self:random(4) == 1 then c = -c end
      if c >= lo and c <= hi then return constant(c) end
   end
   return constant(math.max(lo, math.min(hi, 1)))
end

function Maker:wide()
   local v = self:random(4) > 1 and self:old "u64"
   return v or { name = self:pick(WIDE), type = "u64", const = true }
end

-- ---- instructions ----

local STEPS = {}

function STEPS.load(m)
   local bits = m:pick { 8, 16, 32, 64 }
   local off = m:random(INPUT - bits / 8) - 1
   if bits == 64 then return m:define("u64", nil, nil, "load64 v1 +%d", off) end
   m:define("num", 0, 2 ^ bits - 1, "load%d v1 +%d", bits, off)
end

function STEPS.store(m)
   local bits = m:pick { 8, 16, 32, 64 }
   local value = m:random(2) == 1 and m:num() or m:wide()
   m:line("store%d v1 +%d, %s", bits, INPUT + m:random(OUTPUT - bits / 8) - 1, value.name)
end

function STEPS.arithmetic(m)
   local a, b, op = m:num(), m:num(), m:pick { "add", "sub", "mul" }
   local lo, hi
   if op == "add" then lo, hi = a.lo + b.lo, a.hi + b.hi
   elseif op == "sub" then lo, hi = a.lo - b.hi, a.hi - b.lo
   else
      local p = { a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi }
      lo, hi = math.min(unpack(p)), math.max(unpack(p))
   end
   if lo >= -EXACT and hi <= EXACT then m:define("num", lo, hi, "%s %s, %s", op, a.name, b.name) end
end

function STEPS.divide(m)
   local a, b = m:num(0, EXACT), m:num(1, EXACT)
   if m:random(2) == 1 then return m:define("num", 0, a.hi, "div %s, %s", a.name, b.name) end
   m:define("num", 0, b.hi - 1, "mod %s, %s", a.name, b.name)
end

function STEPS.logic(m)
   local a, b, op = m:num(0, EXACT), m:num(0, EXACT), m:pick { "and", "or", "xor" }
   local top = op == "and" and math.min(a.hi, b.hi) or 2 ^ select(2, math.frexp(math.max(a.hi, b.hi, 1))) - 1
   m:define("num", 0, math.min(top, EXACT), "%s %s, %s", op, a.name, b.name)
end

function STEPS.narrow(m)
   local a, b = m:num(), m:num()
   local op = m:pick { "add", "sub", "mul", "and", "or", "xor", "div", "mod", "shl", "shr", "sar" }
   if op == "div" or op == "mod" then
      b = m:define("num", 0, 2 ^ 32 - 1, "or.32 %s, 1", b.name)
   elseif op:find "^s[ha]" then
      b = m:random(2) == 1 and constant(m:random(32) - 1) or m:define("num", 0, 31, "and.32 %s, 31", b.name)
   end
   m:define("num", 0, 2 ^ 32 - 1, "%s.32 %s, %s", op, a.name, b.name)
end

function STEPS.shift(m)
   local a, n = m:num(0, EXACT), m:random(20)
   if m:random(2) == 1 then return m:define("num", 0, math.floor(a.hi / 2 ^ n), "shr %s, %d", a.name, n) end
   if a.hi * 2 ^ n <= EXACT then return m:define("num", 0, a.hi * 2 ^ n, "shl %s, %d", a.name, n) end
   local b = m:num()
   m:define("num", math.floor(b.lo / 2 ^ n), math.floor(b.hi / 2 ^ n), "sar %s, %d", b.name, n)
end

function STEPS.extend(m)
   local bits, a = m:pick { 8, 16, 32 }, m:random(2) == 1 and m:num() or m:wide()
   if m:random(2) == 1 then return m:define("num", 0, 2 ^ bits - 1, "zext%d %s", bits, a.name) end
   m:define("num", -2 ^ (bits - 1), 2 ^ (bits - 1) - 1, "sext%d %s", bits, a.name)
end

-- A round of a hash function, as bit.* makes it.
function STEPS.mix(m)
   local a, b, n = m:num(-2 ^ 40, 2 ^ 40), m:num(-2 ^ 31, 2 ^ 31), m:random(31)
   local whole = m:define("num", 0, 2 ^ 32 - 1, "zext32 %s", a.name)
   local up = m:define("num", 0, 2 ^ 32 - 1, "shl.32 %s, %d", whole.name, n)
   local down = m:define("num", 0, 2 ^ 32 - 1, "shr %s, %d", whole.name, 32 - n)
   local turned = m:define("num", 0, 2 ^ 32 - 1, "or %s, %s", up.name, down.name)
   local signed = m:define("num", -2 ^ 31, 2 ^ 31 - 1, "sext32 %s", turned.name)
   local sum = m:define("num", b.lo - 2 ^ 31, b.hi + 2 ^ 31, "sub %s, %s", b.name, signed.name)
   m:define("num", -2 ^ 31, 2 ^ 31 - 1, "sext32 %s", sum.name)
end

function STEPS.swap(m)
   local bits = m:pick { 16, 32, 64 }
   if bits == 64 then return m:define("u64", nil, nil, "bswap64 %s", m:wide().name) end
   m:define("num", 0, 2 ^ bits - 1, "bswap%d %s", bits, m:num().name)
end

function STEPS.wide(m)
   local op = m:pick { "add", "sub", "mul", "and", "or", "xor", "div", "mod", "shl", "shr", "sar" }
   local a, b = m:wide(), m:wide()
   if op == "div" or op == "mod" then
      b = m:define("u64", nil, nil, "or %s, 1ULL", b.name)
   elseif op:find "^s[ha]" then
      b = m:random(2) == 1 and { name = m:random(64) - 1 .. "ULL" }
         or m:define("u64", nil, nil, "and %s, 63ULL", b.name)
   end
   m:define("u64", nil, nil, "%s %s, %s", op, a.name, b.name)
end

function STEPS.convert(m) m:define("u64", nil, nil, "convert %s", m:num().name) end

function STEPS.call(m) m:line "call ktime_get_ns()" end

function STEPS.stack(m)
   local bits = m:pick { 8, 16, 32, 64 }
   local off = (m:random(64 / bits * 4) - 1) * bits / 8
   if m:random(2) == 1 then
      m:line("store%d %s +%d, %s", bits, m.stack, off, m:random(2) == 1 and m:num().name or m:wide().name)
   elseif bits == 64 then m:define("u64", nil, nil, "load64 %s +%d", m.stack, off)
   else m:define("num", 0, 2 ^ bits - 1, "load%d %s +%d", bits, m.stack, off)
   end
end

function STEPS.odd_stack(m)
   local bits = m:pick { 16, 32, 64 }
   local off = m:random(32 - bits / 8) - 1
   if m:random(2) == 1 then m:line("store%d %s +%d, %s", bits, m.stack, off, m:wide().name)
   elseif bits == 64 then m:define("u64", nil, nil, "load64 %s +%d", m.stack, off)
   else m:define("num", 0, 2 ^ bits - 1, "load%d %s +%d", bits, m.stack, off)
   end
end

function STEPS.atomic(m)
   local kind = m:pick { "add", "or", "and", "xor", "xchg", "cmpxchg" }
   local args = kind == "cmpxchg" and m:wide().name .. ", " .. m:wide().name or m:wide().name
   if m:random(2) == 1 or kind == "cmpxchg" or kind == "xchg" then
      m:define("u64", nil, nil, "atomic %s64 %s +%d, %s", kind, m.stack, (m:random(4) - 1) * 8, args)
   else
      m:line("atomic %s64 %s +%d, %s", kind, m.stack, (m:random(4) - 1) * 8, args)
   end
end

-- A packet access at an offset that is not constant; outside, the program ends.
function STEPS.indexed(m)
   local bits = m:pick { 8, 16, 32 }
   local source = m:old("num", 0, 2 ^ 32 - 1)
   if not source then return end
   local mask = m:pick { 63, 31, 7 }
   local index
   if m:random(2) == 1 then index = m:define("num", 0, mask, "and %s, %d", source.name, mask)
   else index = m:define("num", 0, mask - 1, "mod %s, %d", source.name, mask)
   end
   if m:random(2) == 1 then index = m:define("num", 14, index.hi + 14, "add %s, 14", index.name) end
   local inside, outside = m:block(), m:block()
   m.count = m.count + 1
   local p = "v" .. m.count
   m:line("%s:ptr pkt = ptradd v1, %s", p, index.name)
   m:line("check %s + %d <= v2 -> b%d(), b%d()", p, bits / 8, inside.id, outside.id)
   m:begin(outside)
   m:line "ret 3"
   m:begin(inside)
   m:define("num", 0, 2 ^ bits - 1, "load%d %s +0", bits, p)
end

-- ---- control ----

local function copy(list)
   local new = {}
   for i, v in ipairs(list) do new[i] = v end
   return new
end

-- A branch on two values; returns what the two ways are.
function Maker:branch(yes, no)
   local cc = self:pick { "eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge" }
   local kind = self:random(4)
   local a, b, w = self:num(), self:num(), ""
   if kind == 1 then a, b = self:wide(), self:wide() end
   if kind == 2 then w = ".32" end
   if kind == 3 then
      local mask = self:pick { 1, 128, 4294967295, 2147483648, 65280 }
      a = self:define("num", 0, mask, "and %s, %.0f", self:num(0, EXACT).name, mask)
      b, cc = constant(0), self:pick { "eq", "ne" }
   end
   self:line("br%s %s %s, %s -> %s, %s", w, cc, a.name, b.name, yes, no)
end

-- What a parameter that joins values may be.
function Maker:join(a, b)
   if a.type ~= "num" then return self:value "u64" end
   return self:value("num", math.min(a.lo, b.lo), math.max(a.hi, b.hi))
end

local function names(values)
   local list = {}
   for i, v in ipairs(values) do list[i] = v.name end
   return table.concat(list, ", ")
end

function Maker:arguments(count)
   local list = {}
   for i = 1, count do list[i] = self:random(2) == 1 and self:num() or self:wide() end
   return list
end

function Maker:alike(values)
   local list = {}
   for i, v in ipairs(values) do list[i] = v.type == "num" and self:num() or self:wide() end
   return list
end

-- if/else whose ways meet in a block with parameters; or a way goes there at once.
function Maker:choice(depth)
   local outer = self.scope
   local yes, no = self:block(), self:block()
   local short = self:random(3) == 1
   local first = self:arguments(self:random(4))
   local second
   local joined = self:block()
   self.scope = copy(outer)
   if short then
      second = self:alike(first)
      self:branch(("b%d()"):format(yes.id), ("b%d(%s)"):format(joined.id, names(second)))
      outer = copy(self.scope)
   else
      self:branch(("b%d()"):format(yes.id), ("b%d()"):format(no.id))
      outer = copy(self.scope)
      self:begin(no)
      self:body(depth - 1)
      second = self:alike(first)
      self:line("jmp b%d(%s)", joined.id, names(second))
      self.scope = copy(outer)
   end
   self:begin(yes)
   self:body(depth - 1)
   local arguments = {}
   for i, v in ipairs(first) do arguments[i] = v end
   self:line("jmp b%d(%s)", joined.id, names(arguments))
   self.scope = outer
   for i, v in ipairs(first) do
      joined.params[i] = self:join(v, second[i])
      self.scope[#self.scope + 1] = joined.params[i]
   end
   self:begin(joined)
end

-- A loop of a constant number of rounds whose values change places.
function Maker:loop(depth)
   local rounds = self:random(6)
   local start = self:arguments(1 + self:random(3))
   local header, body, after = self:block(nil, rounds), self:block(), self:block()
   local counter = self:value("num", 0, rounds)
   header.params[1] = counter
   for i, v in ipairs(start) do
      header.params[i + 1] = v.type == "num" and self:value("num", -EXACT, EXACT) or self:value "u64"
   end
   self:line("jmp b%d(0, %s)", header.id, names(start))
   self:begin(header)
   for _, p in ipairs(header.params) do self.scope[#self.scope + 1] = p end
   self:line("br lt %s, %d -> b%d(), b%d()", counter.name, rounds, body.id, after.id)
   local outer = copy(self.scope)
   self:begin(body)
   self:body(depth - 1)
   local following = {}
   for i, v in ipairs(start) do -- often a permutation of the parameters
      local same = {}
      for k = 2, #header.params do if header.params[k].type == v.type then same[#same + 1] = header.params[k] end end
      following[i] = self:random(3) == 1 and self:alike({ v })[1] or same[self:random(#same)]
   end
   local up = self:define("num", 1, rounds, "add %s, 1", counter.name)
   self:line("jmp b%d(%s, %s)", header.id, up.name, names(following))
   self.scope = outer
   self:begin(after)
end

local KINDS = { "load", "load", "store", "arithmetic", "arithmetic", "divide", "logic", "narrow", "narrow", "shift",
   "extend", "mix", "mix", "swap", "wide", "wide", "convert", "call", "stack", "odd_stack", "atomic", "indexed" }

function Maker:body(depth)
   for _ = 1, self:random(self.size) do
      local kind = self:random(12)
      if depth > 0 and kind == 1 then self:choice(depth)
      elseif depth > 0 and kind == 2 and self.loops > 0 then
         self.loops = self.loops - 1
         self:loop(depth)
      else STEPS[self:pick(KINDS)](self)
      end
   end
end

--- The text of a program.
---@param seed integer
---@param options? { size = instructions in a body at most, loops = at most }
---@return string
function M.program(seed, options)
   options = options or {}
   local m = setmetatable({ seed = seed, out = {}, blocks = 3, count = 3, scope = {}, size = options.size or 16,
      loops = options.loops or 3, stack = "v3" }, Maker)
   m.out[1] = ('program "random" target xdp')
   m.out[2] = "b1():"
   m:line "v1:ptr pkt = pktdata"
   m:line "v2:ptr pkt = pktend"
   m:line "v3:ptr stack = alloca 32 align 8"
   m:line("check v1 + %d <= v2 -> b2(), b3()", M.FRAME)
   m.out[#m.out + 1] = "b3():"
   m:line "ret 0"
   m.out[#m.out + 1] = "b2():"
   for off = 0, 24, 8 do m:line("store64 v3 +%d, %d", off, off * 1000) end
   for _ = 1, 6 do STEPS.load(m) end
   for _ = 1, 3 do m:body(3) end
   -- Everything that is still known counts.
   for i = math.max(1, #m.scope - 16), #m.scope do
      m:line("store%d v1 +%d, %s", m:pick { 32, 64 }, INPUT + (i % 16) * 8, m.scope[i].name)
   end
   local last = m:define("num", 0, 2 ^ 31 - 1, "and %s, 2147483647", m:num(0, EXACT).name)
   m:line("ret %s", last.name)
   return table.concat(m.out, "\n") .. "\n"
end

return M
