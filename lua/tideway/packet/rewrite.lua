-- SPDX-License-Identifier: BSD-3-Clause
-- Transport checksums, and rewriting of addresses and ports with the checksums kept right:
-- RFC 1071 in full, RFC 1624 incrementally, RFC 768 and RFC 8200 8.1 for UDP's zero.
--
-- These are methods of tw_pkt: only the packet knows where its payload ends.

local ffi = require "ffi"
local bit = require "bit"
local checksum = require "tideway.packet.checksum"
local icmp = require("tideway.packet.icmp").icmp
local ipv4 = require("tideway.packet.ipv4").ipv4
local ipv6 = require("tideway.packet.ipv6").ipv6
local parse = require "tideway.packet.parse"
local transport = require "tideway.packet.transport"

local cast = ffi.cast
local band, bnot, bswap, lshift, rshift, tobit = bit.band, bit.bnot, bit.bswap, bit.lshift, bit.rshift, bit.tobit
local fold, halves, raw_sum = checksum.fold, checksum.halves, checksum.raw_sum
local replace16, replace32 = checksum.raw_replace16, checksum.raw_replace32
local l4, v4, v6 = parse.l4, parse.v4, parse.v6

local tcp_p, udp_p, icmp_p = transport.tcp.pointer, transport.udp.pointer, icmp.pointer
local ipv4_p, ipv6_p = ipv4.pointer, ipv6.pointer
local words_p = ffi.typeof "struct { const int32_t a, b, c, d; } __attribute__((packed)) *"

---@class tideway.pkt
local Pkt = {}

-- ---- whole checksums ----

-- Sum of the pseudo header (RFC 9293 3.1, RFC 8200 8.1) for a payload of `length` bytes.
local function pseudo_sum(d, protocol, length, off, family)
   local sum = lshift(protocol, 8) + rshift(bswap(length), 16) + rshift(length, 16)
   if family == 4 then
      local ip = cast(ipv4_p, d + off)
      return sum + halves(ip.raw_src) + halves(ip.raw_dst)
   end
   local s, t = cast(words_p, d + off + 8), cast(words_p, d + off + 24)
   return sum + halves(s.a) + halves(s.b) + halves(s.c) + halves(s.d) + halves(t.a) + halves(t.b) +
      halves(t.c) + halves(t.d)
end

-- Where the checksum of a transport header lies in it, and the length it covers.
local function covered(d, protocol, at, stop, family)
   local length = stop - at
   if protocol == 6 then
      if length < 20 then return nil end
      return 16, length
   elseif protocol == 17 then
      if length < 8 then return nil end
      local own = rshift(bswap(cast(udp_p, d + at).raw_length), 16)
      if own < 8 or own > length then return nil end
      return 6, own
   elseif (protocol == 1 and family == 4) or (protocol == 58 and family == 6) then
      if length < 8 then return nil end
      return 2, length
   end
   return nil
end

-- Offset of the checksum field, sum over everything it covers with it, protocol and family.
-- Not for a first fragment: it does not hold all of what its checksum covers.
local function l4_sum(p)
   local protocol, at, stop, family, off = l4(p)
   if not protocol or parse.is_fragment(p) then return nil end
   local d = p.data
   local field, length = covered(d, protocol, at, stop, family)
   if not field then return nil end
   local sum = raw_sum(d + at, length)
   if protocol ~= 1 then sum = sum + pseudo_sum(d, protocol, length, off, family) end
   return at + field, fold(sum), protocol, family
end

local u16_p = ffi.typeof "struct { uint16_t v; } __attribute__((packed)) *"

--- Compute the checksum of TCP, UDP, ICMP or ICMPv6 anew, pseudo header included. UDP over IPv4
--- gets one even if it had none.
---@return boolean done false for fragments, other protocols and lying lengths
function Pkt:update_l4_checksum()
   local at, sum, protocol = l4_sum(self)
   if not at then return false end
   local field = cast(u16_p, self.data + at)
   -- Take the old value out of the sum instead of writing a zero first.
   local value = band(bnot(fold(sum + band(bnot(field.v), 0xffff))), 0xffff)
   if value == 0 and protocol == 17 then value = 0xffff end
   field.v = value
   return true
end

--- A host leaves the checksum of TCP and UDP to its device: the field then has the sum of the pseudo header alone, and
--- a packet that never met the device keeps it. Such a checksum is computed.
---@return boolean done
function Pkt:complete_l4_checksum()
   local protocol, at, stop, family, off = l4(self)
   if (protocol ~= 6 and protocol ~= 17) or parse.is_fragment(self) then return false end
   local d = self.data
   local field, length = covered(d, protocol, at, stop, family)
   if not field then return false end
   if cast(u16_p, d + at + field).v ~= fold(pseudo_sum(d, protocol, length, off, family)) then return false end
   return (self:update_l4_checksum())
end

--- Is the checksum of TCP, UDP, ICMP or ICMPv6 right? A UDP checksum of 0 means "none" over IPv4
--- and is wrong over IPv6.
---@return boolean? valid nil for fragments, other protocols and lying lengths
function Pkt:valid_l4_checksum()
   local at, sum, protocol, family = l4_sum(self)
   if not at then return nil end
   if protocol == 17 and cast(u16_p, self.data + at).v == 0 then return family == 4 end
   return sum == 0xffff
end

-- ---- rewriting ----

-- Carry a change of the pseudo header over to the transport checksum at `at`.
local function adjust_l4(d, protocol, at, stop, old, new)
   if protocol == 6 then
      if at + 20 > stop then return end
      local tcp = cast(tcp_p, d + at)
      tcp.raw_checksum = replace32(tcp.raw_checksum, old, new)
   elseif protocol == 17 then
      if at + 8 > stop then return end
      local udp = cast(udp_p, d + at)
      local sum = udp.raw_checksum
      if sum == 0 then return end
      sum = replace32(sum, old, new)
      if sum == 0 then sum = 0xffff end
      udp.raw_checksum = sum
   elseif protocol == 58 then
      if at + 8 > stop then return end
      local message = cast(icmp_p, d + at)
      message.raw_checksum = replace32(message.raw_checksum, old, new)
   end
end

local function adjust_v4(d, ip, off, size, stop, old, new)
   ip.raw_checksum = replace32(ip.raw_checksum, old, new)
   local protocol = ip.protocol
   if protocol ~= 58 and band(ip.raw_frag, 0xff1f) == 0 then
      adjust_l4(d, protocol, off + size, stop, old, new)
   end
end

--- Write the IPv4 source address; header, TCP and UDP checksums follow.
---@param address number
---@return boolean done false when there is no valid IPv4 header
function Pkt:set_ipv4_src(address)
   local d = self.data
   local off, size, stop = v4(d, tobit(self.len))
   if not off then return false end
   local ip = cast(ipv4_p, d + off)
   local old, new = ip.raw_src, bswap(tobit(address))
   ip.raw_src = new
   adjust_v4(d, ip, off, size, stop, old, new)
   return true
end

--- Write the IPv4 destination address; header, TCP and UDP checksums follow.
---@param address number
---@return boolean done false when there is no valid IPv4 header
function Pkt:set_ipv4_dst(address)
   local d = self.data
   local off, size, stop = v4(d, tobit(self.len))
   if not off then return false end
   local ip = cast(ipv4_p, d + off)
   local old, new = ip.raw_dst, bswap(tobit(address))
   ip.raw_dst = new
   adjust_v4(d, ip, off, size, stop, old, new)
   return true
end

-- Sum of the address at `at`, one word that stands for it.
local function address_sum(d, at)
   local w = cast(words_p, d + at)
   return (fold(halves(w.a) + halves(w.b) + halves(w.c) + halves(w.d)))
end

-- The change of the IPv6 address at `at` goes into the transport checksum.
local function adjust_v6(d, off, stop, at, before)
   local protocol, l4_at = parse.walk(d, cast(ipv6_p, d + off).next_header, off + 40, stop, -1)
   if protocol then adjust_l4(d, protocol, l4_at, stop, before, address_sum(d, at)) end
end

--- Write the IPv6 source address; TCP, UDP and ICMPv6 checksums follow.
---@param address tideway.in6
---@return boolean done false when there is no valid IPv6 header
function Pkt:set_ipv6_src(address)
   local d = self.data
   local off, stop = v6(d, tobit(self.len))
   if not off then return false end
   local before = address_sum(d, off + 8)
   cast(ipv6_p, d + off).src = address
   adjust_v6(d, off, stop, off + 8, before)
   return true
end

--- Write the IPv6 destination address; TCP, UDP and ICMPv6 checksums follow.
---@param address tideway.in6
---@return boolean done false when there is no valid IPv6 header
function Pkt:set_ipv6_dst(address)
   local d = self.data
   local off, stop = v6(d, tobit(self.len))
   if not off then return false end
   local before = address_sum(d, off + 24)
   cast(ipv6_p, d + off).dst = address
   adjust_v6(d, off, stop, off + 24, before)
   return true
end

local function adjust_udp(udp, old, new)
   local sum = udp.raw_checksum
   if sum == 0 then return end
   sum = replace16(sum, old, new)
   if sum == 0 then sum = 0xffff end
   udp.raw_checksum = sum
end

-- ICMP queries carry an identifier where a port would stand (RFC 5508): echo, timestamp.
local function has_id(type, family)
   if family == 6 then return type == 128 or type == 129 end
   return type == 8 or type == 0 or type == 13 or type == 14
end

local function set_id(d, protocol, at, stop, family, id)
   if not ((protocol == 1 and family == 4) or (protocol == 58 and family == 6)) then return false end
   if at + 8 > stop then return false end
   local message = cast(icmp_p, d + at)
   if not has_id(message.type, family) then return false end
   local old = message.id
   message.id = id
   message.raw_checksum = replace16(message.raw_checksum, rshift(bswap(old), 16), rshift(bswap(tobit(id)), 16))
   return true
end

--- Write the source port of TCP or UDP, or the identifier of an ICMP query; the checksum follows.
---@param port number
---@return boolean done false when the packet has no port (other protocol, later fragment, truncated)
function Pkt:set_src_port(port)
   local protocol, at, stop, family = l4(self)
   if not protocol then return false end
   local d, new = self.data, rshift(bswap(tobit(port)), 16)
   if protocol == 6 then
      if at + 20 > stop then return false end
      local tcp = cast(tcp_p, d + at)
      local old = tcp.raw_src_port
      tcp.raw_src_port = new
      tcp.raw_checksum = replace16(tcp.raw_checksum, old, new)
      return true
   elseif protocol == 17 then
      if at + 8 > stop then return false end
      local udp = cast(udp_p, d + at)
      local old = udp.raw_src_port
      udp.raw_src_port = new
      adjust_udp(udp, old, new)
      return true
   end
   return (set_id(d, protocol, at, stop, family, port))
end

--- Write the destination port of TCP or UDP, or the identifier of an ICMP query; the checksum follows.
---@param port number
---@return boolean done false when the packet has no port
function Pkt:set_dst_port(port)
   local protocol, at, stop, family = l4(self)
   if not protocol then return false end
   local d, new = self.data, rshift(bswap(tobit(port)), 16)
   if protocol == 6 then
      if at + 20 > stop then return false end
      local tcp = cast(tcp_p, d + at)
      local old = tcp.raw_dst_port
      tcp.raw_dst_port = new
      tcp.raw_checksum = replace16(tcp.raw_checksum, old, new)
      return true
   elseif protocol == 17 then
      if at + 8 > stop then return false end
      local udp = cast(udp_p, d + at)
      local old = udp.raw_dst_port
      udp.raw_dst_port = new
      adjust_udp(udp, old, new)
      return true
   end
   return (set_id(d, protocol, at, stop, family, port))
end

return Pkt
