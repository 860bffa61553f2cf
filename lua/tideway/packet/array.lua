-- SPDX-License-Identifier: BSD-3-Clause
-- Arrays of fixed size in headers and in the entries of tables: elements read and written by an index that is checked.
--
-- Every such array is a struct of its own type, shared by all who declare the same one, so that a whole array is
-- copied by an assignment: entry.name = view.name.

local ffi = require "ffi"
local bit = require "bit"

local M = {}

---@class tideway.array
---@field name string "u8[16]"
---@field element string u8 u16 u32 (little-endian, as the CPU), be16 be32
---@field element_size integer bytes
---@field order "le"|"be"
---@field count integer
---@field size integer bytes
---@field c string what the struct is called in C
---@field ctype ffi.ctype*
---@field store fun(target: ffi.cdata*, value: any) from an array of the same type, u8 also from text, zeros behind it

local ELEMENTS = {
   u8 = { size = 1, c = "uint8_t", load = "a.raw[i]", store = "v" },
   u16 = { size = 2, c = "uint16_t", load = "a.raw[i]", store = "v" },
   u32 = { size = 4, c = "int32_t", load = "tonumber(cast(u32, a.raw[i]))", store = "v" },
   be16 = { size = 2, c = "uint16_t", load = "rshift(bswap(a.raw[i]), 16)", store = "rshift(bswap(v), 16)" },
   be32 = { size = 4, c = "int32_t", load = "tonumber(cast(u32, bswap(a.raw[i])))", store = "bswap(v)" },
}
local ALIAS = { le16 = "u16", le32 = "u32" }
local COUNT_MAX = 4096

--- Arrays by LuaJIT's number of their struct; for the compiler.
M.by_ctype = {}

-- The accessors are printed per type: what a trace sees is a comparison with a constant and one access.
local CODE = [[
local error, type, tonumber, cast, u32, bit, bad = ...
local bswap, rshift, tobit = bit.bswap, bit.rshift, bit.tobit
local function get(a, i)
   if type(i) == "number" and i >= 0 and i < $count then return ($load) end
   bad(i)
end
local function set(a, i, v)
   if type(i) == "number" and i >= 0 and i < $count then
      v = tobit(v)
      a.raw[i] = $store
      return
   end
   bad(i)
end
return get, set
]]

local function text_of(array)
   return function(a)
      local list = {}
      for i = 0, array.count - 1 do list[i + 1] = (array.element == "u8" and "%02x" or "%.0f"):format(a[i]) end
      return table.concat(list, array.element == "u8" and ":" or ", ")
   end
end

-- Stores a value that is no array of this type: text of bytes, behind which there are zeros.
local function from_text(array, target, value)
   if type(value) ~= "string" or array.element ~= "u8" then
      error(("%s is needed, this is %s"):format(array.name, type(value) == "cdata" and tostring(ffi.typeof(value))
         or "a " .. type(value)), 0)
   elseif #value > array.size then
      error(("a string of %d bytes for %s"):format(#value, array.name), 0)
   end
   ffi.fill(target, array.size)
   ffi.copy(target, value, #value)
end

local function make(array, element)
   pcall(ffi.cdef, "int memcmp(const void *, const void *, size_t);")
   pcall(ffi.cdef, ("%s { %s raw[%d]; };"):format(array.c, element.c, array.count))
   local ctype, size, count = ffi.typeof(array.c), array.size, array.count
   local function bad(i)
      error(("index %s of %s: indexes are 0 to %d"):format(tostring(i), array.name, count - 1), 3)
   end
   local words = { count = count, load = element.load, store = element.store }
   local chunk = assert(loadstring(CODE:gsub("%$(%w+)", words), "=array " .. array.name))
   local get, set = chunk(error, type, tonumber, ffi.cast, ffi.typeof "uint32_t", bit, bad)
   local istype, memcmp, copy, text = ffi.istype, ffi.C.memcmp, ffi.copy, ctype()
   ffi.metatype(ctype, {
      __index = get,
      __newindex = set,
      __len = function() return count end,
      __eq = function(a, b)
         if type(a) == "string" then a, b = b, a end
         if type(b) == "string" then
            if array.element ~= "u8" or #b > size then return false end
            from_text(array, text, b)
            b = text
         elseif not istype(ctype, a) or not istype(ctype, b) then
            return false
         end
         local order = memcmp(a, b, size)
         return order == 0
      end,
      __tostring = text_of(array),
   })
   function array.store(target, value)
      if istype(ctype, value) then copy(target, value, size) else from_text(array, target, value) end
   end
   array.ctype = ctype
   M.by_ctype[tonumber(ctype)] = array
   return array
end

local made = {}

--- The array type of so many elements.
---@param element string u8 u16 u32 be16 be32 le16 le32
---@param count integer
---@return tideway.array? array
---@return string? why not, as the end of a sentence
function M.of(element, count)
   local name = ALIAS[element] or element
   local e = ELEMENTS[name]
   if not e then
      return nil, ("arrays have elements of u8, u16, u32, be16, be32, le16 or le32, not %s"):format(element)
   end
   if not count or count < 1 or count > COUNT_MAX or count % 1 ~= 0 then
      return nil, ("an array has 1 to %d elements, not %s"):format(COUNT_MAX, tostring(count))
   end
   local key = ("%s[%d]"):format(name, count)
   made[key] = made[key] or make({
      name = key, element = name, element_size = e.size, order = name:find "^be" and "be" or "le", count = count,
      size = e.size * count, c = ("struct tw_%s_%d"):format(name, count),
   }, e)
   return made[key]
end

--- The bytes of a value that is known when a program is compiled; nil when it is no such array.
---@param array tideway.array
---@param value any
---@return string?
function M.bytes(array, value)
   local object = array.ctype()
   if not pcall(array.store, object, value) then return nil end
   return ffi.string(object, array.size)
end

return M
