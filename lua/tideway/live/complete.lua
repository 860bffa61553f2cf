-- SPDX-License-Identifier: BSD-3-Clause
-- What may come next in a line of Lua: globals, fields, methods, parameters of NFs, names in strings.

local env_lib = require "tideway.live.env"
local ffi = require "ffi"
local help = require "tideway.live.help"
local model = require "tideway.model"
local nf_library = require "tideway.nf"
local objects = require "tideway.live.objects"
local tw = require "tideway"

local M = {}

local MOST = 500

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
   then true until while]]):gmatch "%a+" do
   KEYWORDS[#KEYWORDS + 1] = word
end

-- ---- where the cursor stands ----

-- What is open at the end of a text: the position of a string's quote, those of brackets. Nil inside a comment.
local function open_at_end(text)
   local at, brackets, quote = 1, {}, nil
   while at <= #text do
      local c = text:sub(at, at)
      if c == "-" and text:find("^%-%-", at) then
         local level = text:match("^%-%-%[(=*)%[", at)
         local close = level and ("]" .. level .. "]") or "\n"
         local _, e = text:find(close, at, true)
         if not e then return nil end
         at = e
      elseif c == "[" and text:find("^%[=*%[", at) then
         local level = text:match("^%[(=*)%[", at)
         local _, e = text:find("]" .. level .. "]", at, true)
         if not e then return nil end
         at = e
      elseif c == '"' or c == "'" then
         quote = at
         repeat
            at = at + 1
            if text:sub(at, at) == "\\" then at = at + 2 end
         until at > #text or text:sub(at, at) == c
         if at <= #text then quote = nil end
      elseif c:find "[%({]" then
         brackets[#brackets + 1] = at
      elseif c:find "[%)}]" then
         brackets[#brackets] = nil
      end
      at = at + 1
   end
   return brackets, quote
end

-- ---- values on the way ----

local function member(object, key)
   local kind = type(object)
   if kind == "string" then return string[key] end
   if kind ~= "table" and kind ~= "cdata" and kind ~= "userdata" then return nil end
   local ok, value = pcall(function() return object[key] end)
   return ok and value or nil
end

local function global(env, name)
   local ok, value = pcall(function() return env[name] end)
   return ok and value or nil
end

-- A value named by `a.b["c"][1]`; nil when it is anything else.
local function resolve(env, path)
   local name, rest = path:match "^([%a_][%w_]*)(.*)$"
   if not name then return nil end
   local value = global(env, name)
   while rest ~= "" and value ~= nil do
      local key, more = rest:match "^[%.:]([%a_][%w_]*)(.*)$"
      if not key then key, more = rest:match [=[^%[%s*["']([^"'%]]*)["']%s*%](.*)$]=] end
      if not key then
         key, more = rest:match "^%[%s*(%d+)%s*%](.*)$"
         key = tonumber(key)
      end
      if not key then return nil end
      value, rest = member(value, key), more
   end
   return value
end

local PATH = [[([%a_][%w_]*[%w_%.:%[%]"']*)]]

-- ---- names in values ----

local function is_function(value)
   local mt = getmetatable(value)
   return type(value) == "function" or type(mt) == "table" and mt.__call ~= nil
end

local function add_keys(names, t, methods)
   for key, value in next, t do
      if type(key) == "string" and not key:find "^_" and (not methods or is_function(value)) then names[key] = true end
   end
end

-- Names of a plain table and what stands behind it.
local function inherited(names, object, methods)
   local seen = 0
   while type(object) == "table" and seen < 10 do
      add_keys(names, object, methods)
      local mt = getmetatable(object)
      object = type(mt) == "table" and rawget(mt, "__index") or nil
      seen = seen + 1
   end
end

local function struct_fields(names, object)
   local ok, id = pcall(function() return tonumber(tostring(ffi.typeof(object)):match "struct (%d+)") end)
   for _, module in ipairs { "tideway.table.type", "tideway.packet.header" } do
      local t = ok and id and require(module).by_ctype[id]
      for _, field in ipairs(t and t.fields or {}) do names[field.name] = true end
   end
end

-- Names that can stand behind `object.` or `object:`.
local function members(object, methods)
   local names = {}
   local live = objects.names(object)
   if object == tw then
      for _, name in ipairs(tw.names()) do names[name] = true end
   elseif object == tw.nf then
      for _, name in ipairs(nf_library.known()) do names[name] = true end
      add_keys(names, object)
   elseif live then
      for _, name in ipairs(live) do
         local value = methods and member(object, name)
         if type(name) == "string" and (not methods or type(value) == "function") then
            names[name:match "^[^%.]+"] = true -- of tables, "count" for count.flows4
         end
      end
   elseif type(object) == "string" then
      add_keys(names, string)
   elseif type(object) == "cdata" then
      struct_fields(names, object)
   elseif type(object) == "table" then
      inherited(names, object, methods)
   end
   return names
end

-- ---- answers ----

local function answer(from, word, names)
   local list = {}
   for name in pairs(names) do
      if name:sub(1, #word) == word then list[#list + 1] = name end
   end
   table.sort(list)
   for i = #list, MOST + 1, -1 do list[i] = nil end
   return { from = from, list = list }
end

local function set_of(list)
   local set = {}
   for _, name in ipairs(list) do set[name] = true end
   return set
end

local function chain_names()
   local list = {}
   for i, chain in ipairs(model.chains) do list[i] = chain.name end
   return list
end

-- Where packets can be captured.
local function edge_names()
   local list = {}
   for _, chain in ipairs(model.chains) do
      for _, way in ipairs { "in", "out", "drop", unpack(chain.stage_names) } do
         list[#list + 1] = chain.name .. ":" .. way
      end
   end
   for _, port in ipairs(model.ports) do
      list[#list + 1] = port.name .. ":rx"
      list[#list + 1] = port.name .. ":tx"
   end
   return list
end

local function nf_names()
   local list = {}
   for _, chain in ipairs(model.all_chains()) do
      for _, nf in ipairs(chain.stages) do list[#list + 1] = nf.name end
   end
   return list
end

local function table_names()
   local list = {}
   for _, t in ipairs(tw.tables()) do list[#list + 1] = t.name end
   return list
end

-- What the text argument of a command may be.
local ARGUMENTS = {
   help = help.names, counters = chain_names, drops = chain_names, capture = edge_names, reload = nf_names,
   tables = table_names, rows = table_names, graph = function() return { "text", "dot", "svg" } end,
}

-- Inside of a string: the argument of a command, or the name in brackets: tables["...
local function in_string(env, text, quote)
   local word = text:sub(quote + 1)
   local before = text:sub(1, quote - 1)
   local path = before:match(PATH .. "%[%s*$")
   if path then
      local names = objects.names(resolve(env, path)) or {}
      return answer(quote + 1, word, set_of(names))
   end
   local names = ARGUMENTS[before:match "([%a_][%w_]*)%s*%(?[^%(%)]*$"]
   return names and answer(quote + 1, word, set_of(names()))
end

-- Parameters of what is called with this table: tw.nf.router { ... }, tw.hash { ... }, chain:pin { ... }.
local function parameters(env, path)
   local method = path:match ":([%w_]+)$"
   if method == "pin" then
      local names = set_of(require("tideway.hook.place").kinds)
      names.lcore, names.step, names.mode, names.persist, names.split = true, true, true, true, true
      return names
   end
   local callee = resolve(env, path)
   if nf_library.is_constructor(callee) then return set_of(help.parameters(callee.name)) end
   local kind = path:match "^tw%.([%w_]+)$"
   local known = kind and require("tideway.table.kind").kinds[kind]
   return known and known.options
end

-- At the beginning of an entry of a table constructor.
local function in_constructor(env, text, brackets)
   local open = brackets[#brackets]
   if not open or text:sub(open, open) ~= "{" then return nil end
   local from, word = text:match("^.*[{,;]%s*()([%a_]*[%w_]*)$", open)
   if not from then return nil end
   local path = text:sub(1, open - 1):match(PATH .. "%s*%(?%s*$")
   local names = path and parameters(env, path)
   if not names then return nil end
   local found = answer(from, word, names)
   for i, name in ipairs(found.list) do found.list[i] = name .. " = " end
   return #found.list > 0 and found or nil
end

--- What may come next at the end of a text.
---@param text string everything up to the cursor, earlier lines of the chunk too
---@param env table of the session
---@return { from: integer, list: string[] } from: where the word begins that each of the list would replace
function M.complete(text, env)
   local nothing = { from = #text + 1, list = {} }
   local brackets, quote = open_at_end(text)
   if not brackets then return nothing end
   if quote then return in_string(env, text, quote) or nothing end
   local found = in_constructor(env, text, brackets)
   if found then return found end
   local path, dot, word = text:match(PATH .. "([%.:])([%w_]*)$")
   if path then
      local object = resolve(env, path)
      return object ~= nil and answer(#text - #word + 1, word, members(object, dot == ":")) or nothing
   end
   word = text:match "[%a_][%w_]*$" or ""
   if text:sub(1, #text - #word):find "[%.:%d]$" then return nothing end
   local names = set_of(env_lib.names(env))
   if word ~= "" then
      for _, keyword in ipairs(KEYWORDS) do names[keyword] = true end
   end
   return answer(#text - #word + 1, word, names)
end

return M
