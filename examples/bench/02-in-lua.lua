-- SPDX-License-Identifier: BSD-3-Clause
-- Packets that Lua changes one by one: an NF behind the source, compiled like any other. Here a generator of its own
-- kind, bursts of eight packets to one destination, compared with what sources can do by themselves.
--
--    sudo build/tideway bench --quick examples/bench/02-in-lua.lua

local tw = require "tideway"
local bench = tw.bench
local bit = require "bit"

-- A template by the header API: this function sees each frame once, before the source has it.
local template = bench.packets {
   size = 64,
   ipv4 = { id = bench.count(0, 65535) },
   fill = function(pkt)
      pkt:ipv4().ttl = 32
      pkt:udp().dst_port = 4000
   end,
}

-- Per packet: the destination changes with every eighth packet, which the IP ID tells. Checksums follow.
local function trains(pkt)
   local ip = pkt:ipv4()
   if not ip then return pkt:drop "not_ipv4" end
   pkt:set_ipv4_dst(0xc6130000 + bit.rshift(ip.id, 3))
end

bench.group("trains", {
   title = "trains of eight packets to one destination",
   contenders = {
      bench.chain { template, name = "source", note = "the template alone" },
      bench.chain { template, trains, name = "in Lua", note = "an NF that writes the destination" },
      bench.chain {
         bench.packets { size = 64, ipv4 = { dst = bench.count("198.19.0.0", "198.19.31.255"):every(8) } },
         name = "count:every(8)", note = "the same destinations by the source",
      },
   },
   reference = "source", base = "source",
})
