-- SPDX-License-Identifier: BSD-3-Clause
-- The five NFs of the fuse benchmark. chain.c has the same ones in C.

local bit = require "bit"
local tw = require "tideway"

local rshift = bit.rshift
local apply, change16, change32 = tw.csum.apply, tw.csum.change16, tw.csum.change32

local M = {}

--- Drops what is not TCP or UDP over IPv4.
M.parse = tw.nf("fuse_parse", function()
   return {
      packet = function(pkt)
         if not pkt:ipv4() then return pkt:drop "fuse_not_ipv4" end
         if not (pkt:tcp() or pkt:udp()) then return pkt:drop "fuse_no_ports" end
      end,
   }
end)

--- Drops sources that no packet may have, and ports of services for the local network only.
M.firewall = tw.nf("fuse_firewall", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local src = ip.src
         local first = rshift(src, 24)
         if first == 0 or first == 127 or first >= 224 or rshift(src, 16) == 0xa9fe then
            return pkt:drop "fuse_martian"
         end
         local l4 = pkt:tcp() or pkt:udp()
         if not l4 then return end
         local port = l4.dst_port
         if port == 23 or port == 445 or port >= 135 and port <= 139 then return pkt:drop "fuse_denied" end
      end,
   }
end)

--- One less, expired packets are dropped.
M.ttl = tw.nf("fuse_ttl", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= 1 then return pkt:drop "fuse_expired" end
         ip:decrement_ttl()
      end,
   }
end)

--- Source address and port, where there is a mapping.
M.nat = tw.nf("fuse_nat", function(cfg)
   local mappings = cfg.mappings
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local tcp, udp = pkt:tcp(), pkt:udp()
         local l4 = tcp or udp
         if not l4 then return end
         local to = mappings:get(ip.src, l4.src_port, ip.protocol)
         if not to then return end
         local change = change32(ip.src, to.address)
         ip.src = to.address
         ip.checksum = apply(ip.checksum, change)
         change = change + change16(l4.src_port, to.port)
         l4.src_port = to.port
         if tcp then
            tcp.checksum = apply(tcp.checksum, change)
         elseif udp and udp.checksum ~= 0 then
            local sum = apply(udp.checksum, change)
            if sum == 0 then sum = 0xffff end
            udp.checksum = sum
         end
      end,
   }
end)

--- The next hop's MAC address, and ours.
M.mac = tw.nf("fuse_mac", function(cfg)
   local dst, src = tw.mac(cfg.dst), tw.mac(cfg.src)
   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return end
         eth.dst = dst
         eth.src = src
      end,
   }
end)

return M
