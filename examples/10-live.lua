-- SPDX-License-Identifier: BSD-3-Clause
-- A hop to work on while it runs: TTL, flows, a learning bridge. See "A live dataplane in ten commands" in README.md.
--
--    sudo scripts/lab up --mode l2
--    sudo scripts/lab exec dut build/tideway run --repl examples/10-live.lua
-- and in another terminal:
--    sudo scripts/lab exec client ping 10.0.0.3
-- Then try: graph()  tables.count.flows4  trace(3, "icmp")  help()
--
-- Arguments: the ports (default net_af_packet0,iface=tw-lan net_af_packet1,iface=tw-wan).

local tw = require "tideway"
local ttl = require "nf.ttl" -- reload "ttl" reads its file again

local lan_device, wan_device = ...
local lan = tw.port("lan", lan_device or "net_af_packet0,iface=tw-lan")
local wan = tw.port("wan", wan_device or "net_af_packet1,iface=tw-wan")

tw.chain("hop", { lan, wan }, ttl { least = 1 }, tw.nf.count { per = "flow" }, tw.nf.l2_bridge {})
