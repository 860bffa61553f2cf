-- SPDX-License-Identifier: BSD-3-Clause
-- A loop that stays one, with a bound that is known here. It is written twice or more: first with nothing known of the
-- variables it changes, to learn by how much one round changes them; then with ranges that hold for all rounds.

local expression = require "tideway.compiler.front.expression"
local ir = require "tideway.compiler.ir"
local memory = require "tideway.compiler.front.memory"
local merge = require "tideway.compiler.front.merge"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local LIMIT = 2 ^ 53
local MOST = 65536 -- rounds

--- Most rounds of a loop.
M.MOST = MOST

-- ---- by how much a value changes in a round ----

-- Least and greatest of v - param, nil when v is not the parameter plus something.
local function delta(v, param, depth)
   if v == param or v.stands_for == param then return 0, 0 end
   if depth > 12 then return nil end
   if v.op == "add" or v.op == "sub" then
      local a, b = v.args[1], v.args[2]
      if v.op == "add" and b.op ~= "const" and not delta(a, param, depth + 1) then a, b = b, a end
      local lo, hi = delta(a, param, depth + 1)
      local l, h = b.lo, b.hi
      if v.step and v.step[b] then l, h = v.step[b][1], v.step[b][2] end
      if not lo or not l then return nil end
      if v.op == "sub" then l, h = -h, -l end
      return lo + l, hi + h
   elseif v.op == "param" and v.sources then
      local lo, hi = math.huge, -math.huge
      for _, source in ipairs(v.sources) do
         local l, h = delta(source, param, depth + 1)
         if not l then return nil end
         lo, hi = math.min(lo, l), math.max(hi, h)
      end
      return lo, hi
   end
end

-- ---- one attempt ----

-- nil or a boolean as its tag, when it is one.
local function tag_of(cx, fv)
   if fv.k == "tagged" and not fv.val then return fv.tag end
   if fv.k == "host" and (fv.v == nil or type(fv.v) == "boolean") then
      return cx:const(fv.v == nil and value.TAG_NIL or fv.v and value.TAG_TRUE or value.TAG_FALSE)
   end
end

-- What a changed variable is before the loop: an IR value, and whether it is a tag (nil or a boolean).
local function start_of(cx, slot, fv)
   if number.type(fv) then return number.ir(cx, fv, "a variable of a loop"), false end
   local tag = tag_of(cx, fv)
   if tag then return tag, true end
   if fv.k == "tagged" then cx:refuse(("'%s' may be nil when the loop changes it"):format(slot.name)) end
   cx:refuse(("'%s' (%s) changes in a loop that can't be unrolled"):format(slot.name, value.describe(fv)),
      "take views inside the loop, or outside and don't assign them again")
end

-- The verifier follows the counter of a loop; what else changes it need not, where there are several ways through it.
local function blur(cx, changed, params)
   for _, slot in ipairs(changed) do
      local p = params[slot]
      if p.fv.k == "int" and p.param.type == "num" and slot.name ~= "for" then
         cx.state.vars[slot] = value.int(memory.loosen(cx, p.param))
      end
   end
end

-- Header block with a parameter per changed slot. `known` has the ranges to assume, by slot.
local function open_header(cx, changed, known, rounds)
   local block = ir.block(cx.program)
   local entry, state = cx.block, cx.state
   local over = state.dom
   block.loop = rounds or MOST
   block.dom = { block = block, parent = over, depth = over.depth + 1 }
   local args, params = {}, {}
   entry.term = { op = "jmp", args = {}, targets = { { block = block, args = args } }, pos = cx.pos }
   state.dom = block.dom
   for key, known_load in pairs(state.memo) do -- what was read may be written in the loop
      if known_load.space or known_load.reads then state.memo[key] = nil end
   end
   for _, slot in ipairs(changed) do
      local fv = expression.resolve(cx, state.vars[slot])
      local start, new = start_of(cx, slot, fv)
      local p = ir.param(cx.program, block, start.type, { pos = cx.pos, name = slot.name })
      if new then
         p.lo, p.hi = 0, value.TAG_TRUE
         new = value.tagged(p, nil, 7)
      else
         if p.type == "num" then
            p.lo, p.hi = unpack(known[slot] or { -LIMIT, LIMIT })
         end
         new = value.int(p)
      end
      args[#args + 1] = start
      params[slot] = { fv = new, param = p, start = start }
      state.vars[slot] = new
   end
   cx.block = block
   return block, params
end

-- What a changed variable is at the end of a round, as an argument of the back edge.
local function back_of(cx, slot, p)
   local fv = expression.resolve(cx, cx.state.vars[slot])
   if p.fv.k == "tagged" then
      return tag_of(cx, fv) or cx:refuse(("'%s' is nil or a boolean before the loop and %s in it"):format(slot.name,
         value.describe(fv)))
   end
   local v = number.ir(cx, fv, ("'%s', which the loop changes"):format(slot.name))
   if v.type == p.param.type then return v end
   if p.param.type == "num" then
      cx:refuse(("'%s' is a number before the loop and a 64-bit integer in it"):format(slot.name), "begin with 0ULL")
   end
   return number.widen(cx, v, p.param.type)
end

-- The back edge.
local function close_header(cx, block, changed, params)
   local args = {}
   for _, slot in ipairs(changed) do
      params[slot].back = back_of(cx, slot, params[slot])
      args[#args + 1] = params[slot].back
   end
   cx.block.term = { op = "jmp", args = {}, targets = { { block = block, args = args } }, pos = cx.pos }
   cx:die()
end

-- Parameters of joins inside the loop know what they come from.
local function note_sources(cx, from)
   for i = from, #cx.program.blocks do
      local block = cx.program.blocks[i]
      for _, target in ipairs(block.term and block.term.targets or {}) do
         for k, param in ipairs(target.block.params) do
            param.sources = param.sources or {}
            if i >= from and target.args[k] then param.sources[#param.sources + 1] = target.args[k] end
         end
      end
   end
end

-- Powers of two that a range may grow to when it is not a plain sum.
local STEPS = { 2 ^ 8 - 1, 2 ^ 16 - 1, 2 ^ 31 - 1, 2 ^ 32 - 1, 2 ^ 48, LIMIT }
local function stepped(a, b)
   local lo, hi = math.min(a[1], b[1]), math.max(a[2], b[2])
   local l, h = lo < 0 and lo or 0, LIMIT
   for _, s in ipairs(STEPS) do
      if hi <= s then
         h = s
         break
      end
   end
   if lo < 0 then
      l = -LIMIT
      for _, s in ipairs(STEPS) do
         if lo >= -s - 1 then
            l = -s - 1
            break
         end
      end
   end
   return { l, h }
end

-- ---- a real loop ----

---@class tideway.front.loop
---@field cx tideway.front.context
---@field frame tideway.front.frame
---@field rounds integer? most rounds, when known before
---@field body fun(breaks: table, watch: function) writes one round; leaves the point where the next one starts, or dead
---@field changed table[] slots that a round changes, in order
---@field known table<table, number[]> ranges to assume of them at the start of every round
---@field precise boolean the ranges are those of all rounds; before that anything is assumed
local Loop = {}
Loop.__index = Loop

local function changed_slots(before, after, have)
   local list, seen = {}, {}
   for _, slot in ipairs(have) do seen[slot] = true end
   for slot, fv in pairs(before) do
      if after[slot] and not seen[slot] and not merge.equal(after[slot], fv) then list[#list + 1] = slot end
   end
   table.sort(list, function(a, b) return a.id < b.id end)
   return list
end

-- Ranges of the changed numbers before the loop.
function Loop:entry_ranges()
   local cx, out = self.cx, {}
   for _, slot in ipairs(self.changed) do
      local fv = cx.state.vars[slot]
      if number.type(fv) == "num" then out[slot] = { cx:range(number.ir(cx, fv, "loop")) } end
   end
   return out
end

-- On hooks a loop without a counter gets one: the verifier sees an end by it.
function Loop:count()
   local cx = self.cx
   if self.rounds then return end
   if not self.counter then
      self.counter, self.fresh = cx:slot "for", true
      return -- it is there from the next attempt on
   end
   if not cx.state.vars[self.counter] then return end
   local n = number.ir(cx, expression.resolve(cx, cx.state.vars[self.counter]), "loop")
   local yes, no = cx:split("lt", n, cx:const((self.most or MOST) + 1)) -- the last one ends it
   if no then
      cx:go(no)
      cx.target.trap(cx)
   end
   cx:go(yes)
   cx.state.vars[self.counter] = number.binary(cx, "+", value.int(n), value.host(1))
end

-- Write the loop once. Gives what the attempt found: the header, its parameters, the state before the first round,
-- the tests at the loop's edge.
function Loop:write()
   local cx, frame = self.cx, self.frame
   local outer_breaks, outer_watch = frame.breaks, cx.watch
   local try = { entry = self:entry_ranges(), first = #cx.program.blocks + 1, tests = {}, before = {} }
   try.breaks = cx:join()
   try.breaks.depth = cx.depth
   try.block, try.params = open_header(cx, self.changed, self.known, self.rounds)
   try.gen = cx.state.gen
   for slot, fv in pairs(cx.state.vars) do try.before[slot] = fv end
   frame.breaks = try.breaks
   if self.branching then
      blur(cx, self.changed, try.params)
      self:count()
   end
   self.body(try.breaks, function(cc, a, b)
      local al, ah = cx:range(a)
      local bl, bh = cx:range(b)
      try.tests[#try.tests + 1] = { cc = cc, a = a, b = b, ranges = { [a] = { al, ah }, [b] = { bl, bh } } }
   end)
   frame.breaks, cx.watch = outer_breaks, outer_watch
   return try
end

-- By how much a round changes each parameter.
function Loop:deltas(try)
   local deltas, slot_of, back = {}, {}, {}
   for slot, p in pairs(try.params) do
      local lo, hi = delta(p.back, p.param, 0)
      if lo then deltas[p.param] = { lo, hi } end
      slot_of[p.param] = slot
      back[slot] = { p.back.lo, p.back.hi }
   end
   return deltas, slot_of, back
end

-- Rounds that `x cc y` allows, where x grows (falls) by a step of `d` from `start` and y stays.
local function rounds_of(cc, d, start, shift, y)
   if (cc == "lt" or cc == "le") and d[1] >= 1 then
      return math.max(0, math.ceil((y[2] - shift + (cc == "le" and 1 or 0) - start[1]) / d[1]))
   elseif (cc == "gt" or cc == "ge") and d[2] <= -1 then
      return math.max(0, math.ceil((start[2] + shift - y[1] + (cc == "ge" and 1 or 0)) / -d[2]))
   end
end

-- Bound on the rounds from the tests at the loop's edge.
local function bound_of(try, slot_of, deltas)
   local best
   for _, t in ipairs(try.tests) do
      for _, side in ipairs { { t.cc, t.a, t.b }, { ir.MIRRORED[t.cc], t.b, t.a } } do
         local cc, base, y, shift = side[1], side[2], side[3], 0
         while (base.op == "add" or base.op == "sub") and base.args[2].op == "const" do
            shift = shift + (base.op == "add" and 1 or -1) * base.args[2].value
            base = base.args[1]
         end
         base = slot_of[base.stands_for] and base.stands_for or base
         local start = slot_of[base] and try.entry[slot_of[base]]
         if deltas[base] and start and start[1] and not deltas[y] and not deltas[y.stands_for or y]
            and t.ranges[y][2] then
            local n = rounds_of(cc, deltas[base], start, shift, t.ranges[y])
            if n then best = math.min(best or math.huge, n) end
         end
      end
   end
   return best
end

function Loop:bound(try, slot_of, deltas)
   local cx = self.cx
   local n = self.rounds or bound_of(try, slot_of, deltas)
   cx.pos = self.pos
   if not n and (self.precise or self.attempt > 3) then
      cx:refuse("how often this loop runs can't be known",
         "count its rounds: for i = 1, 64 do if done then break end ... end")
   end
   if n and n > MOST then
      cx:refuse(("this loop may run %.0f times; at most %d are allowed"):format(n, MOST),
         "limit its bound with math.min")
   end
   return n
end

-- Range to assume of a slot: that of all rounds when a round adds something known, else wide enough for what a
-- round makes of it.
function Loop:range_of(try, slot, change, back, rounds)
   local entry, param = try.entry[slot], try.params[slot].param
   if slot == self.counter and rounds then return { 0, rounds + 2 } end -- its test is not to look decided
   if change and rounds then
      return { math.max(-LIMIT, entry[1] + math.min(0, change[1]) * rounds),
         math.min(LIMIT, entry[2] + math.max(0, change[2]) * rounds) }
   end
   local now = self.precise and { param.lo, param.hi } or entry
   if back[1] >= now[1] and back[2] <= now[2] then return now end
   if not self.precise and back[1] <= -LIMIT + 1 then return stepped(entry, entry) end
   return stepped(now, back)
end

-- Do paths meet inside the loop? Only on hooks it matters.
function Loop:has_joins(try)
   local cx = self.cx
   if not cx.target.checks or not cx.target.kernel.packet then return false end
   local seen = {}
   for i = try.first + 1, #cx.program.blocks do
      local term = cx.program.blocks[i].term
      for _, target in ipairs(term and term.targets or {}) do
         if seen[target.block] and target.block ~= try.block then return true end
         seen[target.block] = true
      end
   end
   return false
end

-- A bound whose range the verifier sees too: loads and masks.
local function is_plain(v, depth)
   if v.op == "const" or (v.op == "load" and v.bits < 64) then return true end
   if depth > 6 or not (v.op == "and" or v.op == "shl" or v.op == "shr" or v.op == "add" or v.op == "sub") then
      return false
   end
   return is_plain(v.args[1], depth + 1) and is_plain(v.args[2], depth + 1)
end

-- Is the loop's end one that the verifier can't see? Only on hooks it matters.
function Loop:has_hidden_end(try)
   local cx = self.cx
   if self.rounds or not cx.target.checks or not cx.target.kernel.packet then return false end
   local start = {}
   for _, p in pairs(try.params) do start[p.param] = p.start end
   for _, t in ipairs(try.tests) do
      for _, side in ipairs { { t.a, t.b }, { t.b, t.a } } do
         local bound, moves = side[1], side[2]
         while (moves.op == "add" or moves.op == "sub") and moves.args[2].op == "const" do moves = moves.args[1] end
         moves = moves.stands_for or moves
         if is_plain(bound, 0) and start[moves] and is_plain(start[moves], 0) then return false end
      end
   end
   return true
end

-- Close the loop, and see whether the ranges it was written with hold for all its rounds.
function Loop:settle(try)
   local cx = self.cx
   close_header(cx, try.block, self.changed, try.params)
   local branching = self:has_joins(try) or self:has_hidden_end(try)
   note_sources(cx, try.first)
   local deltas, slot_of, back = self:deltas(try)
   local n = self:bound(try, slot_of, deltas)
   try.block.loop = n or MOST
   local counted = self.most == n
   self.most = n
   local holds = (counted or not self.counter) and branching == self.branching and not self.fresh
   self.fresh = false
   self.branching = branching
   for param, slot in pairs(slot_of) do
      if param.type == "num" and try.params[slot].fv.k == "int" then
         local want = self:range_of(try, slot, deltas[param], back[slot], n)
         if not (self.precise and param.lo <= want[1] and param.hi >= want[2]) then
            holds = false
            self.known[slot] = want
         end
      end
   end
   local done = self.precise and holds
   self.precise = true
   return done
end

-- One attempt; true when it stands.
function Loop:try()
   local cx = self.cx
   local try = self:write()
   self.breaks = try.breaks
   if cx:dead() then -- a round never leads to another one
      try.block.loop = nil
      local done = self.precise or #self.changed == 0
      self.precise = true
      return done
   end
   if cx.state.gen ~= try.gen then
      cx:refuse("the packet is resized in a loop", "resize before or after it")
   end
   local more = changed_slots(try.before, cx.state.vars, self.changed)
   if #more == 0 then return self:settle(try) end
   for _, slot in ipairs(more) do self.changed[#self.changed + 1] = slot end
   self.precise = false
   return false
end

local ATTEMPTS = 24

--- Write a loop.
---@param cx tideway.front.context
---@param frame tideway.front.frame
---@param rounds integer? most rounds, when known before
---@param body fun(breaks: table, watch: function) see tideway.front.loop
function M.write(cx, frame, rounds, body)
   local self = setmetatable({
      cx = cx, frame = frame, rounds = rounds, body = body, changed = {}, known = {}, precise = false,
      branching = false, pos = cx.pos,
   }, Loop)
   local start, speculative = cx:checkpoint(), cx.speculative
   for attempt = 1, ATTEMPTS do
      self.attempt = attempt
      if attempt > 1 then cx:rollback(start) end
      if self.counter then cx.state.vars[self.counter] = value.host(0) end
      cx.speculative = speculative or not self.precise
      local done = self:try()
      cx.speculative = speculative
      if done then
         if not cx:dead() then cx:die() end
         cx:enter(self.breaks)
         if self.counter and not cx:dead() then cx.state.vars[self.counter] = nil end
         return
      end
   end
   cx.pos = self.pos
   cx:refuse("the values this loop computes have no bound", "limit them with bit.band or math.min in the loop")
end

return M
