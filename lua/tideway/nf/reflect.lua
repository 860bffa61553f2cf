-- SPDX-License-Identifier: BSD-3-Clause
-- reflect: sends every packet back where it came from, with source and destination exchanged.

local tw = require "tideway"

local PARAMS = {
   ip = { type = "boolean", default = true, doc = "exchange IP addresses and TCP and UDP ports too" },
}

-- No checksum is touched: a sum of 16-bit words stays when words change places (RFC 1071). SCTP's
-- CRC32c would not, so SCTP keeps its ports.

local function swap_ports(pkt)
   local l4 = pkt:tcp() or pkt:udp()
   if not l4 then return end
   local src_port = l4.src_port
   l4.src_port = l4.dst_port
   l4.dst_port = src_port
end

local function swap_ip(pkt)
   local ip4 = pkt:ipv4()
   if ip4 then
      local src = ip4.src
      ip4.src = ip4.dst
      ip4.dst = src
      return swap_ports(pkt)
   end
   local ip6 = pkt:ipv6()
   if ip6 then
      local src = ip6.src:copy()
      ip6.src = ip6.dst
      ip6.dst = src
      return swap_ports(pkt)
   end
end

--- Send packets back by the port they came from. Parameters and drop reasons: reflect.md.
return tw.nf("reflect", function(cfg)
   cfg = tw.args("reflect", cfg, PARAMS)
   local ip = cfg.ip

   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return pkt:drop "truncated" end
         -- Exchanged, a group address would become a source, which it must never be (IEEE 802.3 3.2.3).
         if eth:is_multicast() then return pkt:drop "multicast" end
         eth:swap()
         if ip then swap_ip(pkt) end
         return pkt:send(pkt.port)
      end,
   }
end, { pure = true })
