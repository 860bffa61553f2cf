-- SPDX-License-Identifier: BSD-3-Clause
-- From a live function to its syntax tree, and proof that the text still is what the function was made of.

local bit = require "bit"
local util = require "jit.util"
local diagnostic = require "tideway.compiler.diagnostic"
local parser = require "tideway.compiler.syntax.parser"

local M = {}

-- Chunks by what debug.getinfo calls the source; functions that were found, as { node, chunk }.
local chunks = {}
local found = setmetatable({}, { __mode = "k" })

-- Comparing what LuaJIT made of the text with the live function.

-- What LuaJIT puts in place of an instruction while the program runs: by the plain opcode, the others. Loops get a
-- variant that runs a trace or is not traced any more: FORI JFORI, FORL IFORL JFORL, ITERL IITERL JITERL and LOOP
-- ILOOP JLOOP follow each other in the numbering. A loop over pairs may become a common one, a return begin a trace.
local function opcode_variants()
   local function opcode(text, pc) return bit.band((util.funcbc(loadstring(text), pc)), 0xFF) end
   local variants = {}
   local function add(op, ...)
      variants[op] = {}
      for _, variant in ipairs { ... } do
         variants[op][variant] = true
      end
   end
   local fori, forl = opcode("for i = 1, 2 do end", 4), opcode("for i = 1, 2 do end", 5)
   local each = "for i in x do end"
   local jmp, iterc, iterl = opcode(each, 3), opcode(each, 4), opcode(each, 5)
   local loop = opcode("while x do end", 4)
   local jloop = loop + 2
   add(fori, fori + 1)
   add(forl, forl + 1, forl + 2)
   add(iterl, iterl + 1, iterl + 2)
   add(loop, loop + 1, jloop)
   add(opcode("for k in pairs(x) do end", 4), jmp)
   add(opcode("for k in pairs(x) do end", 5), iterc, jloop)
   for _, text in ipairs { "return 1, 2", "return 1", "" } do
      local info = util.funcinfo(loadstring(text))
      add(opcode(text, info.bytecodes - 1), jloop)
   end
   return variants
end

local VARIANTS = opcode_variants()

local function same_instruction(live, fresh)
   if live == fresh then return true end
   local variants = VARIANTS[bit.band(fresh, 0xFF)]
   return variants and variants[bit.band(live, 0xFF)]
end

local function same_template(a, b)
   for key, value in pairs(a) do
      if b[key] ~= value then return false end
   end
   for key in pairs(b) do
      if a[key] == nil then return false end
   end
   return true
end

local same_code

local function same_constant(a, b)
   if type(a) ~= type(b) then return false end
   if type(a) == "proto" then return same_code(a, b) end
   if type(a) == "table" then return same_template(a, b) end
   if type(a) == "cdata" then return tostring(a) == tostring(b) end
   return a == b
end

-- Whether a live function or prototype is what LuaJIT makes of the text (`fresh`).
function same_code(live, fresh)
   local a, b = util.funcinfo(live), util.funcinfo(fresh)
   for _, field in ipairs { "linedefined", "lastlinedefined", "params", "isvararg", "stackslots", "bytecodes",
      "gcconsts", "nconsts", "upvalues" } do
      if a[field] ~= b[field] then return false end
   end
   for pc = 1, a.bytecodes - 1 do
      if not same_instruction((util.funcbc(live, pc)), (util.funcbc(fresh, pc))) then return false end
   end
   for i = -a.gcconsts, a.nconsts - 1 do
      if not same_constant(util.funck(live, i), util.funck(fresh, i)) then return false end
   end
   for i = 0, a.upvalues - 1 do
      if util.funcuvname(live, i) ~= util.funcuvname(fresh, i) then return false end
   end
   return true
end

-- Prototypes below a function or prototype, in the order of their text, an outer one before its inner ones.
local function prototypes(func, list)
   for i = -1, -util.funcinfo(func).gcconsts, -1 do
      local constant = util.funck(func, i)
      if type(constant) == "proto" then
         list[#list + 1] = constant
         prototypes(constant, list)
      end
   end
   return list
end

-- Texts

local function read(path)
   local handle, why = io.open(path, "rb")
   if not handle then return nil, why end
   local text
   text, why = handle:read "*a"
   handle:close()
   return text, why
end

local function parsed(source, text, name, key)
   key = key or source
   local chunk = chunks[key]
   if chunk and chunk.text == text then return chunk end
   chunk = parser.parse(text, name)
   -- Only the code is looked at; nothing of it runs.
   chunk.prototypes = prototypes(assert(loadstring(text, source)), {})
   assert(#chunk.prototypes == #chunk.functions, "the syntax tree and LuaJIT differ in the number of functions")
   chunks[key] = chunk
   return chunk
end

local function describe(info)
   if info.what == "main" then return "the main chunk of " .. info.short_src end
   if info.linedefined == 0 then return "a function of " .. info.short_src end
   return ("the function on line %d of %s"):format(info.linedefined, info.short_src)
end

local function changed(info, name, why)
   diagnostic.raise({ file = name, line = math.max(info.linedefined, 1) },
      ("the source of %s changed since it was loaded: %s"):format(name, why), "start again with the file as it is now")
end

local function not_its_text(info)
   diagnostic.raise(nil, ("%s was loaded under a name that is not its text"):format(describe(info)),
      "load it from a file, or give loadstring no name")
end

-- The text of the file a function was loaded from.
local function file_text(info, name)
   local text, why = read(name)
   if not text then
      diagnostic.raise({ file = name, line = math.max(info.linedefined, 1) },
         ("the source of %s cannot be read: %s"):format(describe(info), why))
   end
   if text:sub(1, 3) == "\27LJ" then
      diagnostic.raise(nil, ("%s is bytecode; the compiler needs the text"):format(name), "run the .lua file")
   end
   return text
end

-- The chunk a function was made of.
local function chunk_of(info)
   local source = info.source
   if info.what == "C" then
      diagnostic.raise(nil, "a function of C has no Lua source", "give a Lua function")
   end
   local is_stripped = info.what == "Lua" and info.linedefined == 0
   if is_stripped or source:sub(1, 1) == "=" then
      diagnostic.raise(nil, describe(info) .. " was loaded without its source",
         "load it from a file that has its text, not from stripped bytecode or under a name of its own")
   end
   if source:sub(1, 1) ~= "@" then
      local ok, chunk = pcall(parsed, source, source, info.short_src)
      if not ok then not_its_text(info) end
      return chunk
   end
   local name = source:sub(2)
   local ok, chunk = pcall(parsed, source, file_text(info, name), name)
   if not ok then changed(info, name, diagnostic.is(chunk) and chunk.message or tostring(chunk)) end
   return chunk
end

local function same_params(fn, node)
   for i, param in ipairs(node.params) do
      if debug.getlocal(fn, i) ~= param.name then return false end
   end
   return true
end

-- The Function nodes of a chunk that a live function may be of.
local function candidates(fn, info, chunk)
   local list, on_lines = {}, 0
   for i, node in ipairs(chunk.functions) do
      if node.linedefined == info.linedefined and node.endline == info.lastlinedefined then
         on_lines = on_lines + 1
         if same_params(fn, node) and same_code(fn, chunk.prototypes[i]) then list[#list + 1] = node end
      end
   end
   return list, on_lines
end

-- Texts that files had when they were loaded, the last one last.
local texts, TEXTS_MAX = {}, 16

--- Remember what a file says now: functions loaded from it are looked for there when it says something else later.
---@param path string
function M.remember(path)
   local text, list = read(path), texts[path] or {}
   if not text or list[#list] == text then return end
   texts[path] = list
   list[#list + 1] = text
   if #list > TEXTS_MAX then table.remove(list, 1) end
end

local GIVEN_MAX = 64

--- Remember the text of a chunk that has a name instead of a file, such as what a user typed: its functions are looked
--- for there. The last of a name are remembered.
---@param source string the name, as given to loadstring: "=eval"
---@param text string
function M.given(source, text)
   local list = texts[source] or {}
   texts[source] = list
   list[#list + 1] = text
   if #list > GIVEN_MAX then table.remove(list, 1) end
end

-- The same function in what its file said earlier, or in a text that was given.
local function find_earlier(fn, info)
   local name, kind = info.source:sub(2), info.source:sub(1, 1)
   local list = info.what ~= "main" and texts[kind == "@" and name or kind == "=" and info.source] or {}
   for i = #list, 1, -1 do
      local ok, chunk = pcall(parsed, info.source, list[i], name, info.source .. "\0earlier")
      local nodes = ok and candidates(fn, info, chunk) or {}
      if #nodes == 1 then return nodes[1], chunk end
   end
end

local function find_now(fn, info)
   local chunk = chunk_of(info)
   if info.what == "main" then
      local fresh = loadstring(chunk.text, info.source)
      if not same_code(fn, fresh) then changed(info, chunk.name, "other code is there") end
      return chunk.main, chunk
   end
   local list, on_lines = candidates(fn, info, chunk)
   if #list == 1 then return list[1], chunk end
   if #list > 1 then
      diagnostic.raise(diagnostic.at(chunk, list[1]), ("%d functions start and end on this line"):format(#list),
         "put them on lines of their own")
   end
   if info.source:sub(1, 1) ~= "@" then not_its_text(info) end
   changed(info, chunk.name, on_lines == 0 and ("no function starts on line %d and ends on line %d")
      :format(info.linedefined, info.lastlinedefined) or "the function there has other code")
end

local function find(fn)
   local info = debug.getinfo(fn, "S")
   local ok, node, chunk = pcall(find_now, fn, info)
   if ok then return node, chunk end
   local earlier, chunk_then = find_earlier(fn, info)
   if earlier then return earlier, chunk_then end
   error(node, 0)
end

--- The syntax tree of a live function. Raises a diagnostic when it has none: a C function, a text that is not at hand,
--- a file that changed since, several equal functions on one line.
---@param fn function
---@return table node Function
---@return tideway.compiler.chunk chunk
function M.of(fn)
   local known = found[fn]
   if not known then
      known = { find(fn) }
      found[fn] = known
   end
   return known[1], known[2]
end

--- Look-up of a live function's upvalues by name.
---@param fn function
---@return fun(name: string): boolean, any, integer? found, value, index for debug.getupvalue
function M.upvalues(fn)
   local index = {}
   for i = 1, math.huge do
      local name = debug.getupvalue(fn, i)
      if not name then break end
      index[name] = i
   end
   return function(name)
      local i = index[name]
      if not i then return false end
      local _, value = debug.getupvalue(fn, i)
      return true, value, i
   end
end

return M
