-- SPDX-License-Identifier: BSD-3-Clause
-- A learning bridge (IEEE 802.1D) for any number of ports: one chain reads them all.
--
--    sudo scripts/lab up --mode l2
--    sudo scripts/lab exec dut build/tideway run examples/02-bridge.lua
-- and in another terminal:
--    sudo scripts/lab exec client ping 10.0.0.3
--
-- Arguments: the ports (default net_af_packet0,iface=tw-lan net_af_packet1,iface=tw-wan).

local tw = require "tideway"

local devices = { ... }
if #devices == 0 then devices = { "net_af_packet0,iface=tw-lan", "net_af_packet1,iface=tw-wan" } end

local ports = {}
for i, device in ipairs(devices) do ports[i] = tw.port(device) end

-- count looks at what passes and lets it go on; l2_bridge sends each packet where its station is.
tw.chain("bridge", ports, tw.nf.count {}, tw.nf.l2_bridge { ageing = 300 })
