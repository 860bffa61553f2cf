-- SPDX-License-Identifier: BSD-3-Clause
-- Expressions: syntax trees to values.

local bit = require "bit"
local ffi = require "ffi"
local array = require "tideway.compiler.front.array"
local choice = require "tideway.compiler.front.choice"
local ctype = require "tideway.compiler.front.ctype"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local strict = require "tideway.compiler.front.strict"
local value = require "tideway.compiler.front.value"

local M = {}

local NIL, TRUE, FALSE = value.NIL, value.TRUE, value.FALSE
local TAG_NIL, TAG_FALSE, TAG_TRUE, TAG_VALUE = value.TAG_NIL, value.TAG_FALSE, value.TAG_TRUE, value.TAG_VALUE

--- Errors and instructions from here on are about this node.
function M.at(cx, frame, node)
   local pos = node.pos
   if not pos then
      pos = { file = frame.chunk.name, line = node.line, col = node.col }
      node.pos = pos
   end
   cx.pos = pos
end
local at = M.at

-- ---- values that may be nil ----

-- A reference that a table gave: nil or not, when a test has told.
local function nilable(cx, fv)
   local known = cx.state.nonnil[fv.ir]
   if known == nil then return fv end
   if not known then return NIL end
   return value.ptr(fv.ir, fv.off, fv.type,
      { ref = fv.ref, gen = fv.gen, shape = fv.shape, alternatives = fv.alternatives })
end

--- What the tests passed so far say about the value: its value alone, nil, or still open.
function M.resolve(cx, fv)
   if fv.k == "ptr" and fv.nilable then return nilable(cx, fv) end
   if fv.k ~= "tagged" then return fv end
   local lo, hi = cx:range(fv.tag)
   local set, inferred = fv.set, false
   for tag = TAG_NIL, TAG_VALUE do
      local one = bit.lshift(1, tag)
      if tag < lo or tag > hi then
         set = bit.band(set, bit.bnot(one))
      elseif bit.band(set, one) ~= 0 and lo < hi and cx:excluded(fv.tag, tag) then
         set, inferred = bit.band(set, bit.bnot(one)), true
      end
   end
   if set == 8 then
      if inferred and fv.val.k == "ptr" then cx.inferred[fv.val.ir] = true end
      return fv.val
   end
   if set == 1 then return NIL end
   if set == 2 then return FALSE end
   if set == 4 then return TRUE end
   if set ~= fv.set then return value.tagged(fv.tag, fv.val, set) end
   return fv
end
local resolve = M.resolve

local function here(cx) return { block = cx.block, state = cx.state } end

-- One point from several; nil from none.
local function united(cx, points)
   local live = {}
   for _, point in pairs(points) do live[#live + 1] = point end
   if #live < 2 then return live[1] end
   local join = cx:join()
   for _, point in ipairs(live) do
      cx:go(point)
      cx:jump(join)
   end
   cx:enter(join)
   local point = here(cx)
   cx:die()
   return point
end

--- The points behind a test of a value's truth.
---@return table? yes
---@return table? no
function M.truth(cx, fv)
   fv = resolve(cx, fv)
   if fv.k == "host" then
      if fv.v then return here(cx), nil end
      return nil, here(cx)
   elseif fv.k == "tagged" then
      local set = fv.set
      if bit.band(set, 3) == 0 then return here(cx), nil end
      if bit.band(set, 12) == 0 then return nil, here(cx) end
      if bit.band(set, 12) == 8 then return cx:split("eq", fv.tag, cx:const(TAG_VALUE)) end
      return cx:split("ge", fv.tag, cx:const(TAG_TRUE))
   elseif fv.k == "ptr" and fv.nilable then
      return cx:split("ne", fv.ir, cx:null())
   elseif fv.k == "conflict" then
      cx:refuse("this value can't be tested: " .. fv.why)
   end
   return here(cx), nil
end

--- true where `yes` goes, false where `no` goes.
function M.boolean(cx, yes, no)
   local join = cx:join()
   if yes then
      cx:go(yes)
      cx:jump(join, { TRUE })
   end
   if no then
      cx:go(no)
      cx:jump(join, { FALSE })
   end
   return cx:enter(join)[1]
end

-- ---- equality ----

local in6 = ffi.typeof "struct tw_in6"
local function is_in6(fv)
   if fv.k == "ptr" then return fv.type == ctype.of(in6) end
   return fv.k == "host" and type(fv.v) == "cdata" and ffi.istype(in6, fv.v)
end

local function both_halves(cx, a, b)
   local a0, a1 = memory.halves(cx, a)
   local b0, b1 = memory.halves(cx, b)
   local yes, no = cx:split("eq", a0, b0)
   if not yes then return nil, no end
   cx:go(yes)
   local yes2, no2 = cx:split("eq", a1, b1)
   return yes2, united(cx, { no, no2 })
end

local function equal_constant(cx, fv, constant)
   if fv.k == "tagged" then
      local tag = constant == nil and TAG_NIL or constant and TAG_TRUE or TAG_FALSE
      if bit.band(fv.set, bit.lshift(1, tag)) == 0 then return nil, here(cx) end
      return cx:split("eq", fv.tag, cx:const(tag))
   elseif fv.k == "ptr" and fv.nilable and constant == nil then
      return cx:split("eq", fv.ir, cx:null())
   end
   return nil, here(cx)
end

local function is_constant(fv) return fv.k == "host" and (fv.v == nil or type(fv.v) == "boolean") end

-- Two values of which each may be nil or a boolean: the same of these, or equal values.
local function equal_tagged(cx, a, b)
   if bit.band(a.set, b.set) == 0 then return nil, here(cx) end
   local yes, no = cx:split("eq", a.tag, b.tag)
   if not yes or not (a.val and b.val) then return yes, no end
   cx:go(yes)
   local values, same = cx:split("eq", a.tag, cx:const(TAG_VALUE))
   if not values then return same, no end
   cx:go(values)
   local yes2, no2 = M.equal(cx, a.val, b.val)
   return united(cx, { same, yes2 }), united(cx, { no, no2 })
end

--- The points behind a == b.
function M.equal(cx, a, b)
   a, b = resolve(cx, a), resolve(cx, b)
   if a.k == "host" and b.k == "host" then
      if a.v == b.v then return here(cx), nil end
      return nil, here(cx)
   end
   for _, fv in ipairs { a, b } do
      if fv.k == "conflict" then cx:refuse("this value can't be compared: " .. fv.why) end
   end
   if is_constant(b) then return equal_constant(cx, a, b.v) end
   if is_constant(a) then return equal_constant(cx, b, a.v) end
   if a.k == "tagged" and b.k == "tagged" then return equal_tagged(cx, a, b) end
   if a.k == "tagged" or b.k == "tagged" then
      if a.k ~= "tagged" then a, b = b, a end
      if not a.val then return nil, here(cx) end
      local yes, no = cx:split("eq", a.tag, cx:const(TAG_VALUE))
      if not yes then return nil, no end
      cx:go(yes)
      local yes2, no2 = M.equal(cx, a.val, b)
      return yes2, united(cx, { no, no2 })
   end
   if number.type(a) and number.type(b) then return number.compare(cx, "eq", a, b) end
   if array.of(a) or array.of(b) then return array.equal(cx, a, b) end
   if is_in6(a) and is_in6(b) then return both_halves(cx, a, b) end
   if a.k == "choice" or b.k == "choice" then
      if a.k ~= "choice" then a, b = b, a end
      local id = b.k == "host" and cx.choice_id[b.v]
      if not id or not a.set[id] then return nil, here(cx) end
      return cx:split("eq", a.ir, cx:const(id))
   end
   if a.k == "ptr" and b.k == "ptr" then
      cx:refuse("two references can't be compared", "compare their fields")
   end
   return nil, here(cx)
end

-- ---- conditions ----

local ORDER = { ["<"] = "lt", ["<="] = "le", [">"] = "gt", [">="] = "ge" }

local compare

-- cx.watch, when set, hears of comparisons that must hold for a loop to go on, not of those inside their operands: both
-- sides of `while a and b`, both sides of `until a or b` (cx.ends_when_true).
local function comparison(cx, frame, node)
   local watch = cx.watch
   cx.watch = nil
   local a = M.one(cx, frame, node.left)
   local b = M.one(cx, frame, node.right)
   at(cx, frame, node)
   cx.watch = watch
   local yes, no = compare(cx, node, a, b)
   cx.watch = watch
   return yes, no
end

function compare(cx, node, a, b)
   if node.op == "==" then return M.equal(cx, a, b) end
   if node.op == "~=" then
      local yes, no = M.equal(cx, a, b)
      return no, yes
   end
   a, b = resolve(cx, a), resolve(cx, b)
   if a.k == "host" and b.k == "host" and type(a.v) == type(b.v) then
      local ok, r = pcall(function()
         if node.op == "<" then return a.v < b.v elseif node.op == "<=" then return a.v <= b.v end
         if node.op == ">" then return a.v > b.v end
         return a.v >= b.v
      end)
      if not ok then cx:refuse(("'%s' of %s and %s"):format(node.op, value.describe(a), value.describe(b))) end
      if r then return here(cx), nil end
      return nil, here(cx)
   end
   for _, fv in ipairs { a, b } do
      if not number.type(fv) then number.not_a_number(cx, fv, "'" .. node.op .. "'") end
   end
   return number.compare(cx, ORDER[node.op], a, b)
end

--- The points behind a condition.
---@return table? yes
---@return table? no
function M.condition(cx, frame, node)
   at(cx, frame, node)
   if node.tag == "Paren" then
      return M.condition(cx, frame, node.expr)
   elseif node.tag == "And" then
      local watch = cx.watch
      if cx.ends_when_true then cx.watch = nil end
      local yes, no = M.condition(cx, frame, node.left)
      local yes2, no2
      if yes then
         cx:go(yes)
         yes2, no2 = M.condition(cx, frame, node.right)
      end
      cx.watch = watch
      return yes2, united(cx, { no, no2 })
   elseif node.tag == "Or" then
      local watch = cx.watch
      if not cx.ends_when_true then cx.watch = nil end
      local yes, no = M.condition(cx, frame, node.left)
      local yes2, no2
      if no then
         cx:go(no)
         yes2, no2 = M.condition(cx, frame, node.right)
      end
      cx.watch = watch
      return united(cx, { yes, yes2 }), no2
   elseif node.tag == "Unary" and node.op == "not" then
      local watch = cx.watch
      cx.watch = nil
      local yes, no = M.condition(cx, frame, node.operand)
      cx.watch = watch
      return no, yes
   elseif node.tag == "Binary" and (ORDER[node.op] or node.op == "==" or node.op == "~=") then
      return comparison(cx, frame, node)
   end
   local watch = cx.watch
   cx.watch = nil
   local fv = M.one(cx, frame, node)
   at(cx, frame, node)
   local yes, no = M.truth(cx, fv)
   cx.watch = watch
   return yes, no
end

-- ---- names ----

-- A variable that some function assigns when the constructor is over is not a constant.
local function check_constant(cx, var)
   for func in pairs(var.assigned_in) do
      if func ~= var.func then
         local where = var.assigned[1]
         cx:refuse(("'%s' changes while the chain runs (it is assigned in line %d)"):format(var.name, where.line),
            "keep what changes in a table: tw.array, tw.hash, ...")
      end
   end
end

local function name_value(cx, frame, node)
   local env = frame.env
   while env and node.var do
      local slot = env.slots[node.var]
      if slot then
         local fv = cx.state.vars[slot]
         if not fv then cx:refuse(("'%s' has no value here"):format(node.name)) end
         if fv.k == "conflict" then cx:refuse(("'%s' can't be used here: %s"):format(node.name, fv.why)) end
         return resolve(cx, fv)
      end
      env = env.up
   end
   local found, v = frame.upvalues(node.name)
   if node.var then
      if not found then cx:refuse(("the value of '%s' is not known"):format(node.name)) end
      check_constant(cx, node.var)
   else
      v = frame.globals[node.name]
      if v == nil then cx:refuse(("there is no '%s'"):format(node.name),
            "a local variable or function stands before the function that uses it") end
   end
   return value.host(frame.strict and strict.real(v) or v)
end

-- ---- indexing ----

local function host_index(cx, object, key)
   if key.k ~= "host" then
      if key.k == "int" and type(object.v) == "table" then
         cx:refuse("a Lua table can't be indexed at run time", "use tw.array for what is looked up by number")
      end
      cx:refuse(("%s can't be an index"):format(value.describe(key)))
   end
   local t = type(object.v)
   if t == "cdata" and not ffi.istype("struct tw_in6", object.v) and tostring(object.v):sub(1, 5) ~= "ctype" then
      if not cx.target.constant_cdata then
         cx:refuse("C memory of the control program can't be read in NF Lua", "use a table: tw.array, tw.hash, ...")
      end
   end
   if object.v == nil then cx:refuse(("nil has no field %q"):format(tostring(key.v))) end
   local ok, v = pcall(function() return object.v[key.v] end)
   if not ok then cx:refuse((tostring(v):gsub("^.-:%d+: ", ""))) end
   local fv = value.host(v)
   if t == "userdata" and type(v) == "cdata" then fv.cname = key.v end
   return fv
end

-- An array of C.
local function array_index(cx, object, key)
   local n = object.type.size / object.type.to.size
   memory.usable(cx, object)
   array.check_index(cx, key, n, ("an array of %d"):format(n))
   local element = value.ptr(object.ir, object.off, object.type.to, { gen = object.gen })
   return memory.deref(cx, element, key)
end

--- object[key]
function M.index(cx, object, key)
   object, key = resolve(cx, object), resolve(cx, key)
   if object.k == "host" then return host_index(cx, object, key) end
   if object.k == "pkt" then
      if key.k ~= "host" then cx:refuse "a packet is indexed by names only" end
      return require("tideway.compiler.front.intrinsic.packet").field(cx, key.v)
   elseif object.k == "ptr" then
      if number.type(key) then
         if array.of(object) then return array.get(cx, object, key) end
         if object.type.kind == "array" then return array_index(cx, object, key) end
         if object.ref then cx:refuse(("%s has no elements"):format(value.describe(object))) end
         return memory.deref(cx, object, key)
      end
      if key.k ~= "host" then cx:refuse "a field is named by a constant" end
      return memory.field(cx, object, key.v)
   elseif object.k == "choice" then
      return choice.each(cx, object, function(one) return host_index(cx, one, key) end)
   elseif object.k == "tagged" then
      cx:refuse(("this is %s here"):format(value.describe(object)), "test it first: if x then ... end")
   end
   cx:refuse(("%s has no fields"):format(value.describe(object)))
end

--- object[key] = fv
function M.set_index(cx, object, key, fv)
   object, key = resolve(cx, object), resolve(cx, key)
   if object.k == "pkt" and key.k == "host" then
      return require("tideway.compiler.front.intrinsic.packet").set_field(cx, key.v, fv)
   elseif object.k == "ptr" then
      if number.type(key) then
         if array.of(object) then return array.set(cx, object, key, fv) end
         local element
         if object.type.kind == "array" then
            array_index(cx, object, key) -- for its check
            element = value.ptr(object.ir, object.off, object.type.to, { gen = object.gen })
         else
            element = value.ptr(object.ir, object.off, object.type, { gen = object.gen })
         end
         local place = memory.add(cx, element, number.binary(cx, "*", key, value.host(element.type.size)))
         return memory.store_ctype(cx, place, 0, element.type, fv)
      end
      return memory.set_field(cx, object, key.v, fv)
   elseif object.k == "tagged" then
      cx:refuse(("this is %s here"):format(value.describe(object)), "test it first: if x then ... end")
   end
   cx:refuse("Lua tables can't be written in NF Lua: they are constants",
      "keep what changes in a table of the engine: tw.array, tw.hash, ...")
end

-- ---- all kinds ----

local EVAL = {}

function EVAL.Nil() return NIL end
function EVAL.True() return TRUE end
function EVAL.False() return FALSE end
function EVAL.Number(_, _, node) return value.host(node.value) end
function EVAL.String(_, _, node) return value.host(node.value) end
EVAL.Name = name_value

function EVAL.Paren(cx, frame, node) return M.one(cx, frame, node.expr) end

function EVAL.Function(_, frame, node)
   return { k = "closure", node = node, frame = frame }
end

function EVAL.Table(cx)
   cx:refuse("tables are not made at run time in NF Lua",
      "use local variables, or a table of the engine (tw.hash, ...)")
end

function EVAL.Index(cx, frame, node)
   local object = M.one(cx, frame, node.object)
   local key = M.one(cx, frame, node.key)
   at(cx, frame, node)
   if not frame.strict then return M.index(cx, object, key) end
   object, key = resolve(cx, object), resolve(cx, key)
   strict.index(cx, object, key)
   local fv = M.index(cx, object, key)
   strict.read(cx, object, fv)
   return fv.k == "host" and strict.real(fv.v) and value.host(strict.real(fv.v)) or fv
end

function EVAL.Unary(cx, frame, node)
   if node.op == "not" then
      local yes, no = M.condition(cx, frame, node)
      return M.boolean(cx, yes, no)
   end
   local fv = resolve(cx, M.one(cx, frame, node.operand))
   at(cx, frame, node)
   if node.op == "#" then
      if fv.k == "host" and (type(fv.v) == "string" or type(fv.v) == "table") then return value.host(#fv.v) end
      if array.of(fv) then return value.host(array.of(fv).count) end
      cx:refuse(("'#' of %s"):format(value.describe(fv)))
   end
   if not number.type(fv) then number.not_a_number(cx, fv, "'-'") end
   return number.negate(cx, fv)
end

function EVAL.Binary(cx, frame, node)
   if ORDER[node.op] or node.op == "==" or node.op == "~=" then
      local yes, no = comparison(cx, frame, node)
      return M.boolean(cx, yes, no)
   end
   local a = M.one(cx, frame, node.left)
   local b = M.one(cx, frame, node.right)
   at(cx, frame, node)
   a, b = resolve(cx, a), resolve(cx, b)
   if frame.strict then strict.operands(cx, a, b) end
   if a.k == "ptr" or b.k == "ptr" then return M.pointer_arithmetic(cx, node.op, a, b) end
   return number.binary(cx, node.op, a, b)
end

--- Pointer plus or minus a number, as C has it.
function M.pointer_arithmetic(cx, op, a, b)
   if op == "+" and b.k == "ptr" then a, b = b, a end
   if a.k ~= "ptr" or (op ~= "+" and op ~= "-") or not number.type(b) then
      cx:refuse(("'%s' of %s and %s"):format(op, value.describe(a), value.describe(b)))
   end
   if op == "-" then b = number.negate(cx, b) end
   return memory.add(cx, a, number.binary(cx, "*", b, value.host(a.type.size)))
end

local function logical(cx, frame, node, on_true)
   local left = M.one(cx, frame, node.left)
   at(cx, frame, node)
   local yes, no = M.truth(cx, left)
   local short, go_on = no, yes
   if on_true then short, go_on = yes, no end
   local join = cx:join()
   if short then
      cx:go(short)
      cx:jump(join, { resolve(cx, left) })
   end
   if go_on then
      cx:go(go_on)
      local right = M.one(cx, frame, node.right)
      cx:jump(join, { right })
   end
   return resolve(cx, cx:enter(join)[1])
end

function EVAL.And(cx, frame, node)
   -- `a and b` of two tests is a test itself: no values to join.
   return logical(cx, frame, node, false)
end
function EVAL.Or(cx, frame, node) return logical(cx, frame, node, true) end

local MULTI = { Call = true, Method = true, Vararg = true }

--- All values of an expression.
---@return table[]
function M.values(cx, frame, node)
   if not MULTI[node.tag] then return { M.one(cx, frame, node) } end
   at(cx, frame, node)
   if node.tag == "Vararg" then return frame.varargs or {} end
   return require("tideway.compiler.front.call").call(cx, frame, node)
end

--- The one value of an expression.
function M.one(cx, frame, node)
   if MULTI[node.tag] then return M.values(cx, frame, node)[1] or NIL end
   local eval = EVAL[node.tag]
   at(cx, frame, node)
   local fv = eval(cx, frame, node)
   cx.pos = node.pos
   return fv
end

--- Values of a list of expressions; the last one gives all it has.
---@return table[]
function M.list(cx, frame, nodes)
   local out = {}
   for i, node in ipairs(nodes) do
      if i == #nodes then
         for _, fv in ipairs(M.values(cx, frame, node)) do out[#out + 1] = fv end
      else
         out[i] = M.one(cx, frame, node)
      end
   end
   return out
end

return M
