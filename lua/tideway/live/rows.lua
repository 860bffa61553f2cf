-- SPDX-License-Identifier: BSD-3-Clause
-- What is in a table of the engine, as rows for people: addresses and times as such, where name and type say so.

local abi = require "tideway.abi"
local address = require "tideway.packet.address"
local value_lib = require "tideway.live.value"
local view = require "tideway.live.view"

local M = {}

--- Rows that a table shows by itself.
M.SHOWN = 20

-- Entries that are looked at: the control thread has other things to do than to walk a table of millions.
local LOOKED_AT = 65536

local ADDRESSES = {}
for name in ("src dst ip gateway via ext remote peer inside outside server client nexthop low high"):gmatch "%a+" do
   ADDRESSES[name] = true
end

-- A number of 32 bits that is an IPv4 address by its name, and large enough to be one.
local function is_address(name, value)
   return value >= 2 ^ 24
      and (ADDRESSES[name] or name:find "addr" or name:find "_ip$" or name:find "^ip_" or name:find "_src$"
         or name:find "_dst$")
end

local function seconds(ns)
   local s = math.abs(ns) / 1e9
   return s < 100 and ("%.1f s"):format(s) or ("%.0f s"):format(s)
end

-- A point of the monotonic clock, as it is from now.
local function time_text(ns)
   if ns == 0 then return "never" end
   local from_now = ns - tonumber(abi.C.tw_now())
   return from_now < 0 and seconds(from_now) .. " ago" or "in " .. seconds(from_now)
end

--- A field's value as a cell.
---@param field { name: string, type: string }
---@param value any
---@return any
function M.cell(field, value)
   if value == nil then return "" end
   if field.type == "mac" then return address.mac_string(value) end
   if field.type == "ns" then return time_text(tonumber(value)) end
   if field.type == "u32" and is_address(field.name, tonumber(value)) then return address.ip4_string(value) end
   return value_lib.cell(value)
end

-- Columns of a key or value type. The numbers of a key are names; a field that both have is the value's v.NAME.
local function add_columns(columns, t, scalar_name, key)
   local taken = {}
   for _, column in ipairs(columns) do taken[column.name] = true end
   local function add(name)
      columns[#columns + 1] = { name = taken[name] and "v." .. name or name, plain = key }
   end
   if not t or t.scalar or #t.fields == 0 then
      add(scalar_name)
   else
      for _, field in ipairs(t.fields) do add(field.name) end
   end
end

local function add_cells(row, t, value)
   if not t then
      row[#row + 1] = value_lib.cell(value)
   elseif type(value) == "table" then -- one of each CPU
      row[#row + 1] = value_lib.inline(value)
   elseif t.scalar then
      row[#row + 1] = M.cell({ name = "", type = t.fields[1].type }, value)
   elseif #t.fields == 0 then -- a prefix
      row[#row + 1] = tostring(value)
   else
      for _, field in ipairs(t.fields) do row[#row + 1] = M.cell(field, value[field.name]) end
   end
end

local KEY_NAMES = { lpm = "prefix", array = "index", counters = "name" }

local function columns_of(t)
   local columns = {}
   add_columns(columns, t.key_type, KEY_NAMES[t.kind] or "key", true)
   add_columns(columns, t.value_type, t.kind == "counters" and "count" or "value")
   return columns
end

-- Entries of arrays and counters that were never touched say nothing.
local function is_zero(t, value)
   if t.kind ~= "array" and t.kind ~= "counters" and t.kind ~= "percpu_array" then return false end
   if type(value) == "cdata" and t.value_type and not t.value_type.scalar then
      for _, field in ipairs(t.value_type.fields) do
         local v = value[field.name]
         if type(v) ~= "number" and type(v) ~= "cdata" then return false end
         if field.array or field.type == "ip6" or v ~= 0 then return false end
      end
      return true
   end
   return type(value) ~= "table" and tonumber(value) == 0
end

local function order(a, b)
   for i = 1, math.max(#a, #b) do
      local x, y = a[i], b[i]
      if x ~= y then
         if type(x) == type(y) and type(x) ~= "boolean" then return x < y end
         return tostring(x) < tostring(y)
      end
   end
   return false
end

--- A table's entries as a view, sorted by key; counters and arrays without their zeros.
---@param t tideway.Table
---@param limit? integer rows that are shown, default 20
---@return tideway.view
---@return integer? looked_at how many entries were looked at, when that are not all
function M.view(t, limit)
   limit = limit or M.SHOWN
   local rows, zeros, seen = {}, 0, 0
   for key, value in t:pairs() do
      seen = seen + 1
      if is_zero(t, value) then
         zeros = zeros + 1
      elseif #rows < view.ROWS_MAX then
         rows[#rows + 1] = {}
         add_cells(rows[#rows], t.key_type, key)
         add_cells(rows[#rows], t.value_type, value)
      end
      if seen == LOOKED_AT then break end
   end
   if t.kind ~= "counters" then table.sort(rows, order) end
   local partly = seen == LOOKED_AT and t.count and t:count() > seen
   local more = seen - zeros - math.min(#rows, limit)
   for i = #rows, limit + 1, -1 do rows[i] = nil end
   local v = view.table(columns_of(t), rows)
   v.more = more > 0 and more or nil
   return v, partly and seen or nil
end

return M
