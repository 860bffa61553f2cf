-- SPDX-License-Identifier: BSD-3-Clause
-- The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
--
-- One's complement sums do not care about byte order as long as all words have the same one. So
-- the functions on raw values work on words as they lie in the frame, without a swap; those that
-- users call (tw.csum) take and return host numbers.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local barrier = require "tideway.packet.barrier"

local C = abi.C

local M = {}
local cast = ffi.cast
local band, bnot, bswap, rshift, tobit = bit.band, bit.bnot, bit.bswap, bit.rshift, bit.tobit

local bytes_p = ffi.typeof "const uint8_t *"

-- Fold a sum of less than 2^31 to 16 bits.
local function fold(sum)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return band(sum, 0xffff) + rshift(sum, 16)
end
M.fold = fold

--- One's complement sum of `length` bytes, words as they lie in memory, folded to 16 bits. The caller has checked
--- that the bytes are there. In C: a loop in Lua inside an NF's trace would keep LuaJIT from compiling it.
---@param data ffi.cdata* const uint8_t *
---@param length integer bytes
---@return integer
local function raw_sum(data, length)
   barrier()
   return (C.tw_raw_sum(data, length))
end
M.raw_sum = raw_sum

-- The two 16-bit halves of a word, added.
local function halves(word) return band(word, 0xffff) + rshift(word, 16) end
M.halves = halves

--- New raw checksum after a 16-bit word changed from `old` to `new` (RFC 1624 eqn. 3).
---@param sum integer raw checksum
---@param old integer raw word
---@param new integer raw word
---@return integer
function M.raw_replace16(sum, old, new)
   return (band(bnot(fold(band(bnot(sum), 0xffff) + band(bnot(old), 0xffff) + band(new, 0xffff))), 0xffff))
end

--- The same for a 32-bit word.
---@param sum integer raw checksum
---@param old integer raw word
---@param new integer raw word
---@return integer
local function raw_replace32(sum, old, new)
   return (band(bnot(fold(band(bnot(sum), 0xffff) + halves(bnot(old)) + halves(new))), 0xffff))
end

M.raw_replace32 = raw_replace32

--- New checksum after a 16-bit field it covers changed (RFC 1624). Host numbers.
--- For UDP the caller minds that 0 means "none": see `pkt:set_src_port` for the ready-made thing.
---@param sum number checksum field, 0..65535
---@param old number
---@param new number
---@return number
M.replace16 = M.raw_replace16

--- New checksum after a 32-bit field it covers changed (RFC 1624). Host numbers.
---@param sum number checksum field, 0..65535
---@param old number 0..2^32-1
---@param new number 0..2^32-1
---@return number
function M.replace32(sum, old, new) return (raw_replace32(sum, tobit(old), tobit(new))) end

--- How a sum changes with a 32-bit field, a number to add to other changes and to give to `apply`. For several fields
--- under one checksum this costs less than one replace after the other. Host numbers.
---@param old number 0..2^32-1
---@param new number 0..2^32-1
---@return number change 0..4 * 65535
function M.change32(old, new) return halves(bnot(tobit(old))) + halves(tobit(new)) end

--- The same for a 16-bit field.
---@param old number 0..65535
---@param new number 0..65535
---@return number change 0..2 * 65535
function M.change16(old, new) return band(bnot(old), 0xffff) + band(new, 0xffff) end

--- New checksum after changes (RFC 1624 eqn. 3). For UDP the caller minds that 0 means "none".
---@param sum number checksum field, 0..65535
---@param change number sum of what change16 and change32 gave, below 2^31
---@return number
function M.apply(sum, change) return (band(bnot(fold(band(bnot(sum), 0xffff) + change)), 0xffff)) end

local function to_bytes(data, length)
   if type(data) == "string" then
      length = length or #data
      if not (length >= 0 and length <= #data) then
         error(("csum: length %s of a string of %d bytes"):format(tostring(length), #data), 3)
      end
   end
   return cast(bytes_p, data), length
end

--- Internet checksum of a string, or of memory the caller owns (RFC 1071).
---@param data string|ffi.cdata*
---@param length? integer bytes; required for memory
---@return number checksum host number
function M.compute(data, length)
   local bytes, count = to_bytes(data, length)
   return (band(bnot(rshift(bswap(raw_sum(bytes, count)), 16)), 0xffff))
end

return M
