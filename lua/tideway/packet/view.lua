-- SPDX-License-Identifier: BSD-3-Clause
-- The methods of a packet that give header views: each is entirely inside the frame, or nil.

local ffi = require "ffi"
local bit = require "bit"
local icmp = require "tideway.packet.icmp"
local link = require "tideway.packet.eth"
local network4 = require "tideway.packet.ipv4"
local network6 = require "tideway.packet.ipv6"
local parse = require "tideway.packet.parse"
local transport = require "tideway.packet.transport"
local tunnel = require "tideway.packet.tunnel"

local cast = ffi.cast
local band, bswap, lshift, rshift, tobit = bit.band, bit.bswap, bit.lshift, bit.rshift, bit.tobit
local l4, v4, v6, ethertype, remember = parse.l4, parse.v4, parse.v6, parse.ethertype, network4.remember

local eth_p, vlan_p, arp_p = link.eth.pointer, link.vlan.pointer, link.arp.pointer
local ipv4_p, ipv6_p, fragment_p = network4.ipv4.pointer, network6.ipv6.pointer, network6.fragment.pointer
local tcp_p, udp_p, sctp_p = transport.tcp.pointer, transport.udp.pointer, transport.sctp.pointer
local icmp_p, icmp6_p, nd_p = icmp.icmp.pointer, icmp.icmp6.pointer, icmp.nd.pointer
local gre_p, vxlan_p, mpls_p = tunnel.gre.pointer, tunnel.vxlan.pointer, tunnel.mpls.pointer

local RAW_8021Q, RAW_8021AD, RAW_ARP, RAW_MPLS, RAW_MPLS_UPSTREAM = 0x0081, 0xa888, 0x0608, 0x4788, 0x4888

---@class tideway.pkt
local Pkt = {}

-- ---- link layer ----

--- Ethernet header; nil for a frame shorter than 14 bytes.
---@return tideway.eth?
function Pkt:eth()
   if tobit(self.len) < 14 then return nil end
   return cast(eth_p, self.data)[0]
end

--- VLAN tag: the outermost, or the second one. Nil when the frame has no such tag.
---@param n? integer 1 (default) or 2
---@return tideway.vlan?
function Pkt:vlan(n)
   local d, len = self.data, tobit(self.len)
   if len < 18 then return nil end
   local type = cast(eth_p, d).raw_type
   if type ~= RAW_8021Q and type ~= RAW_8021AD then return nil end
   if n == nil or n == 1 then return cast(vlan_p, d + 14)[0] end
   if n ~= 2 or len < 22 then return nil end
   type = cast(vlan_p, d + 14).raw_type
   if type ~= RAW_8021Q and type ~= RAW_8021AD then return nil end
   return cast(vlan_p, d + 18)[0]
end

--- EtherType behind at most two VLAN tags; nil when the frame ends before it.
---@return number?
function Pkt:ethertype()
   local type = ethertype(self.data, tobit(self.len))
   if not type then return nil end
   return (rshift(bswap(type), 16))
end

--- ARP for IPv4 over Ethernet; nil for anything else.
---@return tideway.arp?
function Pkt:arp()
   local d, len = self.data, tobit(self.len)
   local type, off = ethertype(d, len)
   if type ~= RAW_ARP or off + 28 > len then return nil end
   local arp = cast(arp_p, d + off)
   if arp.raw_htype ~= 0x0100 or arp.raw_ptype ~= 0x0008 or arp.hlen ~= 6 or arp.plen ~= 4 then return nil end
   return arp[0]
end

--- MPLS label stack entry `n`, counted from the top; nil beyond the bottom of the stack.
---@param n? integer 1 (default) to 16
---@return tideway.mpls?
function Pkt:mpls(n)
   local d, len = self.data, tobit(self.len)
   local type, off = ethertype(d, len)
   if (type ~= RAW_MPLS and type ~= RAW_MPLS_UPSTREAM) or off + 4 > len then return nil end
   n = n or 1
   if not (n >= 1 and n <= 16) then return nil end
   for _ = 2, n do
      if band(rshift(bswap(cast(mpls_p, d + off).raw_entry), 8), 1) == 1 then return nil end
      off = off + 4
      if off + 4 > len then return nil end
   end
   return cast(mpls_p, d + off)[0]
end

-- ---- network layer ----

--- IPv4 header behind at most two VLAN tags. Nil unless version, header length and total length
--- agree with each other and with the frame. The checksum is not looked at.
---@return tideway.ipv4?
function Pkt:ipv4()
   local d, len = self.data, tobit(self.len)
   local off, size = v4(d, len)
   if not off then return nil end
   if size ~= 20 then remember(d, len) end
   return cast(ipv4_p, d + off)[0]
end

--- IPv6 header behind at most two VLAN tags. Nil unless the version is 6 and the payload length
--- fits the frame.
---@return tideway.ipv6?
function Pkt:ipv6()
   local d = self.data
   local off = v6(d, tobit(self.len))
   if not off then return nil end
   return cast(ipv6_p, d + off)[0]
end

--- Offset and length of an IPv4 option (RFC 791 3.1), type and length bytes included.
---@param kind integer option type byte: 148 router alert, 131 loose source route, ...
---@return integer? offset nil when the option is not there or the options are malformed
---@return integer? length
function Pkt:ipv4_option(kind)
   local d = self.data
   local off, size = v4(d, tobit(self.len))
   if not off or size == 20 then return nil end
   local at, length = parse.option(d, off + 20, off + size, kind)
   return at, length
end

--- Offset of an IPv6 extension header, found behind at most 8 others.
---@param next_header integer 0 hop-by-hop, 43 routing, 44 fragment, 60 destination options, 51 AH, ...
---@return integer? offset its first 8 bytes are inside the packet
function Pkt:ipv6_extension(next_header)
   local d = self.data
   local off, stop = v6(d, tobit(self.len))
   if not off then return nil end
   local found, at = parse.walk(d, cast(ipv6_p, d + off).next_header, off + 40, stop, next_header)
   if found ~= next_header or at + 8 > stop then return nil end
   return at
end

--- IPv6 fragment header (RFC 8200 4.5); nil when there is none.
---@return tideway.ipv6_fragment?
function Pkt:ipv6_fragment()
   local at = self:ipv6_extension(44)
   if not at then return nil end
   return cast(fragment_p, self.data + at)[0]
end

--- Is this IPv4 or IPv6 packet a part of a larger one, the first part included?
---@return boolean
function Pkt:is_fragment() return (parse.is_fragment(self)) end

-- ---- above ----

--- TCP header; nil when its data offset is below 5 or reaches beyond the IP packet.
---@return tideway.tcp?
function Pkt:tcp()
   local protocol, at, stop = l4(self)
   if protocol ~= 6 or at + 20 > stop then return nil end
   local tcp = cast(tcp_p, self.data + at)
   local size = lshift(rshift(tcp.raw_data_offset, 4), 2)
   if size < 20 or at + size > stop then return nil end
   return tcp[0]
end

--- Offset and length of a TCP option (RFC 9293 3.1), kind and length bytes included.
---@param kind integer 2 MSS, 3 window scale, 4 SACK permitted, 8 timestamps, ...
---@return integer? offset nil when the option is not there or the options are malformed
---@return integer? length
function Pkt:tcp_option(kind)
   local tcp = self:tcp()
   if not tcp then return nil end
   local _, first = l4(self)
   local at, length = parse.option(self.data, first + 20, first + lshift(rshift(tcp.raw_data_offset, 4), 2), kind)
   return at, length
end

--- UDP header. Its length field is not looked at.
---@return tideway.udp?
function Pkt:udp()
   local protocol, at, stop = l4(self)
   if protocol ~= 17 or at + 8 > stop then return nil end
   return cast(udp_p, self.data + at)[0]
end

--- SCTP common header.
---@return tideway.sctp?
function Pkt:sctp()
   local protocol, at, stop = l4(self)
   if protocol ~= 132 or at + 12 > stop then return nil end
   return cast(sctp_p, self.data + at)[0]
end

--- ICMP header (over IPv4).
---@return tideway.icmp?
function Pkt:icmp()
   local protocol, at, stop, family = l4(self)
   if protocol ~= 1 or family ~= 4 or at + 8 > stop then return nil end
   return cast(icmp_p, self.data + at)[0]
end

--- ICMPv6 header (over IPv6).
---@return tideway.icmp6?
function Pkt:icmp6()
   local protocol, at, stop, family = l4(self)
   if protocol ~= 58 or family ~= 6 or at + 8 > stop then return nil end
   return cast(icmp6_p, self.data + at)[0]
end

--- Neighbor solicitation or advertisement that RFC 4861 7.1 lets pass: hop limit 255, code 0.
---@return tideway.nd?
function Pkt:nd()
   local protocol, at, stop, family, off = l4(self)
   if protocol ~= 58 or family ~= 6 or at + 24 > stop then return nil end
   local d = self.data
   local nd = cast(nd_p, d + at)
   if (nd.type ~= 135 and nd.type ~= 136) or nd.code ~= 0 then return nil end
   if cast(ipv6_p, d + off).hop_limit ~= 255 then return nil end
   return nd[0]
end

--- Offset and length of an option of a neighbor solicitation or advertisement.
---@param kind integer 1 source, 2 target link-layer address (the MAC begins 2 bytes on)
---@return integer? offset
---@return integer? length bytes
function Pkt:nd_option(kind)
   if not self:nd() then return nil end
   local _, first, stop = l4(self)
   local at, length = parse.nd_option(self.data, first + 24, stop, kind)
   return at, length
end

--- GRE header, version 0.
---@return tideway.gre?
function Pkt:gre()
   local protocol, at, stop = l4(self)
   if protocol ~= 47 or at + 4 > stop then return nil end
   local gre = cast(gre_p, self.data + at)
   if band(gre.raw_flags, 0x0700) ~= 0 then return nil end
   return gre[0]
end

--- Key of a GRE packet (RFC 2890); nil when it has none.
---@return number?
function Pkt:gre_key()
   local gre = self:gre()
   if not gre or gre.has_key == 0 then return nil end
   local _, at, stop = l4(self)
   at = at + 4 + lshift(gre.has_checksum, 2)
   if at + 4 > stop then return nil end
   return (self:u32(at))
end

--- VXLAN header: UDP to the port, with a valid VNI.
---@param port? number 4789 by default
---@return tideway.vxlan?
function Pkt:vxlan(port)
   local protocol, at, stop = l4(self)
   if protocol ~= 17 or at + 16 > stop then return nil end
   local d = self.data
   if cast(udp_p, d + at).dst_port ~= (port or 4789) then return nil end
   local vxlan = cast(vxlan_p, d + at + 8)
   if band(vxlan.flags, 8) == 0 then return nil end
   return vxlan[0]
end

-- ---- at an offset: bounds checked, nothing else ----

--- A view of any header type at an offset; nil when it would not lie inside the frame.
---@param type tideway.header from tw.header or tw.headers
---@param offset? number bytes from the start of the frame; nil gives nil
---@return any
function Pkt:header(type, offset)
   if not offset or not (offset >= 0 and offset + type.size <= tobit(self.len)) then return nil end
   return cast(type.pointer, self.data + offset)[0]
end

--- Ethernet header at an offset, for tunnels.
---@param offset? number
---@return tideway.eth?
function Pkt:eth_at(offset)
   if not offset or not (offset >= 0 and offset + 14 <= tobit(self.len)) then return nil end
   return cast(eth_p, self.data + offset)[0]
end

--- IPv4 header at an offset, for ICMP errors and tunnels. Only its 20 bytes are known to be there.
---@param offset? number
---@return tideway.ipv4?
function Pkt:ipv4_at(offset)
   local len = tobit(self.len)
   if not offset or not (offset >= 0 and offset + 20 <= len) then return nil end
   local ip = cast(ipv4_p, self.data + offset)
   if band(ip.raw_version, 15) ~= 5 then remember(self.data, len) end
   return ip[0]
end

--- IPv6 header at an offset.
---@param offset? number
---@return tideway.ipv6?
function Pkt:ipv6_at(offset)
   if not offset or not (offset >= 0 and offset + 40 <= tobit(self.len)) then return nil end
   return cast(ipv6_p, self.data + offset)[0]
end

--- TCP header at an offset: all 20 bytes of it. ICMP errors may hold only 8: use `udp_at` for the ports.
---@param offset? number
---@return tideway.tcp?
function Pkt:tcp_at(offset)
   if not offset or not (offset >= 0 and offset + 20 <= tobit(self.len)) then return nil end
   return cast(tcp_p, self.data + offset)[0]
end

--- UDP header at an offset. Its ports lie where those of TCP and SCTP do.
---@param offset? number
---@return tideway.udp?
function Pkt:udp_at(offset)
   if not offset or not (offset >= 0 and offset + 8 <= tobit(self.len)) then return nil end
   return cast(udp_p, self.data + offset)[0]
end

--- ICMP header at an offset.
---@param offset? number
---@return tideway.icmp?
function Pkt:icmp_at(offset)
   if not offset or not (offset >= 0 and offset + 8 <= tobit(self.len)) then return nil end
   return cast(icmp_p, self.data + offset)[0]
end

--- ICMPv6 header at an offset.
---@param offset? number
---@return tideway.icmp6?
function Pkt:icmp6_at(offset)
   if not offset or not (offset >= 0 and offset + 8 <= tobit(self.len)) then return nil end
   return cast(icmp6_p, self.data + offset)[0]
end

return Pkt
