-- SPDX-License-Identifier: BSD-3-Clause
-- router: IPv6 packets that packet() does not forward by itself (RFC 8200, RFC 4291, RFC 4443).

local fib = require "tideway.nf.router.fib"
local icmp6 = require "tideway.nf.router.icmp6"
local neighbour = require "tideway.nf.router.neighbour"
local send = require "tideway.nf.router.send"

local M = {}

local TCP, UDP, ICMPV6, NO_NEXT_HEADER = 6, 17, 58, 59
local IP_END, NEXT_HEADER = 54, 6

-- May no packet have this source (RFC 4291 2.5.2, 2.5.3, 2.7)? "::" is for duplicate address detection.
local function is_martian(ctx, ip)
   local src = ip.src
   if src:is_multicast() or src:is_loopback() or ctx.own[fib.key6(src)] then return true end
   return src:is_unspecified() and not (ip.dst:is_multicast() and ip.next_header == ICMPV6)
end

-- To one of our addresses or groups. There is no TCP or UDP here; fragments are not put together.
local function deliver(ctx, pkt, port, ip)
   if pkt:is_fragment() then return pkt:drop "local_fragment" end
   local protocol, at = pkt:l4_protocol(), pkt:l4_offset()
   if not protocol then return pkt:drop "ip_malformed" end
   if protocol == ICMPV6 then return icmp6.input(ctx, pkt, port, ip, at, IP_END + ip.payload_length) end
   if protocol == NO_NEXT_HEADER then return pkt:drop "no_next_header" end
   if ip.dst:is_multicast() then return pkt:drop "multicast" end
   if protocol == UDP or protocol == TCP then
      return icmp6.error(ctx, pkt, port, ip, icmp6.PORT_UNREACHABLE, "port_unreachable")
   end
   -- The pointer tells where the unknown number stands: known without a walk if there are no extensions.
   if at ~= IP_END then return pkt:drop "protocol_unreachable" end
   return icmp6.error(ctx, pkt, port, ip, icmp6.UNKNOWN_HEADER, "protocol_unreachable", NEXT_HEADER)
end

-- Destinations that are not routed: nil when this one is.
local function special(ctx, pkt, port, eth, ip, state)
   local ours = port.own[fib.key6(ip.dst)]
   if state == fib.MULTICAST then
      if ours then return true, deliver(ctx, pkt, port, ip) end
      return true, pkt:drop "multicast"
   end
   if state == fib.MARTIAN then return true, pkt:drop "martian_destination" end
   if eth:is_multicast() then return true, pkt:drop "link_broadcast" end
   if state == fib.LOCAL and (ours or not ip.dst:is_link_local()) then return true, deliver(ctx, pkt, port, ip) end
   if state == fib.LOCAL or state == fib.LINK_LOCAL then return true, pkt:drop "link_local" end
   return false
end

local function forward(ctx, pkt, port, ip, hop)
   if 40 + ip.payload_length > hop.mtu then
      return icmp6.error(ctx, pkt, port, ip, icmp6.TOO_BIG, "too_big", hop.mtu)
   end
   ip.hop_limit = ip.hop_limit - 1
   ctx.events:add("forwarded_slow", 1)
   return send.by(ctx, pkt, hop)
end

local function route(ctx, pkt, port, ip, i, hop)
   if ctx.strict_source then
      local from = ctx.lpm6:get(ip.src)
      if not from or ctx.hops:get(from).port ~= port.index then return pkt:drop "source_unexpected" end
   end
   if ip.hop_limit <= 1 then return icmp6.error(ctx, pkt, port, ip, icmp6.TIME_EXCEEDED, "hop_limit_exceeded") end
   if not hop then return icmp6.error(ctx, pkt, port, ip, icmp6.NO_ROUTE, "no_route") end
   if ip.src:is_link_local() then -- RFC 4291 2.5.6
      return icmp6.error(ctx, pkt, port, ip, icmp6.BEYOND_SCOPE, "beyond_scope")
   end
   if hop.state == fib.CONNECTED then
      i = neighbour.get(ctx, hop.port, 6, ip.dst, pkt:now())
      if not i then return pkt:drop "neighbour_table_full" end
      hop = ctx.hops:get(i)
   end
   if hop.limit > 0 then return forward(ctx, pkt, port, ip, hop) end
   if hop.state == fib.FAILED then
      return icmp6.error(ctx, pkt, port, ip, icmp6.ADDRESS_UNREACHABLE, "neighbour_unresolved")
   end
   return neighbour.wait(ctx, pkt, i)
end

--- Forward, answer or drop an IPv6 packet.
---@param ctx table
---@param pkt tideway.pkt
---@param port table by which it came in
---@param eth tideway.eth
function M.input(ctx, pkt, port, eth)
   local ip = pkt:ipv6()
   if not ip then return pkt:drop "ip_malformed" end
   if not ctx.lpm6 or #port.v6 == 0 then return pkt:drop "no_ipv6_here" end
   if is_martian(ctx, ip) then return pkt:drop "martian_source" end
   local i = ctx.lpm6:get(ip.dst)
   local hop = i and ctx.hops:get(i)
   local done = special(ctx, pkt, port, eth, ip, hop and hop.state)
   if not done then return route(ctx, pkt, port, ip, i, hop) end
end

return M
