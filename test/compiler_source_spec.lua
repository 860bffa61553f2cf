-- SPDX-License-Identifier: BSD-3-Clause
-- The way of the compiler from a live function to its syntax tree, and the text of its diagnostics.

local util = require "jit.util"
local diagnostic = require "tideway.compiler.diagnostic"
local parser = require "tideway.compiler.syntax.parser"
local source = require "tideway.compiler.syntax.source"

local function write(path, text)
   local handle = assert(io.open(path, "wb"))
   handle:write(text)
   handle:close()
end

describe("the source of a live function", function()
   local path = os.tmpname()
   local count = 0

   after_each(function() os.remove(path) end)

   -- Run a text as a file of its own.
   local function load(text)
      count = count + 1
      write(path, text)
      return assert(loadfile(path))()
   end

   local function refusal(fn)
      local ok, err = pcall(source.of, fn)
      assert.is_false(ok)
      assert(diagnostic.is(err), tostring(err))
      return tostring(err)
   end

   it("is found in the library the engine runs", function()
      local node, chunk = source.of(parser.parse)
      assert.equal("M.parse", node.name)
      assert.equal(debug.getinfo(parser.parse, "S").source, "@" .. chunk.name)
      assert.equal("text", node.params[1].name)
      assert.equal(node, (source.of(parser.parse)))
   end)

   it("is found in a text given to loadstring, and of a main chunk", function()
      local main = loadstring "local x = 1\nreturn function(a) return a + x end"
      local node, chunk = source.of(main())
      assert.equal("Function", node.tag)
      assert.equal('[string "local x = 1..."]', chunk.name)
      assert.equal(chunk.main, (source.of(main)))
   end)

   it("tells functions on one line apart by parameters, upvalues, constants and code", function()
      local list = load [[
local p, q = 1, 2
return { function() return p end, function() return q end, function() return 1 end, function() return 2 end,
   function(a) return a end, function(b) return b end, function() return "x" end, function() return { 1 } end,
   function(a) return a + 1 end, function(a) return a - 1 end, function() return { 2 } end, function() return 5LL end,
   function() return function() return 1 end end, function() return 5ULL end, function() return 0.5 end }
]]
      for i, fn in ipairs(list) do
         local node, chunk = source.of(fn)
         assert.equal(chunk.body[2].exprs[1].items[i].value, node, "function " .. i)
      end
   end)

   it("is refused when functions on one line are equal", function()
      local list = load "return {\n   function() return 1 end, function() return 1 end, function() return 2 end }"
      assert.equal(path .. [[
:2:4: 2 functions start and end on this line
      function() return 1 end, function() return 1 end, function() return 2 end }
      ^
   put them on lines of their own]], refusal(list[1]))
      assert.is_table((source.of(list[3])))
   end)

   it("is refused when the file has changed", function()
      local text = "local x = ...\nreturn function(a)\n   return a + 1\nend"
      local function after(change)
         local fn = load(text)
         change()
         return refusal(fn)
      end
      local begin = "^" .. path:gsub("%p", "%%%0") .. ":2: the source of " .. path:gsub("%p", "%%%0")
      local changed = begin .. " changed since it was loaded: "
      assert.match(changed .. "the function there has other code",
         after(function() write(path, (text:gsub("a %+ 1", "a + 2"))) end))
      assert.match(changed .. "no function starts on line 2 and ends on line 4",
         after(function() write(path, "\n" .. text) end))
      assert.match(changed .. "'%)' to close '%(' of line 3 expected, got 'end'",
         after(function() write(path, (text:gsub("a %+ 1", "(a"))) end))
      assert.match("cannot be read: .*No such file", after(function() os.remove(path) end))
      local fn = load(text)
      write(path, text .. "\n-- not code")
      assert.is_table((source.of(fn)))
   end)

   it("is found after LuaJIT compiled the function's loops", function()
      local fn = load [[
return function(t)
   local n = 0
   for i = 1, 1000 do n = n + i end
   while n > 10 do n = n - 1 end
   for _, v in ipairs(t) do n = n + v end
   for _, v in pairs(t) do n = n + v end
   for _, v in next, setmetatable(t, {}) do n = n + v end
   repeat n = n + 1 until n > 1e4
   return n
end]]
      local t = {}
      for i = 1, 200 do
         t[i] = i
      end
      local before = util.funcinfo(fn).bytecodes
      local code = {}
      for pc = 0, before - 1 do
         code[pc] = util.funcbc(fn, pc)
      end
      fn(t)
      local patched = 0
      for pc = 1, before - 1 do
         if code[pc] ~= util.funcbc(fn, pc) then patched = patched + 1 end
      end
      assert(patched >= 3, "no loop was compiled")
      assert.is_table((source.of(fn)))
   end)

   it("is refused where there is none", function()
      assert.equal("a function of C has no Lua source\n   give a Lua function", refusal(print))
      assert.match("^the main chunk of name was loaded without its source", refusal(loadstring("return 1", "=name")))
      assert.match("was loaded under a name that is not its text", refusal(loadstring("return 1", "name")))
      assert.match("was loaded under a name that is not its text",
         refusal(loadstring("return function() end", "return 1")()))
      local fn = load "return function() return 1 end"
      assert.match("was loaded without its source", refusal(loadstring(string.dump(fn, true))))
   end)

   it("gives upvalues by name", function()
      local first, none, unused = 1, nil, 3
      local function fn() return first, none end
      local upvalue = source.upvalues(fn)
      local found, value, index = upvalue "first"
      assert.same({ true, 1 }, { found, value })
      assert.equal("first", (debug.getupvalue(fn, index)))
      assert.is_true((upvalue "none"))
      assert.is_nil((select(2, upvalue "none")))
      assert.is_false((upvalue "unused"))
      assert.equal(3, unused)
   end)
end)

describe("a diagnostic", function()
   local function message(text)
      local ok, err = pcall(parser.parse, text, "script.lua")
      assert.is_false(ok)
      return tostring(err)
   end

   it("shows position, source line and caret", function()
      assert.equal([[
script.lua:1:11: an expression expected, got 'then'
   if a and  then end
             ^]], message "if a and  then end")
      assert.equal("script.lua:3:1: 'end' to close 'while' of line 1 expected, got the end of the text\n\n   ^",
         message "while x do\n\n")
      assert.equal([[
script.lua:2:8: '10x' is not a number
   return 10x
          ^]], message "-- one\r\nreturn 10x")
   end)

   it("puts the caret below what the terminal shows: tabs are expanded, UTF-8 takes one column a character", function()
      assert.equal("script.lua:1:10: an expression expected, got '*'\n" ..
         (" "):rep(11) .. "x =" .. (" "):rep(9) .. "* 1\n" .. (" "):rep(23) .. "^", message "\tx =\t    * 1")
      assert.equal("script.lua:1:15: an expression expected, got '*'\n" ..
         "   x = '\195\164\195\164' .. * 1\n               ^",
         message "x = '\195\164\195\164' .. * 1")
   end)

   it("has a hint and notes of the way there", function()
      diagnostic.register("nf.lua", { "local x = a / b", "f(x)" })
      local pos = { file = "nf.lua", line = 1, col = 13 }
      local err = diagnostic.new(pos, "'/' gives fractions", "write math.floor(a / b)")
      diagnostic.note(err, { file = "nf.lua", line = 2, col = 1 })
      assert.equal([[
nf.lua:1:13: '/' gives fractions
   local x = a / b
               ^
   write math.floor(a / b)
   called from nf.lua:2:1]], tostring(err))
   end)

   it("shows the part of a long line that matters", function()
      diagnostic.register("long.lua", { ("a"):rep(500) .. "!" .. ("b"):rep(500) })
      local text = tostring(diagnostic.new({ file = "long.lua", line = 1, col = 501 }, "here"))
      local line, caret = text:match "\n   (.*)\n   ( *)%^$"
      assert.equal(160, #line)
      assert.equal("!", line:sub(#caret + 1, #caret + 1))
   end)

   it("without a column or a source line is one line", function()
      local pos = { file = "no/file.lua", line = 3, col = 1 }
      assert.equal("no/file.lua:3:1: what", tostring(diagnostic.new(pos, "what")))
      assert.equal("nf.lua:1: what", tostring(diagnostic.new({ file = "nf.lua", line = 1 }, "what")))
      assert.equal("what\n   hint", tostring(diagnostic.new(nil, "what", "hint")))
      pos.file = "/tmp"
      assert.equal("/tmp:3:1: a directory", tostring(diagnostic.new(pos, "a directory")))
   end)

   it("is made of what error raises, with its position", function()
      local _, caught = pcall(loadstring("error 'x: y'", "@dir/nf.lua"))
      local err = diagnostic.of(caught)
      assert.same({ { file = "dir/nf.lua", line = 1 }, "x: y" }, { err.pos, err.message })
      _, caught = pcall(loadstring "\nerror 'a:1: b'")
      err = diagnostic.of(caught)
      assert.same({ { file = "[string \"...\"]", line = 2 }, "a:1: b" }, { err.pos, err.message })
      assert.equal("no position", diagnostic.of("no position").message)
      assert.equal(err, diagnostic.of(err))
      assert.is_false(diagnostic.is "text")
   end)
end)
