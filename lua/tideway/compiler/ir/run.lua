-- SPDX-License-Identifier: BSD-3-Clause
-- An interpreter of the IR that trusts nothing: the oracle for the optimiser and the back-ends. It raises where a
-- program does what its place would not allow: packet bytes that no check has proved on this path, dead packet
-- pointers, a num outside of its range, undefined stack bytes, nil, more rounds than a loop may take.

local bit = require "bit"
local ffi = require "ffi"
local ir = require "tideway.compiler.ir"
local graphs = require "tideway.compiler.ir.graph"
local text = require "tideway.compiler.ir.text"

local M = {}

local LIMIT, STEPS = 2 ^ 53, 1e6

local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"
local LOAD = {
   [8] = ffi.typeof "uint8_t *", [16] = ffi.typeof "uint16_t *", [32] = ffi.typeof "uint32_t *",
   [64] = ffi.typeof "int64_t *",
}
local NARROW = {
   [8] = ffi.typeof "uint8_t", [16] = ffi.typeof "uint16_t", [32] = ffi.typeof "uint32_t", [64] = int64,
}
local SIGNED = { [8] = ffi.typeof "int8_t", [16] = ffi.typeof "int16_t", [32] = ffi.typeof "int32_t", [64] = int64 }

-- ---- memory ----

---@class tideway.ir.pointer
---@field object table what it points into: { space, bytes, size, defined? }
---@field at integer offset into the object
---@field base string pkt: the pointer value that the last variable offset made; checks hold for one base
---@field fixed integer pkt: constant offset from the base
---@field generation integer pkt: between two calls that resize
local Pointer = {}
Pointer.__index = Pointer

local function object(space, content, size)
   local o = { space = space, size = size or #content }
   o.bytes = ffi.new("uint8_t[?]", o.size + 8)
   if content then ffi.copy(o.bytes, content, #content) end
   return o
end

local function inside(p, off, size)
   local at = p.at + off
   if at < 0 or at + size > p.object.size then
      error(("%d bytes at %d are outside of the %s object of %d"):format(size, at, p.object.space, p.object.size), 0)
   end
   return at
end

local function defined(p, at, size)
   local flags = p.object.defined
   for i = at, flags and at + size - 1 or -1 do
      if not flags[i] then error(("stack byte %d has never been written"):format(i), 0) end
   end
end

--- `n` bytes from `off` as a string, for the callbacks of calls.
function Pointer:read(off, n)
   local at = inside(self, off, n)
   defined(self, at, n)
   return ffi.string(self.object.bytes + at, n)
end

function Pointer:write(off, content)
   local at = inside(self, off, #content)
   ffi.copy(self.object.bytes + at, content, #content)
   for i = at, self.object.defined and at + #content - 1 or -1 do self.object.defined[i] = true end
end

-- ---- the machine ----

local Machine = {}
Machine.__index = Machine

local function integer(v)
   if type(v) == "number" then return int64(v) end
   return ffi.cast(int64, v)
end

--- What a value holds now: an int64_t, a pointer, or false for nil.
function Machine:get(v)
   if v.op ~= "const" then
      local x = self.registers[v]
      if x == nil then error(("v%s has no value here"):format(v.id), 0) end
      return x
   end
   if v.type ~= "ptr" then return integer(v.value) end
   if not v.object then
      if v.value == 0 then return false end
      error("an address cannot be run here", 0)
   end
   local found = self.objects[v.object]
   if not found then
      found = setmetatable({ object = object("mem", v.object.content or "") , at = 0, named = v.object }, Pointer)
      self.objects[v.object] = found
   end
   return found
end

function Machine:set(v, x)
   if v.type == "num" then
      local n = tonumber(x)
      if n < v.lo or n > v.hi then
         error(("v%d is %.0f, its range is %.0f..%.0f"):format(v.id, n, v.lo, v.hi), 0)
      end
   end
   self.registers[v] = x
end

--- The frame, for callbacks of calls that resize.
function Machine:frame() return ffi.string(self.packet.bytes, self.packet.size) end

function Machine:set_frame(content)
   self.packet = object("pkt", content)
end

--- A new object in memory and a pointer to it, for callbacks.
---@param space string
---@param content string
function Machine:new(space, content)
   return setmetatable({ object = object(space, content), at = 0 }, Pointer)
end

local function fresh(p, machine)
   if not p then error("nil is used as a pointer", 0) end
   if p.generation and p.generation ~= machine.generation then error("a dead packet pointer is used", 0) end
   return p
end

-- The address of an access, after all that has to hold.
local function address(machine, p, off, size, writes)
   fresh(p, machine)
   if p.base and machine.checked then
      local first, proved = p.fixed + off, machine.proved[p.base] or 0
      if p.base == "end" or first < 0 or first + size > proved then
         error(("packet bytes %d..%d from %s are not proved (only %d)"):format(
            first, first + size - 1, p.base, proved), 0)
      end
   end
   local at = inside(p, off, size)
   if p.object.defined then
      if writes then
         for i = at, at + size - 1 do p.object.defined[i] = true end
      else
         defined(p, at, size)
      end
   end
   return p.object.bytes + at
end

-- ---- operations ----

local function low32(x) return bit.band(x, 0xffffffffll) end

local function exact(v, x, approximate)
   if v.type == "num" and (approximate > LIMIT or approximate < -LIMIT) then
      error(("the result %g is beyond 2^53"):format(approximate), 0)
   end
   return x
end

local function unsigned(f)
   return function(_, a, b)
      if b == 0 then error("division by 0", 0) end
      return ffi.cast(int64, f(ffi.cast(uint64, a), ffi.cast(uint64, b)))
   end
end

local function shift(f)
   return function(v, a, b)
      local n = tonumber(b)
      if n < 0 or n >= (v.w or 64) then error(("shift by %d"):format(n), 0) end
      return f(a, n)
   end
end

local BINARY = {
   add = function(v, a, b) return exact(v, a + b, tonumber(a) + tonumber(b)) end,
   sub = function(v, a, b) return exact(v, a - b, tonumber(a) - tonumber(b)) end,
   mul = function(v, a, b) return exact(v, a * b, tonumber(a) * tonumber(b)) end,
   div = unsigned(function(a, b) return a / b end),
   mod = unsigned(function(a, b) return a % b end),
   ["and"] = function(_, a, b) return bit.band(a, b) end,
   ["or"] = function(_, a, b) return bit.bor(a, b) end,
   xor = function(_, a, b) return bit.bxor(a, b) end,
   shl = shift(bit.lshift),
   shr = shift(bit.rshift),
   sar = shift(bit.arshift),
}

local WRAPS = { w = 32, type = "u64" }

local function binary(machine, v)
   local a, b = machine:get(v.args[1]), machine:get(v.args[2])
   local f = BINARY[v.op]
   if v.w ~= 32 then return f(v, a, b) end
   a, b = low32(a), low32(b)
   if v.op == "sar" then a = ffi.cast(int64, ffi.cast("int32_t", a)) end
   return low32(f(WRAPS, a, b))
end

local OPS = {}
for op in pairs(BINARY) do OPS[op] = binary end

function OPS.sext(machine, v) return int64(ffi.cast(SIGNED[v.bits], machine:get(v.args[1]))) end
function OPS.zext(machine, v) return int64(ffi.cast(NARROW[v.bits], machine:get(v.args[1]))) end
function OPS.convert(machine, v) return machine:get(v.args[1]) end

function OPS.bswap(machine, v)
   local x = machine:get(v.args[1])
   if v.bits == 64 then return bit.bswap(x) end
   return bit.rshift(bit.bswap(x), 64 - v.bits)
end

function OPS.ptradd(machine, v)
   local p, by = fresh(machine:get(v.args[1]), machine), tonumber(machine:get(v.args[2]))
   local q = setmetatable({
      object = p.object, at = p.at + by, generation = p.generation, base = p.base, fixed = p.fixed,
   }, Pointer)
   if p.base then
      if p.base == "end" then error("arithmetic on pktend", 0) end
      if v.args[2].lo == v.args[2].hi then
         q.fixed = p.fixed + by
      else
         machine.bases = machine.bases + 1
         q.base, q.fixed = ("v%d#%d"):format(v.id, machine.bases), 0
      end
   end
   return q
end

function OPS.load(machine, v)
   local at = address(machine, machine:get(v.args[1]), v.off or 0, v.bits / 8)
   return int64(ffi.cast(LOAD[v.bits], at)[0])
end

function OPS.store(machine, v)
   local at = address(machine, machine:get(v.args[1]), v.off or 0, v.bits / 8, true)
   ffi.cast(LOAD[v.bits], at)[0] = ffi.cast(NARROW[v.bits], machine:get(v.args[2]))
end

local ATOMIC = { add = BINARY.add, ["or"] = BINARY["or"], ["and"] = BINARY["and"], xor = BINARY.xor }

function OPS.atomic(machine, v)
   local cell = ffi.cast(LOAD[v.bits], address(machine, machine:get(v.args[1]), v.off or 0, v.bits / 8))
   local old, x = int64(cell[0]), machine:get(v.args[2])
   if v.kind == "cmpxchg" then
      if ffi.cast(NARROW[v.bits], x) == ffi.cast(NARROW[v.bits], old) then
         cell[0] = ffi.cast(NARROW[v.bits], machine:get(v.args[3]))
      end
   elseif v.kind == "xchg" then
      cell[0] = ffi.cast(NARROW[v.bits], x)
   else
      cell[0] = ffi.cast(NARROW[v.bits], ATOMIC[v.kind](WRAPS, old, x))
   end
   return old
end

function OPS.alloca(_, v)
   local o = object("stack", nil, v.size)
   o.defined = {}
   return setmetatable({ object = o, at = 0 }, Pointer)
end

-- A base of its own for each time it is read, as in the kernel: what was proved of an older read does not count.
function OPS.pktdata(machine, v)
   machine.bases = machine.bases + 1
   return setmetatable({
      object = machine.packet, at = 0, base = ("v%d#%d"):format(v.id, machine.bases), fixed = 0,
      generation = machine.generation,
   }, Pointer)
end

function OPS.pktend(machine)
   return setmetatable({
      object = machine.packet, at = machine.packet.size, base = "end", fixed = 0, generation = machine.generation,
   }, Pointer)
end

function OPS.ctx(machine)
   return setmetatable({ object = { space = "ctx", size = 0, fields = machine.ctx }, at = 0 }, Pointer)
end

function OPS.pktlen(machine) return int64(machine.packet.size) end

function OPS.ctxload(machine, v)
   local x = machine.ctx[v.field]
   if x == nil then error(("the context has no field %s"):format(v.field), 0) end
   return integer(x)
end

function OPS.ctxstore(machine, v) machine.ctx[v.field] = machine:get(v.args[1]) end

function OPS.call(machine, v)
   local args = {}
   for i, a in ipairs(v.args) do
      args[i] = machine:get(a)
      if args[i] and a.type == "ptr" then fresh(args[i], machine) end
   end
   if not machine.call then error(("nobody answers call %s"):format(v.fn), 0) end
   local result = machine.call(v, args, machine)
   if v.resizes then
      machine.generation = machine.generation + 1
      machine.proved = {}
   end
   if v.type == "ptr" then return result or false end
   return v.type ~= "void" and integer(result) or nil
end

-- ---- control ----

local function compare(term, a, b)
   if term.args[1].type == "ptr" then
      if a and b then error("two pointers are compared", 0) end
      return (term.cc == "eq") == (not a and not b)
   end
   local cc = term.cc
   if term.w == 32 then
      a, b = int64(ffi.cast("int32_t", a)), int64(ffi.cast("int32_t", b))
   end
   if cc:sub(1, 1) == "u" then
      a, b, cc = ffi.cast(uint64, a), ffi.cast(uint64, b), cc:sub(2)
   end
   if cc == "eq" then return a == b elseif cc == "ne" then return a ~= b end
   if cc == "lt" then return a < b elseif cc == "le" then return a <= b end
   if cc == "gt" then return a > b end
   return a >= b
end

local function check(machine, term)
   local p, e = fresh(machine:get(term.args[1]), machine), fresh(machine:get(term.args[2]), machine)
   if not p.base or e.base ~= "end" or p.base == "end" then error("check of what is no packet pointer", 0) end
   if p.at < 0 then error("check of a pointer before the frame", 0) end
   if p.at + term.n > e.at then return false end
   machine.proved[p.base] = math.max(machine.proved[p.base] or 0, p.fixed + term.n)
   return true
end

local function follow(machine, block, target)
   local to, values = target.block, {}
   for i, a in ipairs(target.args) do values[i] = machine:get(a) end
   for i, p in ipairs(to.params) do machine:set(p, values[i]) end
   if machine.index[block] >= machine.index[to] then
      local rounds = (machine.rounds[to] or 0) + 1
      if rounds > (to.loop or 0) then error(("the loop at b%d goes round more than %s times"):format(
         to.id, tostring(to.loop)), 0) end
      machine.rounds[to] = rounds
   else
      machine.rounds[to] = 0
   end
   return to
end

local function step(machine, block)
   for _, v in ipairs(block.insts) do
      machine.line = v
      local x = OPS[v.op](machine, v)
      if v.type ~= "void" then machine:set(v, x) end
      machine.steps = machine.steps + 1
   end
   local term = block.term
   machine.line = term
   machine.steps = machine.steps + 1
   if machine.steps > STEPS then error("no end after a million steps", 0) end
   if term.op == "ret" then return nil, machine:get(term.args[1]) end
   local yes = true
   if term.op == "br" then yes = compare(term, machine:get(term.args[1]), machine:get(term.args[2])) end
   if term.op == "check" then yes = check(machine, term) end
   return follow(machine, block, ir.targets(term)[yes and 1 or 2])
end

--- Runs a program once. Raises a sentence with block and line where the program breaks a rule.
---@param program tideway.ir.program
---@param options { data: string, ctx?: table, checked?: boolean, call?: fun(v, args, machine): any }
--- data: the frame; ctx: fields of the context, changed in place; checked: whether packet bytes need a `check`
--- (default: on every target but lcore); call: answers calls; integers are int64_t, pointers have :read(off, n)
--- and :write(off, bytes), nil is false
---@return number|ffi.cdata* ret a Lua number when it fits
---@return string data the frame afterwards
---@return table ctx
---@return table machine with `steps`, how many instructions were run
function M.run(program, options)
   local checked = options.checked
   if checked == nil then checked = program.target ~= "lcore" end
   local machine = setmetatable({
      registers = {}, objects = {}, proved = {}, rounds = {}, ctx = options.ctx or {}, call = options.call,
      checked = checked, generation = 0, bases = 0, steps = 0, packet = object("pkt", options.data or ""),
      index = graphs.of(program).index,
   }, Machine)
   local block, result = program.blocks[1], nil
   while block do
      machine.block = block
      local ok, to, x = pcall(step, machine, block)
      if not ok then
         error(("b%d: %s: %s"):format(block.id, machine.line and text.line(machine.line) or "", tostring(to)), 0)
      end
      block, result = to, x
   end
   local plain = tonumber(result)
   return plain >= -LIMIT and plain <= LIMIT and plain or result, machine:frame(), machine.ctx, machine
end

return M
