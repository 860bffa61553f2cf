-- SPDX-License-Identifier: BSD-3-Clause
-- An NF in a file of its own: lowers the TTL of IPv4 packets as a router does (RFC 791, RFC 1812 5.3.1).

local tw = require "tideway"

local PARAMS = {
   least = { type = "number", default = 1, min = 1, max = 255, doc = "packets with this TTL or less are dropped" },
}

return tw.nf("ttl", function(cfg)
   -- Checks the configuration; a wrong one is refused with its parameter and value.
   cfg = tw.args("ttl", cfg, PARAMS)
   local least = cfg.least -- what packet() needs later it keeps in locals like this one

   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= least then return pkt:drop "ttl_expired" end
         ip.ttl = ip.ttl - 1
         ip:update_checksum()
      end,
   }
end)
