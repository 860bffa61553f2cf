-- SPDX-License-Identifier: BSD-3-Clause
-- A hash of three 32-bit words that compiles to straight code everywhere: the final mix of Jenkins' lookup3 (2006,
-- public domain), as in Linux' jhash_3words.

local bit = require "bit"

local bxor, rol, tobit = bit.bxor, bit.rol, bit.tobit

--- Hash of three words; every bit of each changes about half of the result's bits.
---@param a integer  of these three the low 32 bits count
---@param b integer
---@param c integer
---@return integer hash  signed, as bit.* has it
return function(a, b, c)
   c = tobit(bxor(c, b) - rol(b, 14))
   a = tobit(bxor(a, c) - rol(c, 11))
   b = tobit(bxor(b, a) - rol(a, 25))
   c = tobit(bxor(c, b) - rol(b, 16))
   a = tobit(bxor(a, c) - rol(c, 4))
   b = tobit(bxor(b, a) - rol(a, 14))
   c = tobit(bxor(c, b) - rol(b, 24))
   return c
end
