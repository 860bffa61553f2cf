-- SPDX-License-Identifier: BSD-3-Clause
-- Static NAT for IPv4 (RFC 2663, RFC 3022): whole addresses 1:1, or single ports of TCP and UDP; both ways, all
-- checksums incrementally (RFC 1624).
--
-- A mapping is two entries, one per direction. Packets that no mapping names go on as they are, or are dropped.
-- Fragments without ports follow 1:1 mappings only. ICMP errors are not looked into: tw.nf.napt44 does that, and
-- dynamic ports.

local tw = require "tideway"

local PARAMS = {
   hosts = { type = "table", default = {}, doc = "{ [inside address] = outside address, ... }" },
   ports = { type = "table", default = {},
      doc = "{ { proto = 6, inside = address, inside_port = 80, outside = address, outside_port = 8080 }, ... }" },
   unmapped = { type = "string", default = "pass", one_of = { "pass", "drop" }, doc = "packets without a mapping" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "mappings" },
}

-- Port 0 of protocol 0 stands for the whole address.
local KEY, VALUE = "u32 address; u16 port; u8 proto", "u32 address; u16 port; u64 packets"

local function make_tables(cfg)
   local out = tw.hash { name = "nat_out", key = KEY, value = VALUE, entries = cfg.entries }
   local back = tw.hash { name = "nat_in", key = KEY, value = VALUE, entries = cfg.entries }
   for inside, outside in pairs(cfg.hosts) do
      out:set(tw.ip4(inside), 0, 0, tw.ip4(outside), 0, 0)
      back:set(tw.ip4(outside), 0, 0, tw.ip4(inside), 0, 0)
   end
   for _, map in ipairs(cfg.ports) do
      local inside, outside = tw.ip4(map.inside), tw.ip4(map.outside)
      out:set(inside, map.inside_port, map.proto, outside, map.outside_port, 0)
      back:set(outside, map.outside_port, map.proto, inside, map.inside_port, 0)
   end
   return { out = out, back = back }
end

local apply, change16, change32 = tw.csum.apply, tw.csum.change16, tw.csum.change32

-- Writes a port of TCP or UDP, when the mapping has one; how the checksum changes by it.
local function write_port(l4, is_source, port)
   if port == 0 then return 0 end
   local old = is_source and l4.src_port or l4.dst_port
   if is_source then l4.src_port = port else l4.dst_port = port end
   return change16(old, port)
end

-- The source or the destination becomes what the mapping says; all checksums follow.
local function translate(ip, tcp, udp, is_source, to)
   local old, new = is_source and ip.src or ip.dst, to.address
   local change = change32(old, new)
   if is_source then ip.src = new else ip.dst = new end
   ip.checksum = apply(ip.checksum, change)
   if tcp then
      change = change + write_port(tcp, is_source, to.port)
      tcp.checksum = apply(tcp.checksum, change)
   elseif udp then
      change = change + write_port(udp, is_source, to.port)
      local sum = udp.checksum
      if sum == 0 then return end
      sum = apply(sum, change)
      if sum == 0 then sum = 0xffff end
      udp.checksum = sum
   end
end

return tw.nf("nat44", function(cfg)
   cfg = tw.args("nat44", cfg, PARAMS)
   local tables = make_tables(cfg)
   local out, back, drop = tables.out, tables.back, cfg.unmapped == "drop"

   return {
      tables = tables,
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local src_port, dst_port, tcp, udp = 0, 0, pkt:tcp(), pkt:udp()
         local l4 = tcp or udp
         if l4 then
            src_port, dst_port = l4.src_port, l4.dst_port
         end
         local is_source = true
         local to = out:get(ip.src, src_port, ip.protocol) or out:get(ip.src, 0, 0)
         if not to then
            is_source = false
            to = back:get(ip.dst, dst_port, ip.protocol) or back:get(ip.dst, 0, 0)
         end
         if not to then
            if drop then return pkt:drop "unmapped" end
            return
         end
         to.packets = to.packets + 1
         translate(ip, tcp, udp, is_source, to)
      end,
   }
end)
