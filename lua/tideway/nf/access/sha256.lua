-- SPDX-License-Identifier: BSD-3-Clause
-- SHA-256 (FIPS 180-4), for passwords of access: short texts, a few times.

local bit = require "bit"

local M = {}
local band, bor, bxor, bnot = bit.band, bit.bor, bit.bxor, bit.bnot
local ror, rshift, tobit, tohex = bit.ror, bit.rshift, bit.tobit, bit.tohex

-- The first 32 bits of the fractional parts of roots of primes: cube roots for the rounds, square roots to begin with.
local function fraction(x) return tobit(math.floor((x % 1) * 2 ^ 32)) end

local ROUND, START = {}, {}

local function is_prime(n)
   for d = 2, math.floor(math.sqrt(n)) do
      if n % d == 0 then return false end
   end
   return true
end

do
   local n = 2
   while #ROUND < 64 do
      if is_prime(n) then
         ROUND[#ROUND + 1] = fraction(n ^ (1 / 3))
         if #START < 8 then START[#START + 1] = fraction(math.sqrt(n)) end
      end
      n = n + 1
   end
end

local function word(text, at)
   local a, b, c, d = text:byte(at, at + 3)
   return bor(bit.lshift(a, 24), bit.lshift(b, 16), bit.lshift(c, 8), d)
end

local function block(state, text, at)
   local w = {}
   for i = 1, 16 do w[i] = word(text, at + (i - 1) * 4) end
   for i = 17, 64 do
      local x, y = w[i - 15], w[i - 2]
      local s0 = bxor(ror(x, 7), ror(x, 18), rshift(x, 3))
      local s1 = bxor(ror(y, 17), ror(y, 19), rshift(y, 10))
      w[i] = tobit(w[i - 16] + s0 + w[i - 7] + s1)
   end
   local a, b, c, d, e, f, g, h = unpack(state)
   for i = 1, 64 do
      local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
      local choice = bxor(band(e, f), band(bnot(e), g))
      local t1 = tobit(h + s1 + choice + ROUND[i] + w[i])
      local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
      local majority = bxor(band(a, b), band(a, c), band(b, c))
      h, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + s0 + majority)
   end
   for i, value in ipairs { a, b, c, d, e, f, g, h } do state[i] = tobit(state[i] + value) end
end

--- Digest of a text.
---@param text string
---@return string hex 64 digits, lower case
function M.hex(text)
   local bits = #text * 8
   local tail = text .. "\128" .. ("\0"):rep((55 - #text) % 64)
   tail = tail .. string.char(0, 0, 0, 0, band(rshift(bits, 24), 255), band(rshift(bits, 16), 255),
      band(rshift(bits, 8), 255), band(bits, 255))
   local state = { unpack(START) }
   for at = 1, #tail, 64 do block(state, tail, at) end
   local out = {}
   for i = 1, 8 do out[i] = tohex(state[i]) end
   return table.concat(out)
end

return M
