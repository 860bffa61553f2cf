-- SPDX-License-Identifier: BSD-3-Clause
-- router: what ARP packets do (RFC 826, RFC 5227).

local neighbour = require "tideway.nf.router.neighbour"

local M = {}

local REQUEST, REPLY = 1, 2

-- Turn the request into our reply, in place.
local function reply(pkt, port, eth, arp)
   local sha, spa, tpa = arp.sha, arp.spa, arp.tpa
   eth.dst, eth.src = sha, port.mac
   arp.op = REPLY
   arp.tha, arp.tpa = sha, spa
   arp.sha, arp.spa = port.mac, tpa
   return pkt:send(port.index)
end

--- Learn from an ARP packet and answer it when it asks for an address of ours.
---@param ctx table
---@param pkt tideway.pkt
---@param port table
---@param eth tideway.eth
function M.input(ctx, pkt, port, eth)
   local arp = pkt:arp()
   if not arp or arp.htype ~= 1 or arp.ptype ~= 0x0800 or arp.hlen ~= 6 or arp.plen ~= 4
      or (arp.op ~= REQUEST and arp.op ~= REPLY) then
      return pkt:drop "arp_malformed"
   end
   local sha, spa, tpa = arp.sha, arp.spa, arp.tpa
   if not neighbour.is_station(port, sha) then return pkt:drop "arp_bad_sender" end
   local for_us = port.own[tpa] == true
   if port.own[spa] then
      ctx.events:add("address_conflicts", 1)
      return pkt:drop "arp_conflict"
   end
   -- 0.0.0.0, the sender of a probe (RFC 5227 2.1.1), is on no network of ours: it is not learned.
   neighbour.learn(ctx, port, 4, spa, sha, for_us, pkt:now())
   if for_us and arp.op == REQUEST then return reply(pkt, port, eth, arp) end
   return pkt:drop "arp_done"
end

return M
