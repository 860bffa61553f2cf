-- SPDX-License-Identifier: BSD-3-Clause
-- Values of the program as C: names of variables, constants, addresses.

local bit = require "bit"
local ffi = require "ffi"

local M = {}

--- C types by the program's.
M.TYPES = { num = "int64_t", u64 = "uint64_t", i64 = "int64_t", ptr = "uint8_t *" }

--- The first letter of variables.
M.letter = "v"

--- A C object's address as a number.
function M.address_of(object)
   if type(object) == "number" then return object end
   return tonumber(ffi.cast("uintptr_t", object))
end

local function constant(c)
   if c.type == "ptr" then
      local object = c.object
      return ("((uint8_t *)0x%xULL)"):format(M.address_of(object and (object.table or object.address) or c.value))
   end
   if c.type == "num" then return ("(%.0fLL)"):format(tonumber(c.value)) end
   local hex = bit.tohex(ffi.cast("uint64_t", ffi.cast("int64_t", c.value)))
   return ("((%s)0x%sULL)"):format(M.TYPES[c.type], hex)
end

--- A value.
---@param v tideway.ir.value
---@return string
function M.operand(v) return v.op == "const" and constant(v) or M.letter .. v.id end

--- A pointer and an offset.
---@param v tideway.ir.value
---@param off? integer
---@return string
function M.address(v, off)
   off = off or 0
   return off == 0 and M.operand(v) or ("%s %s %d"):format(M.operand(v), off < 0 and "-" or "+", math.abs(off))
end

return M
