-- SPDX-License-Identifier: BSD-3-Clause
-- Files as ports: packets come from one capture file, what a chain lets through goes to another.
-- No root, no network: the way to try an NF on packets you have.
--
--    build/tideway run --for 1 examples/07-pcap.lua in.pcap out.pcap
--    tcpdump -nr out.pcap
--
-- Arguments: the file to read and the file to write (default in.pcap out.pcap).

local tw = require "tideway"

local input, output = ...
local file = tw.port("file", ("net_pcap0,rx_pcap=%s,tx_pcap=%s"):format(input or "in.pcap", output or "out.pcap"))

-- Keeps UDP over IPv4 or IPv6 and notes in the counters how much of what else there was.
local function only_udp(pkt)
   if pkt:udp() then return end
   if pkt:tcp() then return pkt:drop "tcp" end
   return pkt:drop "neither_tcp_nor_udp"
end

tw.chain("filter", file, only_udp, tw.nf.count {}, file)
