-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: how chains do as frames, flows and the chain itself grow, in process, from bench.source to bench.sink.

local tw = require "tideway"
local bench = tw.bench

local ROUNDS, SECONDS = 3, 0.3

local function curve(name, spec)
   spec.rounds, spec.seconds = ROUNDS, SECONDS
   bench.curve(name, spec)
end

local macswap = tw.nf("macswap", function()
   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return pkt:drop "too_short" end
         eth:swap()
      end,
   }
end)

local ttl = tw.nf("ttl", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= 1 then return pkt:drop "ttl_expired" end
         ip:decrement_ttl()
      end,
   }
end)

-- One entry for each source.
local sources = tw.nf("sources", function(cfg)
   local seen = tw.hash { key = "u32", value = "u64", entries = cfg.entries }
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if ip and not seen:add(ip.src, 1) then seen:set(ip.src, 1) end
      end,
   }
end)

local function flows(n)
   return bench.packets { size = 64, flows = n, ipv4 = { src = bench.flow "10.0.0.0/8", dst = "198.19.0.1" } }
end

curve("size", {
   title = "frames grow",
   x = { name = "frame size", unit = "B", values = { 64, 128, 256, 512, 1024, 1518 }, log = true },
   contenders = {
      none = function(size) return bench.chain { bench.packets { size = size, flows = 1024 } } end,
      macswap = function(size) return bench.chain { bench.packets { size = size, flows = 1024 }, macswap {} } end,
   },
   order = { "none", "macswap" },
})

curve("flows", {
   title = "a flow table grows past the caches",
   x = { name = "flows", values = { 100, 1000, 10000, 100000, 1000000 }, log = true }, unit = "ns",
   contenders = {
      none = function(n) return bench.chain { flows(n) } end,
      table = function(n) return bench.chain { flows(n), sources { entries = 2 * n } } end,
   },
   order = { "none", "table" },
})

curve("length", {
   title = "the chain grows: TTL, again and again", x = { name = "NFs", values = { 0, 1, 2, 4, 8, 16 } }, unit = "ns",
   contenders = {
      ttl = function(n)
         local items = { flows(1024) }
         for _ = 1, n do items[#items + 1] = ttl {} end
         return bench.chain(items)
      end,
   },
})
