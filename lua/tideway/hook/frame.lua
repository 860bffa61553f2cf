-- SPDX-License-Identifier: BSD-3-Clause
-- Packets in the control thread: a struct tw_pkt over a buffer of its own, with room to grow at both ends.

local bit = require "bit"
local ffi = require "ffi"
require "tideway.packet"
local place = require "tideway.compiler.place.punt"

local M = {}

local HEADROOM, TAILROOM = 256, 256
local packet_t, packet_size = ffi.typeof "struct tw_pkt", ffi.sizeof "struct tw_pkt"

---@class tideway.hook.frame
---@field pkt tideway.pkt
---@field room ffi.cdata* the buffer
---@field ifindex integer where a packet was punted; 0: made here
---@field egress boolean punted on its way out of that interface
---@field vlan_proto integer of the tag that the kernel took out of the frame, in network order, 0: none
---@field vlan_tci integer
---@field watched integer number of a packet that is followed (compiler/place/watch/), 0: it is not

--- A packet of zeros.
---@param len? integer default: room for the longest frame
---@return tideway.hook.frame
function M.new(len)
   local size = HEADROOM + (len or place.FRAME) + TAILROOM
   local frame = {
      pkt = packet_t(), room = ffi.new("uint8_t[?]", size), size = size, ifindex = 0, egress = false, vlan_proto = 0,
      vlan_tci = 0, watched = 0,
   }
   local pkt = frame.pkt
   pkt.data, pkt.len = frame.room + HEADROOM, len or 0
   pkt.room, pkt.room_end = frame.room, frame.room + size
   return frame
end

--- What a program punted.
---@param frame tideway.hook.frame one with room for the longest frame
---@param record ffi.cdata*
function M.fill(frame, record)
   local pkt = frame.pkt
   ffi.fill(pkt, packet_size)
   pkt.data, pkt.len = frame.room + HEADROOM, record.length
   pkt.room, pkt.room_end = frame.room, frame.room + frame.size
   pkt.port, pkt.out, pkt.mark = record.port, record.out, record.mark
   ffi.copy(pkt.data, record.frame, record.length)
   pkt:complete_l4_checksum()
   frame.ifindex, frame.egress = record.ifindex, record.egress ~= 0
   frame.vlan_proto, frame.vlan_tci, frame.watched = record.vlan_proto, record.vlan_tci, record.watched
end

--- A packet that stays.
---@return tideway.hook.frame
function M.copy(frame)
   local from = frame.pkt
   local copy = M.new(from.len)
   local pkt = copy.pkt
   ffi.copy(pkt.data, from.data, from.len)
   pkt.port, pkt.out, pkt.mark = from.port, from.out, from.mark
   for _, field in ipairs { "ifindex", "egress", "vlan_proto", "vlan_tci" } do copy[field] = frame[field] end
   return copy
end

--- Puts the tag back that the kernel had taken out.
function M.put_tag(frame)
   if frame.vlan_proto == 0 then return end
   local type = bit.rshift(bit.bswap(frame.vlan_proto), 16)
   if not frame.pkt:push_vlan(frame.vlan_tci, type) then error("no room for a VLAN tag", 0) end
   frame.vlan_proto = 0
end

return M
