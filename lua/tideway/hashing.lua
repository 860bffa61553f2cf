-- SPDX-License-Identifier: BSD-3-Clause
-- Hashing for NFs: of words, in code that compiles everywhere, and consistent hashing onto a ring.

local bit = require "bit"

local M = {}

local bxor, rol, tobit = bit.bxor, bit.rol, bit.tobit

--- Hash of three 32-bit words: the final mix of Jenkins' lookup3 (2006, public domain), as in Linux' jhash_3words;
--- every bit of each changes about half of the result's bits.
---@param a integer  of these three the low 32 bits count
---@param b integer
---@param c integer
---@return integer hash  signed, as bit.* has it
function M.jhash(a, b, c)
   c = tobit(bxor(c, b) - rol(b, 14))
   a = tobit(bxor(a, c) - rol(c, 11))
   b = tobit(bxor(b, a) - rol(a, 25))
   c = tobit(bxor(c, b) - rol(b, 16))
   a = tobit(bxor(a, c) - rol(c, 4))
   b = tobit(bxor(b, a) - rol(a, 14))
   c = tobit(bxor(c, b) - rol(b, 24))
   return c
end

-- FNV-1a in 32 bits, finished by the mix of MurmurHash3 so that similar names end far from each other.
local function hash(text, seed)
   local h = bit.bxor(0x811c9dc5, seed)
   for i = 1, #text do
      h = bit.bxor(h, text:byte(i))
      h = bit.tobit(h * 403 + bit.lshift(h, 24)) -- times 16777619
   end
   h = bit.bxor(h, bit.rshift(h, 16))
   h = bit.tobit(bit.band(h, 0xffff) * 0x85ebca6b + bit.lshift(bit.rshift(h, 16) * 0xca6b, 16))
   h = bit.bxor(h, bit.rshift(h, 13))
   return bit.bxor(h, bit.rshift(h, 16)) % 2 ^ 32
end

local function is_prime(n)
   for d = 2, math.floor(math.sqrt(n)) do
      if n % d == 0 then return false end
   end
   return n > 1
end

--- Consistent hashing by a look-up table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
--- Balancer", NSDI 2016, section 3.4). Fills a ring with names: each stands in it about as often, and few slots change
--- owner when a name comes or goes. The same names in any order give the same ring.
---@param names string[] no name twice
---@param size integer slots, a prime much larger than the number of names
---@return string[] ring `size` names; empty when there are none
function M.maglev(names, size)
   if type(size) ~= "number" or not is_prime(size) then
      error(("maglev: size is %s; it must be a prime such as 65537"):format(tostring(size)), 2)
   end
   local list, ring, next_of, offset, skip, filled = {}, {}, {}, {}, {}, 0
   for i, name in ipairs(names) do list[i] = name end
   table.sort(list)
   for i, name in ipairs(list) do
      offset[i], skip[i], next_of[i] = hash(name, 0) % size, hash(name, 0x5bd1e995) % (size - 1) + 1, 0
   end
   while #list > 0 and filled < size do
      for i, name in ipairs(list) do
         local slot
         repeat -- the next slot of this name's permutation that is still free
            slot = (offset[i] + next_of[i] * skip[i]) % size
            next_of[i] = next_of[i] + 1
         until not ring[slot + 1]
         ring[slot + 1], filled = name, filled + 1
         if filled == size then break end
      end
   end
   return ring
end

return M
