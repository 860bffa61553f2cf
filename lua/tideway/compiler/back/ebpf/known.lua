-- SPDX-License-Identifier: BSD-3-Clause
-- What the kernel's verifier will know about the values of a program. The front end proves ranges that the
-- verifier cannot see (behind a byte swap, a division, a call); where such a value becomes part of an address
-- the selector must show it the bound. This is a model of the verifier's arithmetic on the safe side: a range
-- that it gives is one that the verifier has too.

local bit = require "bit"

local M = {}
M.__index = M

local EXACT = 2 ^ 53
local U32 = 2 ^ 32 - 1

local function power_of_two_above(n)
   local p = 1
   while p <= n do p = p * 2 end
   return p
end

--- 2^k - 1, the least that is not below n.
function M.mask(n) return power_of_two_above(n) - 1 end

--- k when value is 2^k, else nil.
function M.log2(value)
   if type(value) ~= "number" or value < 1 then return nil end
   local mantissa, exponent = math.frexp(value)
   return mantissa == 0.5 and exponent - 1 or nil
end

-- ---- arithmetic on ranges: each gets (alo, ahi, blo, bhi, value), nil where nothing is known ----

local RULE = {}

function RULE.add(al, ah, bl, bh)
   if al and bl then return al + bl, ah + bh end
end

function RULE.sub(al, ah, bl, bh)
   if al and bl then return al - bh, ah - bl end
end

function RULE.mul(al, ah, bl, bh)
   if al and bl and al >= 0 and bl >= 0 and ah <= U32 and bh <= U32 then return al * bl, ah * bh end
end

RULE["and"] = function(al, ah, bl, bh)
   local a, b = al and al >= 0 and ah, bl and bl >= 0 and bh
   if a or b then return 0, math.min(a or b, b or a) end
end

RULE["or"] = function(al, ah, bl, bh)
   if al and bl and al >= 0 and bl >= 0 then return 0, M.mask(math.max(ah, bh)) end
end
RULE.xor = RULE["or"]

function RULE.shl(al, ah, bl, bh)
   if al and al >= 0 and bl and bl == bh then return al * 2 ^ bl, ah * 2 ^ bl end
end

function RULE.shr(al, ah, bl, bh, value)
   if not bl or bl ~= bh then return end
   if al and al >= 0 then return math.floor(al / 2 ^ bl), math.floor(ah / 2 ^ bl) end
   return 0, 2 ^ ((value.w or 64) - bl) - 1
end

function RULE.sar(al, ah, bl, bh, value)
   if al and bl and bl == bh and value.w ~= 32 then return math.floor(al / 2 ^ bl), math.floor(ah / 2 ^ bl) end
end

-- Division and remainder by a power of two become a shift and a mask; of others the verifier knows nothing.
function RULE.div(al, ah, bl, bh, value)
   local shift = bl == bh and M.log2(bl)
   if shift then return RULE.shr(al, ah, shift, shift, value) end
end

function RULE.mod(al, ah, bl, bh)
   if bl == bh and M.log2(bl) then return RULE["and"](al, ah, bl - 1, bl - 1) end
end

function RULE.zext(al, ah, _, _, value)
   local top = 2 ^ value.bits - 1
   if al and al >= 0 and ah <= top then return al, ah end
   if value.bits < 64 then return 0, top end
end

function RULE.sext(al, ah, _, _, value)
   local top = 2 ^ (value.bits - 1)
   if al and al >= -top and ah < top then return al, ah end
   return -top, top - 1
end

function RULE.convert(al, ah) return al, ah end

function RULE.call(_, _, _, _, value)
   if value.fn == "loosen" then return 0, M.mask(value.hi) end
end

function RULE.load(_, _, _, _, value)
   if value.bits < 64 then return 0, 2 ^ value.bits - 1 end
end

-- ---- refinement by branches ----

-- Range of a, given that `a cc b` is true.
local function refine(cc, al, ah, bl, bh)
   if cc:sub(1, 1) == "u" then
      if not bl or bl < 0 then return al, ah end
      if cc == "ult" or cc == "ule" then
         local top = cc == "ult" and bh - 1 or bh
         if not al or al < 0 then return 0, top end
         return al, math.min(ah, top)
      end
      if not al or al < 0 then return al, ah end
      cc = cc:sub(2)
   end
   if not bl then return al, ah end
   if cc == "eq" then return bl, bh end
   if not al then return nil end
   if cc == "lt" then return al, math.min(ah, bh - 1) end
   if cc == "le" then return al, math.min(ah, bh) end
   if cc == "gt" then return math.max(al, bl + 1), ah end
   if cc == "ge" then return math.max(al, bl), ah end
   if cc == "ne" and bl == bh then
      if al == bl then return al + 1, ah end
      if ah == bl then return al, ah - 1 end
   end
   return al, ah
end

-- ---- the pass ----

---@param flow tideway.ebpf.flow
function M.new(flow, negated, mirrored)
   return setmetatable({ flow = flow, lo = {}, hi = {}, scope = {}, negated = negated, mirrored = mirrored }, M)
end

--- The range that the verifier knows of a value in a block, or nil.
function M:range(value, block)
   if value.op == "const" then
      if type(value.value) == "number" then return value.value, value.value end
      return nil
   end
   local scope = self.scope[block]
   while scope do
      local found = scope[value]
      if found then return found[1], found[2] end
      scope = scope.outer
   end
   return self.lo[value], self.hi[value]
end

-- Range of an argument on an edge: what the branch at the end of the block before says is used.
function M:on_edge(value, edge)
   local term = edge.block.term
   local lo, hi = self:range(value, edge.block)
   if term.op ~= "br" or term.w == 32 then return lo, hi end
   local a, b, cc = term.args[1], term.args[2], term.cc
   if value ~= a and value ~= b then return lo, hi end
   if value == b then b, cc = a, self.mirrored[cc] end
   if edge.target == term.targets[2] then cc = self.negated[cc] end
   return refine(cc, lo, hi, self:range(b, edge.block))
end

-- A parameter has what all edges bring. Behind a back edge the front end's range is believed: the verifier
-- walks every round of a loop with the values of that round.
function M:parameter(param, index, edges)
   local number, lo, hi = self.flow.number, nil, nil
   for i, edge in ipairs(edges) do
      local al, ah
      if number[edge.block] >= number[param.block] then
         al, ah = param.lo, param.hi
      else
         al, ah = self:on_edge(edge.target.args[index], edge)
      end
      if not al then return end
      lo, hi = i == 1 and al or math.min(lo, al), i == 1 and ah or math.max(hi, ah)
   end
   self.lo[param], self.hi[param] = lo, hi
end

--- Enters a block. Those before it, except over back edges, were entered.
function M:enter(block)
   local edges = self.flow.edges[block]
   for i, param in ipairs(block.params) do
      param.block = param.block or block
      self:parameter(param, i, edges)
   end
   if #edges == 1 then
      local from = edges[1].block
      local scope = { outer = self.scope[from] }
      self.scope[block] = scope
      if from.term.op == "br" then
         for _, value in ipairs(from.term.args) do
            local lo, hi = self:on_edge(value, edges[1])
            if lo and value.op ~= "const" then scope[value] = { lo, hi } end
         end
      end
   end
end

-- With an operand that is not a constant the verifier forgets all of the result, the upper half of one of 32 bits too:
-- shifts always, the others before Linux 6.10.
local LOST = { shl = true, shr = true, sar = true, ["or"] = true, xor = true, mul = true }

--- Notes what the verifier will know of the result of an instruction.
function M:define(value, block)
   local rule = RULE[value.op]
   if not rule then return end
   local a, b = value.args[1], value.args[2]
   local al, ah, bl, bh
   if a then al, ah = self:range(a, block) end
   if b then bl, bh = self:range(b, block) end
   if value.w == 32 then
      if al and (al < 0 or ah > U32) then al, ah = 0, U32 end
      if bl and bl < 0 and b.op == "const" and bit.tobit(bl) == bl then bl, bh = bl + 2 ^ 32, bl + 2 ^ 32 end
      if bl and (bl < 0 or bh > U32) then bl, bh = 0, U32 end
   end
   if LOST[value.op] and bl ~= bh then return end
   local lo, hi = rule(al, ah, bl, bh, value)
   if value.w == 32 and (not lo or lo < 0 or hi > U32) then lo, hi = 0, U32 end
   if lo and lo >= -EXACT and hi <= EXACT then self.lo[value], self.hi[value] = lo, hi end
end

return M
