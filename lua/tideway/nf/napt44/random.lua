-- SPDX-License-Identifier: BSD-3-Clause
-- Numbers that an observer cannot foretell, from a secret and the packet in hand (RFC 6056).

local bit = require "bit"

local M = {}

local bxor, rol, tobit, band = bit.bxor, bit.rol, bit.tobit, bit.band

local function secret()
   local file = assert(io.open("/dev/urandom", "rb"))
   local bytes = file:read(8)
   file:close()
   local word = {}
   for i = 0, 1 do
      local a, b, c, d = bytes:byte(i * 4 + 1, i * 4 + 4)
      word[i + 1] = tobit(a + b * 2 ^ 8 + c * 2 ^ 16 + d * 2 ^ 24)
   end
   return word[1], word[2]
end

--- A keyed pseudo-random function: HalfSipHash-2-4 (Aumasson and Bernstein) of three words. It needs
--- no state, so lcores need not share one; the time makes it another number at the next call.
---@return fun(a: number, b: number, c: number): number draw a and b below 2^32, c a time in ns; 0 to 2^31 - 1
function M.new()
   local k0, k1 = secret()

   return function(a, b, c)
      local v0, v1, v2, v3 = k0, k1, bxor(0x6c796765, k0), bxor(0x74656462, k1)
      local word = tobit(a)
      -- Rounds 1 to 8 take in four words, two rounds each; 9 to 12 finish.
      for round = 1, 12 do
         if band(round, 1) == 1 and round < 9 then
            if round == 3 then word = tobit(b) end
            if round == 5 then word = tobit(c % 4294967296) end
            if round == 7 then word = 0x0c000000 end
            v3 = bxor(v3, word)
         end
         v0 = tobit(v0 + v1)
         v2 = tobit(v2 + v3)
         v1 = bxor(rol(v1, 5), v0)
         v3 = bxor(rol(v3, 8), v2)
         v0 = tobit(rol(v0, 16) + v3)
         v2 = tobit(v2 + v1)
         v3 = bxor(rol(v3, 7), v0)
         v1 = bxor(rol(v1, 13), v2)
         v2 = rol(v2, 16)
         if band(round, 1) == 0 and round < 9 then
            v0 = bxor(v0, word)
            if round == 8 then v2 = bxor(v2, 0xff) end
         end
      end
      return band(bxor(v1, v3), 0x7fffffff)
   end
end

return M
