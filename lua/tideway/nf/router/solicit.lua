-- SPDX-License-Identifier: BSD-3-Clause
-- router: asks for link-layer addresses: ARP requests (RFC 826) and neighbor solicitations (RFC 4861).

local tw = require "tideway"

local M = {}

local BROADCAST = 0xffffffffffff
local TYPE_ARP, TYPE_IPV6 = 0x0806, 0x86dd
local ICMPV6, SOLICITATION, SOURCE_LLADDR = 58, 135, 1

--- An own address of the port for talking to `address`: one of the same network, else the first.
---@param port table
---@param family integer
---@param address any number or tideway.in6
---@return any? own nil when the port has none of the family
function M.source(port, family, address)
   local list = family == 6 and port.v6 or port.v4
   for _, a in ipairs(list) do
      if family == 6 then
         if address:matches(a.network, a.length) then return a.address end
      elseif address >= a.network and address < a.network + 2 ^ (32 - a.length) then
         return a.address
      end
   end
   return list[1] and list[1].address
end

local function arp_request(port, hop, unicast)
   local pkt = tw.emit(port.index, 42)
   if not pkt then return end
   local eth = pkt:eth()
   eth.dst, eth.src, eth.type = unicast and hop.mac or BROADCAST, port.mac, TYPE_ARP
   local arp = pkt:header(tw.headers.arp, 14)
   arp.htype, arp.ptype, arp.hlen, arp.plen, arp.op = 1, 0x0800, 6, 4, 1
   arp.sha, arp.spa = port.mac, M.source(port, 4, hop.address4) or 0
   arp.tpa = hop.address4
end

--- Write the option that carries a link-layer address (RFC 4861 4.6.1).
---@param pkt tideway.pkt
---@param at integer offset
---@param kind integer 1 source, 2 target
---@param mac number
function M.lladdr_option(pkt, at, kind, mac)
   pkt:set_u8(at, kind)
   pkt:set_u8(at + 1, 1)
   pkt:set_u48(at + 2, mac)
end

local function neighbor_solicitation(port, hop, unicast)
   local pkt = tw.emit(port.index, 14 + 40 + 24 + 8)
   if not pkt then return end
   local target = hop.address6
   local eth = pkt:eth()
   eth.src, eth.type = port.mac, TYPE_IPV6
   local ip = pkt:header(tw.headers.ipv6, 14)
   ip.version, ip.payload_length, ip.next_header, ip.hop_limit = 6, 32, ICMPV6, 255
   ip.src = target:is_link_local() and port.link_local or M.source(port, 6, target)
   if unicast then
      ip.dst, eth.dst = target, hop.mac
   else
      local group = target:solicited_node()
      ip.dst, eth.dst = group, group:multicast_mac()
   end
   local nd = pkt:header(tw.headers.nd, 54)
   nd.type, nd.target = SOLICITATION, target
   M.lladdr_option(pkt, 78, SOURCE_LLADDR, port.mac)
   pkt:update_l4_checksum()
end

--- Ask a hop's neighbour for its address: everybody on the link, or the neighbour itself (a probe).
---@param ctx table
---@param hop any
---@param unicast boolean
function M.ask(ctx, hop, unicast)
   local port = ctx.ports[hop.port]
   if hop.family == 6 then
      neighbor_solicitation(port, hop, unicast)
   else
      arp_request(port, hop, unicast)
   end
   ctx.events:add("solicitations", 1)
end

return M
