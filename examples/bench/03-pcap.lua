-- SPDX-License-Identifier: BSD-3-Clause
-- NFs on packets of one's own: a capture file is replayed from memory, its addresses rewritten so that the NFs do
-- something with them.
--
--    tcpdump -i eth0 -c 10000 -w mine.pcap
--    sudo build/tideway bench --quick examples/bench/03-pcap.lua mine.pcap

local tw = require "tideway"
local bench = tw.bench

local file = ...
if not file then error("which capture file? build/tideway bench examples/bench/03-pcap.lua FILE", 0) end

local packets = bench.pcap(file, {
   limit = 100000,
   rewrite = {
      eth = { dst = "02:00:00:00:00:02" },
      ipv4 = { src = "198.18.0.0/16", ttl = 64 }, -- the network is exchanged, the host's part stays
   },
})

bench.group("capture", {
   title = ("%d packets of %s"):format(#packets.frames, file),
   contenders = {
      bench.chain { packets, name = "source" },
      bench.chain { packets, tw.nf.count {}, name = "count" },
      bench.chain { packets, tw.nf.firewall { rules = "allow established\nallow udp\nallow tcp" }, name = "firewall" },
   },
   reference = "source", base = "source",
})
