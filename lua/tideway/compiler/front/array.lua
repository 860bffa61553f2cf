-- SPDX-License-Identifier: BSD-3-Clause
-- Arrays of fixed size: elements by an index that is proved to be inside, whole arrays copied and compared word by
-- word.

local bit = require "bit"
local arrays = require "tideway.packet.array"
local ctype = require "tideway.compiler.front.ctype"
local ir = require "tideway.compiler.ir"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local INT = { [1] = ctype.int.uint8_t, [2] = ctype.int.uint16_t, [4] = ctype.int.uint32_t }

--- The array type of a reference to an array; nil for other values.
---@return tideway.array?
function M.of(fv)
   return fv.k == "ptr" and arrays.by_ctype[fv.type.id] or nil
end

--- Refuses an index that is not proved to be 0 to count - 1.
function M.check_index(cx, key, count, what)
   if key.k == "int" and key.ir.type ~= "num" or value.is_wide_host(key) then
      cx:refuse("a 64-bit integer as an index", "convert it: tonumber(x)")
   end
   local lo, hi = cx:range(number.ir(cx, key, "an index"))
   if lo >= 0 and hi < count then return end
   local index = lo == hi and ("%.0f"):format(lo) or ("%.0f..%.0f"):format(lo, hi)
   cx:refuse(("index %s of %s: indexes are 0 to %d"):format(index, what, count - 1),
      "test the index first, or mask it with bit.band")
end

-- A pointer to the element.
local function element(cx, object, key)
   local array = M.of(object)
   memory.usable(cx, object)
   M.check_index(cx, key, array.count, array.name)
   local p = value.ptr(object.ir, object.off, INT[array.element_size], { gen = object.gen })
   return memory.add(cx, p, number.binary(cx, "*", key, value.host(array.element_size))), array
end

--- object[key]
function M.get(cx, object, key)
   local p, array = element(cx, object, key)
   local bits = array.element_size * 8
   return value.int(memory.swap(cx, memory.load(cx, p, 0, bits), bits, array.order))
end

--- object[key] = fv
function M.set(cx, object, key, fv)
   local p, array = element(cx, object, key)
   local bits = array.element_size * 8
   local what = "an element of " .. array.name
   local v = number.low_bits(cx, number.ir(cx, fv, what), what)
   memory.store(cx, p, 0, bits, memory.swap(cx, v, bits, array.order))
end

-- Sizes and offsets of the words that cover so many bytes.
local function words(size)
   local at = 0
   return function()
      if at >= size then return nil end
      local left, this = size - at, at
      local bytes = left >= 8 and 8 or left >= 4 and 4 or left >= 2 and 2 or 1
      at = at + bytes
      return this, bytes
   end
end
M.words = words

local function constant(text, at, bytes)
   local v, n = 0ULL, 0
   for i = bytes, 1, -1 do
      v = bit.bor(bit.lshift(v, 8), text:byte(at + i) + 0ULL)
      n = n * 256 + text:byte(at + i)
   end
   return bytes == 8 and ir.const(v, "u64") or ir.const(n)
end

-- How the words of an array are read: of a reference, or of a value known now.
local function reader(cx, array, fv)
   if fv.k == "ptr" and arrays.by_ctype[fv.type.id] == array then
      return function(at, bytes) return memory.load(cx, fv, at, bytes * 8) end
   end
   local text = fv.k == "host" and fv.v ~= nil and arrays.bytes(array, fv.v)
   if text then return function(at, bytes) return constant(text, at, bytes) end end
   local found = M.of(fv)
   cx:refuse(("%s is needed, this is %s"):format(array.name, found and found.name or value.describe(fv)),
      "arrays are copied and compared with others of the same type")
end

--- The words of an array: { offset, size, ir } each.
function M.pieces(cx, array, fv)
   local read, list = reader(cx, array, fv), {}
   for at, bytes in words(array.size) do list[#list + 1] = { offset = at, size = bytes, ir = read(at, bytes) } end
   return list
end

--- Copies a whole array to p + off.
function M.copy(cx, p, off, array, fv)
   local read = reader(cx, array, fv)
   for at, bytes in words(array.size) do memory.store(cx, p, off + at, bytes * 8, read(at, bytes)) end
end

--- The points behind a == b, one of which is an array.
function M.equal(cx, a, b)
   local array = M.of(a) or M.of(b)
   for _, fv in ipairs { a, b } do
      if fv.k == "host" and type(fv.v) ~= "cdata" and type(fv.v) ~= "string" then
         return nil, { block = cx.block, state = cx.state } -- as in Lua: another type
      end
   end
   local read_a, read_b = reader(cx, array, a), reader(cx, array, b)
   local join, differs = cx:join(), false
   for at, bytes in words(array.size) do
      local same, other = cx:split("eq", read_a(at, bytes), read_b(at, bytes))
      if other then
         cx:go(other)
         cx:jump(join)
         differs = true
      end
      if not same then
         cx:enter(join)
         return nil, { block = cx.block, state = cx.state }
      end
      cx:go(same)
   end
   local yes = { block = cx.block, state = cx.state }
   if not differs then return yes, nil end
   cx:die()
   cx:enter(join)
   local no = { block = cx.block, state = cx.state }
   return yes, no
end

return M
