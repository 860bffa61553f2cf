-- SPDX-License-Identifier: BSD-3-Clause
-- The methods of a packet that give offsets, and read and write plain numbers at them.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local barrier = require "tideway.packet.barrier"
local icmp = require "tideway.packet.icmp"
local parse = require "tideway.packet.parse"
local transport = require "tideway.packet.transport"
local tunnel = require "tideway.packet.tunnel"

local C = abi.C
local cast = ffi.cast
local bswap, lshift, rshift, tobit = bit.bswap, bit.lshift, bit.rshift, bit.tobit
local l4 = parse.l4

local u16_p = ffi.typeof "struct { uint16_t v; } __attribute__((packed)) *"
local i32_p = ffi.typeof "struct { int32_t v; } __attribute__((packed)) *"
local macs_p = ffi.typeof "struct { int32_t a, b, c; } __attribute__((packed)) *"
local tcp_p, icmp_p, gre_p = transport.tcp.pointer, icmp.icmp.pointer, tunnel.gre.pointer
local u32 = ffi.typeof "uint32_t"

---@class tideway.pkt
local Pkt = {}

-- ---- offsets ----

--- Offset of what follows the Ethernet header and at most two VLAN tags; nil when they do not fit.
---@return integer?
function Pkt:l3_offset()
   local _, off = parse.ethertype(self.data, tobit(self.len))
   return off
end

--- Offset of the header above IP (behind IPv6 extension headers). Nil for what is no valid IP
--- packet and for fragments but the first. The header may still be truncated: its view tells.
---@return integer?
function Pkt:l4_offset()
   local _, at = l4(self)
   return at
end

--- Protocol number of the header above IP, behind IPv6 extension headers; nil as for l4_offset.
---@return number?
function Pkt:l4_protocol()
   local protocol = l4(self)
   return protocol
end

-- Bytes of the header above IP, nil when it does not lie inside the packet.
local function l4_size(d, protocol, at, stop)
   local size = 0
   if protocol == 6 then
      if at + 20 > stop then return nil end
      size = lshift(rshift(cast(tcp_p, d + at).raw_data_offset, 4), 2)
      if size < 20 then return nil end
   elseif protocol == 17 or protocol == 1 or protocol == 58 then
      size = 8
   elseif protocol == 132 then
      size = 12
   elseif protocol == 47 then
      if at + 4 > stop then return nil end
      local gre = cast(gre_p, d + at)
      if gre.has_routing == 1 or gre.version ~= 0 then return nil end
      size = 4 + lshift(gre.has_checksum + gre.has_key + gre.has_seq, 2)
   end
   if at + size > stop then return nil end
   return size
end

--- Offset of the bytes above TCP, UDP, SCTP, ICMP or GRE, and how many the IP packet has there.
--- For other protocols that of the header above IP.
---@return integer? offset
---@return integer? length bytes
function Pkt:payload_offset()
   local protocol, at, stop = l4(self)
   if not protocol then return nil end
   local size = l4_size(self.data, protocol, at, stop)
   if not size then return nil end
   return at + size, stop - at - size
end

--- Offset of the IP packet that an ICMP or ICMPv6 error is about; its fixed header is inside.
---@return integer? offset nil when this is no error message or what it holds is too short
function Pkt:icmp_inner_offset()
   local protocol, at, stop, family = l4(self)
   if protocol == 1 and family == 4 then
      if at + 28 > stop or not cast(icmp_p, self.data + at):is_error() then return nil end
      return at + 8
   elseif protocol == 58 and family == 6 then
      if at + 48 > stop or cast(icmp_p, self.data + at).type >= 128 then return nil end
      return at + 8
   end
   return nil
end

-- ---- numbers at an offset ----

local function inside(p, offset, size)
   return offset ~= nil and offset >= 0 and offset + size <= tobit(p.len)
end

--- Byte at an offset; nil outside the frame.
---@param offset? number
---@return number?
function Pkt:u8(offset)
   if not inside(self, offset, 1) then return nil end
   barrier()
   return self.data[offset]
end

--- Big-endian 16-bit number at an offset; nil outside the frame.
---@param offset? number
---@return number?
function Pkt:u16(offset)
   if not inside(self, offset, 2) then return nil end
   barrier()
   return (rshift(bswap(cast(u16_p, self.data + offset).v), 16))
end

--- Big-endian 32-bit number at an offset; nil outside the frame.
---@param offset? number
---@return number?
function Pkt:u32(offset)
   if not inside(self, offset, 4) then return nil end
   barrier()
   return (tonumber(cast(u32, bswap(cast(i32_p, self.data + offset).v))))
end

--- MAC address at an offset; nil outside the frame.
---@param offset? number
---@return number?
function Pkt:u48(offset)
   if not inside(self, offset, 6) then return nil end
   barrier()
   local at = self.data + offset
   return rshift(bswap(cast(u16_p, at).v), 16) * 2 ^ 32 + tonumber(cast(u32, bswap(cast(i32_p, at + 2).v)))
end

--- Write a byte.
---@param offset? number
---@param value number truncated to 8 bits
---@return boolean done false outside the frame
function Pkt:set_u8(offset, value)
   if not inside(self, offset, 1) then return false end
   self.data[offset] = tobit(value)
   barrier()
   return true
end

--- Write a big-endian 16-bit number.
---@param offset? number
---@param value number truncated to 16 bits
---@return boolean done false outside the frame
function Pkt:set_u16(offset, value)
   if not inside(self, offset, 2) then return false end
   cast(u16_p, self.data + offset).v = rshift(bswap(tobit(value)), 16)
   barrier()
   return true
end

--- Write a big-endian 32-bit number.
---@param offset? number
---@param value number truncated to 32 bits
---@return boolean done false outside the frame
function Pkt:set_u32(offset, value)
   if not inside(self, offset, 4) then return false end
   cast(i32_p, self.data + offset).v = bswap(tobit(value))
   barrier()
   return true
end

--- Write a MAC address.
---@param offset? number
---@param value number 48 bits
---@return boolean done false outside the frame
function Pkt:set_u48(offset, value)
   if not inside(self, offset, 6) then return false end
   self:set_u16(offset, math.floor(value * 2 ^ -32))
   return (self:set_u32(offset + 2, value))
end

-- ---- size ----

--- Move the start of the frame, as bpf_xdp_adjust_head: negative makes room in front. Views and
--- offsets taken before are invalid after it.
---@param delta integer bytes
---@return boolean done false when there is no room, or nothing would be left
function Pkt:adjust_head(delta) return C.tw_pkt_adjust_head(self, delta) == 0 end

--- Move the end of the frame, as bpf_xdp_adjust_tail: positive makes room at the end.
---@param delta integer bytes
---@return boolean done false when there is no room, or nothing would be left
function Pkt:adjust_tail(delta) return C.tw_pkt_adjust_tail(self, delta) == 0 end

--- Put a VLAN tag in front of those there are. Views taken before are invalid after it.
---@param tci number tag control information; a VLAN id for priority 0
---@param type? number 0x8100 (default) or 0x88a8
---@return boolean done false when there is no room
function Pkt:push_vlan(tci, type)
   if tobit(self.len) < 14 or not self:adjust_head(-4) then return false end
   local d = self.data
   barrier()
   local from, to = cast(macs_p, d + 4), cast(macs_p, d)
   local a, b, c = from.a, from.b, from.c
   to.a, to.b, to.c = a, b, c
   cast(u16_p, d + 12).v = rshift(bswap(tobit(type or 0x8100)), 16)
   cast(u16_p, d + 14).v = rshift(bswap(tobit(tci)), 16)
   barrier()
   return true
end

--- Take the outermost VLAN tag away. Views taken before are invalid after it.
---@return boolean done false when there is none
function Pkt:pop_vlan()
   if not self:vlan() then return false end
   local d = self.data
   barrier()
   local from, to = cast(macs_p, d), cast(macs_p, d + 4)
   local a, b, c = from.a, from.b, from.c
   to.a, to.b, to.c = a, b, c
   barrier()
   return (self:adjust_head(4))
end

return Pkt
