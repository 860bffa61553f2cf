-- SPDX-License-Identifier: BSD-3-Clause
-- A token bucket per IPv4 source address (RFC 2697 without colours), in a table that forgets idle sources.
--
-- A byte costs 10^9 tokens and a nanosecond brings `rate` of them: exact in 64 bits, no division, nothing rounded
-- away however often a source sends. Two CPUs that work on one source at the same time may let a packet more through.

local tw = require "tideway"

local PARAMS = {
   rate = { type = "number", required = true, min = 1, max = 2 ^ 40, doc = "bytes a second for each source" },
   burst = { type = "number", default = 15000, min = 64, max = 9e6, doc = "bytes a source may send at once" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 24, doc = "sources remembered" },
}

return tw.nf("rate_limit", function(cfg)
   cfg = tw.args("rate_limit", cfg, PARAMS)
   local buckets = tw.lru { name = "buckets", key = "u32", value = "u64 tokens; u64 last", entries = cfg.entries }
   local rate, full = math.floor(cfg.rate), math.floor(cfg.burst) * 1e9 -- at most 9e15: still exact
   local refill = math.ceil(full / rate) -- ns from empty to full

   return {
      tables = { buckets = buckets },
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local cost, now = pkt.len * 1000000000, pkt:now()
         local bucket = buckets:get(ip.src)
         if not bucket then
            if cost > full then return pkt:drop "rate_limit" end
            buckets:set(ip.src, full - cost, now)
            return
         end
         local tokens, last = bucket.tokens, bucket.last
         if now > last then -- not so when another CPU was faster
            local passed = now - last
            if passed >= refill then
               tokens = full + 0ULL
            else
               tokens = tokens + passed * rate
               if tokens > full then tokens = full + 0ULL end
            end
            bucket.last = now
         end
         if tokens < cost then
            bucket.tokens = tokens
            return pkt:drop "rate_limit"
         end
         bucket.tokens = tokens - cost
      end,
   }
end)
