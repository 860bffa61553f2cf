-- SPDX-License-Identifier: BSD-3-Clause
-- Sums over bytes of the frame for hooks, which can't call the engine's C. In NF Lua: the compiler inlines them.

local ffi = require "ffi"
local bit = require "bit"
local checksum = require "tideway.packet.checksum"
local value = require "tideway.compiler.front.value"

local M = {}

local cast, band, rshift = ffi.cast, bit.band, bit.rshift
local fold = checksum.fold
local bytes_p, u16_p = ffi.typeof "uint8_t *", ffi.typeof "struct { uint16_t v; } __attribute__((packed)) *"

-- As of a frame no longer than this; longer ones are refused by the verifier's budget anyway.
local LONGEST = 1600

local function of_bytes(data, length)
   local sum, at = 0, 0
   length = math.min(length, LONGEST)
   while at + 2 <= length do
      sum = sum + cast(u16_p, data + at).v
      at = at + 2
   end
   if band(length, 1) == 1 then sum = sum + data[length - 1] end
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return (fold(sum))
end

local function of_options(ip, size)
   local data, sum, at = cast(bytes_p, ip) + 20, 0, 0
   while at < size do
      sum = sum + cast(u16_p, data + at).v + cast(u16_p, data + at + 2).v
      at = at + 4
   end
   return (fold(sum))
end

local function inlined(fn)
   return function(cx, ...)
      return require("tideway.compiler.front.call").inline_live(cx, fn, { ... })[1] or value.NIL
   end
end

M.of_bytes = inlined(of_bytes)
M.of_options = inlined(of_options)

return M
