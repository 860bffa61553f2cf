-- SPDX-License-Identifier: BSD-3-Clause
-- The compiler's parser against LuaJIT's own: what is accepted, what it means, where functions are; and scopes.

local util = require "jit.util"
local diagnostic = require "tideway.compiler.diagnostic"
local parser = require "tideway.compiler.syntax.parser"
local source = require "tideway.compiler.syntax.source"
local lexer = require "tideway.compiler.syntax.lexer"

local random = math.random

local function read(path)
   local handle = assert(io.open(path, "rb"))
   local text = handle:read "*a"
   handle:close()
   return text
end

-- Every Lua file of the tree; nil where there is no source tree around.
local function tree()
   local paths = {}
   local list = io.popen "find lua test examples scripts -name '*.lua' 2>/dev/null"
   for path in list:lines() do
      paths[#paths + 1] = path
   end
   list:close()
   return paths
end

-- Line spans of all functions below one, in the order of their text.
local function spans(func, list)
   for i = -1, -util.funcinfo(func).gcconsts, -1 do
      local proto = util.funck(func, i)
      if type(proto) == "proto" then
         local info = util.funcinfo(proto)
         list[#list + 1] = ("%d-%d"):format(info.linedefined, info.lastlinedefined)
         spans(proto, list)
      end
   end
   return list
end

-- Whether the parser agrees with LuaJIT about a text; the tree when both accept it.
local function agree(text)
   local chunk, why = loadstring(text, "=text")
   local ok, parsed = pcall(parser.parse, text, "text")
   if ok then
      assert(chunk, ("the parser accepts what LuaJIT refuses (%s):\n%s"):format(why, text))
      return parsed
   end
   assert(diagnostic.is(parsed), ("not a diagnostic but %s:\n%s"):format(tostring(parsed), text))
   assert(not chunk, ("the parser refuses what LuaJIT accepts: %s\n%s"):format(tostring(parsed), text))
end

describe("the parser", function()
   it("finds the functions of every Lua file where LuaJIT finds them", function()
      local files = tree()
      if #files == 0 then pending "the tests run outside of the source tree" end
      for _, path in ipairs(files) do
         local text = read(path)
         local func = assert(loadstring(text, "@" .. path))
         local found = {}
         for i, node in ipairs(parser.parse(text, path).functions) do
            found[i] = ("%d-%d"):format(node.linedefined, node.endline)
         end
         assert.same(spans(func, {}), found, path)
      end
   end)

   it("accepts what LuaJIT accepts", function()
      for _, text in ipairs {
         "", "local a", "#!/usr/bin/lua\nreturn 1", "\239\187\191return 1", "#!no line end", "-- comment",
         "--[[ x\n]]", "--[==[ ]] ]==] return", "--[=no long comment", "return", "return;", "return 1, 2;",
         "local a, b = 1", "a.b.c = 1", "a[1], b = 2, 3", "f()", "f{}", "f''", "f[[x]]", "a:b()", "a.b:c'x'.d = 1",
         "(a).b = 1", "(a)()", "f\n{}", "f\n''", "local x = f\n{}", "do end", "while a do break end",
         "repeat local x until x", "if a then elseif b then else end", "for i = 1, 2 do end",
         "for i = 1, 2, 3 do end", "for k, v in a, b do end", "function f() end", "function a.b.c() end",
         "function a.b:c(...) return ... end", "local function f(a, b) end", "return function(...) return ... end",
         "goto x ::x::", "::x:: goto x", "do goto x end ::x::", "goto x local a ::x::", "do goto x local a ::x:: end",
         "goto x; local a ::x:: ::y::", "goto = 1", "goto.x = 1", "goto()", "local goto = goto",
         "local t = { goto = 1, goto }", "return a.goto", "while x do ::c:: end ::c::", "repeat ::c:: until y",
         "do ::x:: end ::x::", "::a:: do goto a end", "::a:: function f() ::a:: goto a end",
         "while true do local function f() while x do break end end end",
         "return {}, { 1 }, { 1, }, { 1; 2 }, { a = 1, [2] = 3, 'x', f() }", "return -x^-y, not a == b, #a .. b",
         "return 0x10, 0xA.8p1, 0X.8, 1e5, 1E-5, .5, 5., 0x1p4, 0xffULL, 42LL, 1i, 0x10i, 1e+5, 42ull, 7lL",
         "return 3 ..2", "return 'a\\x41\\065\\z  \n b\\u{48}\\\nc\\\r\nd\\'\"'", "return [[\n\na]], [==[]]]==]",
         "return 'a\\\n', 1 -- end", "local \195\164 = 1", "return a --[[x]] .b", "a = b\r\nc = d\n\re = f",
         "f() g()", "f();g()", "return (...)", "a = (function() end)()", "if a then return end",
         "while a do return end", "do return end return", "break_ = 1", "while a do if b then break end end",
         "for _ in x do goto n ::n:: end", "return not not - - a",
      } do
         assert(agree(text), text)
      end
   end)

   it("refuses what LuaJIT refuses", function()
      for _, text in ipairs {
         ";", ";;", "local", "local 1", "local a =", "local a, = 1", "a", "a.b", "a =", "a, b", "a, f() = 1",
         "f() = 1", "(a) = 1", "(f())", "1 = 2", "f\n()", "f()\n()", "a.b\n(c)", "do", "end", "while a", "while a do",
         "repeat", "repeat until", "if a", "if a then", "if a then else elseif b then end", "for", "for i",
         "for i = 1 do end", "for i = 1, 2, 3, 4 do end", "for i.x = 1, 2 do end", "for a, b = 1, 2 do end",
         "for k in do end", "function", "function f", "function f(", "function f(a,)", "function f(..., a) end",
         "function a:b.c() end", "function a[1]() end", "local function a.b() end", "return return", "return 1 f()",
         "break", "while a do break f() end", "if a then break end", "function f() break end",
         "while a do function f() break end end", "goto x", "goto 1", "goto x do ::x:: end", "::x:: ::x::", "::x::y",
         "goto x local a ::x:: f()", "do goto x local a ::x:: f() end", "repeat goto c local x ::c:: until x", "::x",
         "function f() goto x end ::x::", "function f() return ... end", "return {", "return { a = }",
         "return { 1 2 }", "return { [1] }", "return { , }", "return a b", "return a +", "return + a",
         "return a ++ b", "return a = b", "return a != b", "return !a", "return ~a", "return 1x", "return 0x",
         "return 0xg", "return 1e", "return 1e+", "return 1..2", "return 1.2.3", "return 1LUL", "return 1UL",
         "return 1.5LL", "return 0x1p", "return 08x", "return 1_000", "return 'a", "return 'a\nb'", "return '\\q'",
         "return '\\256'", "return '\\x4'", "return '\\u{110000}'", "return '\\u{D800}'", "return '\\u{}'",
         "return '\\", "return [[", "return [==[ ]=]", "return [=x", "--[[", "return a.1", "return a.'x'",
         "return a:b", "return a:b.c", "return a.", "return a[", "return a[]", "return a..", "return ...1", "@",
         "a = $", "return `a`", "\1", "return a \0", "x = }", "f(", "f(a", "f(a,)", "f(a b)", "return ()",
         "return function", "nil = 1", "local nil", "return a and", "return not", "local function", "return 1 .. ",
         "goto goto", "local a <x> = 1", "return a // b", "return a & b", "return a <<b", "return #", "elseif",
         "until", "then", "in", "=",
      } do
         assert.is_nil(agree(text))
         assert.is_false(pcall(parser.parse, text, "text"), text)
      end
   end)

   it("agrees with LuaJIT on files with tokens taken out, doubled and swapped", function()
      math.randomseed(7)
      local texts = {
         read(debug.getinfo(parser.parse, "S").source:sub(2)), read(debug.getinfo(source.of, "S").source:sub(2)),
         [[
            local t = { 1, a = 2, [f] = goto, 'x'; ... } goto done
            for i = 1, #t do if t[i] then break elseif not t.a then t:m{}.x, y = 1e3, -2 ^ 3 end end
            repeat local x = function(a, ...) return a, ... end until x goto done do local z ::again:: goto again end
            for k, v in pairs(t) do local function g() return k end while g() do goto next ::next:: end end
            ::done:: return (t), 'a' .. "b" .. [=[c]=]
         ]],
      }
      for _, text in ipairs(texts) do
         local scan, pieces, from = lexer.new(text, "text"), {}, 1
         repeat
            local token = scan:scan()
            pieces[#pieces + 1] = text:sub(from, scan.at - 1)
            from = scan.at
         until token.kind == "eof"
         for _ = 1, 150 do
            local changed = { unpack(pieces) }
            for _ = 1, random(2) do
               local i, j, what = random(#pieces), random(#pieces), random(4)
               if what == 1 then
                  changed[i] = " "
               elseif what == 2 then
                  changed[i] = changed[i] .. " " .. changed[i]
               elseif what == 3 then
                  changed[i], changed[j] = changed[j], changed[i]
               else
                  changed[i] = changed[i] .. " " .. changed[j]
               end
            end
            agree(table.concat(changed))
         end
      end
   end)

   it("refuses deep nesting instead of overflowing the stack", function()
      for _, text in ipairs {
         "return " .. ("("):rep(1e5), "return " .. ("{"):rep(1e5), ("do "):rep(1e5),
         "return " .. ("- "):rep(1e5) .. "1",
         "return a" .. ("(a"):rep(1e5), "return a" .. (" .. a"):rep(1e5), "return a" .. (" + a"):rep(1e5),
         "return a" .. (".a"):rep(1e5), "return a" .. ("()"):rep(1e5), ("function f() "):rep(1e5),
         "return " .. ("a[("):rep(1e5),
      } do
         local ok, err = pcall(parser.parse, text, "deep")
         assert.is_false(ok)
         assert.equal("this is nested too deeply", err.message)
      end
      assert.is_true(pcall(parser.parse, "return a" .. (" + a"):rep(300), "text"))
      assert.is_true(pcall(parser.parse, "if a then " .. ("elseif a then "):rep(1000) .. "end", "text"))
   end)
end)

-- A small interpreter of expression trees.
local EVALUATE = {}

local function evaluate(node, names) return EVALUATE[node.tag](node, names) end

local OPERATORS = {
   ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
   ["*"] = function(a, b) return a * b end, ["/"] = function(a, b) return a / b end,
   ["%"] = function(a, b) return a % b end, ["^"] = function(a, b) return a ^ b end,
   [".."] = function(a, b) return a .. b end,
   ["=="] = function(a, b) return a == b end, ["~="] = function(a, b) return a ~= b end,
   ["<"] = function(a, b) return a < b end, [">"] = function(a, b) return a > b end,
   ["<="] = function(a, b) return a <= b end, [">="] = function(a, b) return a >= b end,
}

function EVALUATE.Number(node) return node.value end
function EVALUATE.String(node) return node.value end
function EVALUATE.Nil() return nil end
function EVALUATE.True() return true end
function EVALUATE.False() return false end
function EVALUATE.Name(node, names) return names[node.name] end
function EVALUATE.Paren(node, names) return (evaluate(node.expr, names)) end
function EVALUATE.And(node, names) return evaluate(node.left, names) and evaluate(node.right, names) end
function EVALUATE.Or(node, names) return evaluate(node.left, names) or evaluate(node.right, names) end
function EVALUATE.Index(node, names) return evaluate(node.object, names)[evaluate(node.key, names)] end

function EVALUATE.Binary(node, names)
   return OPERATORS[node.op](evaluate(node.left, names), evaluate(node.right, names))
end

function EVALUATE.Unary(node, names)
   local value = evaluate(node.operand, names)
   if node.op == "-" then return -value end
   if node.op == "#" then return #value end
   return not value
end

-- A random expression, with just enough spaces. Operands of any kind: what raises must raise in both.
local function random_expression(depth)
   if depth == 0 or random(6) == 1 then
      local operands = { "1", "2.5", "0x10", "'7'", "'x'", "t.a", "t['b']", "n", "true", "false", "nil", ".5", "3e2" }
      return operands[random(#operands)]
   end
   local what = random(8)
   if what == 1 then return "(" .. random_expression(depth - 1) .. ")" end
   if what == 2 then
      return ({ "- ", "not ", "#" })[random(3)] .. random_expression(depth - 1)
   end
   local ops = {
      "+", "-", "*", "/", "%", "^", "..", "==", "~=", "<", ">", "<=", ">=", "and", "or", "+", "*", "^", "..",
      "and", "or",
   }
   return random_expression(depth - 1) .. " " .. ops[random(#ops)] .. " " .. random_expression(depth - 1)
end

-- Random expressions mostly raise on types; numbers only take more of them through.
local function numeric(text)
   return (text:gsub("'7'", "7"):gsub("'x'", "9"):gsub("#", "- "):gsub("%f[%a]nil%f[%A]", "4"))
end

describe("the tree", function()
   it("of an expression evaluates as LuaJIT evaluates it", function()
      math.randomseed(11)
      local names, values = { t = { a = 3, b = "4" }, n = 6 }, 0
      for i = 1, 4000 do
         local text = "return " .. random_expression(random(4))
         if i % 2 == 0 then text = numeric(text) end
         local func, chunk = setfenv(assert(loadstring(text)), names), parser.parse(text, "text")
         local ok, wanted = pcall(func)
         local same, got = pcall(evaluate, chunk.body[1].exprs[1], names)
         assert(ok == same, text)
         if ok then
            values = values + 1
            assert(tostring(wanted) == tostring(got) and type(wanted) == type(got), text)
         end
      end
      assert(values > 1000)
   end)

   it("of operators associates as LuaJIT does", function()
      -- Operands that say what was done with them.
      local symbol = {}
      local function new(text) return setmetatable({ text = text }, symbol) end
      for name, op in pairs { add = "+", sub = "-", mul = "*", div = "/", mod = "%", pow = "^", concat = ".." } do
         symbol["__" .. name] = function(a, b) return new("(" .. a.text .. op .. b.text .. ")") end
      end
      function symbol.__unm(a) return new("-" .. a.text) end
      math.randomseed(13)
      local names, ops = { a = new "a", b = new "b" }, { "+", "-", "*", "/", "%", "^", ".." }
      for _ = 1, 500 do
         local text = "return a"
         for _ = 1, random(8) do
            text = text .. " " .. ops[random(#ops)] .. (random(3) == 1 and " - " or " ")
               .. (random(2) == 1 and "a" or "b")
         end
         local chunk = parser.parse(text, "text")
         assert.equal(setfenv(loadstring(text), names)().text, evaluate(chunk.body[1].exprs[1], names).text, text)
      end
   end)

   it("has the values of numbers and strings that LuaJIT has", function()
      for _, text in ipairs {
         "0", "7", "1e3", "0x7fffffff", "0xffffffffffff", "0x.8p4", "18446744073709551615ULL",
         "0xffffffffffffffffull", "-9223372036854775807LL", "2i", "9007199254740993", "1e400",
         "'a\\n\\t\\\\\\065\\x42\\z \n\r\n c'", "'\\u{7f}\\u{7FF}\\u{ffff}\\u{10ffff}'", "'\\\r\nx\\\ny'",
         "[[\r\na\r\rb\n\rc]]", "[==[a]]b]=]c]==]", "'\\0\\1\\0012'", '"\'"',
      } do
         local wanted = loadstring("return " .. text)()
         local node = parser.parse("return " .. text, "text").body[1].exprs[1]
         local got = node.tag == "Unary" and -node.operand.value or node.value
         assert.equal(type(wanted), type(got))
         assert.equal(tostring(wanted), tostring(got), text)
      end
   end)

   it("says where things stand", function()
      local chunk = parser.parse("local a = b.c\n\ta.b[1] = f(x + y)\r\n  obj:method(1)", "text")
      local target, call = chunk.body[2].targets[1], chunk.body[2].exprs[1]
      local function at(node) return ("%s %d:%d"):format(node.tag, node.line, node.col) end
      assert.equal("Local 1:1", at(chunk.body[1]))
      assert.equal("Index 1:13", at(chunk.body[1].exprs[1]))
      assert.equal("Index 2:5", at(target))
      assert.equal("Index 2:4", at(target.object))
      assert.equal("Call 2:11", at(call))
      assert.equal("Binary 2:15", at(call.args[1]))
      assert.equal("Method 3:7", at(chunk.body[3].call))
   end)

   it("names functions", function()
      local chunk = parser.parse("function a.b:c() end local function d() end local e, f = 1, function() end", "text")
      local names = {}
      for i, node in ipairs(chunk.functions) do
         names[i] = node.name
      end
      assert.same({ "a.b:c", "d", "f" }, names)
      assert.is_true(chunk.functions[1].is_method)
      assert.equal("self", chunk.functions[1].params[1].name)
   end)
end)

describe("scopes", function()
   -- All Name nodes of a tree by name, in the order of their text.
   local function names(chunk)
      local list, seen = {}, {}
      local function walk(object)
         if type(object) ~= "table" or seen[object] then return end
         seen[object] = true
         if object.tag == "Name" then
            list[object.name] = list[object.name] or {}
            table.insert(list[object.name], object)
         end
         for key, child in pairs(object) do
            if key ~= "var" and key ~= "upvalues" and key ~= "parent" and key ~= "target" then walk(child) end
         end
      end
      walk(chunk.body)
      for _, nodes in pairs(list) do
         table.sort(nodes, function(a, b) return a.line < b.line or a.line == b.line and a.col < b.col end)
      end
      return list
   end

   it("lead from a name to its declaration", function()
      local x = names(parser.parse([[
x = 1
local x = x
do local x = x; x = 2 end
x = 3
for x = x, x do x = x end
repeat local x = 4 until x
local function f(x) x = 5 end
]], "text")).x
      local lines = {}
      for i, node in ipairs(x) do
         lines[i] = node.var and ("%s %d"):format(node.var.kind, node.var.line) or "global"
      end
      assert.same({
         "global", "global", "local 2", "local 3", "local 2", "local 2", "local 2", "for 5", "for 5", "local 6",
         "param 7",
      }, lines)
   end)

   it("say what is assigned and captured, and where", function()
      local chunk = parser.parse([[
local kept, set, seen = 1, 2, 3
set = 4
local function outer()
   local own = seen
   return function() set, own = kept, outer end
end
]], "text")
      local decl = chunk.body[1].names
      local kept, set, seen = decl[1].var, decl[2].var, decl[3].var
      local outer, inner = chunk.functions[1], chunk.functions[2]
      assert.same({ true, true, true }, { kept.captured, set.captured, seen.captured })
      assert.same({ 0, 2, 0 }, { #kept.assigned, #set.assigned, #seen.assigned })
      assert.equal(5, set.assigned[2].line)
      assert.same({ [chunk.main] = true, [inner] = true }, set.assigned_in)
      -- What only the inner function uses passes through the outer one.
      assert.equal(kept, outer.upvalues.kept)
      assert.equal(kept, inner.upvalues.kept)
      assert.equal(seen, outer.upvalues.seen)
      assert.is_nil(inner.upvalues.seen)
      assert.equal(chunk.body[3].name.var, inner.upvalues.outer)
      assert.equal(outer, inner.upvalues.own.func)
      local found = names(chunk)
      assert.is_true(found.kept[1].upvalue)
      assert.is_nil(found.set[1].upvalue)
      assert.equal(found.set[1].var, found.set[2].var)
   end)

   it("have the upvalues LuaJIT has", function()
      for _, path in ipairs(tree()) do
         local text = read(path)
         local func, chunk = assert(loadstring(text)), parser.parse(text, path)
         local index = 0
         local function walk(proto)
            for i = -1, -util.funcinfo(proto).gcconsts, -1 do
               local inner = util.funck(proto, i)
               if type(inner) == "proto" then
                  index = index + 1
                  local wanted, got = {}, {}
                  for j = 0, util.funcinfo(inner).upvalues - 1 do
                     wanted[util.funcuvname(inner, j)] = true
                  end
                  for name in pairs(chunk.functions[index].upvalues) do
                     got[name] = true
                  end
                  assert.same(wanted, got, ("%s:%d"):format(path, chunk.functions[index].line))
                  walk(inner)
               end
            end
         end
         walk(func)
      end
   end)

   it("lead from a goto to its label", function()
      local chunk = parser.parse("::a:: do goto a end do goto b end goto b do ::b:: end ::b::", "text")
      assert.equal(chunk.body[1], chunk.body[2].body[1].target)
      assert.equal(chunk.body[6], chunk.body[3].body[1].target)
      assert.equal(chunk.body[6], chunk.body[4].target)
   end)
end)
