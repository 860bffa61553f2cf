-- SPDX-License-Identifier: BSD-3-Clause
-- A router for IPv4 and IPv6 between two subnets, with ARP and neighbour discovery of its own.
--
--    sudo scripts/lab up
--    sudo scripts/lab exec dut build/tideway run examples/03-router.lua
-- and in another terminal:
--    sudo scripts/lab exec client ping 198.51.100.2
--    sudo scripts/lab exec client ping 2001:db8:2::2
--    sudo scripts/lab exec client ping -t 1 198.51.100.2    # "Time to live exceeded", from the router
--
-- Arguments: the ports (default net_af_packet0,iface=tw-lan net_af_packet1,iface=tw-wan).

local tw = require "tideway"

local lan_device, wan_device = ...
local lan = tw.port("lan", lan_device or "net_af_packet0,iface=tw-lan")
local wan = tw.port("wan", wan_device or "net_af_packet1,iface=tw-wan")

local router = tw.nf.router {
   -- An address brings the route to its network with it.
   ports = {
      { port = lan, addresses = { "10.0.0.1/24", "2001:db8:1::1/64" } },
      { port = wan, addresses = { "198.51.100.1/24", "2001:db8:2::1/64" } },
   },
   -- More networks, behind other routers: by next hop, or by port.
   routes = {
      { "192.0.2.0/24", via = "198.51.100.2" },
      { "2001:db8:2000::/36", via = "2001:db8:2::2" },
   },
}

tw.chain("router", { lan, wan }, router)
