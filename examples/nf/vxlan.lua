-- SPDX-License-Identifier: BSD-3-Clause
-- A VXLAN tunnel end point (RFC 7348): frames of a VLAN leave in a tunnel to where their destination lives, frames
-- from tunnels come out in the VLAN of their VNI. Both leave by the port they came from.
--
-- Stations do not learn each other: the table of MAC addresses is filled by who knows (RFC 7348 section 4.1 leaves
-- that open). Frames to addresses that are not in it are dropped.

local tw = require "tideway"
local bit = require "bit"

local band, bor, rshift = bit.band, bit.bor, bit.rshift
local jhash = tw.jhash

local PARAMS = {
   address = { type = "string", required = true, doc = "our tunnel address" },
   mac = { type = "string", required = true, doc = "our MAC address in the underlay" },
   gateway = { type = "string", required = true, doc = "MAC address of the next hop in the underlay" },
   vlans = { type = "table", required = true, doc = "{ [VLAN id] = VNI, ... }" },
   stations = { type = "table", default = {}, doc = "{ { mac = mac, vni = VNI, at = tunnel address }, ... }" },
   mtu = { type = "number", default = 1550, min = 576, max = 9000, doc = "bytes of the longest underlay IP packet" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "stations" },
}

local function make_tables(cfg)
   local t = {
      vnis = tw.hash { name = "vxlan_vnis", key = "u32", value = "u16", entries = 4096 },
      vids = tw.hash { name = "vxlan_vids", key = "u16", value = "u32", entries = 4096 },
      stations = tw.hash { name = "vxlan_stations", key = "mac mac; u32 vni", value = "u32", entries = cfg.entries },
   }
   for vid, vni in pairs(cfg.vlans) do
      t.vids:set(vid, vni)
      t.vnis:set(vni, vid)
   end
   for _, s in ipairs(cfg.stations) do t.stations:set(tw.mac(s.mac), s.vni, tw.ip4(s.at)) end
   return t
end

local function header_checksum(sum, src, dst)
   sum = sum + rshift(src, 16) + band(src, 0xffff) + rshift(dst, 16) + band(dst, 0xffff)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return 0xffff - sum
end

return tw.nf("vxlan", function(cfg)
   cfg = tw.args("vxlan", cfg, PARAMS)
   local tables = make_tables(cfg)
   local vnis, vids, stations = tables.vnis, tables.vids, tables.stations
   local address, mac, gateway, mtu = tw.ip4(cfg.address), tw.mac(cfg.mac), tw.mac(cfg.gateway), cfg.mtu

   -- 50 bytes in front of the frame without its tag: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
   local function encapsulate(pkt, dst, src, length, vni, to)
      local eth = pkt:eth()
      eth.dst = gateway
      eth.src = mac
      eth.type = 0x0800
      local ip = pkt:ipv4_at(14)
      ip.version = 4
      ip.ihl = 5
      ip.tos = 0
      ip.total_length = length
      ip.id = 0
      ip.frag = 0x4000
      ip.ttl = 64
      ip.protocol = 17
      ip.checksum = header_checksum(0x4500 + length + 0x4000 + 0x4011, address, to)
      ip.src = address
      ip.dst = to
      local udp = pkt:udp_at(34)
      udp.src_port = bor(0xc000, band(jhash(dst, src, vni), 0x3fff))
      udp.dst_port = 4789
      udp.length = length - 20
      udp.checksum = 0
      pkt:set_u32(42, 0x08000000)
      pkt:set_u32(46, vni * 256)
      local inner = pkt:eth_at(50)
      inner.dst = dst
      inner.src = src
   end

   local function enter(pkt, vid)
      local vni = vids:get(vid)
      if not vni then return end
      local eth = pkt:eth()
      local dst, src = eth.dst, eth.src
      local to = stations:get(dst, vni)
      if not to then return pkt:drop "vxlan_unknown_station" end
      local length = pkt.len + 32 -- four of them less: the tag
      if length > mtu then return pkt:drop "vxlan_too_big" end
      if not pkt:adjust_head(-46) then return pkt:drop "no_headroom" end
      encapsulate(pkt, dst, src, length, vni, to)
      pkt:send(pkt.port)
   end

   local function leave(pkt, offset, vid)
      local inner = pkt:eth_at(offset)
      if not inner then return pkt:drop "vxlan_short" end
      local dst, src = inner.dst, inner.src
      if not pkt:adjust_head(offset - 4) then return pkt:drop "vxlan_short" end
      local eth = pkt:eth()
      if not eth then return pkt:drop "vxlan_short" end
      eth.dst = dst
      eth.src = src
      eth.type = 0x8100
      pkt:set_u16(14, vid)
      pkt:send(pkt.port)
   end

   return {
      tables = tables,
      packet = function(pkt)
         local tag = pkt:vlan()
         if tag then return enter(pkt, tag.vid) end
         local ip = pkt:ipv4()
         if not ip or ip.dst ~= address or ip:is_fragment() then return end
         local vxlan = pkt:vxlan()
         if not vxlan then return end
         local vid = vnis:get(vxlan.vni)
         if not vid then return pkt:drop "vxlan_unknown_vni" end
         return leave(pkt, pkt:l4_offset() + 16, vid)
      end,
   }
end)
