-- SPDX-License-Identifier: BSD-3-Clause
-- Simplification of conditions: the constant to the right, swaps of byte order folded into it, comparisons of the
-- frame's length turned into checks of packet pointers.

local bit = require "bit"
local ir = require "tideway.compiler.ir"
local arith = require "tideway.compiler.opt.arith"
local fold = require "tideway.compiler.opt.fold"

local M = {}

local WORD = 2 ^ 32

local function num(x) return ir.const(x, "num") end

local function number(v)
   return v.op == "const" and v.type ~= "ptr" and type(v.value) == "number" and v.value or nil
end

local function fits(walk, v, bits)
   local lo, hi = walk.facts:range(v)
   return v.type == "num" and lo and lo >= 0 and hi < 2 ^ bits
end

-- ---- a == c and a ~= c ----

-- band(x, mask) after swaps and shifts, compared with c: the mask and c in the byte order of x.
local function swapped_mask(a, c)
   local mask, t = nil, a
   if t.op == "and" and t.w ~= 32 then
      mask, t = number(t.args[2]), t.args[1]
      if not mask then return nil end
   end
   local shift = 0
   if t.op == "shr" and t.w ~= 32 then
      shift, t = number(t.args[2]), t.args[1]
      if not shift then return nil end
   end
   if t.op ~= "bswap" or t.bits > 32 or not mask and shift == 0 then return nil end
   local bits, x = t.bits, t.args[1]
   if x.type ~= "num" or shift >= bits then return nil end
   local all = 2 ^ bits
   mask = mask or all - 1
   if mask < 0 or mask >= WORD or c < 0 or c >= WORD then return nil end
   mask = math.floor(mask * 2 ^ shift % all / 2 ^ shift) * 2 ^ shift
   c = c * 2 ^ shift
   if c >= all or bit.band(c, bit.bnot(mask)) ~= 0 then return nil end
   return x, arith.swap(mask, bits), arith.swap(c, bits)
end

local EQUAL = {}

function EQUAL.bswap(walk, term, a, c)
   if a.bits == 64 or a.args[1].type ~= "num" or c < 0 or c >= 2 ^ a.bits then return false end
   local x = a.args[1]
   if not fits(walk, x, a.bits) then
      x = walk:emit("zext", "num", { x }, { bits = a.bits, lo = 0, hi = 2 ^ a.bits - 1 })
   end
   term.args = { x, num(arith.swap(c, a.bits)) }
   return true
end

local function masked(walk, term, a, c)
   local x, mask, swapped = swapped_mask(a, c)
   if not x then return false end
   term.args = { walk:emit("and", "num", { x, num(mask) }, { lo = 0, hi = mask }), num(swapped) }
   return true
end
EQUAL.shr = masked

EQUAL["and"] = function(walk, term, a, c)
   if masked(walk, term, a, c) then return true end
   local mask = number(a.args[2])
   if mask and mask == c and arith.power(c) then
      term.cc, term.args = ir.NEGATED[term.cc], { a, arith.constant(a.type, 0) }
      return true
   end
   return false
end

local function difference(_, term, a, c)
   if c ~= 0 or a.w == 32 or a.args[1].type ~= a.args[2].type then return false end
   term.args = { a.args[1], a.args[2] }
   return true
end
EQUAL.sub, EQUAL.xor = difference, difference

function EQUAL.convert(_, term, a, c)
   local x = a.args[1]
   if x.type == "num" then
      if a.type == "u64" and c > 2 ^ 53 then return false end
      term.args = { x, num(c) }
      return true
   end
   return false
end

function EQUAL.sext(walk, term, a, c)
   local half = 2 ^ (a.bits - 1)
   if not fits(walk, a.args[1], a.bits) or c < -half or c >= half then return false end
   term.args = { a.args[1], num(c % (2 * half)) }
   return true
end

-- x + 5 == c is x == c - 5. Not so for < and the others: what the kernel learns from them about the sum, which may
-- be used as an offset, it would not learn from x.
local function without_sum(term, a, c)
   local x, by = fold.sum(a)
   if not x or math.abs(c - by) >= 2 ^ 31 then return false end
   term.args = { x, num(c - by) }
   return true
end

local function both_swapped(walk, term, a, b)
   if a.op ~= "bswap" or b.op ~= "bswap" or a.bits ~= b.bits then return false end
   local x, y = a.args[1], b.args[1]
   if x.type ~= y.type or a.bits < 64 and not (fits(walk, x, a.bits) and fits(walk, y, a.bits)) then return false end
   term.args = { x, y }
   return true
end

local function simplify(walk, term)
   local a, b = term.args[1], term.args[2]
   if a.op == "const" and b.op ~= "const" then
      a, b = b, a
      term.args, term.cc = { a, b }, ir.MIRRORED[term.cc]
   end
   if a.type == "ptr" or a.op == "const" then return false end
   local wide = term.w ~= 32
   if a.type == "num" and b.type == "num" then
      local al, ah = walk.facts:range(a)
      local bl, bh = walk.facts:range(b)
      if al >= 0 and bl >= 0 then
         if not wide and ah < 2 ^ 31 and bh < 2 ^ 31 then term.w, wide = nil, true end
         if wide and #term.cc == 3 then term.cc = term.cc:sub(2) end
      end
   end
   if not wide then return false end
   local equal = term.cc == "eq" or term.cc == "ne"
   local c = number(b)
   if not c then return equal and both_swapped(walk, term, a, b) end
   if equal and EQUAL[a.op] and EQUAL[a.op](walk, term, a, c) then return true end
   return equal and without_sum(term, a, c)
end

--- Brings the condition of a `br` into its simplest form, in place.
function M.simplify(walk, term)
   if not walk.on.fold then return end
   for _ = 1, 8 do
      if not simplify(walk, term) then return end
   end
end

-- ---- length comparisons ----

local function may_resize(program)
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.op == "call" and v.resizes then return true end
      end
   end
   return false
end

-- Is it the length that the frame has at this place? A length outlives a resize.
local function is_length(walk, v)
   if v.op ~= "pktlen" then return false end
   if walk.resizes == nil then walk.resizes = may_resize(walk.program) end
   local known = walk.resizes and walk.contents:find("frame", "pktlen")
   return not walk.resizes or (known ~= nil and known.value == v)
end

-- a, when it is the frame's length less x + c: x (or nil) and c.
local function of_length(walk, a)
   if is_length(walk, a) then return true, nil, 0 end
   local x, c = fold.sum(a)
   if x and is_length(walk, x) then return true, nil, -c end
   if a.op == "sub" and a.type == "num" and a.w ~= 32 and is_length(walk, a.args[1]) then
      local y, more = fold.sum(a.args[2])
      if y then return true, y, more end
      return true, a.args[2], 0
   end
   return false
end

-- What is compared with it: a variable (or nil) and a constant.
local function demand(b)
   local c = number(b)
   if c then return nil, c end
   local x, by = fold.sum(b)
   if x then return x, by end
   return b, 0
end

--- A comparison of the frame's length with a constant, or with a variable and a constant, becomes a check.
---@return boolean changed
function M.length(walk, term)
   local target = walk.program.target
   if not walk.on.length or term.op ~= "br" or term.w == 32 then return false end
   if target ~= "xdp" and target ~= "lcore" then return false end -- elsewhere part of the frame may not be linear
   local a, b, cc = term.args[1], term.args[2], term.cc
   local is, x, c = of_length(walk, a)
   if not is then
      a, b, cc = b, a, ir.MIRRORED[cc]
      is, x, c = of_length(walk, a)
   end
   if not is or a.type ~= "num" or #cc == 3 or cc == "eq" or cc == "ne" then return false end
   local y, d = demand(b)
   if x and y then return false end
   x = x or y
   -- length cc x + n
   local n = c + d + ((cc == "le" or cc == "gt") and 1 or 0)
   if n < 0 or n > 65535 then return false end
   if x then
      local lo, hi = walk.facts:range(x)
      if not lo or lo < 0 or hi + n > 65535 or x.lo < 0 or x.hi > 65535 then return false end
   end
   local p = walk:emit("pktdata", "ptr", {}, { space = "pkt" })
   local e = walk:emit("pktend", "ptr", {}, { space = "pkt" })
   if x then p = walk:emit("ptradd", "ptr", { p, x }, { space = "pkt" }) end
   term.op, term.cc, term.args, term.n = "check", nil, { p, e }, n
   if cc == "lt" or cc == "le" then term.targets[1], term.targets[2] = term.targets[2], term.targets[1] end
   return true
end

return M
