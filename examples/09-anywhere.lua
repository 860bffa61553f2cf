-- SPDX-License-Identifier: BSD-3-Clause
-- The same NFs anywhere: on an lcore, or compiled to eBPF and attached to a hook of the kernel. One line changes.
--
--    sudo scripts/lab up --mode l2 --napi
--    sudo scripts/lab exec dut build/tideway run examples/09-anywhere.lua xdp
-- and in another terminal:
--    sudo scripts/lab exec client ping 10.0.0.3            # ttl=63: one hop
--    sudo scripts/lab exec client ping -t 1 10.0.0.3       # no answer: ttl_expired in the counters
-- Where else could they run, and what is in the way?
--    build/tideway check --verbose examples/09-anywhere.lua
--
-- Argument: lcore (default), xdp, generic, tc.

local tw = require "tideway"
local ttl = require "nf.ttl"

-- A network interface by its name: hooks attach to it, lcores open it with net_af_xdp.
local lan, wan = tw.port("lan", "tw-lan"), tw.port("wan", "tw-wan")

local places = {
   lcore = { lcore = 1 }, -- polls: a core of its own, lowest latency
   xdp = { xdp = true }, -- true: on the interfaces the chain receives from; native where the driver can
   generic = { xdp = true, mode = "generic" }, -- any interface, slower
   tc = { tc = true }, -- ingress, behind the kernel's receive path
}
local where = places[... or "lcore"] or error("the place is lcore, xdp, generic or tc, not " .. tostring(...))

tw.chain("up", lan, ttl {}, wan):pin(where)
tw.chain("down", wan, ttl {}, lan):pin(where)
