-- SPDX-License-Identifier: BSD-3-Clause
-- Calls: intrinsics by function, everything else is inlined.

local diagnostic = require "tideway.compiler.diagnostic"
local expression = require "tideway.compiler.front.expression"
local intrinsic = require "tideway.compiler.front.intrinsic"
local lock = require "tideway.compiler.front.intrinsic.lock"
local source = require "tideway.compiler.syntax.source"
local statement = require "tideway.compiler.front.statement"
local strict = require "tideway.compiler.front.strict"
local value = require "tideway.compiler.front.value"

local M = {}

local DEEPEST = 48

-- Run the body of a function with values for its parameters.
local function inline(cx, node, frame, args, name)
   if #cx.calls >= DEEPEST then
      cx:refuse(("calls are nested more than %d deep"):format(DEEPEST))
   end
   for _, call in ipairs(cx.calls) do
      if call.node == node then
         cx:refuse(("%s calls itself"):format(name or "this function"), "recursion can't be inlined; write a loop")
      end
   end
   cx.calls[#cx.calls + 1] = { node = node, pos = cx.pos }
   local pos = cx.pos
   cx.depth = cx.depth + 1
   frame.returns, frame.labels = cx:join(), {}
   frame.returns.depth = cx.depth - 1
   for i, param in ipairs(node.params) do
      statement.declare(cx, frame, param.var, args[i] or value.NIL)
   end
   if node.vararg then frame.varargs = { unpack(args, #node.params + 1, #args) } end
   statement.statements(cx, frame, node.body)
   lock.check_return(cx)
   cx:jump(frame.returns)
   cx.depth = cx.depth - 1
   cx.pos = pos
   if #cx.calls == 1 then -- the NF itself: its paths stay apart for their verdicts
      for _, edge in ipairs(frame.returns.edges) do table.insert(cx.exits.edges, edge) end
      cx.joins[frame.returns], cx.calls[1] = nil, nil
      return {}
   end
   local values = cx:enter(frame.returns)
   cx.calls[#cx.calls] = nil
   if not cx:dead() then
      for _, slot in pairs(frame.env.slots) do cx.state.vars[slot] = nil end
   end
   return values
end

-- ---- results that are known already ----

-- What a value is, as a part of a key; nil when calls with it are not remembered.
local function key_of(fv)
   if fv.k == "pkt" then return "p" end
   if fv.k == "host" then return type(fv.v) .. tostring(fv.v) end
   if fv.k == "int" and not fv.narrow then return "i" .. (fv.ir.id or "c" .. tostring(fv.ir.value)) end
   if fv.k == "ptr" then return ("r%d+%d:%d"):format(fv.ir.id or -1, fv.off, fv.type.id or 0) end
end

local function call_key(fn, args)
   local parts = { tostring(fn) }
   for i, a in ipairs(args) do
      local key = key_of(a)
      if not key then return nil end
      parts[i + 1] = key
   end
   return table.concat(parts, " ")
end

-- Run `body`, which inlines a function, unless the same call was made before and nothing it read has changed.
-- That is what makes pkt:tcp() after pkt:ipv4() cost only its own tests.
local function remembered(cx, key, body)
   local known = key and cx.state.memo[key]
   if known then
      for _, read in ipairs(known.reads) do cx.reads[#cx.reads + 1] = read end
      return known.values
   end
   local outer, effects = cx.reads, cx.effects
   cx.reads = {}
   local values = body()
   local reads = cx.reads
   cx.reads = outer
   for _, read in ipairs(reads) do outer[#outer + 1] = read end
   if key and not cx:dead() and cx.effects == effects then
      cx.state.memo[key] = { values = values, reads = reads }
   end
   return values
end

--- Inline a live Lua function.
---@param fn function
---@param args table[]
---@return table[] values
function M.inline_live(cx, fn, args)
   fn = strict.code[fn] or cx.target.replaced and cx.target.replaced[fn] or fn
   local ok, node, chunk = pcall(source.of, fn)
   if not ok then
      local err = node
      cx:refuse(diagnostic.is(err) and err.message or tostring(err))
   end
   local frame = {
      chunk = chunk, env = { slots = {} }, upvalues = source.upvalues(fn), globals = getfenv(fn),
      strict = strict.is(getfenv(fn)),
   }
   local values = remembered(cx, call_key(fn, args), function() return inline(cx, node, frame, args, node.name) end)
   local out = {}
   for i, fv in ipairs(values) do out[i] = expression.resolve(cx, fv) end
   return out
end

local LIBRARIES = { "string", "table", "math", "io", "os", "debug", "coroutine", "bit", "jit", "package" }

-- What a script calls a function of C.
local function name_of(fn)
   for name, v in pairs(_G) do
      if v == fn then return name end
   end
   for _, library in ipairs(LIBRARIES) do
      for name, v in pairs(_G[library] or {}) do
         if v == fn then return library .. "." .. name end
      end
   end
   return "this function, which is written in C,"
end

--- Call a value.
---@param fv table
---@param args table[]
---@return table[] values
function M.invoke(cx, fv, args)
   fv = expression.resolve(cx, fv)
   if fv.k == "closure" then
      local outer = fv.frame
      local frame = {
         chunk = outer.chunk, env = { slots = {}, up = outer.env }, upvalues = outer.upvalues, globals = outer.globals,
         strict = outer.strict,
      }
      local values = inline(cx, fv.node, frame, args, fv.node.name)
      for i, v in ipairs(values) do values[i] = expression.resolve(cx, v) end
      return values
   end
   if fv.k ~= "host" then cx:refuse(("%s can't be called"):format(value.describe(fv))) end
   local handler = intrinsic.of(fv)
   if handler then return handler(cx, args) end
   if type(fv.v) == "function" then
      if debug.getinfo(fv.v, "S").what == "C" then
         cx:refuse(("%s is not part of NF Lua"):format(name_of(fv.v)),
            "of the standard library it has bit.*, math.floor, math.min, math.max, math.abs, tonumber and ipairs")
      end
      return M.inline_live(cx, fv.v, args)
   end
   cx:refuse(("%s can't be called"):format(value.describe(fv)))
end

local function method(cx, object, name, args)
   object = expression.resolve(cx, object)
   local handler = intrinsic.method(cx, object, name)
   if handler then return handler(cx, object, args) end
   local fn = expression.index(cx, object, value.host(name))
   table.insert(args, 1, object)
   return M.invoke(cx, fn, args)
end

--- A Call or Method node.
---@return table[] values
function M.call(cx, frame, node)
   if node.tag == "Method" then
      local object = expression.one(cx, frame, node.object)
      local args = expression.list(cx, frame, node.args)
      expression.at(cx, frame, node)
      if frame.strict then strict.method(cx, expression.resolve(cx, object), node.name, args) end
      return method(cx, object, node.name, args)
   end
   local fn = expression.one(cx, frame, node.func)
   local args = expression.list(cx, frame, node.args)
   expression.at(cx, frame, node)
   if frame.strict then strict.call(cx, expression.resolve(cx, fn), args) end
   return M.invoke(cx, fn, args)
end

return M
