-- SPDX-License-Identifier: BSD-3-Clause
-- Ends tunnels: IPIP (RFC 2003, RFC 2473 for IPv6 inside) and GUE on UDP port 6080, variant 1 and variant 0 without
-- extension fields (draft-ietf-intarea-gue-09), to addresses of our own. What was inside goes on as a frame.
--
-- The other end of lb.lua. Outer VLAN tags go with the outer header; fragments are not for us.

local tw = require "tideway"
local bit = require "bit"

local band, rshift = bit.band, bit.rshift

local PARAMS = {
   addresses = { type = "table", required = true, doc = "our tunnel addresses, { \"10.0.0.2\", ... }" },
}

local GUE_PORT, IPIP, UDP, IPV6 = 6080, 4, 17, 41

return tw.nf("decap", function(cfg)
   cfg = tw.args("decap", cfg, PARAMS)
   local ours = tw.hash { name = "decap_ours", key = "u32", value = "u64 packets", entries = 1024 }
   for _, address in ipairs(cfg.addresses) do ours:set(tw.ip4(address), 0) end

   -- EtherType of the packet at an offset that fills at most `room` bytes; 0 when there is none.
   local function type_of(pkt, offset, room)
      local ip = pkt:ipv4_at(offset)
      if not ip then return 0 end
      if ip.version == 4 then
         if ip.ihl < 5 or ip.total_length < ip.ihl * 4 or ip.total_length > room then return 0 end
         return 0x0800
      end
      local ip6 = pkt:ipv6_at(offset)
      if not ip6 or ip6.version ~= 6 or ip6.payload_length + 40 > room then return 0 end
      return 0x86dd
   end

   return {
      tables = { ours = ours },
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip or ip:is_fragment() then return end
         local protocol = ip.protocol
         if protocol ~= IPIP and protocol ~= IPV6 and protocol ~= UDP then return end
         if protocol == UDP then
            local udp = pkt:udp()
            if not udp or udp.dst_port ~= GUE_PORT then return end
         end
         local mine = ours:get(ip.dst)
         if not mine then return end
         local offset, room = pkt:payload_offset()
         if not offset then return pkt:drop "decap_malformed" end
         if protocol == UDP then
            local head = pkt:u32(offset)
            if not head or room < 4 then return pkt:drop "decap_malformed" end
            if rshift(head, 30) == 0 then -- variant 0: a header of 4 bytes, and no more of it
               if band(head, 0xff00ffff) ~= 0 then return pkt:drop "decap_unsupported" end
               offset, room = offset + 4, room - 4
            end
         end
         local type = type_of(pkt, offset, room)
         if type == 0 then return pkt:drop "decap_malformed" end
         mine.packets = mine.packets + 1
         local eth = pkt:eth()
         if not eth then return end
         local dst, src = eth.dst, eth.src
         if not pkt:adjust_head(offset - 14) then return pkt:drop "decap_malformed" end
         eth = pkt:eth()
         if not eth then return pkt:drop "decap_malformed" end
         eth.dst = dst
         eth.src = src
         eth.type = type
      end,
   }
end)
