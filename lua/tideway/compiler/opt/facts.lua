-- SPDX-License-Identifier: BSD-3-Clause
-- What is known at one place of the program from the branches and checks that dominate it. Facts are taken back when
-- the walk over the dominator tree leaves the region in which they hold.

local ir = require "tideway.compiler.ir"
local arith = require "tideway.compiler.opt.arith"

local Facts = {}
Facts.__index = Facts

local M = {}

local NOTHING = {}

---@class tideway.opt.facts
---@field leader table<tideway.ir.value, tideway.ir.value> what stands for a value here
---@field lo table<tideway.ir.value, number>
---@field hi table<tideway.ir.value, number>
---@field nonnil table<tideway.ir.value, boolean>
---@field relation table<string, string> by pair of values: the condition that holds between them
---@field proved table<tideway.ir.value, integer> bytes from this packet pointer that are in the frame
---@field missing table<tideway.ir.value, integer> so many bytes from it are not

---@return tideway.opt.facts
function M.new()
   return setmetatable({
      leader = {}, lo = {}, hi = {}, nonnil = {}, relation = {}, proved = {}, missing = {}, log = {}, top = 0,
   }, Facts)
end

function Facts:set(map, key, value)
   local log, top, old = self.log, self.top, map[key]
   if old == nil then old = NOTHING end
   log[top + 1], log[top + 2], log[top + 3] = map, key, old
   self.top = top + 3
   map[key] = value
end

--- Takes back everything that was set since `top` was what it is now.
function Facts:undo(top)
   local log = self.log
   for i = self.top - 2, top + 1, -3 do
      local old = log[i + 2]
      if old == NOTHING then old = nil end
      log[i][log[i + 1]] = old
   end
   self.top = top
end

--- The nums whose bounds were learned since `top`: a list.
function Facts:learned(top)
   local list, log = {}, self.log
   for i = top + 1, self.top, 3 do
      local map = log[i]
      if map == self.lo or map == self.hi then list[#list + 1] = log[i + 1] end
   end
   return list
end

--- What stands for `v` here.
function Facts:resolve(v)
   local leader = self.leader
   local to = leader[v]
   while to do
      v = to
      to = leader[v]
   end
   return v
end

--- The bounds of an integer here; nil for what is no num and no small constant.
---@return number? lo, number? hi
function Facts:range(v)
   if v.op == "const" then
      local x = v.value
      if type(x) == "number" and v.type ~= "ptr" then return x, x end
      return nil
   end
   return self.lo[v] or v.lo, self.hi[v] or v.hi
end

local NEVER_NIL = { ctx = true, alloca = true, pktdata = true, pktend = true, ptradd = true }

--- true when the pointer is not nil here, false when it is, nil when that is not known.
function Facts:pointer(v)
   if v.op == "const" then return v.object ~= nil or v.value ~= 0 end
   return NEVER_NIL[v.op] or self.nonnil[v] or nil
end

-- ---- relations between two values ----

-- What a condition that holds says about others on the same pair.
local IMPLIES = {
   eq = { eq = true, le = true, ge = true, ule = true, uge = true,
      ne = false, lt = false, gt = false, ult = false, ugt = false },
   ne = { ne = true, eq = false },
   lt = { lt = true, le = true, ne = true, eq = false, gt = false, ge = false },
   gt = { gt = true, ge = true, ne = true, eq = false, lt = false, le = false },
   le = { le = true, gt = false },
   ge = { ge = true, lt = false },
   ult = { ult = true, ule = true, ne = true, eq = false, ugt = false, uge = false },
   ugt = { ugt = true, uge = true, ne = true, eq = false, ult = false, ule = false },
   ule = { ule = true, ugt = false },
   uge = { uge = true, ult = false },
}

local function name(v)
   return v.op == "const" and "k" .. tostring(v.object or v.value) or v.id
end

-- The two in a fixed order: key, and whether they were exchanged.
local function pair(a, b, w)
   local exchanged = a.op == "const" or b.op ~= "const" and a.id > b.id
   if exchanged then a, b = b, a end
   return (w == 32 and "w" or "") .. name(a) .. ":" .. name(b), exchanged
end

--- Whether `a cc b` holds: true, false, or nil when it is not known.
function Facts:decide(cc, w, a, b)
   if a == b then return IMPLIES.eq[cc] end
   if a.type == "ptr" then
      local p, q = self:pointer(a), self:pointer(b)
      if p == nil or q == nil then
         local key, exchanged = pair(a, b)
         local known = self.relation[key]
         return known and IMPLIES[known][exchanged and ir.MIRRORED[cc] or cc]
      end
      if p and q then return nil end -- neither is nil: addresses are not compared
      return (cc == "eq") == (p == q)
   end
   if a.op == "const" and b.op == "const" then return arith.compare(cc, w, a.value, b.value) end
   local al, ah = self:range(a)
   local bl, bh = self:range(b)
   if al and bl and a.type == "num" and (w ~= 32 or al >= 0 and bl >= 0 and ah < 2 ^ 31 and bh < 2 ^ 31) then
      local plain = cc
      if #cc == 3 then plain = al >= 0 and bl >= 0 and cc:sub(2) or nil end
      local known
      if plain then known = self.between(plain, al, ah, bl, bh) end
      if known ~= nil then return known end
   end
   local key, exchanged = pair(a, b, w)
   local known = self.relation[key]
   if known then return IMPLIES[known][exchanged and ir.MIRRORED[cc] or cc] end
   return nil
end

--- `a cc b` for a within al..ah and b within bl..bh, signed.
function Facts.between(cc, al, ah, bl, bh)
   if cc == "eq" or cc == "ne" then
      if ah < bl or bh < al then return cc == "ne" end
      if al == ah and bl == bh then return cc == "eq" end
      return nil
   end
   if cc == "gt" or cc == "ge" then
      al, ah, bl, bh, cc = bl, bh, al, ah, cc == "gt" and "lt" or "le"
   end
   if cc == "lt" then
      if ah < bl then return true elseif al >= bh then return false end
   else
      if ah <= bl then return true elseif al > bh then return false end
   end
   return nil
end

-- ---- learning ----

--- `v` is known to be within lo..hi here.
function Facts:bound(v, lo, hi)
   if v.op == "const" or v.type ~= "num" then return end
   local l, h = self:range(v)
   if lo > l then
      self:set(self.lo, v, lo)
      l = lo
   end
   if hi < h then
      self:set(self.hi, v, hi)
      h = hi
   end
   if l == h and not self.leader[v] then self:set(self.leader, v, ir.const(l, "num")) end
end

local function learn_range(self, cc, a, b)
   local al, ah = self:range(a)
   local bl, bh = self:range(b)
   if #cc == 3 then
      if al < 0 or bl < 0 then return end
      cc = cc:sub(2)
   end
   if cc == "gt" or cc == "ge" then
      a, b, al, ah, bl, bh, cc = b, a, bl, bh, al, ah, ir.MIRRORED[cc]
   end
   if cc == "lt" then
      self:bound(a, al, bh - 1)
      self:bound(b, al + 1, bh)
   elseif cc == "le" then
      self:bound(a, al, bh)
      self:bound(b, al, bh)
   elseif cc == "eq" then
      self:bound(a, bl, bh)
      self:bound(b, al, ah)
   elseif bl == bh then
      if al == bl then self:bound(a, al + 1, ah) elseif ah == bl then self:bound(a, al, ah - 1) end
   end
end

--- `a cc b` holds from here on.
function Facts:assume(cc, w, a, b)
   if a.op == "const" then
      if b.op == "const" then return end
      a, b, cc = b, a, ir.MIRRORED[cc]
   end
   if a.type == "ptr" then
      if cc == "ne" and self:pointer(b) == false then self:set(self.nonnil, a, true) end
   elseif a.type == "num" then
      local al, ah = self:range(a)
      local bl, bh = self:range(b)
      if w == 32 and not (al >= 0 and bl >= 0 and ah < 2 ^ 31 and bh < 2 ^ 31) then return end
      learn_range(self, cc, a, b)
   end
   local key, exchanged = pair(a, b, w)
   self:set(self.relation, key, exchanged and ir.MIRRORED[cc] or cc)
   if cc == "eq" and w ~= 32 and b.op == "const" then self:set(self.leader, a, b) end
end

--- What is known when `term` takes its target number `way`.
function Facts:take(term, way)
   if term.op == "br" then
      local cc = term.cc
      if way == 2 then cc = ir.NEGATED[cc] end
      self:assume(cc, term.w, term.args[1], term.args[2])
   elseif term.op == "check" then
      local p, n = term.args[1], term.n
      if way == 1 then
         if n > (self.proved[p] or 0) then self:set(self.proved, p, n) end
      elseif n < (self.missing[p] or math.huge) then
         self:set(self.missing, p, n)
      end
   end
end

--- Which target a terminator takes: 1, 2, or nil when that is not known. `a` and `b` stand for its operands, a plus
--- `more` bytes for the pointer of a check.
function Facts:way(term, a, b, more)
   local yes
   if term.op == "br" then
      yes = self:decide(term.cc, term.w, a, b)
   elseif term.op == "check" then
      local n = term.n + (more or 0)
      if n <= (self.proved[a] or -1) then yes = true
      elseif n >= (self.missing[a] or math.huge) then yes = false end
   end
   if yes == nil then return nil end
   return yes and 1 or 2
end

return M
