-- SPDX-License-Identifier: BSD-3-Clause
-- IR values as Lua expressions. A num is held in one of three ways, chosen so that traces stay with 32-bit integers:
--    i   within int32: a Lua number that traces keep as an integer
--    b   within 0..2^32-1: its 32 bits as a signed number, as bit.* gives them
--    n   anything else: a Lua number
-- u64 and i64 are cdata; a pkt pointer is its offset from the frame's start (o), any other a uint8_t pointer (p).

local bit = require "bit"
local ffi = require "ffi"
local ranges = require "tideway.compiler.back.luajit.range"
local target = require "tideway.compiler.target.lcore"

local M = {}

local within, is_i32, is_u32, is_short = ranges.within, ranges.is_i32, ranges.is_u32, ranges.is_short
local constant_of, power_of_two, number, tobit = ranges.constant_of, ranges.power_of_two, ranges.number, ranges.tobit

local NIL = -2 ^ 30 -- offset of a pkt pointer that is nil
local SAFE = 2 ^ 50 -- bit.tobit is exact below 2^51

---@class tideway.luajit.expression
---@field flow tideway.luajit.flow
---@field constant fun(code: string, want: string): string names a constant of the chunk
local Expression = {}
Expression.__index = Expression

---@param flow tideway.luajit.flow
---@param constant fun(code: string, want: string): string
---@param stack table<tideway.ir.value, integer> offsets of stack objects
function M.new(flow, constant, stack)
   return setmetatable({ flow = flow, constant = constant, stack = stack, kinds = {}, stray = {} }, Expression)
end

-- ---- how a value is held ----

local BIT_OPS = { ["and"] = true, ["or"] = true, xor = true, shl = true }

local function param_args(flow, p)
   local list = {}
   for _, edge in ipairs(flow.graph.preds[p.block]) do
      for i, q in ipairs(p.block.params) do
         if q == p then list[#list + 1] = edge.target.args[i] end
      end
   end
   return list
end

function Expression:natural_num(v)
   if is_i32(v) then return "i" end
   if not is_u32(v) then return "n" end
   local op = v.op
   if v.w == 32 then return (op == "div" or op == "mod") and "n" or "b" end
   if op == "param" then
      self.kinds[v] = "n" -- while looking around a loop
      for _, a in ipairs(param_args(self.flow, v)) do
         if a.op ~= "const" and self:kind(a) == "b" then return "b" end
      end
      return "n"
   end
   if op == "load" or op == "ctxload" or op == "bswap" or op == "zext" or op == "convert" or BIT_OPS[op] then
      return "b"
   end
   if op == "shr" then return is_u32(v.args[1]) and is_short(v.args[2]) and "b" or "n" end
   return "n"
end

--- How a value that is no constant is held.
function Expression:kind(v)
   local kind = self.kinds[v]
   if kind then return kind end
   if v.type == "ptr" then kind = v.space == "pkt" and "o" or "p"
   elseif v.type == "num" then kind = self:natural_num(v)
   else kind = v.type end
   self.kinds[v] = kind
   return kind
end

local OPS = {}

-- The value as it is held.
function Expression:held(v)
   if not self.flow.inline[v] then return "v" .. self.flow.slot[v] end
   return (self:compute(v))
end

-- ---- a num in the form somebody wants ----

-- From one form to another; `v` gives the range.
local function to_num(code, kind)
   return kind == "b" and ("tonumber(cast(u32, %s))"):format(code) or code
end

local function to_bits(code, kind, v)
   if kind == "i" or kind == "b" then return code end
   if kind == "n" and not within(v, -SAFE, SAFE) then return ("tobit(cast(i64, %s))"):format(code) end
   return ("tobit(%s)"):format(code)
end

function Expression:num(v)
   if v.op == "const" then return number(tonumber(v.value)) end
   local kind = self:kind(v)
   if kind == "u64" or kind == "i64" then return ("tonumber(cast(i64, %s))"):format(self:held(v)) end
   return to_num(self:held(v), kind)
end

--- The low 32 bits as a signed number.
function Expression:bits(v)
   if v.op == "const" then return number(tobit(v.value)) end
   return to_bits(self:held(v), self:kind(v), v)
end

--- The low 32 bits as a number without sign.
function Expression:unsigned(v)
   if v.op == "const" then return number(tobit(v.value) % 2 ^ 32) end
   if is_u32(v) then return self:num(v) end
   return ("tonumber(cast(u32, %s))"):format(self:bits(v))
end

-- The bits of cdata that a literal has: not band(), for traces of LuaJIT 2.1 forget to shift the mask of a masked
-- 64-bit value that is shifted.
local function masked(code, mask)
   local inverse = bit.tohex(bit.bnot(mask))
   return ("bxor(bor(%s, 0x%sULL), 0x%sULL)"):format(code, inverse, inverse)
end

-- What is a trap in LuaJIT 2.1 on x64: where 32 bits become 64 without a sign, and for loads of 8 and 16 bits, traces
-- go on with the 32-bit value itself, and then take operations on it for the same ones of 32 bits that they have
-- elsewhere, fold constants into it as into 32 bits, and so on. A sum that becomes a 64-bit integer is done over in 64
-- bits of such operands. So the way to 64 bits is always one that leaves a new value behind.
local function to_wide(code, kind, type)
   if kind == type then return code end
   if kind == "b" then
      code = masked(("cast(u64, cast(i64, %s))"):format(code), 0xffffffffULL)
      return type == "u64" and code or ("cast(i64, %s)"):format(code)
   end
   return ("cast(%s, %s)"):format(type, kind == "i" and type == "u64" and ("cast(i64, %s)"):format(code) or code)
end

-- A number that traces do not look through; a maximum is no operation that they do over in 64 bits.
local function opaque(code) return ("max(%s, -9007199254740992)"):format(code) end

--- As cdata of type i64 or u64.
function Expression:wide(v, type)
   if v.op == "const" then
      if type == "u64" then return ("0x%sULL"):format(bit.tohex(ffi.cast("uint64_t", ffi.cast("int64_t", v.value)))) end
      local n = tonumber(v.value)
      if math.abs(n) <= 2 ^ 53 then return ("(%.0fLL)"):format(n) end
      return ("cast(i64, 0x%sULL)"):format(bit.tohex(v.value))
   end
   local code, kind = self:held(v), self:kind(v)
   if kind == "i" or (kind == "n" and is_u32(v)) then
      return to_wide(("tobit(%s)"):format(code), v.lo >= 0 and "b" or "i", type)
   elseif kind == "n" then
      code, kind = ("cast(i64, %s)"):format(opaque(code)), "i64"
   end
   return to_wide(code, kind, type)
end

-- Is a sum or difference on the way to this number outside of 0..2^31-1?
function Expression:strays(v)
   local sum = v.op == "add" or v.op == "sub"
   if not sum and v.op ~= "param" then return false end
   if sum and not within(v, 0, 2 ^ 31 - 1) then return true end
   local known = self.stray[v]
   if known ~= nil then return known end
   self.stray[v] = false
   local parts = sum and v.args or param_args(self.flow, v)
   for _, a in ipairs(parts) do
      if self:strays(a) then self.stray[v] = true end
   end
   return self.stray[v]
end

--- A number that is added to a pointer.
function Expression:index(v)
   return self:strays(v) and opaque(self:num(v)) or self:num(v)
end

-- ---- pointers ----

local function plus(code, off)
   if off == 0 then return code end
   return ("%s %s %.0f"):format(code, off < 0 and "-" or "+", math.abs(off))
end

--- The offset of a pkt pointer.
function Expression:offset(v, more)
   local off = more or 0
   while v.op == "ptradd" and v.args[2].op == "const" do
      off = off + tonumber(v.args[2].value)
      v = v.args[1]
   end
   if v.op == "const" then return number(NIL) end
   if v.op == "pktdata" then return number(off) end
   if v.op == "pktend" then return plus("len", off) end
   return plus(self:held(v), off)
end

-- The address as a pointer expression and a constant distance.
function Expression:address(v)
   local off = 0
   while v.op == "ptradd" and v.args[2].op == "const" do
      off = off + tonumber(v.args[2].value)
      v = v.args[1]
   end
   if v.op == "alloca" then return self.constant("stack"), off + self.stack[v] end
   if v.op == "const" then return self.constant("pointer", v), off end
   if v.op == "pktdata" then return "data", off end
   if v.op == "pktend" then return "data + len", off end
   if self:kind(v) == "o" then return "data + " .. self:held(v), off end
   return self:held(v), off
end

--- A pointer as a value: uint8_t *.
function Expression:pointer(v)
   local code, off = self:address(v)
   return plus(code, off)
end

local POINTERS = { [8] = "p8", [16] = "p16", [32] = "p32", [64] = "p64" }

--- What is accessed: an expression that can be read and assigned.
function Expression:place(pointer, off, bits, signed)
   local code, at = self:address(pointer)
   at = at + (off or 0)
   -- No parenthesis first: as a statement it would continue the one in front.
   if bits == 8 and code:find "^%w+$" then return ("%s[%d]"):format(code, at) end
   local type = bits == 64 and signed and "s64" or POINTERS[bits]
   return ("cast(%s, %s)[0]"):format(type, plus(code, at))
end

-- ---- operations: code, kind ----

local function arithmetic(sign)
   return function(self, v)
      local a, b = v.args[1], v.args[2]
      if v.type ~= "num" then
         return ("(%s %s %s)"):format(self:wide(a, v.type), sign, self:wide(b, v.type)), v.type
      end
      if v.w ~= 32 then return ("(%s %s %s)"):format(self:num(a), sign, self:num(b)), "n" end
      return ("tobit(%s %s %s)"):format(self:bits(a), sign, self:bits(b)), "b"
   end
end

OPS.add, OPS.sub = arithmetic "+", arithmetic "-"

-- The largest magnitude of the low 32 bits as held.
local function magnitude(v)
   if is_i32(v) then return math.max(math.abs(v.lo), math.abs(v.hi)) end
   return 2 ^ 31
end

function OPS.mul(self, v)
   local a, b = v.args[1], v.args[2]
   if v.type ~= "num" then return ("(%s * %s)"):format(self:wide(a, v.type), self:wide(b, v.type)), v.type end
   if v.w ~= 32 then
      local shift = power_of_two(b)
      if shift and is_i32(v) and is_i32(a) then return ("lshift(%s, %d)"):format(self:bits(a), shift), "i" end
      return ("(%s * %s)"):format(self:num(a), self:num(b)), "n"
   end
   if magnitude(a) * magnitude(b) <= SAFE then return ("tobit(%s * %s)"):format(self:bits(a), self:bits(b)), "b" end
   return ("tobit(cast(i64, %s) * %s)"):format(self:bits(a), self:bits(b)), "b"
end

-- The form of the operands of an unsigned division.
function Expression:dividend(v, w) return w == 32 and self:unsigned(v) or self:num(v) end

function OPS.div(self, v)
   local a, b = v.args[1], v.args[2]
   if v.type ~= "num" then
      return self:convert(("(%s / %s)"):format(self:wide(a, "u64"), self:wide(b, "u64")), "u64", v), v.type
   end
   local shift = power_of_two(b)
   if shift and shift < 32 and (v.w == 32 or is_u32(a)) then
      return ("rshift(%s, %d)"):format(self:bits(a), shift), "b"
   end
   if v.w ~= 32 and not within(a, 0, 2 ^ 52) then
      return ("tonumber(%s / %s)"):format(self:wide(a, "i64"), self:wide(b, "i64")), "n"
   end
   return ("floor(%s / %s)"):format(self:dividend(a, v.w), self:dividend(b, v.w)), "n"
end

function OPS.mod(self, v)
   local a, b = v.args[1], v.args[2]
   if v.type ~= "num" then
      return self:convert(("(%s %% %s)"):format(self:wide(a, "u64"), self:wide(b, "u64")), "u64", v), v.type
   end
   local shift = power_of_two(b)
   if shift and shift < 32 and (v.w == 32 or within(a, 0, 2 ^ 53)) then
      return ("band(%s, %s)"):format(self:bits(a), number(tobit(2 ^ shift - 1))), "b"
   end
   if v.w ~= 32 and not within(a, 0, 2 ^ 52) then
      return ("tonumber(%s %% %s)"):format(self:wide(a, "i64"), self:wide(b, "i64")), "n"
   end
   return ("(%s %% %s)"):format(self:dividend(a, v.w), self:dividend(b, v.w)), "n"
end

-- 64 bits wide; see masked() for the form of and.
function Expression:wide_logical(name, a, b)
   local x, y = self:wide(a, "u64"), self:wide(b, "u64")
   if name ~= "band" then return ("%s(%s, %s)"):format(name, x, y) end
   if a.op == "const" then x, b = y, a end
   if b.op == "const" then return masked(x, ffi.cast("uint64_t", ffi.cast("int64_t", b.value))) end
   return ("bxor(bor(%s, bnot(%s)), bnot(%s))"):format(x, y, y)
end

local function logical(name)
   return function(self, v)
      local a, b = v.args[1], v.args[2]
      if v.type == "num" and (v.w == 32 or is_i32(v) or is_u32(v)) then
         return ("%s(%s, %s)"):format(name, self:bits(a), self:bits(b)), "b"
      end
      local kind = v.type == "num" and "n" or v.type
      return self:convert(self:wide_logical(name, a, b), "u64", v), kind
   end
end

OPS["and"], OPS["or"], OPS.xor = logical "band", logical "bor", logical "bxor"

-- A shift of 64-bit cdata; sar wants a signed one, shr and shl take any.
function Expression:wide_shift(name, v, type)
   local code = ("%s(%s, %s)"):format(name, self:wide(v.args[1], type), self:num(v.args[2]))
   if v.type == "num" then return ("tonumber(cast(i64, %s))"):format(code), "n" end
   return self:convert(code, type, v), v.type
end

function OPS.shl(self, v)
   local a, n = v.args[1], v.args[2]
   if v.type ~= "num" then return self:wide_shift("lshift", v, v.type) end
   if v.w == 32 or ((is_i32(v) or is_u32(v)) and is_short(n)) then
      return ("lshift(%s, %s)"):format(self:bits(a), self:num(n)), "b"
   end
   if constant_of(n) then return ("(%s * %.0f)"):format(self:num(a), 2 ^ n.value), "n" end
   return self:wide_shift("lshift", v, "i64")
end

function OPS.shr(self, v)
   local a, n = v.args[1], v.args[2]
   if v.type ~= "num" then return self:wide_shift("rshift", v, v.type) end
   if v.w == 32 or (is_u32(a) and is_short(n)) then
      return ("rshift(%s, %s)"):format(self:bits(a), self:num(n)), "b"
   end
   if constant_of(n) and within(a, 0, 2 ^ 53) then
      return ("floor(%s * 2^-%d)"):format(self:num(a), n.value), "n"
   end
   return self:wide_shift("rshift", v, "u64")
end

function OPS.sar(self, v)
   local a, n = v.args[1], v.args[2]
   if v.type ~= "num" then return self:wide_shift("arshift", v, "i64") end
   if v.w == 32 or (is_i32(a) and is_short(n)) then
      return ("arshift(%s, %s)"):format(self:bits(a), self:num(n)), "b"
   end
   if constant_of(n) then return ("floor(%s * 2^-%d)"):format(self:num(a), n.value), "n" end
   return self:wide_shift("arshift", v, "i64")
end

function OPS.sext(self, v)
   local code = self:bits(v.args[1])
   if v.bits < 32 then code = ("arshift(lshift(%s, %d), %d)"):format(code, 32 - v.bits, 32 - v.bits) end
   return self:convert(code, "i", v), v.type == "num" and "i" or v.type
end

function OPS.zext(self, v)
   local code = self:bits(v.args[1])
   if v.bits < 32 then code = ("band(%s, %d)"):format(code, 2 ^ v.bits - 1) end
   local kind = v.bits < 32 and "i" or "b"
   return self:convert(code, kind, v), v.type == "num" and kind or v.type
end

function OPS.bswap(self, v)
   if v.bits == 64 then
      local code = ("bswap(%s)"):format(self:wide(v.args[1], "u64"))
      return self:convert(code, "u64", v), v.type == "num" and "n" or v.type
   end
   local code, kind = ("bswap(%s)"):format(self:bits(v.args[1])), "b"
   if v.bits == 16 then code, kind = ("rshift(%s, 16)"):format(code), "i" end
   return self:convert(code, kind, v), v.type == "num" and kind or v.type
end

function OPS.convert(self, v)
   local a = v.args[1]
   if v.type ~= "num" then return self:wide(a, v.type), v.type end
   if is_i32(v) or is_u32(v) then return self:bits(a), "b" end
   return self:num(a), "n"
end

--- Code of one kind as the type of v.
function Expression:convert(code, kind, v)
   if v.type == "num" then
      if kind == "u64" then return ("tonumber(cast(i64, %s))"):format(code) end
      return code
   end
   return to_wide(code, kind == "i" and v.op ~= "sext" and "b" or kind, v.type)
end

function OPS.ptradd(self, v)
   local base, by = v.args[1], v.args[2]
   if v.space == "pkt" then return ("(%s + %s)"):format(self:offset(base), self:index(by)), "o" end
   return ("(%s + %s)"):format(self:pointer(base), self:index(by)), "p"
end

function OPS.pktdata() return "0", "o" end
function OPS.pktend() return "len", "o" end
function OPS.pktlen() return "len", "i" end

function OPS.alloca(self, v) return self:pointer(v), "p" end

function OPS.load(self, v)
   local code = self:place(v.args[1], v.off, v.bits, v.type ~= "u64")
   if v.bits < 64 then
      local kind = v.bits == 32 and "b" or "i"
      return self:convert(code, kind, v), v.type == "num" and kind or v.type
   end
   if v.type == "num" then return ("tonumber(%s)"):format(code), "n" end
   return code, v.type
end

function OPS.ctxload(self, v)
   local f = target.fields[v.field] or error(("an lcore's packet has no field %s"):format(v.field), 0)
   if f.of == "self" then return ("cast(p8, %s)"):format(f.member), "p" end
   local code = f.of .. "." .. f.member
   if f.bits < 64 then
      local kind = f.bits < 32 and "i" or f.of == "pkt" and "b" or f.signed and "i" or "n"
      return self:convert(code, kind == "n" and "i" or kind, v), v.type == "num" and kind or v.type
   end
   if v.type == "num" then return ("tonumber(cast(i64, %s))"):format(code), "n" end
   return v.type == "u64" and code or ("cast(i64, %s)"):format(code), v.type
end

--- Computes a value: its code in the form it is held in.
---@return string code
function Expression:compute(v)
   if v.w == 32 and v.type ~= "num" then
      local low = { op = v.op, w = 32, type = "num", lo = 0, hi = 2 ^ 32 - 1, args = v.args }
      local code, kind = OPS[v.op](self, low)
      return (self:convert(to_bits(code, kind, low), "b", v))
   end
   local code, kind = OPS[v.op](self, v)
   local want = self:kind(v)
   if kind == want or want == "i" or v.type ~= "num" then return code end -- within int32 all forms are one
   if want == "b" then return to_bits(code, kind, v) end
   return to_num(code, kind)
end

--- A value in the form that a block parameter is held in.
function Expression:argument(a, p)
   if p.type == "ptr" then
      if p.space == "pkt" then return self:offset(a) end
      if a.op == "const" and not a.object and a.value == 0 then return self.constant("null") end
      return self:pointer(a)
   end
   if p.type ~= "num" then return self:wide(a, p.type) end
   if self:kind(p) == "b" then return self:bits(a) end
   return self:num(a)
end

return M
