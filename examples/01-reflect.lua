-- SPDX-License-Identifier: BSD-3-Clause
-- The smallest chain: one port, one NF. Every packet goes back with source and destination exchanged.
--
--    sudo scripts/lab up
--    sudo scripts/lab exec dut build/tideway run examples/01-reflect.lua
-- and in another terminal (nobody answers ARP here, so the client is told the address):
--    sudo scripts/lab exec client ip neighbour replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0
--    sudo scripts/lab exec client ping 10.0.0.9
-- The client gets its own echo request back, answers it, and gets its answer back: ping works.
--
-- Argument: the port (default net_af_packet0,iface=tw-lan).

local tw = require "tideway"

local device = ...
local lan = tw.port("lan", device or "net_af_packet0,iface=tw-lan")

-- A chain: name, source, NFs in order. reflect sends packets itself, so no sink is named.
tw.chain("reflect", lan, tw.nf.reflect {})
