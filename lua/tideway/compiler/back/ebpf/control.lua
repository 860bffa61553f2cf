-- SPDX-License-Identifier: BSD-3-Clause
-- Selection of the ends of blocks: comparisons, packet checks, and the copies that take the place of block
-- parameters.

local ir = require "tideway.compiler.ir"
local insn = require "tideway.compiler.back.ebpf.insn"
local demand = require "tideway.compiler.back.ebpf.demand"
local arith = require "tideway.compiler.back.ebpf.arith"

local M = {}

-- ---- block parameters ----

-- Emits copies { dst, src } that all happen at once: none overwrites what another still reads.
local function parallel(out, pending)
   while #pending > 0 do
      local read, free = {}, nil
      for _, copy in ipairs(pending) do read[copy[2]] = true end
      for i, copy in ipairs(pending) do
         if not read[copy[1]] then
            free = i
            break
         end
      end
      if free then
         local copy = table.remove(pending, free)
         out:move(copy[1], copy[2])
      else -- only cycles are left: set one value aside
         local first = pending[1][1]
         local aside = out:move(out:fresh(), first)
         for _, copy in ipairs(pending) do if copy[2] == first then copy[2] = aside end end
      end
   end
end

-- Makes the parameters of a target hold the arguments that come over an edge.
local function pass_arguments(s, target)
   local copies, constants = {}, {}
   for i, param in ipairs(target.block.params) do
      local dst, arg = s.reg[param], s.uses:resolve(target.args[i])
      if dst and arg ~= param then
         s:pin(arg)
         if arg.op == "const" or (arg.type == "ptr" and s:place(arg).slot) then
            constants[#constants + 1] = { dst, arg } -- reads no register
         else
            local src = s:operand(arg)
            if src ~= dst then copies[#copies + 1] = { dst, src } end
         end
      end
   end
   parallel(s.out, copies)
   for _, copy in ipairs(constants) do s:into(copy[1], copy[2]) end
end

local function needs_copies(s, target)
   for i, param in ipairs(target.block.params) do
      if s.reg[param] and s.uses:resolve(target.args[i]) ~= param then return true end
   end
   return false
end

--- The machine block that an edge of a branch leads to: the target, or a new one with the copies.
function M.edge(s, target)
   if not needs_copies(s, target) then return s.block[target.block] end
   local out, from = s.out, s.out.block
   local between = out:new_block(s.current.id, math.min(from.depth, s.block[target.block].depth), out.pos)
   out:at(between)
   pass_arguments(s, target)
   out:jump(s.block[target.block])
   out:at(from)
   return between
end

-- ---- terminators ----

M.TERM = {}
local TERM = M.TERM

function TERM.jmp(s, term)
   pass_arguments(s, term.targets[1])
   s.out:jump(s.block[term.targets[1].block])
end

function TERM.ret(s, term)
   if term.args and term.args[1] then s:into(0, term.args[1]) else s.out:constant(0, 0, 0) end
   s.out:ret()
end

-- The form that the verifier knows: `if pointer + n > end goto outside`.
function TERM.check(s, term)
   local out = s.out
   local at = s:place(term.args[1])
   local last = s:operand(term.args[2])
   local beyond = out:move(out:fresh(), at.reg)
   out:alu_const("add", 64, beyond, at.off + term.n)
   local inside, outside = M.edge(s, term.targets[1]), M.edge(s, term.targets[2])
   out:branch("ugt", 64, beyond, last, nil, outside, inside)
end

local UNSIGNED = { lt = "ult", le = "ule", gt = "ugt", ge = "uge" }

-- Whether the verifier takes a value for one that may be negative.
local function seems_negative(s, value)
   local lo = s.known:range(value, s.current)
   return lo ~= nil and lo < 0
end

-- cc, width, and the immediate for a comparison; no immediate: b needs a register. Unsigned where that is the
-- same and the verifier learns more from it.
local function comparison(s, term, cc, a, b)
   local w = term.w or 64
   if w == 64 and arith.in_range(a, 0, math.huge) and arith.in_range(b, 0, math.huge)
      and not seems_negative(s, a) and not seems_negative(s, b) then
      cc = UNSIGNED[cc] or cc
   end
   local low, high = s:const_of(b)
   if w == 64 and (s.loose[a] or s.loose[b]) then
      w = 32
      if demand.compares_low(a, b) == "unsigned" then cc = UNSIGNED[cc] or cc end
   end
   if not low then return cc, w end
   if w == 32 or insn.fits_signed(low, high) then return cc, w, low end
   if arith.within_u32(a) and arith.within_u32(b) then return UNSIGNED[cc] or cc, 32, low end
   return cc, w
end

-- `br eq/ne (and x, mask), 0` is one instruction.
local function bit_test(s, term, a, cc, yes, no)
   local x, mask = s.uses:resolve(a.args[1]), s.uses:resolve(a.args[2])
   if x.op == "const" then x, mask = mask, x end
   local low, high = s:const_of(mask)
   if cc == "eq" then yes, no = no, yes end
   local narrow = (high == 0 and low < 0) or a.w == 32 or term.w == 32 or s.loose[x]
   s.out:branch("set", narrow and 32 or 64, s:operand(x), nil, low, yes, no)
end

function TERM.br(s, term)
   local u, out = s.uses, s.out
   local a, b, cc = u:resolve(term.args[1]), u:resolve(term.args[2]), term.cc
   if a.op == "const" and b.op ~= "const" then a, b, cc = b, a, ir.MIRRORED[cc] end
   local yes, no = M.edge(s, term.targets[1]), M.edge(s, term.targets[2])
   if u.test[a] == term then return bit_test(s, term, a, cc, yes, no) end
   local w, imm
   cc, w, imm = comparison(s, term, cc, a, b)
   local ra = s:operand(a)
   local inst = out:branch(cc, w, ra, not imm and s:operand(b) or nil, imm, yes, no)
   inst.out_first = s.current.loop and b.op ~= "const"
end

return M
