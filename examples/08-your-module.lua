-- SPDX-License-Identifier: BSD-3-Clause
-- An NF from a module of your own: nf/ttl.lua, found beside this script by `require`.
--
--    sudo scripts/lab up --mode l2
--    sudo scripts/lab exec dut build/tideway run examples/08-your-module.lua
-- and in another terminal:
--    sudo scripts/lab exec client ping 10.0.0.3            # ttl=63: one hop
--    sudo scripts/lab exec client ping -t 1 10.0.0.3       # no answer: ttl_expired in the counters
--
-- Arguments: the ports (default net_af_packet0,iface=tw-lan net_af_packet1,iface=tw-wan).

local tw = require "tideway"
local ttl = require "nf.ttl"

local lan_device, wan_device = ...
local lan = tw.port("lan", lan_device or "net_af_packet0,iface=tw-lan")
local wan = tw.port("wan", wan_device or "net_af_packet1,iface=tw-wan")

tw.chain("hop", { lan, wan }, ttl { least = 1 }, tw.nf.l2_bridge {})
