-- SPDX-License-Identifier: BSD-3-Clause
-- A scale curve: what a flow table costs as flows grow past the caches, next to the same chain without it.
--
--    sudo build/tideway bench --html scale.html examples/bench/12-scale.lua

local tw = require "tideway"
local bench = tw.bench

local flows = tw.nf("flows", function(cfg)
   local seen = tw.hash { key = "u32", value = "u64", entries = cfg.entries }
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if ip and not seen:add(ip.src, 1) then seen:set(ip.src, 1) end
      end,
   }
end)

local function packets(n)
   return bench.packets { size = 64, flows = n, ipv4 = { src = bench.flow "10.0.0.0/8", dst = "198.19.0.1" } }
end

bench.curve("flows", {
   title = "a flow table", x = { name = "flows", values = { 100, 1000, 10000, 100000, 1000000 }, log = true },
   contenders = {
      none = function(n) return bench.chain { packets(n) } end,
      table = function(n) return bench.chain { packets(n), flows { entries = 2 * n } } end,
   },
   order = { "none", "table" },
})
