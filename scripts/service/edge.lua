-- SPDX-License-Identifier: BSD-3-Clause
-- An example for /etc/tideway/edge.lua: two ports of one machine, a firewall between them, metrics for Prometheus.
--
--    systemctl enable --now tideway@edge

local tw = require "tideway"

tw.options {
   idle = "sleep",                  -- "spin" burns its CPU and answers at once
   metrics = "127.0.0.1:9464",
}

-- Any DPDK device, or the name of an interface.
local lan, wan = tw.port("lan", "net_af_packet0,iface=tw-lan"), tw.port("wan", "net_af_packet1,iface=tw-wan")

local firewall = tw.nf.firewall {
   ports = { lan = lan, wan = wan },
   rules = [[
      allow established
      allow in lan
      allow in wan icmp echo
   ]],
}

tw.chain("up", lan, firewall, tw.nf.count {}, wan)
tw.chain("down", wan, firewall, tw.nf.count {}, lan)
