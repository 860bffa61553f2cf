-- SPDX-License-Identifier: BSD-3-Clause
-- Random IR programs that break no rule, and runs of them on random frames whose outcome can be compared.

local ir = require "tideway.compiler.ir"
local arith = require "tideway.compiler.opt.arith"
local run = require "tideway.compiler.ir.run"

local M = {}

local random = math.random

local function pick(list) return list[random(#list)] end

local function chance(n) return random(100) <= n end

-- ---- building ----

local Maker = {}
Maker.__index = Maker

function Maker:put(op, type, args, fields)
   local v = ir.value(self.program, op, type, args, fields)
   table.insert(self.block.insts, v)
   return v
end

-- What is in scope: nums, u64s, proved places of the frame, pointers to values of tables. A scope made inside of a
-- branch sees the outer one; a resize inside kills the frame's pointers outside too.
local function scope(outer)
   local s = { nums = {}, words = {}, places = {}, values = {}, frames = {}, lengths = {} }
   for name, list in pairs(s) do
      for i, x in ipairs(outer and outer[name] or {}) do list[i] = x end
   end
   return s
end

local NUMBERS = { 0, 1, 2, 3, 6, 7, 8, 17, 20, 255, 256, 2048, 65535, 65536, 0x7fffffff, 0xffffffff, -1 }
local MASKS = { 1, 3, 15, 255, 0xf0, 0x1fff, 0x3c, 65535, 0xffffffff }

function Maker:number()
   local s = self.scope
   if #s.nums == 0 or chance(15) then
      return ir.const(pick(NUMBERS), "num")
   end
   return s.nums[chance(25) and #s.nums or random(math.max(1, #s.nums - 12), #s.nums)]
end

function Maker:keep(v)
   table.insert(self.scope.nums, v)
   return v
end

local function bounds(v) return v.lo, v.hi end

local BINARY = { "add", "sub", "mul", "div", "mod", "and", "or", "xor", "shl", "shr", "sar", "and", "add" }

function Maker:arithmetic()
   local op, a, b = pick(BINARY), self:number(), self:number()
   local w = chance(40) and 32 or nil
   if op == "shl" or op == "shr" or op == "sar" then b = ir.const(random(0, 15), "num") end
   if op == "and" and chance(70) then b = ir.const(pick(MASKS), "num") end
   local al, ah = bounds(a)
   local bl, bh = bounds(b)
   if (op == "div" or op == "mod") and (al < 0 or bl < 1 or w and bh >= 2 ^ 32) then return end
   local lo, hi = arith.range({ op = op, w = w, type = "num" }, al, ah, bl, bh)
   if op == "and" and not lo then lo, hi = -2 ^ 53, 2 ^ 53 end
   if not lo then return end
   self:keep(self:put(op, "num", { a, b }, { w = w, lo = lo, hi = hi }))
end

function Maker:conversion()
   local a = self:number()
   local op = pick { "zext", "sext", "bswap", "bswap", "bswap" }
   local bits = op == "bswap" and pick { 16, 16, 32 } or pick { 8, 16, 32 }
   local lo, hi = arith.range({ op = op, bits = bits, type = "num" }, bounds(a))
   self:keep(self:put(op, "num", { a }, { bits = bits, lo = lo, hi = hi }))
end

function Maker:words()
   local s = self.scope
   if #s.words < 2 or chance(30) then
      table.insert(s.words, self:put("convert", "u64", { self:number() }))
      return
   end
   local a, b = pick(s.words), pick(s.words)
   if chance(30) then b = ir.const(pick { 0, 1, 8, 255 }, "u64") end
   local v
   if chance(25) then v = self:put("bswap", "u64", { a }, { bits = 64 })
   elseif chance(30) then
      self:keep(self:put("zext", "num", { a }, { bits = 32, lo = 0, hi = 2 ^ 32 - 1 }))
      return
   else
      v = self:put(pick { "add", "sub", "mul", "and", "or", "xor" }, "u64", { a, b })
   end
   table.insert(s.words, v)
end

function Maker:exit() return self:exit_block(random(0, 3)) end

function Maker:exit_block(code)
   if not self.exits[code] or chance(20) then
      local block = ir.block(self.program)
      block.term = { op = "ret", args = { ir.const(code, "num") } }
      self.exits[code] = block
   end
   return { block = self.exits[code], args = {} }
end

function Maker:goto_new(term, way)
   local block = ir.block(self.program)
   term.targets[way] = { block = block, args = {} }
   self.block.term = term
   self.block = block
end

function Maker:frame()
   local s = self.scope
   if #s.frames == 0 or chance(20) then
      local first = self:put("pktdata", "ptr", {}, { space = "pkt" })
      table.insert(s.frames, { first, self:put("pktend", "ptr", {}, { space = "pkt" }) })
   end
   return pick(s.frames)
end

-- A check of the frame's start, or of a variable distance from it; outside is an exit.
function Maker:check()
   local frame = self:frame()
   local p, n, far = frame[1], pick { 1, 14, 18, 20, 34, 34, 42, 54 }, 0
   if chance(40) then
      local x = self:number()
      if x.lo >= 0 and x.hi <= 60000 then
         p, far = self:put("ptradd", "ptr", { p, x }, { space = "pkt" }), x.hi
         n = random(0, 20)
         if chance(50) then
            local y = self:put("add", "num", { x, ir.const(14, "num") }, { lo = x.lo + 14, hi = x.hi + 14 })
            p, far = self:put("ptradd", "ptr", { frame[1], y }, { space = "pkt" }), x.hi + 14
         end
      end
   elseif chance(50) then
      p = self:put("ptradd", "ptr", { p, ir.const(14, "num") }, { space = "pkt" })
      n = pick { 1, 8, 20 }
      far = 14
   end
   if far + n > 65535 then return end
   local term = { op = "check", n = n, args = { p, frame[2] }, targets = {} }
   term.targets[2] = self:exit()
   self:goto_new(term, 1)
   table.insert(self.scope.places, { p, n })
end

-- The same question by the frame's length.
function Maker:length()
   local len = self.scope.lengths[1]
   if not len or chance(20) then
      len = self:put("pktlen", "num", {}, { lo = 0, hi = 65535 })
      table.insert(self.scope.lengths, len)
   end
   local a, b = len, ir.const(pick { 14, 20, 34, 42 }, "num")
   if chance(40) then
      local x = self:number()
      if x.lo >= 0 and x.hi <= 60000 then
         b = chance(50) and x or self:put("add", "num", { x, b }, { lo = x.lo + b.value, hi = x.hi + b.value })
         if chance(30) then
            a, b = self:put("sub", "num", { len, x }, { lo = -x.hi, hi = 65535 }), ir.const(8, "num")
         end
      end
   end
   if chance(50) then a, b = b, a end
   self:branch(pick { "lt", "le", "gt", "ge", "ult", "eq" }, a, b)
end

function Maker:access()
   local place = #self.scope.places > 0 and pick(self.scope.places)
   if not place then return self:check() end
   local p, n = place[1], place[2]
   local bits = pick { 8, 16, 16, 32, 64 }
   if n < bits / 8 then return end
   local off = random(0, n - bits / 8)
   if chance(60) then off = math.max(0, math.min(off - off % 2, n - bits / 8)) end
   if chance(55) then
      if bits == 64 then
         table.insert(self.scope.words, self:put("load", "u64", { p }, { bits = 64, off = off }))
      else
         self:keep(self:put("load", "num", { p }, { bits = bits, off = off, lo = 0, hi = 2 ^ bits - 1 }))
      end
   else
      self:put("store", "void", { p, self:number() }, { bits = bits, off = off })
   end
end

-- A place a few bytes from the frame's start, nobody knows how many.
function Maker:near()
   local frame = self:frame()
   local x = self:keep(self:put("and", "num", { self:number(), ir.const(7, "num") }, { lo = 0, hi = 7 }))
   local p = self:put("ptradd", "ptr", { frame[1], x }, { space = "pkt" })
   local term = { op = "check", n = 6, args = { p, frame[2] }, targets = {} }
   term.targets[2] = self:exit()
   self:goto_new(term, 1)
   local place = { p, 6 }
   table.insert(self.scope.places, place)
   return place
end

-- The value of a table entry that was found.
function Maker:find()
   local fields = { fn = "find", reads = { stack = true }, space = "value" }
   local v = self:put("call", "ptr", { pick(self.objects) }, fields)
   local term = { op = "br", cc = "ne", args = { v, ir.const(0, "ptr") }, targets = {} }
   term.targets[2] = self:exit()
   self:goto_new(term, 1)
   table.insert(self.scope.values, v)
   return v
end

-- A load, something that may change what it saw, the same load again.
function Maker:twice()
   local s = self.scope
   local size, off, other = 4, 0, 0
   local p, q
   if chance(25) then
      p, q = self:find(), self:find()
   elseif #s.places > 0 then
      local a, b = pick(s.places), chance(50) and self:near() or pick(s.places)
      if a[2] < size or b[2] < size then return end
      p, q, off, other = a[1], b[1], random(0, math.min(14, a[2] - size)), random(0, b[2] - size)
   else
      local field = { field = "mark", lo = 0, hi = 255 }
      local a = self:put("ctxload", "num", {}, { field = "mark", lo = 0, hi = 255 })
      self:context()
      self:mix(a, self:put("ctxload", "num", {}, field))
      return
   end
   local bits = size * 8
   local a = self:put("load", "num", { p }, { bits = bits, off = off, lo = 0, hi = 2 ^ bits - 1 })
   self:put("store", "void", { q, self:number() }, { bits = bits, off = other })
   self:mix(a, self:put("load", "num", { p }, { bits = bits, off = off, lo = 0, hi = 2 ^ bits - 1 }))
end

-- A num that tells the two apart.
function Maker:mix(a, b)
   local more = self:put("shl", "num", { a, ir.const(3, "num") }, { lo = 0, hi = 2 ^ 36 })
   return self:keep(self:put("add", "num", { more, b }, { lo = 0, hi = 2 ^ 37 }))
end

-- Neighbouring fields copied one by one.
function Maker:copy()
   if #self.scope.places == 0 then return end
   local from, to = pick(self.scope.places), pick(self.scope.places)
   if from[2] < 12 or to[2] < 12 then return end
   local off, goal = random(0, 8), random(0, 8)
   local function load(at)
      return self:put("load", "num", { from[1] }, { bits = 16, off = off + at, lo = 0, hi = 65535 })
   end
   local a = load(0)
   local early = chance(50) and load(2)
   self:put("store", "void", { to[1], a }, { bits = 16, off = goal })
   self:put("store", "void", { to[1], early or load(2) }, { bits = 16, off = goal + 2 })
end

function Maker:stack()
   local p = pick(self.objects)
   local bits = pick { 8, 16, 32, 64 }
   local size = bits / 8
   local off = random(0, 16 / size - 1) * size
   if chance(30) then p, off = self:put("ptradd", "ptr", { p, ir.const(off, "num") }, { space = "stack" }), 0 end
   if chance(45) then
      if bits == 64 then
         table.insert(self.scope.words, self:put("load", "u64", { p }, { bits = 64, off = off }))
      else
         self:keep(self:put("load", "num", { p }, { bits = bits, off = off, lo = 0, hi = 2 ^ bits - 1 }))
      end
   else
      self:put("store", "void", { p, self:number() }, { bits = bits, off = off })
   end
end

function Maker:call()
   local s = self.scope
   if chance(20) then
      local a, b = self:number(), self:number()
      self:keep(self:put("call", "num", { a, b }, { fn = "mix", pure = true, lo = 0, hi = 65535 }))
      return
   elseif chance(15) then
      self:put("call", "void", { ir.const(random(-8, 8), "num") }, { fn = "resize", resizes = true })
      self.resized = true
      s.places, s.frames, s.lengths = {}, {}, {}
      return
   elseif chance(25) then
      local stack = { stack = true }
      self:put("call", "void", { pick(self.objects) }, { fn = "fill", reads = stack, writes = stack })
      return
   end
   if chance(50) then return self:find() end
   self:find_inlined()
end

-- The same by an inlined function that gives nil in several places.
function Maker:find_inlined()
   local fields = { fn = "find", reads = { stack = true }, space = "value" }
   local v = self:put("call", "ptr", { pick(self.objects) }, fields)
   local join = ir.block(self.program)
   local found = ir.param(self.program, join, "ptr", { space = "value" })
   local term = { op = "br", cc = "eq", args = { v, ir.const(0, "ptr") }, targets = {} }
   term.targets[1] = { block = join, args = { ir.const(0, "ptr") } }
   self:goto_new(term, 2)
   local a, b = self:number(), self:number()
   local second = { op = "br", cc = pick { "lt", "ge", "ne" }, args = { a, b }, targets = {} }
   second.targets[1] = { block = join, args = { ir.const(0, "ptr") } }
   self:goto_new(second, 2)
   self.block.term = { op = "jmp", args = {}, targets = { { block = join, args = { v } } } }
   self.block = join
   local test = { op = "br", cc = "eq", args = { found, ir.const(0, "ptr") }, targets = {} }
   test.targets[1] = self:exit()
   self:goto_new(test, 2)
   table.insert(self.scope.values, found)
end

function Maker:value_access()
   local s = self.scope
   if #s.values == 0 then return self:call() end
   local p, off = pick(s.values), random(0, 1) * 8
   if chance(35) then
      self:keep(self:put("load", "num", { p }, { bits = 32, off = off, lo = 0, hi = 2 ^ 32 - 1 }))
   elseif chance(40) then
      self:put("store", "void", { p, self:number() }, { bits = 32, off = off })
   elseif chance(50) then
      self:put("atomic", "void", { p, self:number() }, { kind = "add", bits = 64, off = off })
   else
      local three = ir.const(3, "u64")
      local fields = { kind = "add", bits = 64, off = off, fetch = true }
      table.insert(s.words, self:put("atomic", "u64", { p, three }, fields))
   end
end

function Maker:context()
   if chance(60) then
      self:keep(self:put("ctxload", "num", {}, { field = pick { "mark", "queue" }, lo = 0, hi = 255 }))
   else
      self:put("ctxstore", "void", { ir.const(random(0, 255), "num") }, { field = "mark" })
   end
end

-- if ... then ... else ... end; values come together in parameters, some as a tag that is tested at once.
function Maker:branch(cc, a, b)
   local yes, no, join = ir.block(self.program), ir.block(self.program), ir.block(self.program)
   self.block.term = { op = "br", cc = cc, w = chance(15) and 32 or nil, args = { a, b },
      targets = { { block = yes, args = {} }, { block = no, args = {} } } }
   local outer, resized, ends = self.scope, self.resized, {}
   self.resized = false
   for i, block in ipairs { yes, no } do
      self.block, self.scope = block, scope(outer)
      self:statements(random(0, 3))
      local value = chance(50) and ir.const(pick { 0, 1, 7 }, "num") or self:number()
      ends[i] = { self.block, value }
   end
   self.scope = outer
   if self.resized then outer.places, outer.frames, outer.lengths = {}, {}, {} end
   self.resized = self.resized or resized
   local lo, hi = math.min(ends[1][2].lo, ends[2][2].lo), math.max(ends[1][2].hi, ends[2][2].hi)
   local p = ir.param(self.program, join, "num", { lo = lo, hi = hi })
   for _, e in ipairs(ends) do
      e[1].term = { op = "jmp", args = {}, targets = { { block = join, args = { e[2] } } } }
   end
   self.block = join
   self:keep(p)
end

function Maker:condition()
   local a, b = self:number(), self:number()
   local cc = pick { "eq", "ne", "lt", "le", "gt", "ge", "eq", "ult", "uge" }
   if #self.conditions > 0 and chance(30) then
      local old = pick(self.conditions)
      for _, v in ipairs(self.scope.nums) do
         if v == old[2] then
            cc, a, b = chance(50) and old[1] or cc, old[2], old[3]
         end
      end
   elseif chance(60) then
      b = ir.const(pick { 0, 1, 4, 5, 6, 7, 8, 17, 20, 128, 255, 2048, 0x0800 }, "num")
   end
   if b.op == "const" and a.op ~= "const" then table.insert(self.conditions, { cc, a, b }) end
   self:branch(cc, a, b)
end

function Maker:loop()
   local rounds, outer = random(1, 4), self.scope
   local header, body, after = ir.block(self.program), ir.block(self.program), ir.block(self.program)
   header.loop = rounds
   local i = ir.param(self.program, header, "num", { lo = 0, hi = rounds })
   local sum = ir.param(self.program, header, "num", { lo = 0, hi = 65535 })
   local zero = ir.const(0, "num")
   self.block.term = { op = "jmp", args = {}, targets = { { block = header, args = { zero, zero } } } }
   header.term = { op = "br", cc = "lt", args = { i, ir.const(rounds, "num") },
      targets = { { block = body, args = {} }, { block = after, args = {} } } }
   self.block, self.scope = body, scope(outer)
   self.scope.places, self.scope.frames, self.scope.lengths = {}, {}, {}
   table.insert(self.scope.nums, sum)
   self:statements(random(1, 3))
   local next_i = self:put("add", "num", { i, ir.const(1, "num") }, { lo = 1, hi = rounds })
   local mixed = self:put("xor", "num", { sum, self:number() }, { lo = -2 ^ 53, hi = 2 ^ 53 })
   local next_sum = self:put("and", "num", { mixed, ir.const(65535, "num") }, { lo = 0, hi = 65535 })
   self.block.term = { op = "jmp", args = {}, targets = { { block = header, args = { next_i, next_sum } } } }
   self.block, self.scope = after, outer
   outer.places, outer.frames, outer.lengths = {}, {}, {}
   self:keep(sum)
end

local STATEMENTS = {
   "arithmetic", "arithmetic", "arithmetic", "conversion", "conversion", "words", "check", "access", "access", "access",
   "stack", "stack",
   "twice", "twice", "call", "call", "value_access", "context", "condition", "condition", "length", "copy", "loop",
}

function Maker:statements(n)
   self.depth = self.depth + 1
   for _ = 1, n do
      local kind = pick(STATEMENTS)
      if self.depth < 5 or kind ~= "condition" and kind ~= "loop" and kind ~= "length" then self[kind](self) end
   end
   self.depth = self.depth - 1
end

--- A random program; the same for the same seed.
function M.make(seed, statements)
   math.randomseed(seed)
   for _ = 1, 5 do random() end
   local program = ir.program("random", pick { "xdp", "xdp", "tc" })
   local maker = setmetatable({
      program = program, block = ir.block(program), scope = scope(), exits = {}, objects = {}, conditions = {},
      depth = 0,
   }, Maker)
   for i = 1, 2 do
      maker.objects[i] = maker:put("alloca", "ptr", {}, { size = 16, align = 8, space = "stack" })
      for k = 0, 1 do
         maker:put("store", "void", { maker.objects[i], ir.const(0, "num") }, { bits = 64, off = 8 * k })
      end
   end
   maker:statements(statements or 14)
   local sum = maker:number()
   for _, v in ipairs(maker.scope.nums) do
      sum = maker:put("xor", "num", { sum, v }, { lo = -2 ^ 53, hi = 2 ^ 53 })
   end
   maker.block.term = { op = "ret", args = { sum } }
   return program
end

-- ---- running ----

--- A random frame: short ones, small bytes and EtherTypes are likely.
function M.frame()
   local bytes = {}
   for i = 1, pick { random(0, 20), random(0, 60), random(30, 80), 64 } do
      bytes[i] = string.char(chance(40) and pick { 0, 1, 5, 6, 7, 8, 17, 0x45 } or random(0, 255))
   end
   if #bytes >= 14 and chance(60) then bytes[13], bytes[14] = "\8", "\0" end
   return table.concat(bytes)
end

local function hex(c) return ("%02x"):format(c:byte()) end

local function describe(args)
   local out = {}
   for i, a in ipairs(args) do out[i] = type(a) == "table" and a:read(0, 16):gsub(".", hex) or tostring(a) end
   return table.concat(out, ",")
end

--- Runs a program on a frame: everything that can be seen of it as one text.
function M.observe(program, data)
   local seen, objects, order = {}, {}, {}
   local function answer(v, args, machine)
      if v.fn == "mix" then return tonumber((args[1] * 31 + args[2]) % 65536) % 65536 end
      seen[#seen + 1] = v.fn .. "(" .. describe(args) .. ")"
      if v.fn == "resize" then
         local by, frame = tonumber(args[1]), machine:frame()
         machine:set_frame(by < 0 and frame:sub(1 - by) or ("\7"):rep(by) .. frame)
         return nil
      elseif v.fn == "fill" then
         args[1]:write(4, "\1\2\3\4")
         return nil
      end
      local key = args[1]:read(0, 16)
      if (key:byte(1) + key:byte(9)) % 4 == 3 then return nil end
      if not objects[key] then
         objects[key] = machine:new("value", key)
         order[#order + 1] = objects[key]
      end
      return objects[key]
   end
   local ctx = { mark = 5, queue = 3 }
   local ret, after, _, machine = run.run(program, { data = data, ctx = ctx, call = answer })
   local values = {}
   for i, p in ipairs(order) do values[i] = describe { p } end
   return table.concat({ tostring(ret), after, tostring(ctx.mark), table.concat(seen, " "),
      table.concat(values, " ") }, "|"), machine.steps
end

return M
