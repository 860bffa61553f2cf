-- SPDX-License-Identifier: BSD-3-Clause
-- TCP connections through a firewall and a NAT: how many a second can be opened, asked twice and closed, none lost.
-- Client, server and what is between them are chains of one lcore; two pairs of memif ports join them.
--
--    sudo build/tideway bench --seconds 1 examples/bench/04-tcp.lua
--
--    SYNs -> client NF - left = lan - firewall, NAT - wan = right - server NF
--
-- What is sent and received here are connections: SYNs, and last ACKs.

local tw = require "tideway"
local bench = tw.bench

-- Two ports that are the ends of one wire: what one sends the other receives.
local function pair(a, b, id)
   local common = ("id=%d,socket=/tmp/tideway-bench-tcp.sock,socket-abstract=no,rsize=12"):format(id)
   return tw.port(a, ("net_memif_%s,role=server,%s"):format(a, common)),
      tw.port(b, ("net_memif_%s,role=client,%s"):format(b, common))
end
local left, lan = pair("left", "lan", 1)
local right, wan = pair("right", "wan", 2)

local client, server = bench.tcp_client { requests = 2 }, bench.tcp_server { response = 2000, port = 80 }
local syns = bench.source("syns", bench.packets {
   size = 64, flows = 50000, ipv4 = { src = bench.flow "198.18.0.0/21" }, tcp = {
      src = bench.flow(32768, 65535), dst = 80, flags = "syn", mss = 1460,
   },
})

local nat = tw.nf.napt44 { outside = wan, address = "203.0.113.1", inside = "198.18.0.0/15", place = "inline" }
local firewall = tw.nf.firewall {
   ports = { lan = lan, wan = wan }, connections = 131072,
   rules = "allow established\nallow in lan tcp to any port 80 flags S/SA",
}

tw.chain("client", { syns, left }, client, left)
tw.chain("up", lan, firewall, nat, wan)
tw.chain("down", wan, nat, firewall, lan)
tw.chain("server", right, server, right)

-- A trial as searches want them: SYNs at a rate for a time, then waits for connections that still go on.
local function trial(rate, seconds)
   local before = client.counts()
   syns:start { rate = rate, count = math.ceil((rate or 1e6) * seconds) }
   local closed, waited = 0, 0
   repeat
      local last = closed
      bench.sleep(0.05)
      closed = client.counts().closed
      waited = (syns:running() or closed > last) and 0 or waited + 0.05
   until waited >= 0.2
   local after, sent = client.counts(), syns:counters()
   local done = after.closed - before.closed
   return {
      offered = rate, reached = sent.reached, sent = sent.packets, received = done, lost = sent.packets - done,
      seconds = sent.seconds,
   }
end

bench.search("connections", {
   title = "connections through firewall and NAT, none lost", trial = trial,
   low = 1000, high = 400000, precision = 0.02, verify = 1, seconds = 0.5,
})
