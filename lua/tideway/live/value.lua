-- SPDX-License-Identifier: BSD-3-Clause
-- Views of Lua values: what a line of the REPL gave, bounded in depth and size.

local ffi = require "ffi"
local view = require "tideway.live.view"

local M = {}

local DEPTH, INLINE, SHORT, PLAIN_MAX = 4, 160, 60, 20000
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

-- ---- scalars ----

-- A 64-bit integer: a number while that is exact, else its digits.
local function number_of(value)
   local n = tonumber(value)
   if math.abs(n) < 2 ^ 53 then return n end
   return (tostring(value):gsub("U?LL$", ""))
end

local function is_integer(value)
   return type(value) == "cdata" and (ffi.istype(int64, value) or ffi.istype(uint64, value))
end

-- Fields in order of a struct of the engine's tables or of a packet's header; nil for other values.
local function fields_of(value)
   local text = tostring(ffi.typeof(value))
   local id = tonumber(text:match "^ctype<struct (%d+)")
   if not id or text:find "%[" then return nil end
   local ctype = tonumber(ffi.typeof(value))
   for _, module in ipairs { "tideway.table.type", "tideway.packet.header" } do
      local known = package.loaded[module]
      local t = known and (known.by_ctype[ctype] or known.by_ctype[id])
      if t then return t.fields end
   end
end

--- A function in words: its parameters, file and line.
---@param fn function
---@return string
function M.signature(fn)
   local info, names = debug.getinfo(fn, "Su"), {}
   if info.what == "C" then return "function (built in)" end
   for i = 1, info.nparams or 0 do names[i] = debug.getlocal(fn, i) or "?" end
   if info.isvararg then names[#names + 1] = "..." end
   return ("function (%s) at %s:%d"):format(table.concat(names, ", "), info.short_src, info.linedefined)
end

local function metamethod(value, name)
   local mt = debug.getmetatable(value)
   return type(mt) == "table" and rawget(mt, name) or nil
end

-- What an object says of itself; one that fails does not hide the rest.
local function said(value)
   local ok, text = pcall(tostring, value)
   return ok and text or ("(its tostring fails: %s)"):format(tostring(text))
end

-- Values that are shown as they are; nil for those with an inside.
local function scalar(value)
   local kind = type(value)
   if kind == "nil" then return "nil" end
   if kind == "number" or kind == "string" or kind == "boolean" then return value end
   if kind == "function" then return M.signature(value) end
   if is_integer(value) then return number_of(value) end
   if kind == "cdata" then return not fields_of(value) and said(value) or nil end
   if kind ~= "table" then return said(value) end
   if metamethod(value, "__tostring") then return said(value) end
end

-- ---- tables ----

-- Keys in order: 1..n, then names.
local function keys_of(t)
   local keys = {}
   for k in next, t do keys[#keys + 1] = k end
   table.sort(keys, function(a, b)
      local numbers = type(a) == "number" and type(b) == "number"
      if numbers then return a < b end
      if (type(a) == "number") ~= (type(b) == "number") then return type(a) == "number" end
      return tostring(a) < tostring(b)
   end)
   return keys
end

-- { key, value } of a table or struct in order.
local function pairs_of(value)
   local list = {}
   if type(value) == "cdata" then
      for i, field in ipairs(fields_of(value)) do list[i] = { field.name, value[field.name] } end
   else
      for i, key in ipairs(keys_of(value)) do list[i] = { key, rawget(value, key) } end
   end
   return list
end

local function is_list(value)
   if type(value) ~= "table" then return false end
   local n = #value
   local count = 0
   for _ in next, value do count = count + 1 end
   return n > 0 and count == n
end

local function quoted(value)
   if type(value) == "string" then return ('"%s"'):format(value) end
   return tostring(value)
end

local function key_text(key)
   if type(key) == "string" and key:find "^[%a_][%w_]*$" then return key end
   return ("[%s]"):format(quoted(key))
end

--- A value in one line, bounded: { a = 1, b = { 2, 3 } }.
---@param value any
---@param room? integer columns, default 160
---@param depth? integer
---@return string
function M.inline(value, room, depth)
   room, depth = room or INLINE, depth or 1
   local s = scalar(value)
   if s ~= nil then return depth == 1 and tostring(s) or type(value) == "string" and quoted(s) or tostring(s) end
   if depth > DEPTH then return "{ ... }" end
   local parts, length, list = {}, 4, is_list(value)
   for _, pair in ipairs(pairs_of(value)) do
      local text = M.inline(pair[2], room, depth + 1)
      if not list then text = ("%s = %s"):format(key_text(pair[1]), text) end
      length = length + #text + 2
      if length > room then
         parts[#parts + 1] = "..."
         break
      end
      parts[#parts + 1] = text
   end
   return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

-- Is it a list of tables with names in them?
local function is_records(value)
   if not is_list(value) then return false end
   for i = 1, math.min(#value, view.ROWS_MAX) do
      local item = value[i]
      if type(item) == "cdata" then
         if is_integer(item) or not fields_of(item) then return false end
      elseif type(item) ~= "table" or metamethod(item, "__tostring") or metamethod(item, "__view")
         or type(next(item)) ~= "string" then
         return false
      end
   end
   return true
end

--- A value as a cell of a table: scalars as they are, others in few words.
---@param value any
---@return string|number|boolean
function M.cell(value)
   if value == nil then return "" end
   local s = scalar(value)
   return s ~= nil and s or M.inline(value, SHORT)
end

-- Names of the records' fields: those of structs in order, else `name` first.
local function columns_of(records)
   local seen, list = {}, {}
   for i = 1, math.min(#records, view.ROWS_MAX) do
      for _, pair in ipairs(pairs_of(records[i])) do
         local key = tostring(pair[1])
         if not seen[key] then
            seen[key] = true
            list[#list + 1] = key
         end
      end
   end
   if type(records[1]) == "table" then
      table.sort(list, function(a, b)
         if (a == "name") ~= (b == "name") then return a == "name" end
         return a < b
      end)
   end
   return list
end

local function records_view(records)
   local columns, rows = columns_of(records), {}
   for n = 1, math.min(#records, view.ROWS_MAX) do
      rows[n] = {}
      for i, column in ipairs(columns) do rows[n][i] = M.cell(records[n][column]) end
   end
   local v = view.table(columns, rows, M.plain(records))
   v.more = #records > view.ROWS_MAX and #records - view.ROWS_MAX or nil
   return v
end

-- Keys and values in two columns; what is too long for a line stands below under its key.
local function map_view(value, depth)
   local list, rows, below = pairs_of(value), {}, {}
   if #list == 0 then return view.text("{}", M.plain(value)) end
   for n, pair in ipairs(list) do
      if n > view.ROWS_MAX then break end
      local key, item = tostring(pair[1]), pair[2]
      local inside = scalar(item) == nil
      if type(item) == "string" and item:find "\n" then
         local v = view.text(item)
         v.title = key
         below[#below + 1] = v
      elseif inside and depth < DEPTH and (#M.inline(item, SHORT) >= SHORT - 4 or metamethod(item, "__view")) then
         local v = M.view(item, depth + 1)
         v.title = key
         below[#below + 1] = v
      else
         rows[#rows + 1] = { key, inside and M.inline(item) or scalar(item) }
      end
   end
   local v = view.table({ is_list(value) and { name = "#", align = "right" } or { name = "key", align = "left" },
      { name = "value" } }, rows, M.plain(value))
   v.headless = true
   v.more = #list > view.ROWS_MAX and #list - view.ROWS_MAX or nil
   if #below == 0 then return v end
   if #rows > 0 then table.insert(below, 1, v) end
   return view.list(below, v.data)
end

--- How objects of the engine are shown: { test = is it one?, view = its view }.
---@type { test: (fun(value: any): boolean), view: fun(value: any): tideway.view }[]
M.shown = {}

local function shown(value)
   local kind_of = type(value)
   if kind_of ~= "table" and kind_of ~= "cdata" and kind_of ~= "userdata" then return nil end
   local show = metamethod(value, "__view")
   if show then return show end
   for _, kind in ipairs(M.shown) do
      if kind.test(value) then return kind.view end
   end
end

--- Is it a view, or something that has one of its own?
---@param value any
---@return boolean
function M.is_shown(value) return view.is(value) or shown(value) ~= nil end

--- See view.of.
---@param value any
---@param depth? integer of nesting so far
---@return tideway.view
function M.view(value, depth)
   if view.is(value) then return value end
   local show = shown(value)
   if show then return M.view(show(value), depth) end
   if value == nil then return { view = "text", text = "nil" } end
   local s = scalar(value)
   if s ~= nil then
      if type(s) ~= "number" then return view.text(tostring(s), M.plain(value)) end
      return view.text(require("tideway.live.render").number(s, true), s)
   end
   if is_records(value) then return records_view(value) end
   return map_view(value, depth or 1)
end

-- ---- plain data ----

local function plain(value, depth, room)
   local kind = type(value)
   if kind == "nil" or kind == "boolean" or kind == "string" then return value end
   if kind == "number" then return value == value and math.abs(value) < math.huge and value or tostring(value) end
   local s = scalar(value)
   if s ~= nil then return s end
   if depth > DEPTH * 2 then return "..." end
   local out, list = {}, is_list(value)
   for _, pair in ipairs(pairs_of(value)) do
      room.left = room.left - 1
      if room.left < 0 then break end
      local item = pair[2]
      if view.is(item) then item = item.data end
      out[list and pair[1] or tostring(pair[1])] = plain(item, depth + 1, room)
   end
   return out
end

--- A value as JSON can hold it, bounded to some thousand entries.
---@param value any
---@return any
function M.plain(value) return plain(value, 1, { left = PLAIN_MAX }) end

return M
