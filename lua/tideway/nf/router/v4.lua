-- SPDX-License-Identifier: BSD-3-Clause
-- router: IPv4 packets that packet() does not forward by itself (RFC 1812 4.2, 5.2 and 5.3).

local bit = require "bit"
local fib = require "tideway.nf.router.fib"
local fragment = require "tideway.nf.router.fragment"
local icmp = require "tideway.nf.router.icmp"
local neighbour = require "tideway.nf.router.neighbour"
local send = require "tideway.nf.router.send"

local M = {}

local ICMP, TCP, UDP = 1, 6, 17
local RECORD_ROUTE, LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE = 7, 131, 137

--- May no packet have this source (RFC 1812 5.3.7)?
local function is_martian(ctx, src)
   local net = bit.rshift(src, 24)
   return net == 0 or net == 127 or net >= 224 or ctx.own[src] or send.is_broadcast(ctx, src)
end

-- Offset of the record route option, 0 without one; or nil and why the packet is dropped.
local function check_options(pkt, at, stop)
   local record = 0
   while at < stop do
      local kind = pkt:u8(at)
      if kind == 0 then break end
      local length = 1
      if kind ~= 1 then
         if at + 2 > stop then return nil, "ip_options_malformed" end
         length = pkt:u8(at + 1)
         if length < 2 or at + length > stop then return nil, "ip_options_malformed" end
         if kind == LOOSE_SOURCE_ROUTE or kind == STRICT_SOURCE_ROUTE then return nil, "source_route" end
         if kind == RECORD_ROUTE then record = at end
      end
      at = at + length
   end
   return record
end

-- Write the address by which the packet leaves (RFC 1812 5.2.4.2); the checksum is the caller's.
local function record_route(ctx, pkt, at, hop)
   local length, pointer = pkt:u8(at + 1), pkt:u8(at + 2)
   local own = ctx.ports[hop.port].v4[1]
   if length < 3 or not own or pointer < 4 or pointer + 3 > length then return end
   pkt:set_u32(at + pointer - 1, own.address)
   pkt:set_u8(at + 2, pointer + 4)
end

local function forward(ctx, pkt, port, ip, hop, record)
   local total = ip.total_length
   if total > hop.mtu and ip.df == 1 then
      return icmp.error(ctx, pkt, port, ip, icmp.TOO_BIG, "needs_fragmentation", hop.mtu)
   end
   if record > 0 then record_route(ctx, pkt, record, hop) end
   ip.ttl = ip.ttl - 1
   ip:update_checksum()
   ctx.events:add("forwarded_slow", 1)
   if total > hop.mtu then return fragment.send(ctx, pkt, ip, hop) end
   return send.by(ctx, pkt, hop)
end

-- To one of our addresses. There is no TCP or UDP here; fragments are not put together.
local function deliver(ctx, pkt, port, ip)
   if ip:is_fragment() then return pkt:drop "local_fragment" end
   if ip.protocol == ICMP then return icmp.input(ctx, pkt, port, ip) end
   if ip.protocol == UDP or ip.protocol == TCP then
      return icmp.error(ctx, pkt, port, ip, icmp.PORT_UNREACHABLE, "port_unreachable")
   end
   return icmp.error(ctx, pkt, port, ip, icmp.PROTOCOL_UNREACHABLE, "protocol_unreachable")
end

-- By the kind of its destination; the packet is valid and addressed to us on the link.
local function route(ctx, pkt, port, eth, ip, record)
   local i = ctx.lpm4:get(ip.dst)
   local hop = i and ctx.hops:get(i)
   local state = hop and hop.state
   if state == fib.BROADCAST then return pkt:drop "broadcast" end
   if state == fib.MULTICAST then return pkt:drop "multicast" end
   if state == fib.MARTIAN then return pkt:drop "martian_destination" end
   if eth:is_multicast() then return pkt:drop "link_broadcast" end -- RFC 1812 5.3.4
   if state == fib.LOCAL then return deliver(ctx, pkt, port, ip) end
   if ctx.strict_source then
      local from = ctx.lpm4:get(ip.src)
      if not from or ctx.hops:get(from).port ~= port.index then return pkt:drop "source_unexpected" end
   end
   if ip.ttl <= 1 then return icmp.error(ctx, pkt, port, ip, icmp.TIME_EXCEEDED, "ttl_expired") end
   if not hop then return icmp.error(ctx, pkt, port, ip, icmp.NET_UNREACHABLE, "no_route") end
   if state == fib.CONNECTED then
      i = neighbour.get(ctx, hop.port, 4, ip.dst, pkt:now())
      if not i then return pkt:drop "neighbour_table_full" end
      hop = ctx.hops:get(i)
   end
   if hop.limit > 0 then return forward(ctx, pkt, port, ip, hop, record) end
   if hop.state == fib.FAILED then
      return icmp.error(ctx, pkt, port, ip, icmp.HOST_UNREACHABLE, "neighbour_unresolved")
   end
   return neighbour.wait(ctx, pkt, i)
end

--- Forward, answer or drop an IPv4 packet.
---@param ctx table
---@param pkt tideway.pkt
---@param port table by which it came in
---@param eth tideway.eth
function M.input(ctx, pkt, port, eth)
   local ip = pkt:ipv4()
   if not ip then return pkt:drop "ip_malformed" end
   if not ip:valid_checksum() then return pkt:drop "ip_checksum" end
   if is_martian(ctx, ip.src) then return pkt:drop "martian_source" end
   local record, reason = check_options(pkt, 34, 14 + ip.ihl * 4)
   if not record then return pkt:drop(reason) end
   return route(ctx, pkt, port, eth, ip, record)
end

return M
