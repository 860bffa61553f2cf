-- SPDX-License-Identifier: BSD-3-Clause
-- A balancer for TCP: connections go to the server that has the fewest, without a byte of them being looked at.
--
--    python3 -m http.server --bind 127.0.0.1 9001 &          # two servers; anything that speaks TCP will do
--    python3 -m http.server --bind 127.0.0.1 9002 &
--    sudo build/tideway run examples/13-l4-balancer.lua
--    curl -s http://127.0.0.1:5000/ | head -3                # in another terminal, several times
--
-- While it runs, in `sudo build/tideway repl`:
--
--    upstreams                                               -- who is up, and what each has done
--    upstreams.servers:drain "127.0.0.1:9001"                -- no new connections there; `weight(name, 1)` ends it
--    upstreams.servers:add { "127.0.0.1:9003", weight = 2 }

local tw = require "tideway"

local front = tw.listen("front", "tcp://127.0.0.1:5000", { idle = 300, connections = 10000 })

local servers = tw.upstream("servers", {
   protocol = "tcp",
   servers = { "127.0.0.1:9001", { "127.0.0.1:9002", weight = 2 } },
   balance = "least",                          -- "hash": a client stays with its server
   retries = 1,                                -- when one refuses, the other one is tried
   check = { every = 2 },                      -- and is left out until it accepts again
   connect_timeout = 2,
})

-- Who may connect, and how many connections a second one client may open.
local guard = tw.nf.l4_proxy { allow = { "127.0.0.0/8", "10.0.0.0/8" }, max_per_client = 200 }

tw.chain("balancer", front, guard, servers):pin { worker = "inline" }
