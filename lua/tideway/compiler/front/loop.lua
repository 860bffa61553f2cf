-- SPDX-License-Identifier: BSD-3-Clause
-- Loop statements: unrolled when they are short, else loops of the program (rounds.lua).

local expression = require "tideway.compiler.front.expression"
local ir = require "tideway.compiler.ir"
local number = require "tideway.compiler.front.number"
local rounds = require "tideway.compiler.front.rounds"
local statement = require "tideway.compiler.front.statement"
local strict = require "tideway.compiler.front.strict"
local value = require "tideway.compiler.front.value"

local M = {}

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
   if most > rounds.MOST then
      cx:doubt(("this loop may run %.0f times; at most %d are allowed"):format(most, rounds.MOST),
         "limit its bound with math.min")
      most = rounds.MOST
   end
   cx.depth = cx.depth + 1
   local counter = cx:slot("for")
   cx.state.vars[counter] = value.int(from)
   rounds.write(cx, frame, most, function(breaks)
      local i = expression.resolve(cx, cx.state.vars[counter])
      local v = number.ir(cx, i, "loop")
      if cx.target.checks and to.op ~= "const" then -- an end that the kernel's verifier sees
         local more, over = cx:split(s.v > 0 and "le" or "ge", v, cx:const(s.v > 0 and bh or bl))
         if over then
            cx:go(over)
            cx:jump(breaks)
         end
         cx:go(more)
      end
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
   rounds.write(cx, frame, nil, function(breaks, watch)
      cx.watch = watch
      local go_on, stop = expression.condition(cx, frame, node.cond)
      cx.watch = nil
      tested(cx, breaks, stop, go_on)
      if not cx:dead() then statement.block(cx, frame, node.body) end
   end)
end

function M.repeat_until(cx, frame, node)
   rounds.write(cx, frame, nil, function(breaks, watch)
      statement.block(cx, frame, node.body, nil, function() -- the condition sees the variables of the body
         cx.watch = function(cc, a, b) watch(ir.NEGATED[cc], a, b) end
         cx.ends_when_true = true
         local stop, go_on = expression.condition(cx, frame, node.cond)
         cx.watch, cx.ends_when_true = nil, nil
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
      local shown = value.host(frame.strict and strict.real(v) or v)
      local labels = frame.labels
      frame.labels = setmetatable({}, { __index = labels })
      statement.block(cx, frame, node.body, function()
         statement.declare(cx, frame, node.names[1].var, value.host(i))
         if node.names[2] then statement.declare(cx, frame, node.names[2].var, shown) end
      end)
      frame.labels = labels
   end
   cx:jump(breaks)
   frame.breaks = outer
   cx:enter(breaks)
end

return M
