-- SPDX-License-Identifier: BSD-3-Clause
-- Answers to rejected packets: TCP RST (RFC 9293 3.10.7.1), ICMP communication administratively prohibited
-- (RFC 1812 5.2.7.1, RFC 4443 3.1). They leave by the port the packet came from, to the station that sent it.

local tw = require "tideway"
local bit = require "bit"

local M = {}

local band = bit.band
local headers = tw.headers
local ICMP, TCP, ICMP6 = 1, 6, 58
local FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
local PORT_NONE = 0xffff
local HOPS = 64
-- Bytes of the packet that an error quotes at most (RFC 1812 4.3.2.3, RFC 4443 2.4 c).
local QUOTE4, QUOTE6 = 576 - 20 - 8, 1280 - 40 - 8

-- ---- who gets no answer ----

-- RFC 1122 3.2.2: not to a group or broadcast, and only to one host.
local function answerable4(ip)
   local src, dst = ip.src, ip.dst
   return src >= 0x01000000 and src < 0xe0000000 and band(src, 0xff000000) ~= 0x7f000000 and dst < 0xe0000000
end

-- RFC 4443 2.4 e.
local function answerable6(ip)
   return not ip.src:is_multicast() and not ip.src:is_unspecified() and not ip.dst:is_multicast()
end

-- Behind a router the frame no longer has the address of the station that sent it. A packet with a
-- wrong checksum would be answered to a random place (and a fragment's cannot be checked).
local function answerable(pkt, eth)
   if pkt.out ~= PORT_NONE or eth:is_multicast() or pkt:valid_l4_checksum() == false or pkt:is_fragment() then
      return false
   end
   local tcp = pkt:tcp()
   if tcp and band(tcp.flags, RST) ~= 0 then return false end
   local icmp, icmp6 = pkt:icmp(), pkt:icmp6()
   return not (icmp and icmp:is_error()) and not (icmp6 and icmp6:is_error())
end

-- ---- frames ----

-- A frame back to the sender of `pkt`, tags included, with room for `size` bytes of IP.
local function new_frame(pkt, l3, size)
   local answer = tw.emit(pkt.port, l3 + size)
   if not answer then return nil end
   local from, to = pkt:eth(), answer:eth()
   to.dst, to.src = from.src, from.dst
   for at = 12, l3 - 2, 2 do answer:set_u16(at, pkt:u16(at)) end
   return answer
end

local function write_ip4(answer, l3, ip, proto, size)
   answer:set_u8(l3, 0x45)
   local reply = answer:header(headers.ipv4, l3)
   reply.total_length, reply.df, reply.ttl, reply.protocol = size, 1, HOPS, proto
   reply.src, reply.dst = ip.dst, ip.src
   reply:update_checksum()
end

local function write_ip6(answer, l3, ip, proto, size)
   local reply = answer:header(headers.ipv6, l3)
   reply.version = 6
   reply.payload_length, reply.next_header, reply.hop_limit = size - 40, proto, HOPS
   reply.src, reply.dst = ip.dst, ip.src
end

local function send_reset(pkt, l3, ip, head, write_ip)
   local tcp = pkt:tcp()
   local _, payload = pkt:payload_offset()
   local answer = new_frame(pkt, l3, head + 20)
   if not answer then return end
   write_ip(answer, l3, ip, TCP, head + 20)
   local reset = answer:header(headers.tcp, l3 + head)
   reset.src_port, reset.dst_port, reset.data_offset = tcp.dst_port, tcp.src_port, 5
   if band(tcp.flags, ACK) ~= 0 then
      reset.seq, reset.flags = tcp.ack, RST
   else
      local length = payload + (band(tcp.flags, SYN) ~= 0 and 1 or 0) + (band(tcp.flags, FIN) ~= 0 and 1 or 0)
      reset.ack, reset.flags = tcp.seq + length, RST + ACK -- modulo 2^32 by the field's width
   end
   answer:update_l4_checksum()
end

local function send_error(pkt, l3, ip, quote, error_header)
   local head, proto = error_header.head, error_header.proto
   local answer = new_frame(pkt, l3, head + 8 + quote)
   if not answer then return end
   error_header.write_ip(answer, l3, ip, proto, head + 8 + quote)
   local at = l3 + head
   answer:set_u8(at, error_header.type)
   answer:set_u8(at + 1, error_header.code)
   for i = 0, quote - 1 do answer:set_u8(at + 8 + i, pkt:u8(l3 + i)) end
   answer:update_l4_checksum()
end

local ERROR4 = { head = 20, proto = ICMP, type = 3, code = 13, write_ip = write_ip4 }
local ERROR6 = { head = 40, proto = ICMP6, type = 1, code = 1, write_ip = write_ip6 }

local function answer4(pkt, ip, l3)
   if not answerable4(ip) then return end
   if pkt:tcp() then return send_reset(pkt, l3, ip, 20, write_ip4) end
   if ip.protocol == TCP then return end
   send_error(pkt, l3, ip, math.min(ip.total_length, QUOTE4), ERROR4)
end

local function answer6(pkt, ip, l3)
   if not answerable6(ip) then return end
   if pkt:tcp() then return send_reset(pkt, l3, ip, 40, write_ip6) end
   send_error(pkt, l3, ip, math.min(40 + ip.payload_length, QUOTE6), ERROR6)
end

--- The punt function of a firewall: answers a rejected packet and drops it.
---@param rate number answers a second at most; so many at once, too
---@return fun(pkt: tideway.pkt)
function M.new(rate)
   local tokens, at = rate, 0

   -- Errors must be limited (RFC 1812 4.3.2.8, RFC 4443 2.4 f): a token bucket.
   local function may_answer(now)
      tokens = math.min(rate, tokens + (now - at) * rate / 1e9)
      at = now
      if tokens < 1 then return false end
      tokens = tokens - 1
      return true
   end

   return function(pkt)
      local eth, l3 = pkt:eth(), pkt:l3_offset()
      if answerable(pkt, eth) and may_answer(pkt:now()) then
         local ip = pkt:ipv4()
         if ip then
            answer4(pkt, ip, l3)
         else
            answer6(pkt, pkt:ipv6(), l3)
         end
      end
      pkt:drop "fw_rejected"
   end
end

return M
