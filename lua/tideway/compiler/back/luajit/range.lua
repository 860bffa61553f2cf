-- SPDX-License-Identifier: BSD-3-Clause
-- What the ranges of IR values say, and numbers as Lua code.

local ffi = require "ffi"

local M = {}

--- Is a value always in lo..hi?
function M.within(v, lo, hi) return v.lo ~= nil and v.lo >= lo and v.hi <= hi end

function M.is_i32(v) return M.within(v, -2 ^ 31, 2 ^ 31 - 1) end
function M.is_u32(v) return M.within(v, 0, 2 ^ 32 - 1) end

--- As a shift count: always below 32.
function M.is_short(v) return M.within(v, 0, 31) end

--- The number of a constant.
function M.constant_of(v) return v.op == "const" and type(v.value) == "number" and v.value or nil end

--- n of a constant 2^n.
function M.power_of_two(v)
   local n = M.constant_of(v)
   local _, e = math.frexp(n or 0)
   return n and n > 0 and n == 2 ^ (e - 1) and e - 1 or nil
end

--- An integer as Lua code.
function M.number(n) return n < 0 and ("(%.0f)"):format(n) or ("%.0f"):format(n) end

--- The low 32 bits of an integer, number or cdata, as bit.tobit() would give them.
function M.tobit(n) return tonumber(ffi.cast("int32_t", ffi.cast("int64_t", n))) end

return M
