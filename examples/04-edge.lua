-- SPDX-License-Identifier: BSD-3-Clause
-- The edge of a site: firewall, NAT for IPv4, routing for IPv4 and IPv6, in one chain for both directions.
--
--    sudo scripts/lab up
--    sudo scripts/lab exec dut build/tideway run examples/04-edge.lua
-- and in another terminal:
--    sudo scripts/lab exec client ping 198.51.100.2
--    sudo scripts/lab exec server ping -W 1 2001:db8:1::2    # not let in
--
-- Arguments: af_packet (default) or af_xdp for the lab's interfaces, or the two ports as devargs.

local tw = require "tideway"

local lan_device, wan_device = ...
if not wan_device then
   local driver = lan_device or "af_packet"
   lan_device, wan_device = ("net_%s0,iface=tw-lan"):format(driver), ("net_%s1,iface=tw-wan"):format(driver)
end
local lan, wan = tw.port("lan", lan_device), tw.port("wan", wan_device)

local router = tw.nf.router {
   ports = {
      { port = lan, addresses = { "10.0.0.1/24", "2001:db8:1::1/64" } },
      { port = wan, addresses = { "198.51.100.1/24", "2001:db8:2::1/64" } },
   },
   routes = { { "0.0.0.0/0", via = "198.51.100.2" }, { "::/0", via = "2001:db8:2::2" } },
}

-- The outside address is the router's own: no second address is needed.
local nat = tw.nf.napt44 { outside = wan, address = "198.51.100.1", inside = "10.0.0.0/24" }

-- The firewall sees inside addresses, in both directions. The first rule that matches decides.
local firewall = tw.nf.firewall {
   ports = { lan = lan, wan = wan },
   rules = [[
      allow established
      allow in lan                                                          # whoever starts inside
      allow icmp6 neighbor-solicitation, neighbor-advertisement             # neighbours of the router
      allow icmp echo to 198.51.100.1                                       # ping of the router itself
      drop count unasked
   ]],
}

-- nat stands twice: before routing it finds whom an answer is for, after it gives packets that
-- leave the outside address. The router says by which port a packet leaves, so no sink is named.
tw.chain("edge", { lan, wan }, nat, firewall, router, nat)
