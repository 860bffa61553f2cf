-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: NFs of the library, each alone on an lcore, without the cost of source and sink.

local tw = require "tideway"
local bench = tw.bench

-- 64-byte packets of 1,024 flows that are in these routes and rules.
local packets = bench.packets { flows = 1024 }

local firewall = tw.nf.firewall {
   rules = [[
      allow established
      drop tcp to any port 25
      allow udp
      drop
   ]],
}

bench.alone {
   name = "alone", title = "NFs alone, 1,024 flows of 64-byte packets, without source and sink", packets = packets,
   tw.nf.count {}, tw.nf.reflect {}, firewall,
}
