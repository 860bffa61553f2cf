-- SPDX-License-Identifier: BSD-3-Clause
-- What the compiler must know of C types: layouts read from LuaJIT's own type table (ffi.typeinfo).

local ffi = require "ffi"
local bit = require "bit"

local M = {}

local band, rshift = bit.band, bit.rshift

-- Kinds of types and flags of numbers (lj_ctype.h of LuaJIT 2.1).
local NUM, STRUCT, PTR, ARRAY, VOID, ENUM, TYPEDEF, ATTRIB, FIELD = 0, 1, 2, 3, 4, 5, 7, 8, 9
local BOOL, FLOAT, UNSIGNED, REFERENCE = 0x08000000, 0x04000000, 0x00800000, 0x00800000

---@class tideway.ctype
---@field id integer LuaJIT's number of the type
---@field kind "int"|"struct"|"ptr"|"array"|"void"|"float"|"other"
---@field size integer bytes
---@field signed? boolean int
---@field bool? boolean int
---@field fields? table<string, { offset: integer, type: tideway.ctype }> struct
---@field to? tideway.ctype ptr, array

local cache = {}
local of_id

local function struct_fields(sib, base, fields)
   while sib and sib ~= 0 do
      local info = ffi.typeinfo(sib)
      local kind = rshift(info.info, 28)
      if kind == FIELD and info.name then
         fields[info.name] = { offset = base + (info.size or 0), type = of_id(band(info.info, 0xffff)) }
      elseif kind == ATTRIB then -- an anonymous struct or union inside
         local inner = ffi.typeinfo(band(info.info, 0xffff))
         struct_fields(inner.sib, base + (info.size or 0), fields)
      end
      sib = info.sib
   end
   return fields
end

local function make(id, t)
   local info = ffi.typeinfo(id)
   local word, kind = info.info, rshift(info.info, 28)
   if kind == ATTRIB or kind == TYPEDEF then return of_id(band(word, 0xffff)) end
   t.id, t.size = id, info.size
   if kind == NUM then
      t.kind = band(word, FLOAT) ~= 0 and "float" or "int"
      t.bool = band(word, BOOL) ~= 0
      t.signed = band(word, UNSIGNED) == 0
   elseif kind == ENUM then
      t.kind, t.signed = "int", false
   elseif kind == STRUCT then
      t.kind = "struct"
      t.fields = struct_fields(info.sib, 0, {})
   elseif kind == PTR then
      t.kind, t.to = "ptr", of_id(band(word, 0xffff))
      t.reference = band(word, REFERENCE) ~= 0
   elseif kind == ARRAY then
      t.kind, t.to = "array", of_id(band(word, 0xffff))
   else
      t.kind = kind == VOID and "void" or "other"
   end
   return t
end

--- A type by LuaJIT's number of it.
---@param id integer
---@return tideway.ctype
function of_id(id)
   if not cache[id] then
      local t = {}
      cache[id] = t
      cache[id] = make(id, t)
   end
   return cache[id]
end

--- A type by `ffi.typeof`.
---@param ctype ffi.ctype*
---@return tideway.ctype
function M.of(ctype) return of_id(tonumber(ctype)) end

--- The type of a cdata.
function M.of_value(cdata) return of_id(tonumber(ffi.typeof(cdata))) end

local INT = {}
for _, name in ipairs { "uint8_t", "uint16_t", "uint32_t", "uint64_t", "int8_t", "int16_t", "int32_t", "int64_t" } do
   INT[name] = M.of(ffi.typeof(name))
end
M.int = INT

--- Is it a 64-bit integer, which Lua sees as cdata?
function M.is_wide(t) return t.kind == "int" and t.size == 8 end

return M
