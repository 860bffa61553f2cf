-- SPDX-License-Identifier: BSD-3-Clause
-- Slow path: the mapping of a packet from inside that has none yet.

local bit = require "bit"
local mappings = require "tideway.nf.napt44.mappings"

local M = {}

local band = bit.band
local TCP, UDP, ICMP = mappings.TCP, mappings.UDP, mappings.ICMP
local EXHAUSTED, TABLE_FULL = mappings.EXHAUSTED, mappings.TABLE_FULL
local RST = 4

-- Drops a packet that could not get a mapping.
local function refuse(pkt, why)
   if why == EXHAUSTED then
      pkt:drop "nat_ports_exhausted"
   elseif why == TABLE_FULL then
      pkt:drop "nat_table_full"
   else
      pkt:drop "nat_host_limit"
   end
   return false
end

--- The function for one configuration.
---@param c table from config.check
---@param a table from addresses.new
---@param m table from mappings.new
---@return fun(pkt, ip, hairpin: boolean): boolean open makes the mapping of the packet's source if it needs
---  one; false when that cannot be, and the packet is dropped
function M.new(c, a, m)
   local find, create = m.find, m.create
   local life_udp, life_new, life_icmp = c.timeout.udp, c.timeout.tcp_transitory, c.timeout.icmp

   local function ensure(pkt, ip, hairpin, class, sport, dport, life)
      local src, dst, now = ip.src, ip.dst, pkt:now()
      if not a.is_inside(src) or find(src, sport, class, now) then return true end
      local target = hairpin and find(dst, dport, class, now)
      if target then dst, dport = target.ext, target.ext_port end
      local place = create(src, sport, class, dst, dport, now, life)
      if place < 0 then return refuse(pkt, place) end
      return true
   end

   return function(pkt, ip, hairpin)
      local udp, tcp, icmp = pkt:udp(), pkt:tcp(), pkt:icmp()
      if udp then return ensure(pkt, ip, hairpin, UDP, udp.src_port, udp.dst_port, life_udp) end
      if tcp then
         -- A RST begins nothing. Other segments may belong to a connection older than this NAT.
         if band(tcp.flags, RST) ~= 0 and not find(ip.src, tcp.src_port, TCP, pkt:now()) then
            pkt:drop "nat_no_mapping"
            return false
         end
         return ensure(pkt, ip, hairpin, TCP, tcp.src_port, tcp.dst_port, life_new)
      end
      if icmp and (icmp.type == 8 or icmp.type == 13) then
         return ensure(pkt, ip, hairpin, ICMP, icmp.id, 0, life_icmp)
      end
      return true
   end
end

return M
