-- SPDX-License-Identifier: BSD-3-Clause
-- Which variable a name means, who assigns it and who captures it, and where a goto goes to.

local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

-- Later passes recurse over the tree too: deeper ones are refused here, once for all of them.
local DEEPEST = 400

---@class tideway.compiler.variable
---@field name string
---@field line integer
---@field col integer
---@field kind "local"|"param"|"for"
---@field func table the Function node that declares it
---@field captured boolean an inner function uses it
---@field assigned table[] the Name nodes that assign it after its declaration
---@field assigned_in table<table, boolean> the Function nodes these stand in

local Resolver = {}
Resolver.__index = Resolver

function Resolver:fail(at, message, hint)
   diagnostic.raise({ file = self.chunk.name, line = at.line, col = at.col }, message, hint)
end

-- Scopes

function Resolver:open(loop)
   local outer = self.scope
   local inside = outer and outer.func == self.func
   self.scope = {
      outer = outer, func = self.func, names = {}, labels = {}, pending = {},
      active = inside and outer.active or 0, base = inside and outer.active or 0,
      loop = loop or inside and outer.loop or false,
   }
end

-- Gotos that found no label here may find one further out; there, the variables of this scope are gone.
function Resolver:shut()
   local scope = self.scope
   local outer = scope.outer
   for _, jump in ipairs(scope.pending) do
      if not outer or outer.func ~= scope.func then
         self:fail(jump.node, ("there is no label '%s' to go to"):format(jump.node.label))
      end
      jump.active = math.min(jump.active, scope.base)
      table.insert(outer.pending, jump)
   end
   self.scope = outer
end

function Resolver:declare(declaration, kind)
   local scope = self.scope
   declaration.var = {
      name = declaration.name, line = declaration.line, col = declaration.col, kind = kind, func = self.func,
      captured = false, assigned = {}, assigned_in = {},
   }
   scope.names[declaration.name] = declaration.var
   scope.active = scope.active + 1
   scope.newest = declaration.name
end

function Resolver:name(node)
   local scope, var = self.scope, nil
   while scope and not var do
      var = scope.names[node.name]
      scope = scope.outer
   end
   if not var then return end
   node.var = var
   if var.func == self.func then return end
   node.upvalue, var.captured = true, true
   local func = self.func
   while func ~= var.func do
      func.upvalues[var.name] = var
      func = func.parent
   end
end

-- Labels

function Resolver:label(node, is_trailing)
   local scope = self.scope
   if scope.labels[node.label] then
      self:fail(node, ("label '%s' is already on line %d"):format(node.label, scope.labels[node.label].line))
   end
   scope.labels[node.label] = node
   -- Nothing follows that could use the block's variables: their scope has ended.
   local active = is_trailing and scope.base or scope.active
   local pending = {}
   for _, jump in ipairs(scope.pending) do
      if jump.node.label ~= node.label then
         pending[#pending + 1] = jump
      elseif jump.active < active then
         self:fail(jump.node, ("this goto jumps into the scope of local '%s'"):format(scope.newest))
      else
         jump.node.target = node
      end
   end
   scope.pending = pending
end

function Resolver:jump(node)
   local scope = self.scope
   while scope and scope.func == self.func do
      if scope.labels[node.label] then
         node.target = scope.labels[node.label]
         return
      end
      scope = scope.outer
   end
   table.insert(self.scope.pending, { node = node, active = self.scope.active })
end

-- The tree

local VISIT = {}

function Resolver:visit(node)
   self.depth = self.depth + 1
   if self.depth > DEEPEST then self:fail(node, "this is nested too deeply") end
   local visit = VISIT[node.tag]
   if visit then visit(self, node) end
   self.depth = self.depth - 1
end

function Resolver:list(nodes)
   for _, node in ipairs(nodes) do
      self:visit(node)
   end
end

function Resolver:statements(block, is_repeat)
   local last = #block
   while last > 0 and block[last].tag == "Label" do
      last = last - 1
   end
   for i, statement in ipairs(block) do
      if statement.tag == "Label" then
         self:label(statement, i > last and not is_repeat)
      else
         self:visit(statement)
      end
   end
end

-- A block with a scope of its own that begins with `declarations`.
function Resolver:block(block, loop, declarations, kind)
   self:open(loop)
   for _, declaration in ipairs(declarations or {}) do
      self:declare(declaration, kind)
   end
   if declarations then
      -- The control variables are outside of the body's block.
      self:open()
      self:statements(block)
      self:shut()
   else
      self:statements(block)
   end
   self:shut()
end

function Resolver:func_body(node)
   local outer = self.func
   node.upvalues, node.parent = {}, outer
   self.func = node
   self:open()
   for _, param in ipairs(node.params) do
      self:declare(param, "param")
   end
   self:statements(node.body)
   self:shut()
   self.func = outer
end

VISIT.Function = Resolver.func_body
VISIT.Name = Resolver.name
VISIT.Goto = Resolver.jump

function VISIT.Local(self, node)
   self:list(node.exprs)
   for _, name in ipairs(node.names) do
      self:declare(name, "local")
   end
end

function VISIT.LocalFunction(self, node)
   self:declare(node.name, "local")
   self:visit(node.func)
end

function VISIT.Assign(self, node)
   for _, target in ipairs(node.targets) do
      self:visit(target)
      if target.var then
         table.insert(target.var.assigned, target)
         target.var.assigned_in[self.func] = true
      end
   end
   self:list(node.exprs)
end

function VISIT.CallStat(self, node) self:visit(node.call) end

function VISIT.Do(self, node) self:block(node.body) end

function VISIT.While(self, node)
   self:visit(node.cond)
   self:block(node.body, true)
end

function VISIT.Repeat(self, node)
   self:open(true)
   self:statements(node.body, true)
   -- The condition sees the variables of the body.
   self:visit(node.cond)
   self:shut()
end

function VISIT.If(self, node)
   for _, clause in ipairs(node.clauses) do
      self:visit(clause.cond)
      self:block(clause.body)
   end
   if node.orelse then self:block(node.orelse) end
end

function VISIT.NumericFor(self, node)
   self:visit(node.start)
   self:visit(node.stop)
   if node.step then self:visit(node.step) end
   self:block(node.body, true, { node.var }, "for")
end

function VISIT.GenericFor(self, node)
   self:list(node.exprs)
   self:block(node.body, true, node.names, "for")
end

function VISIT.Return(self, node) self:list(node.exprs) end

function VISIT.Break(self, node)
   if not self.scope.loop then self:fail(node, "there is no loop to break out of") end
end

function VISIT.Index(self, node)
   self:visit(node.object)
   self:visit(node.key)
end

function VISIT.Call(self, node)
   self:visit(node.func)
   self:list(node.args)
end

function VISIT.Method(self, node)
   self:visit(node.object)
   self:list(node.args)
end

function VISIT.Binary(self, node)
   self:visit(node.left)
   self:visit(node.right)
end

VISIT.And, VISIT.Or = VISIT.Binary, VISIT.Binary

function VISIT.Unary(self, node) self:visit(node.operand) end

function VISIT.Paren(self, node) self:visit(node.expr) end

function VISIT.Table(self, node)
   for _, item in ipairs(node.items) do
      if item.key then self:visit(item.key) end
      self:visit(item.value)
   end
end

--- Resolve the names of a chunk: Name nodes and declarations get `var`, names of an outer function's variable
--- `upvalue`, Function nodes `upvalues` (name to variable) and Goto nodes `target`.
---@param chunk tideway.compiler.chunk
function M.resolve(chunk)
   local self = setmetatable({ chunk = chunk, depth = 0 }, Resolver)
   self:func_body(chunk.main)
end

return M
