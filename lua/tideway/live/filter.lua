-- SPDX-License-Identifier: BSD-3-Clause
-- Filters of packets: texts in pcap-filter language, Lua functions.

local ffi = require "ffi"
local abi = require "tideway.abi"
require "tideway.packet"

local C = abi.C
local M = {}

-- The words of pcap-filter language, and the names that it has for values. Any other word would be the name of a host
-- or network, which libpcap looks up, waiting for an answer: nobody may wait here.
local WORDS = {}
for word in ([[
   and or not host net mask port portrange src dst gateway ether ip ip6 arp rarp tcp udp icmp icmp6 igmp igrp pim vrrp
   carp sctp ah esp vlan mpls pppoed pppoes geneve proto protochain broadcast multicast less greater inbound outbound
   len byte link llc aarp decnet lat sca moprc mopdl iso isis clnp esis stp ipx netbeui atalk atm lane wlan
   icmptype icmpcode icmp-echoreply icmp-unreach icmp-sourcequench icmp-redirect icmp-echo icmp-routeradvert
   icmp-routersolicit icmp-timxceed icmp-paramprob icmp-tstamp icmp-tstampreply icmp-ireq icmp-ireqreply icmp-maskreq
   icmp-maskreply icmp6type icmp6code icmp6-destinationrunreach icmp6-packettoobig icmp6-timeexceeded
   icmp6-parameterproblem icmp6-echo icmp6-echoreply icmp6-multicastlistenerquery icmp6-multicastlistenerreportv1
   icmp6-multicastlistenerdone icmp6-routersolicit icmp6-routeradvert icmp6-neighborsolicit icmp6-neighboradvert
   icmp6-redirect tcpflags tcp-fin tcp-syn tcp-rst tcp-push tcp-ack tcp-urg tcp-ece tcp-cwr
   ]]):gmatch "%S+" do
   WORDS[word] = true
end
local NAMED = { port = true, portrange = true, proto = true, protochain = true }

local function check_words(text)
   local before, last
   for word in text:gmatch "[%w_.:/\\-]+" do
      local plain = word:lower()
      local name = not WORDS[plain] and plain:find "^[%a_]" and not plain:find ":"
      -- "port http or https": names of services and protocols come from a file
      local service = NAMED[last] or ((last == "or" or last == "and") and NAMED[before])
      if name and not service and not plain:find "^\\" then
         error(("filter %q: %q is no word of pcap-filter language, and names of hosts are not looked up here; write "
            .. "the address"):format(text, word), 0)
      end
      if WORDS[plain] and plain ~= "or" and plain ~= "and" then before = plain end
      last = plain
   end
end

--- Check a filter.
---@param filter string|fun(pkt: tideway.pkt): any|nil
---@return string? text
---@return fun(pkt: tideway.pkt): any|nil fn
function M.check(filter)
   if filter == nil then return nil end
   if type(filter) == "function" then return nil, filter end
   if type(filter) ~= "string" then
      error(("a filter is a text such as \"tcp and port 80\" (man pcap-filter) or a function(pkt), not %s")
         :format(type(filter)), 0)
   end
   check_words(filter)
   if C.tw_filter_match(filter, ffi.new "uint8_t[1]", 0, 0) < 0 then error(abi.error(), 0) end
   return filter
end

local buffer, room = nil, 0

--- A record's frame as a packet, with all the views NFs have. What was not copied reads as zeros. Valid until the next.
---@param record ffi.cdata* struct tw_watch_record *
---@param frame ffi.cdata* its bytes
---@return tideway.pkt
function M.packet(record, frame)
   local len = math.max(record.len, record.caplen)
   if len > room then
      room = math.max(len, 2048)
      buffer = ffi.new("uint8_t[?]", room)
   end
   ffi.copy(buffer, frame, record.caplen)
   ffi.fill(buffer + record.caplen, len - record.caplen)
   local pkt = ffi.new "struct tw_pkt"
   pkt.data, pkt.len, pkt.verdict = buffer, len, record.verdict
   pkt.port, pkt.out, pkt.mark, pkt.stage = record.port, record.out, record.mark, record.stage
   pkt.room, pkt.room_end = buffer, buffer + len
   return pkt
end

return M
