-- SPDX-License-Identifier: BSD-3-Clause
-- Link layer headers: Ethernet (IEEE 802.3), VLAN tags (IEEE 802.1Q, 802.1ad) and ARP (RFC 826).

local bit = require "bit"
local header = require "tideway.packet.header"

local M = {}
local band = bit.band

---@class tideway.eth
---@field dst number destination MAC
---@field src number source MAC
---@field type number EtherType; 0x8100 or 0x88a8 when a VLAN tag follows
local eth = {}

--- Exchange source and destination address.
function eth:swap()
   local dst_hi, dst_lo = self.raw_dst_hi, self.raw_dst_lo
   self.raw_dst_hi, self.raw_dst_lo = self.raw_src_hi, self.raw_src_lo
   self.raw_src_hi, self.raw_src_lo = dst_hi, dst_lo
end

--- Is the destination a group address (multicast or broadcast)?
---@return boolean
function eth:is_multicast() return band(self.raw_dst_hi, 1) ~= 0 end

--- Is the destination ff:ff:ff:ff:ff:ff?
---@return boolean
function eth:is_broadcast() return self.raw_dst_hi == 0xffff and self.raw_dst_lo == -1 end

M.eth = header.define_builtin("eth", "mac dst, src; be16 type", eth)

---@class tideway.vlan
---@field tci number pcp, dei and vid together
---@field pcp number priority, 0..7
---@field dei number drop eligible indicator, 0 or 1
---@field vid number VLAN id, 0..4095
---@field type number EtherType of what follows the tag
M.vlan = header.define_builtin("vlan", "be16 tci { u3 pcp; u1 dei; u12 vid }; be16 type")

---@class tideway.arp
---@field htype number hardware type, 1 for Ethernet
---@field ptype number protocol type, 0x0800 for IPv4
---@field hlen number 6
---@field plen number 4
---@field op number 1 request, 2 reply
---@field sha number sender MAC
---@field spa number sender IPv4 address
---@field tha number target MAC
---@field tpa number target IPv4 address
M.arp = header.define_builtin("arp", "be16 htype, ptype; u8 hlen, plen; be16 op; mac sha; ip4 spa; mac tha; ip4 tpa")

return M
