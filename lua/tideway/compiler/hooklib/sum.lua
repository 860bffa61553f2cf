-- SPDX-License-Identifier: BSD-3-Clause
-- Sums over bytes of the frame for hooks, which can't call the engine's C. In NF Lua: the compiler inlines them.

local ffi = require "ffi"
local bit = require "bit"
local checksum = require "tideway.packet.checksum"
local value = require "tideway.compiler.front.value"

local M = {}

local cast, band, bnot, lshift, rshift = ffi.cast, bit.band, bit.bnot, bit.lshift, bit.rshift
local fold = checksum.fold
local bytes_p, u16_p = ffi.typeof "uint8_t *", ffi.typeof "struct { uint16_t v; } __attribute__((packed)) *"

-- Longest run of bytes that is summed on a hook; packets with a longer one are dropped there.
local LONGEST = 2544

--- The packet is dropped, as out of reach; the compiler knows it.
function M.give_up() end
local give_up = M.give_up

--- The same number, with the verifier knowing its range only; the compiler knows it.
function M.blur(n) return n end
local blur = M.blur

local function of_bytes(data, length)
   local sum, at = 0, 0
   if length > LONGEST then
      give_up()
      return 0
   end
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

-- bpf_csum_diff over `size` bytes, a constant; the compiler knows it.
local csum_diff = require("tideway.bpf").csum_diff
local function csum(at, size) return csum_diff(nil, 0, at, size, 0) end

-- Parts that csum_diff takes at once, falling.
local CHUNKS = { 512, 512, 512, 256, 128, 64, 32, 16, 8, 4 }

local function of_chunks(data, length)
   local total, at = 0, 0
   if length > LONGEST then
      give_up()
      return 0
   end
   for _, size in ipairs(CHUNKS) do
      if length - at >= size then
         total = total + csum(data + at, size)
         at = at + size
      end
      at = blur(at)
   end
   if length - at >= 2 then
      total = total + cast(u16_p, data + at).v
      at = at + 2
   end
   if length - at >= 1 then total = total + data[at] end
   total = total % 65536 + math.floor(total / 65536)
   return (fold(total))
end

local words_p = ffi.typeof "struct { uint32_t a, b, c, d, e; } __attribute__((packed)) *"
local word_p = ffi.typeof "struct { uint32_t v; } __attribute__((packed)) *"
local u64 = ffi.typeof "uint64_t"

-- Sum over an IPv4 header with its options, `field` in place of the checksum, folded; nil when ihl is below 5.
local function header_sum(ip, field)
   local size, w = lshift(band(ip.raw_version, 15), 2) - 20, cast(words_p, ip)
   if size < 0 then return nil end
   local total = cast(u64, w.a) + cast(u64, w.b) + cast(u64, w.d) + cast(u64, w.e) + cast(u64, ip.ttl) +
      cast(u64, lshift(ip.protocol, 8)) + cast(u64, field)
   local data, at = cast(bytes_p, ip) + 20, 0
   while at < size do
      total = total + cast(u64, cast(word_p, data + at).v)
      at = at + 4
   end
   local sum = tonumber(band(total, 0xffffffffULL)) + tonumber(rshift(total, 32))
   sum = sum % 65536 + math.floor(sum / 65536)
   return (fold(sum))
end

--- ipv4:update_checksum() for hooks: fewer folds than the library's, which is written for LuaJIT.
function M.update_checksum(ip)
   local sum = header_sum(ip, 0)
   if not sum then return false end
   ip.raw_checksum = band(bnot(sum), 0xffff)
   return true
end

--- ipv4:valid_checksum() likewise.
function M.valid_checksum(ip)
   return header_sum(ip, ip.raw_checksum) == 0xffff
end

local function inlined(fn)
   return function(cx, ...)
      return require("tideway.compiler.front.call").inline_live(cx, fn, { ... })[1] or value.NIL
   end
end

M.of_bytes, M.of_chunks = inlined(of_bytes), inlined(of_chunks)
M.of_options = inlined(of_options)

return M
