-- SPDX-License-Identifier: BSD-3-Clause
-- router: neighbor solicitations and advertisements (RFC 4861 7.1 and 7.2, RFC 4862 5.4.3).

local tw = require "tideway"
local fib = require "tideway.nf.router.fib"
local neighbour = require "tideway.nf.router.neighbour"
local solicit = require "tideway.nf.router.solicit"

local M = {}

local SOURCE_LLADDR, TARGET_LLADDR = 1, 2
local NEIGHBOR_ADVERTISEMENT = 136
local ND_HEADER = 24

-- The address in option `wanted`, nil without one; false when an option is malformed (RFC 4861 7.1).
local function option(pkt, at, stop, wanted)
   local mac
   while at < stop do
      if at + 8 > stop then return false end
      local length = pkt:u8(at + 1) * 8
      if length == 0 or at + length > stop then return false end
      if pkt:u8(at) == wanted and length == 8 then mac = pkt:u48(at + 2) end
      at = at + length
   end
   return mac
end

-- The solicitation becomes the advertisement, in place when it is long enough.
local function advertise(pkt, port, target, src)
   local len = 14 + 40 + ND_HEADER + 8
   if pkt.len ~= len and not pkt:adjust_tail(len - pkt.len) then return pkt:drop "nd_no_room" end
   local asked = not src:is_unspecified()
   local to_mac = pkt:eth().src
   local eth, ip = pkt:eth(), pkt:header(tw.headers.ipv6, 14)
   local all_nodes = tw.ip6 "ff02::1"
   eth.dst, eth.src = asked and to_mac or all_nodes:multicast_mac(), port.mac
   ip.vtc_flow, ip.payload_length, ip.next_header, ip.hop_limit = 0x60000000, ND_HEADER + 8, 58, 255
   ip.dst = asked and src or all_nodes
   ip.src = target
   local nd = pkt:header(tw.headers.nd, 54)
   nd.type, nd.code, nd.rest = NEIGHBOR_ADVERTISEMENT, 0, 0
   nd.router, nd.solicited, nd.override, nd.target = 1, asked and 1 or 0, 1, target
   solicit.lladdr_option(pkt, 78, TARGET_LLADDR, port.mac)
   pkt:update_l4_checksum()
   return pkt:send(port.index)
end

local function solicitation(ctx, pkt, port, ip, nd, at, stop)
   local src, target = ip.src:copy(), nd.target:copy()
   local mac = option(pkt, at, stop, SOURCE_LLADDR)
   if mac == false then return pkt:drop "nd_malformed" end
   if src:is_unspecified() and (mac or not ip.dst:is_multicast()) then return pkt:drop "nd_malformed" end
   if not port.own[fib.key6(target)] then return pkt:drop "nd_not_for_us" end
   if mac and neighbour.is_station(port, mac) then
      neighbour.learn(ctx, port, 6, src, mac, true, pkt:now())
   end
   return advertise(pkt, port, target, src)
end

local function advertisement(ctx, pkt, port, ip, nd, at, stop)
   local mac = option(pkt, at, stop, TARGET_LLADDR)
   if mac == false or (ip.dst:is_multicast() and nd.solicited == 1) then return pkt:drop "nd_malformed" end
   local target = nd.target:copy()
   if port.own[fib.key6(target)] then
      ctx.events:add("address_conflicts", 1)
      return pkt:drop "nd_conflict"
   end
   -- Without the option it confirms at most the address that is known (RFC 4861 7.2.5).
   local known = neighbour.mac(ctx, port, 6, target)
   if not mac then mac = known end
   local keep = nd.override == 0 and known and known ~= mac
   if mac and not keep and neighbour.is_station(port, mac) then
      neighbour.learn(ctx, port, 6, target, mac, false, pkt:now())
   end
   return pkt:drop "nd_done"
end

--- Handle a message of neighbor discovery; the caller has checked its checksum.
---@param ctx table
---@param pkt tideway.pkt
---@param port table
---@param ip tideway.ipv6
---@param at integer offset of the ICMPv6 header
---@param stop integer offset of its end
function M.input(ctx, pkt, port, ip, at, stop)
   local nd = pkt:header(tw.headers.nd, at)
   if not nd or stop - at < ND_HEADER or ip.hop_limit ~= 255 or nd.code ~= 0 or nd.target:is_multicast() then
      return pkt:drop "nd_malformed"
   end
   if nd.type == NEIGHBOR_ADVERTISEMENT then
      return advertisement(ctx, pkt, port, ip, nd, at + ND_HEADER, stop)
   end
   return solicitation(ctx, pkt, port, ip, nd, at + ND_HEADER, stop)
end

return M
