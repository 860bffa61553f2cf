-- SPDX-License-Identifier: BSD-3-Clause
-- What a file in a sandbox finds: an allow-list of names. Everything else does not exist for it.
--
-- A sandbox gets tables of its own, which it cannot change. What only computes is given as it is; a function of the
-- engine is given behind a gate, which lets plain values and objects that the engine gave through, and nothing else.

local ffi = require "ffi"
local strict = require "tideway.compiler.front.strict"

local M = {}

local function words(text)
   local list = {}
   for word in text:gmatch "%S+" do list[#list + 1] = word end
   return list
end

--- The standard library's, as they are: none gives access to anything but its arguments, or takes unbounded time.
M.PLAIN = {
   _G = words "assert error ipairs next pairs pcall select tonumber type unpack",
   math = words [[abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log log10 max min modf pi
      pow rad sin sinh sqrt tan tanh]],
   bit = words "arshift band bnot bor bswap bxor lshift rol ror rshift tobit tohex",
   table = words "concat insert maxn remove sort",
   string = words "byte char len lower reverse rep sub upper",
}

--- Of the engine: those that compute only, and those that are behind gates.
M.COMPUTES = words "jhash now random version"
M.CSUM = words "replace16 replace32 change16 change32 apply"
M.GATED = words [[ip4 ip6 mac prefix ip4_string ip6_string mac_string header args maglev hash lru lpm array counters
   meter acl percpu_hash lru_percpu percpu_array]]

--- Methods of tables that a constructor may call.
M.METHODS = words "set get add del count rate"

local TABLES = {}
for _, name in ipairs(words "hash lru lpm array counters meter acl percpu_hash lru_percpu percpu_array") do
   TABLES[name] = true
end

local DEEPEST, LONGEST = 16, 100000
local SEARCH_MOST = 1e7 -- comparisons of find()

-- ---- values that go through a gate ----

---@class tideway.sandbox.box one file that is loaded
---@field path string
---@field limits tideway.sandbox.limits
---@field real table handle -> what it stands for; and what is the sandbox's own and passes as it is
---@field handle table object of the engine -> handle; neither keeps the other
---@field order table<any, integer> these objects, as they came
---@field made integer how many that were
---@field entries integer of tables so far
---@field leave fun() trusted code runs from here on
---@field enter fun() and no more

local function frozen(what)
   return function(_, key) error(("%s: %s cannot be set in a sandbox"):format(what, type(key)), 2) end
end

-- A table that shows what is in another one.
local function shown(what, inside)
   return setmetatable({}, { __index = inside, __newindex = frozen(what), __metatable = false })
end

local inwards

local function is_number(value)
   return type(value) == "cdata" and (ffi.istype("int64_t", value) or ffi.istype("uint64_t", value))
end

-- What an object of the engine is in the sandbox: something with its methods and nothing inside.
local function handle_of(box, object)
   local known = box.handle[object]
   if known then return known end
   local methods = {}
   if type(object) == "table" then
      strict.genuine[object] = true
      for _, name in ipairs(M.METHODS) do
         local ok, method = pcall(function() return object[name] end)
         if ok and type(method) == "function" then methods[name] = M.gate(box, method) end
      end
   end
   local handle = shown("an object of the engine", methods)
   box.handle[object], box.real[handle] = handle, object
   strict.stands_for(handle, object)
   box.made = box.made + 1
   box.order[object] = box.made
   return handle
end

local function copied(box, value, depth, convert)
   if depth > DEEPEST then error("a table is nested too deeply", 0) end
   local copy, n = {}, 0
   for k, v in next, value do
      n = n + 1
      if n > LONGEST then error("a table is too large", 0) end
      copy[convert(box, k, depth + 1)] = convert(box, v, depth + 1)
   end
   return copy
end

-- From the sandbox to the engine.
local function outwards(box, value, depth)
   depth = depth or 0
   local kind = type(value)
   if kind == "function" then error("a function of the sandbox cannot be given to the engine", 0) end
   if kind ~= "table" then return value end
   if box.real[value] then return box.real[value] end
   return copied(box, value, depth, outwards)
end

-- From the engine to the sandbox.
function inwards(box, value, depth)
   if value == nil then return nil end
   depth = depth or 0
   local kind = type(value)
   if box.real[value] ~= nil then return value end -- it is of the sandbox
   if kind == "table" and getmetatable(value) == nil then return copied(box, value, depth, inwards) end
   if kind == "table" or kind == "cdata" and not is_number(value) then return handle_of(box, value) end
   if kind == "function" or kind == "userdata" or kind == "thread" then
      error(("a %s cannot be given to a sandbox"):format(kind), 0)
   end
   return value
end
M.inwards = inwards

local function each(box, convert, n, ...)
   local list = { ... }
   for i = 1, n do list[i] = convert(box, list[i]) end
   return list
end

local function finish(box, ok, ...)
   local err = not ok and ... or nil
   if not ok then err = type(err) == "string" and err:gsub("^%S-sandbox[/%w]*%.lua:%d+: ", "") end
   box.enter()
   if ok then return ... end
   error(err or "the engine refuses it", 2) -- with the file's position, not with ours
end

local function converted(box, n, ...) return unpack(each(box, inwards, n, ...), 1, n) end

local function give(box, ...) return converted(box, select("#", ...), ...) end

local function through(box, fn, check, ...)
   local n = select("#", ...)
   local list = each(box, outwards, n, ...)
   if check then check(box, unpack(list, 1, n)) end
   return give(box, fn(unpack(list, 1, n)))
end

--- A function of the engine as a sandbox may call it.
---@param box tideway.sandbox.box
---@param fn function
---@param check? fun(box: tideway.sandbox.box, ...) raises what is too much
---@return function
function M.gate(box, fn, check)
   local function gate(...)
      box.leave()
      return finish(box, pcall(through, box, fn, check, ...))
   end
   strict.stands_for(gate, fn)
   return gate
end

-- ---- what needs more care ----

-- Addresses of memory are nobody's business.
local function text_of(value)
   local kind = type(value)
   if kind == "table" or kind == "function" then return kind end
   return tostring(value)
end

local function format(form, ...)
   if type(form) ~= "string" then error("format: the first argument is no string", 0) end
   local list, n = { ... }, select("#", ...)
   if form:find("%%[^%a%%]*p") then error("format: %p is not for a sandbox", 0) end
   for i = 1, n do
      if type(list[i]) == "table" or type(list[i]) == "function" then list[i] = text_of(list[i]) end
   end
   return form:format(unpack(list, 1, n))
end

-- Patterns can take for ever, texts as such cannot.
local function find(text, what, init)
   if type(text) ~= "string" or type(what) ~= "string" then error("find: both arguments are strings", 0) end
   if #text * #what > SEARCH_MOST then error("find: these texts are too long", 0) end
   return text:find(what, init or 1, true)
end

local function table_check(box, o)
   local n = type(o) == "table" and (o.entries or o.size or o.names and #o.names) or 0
   box.entries = box.entries + (type(n) == "number" and n or 0)
   if box.entries > box.limits.entries then
      error(("its tables have more than %d entries, the limit of a sandbox (entries)"):format(box.limits.entries), 0)
   end
end

local function header_check(_, name, declaration, methods)
   if methods ~= nil then error("tw.header: methods are not for a sandbox", 0) end
   if type(declaration) == "string" and #declaration > 4096 then error("tw.header: too long", 0) end
   if type(name) ~= "string" or not name:find "^[%a_][%w_]*$" then
      error("tw.header: the name is a word of letters, digits and _", 0)
   end
end

local function maglev_check(_, _, size)
   if type(size) ~= "number" or size > 65537 then error("maglev: at most 65537 slots in a sandbox", 0) end
end

local CHECKS = { header = header_check, maglev = maglev_check }

-- ---- the environment ----

-- Functions of trusted Lua that need strings' own methods while they run; they see values as they are.
local function trusted(box, fn)
   return function(...)
      box.leave()
      return finish(box, pcall(fn, ...))
   end
end

-- A gate whose call fails for want of stack is left half way: whoever catches that is inside again.
local function caught(box)
   local function settle(...)
      box.enter()
      return ...
   end
   return function(...) return settle(pcall(...)) end
end

local function pick(from, names)
   local list = {}
   for _, name in ipairs(names) do list[name] = from[name] end
   return list
end

local function string_library(box)
   local list = pick(string, M.PLAIN.string)
   list.format, list.find = trusted(box, format), trusted(box, find)
   return list
end

local function engine_library(box, declare)
   local tw = require "tideway"
   local list = pick(tw, M.COMPUTES)
   for _, name in ipairs(M.GATED) do
      list[name] = M.gate(box, tw[name], TABLES[name] and table_check or CHECKS[name])
   end
   list.csum = shown("tw.csum", pick(tw.csum, M.CSUM))
   list.nf = trusted(box, declare)
   return list
end

--- The environment of a box.
---@param box tideway.sandbox.box
---@param declare fun(name: string, construct: function): any what tw.nf is
---@return table env
---@return table strings what methods of strings are
function M.environment(box, declare)
   local names, strings = pick(_G, M.PLAIN._G), string_library(box)
   local engine = engine_library(box, declare)
   local tw = shown("tw", engine)
   names.math, names.bit = shown("math", pick(math, M.PLAIN.math)), shown("bit", pick(require "bit", M.PLAIN.bit))
   names.table, names.string = shown("table", pick(table, M.PLAIN.table)), shown("string", strings)
   names.tw, names.tostring, names.pcall = tw, trusted(box, text_of), caught(box)
   names.require = trusted(box, function(module)
      if module ~= "tideway" and module ~= "bit" then
         error(("a sandbox has the modules tideway and bit, not %s"):format(tostring(module)), 0)
      end
      return names[module == "bit" and "bit" or "tw"]
   end)
   for _, api in ipairs { tw, names.math, names.bit, names.table, names.string } do box.real[api] = api end
   return shown("a global variable", names), strings
end

return M
