-- SPDX-License-Identifier: BSD-3-Clause
-- Loops: unrolled when short, else real ones with a bound that is known here.
--
-- A real loop is written twice or more: first with nothing known of the variables it changes, to learn by how
-- much one round changes them; then with ranges that hold for all rounds.

local expression = require "tideway.compiler.front.expression"
local ir = require "tideway.compiler.ir"
local merge = require "tideway.compiler.front.merge"
local number = require "tideway.compiler.front.number"
local statement = require "tideway.compiler.front.statement"
local value = require "tideway.compiler.front.value"

local M = {}

local LIMIT = 2 ^ 53
local MOST = 65536 -- rounds of a real loop
local UNROLL_ROUNDS, UNROLL_NODES = 32, 500

-- ---- size of a body ----

local function count_nodes(node, n)
   if node.size_ then return n + node.size_ end
   local own = 1
   for key, child in pairs(node) do
      if type(child) == "table" and key ~= "var" and key ~= "pos" and key ~= "target" and key ~= "upvalues"
         and key ~= "parent" then
         own = own + count_nodes(child, 0)
      end
   end
   if node.tag then node.size_ = own end
   return n + own
end

-- ---- by how much a value changes in a round ----

-- Least and greatest of v - param, nil when v is not the parameter plus something.
local function delta(cx, v, param, depth)
   if v == param then return 0, 0 end
   if depth > 12 then return nil end
   if v.op == "add" or v.op == "sub" then
      local a, b = v.args[1], v.args[2]
      if v.op == "add" and b.op ~= "const" and delta(cx, b, param, depth + 1) and not delta(cx, a, param, depth + 1) then
         a, b = b, a
      end
      local lo, hi = delta(cx, a, param, depth + 1)
      local l, h = b.lo, b.hi
      if v.step and v.step[b] then l, h = v.step[b][1], v.step[b][2] end
      if not lo or not l then return nil end
      if v.op == "sub" then l, h = -h, -l end
      return lo + l, hi + h
   elseif v.op == "param" and v.sources then
      local lo, hi = math.huge, -math.huge
      for _, source in ipairs(v.sources) do
         local l, h = delta(cx, source, param, depth + 1)
         if not l then return nil end
         lo, hi = math.min(lo, l), math.max(hi, h)
      end
      return lo, hi
   end
end

-- ---- one attempt ----

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
   for key, entry in pairs(state.memo) do -- what was read may be written in the loop
      if entry.space or entry.reads then state.memo[key] = nil end
   end
   for _, slot in ipairs(changed) do
      local fv = expression.resolve(cx, state.vars[slot])
      local list = {}
      local function param(v, range)
         local p = ir.param(cx.program, block, v.type, { pos = cx.pos, space = v.space, name = slot.name })
         if v.type == "num" then p.lo, p.hi = range and range[1] or -LIMIT, range and range[2] or LIMIT end
         args[#args + 1] = v
         list[#list + 1] = { param = p, start = v }
         return p
      end
      local new
      if number.type(fv) then
         new = value.int(param(number.ir(cx, fv, "a variable of a loop"), known[slot]))
      elseif fv.k == "tagged" or (fv.k == "host" and (fv.v == nil or type(fv.v) == "boolean")) then
         local tag = fv.k == "tagged" and fv.tag or cx:const(fv.v == nil and 0 or fv.v and 2 or 1)
         if fv.k == "tagged" and fv.val then
            cx:refuse(("'%s' may be nil when the loop changes it"):format(slot.name))
         end
         new = value.tagged(param(tag, { 0, 2 }), nil, 7)
      else
         cx:refuse(("'%s' (%s) changes in a loop that can't be unrolled"):format(slot.name, value.describe(fv)),
            "take views inside the loop, or outside and don't assign them again")
      end
      params[slot] = { fv = new, list = list }
      state.vars[slot] = new
   end
   cx.block = block
   return block, params
end

-- The arguments of the back edge; false when a slot can't stay what it is.
local function close_header(cx, block, changed, params)
   local args = {}
   for _, slot in ipairs(changed) do
      local fv = expression.resolve(cx, cx.state.vars[slot])
      local p = params[slot].list[1].param
      local v
      if p.type == "num" and params[slot].fv.k == "tagged" then
         if fv.k == "tagged" and not fv.val then v = fv.tag
         elseif fv.k == "host" and (fv.v == nil or type(fv.v) == "boolean") then
            v = cx:const(fv.v == nil and 0 or fv.v and 2 or 1)
         else
            cx:refuse(("'%s' is nil or a boolean before the loop and %s in it"):format(slot.name, value.describe(fv)))
         end
      else
         v = number.ir(cx, fv, ("'%s', which the loop changes"):format(slot.name))
         if v.type ~= p.type then
            if p.type == "num" then
               cx:refuse(("'%s' is a number before the loop and a 64-bit integer in it"):format(slot.name),
                  "begin with 0ULL")
            end
            v = number.widen(cx, v, p.type)
         end
      end
      args[#args + 1] = v
      params[slot].list[1].back = v
   end
   cx.block.term = { op = "jmp", args = {}, targets = { { block = block, args = args } }, pos = cx.pos }
   local state = cx.state
   cx:die()
   return state
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

-- ---- the loop ----

local function changed_slots(before, after, have)
   local list, seen = {}, {}
   for _, slot in ipairs(have) do seen[slot] = true end
   for slot, fv in pairs(before) do
      if after[slot] and not seen[slot] and not merge.equal(after[slot], fv) then list[#list + 1] = slot end
   end
   table.sort(list, function(a, b) return a.id < b.id end)
   return list
end

-- Bound on the rounds from the conditions at the top: `x < y` where x grows and y stays.
local function bound_of(cx, tests, params, deltas)
   local best
   for _, t in ipairs(tests) do
      for _, side in ipairs { { t.cc, t.a, t.b }, { ir.MIRRORED[t.cc], t.b, t.a } } do
         local cc, x, y = side[1], side[2], side[3]
         local base, shift = x, 0
         while base.op == "add" and base.args[2].op == "const" do
            shift = shift + base.args[2].value
            base = base.args[1]
         end
         local d = deltas[base]
         local start = params[base]
         local yl, yh = t.range(y)
         if d and start and yh and not deltas[y] then
            local sl, sh = t.start_range(start)
            if (cc == "lt" or cc == "le") and d[1] >= 1 and sl then
               local n = math.ceil((yh - shift + (cc == "le" and 1 or 0) - sl) / d[1])
               best = math.min(best or math.huge, math.max(n, 0))
            elseif (cc == "gt" or cc == "ge") and d[2] <= -1 and sh then
               local n = math.ceil((sh + shift - yl + (cc == "ge" and 1 or 0)) / -d[2])
               best = math.min(best or math.huge, math.max(n, 0))
            end
         end
      end
   end
   return best
end

local function widened(start, d, rounds)
   local lo, hi = start[1], start[2]
   return { math.max(-LIMIT, lo + math.min(0, d[1]) * rounds), math.min(LIMIT, hi + math.max(0, d[2]) * rounds) }
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

--- A real loop. `body(breaks, watch)` writes one round and leaves the current point where the next one starts, or dead.
---@param rounds? integer most rounds, when known before
local function loop(cx, frame, rounds, body)
   local start = cx:checkpoint()
   local changed, known, precise = {}, {}, false
   local outer_breaks, outer_watch, outer_speculative = frame.breaks, cx.watch, cx.speculative
   for attempt = 1, 24 do
      if attempt > 1 then cx:rollback(start) end
      cx.speculative = outer_speculative or not precise
      local entry_range = {}
      for _, slot in ipairs(changed) do
         local fv = cx.state.vars[slot]
         if number.type(fv) == "num" then
            local v = number.ir(cx, fv, "loop")
            entry_range[slot] = { cx:range(v) }
         end
      end
      local first = #cx.program.blocks + 1
      local breaks = cx:join()
      breaks.depth = cx.depth
      local block, params = open_header(cx, changed, known, rounds)
      local before, gen = {}, cx.state.gen
      for slot, fv in pairs(cx.state.vars) do before[slot] = fv end
      local tests = {}
      frame.breaks = breaks
      body(breaks, function(cc, a, b)
         local al, ah = cx:range(a)
         local bl, bh = cx:range(b)
         tests[#tests + 1] = { cc = cc, a = a, b = b, ranges = { [a] = { al, ah }, [b] = { bl, bh } } }
      end)
      frame.breaks, cx.watch = outer_breaks, outer_watch
      if cx:dead() then -- runs at most once
         block.loop = nil
         cx.speculative = outer_speculative
         if precise or #changed == 0 then
            cx:enter(breaks)
            return
         end
         precise = true
      else
         if cx.state.gen ~= gen then
            cx:refuse("the packet is resized in a loop", "resize before or after it")
         end
         local more = changed_slots(before, cx.state.vars, changed)
         if #more > 0 then
            for _, slot in ipairs(more) do changed[#changed + 1] = slot end
            precise = false
         else
            local ok, deltas, by_param = true, {}, {}
            local back_ranges = {}
            close_header(cx, block, changed, params)
            note_sources(cx, first)
            for slot, p in pairs(params) do
               local item = p.list[1]
               local lo, hi = delta(cx, item.back, item.param, 0)
               if lo then deltas[item.param] = { lo, hi } end
               by_param[item.param] = slot
               back_ranges[slot] = { item.back.lo, item.back.hi }
            end
            local n = rounds
            if not n then
               local starts = {}
               for param, slot in pairs(by_param) do starts[param] = slot end
               for _, t in ipairs(tests) do
                  t.range = function(v)
                     local r = t.ranges[v]
                     if r then return r[1], r[2] end
                     return v.lo, v.hi
                  end
                  t.start_range = function(slot)
                     local r = entry_range[slot]
                     if r then return r[1], r[2] end
                  end
               end
               n = bound_of(cx, tests, starts, deltas)
               if not n and (precise or attempt > 3) then
                  cx:refuse("how often this loop runs can't be known",
                     "bound it: for i = 1, 64 do if not more then break end ... end")
               end
            end
            if n and n > MOST then
               cx:refuse(("this loop may run %.0f times; at most %d are allowed"):format(n, MOST),
                  "limit its bound with math.min")
            end
            block.loop = n or MOST
            for param, slot in pairs(by_param) do
               if param.type == "num" and params[slot].fv.k == "int" then
                  local want
                  if deltas[param] and n then
                     want = widened(entry_range[slot], deltas[param], n)
                  else
                     local now = { param.lo, param.hi }
                     local back = back_ranges[slot]
                     if not precise then now = entry_range[slot] end
                     want = (back[1] >= now[1] and back[2] <= now[2]) and now or stepped(now, back)
                     if not precise and back[1] <= -LIMIT + 1 then want = stepped(entry_range[slot], entry_range[slot]) end
                  end
                  if not (precise and param.lo <= want[1] and param.hi >= want[2]) then
                     ok = false
                     known[slot] = want
                  end
               end
            end
            if precise and ok then
               cx.speculative = outer_speculative
               cx:enter(breaks)
               return
            end
            precise = true
         end
      end
   end
   frame.breaks, cx.watch, cx.speculative = outer_breaks, outer_watch, outer_speculative
   cx:refuse("the values this loop computes have no bound", "limit them with bit.band or math.min in the loop")
end

-- ---- for ----

local function whole(cx, fv, what)
   local v = number.ir(cx, expression.resolve(cx, fv), what)
   if v.type ~= "num" then cx:refuse(what .. " is a 64-bit integer", "use tonumber") end
   return v
end

function M.numeric_for(cx, frame, node)
   local a = expression.one(cx, frame, node.start)
   local b = expression.one(cx, frame, node.stop)
   local s = node.step and expression.one(cx, frame, node.step) or value.host(1)
   expression.at(cx, frame, node)
   if s.k ~= "host" or type(s.v) ~= "number" or s.v % 1 ~= 0 or s.v == 0 then
      cx:refuse("the step of a loop must be a constant whole number other than 0")
   end
   local from, to = whole(cx, a, "the start of the loop"), whole(cx, b, "the end of the loop")
   local al, ah = cx:range(from)
   local bl, bh = cx:range(to)
   local most = math.floor(s.v > 0 and (bh - al) / s.v or (ah - bl) / -s.v) + 1
   if most <= 0 then return end
   if al == ah and bl == bh and most <= UNROLL_ROUNDS and most * count_nodes(node.body, 0) <= UNROLL_NODES then
      return M.unrolled(cx, frame, node, al, bh, s.v)
   end
   if most > MOST then
      cx:refuse(("this loop may run %.0f times; at most %d are allowed"):format(most, MOST),
         "limit its bound with math.min")
   end
   cx.depth = cx.depth + 1
   local counter = cx:slot("for")
   cx.state.vars[counter] = value.int(from)
   loop(cx, frame, most, function(breaks)
      local i = expression.resolve(cx, cx.state.vars[counter])
      local v = number.ir(cx, i, "loop")
      local yes, no = cx:split(s.v > 0 and "le" or "ge", v, to)
      if no then
         cx:go(no)
         cx:jump(breaks)
      end
      if not yes then
         cx:die()
         return
      end
      cx:go(yes)
      local nexts = cx:join()
      statement.block(cx, frame, node.body, function() statement.declare(cx, frame, node.var.var, i) end)
      cx:jump(nexts)
      cx:enter(nexts)
      if not cx:dead() then
         cx.pos = node.pos
         cx.state.vars[counter] = number.binary(cx, "+", i, s)
      end
   end)
   cx.depth = cx.depth - 1
   if not cx:dead() then cx.state.vars[counter] = nil end
end

--- Rounds with a constant counter, one after the other.
function M.unrolled(cx, frame, node, first, last, step)
   local outer = frame.breaks
   local breaks = cx:join()
   frame.breaks = breaks
   for i = first, last, step do
      if cx:dead() then break end
      local labels = frame.labels
      frame.labels = setmetatable({}, { __index = labels })
      statement.block(cx, frame, node.body, function() statement.declare(cx, frame, node.var.var, value.host(i)) end)
      frame.labels = labels
   end
   cx:jump(breaks)
   frame.breaks = outer
   cx:enter(breaks)
end

-- ---- while, repeat ----

-- One test at the top or bottom of a round: out of the loop on one side, on with it on the other.
local function tested(cx, breaks, stop, go_on)
   if stop then
      cx:go(stop)
      cx:jump(breaks)
   end
   if go_on then cx:go(go_on) else cx:die() end
end

function M.while_do(cx, frame, node)
   loop(cx, frame, nil, function(breaks, watch)
      cx.watch = watch
      local go_on, stop = expression.condition(cx, frame, node.cond)
      cx.watch = nil
      tested(cx, breaks, stop, go_on)
      if not cx:dead() then statement.block(cx, frame, node.body) end
   end)
end

function M.repeat_until(cx, frame, node)
   loop(cx, frame, nil, function(breaks, watch)
      statement.block(cx, frame, node.body, nil, function() -- the condition sees the variables of the body
         cx.watch = function(cc, a, b) watch(ir.NEGATED[cc], a, b) end
         local stop, go_on = expression.condition(cx, frame, node.cond)
         cx.watch = nil
         tested(cx, breaks, stop, go_on)
      end)
   end)
end

-- ---- for in ----

--- Only ipairs over a constant Lua table: unrolled.
function M.generic_for(cx, frame, node)
   local call = node.exprs[1]
   if call.tag == "Call" and #node.exprs == 1 then
      local fn = expression.one(cx, frame, call.func)
      if value.is_host(fn, ipairs) then
         local list = expression.one(cx, frame, call.args[1])
         expression.at(cx, frame, node)
         if list.k ~= "host" or type(list.v) ~= "table" then
            cx:refuse(("ipairs(%s): only constant tables"):format(value.describe(list)))
         end
         return M.over_list(cx, frame, node, list.v)
      end
   end
   expression.at(cx, frame, node)
   cx:refuse("for ... in: NF Lua knows ipairs of a constant table only", "use for i = 1, n do ... end")
end

function M.over_list(cx, frame, node, list)
   local outer = frame.breaks
   local breaks = cx:join()
   frame.breaks = breaks
   for i, v in ipairs(list) do
      if cx:dead() then break end
      local labels = frame.labels
      frame.labels = setmetatable({}, { __index = labels })
      statement.block(cx, frame, node.body, function()
         statement.declare(cx, frame, node.names[1].var, value.host(i))
         if node.names[2] then statement.declare(cx, frame, node.names[2].var, value.host(v)) end
      end)
      frame.labels = labels
   end
   cx:jump(breaks)
   frame.breaks = outer
   cx:enter(breaks)
end

return M
