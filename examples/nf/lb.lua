-- SPDX-License-Identifier: BSD-3-Clause
-- A layer 4 load balancer: TCP and UDP to a virtual address go to one of its servers, picked by flow on a Maglev
-- ring (Eisenbud et al., NSDI 2016), in a tunnel: IPIP (RFC 2003), or GUE variant 1, IP directly in UDP
-- (draft-ietf-intarea-gue-09). Servers answer clients directly.
--
-- No state per flow: every balancer with the same configuration picks the same server. The frame leaves by the port
-- it came from, to the gateway. Fragments and IPv4 with options are not balanced; they go on.

local tw = require "tideway"
local bit = require "bit"

local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local jhash = tw.jhash

local PARAMS = {
   vips = { type = "table", required = true,
      doc = "{ { address = \"192.0.2.1\", port = 80, proto = 6, reals = { \"10.0.0.2\", ... } }, ... }" },
   gateway = { type = "string", required = true, doc = "MAC address of the router to the servers" },
   tunnel = { type = "string", default = "ipip", one_of = { "ipip", "gue" }, doc = "how packets get to the servers" },
   mtu = { type = "number", default = 1500, min = 576, max = 9000, doc = "bytes of the longest IP packet to a server" },
}

local RING = 65537 -- prime, at least 100 times the number of servers
local GUE_PORT = 6080

local function make_tables(vips)
   local t = {
      vips = tw.hash { name = "lb_vips", key = "u32 address; u16 port; u8 proto", value = "u32", entries = 512 },
      ring = tw.array { name = "lb_ring", value = "u32", entries = RING * math.max(#vips, 1) },
      reals = tw.array { name = "lb_reals", value = "u32 address; u32 flags", entries = 4096 },
      packets = tw.counters { name = "lb_packets", size = math.max(#vips, 1) },
   }
   local numbers, count = {}, 0
   for i, vip in ipairs(vips) do
      t.vips:set(tw.ip4(vip.address), vip.port, vip.proto, i - 1)
      for _, real in ipairs(vip.reals) do
         if not numbers[real] then
            t.reals:set(count, tw.ip4(real), 0)
            numbers[real], count = count, count + 1
         end
      end
      for slot, real in ipairs(tw.maglev(vip.reals, RING)) do
         t.ring:set((i - 1) * RING + slot - 1, numbers[real])
      end
   end
   return t
end

-- Checksum of an IPv4 header of 20 bytes: the sum of its other words, and the addresses.
local function header_checksum(sum, src, dst)
   sum = sum + rshift(src, 16) + band(src, 0xffff) + rshift(dst, 16) + band(dst, 0xffff)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return 0xffff - sum
end

return tw.nf("lb", function(cfg)
   cfg = tw.args("lb", cfg, PARAMS)
   local tables = make_tables(cfg.vips)
   local vips, ring, reals, packets = tables.vips, tables.ring, tables.reals, tables.packets
   local gateway, mtu, gue = tw.mac(cfg.gateway), cfg.mtu, cfg.tunnel == "gue"
   local extra, protocol = gue and 28 or 20, gue and 17 or 4

   -- What makes the packet `extra` bytes longer: the headers in front of the old IP header.
   local function encapsulate(pkt, mac, tos, length, src, dst, hash)
      local eth = pkt:eth()
      eth.dst = gateway
      eth.src = mac
      eth.type = 0x0800
      local ip = pkt:ipv4_at(14)
      ip.version = 4
      ip.ihl = 5
      ip.tos = tos
      ip.total_length = length
      ip.id = 0
      ip.frag = 0
      ip.ttl = 64
      ip.protocol = protocol
      ip.checksum = header_checksum(0x4500 + tos + length + 0x4000 + protocol, src, dst)
      ip.src = src
      ip.dst = dst
      if gue then
         local udp = pkt:udp_at(34)
         udp.src_port = bor(0xc000, band(hash, 0x3fff))
         udp.dst_port = GUE_PORT
         udp.length = length - 20
         udp.checksum = 0
      end
   end

   return {
      tables = tables,
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth or eth.type ~= 0x0800 then return end
         local ip = pkt:ipv4()
         if not ip or ip.ihl ~= 5 or ip:is_fragment() then return end
         local l4 = pkt:tcp() or pkt:udp()
         if not l4 then return end
         local src_port, dst_port = l4.src_port, l4.dst_port
         local vip = vips:get(ip.dst, dst_port, ip.protocol)
         if not vip then return end
         local length, tos = ip.total_length + extra, ip.tos
         if length > mtu then return pkt:drop "lb_too_big" end
         packets:add(vip, 1)
         local hash = jhash(ip.src, ip.dst, bor(lshift(src_port, 16), dst_port))
         local number = ring:get(vip * RING + rshift(hash, 1) % RING)
         if not number then return pkt:drop "lb_no_real" end
         local real = reals:get(number)
         if not real then return pkt:drop "lb_no_real" end
         -- The outer source spreads flows over receive queues.
         local src, dst, mac = 0xac100000 + band(hash, 0xffff), real.address, eth.dst
         if not pkt:adjust_head(-extra) then return pkt:drop "no_headroom" end
         encapsulate(pkt, mac, tos, length, src, dst, hash)
         return pkt:send(pkt.port)
      end,
   }
end)
