-- SPDX-License-Identifier: BSD-3-Clause
-- Samples packets at random, one in so many (random sampling of RFC 5475 5.2.2), and writes a record of each to a
-- ring buffer that a program in user space reads.
--
-- Kernel hooks only: lcores have no ring buffers.

local tw = require "tideway"

local PARAMS = {
   one_in = { type = "number", default = 1000, min = 1, max = 2 ^ 31, doc = "packets for one sample" },
   size = { type = "number", default = 2 ^ 20, min = 4096, max = 2 ^ 30, doc = "bytes of the ring buffer" },
}

local SAMPLED, LOST = 0, 1

return tw.nf("sampler", function(cfg)
   cfg = tw.args("sampler", cfg, PARAMS)
   local samples = tw.ringbuf {
      name = "samples", size = cfg.size,
      value = "ns time; u32 src; u32 dst; u16 sport; u16 dport; u16 length; u8 proto; u8 tos",
   }
   local stats = tw.counters { name = "sampler_stats", names = { "sampled", "lost" } }
   local threshold = math.floor(2 ^ 32 / cfg.one_in)

   return {
      tables = { samples = samples, stats = stats },
      packet = function(pkt)
         if tw.random() >= threshold then return end
         local ip = pkt:ipv4()
         if not ip then return end
         local src_port, dst_port = 0, 0
         local l4 = pkt:tcp() or pkt:udp()
         if l4 then src_port, dst_port = l4.src_port, l4.dst_port end
         if samples:output(pkt:now(), ip.src, ip.dst, src_port, dst_port, ip.total_length, ip.protocol, ip.tos) then
            stats:add(SAMPLED, 1)
         else
            stats:add(LOST, 1)
         end
      end,
   }
end)
