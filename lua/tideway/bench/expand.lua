-- SPDX-License-Identifier: BSD-3-Clause
-- The frames of traffic as plain strings, for contenders that no source feeds.

local bit = require "bit"
local ffi = require "ffi"

local M = {}

local KINDS = { [8] = "IPv4", [32] = "IPv6" } -- bytes of both addresses

-- ---- checksums (RFC 1071) ----

local function add(sum, bytes, from, to)
   for at = from, to - 1, 2 do
      sum = sum + bytes[at] * 256 + (at + 1 < to and bytes[at + 1] or 0)
   end
   return sum
end

local function u16(bytes, at) return bytes[at] * 256 + bytes[at + 1] end

-- Where the IP packet that the checksum is in ends.
local function end_of(sum, bytes)
   if sum.length then return sum.from + sum.length end
   local addresses = sum.pseudo and sum.pseudo[1]
   if addresses and KINDS[addresses[2]] == "IPv6" then
      local header = addresses[1] - 8
      return header + 40 + u16(bytes, header + 4)
   end
   local header = addresses and addresses[1] - 12 or sum.from - 20
   return header + u16(bytes, header + 2)
end

local function fill_sum(sum, bytes)
   local stop, total = end_of(sum, bytes), 0
   bytes[sum.at], bytes[sum.at + 1] = 0, 0
   total = add(total, bytes, sum.from, stop)
   for _, span in ipairs(sum.pseudo or {}) do total = add(total, bytes, span[1], span[1] + span[2]) end
   if sum.pseudo then total = total + (sum.protocol or 0) + stop - sum.from end
   while total > 0xffff do total = total % 65536 + math.floor(total / 65536) end
   total = 0xffff - total
   if sum.udp and total == 0 then total = 0xffff end
   bytes[sum.at], bytes[sum.at + 1] = math.floor(total / 256), total % 256
end

-- ---- fields ----

-- Looks random, and is always the same for i (Steele et al., Fast Splittable Pseudorandom Number Generators, 2014);
-- a source has other numbers.
local function mix(i, seed)
   local x = (i + 1ULL) * 0x9e3779b97f4a7c15ULL + (seed or 0)
   x = bit.bxor(x, bit.rshift(x, 30)) * 0xbf58476d1ce4e5b9ULL
   x = bit.bxor(x, bit.rshift(x, 27)) * 0x94d049bb133111ebULL
   return bit.bxor(x, bit.rshift(x, 31))
end

local function value_of(field, i)
   if field.scatter then return (field.base or 0) + 0ULL + mix(i, field.seed) % field.scatter end
   if field.list then return field.list[1 + i % #field.list] + 0ULL end
   return bit.rshift((field.base or 0) + 0ULL + (field.step or 1) * (i + 0ULL), field.right or 0)
end

local function fill_field(field, bytes, i)
   local value, mask = value_of(field, i), field.mask
   for k = 0, field.bytes - 1 do
      local shift, at = 8 * (field.bytes - 1 - k), field.at + k
      local byte = tonumber(bit.band(bit.rshift(value, shift), 0xff))
      local changed = mask and tonumber(bit.band(bit.rshift(mask + 0ULL, shift), 0xff)) or 0xff
      bytes[at] = bit.bor(bit.band(bytes[at], bit.bnot(changed)), bit.band(byte, changed))
   end
end

local function index_of(index, number)
   if index.kind == "random" then return tonumber(mix(number, index.seed) % index.n) end
   return math.floor(number / (index.every or 1)) % index.n
end

local function render(traffic, number)
   local nr = traffic.order and traffic.order[1 + number % #traffic.order] or 1 + number % #traffic.frames
   local frame = traffic.frames[nr]
   local bytes = ffi.new("uint8_t[?]", #frame)
   ffi.copy(bytes, frame, #frame)
   for _, field in ipairs(traffic.fields or {}) do
      fill_field(field, bytes, index_of(traffic.indexes[field.index], number))
   end
   for _, sum in ipairs(traffic.sums or {}) do fill_sum(sum, bytes) end
   return ffi.string(bytes, #frame)
end

-- What only a source makes.
local function cannot(traffic)
   if traffic.stamp then return "has stamps" end
   for _, index in ipairs(traffic.indexes or {}) do
      if index.kind == "zipf" then return "varies by Zipf's law" end
   end
end

-- Packets until all are as the first ones were.
local function period(traffic)
   local count = traffic.order and #traffic.order or #traffic.frames
   for _, index in ipairs(traffic.indexes or {}) do
      count = math.max(count, index.kind == "random" and math.huge or index.n * (index.every or 1))
   end
   return count
end

--- Frames of a contender's `packets`.
---@param packets string|string[]|table a frame, frames, or traffic (bench.packets)
---@param most integer at most so many of traffic
---@return string[]? frames
---@return string? error
function M.frames(packets, most)
   if type(packets) == "string" then return { packets } end
   if type(packets) ~= "table" then return nil, "packets are frames or bench.packets" end
   if not packets.frames then return packets end
   local why = cannot(packets)
   if why then
      return nil, ("the traffic %s, which only a source makes; let it vary in another way, or give frames"):format(why)
   end
   local list = {}
   for i = 0, math.min(most, period(packets)) - 1 do list[i + 1] = render(packets, i) end
   return list
end

return M
