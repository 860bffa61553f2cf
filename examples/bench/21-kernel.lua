-- SPDX-License-Identifier: BSD-3-Clause
-- An NF in the kernel: what it costs in the test run, and what XDP, TC and the kernel's own routing forward between two
-- interfaces. Namespaces and interfaces are the benchmark's own and end with it.
--
--    sudo build/tideway bench examples/bench/21-kernel.lua

local bench = require "tideway".bench

local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/../?.lua;" .. package.path

-- To the interface `lan`, from a host beside it.
local packets = bench.packets {
   size = 64, flows = 256, eth = { dst = "02:00:00:00:01:01", src = "02:00:00:00:01:02" },
   ipv4 = { src = bench.flow "198.18.0.0/24", dst = "203.0.113.1" },
}

bench.group("hook", {
   title = "a TTL, in ns", unit = "ns", rounds = 5, seconds = 0.02,
   contenders = { bench.hook { name = "ttl", nf = require "nf.ttl" {}, packets = packets } },
})

local function chain(hook)
   return bench.live {
      name = hook, note = "examples/bench/chains/ttl.lua", packets = packets, ready = "ready:",
      command = function(ctx) return { ctx.tideway, "run", here .. "/chains/ttl.lua", hook } end,
   }
end

bench.group("live", {
   title = "a TTL between two interfaces, in ns", unit = "ns", rounds = 5, seconds = 0.2, base = "path",
   reference = "routing",
   contenders = {
      bench.live { name = "path", packets = packets, shut = true },
      bench.live {
         name = "routing", packets = packets,
         setup = {
            "ip address add 198.18.0.254/24 dev lan", "ip address add 198.51.100.254/24 dev wan",
            "ip neighbour add 198.51.100.1 lladdr 02:00:00:00:02:02 dev wan",
            "ip route add 203.0.113.0/24 via 198.51.100.1", "echo 1 > /proc/sys/net/ipv4/ip_forward",
         },
      },
      chain "xdp", chain "tc",
   },
})
