-- SPDX-License-Identifier: BSD-3-Clause
-- Two lcores: the first chain hands its packets over a ring to a second chain on another CPU.
--
--    sudo scripts/lab up --mode l2
--    sudo scripts/lab exec dut build/tideway run examples/06-pipeline.lua
-- and in another terminal:
--    sudo scripts/lab exec client ping 10.0.0.3
--
-- Arguments: ports (default net_af_packet0,iface=tw-lan net_af_packet1,iface=tw-wan), then the two
-- CPUs (default 0 1). Give the same CPU twice and the chains take turns on it.

local tw = require "tideway"

local lan_device, wan_device, first, second = ...
local lan = tw.port("lan", lan_device or "net_af_packet0,iface=tw-lan")
local wan = tw.port("wan", wan_device or "net_af_packet1,iface=tw-wan")
first, second = tonumber(first or 0), tonumber(second or 1)

-- A ring is the sink of one chain and the source of another.
local middle = tw.ring("middle", { size = 1024 })

-- lan -> count -> (ring) -> drop_old_ttl -> wan
tw.chain("front", lan, tw.nf.count {}, middle):pin { lcore = first }

-- A plain function is an NF too.
local function drop_old_ttl(pkt)
   local ip = pkt:ipv4()
   if ip and ip.ttl <= 1 then return pkt:drop "ttl_too_old" end
end
tw.chain("back", middle, drop_old_ttl, wan):pin { lcore = second }

-- The other direction needs no work: a chain without NFs copies nothing and enters no Lua.
tw.chain("return", wan, lan):pin { lcore = first }
