-- SPDX-License-Identifier: BSD-3-Clause
-- router: ICMP messages it sends (RFC 792, RFC 1122 3.2.2, RFC 1191, RFC 1812 4.3).

local tw = require "tideway"
local bit = require "bit"
local send = require "tideway.nf.router.send"

local M = {}

local UNREACHABLE, TIME_EXCEEDED, ECHO_REQUEST, ECHO_REPLY = 3, 11, 8, 0
local ICMP = 1
local MESSAGE_MAX = 576 -- RFC 1812 4.3.2.3
local ADDED = 28 -- an IPv4 and an ICMP header in front of the packet
local TOS = 0xc0 -- precedence 6, RFC 1812 4.3.2.5
local TTL = 64

-- What errors say: type, code, and the name they are counted by.
M.NET_UNREACHABLE = { UNREACHABLE, 0, "sent_unreachable" }
M.HOST_UNREACHABLE = { UNREACHABLE, 1, "sent_unreachable" }
M.PROTOCOL_UNREACHABLE = { UNREACHABLE, 2, "sent_unreachable" }
M.PORT_UNREACHABLE = { UNREACHABLE, 3, "sent_unreachable" }
M.TOO_BIG = { UNREACHABLE, 4, "sent_too_big" }
M.TIME_EXCEEDED = { TIME_EXCEEDED, 0, "sent_time_exceeded" }

-- ICMP queries may be answered with errors, errors never; nor what is of no known type.
local QUERY = { [0] = true, [8] = true, [9] = true, [10] = true, [13] = true, [14] = true, [15] = true, [16] = true,
   [17] = true, [18] = true }

-- RFC 1122 3.2.2, RFC 1812 4.3.2.7: what no error is sent about.
local function may_complain(ctx, pkt, ip, at, stop)
   if pkt:eth():is_multicast() or ip.frag_offset ~= 0 then return false end
   local src = ip.src
   local net = bit.rshift(src, 24)
   if net == 0 or net == 127 or net >= 224 or ctx.own[src] or send.is_broadcast(ctx, src) then return false end
   if ip.dst >= 0xe0000000 then return false end
   if ip.protocol == ICMP then
      local message = pkt:header(tw.headers.icmp, at)
      if not message or at + 8 > stop or not QUERY[message.type] then return false end
   end
   return true
end

-- RFC 1812 4.3.2.4 says: an address of the interface by which it leaves; like most routers we take
-- the one by which the packet came, which is what traceroute shows.
local function source_for(ctx, port)
   if port.v4[1] then return port.v4[1].address end
   return ctx.any4
end

--- Turn a packet into an ICMP error about itself, and send that to the packet's source. Where that is
--- forbidden, too fast or impossible, the packet is dropped for the reason given.
---@param ctx table
---@param pkt tideway.pkt
---@param port table by which it came in
---@param ip tideway.ipv4
---@param what table one of the messages above
---@param reason string name of the drop
---@param mtu? integer next-hop MTU, for TOO_BIG
function M.error(ctx, pkt, port, ip, what, reason, mtu)
   local head = ip.ihl * 4
   local stop = 14 + ip.total_length
   local src = source_for(ctx, port)
   if not src or not may_complain(ctx, pkt, ip, 14 + head, stop) or not send.allowed(ctx) then
      return pkt:drop(reason)
   end
   local to, to_mac = ip.src, pkt:eth().src
   local len = math.min(stop + ADDED, 14 + MESSAGE_MAX, 14 + port.mtu)
   if not pkt:adjust_head(-ADDED) or not pkt:adjust_tail(len - pkt.len) then return pkt:drop(reason) end
   local eth = pkt:eth()
   eth.type = 0x0800
   ip = pkt:header(tw.headers.ipv4, 14)
   ip.version, ip.ihl, ip.tos, ip.total_length = 4, 5, TOS, len - 14
   ip.id, ip.frag, ip.ttl, ip.protocol = 0, 0x4000, TTL, ICMP -- atomic, so the id means nothing: RFC 6864 4.1
   ip.src, ip.dst = src, to
   ip:update_checksum()
   local message = pkt:header(tw.headers.icmp, 34)
   message.type, message.code, message.rest = what[1], what[2], mtu or 0
   pkt:update_l4_checksum()
   ctx.events:add(what[3], 1)
   return send.back4(ctx, pkt, port, to, to_mac, reason)
end

--- A message to one of our addresses: answer an echo request (RFC 1122 3.2.2.6).
---@param ctx table
---@param pkt tideway.pkt
---@param port table
---@param ip tideway.ipv4
function M.input(ctx, pkt, port, ip)
   local message = pkt:icmp()
   if not message then return pkt:drop "icmp_malformed" end
   if not pkt:valid_l4_checksum() then return pkt:drop "icmp_checksum" end
   if message.type ~= ECHO_REQUEST or message.code ~= 0 then return pkt:drop "icmp_ignored" end
   local to, to_mac = ip.src, pkt:eth().src
   local own = ip.dst
   message.type = ECHO_REPLY
   pkt:update_l4_checksum()
   ip.src, ip.dst, ip.ttl = own, to, TTL
   ip:update_checksum()
   ctx.events:add("sent_echo_reply", 1)
   return send.back4(ctx, pkt, port, to, to_mac, "neighbour_unresolved")
end

return M
