-- SPDX-License-Identifier: BSD-3-Clause
-- Statements but for loops (loop.lua).

local expression = require "tideway.compiler.front.expression"
local strict = require "tideway.compiler.front.strict"
local value = require "tideway.compiler.front.value"

local M = {}
local at = expression.at

---@class tideway.front.frame one inlined function
---@field chunk tideway.compiler.chunk
---@field env { slots: table, up: table? } variables that are in scope
---@field upvalues fun(name: string): boolean, any
---@field globals table
---@field returns table join
---@field varargs table[]?
---@field breaks table? join behind the innermost loop
---@field labels table<table, table> Label node -> join

--- Declare a variable with its first value.
function M.declare(cx, frame, var, fv)
   local slot = cx:slot(var.name)
   frame.env.slots[var] = slot
   if fv.k == "int" and not fv.ir.name and fv.ir.op ~= "const" then fv.ir.name = var.name end
   cx.state.vars[slot] = fv
   return slot
end

local function assign_name(cx, frame, node, fv)
   local env = frame.env
   while env and node.var do
      local slot = env.slots[node.var]
      if slot then
         cx.state.vars[slot] = fv
         return
      end
      env = env.up
   end
   at(cx, frame, node)
   cx:refuse(("'%s' is a variable outside of the packet function; it can't be assigned"):format(node.name),
      "keep what changes in a table of the engine: tw.array, tw.hash, ...")
end

local RUN = {}

function RUN.Local(cx, frame, node)
   local fvs = expression.list(cx, frame, node.exprs)
   for i, name in ipairs(node.names) do M.declare(cx, frame, name.var, fvs[i] or value.NIL) end
end

function RUN.LocalFunction(cx, frame, node)
   M.declare(cx, frame, node.name.var, { k = "closure", node = node.func, frame = frame })
end

function RUN.Assign(cx, frame, node)
   local places = {}
   for i, target in ipairs(node.targets) do
      if target.tag == "Index" then
         places[i] = { expression.one(cx, frame, target.object), expression.one(cx, frame, target.key) }
      end
   end
   local fvs = expression.list(cx, frame, node.exprs)
   for i, target in ipairs(node.targets) do
      local fv = fvs[i] or value.NIL
      if places[i] then
         at(cx, frame, target)
         if frame.strict then
            strict.index(cx, expression.resolve(cx, places[i][1]), expression.resolve(cx, places[i][2]))
         end
         expression.set_index(cx, places[i][1], places[i][2], expression.resolve(cx, fv))
      else
         assign_name(cx, frame, target, fv)
      end
   end
end

function RUN.CallStat(cx, frame, node) expression.values(cx, frame, node.call) end

function RUN.Do(cx, frame, node) M.block(cx, frame, node.body) end

function RUN.If(cx, frame, node)
   local join = cx:join()
   for _, clause in ipairs(node.clauses) do
      local yes, no = expression.condition(cx, frame, clause.cond)
      if yes then
         cx:go(yes)
         M.block(cx, frame, clause.body)
         cx:jump(join)
      else
         cx:die()
      end
      if not no then
         cx:enter(join)
         return
      end
      cx:go(no)
   end
   if node.orelse then M.block(cx, frame, node.orelse) end
   cx:jump(join)
   cx:enter(join)
end

function RUN.Return(cx, frame, node)
   local fvs = expression.list(cx, frame, node.exprs)
   for i, fv in ipairs(fvs) do fvs[i] = expression.resolve(cx, fv) end
   at(cx, frame, node)
   require("tideway.compiler.front.intrinsic.lock").check_return(cx)
   cx:jump(frame.returns, fvs)
end

function RUN.Break(cx, frame) cx:jump(frame.breaks) end

function RUN.Goto(cx, frame, node)
   local join = frame.labels[node.target]
   if not join then
      at(cx, frame, node)
      cx:refuse(("goto %s goes backwards"):format(node.label), "write a loop: for, while or repeat")
   end
   cx:jump(join)
end

function RUN.Label(cx, frame, node)
   local join = frame.labels[node]
   frame.labels[node] = nil
   cx:jump(join)
   cx:enter(join)
end

RUN.NumericFor = function(cx, frame, node) require("tideway.compiler.front.loop").numeric_for(cx, frame, node) end
RUN.While = function(cx, frame, node) require("tideway.compiler.front.loop").while_do(cx, frame, node) end
RUN.Repeat = function(cx, frame, node) require("tideway.compiler.front.loop").repeat_until(cx, frame, node) end
RUN.GenericFor = function(cx, frame, node) require("tideway.compiler.front.loop").generic_for(cx, frame, node) end

--- Run statements in the frame's current scope.
function M.statements(cx, frame, body)
   for _, node in ipairs(body) do
      if node.tag == "Label" then frame.labels[node] = cx:join() end
   end
   for _, node in ipairs(body) do
      if not cx:dead() or node.tag == "Label" then
         at(cx, frame, node)
         RUN[node.tag](cx, frame, node)
      end
   end
end

--- Run a block in a scope of its own.
---@param inside? fun() runs first, inside the scope
---@param after? fun() runs last, inside the scope
function M.block(cx, frame, body, inside, after)
   local outer = frame.env
   frame.env = { slots = {}, up = outer }
   cx.depth = cx.depth + 1
   if inside then inside() end
   M.statements(cx, frame, body)
   if after and not cx:dead() then after() end
   cx.depth = cx.depth - 1
   if not cx:dead() then
      for _, slot in pairs(frame.env.slots) do cx.state.vars[slot] = nil end
   end
   frame.env = outer
end

return M
