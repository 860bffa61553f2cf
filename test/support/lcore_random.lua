-- SPDX-License-Identifier: BSD-3-Clause
-- Random IR programs for an lcore: arithmetic of every kind and width, loads and stores that overlap, branches,
-- parameters, loops. Ranges are what interval arithmetic proves.

local ir = require "tideway.compiler.ir"

local M = {}

local LIMIT = 2 ^ 53
local FRAME = 96 -- bytes that every frame has

---@class test.lcore_random
local Maker = {}
Maker.__index = Maker

local function pick(list) return list[math.random(#list)] end

local function emit(self, op, type, args, fields)
   local v = ir.value(self.program, op, type, args, fields)
   table.insert(self.block.insts, v)
   if type ~= "void" and type ~= "ptr" then table.insert(self.values, v) end
   return v
end

local EDGES = { 0, 1, 2, 5, 31, 32, 255, 256, 65535, 65536, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 - 1, 2 ^ 32, 2 ^ 40 + 3 }

function Maker.constant(_, type)
   local n = math.random() < 0.5 and pick(EDGES) or math.random(0, 100000)
   if math.random() < 0.25 then n = -n end
   if type == "u64" and math.random() < 0.2 then return ir.const(0xfedcba9876543210ULL, "u64") end
   if type == "u64" then n = math.abs(n) end
   return ir.const(n, type)
end

function Maker:operand(type)
   if math.random() < 0.2 then return self:constant(type) end
   local list = {}
   for _, v in ipairs(self.values) do
      if v.type == type then list[#list + 1] = v end
   end
   if #list == 0 then return self:constant(type) end
   -- The latest more often, so that chains of operations come about.
   return list[math.max(1, #list - math.floor(math.random() ^ 2 * #list))]
end

-- ---- numbers ----

local function corners(a, b, f)
   local x = { f(a.lo, b.lo), f(a.lo, b.hi), f(a.hi, b.lo), f(a.hi, b.hi) }
   return math.min(unpack(x)), math.max(unpack(x))
end

local function bits_of(n)
   local _, e = math.frexp(math.max(n, 0))
   return e
end

-- and, or, xor of two's complement numbers: as many bits as the larger needs.
local function mask_range(a, b)
   local width = math.max(bits_of(a.hi), bits_of(b.hi), bits_of(-a.lo), bits_of(-b.lo))
   local hi = 2 ^ width - 1
   if a.lo >= 0 and b.lo >= 0 then return 0, hi end
   return -2 ^ width, hi
end

local RANGE = {
   add = function(a, b) return a.lo + b.lo, a.hi + b.hi end,
   sub = function(a, b) return a.lo - b.hi, a.hi - b.lo end,
   mul = function(a, b) return corners(a, b, function(x, y) return x * y end) end,
   ["and"] = mask_range, ["or"] = mask_range, xor = mask_range,
}

local W32 = { "add", "sub", "mul", "and", "or", "xor", "shl", "shr", "sar", "div", "mod" }
local WORD = { lo = 0, hi = 2 ^ 32 - 1 }

function Maker:num32()
   local op = pick(W32)
   local a, b = self:operand(pick { "num", "num", "num", "u64", "i64" }), self:operand "num"
   if op == "shl" or op == "shr" or op == "sar" then b = ir.const(math.random(0, 31))
   elseif op == "div" or op == "mod" then b = ir.const(pick { 1, 2, 3, 8, 10, 65536, 2 ^ 31, 2 ^ 32 - 1 }) end
   emit(self, op, pick { "num", "num", "num", "u64", "i64" }, { a, b }, { w = 32, lo = WORD.lo, hi = WORD.hi })
end

function Maker:num64()
   local op = pick { "add", "sub", "mul", "and", "or", "xor", "and", "add" }
   local a, b = self:operand "num", self:operand "num"
   local lo, hi = RANGE[op](a, b)
   if lo >= -LIMIT and hi <= LIMIT then emit(self, op, "num", { a, b }, { lo = lo, hi = hi }) end
end

function Maker:shift64()
   local op, a = pick { "shl", "shr", "sar" }, self:operand "num"
   local n = ir.const(math.random(0, 45))
   if math.random() < 0.3 then
      local mask = pick { 7, 31, 63 }
      n = emit(self, "and", "num", { self:operand "num", ir.const(mask) }, { lo = 0, hi = mask })
   end
   local lo, hi
   if op == "shl" then
      lo, hi = math.min(a.lo, a.lo * 2 ^ n.hi), math.max(a.hi, a.hi * 2 ^ n.hi)
   elseif a.lo >= 0 then
      lo, hi = 0, a.hi
   elseif op == "sar" then
      lo, hi = a.lo, math.max(a.hi, 0)
   else
      return
   end
   if lo >= -LIMIT and hi <= LIMIT then emit(self, op, "num", { a, n }, { lo = lo, hi = hi }) end
end

function Maker:divide()
   local a, b = self:operand "num", ir.const(pick { 1, 2, 3, 7, 16, 1000, 2 ^ 31, 2 ^ 33 + 1 })
   if a.lo < 0 then return end
   if math.random() < 0.5 then
      emit(self, "div", "num", { a, b }, { lo = 0, hi = a.hi })
   else
      emit(self, "mod", "num", { a, b }, { lo = 0, hi = b.value - 1 })
   end
end

function Maker:wide()
   local type = pick { "u64", "i64" }
   local op = pick(W32)
   local a, b = self:operand(type), self:operand(type)
   if op == "shl" or op == "shr" or op == "sar" then b = ir.const(math.random(0, 63))
   elseif op == "div" or op == "mod" then b = ir.const(pick { 1, 2, 3, 1000003, 2 ^ 40 }, type) end
   emit(self, op, type, { a, b })
end

function Maker:narrow()
   local op, bits = pick { "sext", "zext", "bswap" }, pick { 8, 16, 32 }
   if op == "bswap" and bits == 8 then bits = 64 end
   local type = bits == 64 and pick { "u64", "i64" } or pick { "num", "u64", "i64" }
   local fields = { bits = bits, lo = 0, hi = 2 ^ bits - 1 }
   if op == "sext" then fields.lo, fields.hi = -2 ^ (bits - 1), 2 ^ (bits - 1) - 1 end
   emit(self, op, type, { self:operand(pick { "num", "u64", "i64" }) }, fields)
end

function Maker:convert()
   local a, to = self:operand(pick { "num", "u64", "i64" }), pick { "u64", "i64" }
   if a.type ~= to then emit(self, "convert", to, { a }) end
   -- Back to num: of something that fits.
   local n = pick { 12, 32, 33, 40 }
   local u = emit(self, "shr", "u64", { self:operand "u64", ir.const(n) })
   emit(self, "convert", "num", { u }, { lo = 0, hi = 2 ^ (64 - n) - 1 })
end

-- ---- memory ----

function Maker:address()
   local how = math.random(4)
   if how == 1 then return self.data, math.random(0, FRAME - 8) end
   if how == 2 then
      local p = emit(self, "ptradd", "ptr", { self.data, ir.const(math.random(0, 40)) }, { space = "pkt" })
      return p, math.random(0, FRAME - 48)
   end
   if how == 3 then return self.stack, math.random(0, 24) end
   local n = emit(self, "and", "num", { self:operand "num", ir.const(31) }, { lo = 0, hi = 31 })
   local p = emit(self, "ptradd", "ptr", { self.data, n }, { space = "pkt" })
   return p, math.random(0, 48)
end

function Maker:load()
   local p, off = self:address()
   local bits = pick { 8, 16, 32, 64 }
   local type = bits == 64 and pick { "u64", "i64" } or pick { "num", "num", "u64", "i64" }
   emit(self, "load", type, { p }, { bits = bits, off = off, lo = 0, hi = 2 ^ bits - 1 })
end

function Maker:store()
   local p, off = self:address()
   emit(self, "store", "void", { p, self:operand(pick { "num", "num", "u64", "i64" }) },
      { bits = pick { 8, 16, 32, 64 }, off = off })
end

function Maker:atomic()
   local kind, bits = pick { "add", "or", "and", "xor", "xchg", "cmpxchg" }, pick { 32, 64 }
   local type = pick { "void", "u64", "i64" }
   local args = { self.stack, self:operand(pick { "num", "u64" }) }
   if kind == "cmpxchg" then args[3] = self:operand "num" end
   local fields = { kind = kind, bits = bits, off = pick { 0, 8, 16 }, fetch = type ~= "void" or nil }
   emit(self, "atomic", type, args, fields)
end

function Maker:context()
   if math.random() < 0.5 then
      local f = pick { { "hash", 32 }, { "mark", 32 }, { "port", 16 }, { "out", 16 }, { "len", 15 } }
      return emit(self, "ctxload", "num", {}, { field = f[1], lo = 0, hi = 2 ^ f[2] - 1 })
   end
   if math.random() < 0.3 then return emit(self, "ctxload", "u64", {}, { field = "key" }) end
   local field = pick { "mark", "mark", "out", "verdict", "key" }
   emit(self, "ctxstore", "void", { self:operand(field == "key" and "u64" or "num") }, { field = field })
end

-- ---- control ----

local CCS = {}
for cc in pairs(ir.NEGATED) do CCS[#CCS + 1] = cc end
table.sort(CCS)

local ACTS = {
   "num32", "num32", "num64", "num64", "num64", "shift64", "divide", "wide", "narrow", "convert", "load", "load",
   "store", "store", "context", "atomic",
}

function Maker:fill(n)
   for _ = 1, n do
      local act = pick(ACTS)
      if act ~= "atomic" or self.atomics then self[act](self) end
   end
end

local function copy(list) return { unpack(list) } end

local function jump(to, args) return { op = "jmp", args = {}, targets = { { block = to, args = args } } } end

local JOINED = { "num", "num", "u64", "i64" }

-- An if with two sides that join in parameters.
function Maker:diamond(depth)
   local type = pick { "num", "num", "num", "u64", "i64" }
   local term = { op = "br", cc = pick(CCS), w = pick { 32, 64 }, args = { self:operand(type), self:operand(type) } }
   self.block.term = term
   local yes, no, join = ir.block(self.program), ir.block(self.program), ir.block(self.program)
   term.targets = { { block = yes, args = {} }, { block = no, args = {} } }
   local outside, sides = copy(self.values), {}
   for i, block in ipairs { yes, no } do
      self.block, self.values = block, copy(outside)
      self:body(depth - 1)
      sides[i] = {}
      for k, t in ipairs(JOINED) do sides[i][k] = self:operand(t) end
      self.block.term = jump(join, sides[i])
   end
   self.block, self.values = join, outside
   for k, t in ipairs(JOINED) do
      local a, b = sides[1][k], sides[2][k]
      local range = t == "num" and { lo = math.min(a.lo, b.lo), hi = math.max(a.hi, b.hi) } or {}
      table.insert(self.values, ir.param(self.program, join, t, range))
   end
end

-- for i = 0, n - 1 with a sum that wraps at 32 bits.
function Maker:loop()
   local n = math.random(1, 6)
   local header, body, after = ir.block(self.program), ir.block(self.program), ir.block(self.program)
   header.loop = n
   local start = self:operand "num"
   self.block.term = jump(header, { ir.const(0), ir.const(7), start })
   local i = ir.param(self.program, header, "num", { lo = 0, hi = n })
   local sum = ir.param(self.program, header, "num", { lo = 0, hi = WORD.hi })
   local other = ir.param(self.program, header, "num",
      { lo = math.min(start.lo, 0), hi = math.max(start.hi, WORD.hi) })
   header.term = {
      op = "br", cc = "lt", args = { i, ir.const(n) },
      targets = { { block = body, args = {} }, { block = after, args = {} } },
   }
   local outside = copy(self.values)
   self.block, self.values = body, copy(outside)
   for _, p in ipairs { i, sum, other } do table.insert(self.values, p) end
   self:fill(math.random(2, 6))
   local next_sum = emit(self, pick { "add", "xor", "mul" }, "num", { sum, self:operand "num" },
      { w = 32, lo = 0, hi = WORD.hi })
   local next_i = emit(self, "add", "num", { i, ir.const(1) }, { lo = 1, hi = n + 1 })
   self.block.term = jump(header, { next_i, next_sum, sum })
   self.block, self.values = after, outside
   table.insert(self.values, sum)
   table.insert(self.values, other)
end

function Maker:body(depth)
   self:fill(math.random(2, 8))
   if depth > 0 then
      self:diamond(depth)
      self:fill(math.random(1, 4))
      if math.random() < 0.3 then self:loop() end
   end
end

--- A program; the same seed gives the same one.
---@param seed integer
---@param atomics? boolean with atomic operations
function M.program(seed, atomics)
   math.randomseed(seed)
   local self = setmetatable({
      program = ir.program("random" .. seed, "lcore"), values = {}, atomics = atomics,
   }, Maker)
   self.block = ir.block(self.program)
   self.stack = emit(self, "alloca", "ptr", {}, { space = "stack", size = 32, align = 8 })
   self.data = emit(self, "pktdata", "ptr", {}, { space = "pkt" })
   for i = 0, 3 do emit(self, "store", "void", { self.stack, ir.const(i * 77777) }, { bits = 64, off = i * 8 }) end
   self:body(math.random(0, 3))
   -- What was computed last is seen in the frame.
   for i = 0, 5 do
      local v = self:operand(pick { "num", "num", "u64", "i64" })
      emit(self, "store", "void", { self.data, v }, { bits = 64, off = i * 8 })
   end
   self.block.term = { op = "ret", args = { ir.const(0) } }
   return self.program
end

--- Frames for it.
---@param n integer
---@return string[]
function M.frames(n)
   local list = {}
   for i = 1, n do
      local bytes = {}
      for k = 1, FRAME + math.random(0, 32) do
         bytes[k] = string.char(math.random() < 0.2 and 0 or math.random(0, 255))
      end
      list[i] = table.concat(bytes)
   end
   return list
end

return M
