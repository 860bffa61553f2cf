-- SPDX-License-Identifier: BSD-3-Clause
-- From IR to machine instructions over virtual registers: two addresses, immediates, addressing modes, the
-- calls' registers, no SSA any more. One machine instruction here is one of the program, save what becomes
-- nothing when the registers are given out.

local ir = require "tideway.compiler.ir"
local insn = require "tideway.compiler.back.ebpf.insn"
local build = require "tideway.compiler.back.ebpf.build"
local flow = require "tideway.compiler.back.ebpf.flow"
local known = require "tideway.compiler.back.ebpf.known"
local uses = require "tideway.compiler.back.ebpf.uses"
local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

local U32 = 2 ^ 32 - 1
local LARGEST_FRAME = 65535 -- the verifier wants every offset from the start of a packet within this

---@class tideway.ebpf.selector
---@field out table what is built (build.lua)
---@field uses table which values are needed, and how (uses.lua)
---@field reg table<table, integer> register of an IR value

-- ---- operands ----

local function is_const(value) return value.op == "const" end

local function within_u32(value) return value.type == "num" and value.lo and value.lo >= 0 and value.hi <= U32 end

-- Halves of a constant when it is one and not an object.
local function const_of(s, value)
   value = s.uses:resolve(value)
   if is_const(value) and not value.object then return insn.halves(value.value) end
end

-- Where a pointer points: a stack object or a register, and a constant offset.
local function place(s, pointer)
   pointer = s.uses:resolve(pointer)
   if pointer.op == "alloca" then return { slot = s.slot[pointer], off = 0 } end
   local base, off = s.uses:folded(pointer)
   if base then
      local at = place(s, base)
      at.off = at.off + off
      return at
   end
   return { reg = s.reg[pointer] or s:operand(pointer), off = s.bias[pointer] or 0, objects = s.objects[pointer] }
end

-- Makes dst hold a value.
local function into(s, dst, value)
   local out = s.out
   value = s.uses:resolve(value)
   if is_const(value) then
      if value.object then return out:map(dst, value.object, value.direct) end
      local low, high = insn.halves(value.value)
      return out:constant(dst, low, high)
   elseif value.type == "ptr" then
      local at = place(s, value)
      if at.slot then return out:lea(dst, at.slot, at.off) end
      out:move(dst, at.reg)
      if at.off ~= 0 then out:alu_const("add", 64, dst, at.off) end
      return dst
   end
   return out:move(dst, s.reg[value])
end

-- A register that holds a value; not to be written.
local function operand(s, value)
   value = s.uses:resolve(value)
   local reg = s.reg[value]
   if reg and not s.bias[value] then return reg end
   return into(s, s.out:fresh(value.name), value)
end

local function define(s, value)
   local reg = s.out:fresh(value.name)
   s.reg[value] = reg
   return reg
end

-- ---- arithmetic ----

-- The immediate for `op` with a constant, and the width to do it in; nil when there is none.
local function immediate(op, w, low, high, a)
   if w == 32 then return low, 32 end
   if insn.fits_signed(low, high) then return low, 64 end
   -- A mask of 32 bits clears the upper half, as 32-bit operations do.
   if high == 0 and (op == "and" or ((op == "or" or op == "xor") and within_u32(a))) then return low, 32 end
end

-- Multiplication, division and remainder by 2^k. Returns true when that was it.
local function by_power_of_two(s, op, w, dst, low, high)
   local shift = high == 0 and low > 0 and known.log2(low)
   if not shift then return false end
   if op == "mul" then s.out:alu_const("shl", w, dst, shift)
   elseif op == "div" then s.out:alu_const("shr", w, dst, shift)
   elseif op == "mod" then s.out:alu_const("and", w, dst, low - 1)
   else return false
   end
   return true
end

local function arithmetic_const(s, op, w, dst, a, low, high)
   local out = s.out
   if op == "and" and w == 64 and low == -1 and high == 0 then return out:move32(dst, operand(s, a)) end
   into(s, dst, a)
   if by_power_of_two(s, op, w, dst, low, high) then return end
   if op == "sub" and low ~= -2147483648 and insn.fits_signed(low, high) then op, low, high = "add", -low, nil end
   local imm, width = immediate(op, w, low, high or (low < 0 and -1 or 0), a)
   if imm then return out:alu_const(op, width, dst, imm) end
   out:alu(op, w, dst, out:constant(out:fresh(), low, high))
end

local function arithmetic(s, value)
   local op, w, u = value.op, value.w or 64, s.uses
   local a, b = u:resolve(value.args[1]), u:resolve(value.args[2])
   if build.COMMUTES[op] and is_const(a) then a, b = b, a end
   local narrow = (op == "div" or op == "mod") and w == 64 and within_u32(a) and within_u32(b)
   if narrow then w = 32 end
   local low, high = const_of(s, b)
   local dst = define(s, value)
   if low then return arithmetic_const(s, op, w, dst, a, low, high) end
   if op == "sub" and insn.is_zero(a) then
      into(s, dst, b)
      return s.out:alu_const("neg", w, dst, 0)
   end
   local rb = operand(s, b)
   into(s, dst, a)
   s.out:alu(op, w, dst, rb)
end

local OP = {}
for op in ("add sub mul div mod and or xor shl shr sar"):gmatch "%S+" do OP[op] = arithmetic end

local function in_range(value, lo, hi) return value.type == "num" and value.lo and value.lo >= lo and value.hi <= hi end

function OP.zext(s, value)
   local a, bits, out = s.uses:resolve(value.args[1]), value.bits, s.out
   local dst = define(s, value)
   if in_range(a, 0, 2 ^ bits - 1) then into(s, dst, a)
   elseif bits == 32 then out:move32(dst, operand(s, a))
   else
      into(s, dst, a)
      out:alu_const("and", 64, dst, 2 ^ bits - 1)
   end
end

function OP.sext(s, value)
   local a, bits, out = s.uses:resolve(value.args[1]), value.bits, s.out
   local dst = define(s, value)
   into(s, dst, a)
   if in_range(a, -2 ^ (bits - 1), 2 ^ (bits - 1) - 1) then return end
   out:alu_const("shl", 64, dst, 64 - bits)
   out:alu_const("sar", 64, dst, 64 - bits)
end

function OP.bswap(s, value)
   local dst = define(s, value)
   into(s, dst, value.args[1])
   s.out:swap(value.bits, dst)
end

function OP.convert(s, value) into(s, define(s, value), value.args[1]) end

-- ---- pointers ----

-- Shows the verifier that an index is at most `limit`, where it does not know: the front end proved that the
-- value is at most index.hi, so neither the mask nor the branch changes it.
local function bounded(s, index, limit)
   local out, reg = s.out, operand(s, index)
   local lo, hi = s.known:range(index, s.current)
   if lo and lo >= 0 and hi <= limit then return reg end
   local copy = out:move(out:fresh(index.name), reg)
   local mask = known.mask(index.hi)
   if mask <= limit then
      out:alu_const("and", mask > 2147483647 and 32 or 64, copy, insn.halves(mask))
      return copy
   end
   local clamp = out:new_block(s.current.id, out.block.depth, out.pos)
   local rest = out:new_block(s.current.id, out.block.depth, out.pos)
   out:branch("ule", 64, copy, nil, limit, rest, clamp)
   out:at(clamp)
   out:constant(copy, insn.halves(limit))
   out:jump(rest)
   out:at(rest)
   return copy
end

function OP.ptradd(s, value)
   local u, out = s.uses, s.out
   local base, index = u:resolve(value.args[1]), u:resolve(value.args[2])
   local at = place(s, base)
   local inner, constant = u:split_index(value)
   local dst
   if is_const(index) then -- too far for an offset in a load
      dst = define(s, value)
      into(s, dst, base)
      return out:alu("add", 64, dst, operand(s, index))
   end
   index = inner or index
   local bias = at.slot and 0 or at.off
   bias = bias + (constant or 0)
   local limit = value.space == "pkt" and LARGEST_FRAME - u:reach(value) - bias or index.hi
   local reg = index.hi and bounded(s, index, limit) or operand(s, index)
   dst = define(s, value)
   if at.slot then
      out:lea(dst, at.slot, at.off)
      out:alu("add", 64, dst, reg)
      s.objects[value] = { at.slot }
   else
      out:move(dst, at.reg)
      out:alu("add", 64, dst, reg)
   end
   s.objects[value] = s.objects[value] or at.objects
   if bias ~= 0 then s.bias[value] = bias end
end

function OP.alloca(s, value) s.slot[value] = s.slot[value] or s.out:slot(value.size, value.align or 8, value.pos) end

-- ---- memory ----

-- The stack wants aligned accesses: the width of the pieces of one that is not.
local function piece(at, bits)
   if not at.slot then return bits end
   local bytes = bits / 8
   while at.off % bytes ~= 0 do bytes = bytes / 2 end
   return bytes * 8
end

function OP.load(s, value)
   local out, bits = s.out, value.bits
   local at = place(s, value.args[1])
   at.off = at.off + (value.off or 0)
   local step = piece(at, bits)
   local dst = define(s, value)
   if step == bits then return out:load(bits, dst, at) end
   out:load(step, dst, at, at.off + (bits - step) / 8)
   for low = bits - 2 * step, 0, -step do
      out:alu_const("shl", 64, dst, step)
      out:alu("or", 64, dst, out:load(step, out:fresh(), at, at.off + low / 8))
   end
end

local function store_pieces(s, at, bits, step, value)
   local out = s.out
   local rest = into(s, out:fresh(), value)
   for low = 0, bits - step, step do
      out:store(step, at, rest, at.off + low / 8)
      if low + step < bits then out:alu_const("shr", 64, rest, step) end
   end
end

function OP.store(s, value)
   local out, bits = s.out, value.bits
   local at = place(s, value.args[1])
   at.off = at.off + (value.off or 0)
   local low, high = const_of(s, value.args[2])
   local step = piece(at, bits)
   if step ~= bits then return store_pieces(s, at, bits, step, value.args[2]) end
   if low and (bits < 64 or insn.fits_signed(low, high)) then
      if bits == 16 then low = low % 65536 elseif bits == 8 then low = low % 256 end
      return out:store_const(bits, at, low)
   end
   if value.args[2].space == "stack" then s:pin(value.args[2]) end
   out:store(bits, at, operand(s, value.args[2]))
end

function OP.atomic(s, value)
   local out = s.out
   local at = place(s, value.args[1])
   at.off = at.off + (value.off or 0)
   if value.kind == "cmpxchg" then
      local new = operand(s, value.args[3])
      into(s, 0, value.args[2])
      out:atomic("cmpxchg", value.bits, at, new, true)
      if value.type ~= "void" then out:move(define(s, value), 0) end
   elseif value.fetch or value.kind == "xchg" then
      local dst = define(s, value)
      into(s, dst, value.args[2])
      out:atomic(value.kind, value.bits, at, dst, true)
   else
      out:atomic(value.kind, value.bits, at, operand(s, value.args[2]))
   end
end

-- ---- context and calls ----

-- Register of the context, moved from r1 at the entry when somebody wants it.
local function context(s)
   if not s.context then s.context = s.out:fresh("ctx") end
   return s.context
end

local function field(s, name, pos)
   local found = s.target.fields[name]
   if not found then
      diagnostic.raise(pos, ("%s has no context field %s"):format(s.target.name, name), s.target:fields_hint())
   end
   return found
end

local function load_field(s, dst, name, pos)
   local f = field(s, name, pos)
   return s.out:load(f.bits, dst, { reg = context(s), off = f.off })
end

local function packet_edge(name)
   return function(s, value) load_field(s, define(s, value), name, value.pos) end
end
OP.pktdata, OP.pktend = packet_edge "data", packet_edge "data_end"

function OP.ctx(s, value) s.reg[value] = context(s) end

function OP.pktlen(s, value)
   local dst = define(s, value)
   if s.target.length then return load_field(s, dst, s.target.length, value.pos) end
   load_field(s, dst, "data_end", value.pos)
   s.out:alu("sub", 64, dst, load_field(s, s.out:fresh(), "data", value.pos))
end

-- The field "ctx" is the context itself, for helpers that want it.
function OP.ctxload(s, value)
   if value.field == "ctx" then return OP.ctx(s, value) end
   load_field(s, define(s, value), value.field, value.pos)
end

function OP.ctxstore(s, value)
   local f = field(s, value.field, value.pos)
   if not f.write then
      diagnostic.raise(value.pos, ("%s: the context field %s is read-only"):format(s.target.name, value.field))
   end
   s.out:store(f.bits, { reg = context(s), off = f.off }, operand(s, value.args[#value.args]))
end

function OP.call(s, value)
   local out, u = s.out, s.uses
   local id = s.target:helper(value.fn)
   if not id then
      diagnostic.raise(value.pos, ("%s: the kernel has no helper %s here"):format(s.target.name, tostring(value.fn)),
         s.target:helper_hint(value.fn))
   elseif #value.args > 5 then
      diagnostic.raise(value.pos, ("%s: %d arguments, 5 are possible"):format(value.fn, #value.args))
   end
   local objects
   for _, arg in ipairs(value.args) do
      local slot = s:object(u:resolve(arg))
      if slot then
         objects = objects or {}
         objects[#objects + 1] = slot
      end
   end
   for i, arg in ipairs(value.args) do into(s, i, arg) end
   out:call(id, #value.args, objects)
   if value.type ~= "void" and u.count[value] then out:move(define(s, value), 0) end
end

-- ---- ends of blocks ----

-- The register copies of an edge, all at once: none overwrites what another still reads.
local function parallel_copies(s, target)
   local out, pending, constants = s.out, {}, {}
   for i, param in ipairs(target.block.params) do
      local dst = s.reg[param]
      local arg = s.uses:resolve(target.args[i])
      if dst and arg ~= param then
         if arg.space == "stack" then s:pin(arg) end
         local src = s.reg[arg]
         if not src or s.bias[arg] then
            constants[#constants + 1] = { dst, arg }
            local at = not src and not is_const(arg) and place(s, arg)
            src = src or at and at.reg
            -- An address computed from a register: must read it before it is overwritten.
            if src then
               constants[#constants] = nil
               pending[#pending + 1] = { dst, into(s, out:fresh(), arg) }
            end
         elseif src ~= dst then
            pending[#pending + 1] = { dst, src }
         end
      end
   end
   while #pending > 0 do
      local free
      for i, copy in ipairs(pending) do
         free = i
         for _, other in ipairs(pending) do if other ~= copy and other[2] == copy[1] then free = nil end end
         if free then break end
      end
      if free then
         local copy = table.remove(pending, free)
         out:move(copy[1], copy[2])
      else -- only cycles are left: set one value aside
         local first = pending[1]
         local aside = out:move(out:fresh(), first[1])
         for _, copy in ipairs(pending) do if copy[2] == first[1] then copy[2] = aside end end
      end
   end
   for _, copy in ipairs(constants) do into(s, copy[1], copy[2]) end
end

local function needs_copies(s, target)
   for i, param in ipairs(target.block.params) do
      if s.reg[param] and s.uses:resolve(target.args[i]) ~= param then return true end
   end
   return false
end

-- The machine block that an edge of a branch leads to: the target, or one with the copies.
local function edge(s, target)
   if not needs_copies(s, target) then return s.block[target.block] end
   local out, from = s.out, s.out.block
   local depth = math.min(from.depth, s.block[target.block].depth)
   local between = out:new_block(s.current.id, depth, out.pos)
   out:at(between)
   parallel_copies(s, target)
   out:jump(s.block[target.block])
   out:at(from)
   return between
end

local TERM = {}

function TERM.jmp(s, term)
   parallel_copies(s, term.targets[1])
   s.out:jump(s.block[term.targets[1].block])
end

function TERM.ret(s, term)
   if term.args and term.args[1] then into(s, 0, term.args[1]) else s.out:constant(0, 0, 0) end
   s.out:ret()
end

function TERM.check(s, term)
   local out = s.out
   local at = place(s, term.args[1])
   local last = operand(s, term.args[2])
   local beyond = out:move(out:fresh(), at.reg)
   out:alu_const("add", 64, beyond, at.off + term.n)
   local inside, outside = edge(s, term.targets[1]), edge(s, term.targets[2])
   out:branch("ugt", 64, beyond, last, nil, outside, inside)
end

local UNSIGNED = { lt = "ult", le = "ule", gt = "ugt", ge = "uge" }

-- cc, width, and the immediate for a comparison with a constant; no immediate: it needs a register.
local function comparison(s, term, cc, a, b)
   local w = term.w or 64
   local natural = in_range(a, 0, math.huge) and in_range(b, 0, math.huge)
   if w == 64 and natural then cc = UNSIGNED[cc] or cc end
   local low, high = const_of(s, b)
   if not low then return cc, w end
   if w == 32 or insn.fits_signed(low, high) then return cc, w, low end
   if within_u32(a) and within_u32(b) then return cc, 32, low end
   return cc, w
end

function TERM.br(s, term)
   local u, out = s.uses, s.out
   local a, b, cc = u:resolve(term.args[1]), u:resolve(term.args[2]), term.cc
   if is_const(a) and not is_const(b) then a, b, cc = b, a, ir.MIRRORED[cc] end
   local yes, no = edge(s, term.targets[1]), edge(s, term.targets[2])
   local test = u.test[a]
   if test and test == term then
      local x, mask = u:resolve(a.args[1]), u:resolve(a.args[2])
      if is_const(x) then x, mask = mask, x end
      local low, high = const_of(s, mask)
      if cc == "eq" then yes, no = no, yes end
      local w = (high == 0 and low < 0 or a.w == 32 or term.w == 32) and 32 or 64
      return out:branch("set", w, operand(s, x), nil, low, yes, no)
   end
   local w, imm
   cc, w, imm = comparison(s, term, cc, a, b)
   local ra = operand(s, a)
   local rb = not imm and operand(s, b) or nil
   out:branch(cc, w, ra, rb, imm, yes, no)
end

-- ---- the pass ----

local S = {}
S.__index = S
S.operand = operand

--- Stack object that a pointer points into, when it is known.
function S:object(pointer)
   if pointer.op == "alloca" then return self.slot[pointer] end
   if pointer.op == "ptradd" then return self:object(self.uses:resolve(pointer.args[1])) end
end

--- A pointer to the stack goes where this pass does not follow it: its object is there during the whole program.
function S:pin(pointer)
   local slot = self:object(self.uses:resolve(pointer))
   if slot then slot.pinned = true end
end

local function selector(program, target)
   local graph = flow.analyse(program)
   local s = setmetatable({
      program = program, target = target, flow = graph, out = build.new(), uses = uses.analyse(graph),
      known = known.new(graph, ir.NEGATED, ir.MIRRORED), reg = {}, slot = {}, bias = {}, objects = {}, block = {},
   }, S)
   for _, block in ipairs(graph.order) do
      local first = block.insts[1] or block.term
      s.block[block] = s.out:new_block(block.id, graph.depth[block], first.pos)
      for _, param in ipairs(block.params) do
         if s.uses.count[param] and s.uses:resolve(param) == param then s.reg[param] = s.out:fresh(param.name) end
      end
   end
   return s
end

--- Machine program for an IR program, over virtual registers.
---@param program tideway.ir.program
---@param target tideway.kernel.target
function M.select(program, target)
   local s = selector(program, target)
   local out = s.out
   for _, block in ipairs(s.flow.order) do
      s.current = block
      out:at(s.block[block])
      s.known:enter(block)
      for _, value in ipairs(block.insts) do
         out.pos = value.pos
         s.known:define(value, block)
         if s.uses:wanted(value) then
            local op = OP[value.op]
            if not op then error("no such operation in eBPF: " .. tostring(value.op)) end
            op(s, value)
         end
      end
      out.pos = block.term.pos or out.pos
      TERM[block.term.op](s, block.term)
   end
   if s.context then
      local start = { insts = {} }
      out.pos = nil
      out:at(start)
      out:move(s.context, 1)
      table.insert(out.blocks[1].insts, 1, start.insts[1])
   end
   return out
end

return M
