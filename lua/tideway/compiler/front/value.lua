-- SPDX-License-Identifier: BSD-3-Clause
-- What the compiler knows of a Lua value while it walks a function.
--
-- | k | is | fields |
-- | host | a value known now: nil, booleans, strings, functions, tables, numbers, cdata | v |
-- | int | an integer in the program | ir (num: a Lua number; u64, i64: cdata) |
-- | ptr | a reference to a struct (view, entry of a table) or a C pointer | ir, off, type, ref, nilable, gen, shape |
-- | tagged | one of nil, false, true or `val`, told apart by an IR number | tag, val, set (bit per tag that may be) |
-- | choice | one of several strings, functions or tables | ir (index in the context's choices), set |
-- | quotient | a / b, for math.floor | a, b |
-- | pkt | the packet | |
-- | closure | a function made inside the function being compiled | node, env, chunk |
-- | conflict | what can't be known after paths met; an error when used | why |

local bit = require "bit"

local M = {}

M.TAG_NIL, M.TAG_FALSE, M.TAG_TRUE, M.TAG_VALUE = 0, 1, 2, 3

function M.host(v) return { k = "host", v = v } end
function M.int(ir) return { k = "int", ir = ir } end
function M.tagged(tag, val, set) return { k = "tagged", tag = tag, val = val, set = set } end
function M.conflict(why) return { k = "conflict", why = why } end

---@param ir tideway.ir.value base pointer
---@param off integer constant bytes from it
---@param type tideway.ctype what it points to
---@param fields? table ref, nilable, gen (pkt), shape (a header type or table type: how fields read)
function M.ptr(ir, off, type, fields)
   local p = fields or {}
   p.k, p.ir, p.off, p.type = "ptr", ir, off, type
   return p
end

M.NIL, M.TRUE, M.FALSE = M.host(nil), M.host(true), M.host(false)
M.PKT = { k = "pkt" }

function M.is_host(fv, v) return fv.k == "host" and fv.v == v end
function M.is_number(fv) return fv.k == "int" or (fv.k == "host" and (type(fv.v) == "number" or M.is_wide_host(fv))) end

local ffi = require "ffi"
local i64, u64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

--- A 64-bit integer known now?
function M.is_wide_host(fv)
   return fv.k == "host" and type(fv.v) == "cdata" and (ffi.istype(i64, fv.v) or ffi.istype(u64, fv.v))
end

--- "i64" or "u64" of a 64-bit cdata.
function M.wide_type(v) return ffi.istype(u64, v) and "u64" or "i64" end

--- What the value is, for messages.
function M.describe(fv)
   if fv.k == "host" then
      local t = type(fv.v)
      if t == "string" then return ("the string %q"):format(fv.v) end
      if t == "nil" or t == "boolean" or t == "number" then return tostring(fv.v) end
      return "a " .. t
   elseif fv.k == "int" then
      return "a number"
   elseif fv.k == "ptr" then
      local what = fv.shape and fv.shape.name and ("a view of %s"):format(fv.shape.name) or "a reference"
      return fv.nilable and what .. " or nil" or what
   elseif fv.k == "tagged" then
      local list = { fv.val and M.describe(fv.val) }
      if bit.band(fv.set, 6) ~= 0 then list[#list + 1] = "a boolean" end
      if bit.band(fv.set, 1) ~= 0 then list[#list + 1] = "nil" end
      return table.concat(list, " or ")
   elseif fv.k == "pkt" then
      return "the packet"
   elseif fv.k == "closure" then
      return "a function"
   end
   return "a value that depends on the path"
end

return M
