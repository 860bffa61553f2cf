-- SPDX-License-Identifier: BSD-3-Clause
-- router: ICMPv6 messages it sends (RFC 4443).

local tw = require "tideway"
local fib = require "tideway.nf.router.fib"
local nd = require "tideway.nf.router.nd"
local send = require "tideway.nf.router.send"

local M = {}

local UNREACHABLE, TOO_BIG, TIME_EXCEEDED, PARAMETER_PROBLEM = 1, 2, 3, 4
local ECHO_REQUEST, ECHO_REPLY, REDIRECT = 128, 129, 137
local ICMPV6 = 58
local MESSAGE_MAX = 1280 -- the minimum MTU, RFC 4443 2.4 (c)
local ADDED = 48 -- an IPv6 and an ICMPv6 header in front of the packet
local HOP_LIMIT = 64

-- What errors say: type, code, and the name they are counted by.
M.NO_ROUTE = { UNREACHABLE, 0, "sent_unreachable" }
M.BEYOND_SCOPE = { UNREACHABLE, 2, "sent_unreachable" }
M.ADDRESS_UNREACHABLE = { UNREACHABLE, 3, "sent_unreachable" }
M.PORT_UNREACHABLE = { UNREACHABLE, 4, "sent_unreachable" }
M.TOO_BIG = { TOO_BIG, 0, "sent_too_big" }
M.TIME_EXCEEDED = { TIME_EXCEEDED, 0, "sent_time_exceeded" }
M.UNKNOWN_HEADER = { PARAMETER_PROBLEM, 1, "sent_parameter_problem" }

-- RFC 4443 2.4 (e): what no error is sent about.
local function may_complain(ctx, pkt, ip, protocol, at)
   local src = ip.src
   if pkt:eth():is_multicast() or ip.dst:is_multicast() then return false end
   if src:is_multicast() or src:is_unspecified() or src:is_loopback() or ctx.own[fib.key6(src)] then return false end
   if protocol == ICMPV6 then
      local message = pkt:header(tw.headers.icmp6, at)
      if not message or message:is_error() or message.type == REDIRECT then return false end
   end
   return true
end

-- For a link-local destination the address must be one of the same link (RFC 6724 rule 2).
local function source_for(ctx, port, to)
   if to:is_link_local() then return port.link_local end
   if port.v6[1] then return port.v6[1].address end
   return ctx.any6
end

--- Turn a packet into an ICMPv6 error about itself, and send that to the packet's source. Where that is
--- forbidden, too fast or impossible, the packet is dropped for the reason given.
---@param ctx table
---@param pkt tideway.pkt
---@param port table by which it came in
---@param ip tideway.ipv6
---@param what table one of the messages above
---@param reason string name of the drop
---@param rest? integer MTU of TOO_BIG, pointer of UNKNOWN_HEADER
function M.error(ctx, pkt, port, ip, what, reason, rest)
   local stop = 54 + ip.payload_length
   local protocol, at = pkt:l4_protocol(), pkt:l4_offset()
   local src = source_for(ctx, port, ip.src)
   if not src or not may_complain(ctx, pkt, ip, protocol, at) or not send.allowed(ctx) then
      return pkt:drop(reason)
   end
   local to, to_mac = ip.src:copy(), pkt:eth().src
   local len = math.min(stop + ADDED, 14 + MESSAGE_MAX)
   if not pkt:adjust_head(-ADDED) or not pkt:adjust_tail(len - pkt.len) then return pkt:drop(reason) end
   local eth = pkt:eth()
   eth.type = 0x86dd
   ip = pkt:header(tw.headers.ipv6, 14)
   ip.vtc_flow, ip.payload_length, ip.next_header, ip.hop_limit = 0x60000000, len - 54, ICMPV6, HOP_LIMIT
   ip.src, ip.dst = src, to
   local message = pkt:header(tw.headers.icmp6, 54)
   message.type, message.code, message.rest = what[1], what[2], rest or 0
   pkt:update_l4_checksum()
   ctx.events:add(what[3], 1)
   return send.back6(ctx, pkt, port, to, to_mac, reason)
end

local function echo_reply(ctx, pkt, port, ip, message)
   local to, to_mac, own = ip.src:copy(), pkt:eth().src, ip.dst:copy()
   if ip.dst:is_multicast() then own = source_for(ctx, port, to) end
   message.type = ECHO_REPLY
   ip.src, ip.dst, ip.hop_limit = own, to, HOP_LIMIT
   pkt:update_l4_checksum()
   ctx.events:add("sent_echo_reply", 1)
   return send.back6(ctx, pkt, port, to, to_mac, "neighbour_unresolved")
end

--- A message to an address of ours, or to a group that we are in.
---@param ctx table
---@param pkt tideway.pkt
---@param port table
---@param ip tideway.ipv6
---@param at integer offset of the ICMPv6 header
---@param stop integer offset of its end
function M.input(ctx, pkt, port, ip, at, stop)
   local message = pkt:icmp6()
   if not message then return pkt:drop "icmp_malformed" end
   if not pkt:valid_l4_checksum() then return pkt:drop "icmp_checksum" end
   if message.type == 135 or message.type == 136 then return nd.input(ctx, pkt, port, ip, at, stop) end
   if message.type ~= ECHO_REQUEST or message.code ~= 0 then return pkt:drop "icmp_ignored" end
   return echo_reply(ctx, pkt, port, ip, message)
end

return M
