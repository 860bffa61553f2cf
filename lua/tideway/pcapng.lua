-- SPDX-License-Identifier: BSD-3-Clause
-- Writes captures in pcapng, the format of Wireshark and tshark (draft-ietf-opsawg-pcapng): blocks as strings, one
-- behind the other, with times in nanoseconds.

local bit = require "bit"
local ffi = require "ffi"
local version = require "tideway.version"

local M = {
   --- Directions of a packet on its interface.
   INBOUND = 1, OUTBOUND = 2,
}

local SECTION, INTERFACE, STATISTICS, PACKET = 0x0a0d0d0a, 1, 5, 6
local ETHERNET = 1
local COMMENT, FLAGS = 1, 2
local NANOSECONDS = string.char(9)
local TEXT_MAX = 65535

local function u16(n) return string.char(bit.band(n, 255), bit.band(bit.rshift(n, 8), 255)) end

local function u32(n)
   return string.char(bit.band(n, 255), bit.band(bit.rshift(n, 8), 255), bit.band(bit.rshift(n, 16), 255),
      bit.band(bit.rshift(n, 24), 255))
end

local function halves(n)
   n = ffi.cast("uint64_t", n)
   return tonumber(n / 2 ^ 32), tonumber(n % 2 ^ 32)
end

local function u64(n)
   local high, low = halves(n)
   return u32(low) .. u32(high)
end

-- Times are two words, the high one first.
local function time(n)
   local high, low = halves(n)
   return u32(high) .. u32(low)
end

local function padding(length) return ("\0"):rep(-length % 4) end

local function option(code, value)
   if not value then return "" end
   value = value:sub(1, TEXT_MAX)
   return u16(code) .. u16(#value) .. value .. padding(#value)
end

-- The end mark only where there are options.
local function options(...)
   local text = table.concat { ... }
   return text == "" and "" or text .. u32(0)
end

local function block(kind, body)
   local length = u32(#body + 12)
   return u32(kind) .. length .. body .. length
end

--- The head of a capture.
---@param info? { hardware?: string, os?: string, comment?: string }
---@return string
function M.section(info)
   info = info or {}
   return block(SECTION, u32(0x1a2b3c4d) .. u16(1) .. u16(0) .. u32(-1) .. u32(-1) .. options(
      option(COMMENT, info.comment), option(2, info.hardware), option(3, info.os), option(4, "Tideway " .. version)))
end

--- An interface; the first one has number 0.
---@param info { name: string, description?: string, filter?: string, snaplen?: integer }
---@return string
function M.interface(info)
   local filter = info.filter and "\0" .. info.filter or nil
   return block(INTERFACE, u16(ETHERNET) .. u16(0) .. u32(info.snaplen or 0) .. options(option(2, info.name),
      option(3, info.description), option(9, NANOSECONDS), option(11, filter)))
end

local words = ffi.new "uint32_t[7]"
local words_of = ffi.typeof "const uint8_t *"

--- A packet.
---@param interface integer number
---@param at ffi.cdata* uint64_t, ns since 1970
---@param frame string|ffi.cdata* its bytes
---@param caplen integer bytes that are here
---@param length integer bytes of the whole frame
---@param direction? integer M.INBOUND, M.OUTBOUND
---@param comment? string
---@return string
function M.packet(interface, at, frame, caplen, length, direction, comment)
   local rest = options(option(COMMENT, comment), direction and option(FLAGS, u32(direction)) or "")
   local total = 32 + caplen + -caplen % 4 + #rest
   words[0], words[1], words[2] = PACKET, total, interface
   words[3], words[4] = halves(at)
   words[5], words[6] = caplen, length
   return table.concat { ffi.string(ffi.cast(words_of, words), 28), ffi.string(frame, caplen), padding(caplen), rest,
      u32(total) }
end

--- What became of an interface's packets; at the end.
---@param interface integer number
---@param at ffi.cdata* uint64_t, ns since 1970
---@param counts { start?: ffi.cdata*, received?: integer, dropped?: integer, accepted?: integer, delivered?: integer }
--- dropped: lost to the capture; accepted: by the filter
---@return string
function M.statistics(interface, at, counts)
   local function count(code, n) return n and option(code, u64(n)) or "" end
   return block(STATISTICS, u32(interface) .. time(at) .. options(
      counts.start and option(2, time(counts.start)) or "", option(3, time(at)), count(4, counts.received),
      count(5, counts.dropped), count(6, counts.accepted), count(8, counts.delivered)))
end

return M
