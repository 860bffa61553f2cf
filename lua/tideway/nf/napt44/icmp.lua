-- SPDX-License-Identifier: BSD-3-Clause
-- ICMP errors through the NAT: the packet they quote is translated back, and all checksums with it
-- (RFC 5508 section 4, RFC 3022 section 4.3).

local tw = require "tideway"
local mappings = require "tideway.nf.napt44.mappings"

local M = {}

local TCP, UDP, ICMP = mappings.TCP, mappings.UDP, mappings.ICMP

-- Class of a quoted packet's protocol, -1 for those without ports.
local function class_of(protocol)
   if protocol == 6 then return TCP end
   if protocol == 17 then return UDP end
   if protocol == 1 then return ICMP end
   return -1
end

-- RFC 5508 section 3: echo and timestamp, request and reply.
local function is_query(type) return type == 8 or type == 0 or type == 13 or type == 14 end

--- The functions for one configuration.
---@param pool_of fun(addr: number): number
---@param m table from mappings.new
---@param filter? table from filter.new
---@return table icmp inbound, outbound: each 1 when it translated, 0 when the error is not about a
---  mapping, -1 when it is not let in
function M.new(pool_of, m, filter)
   local find, find_outside = m.find, m.find_outside
   local csum = tw.csum
   local icmp = {}

   -- Where the error message ends, 0 for what is none.
   local function message_end(pkt)
      local at, length = pkt:payload_offset()
      if not at then return 0 end
      return at + length
   end

   -- The quoted packet's ports, checksum and so on change; `sum` is the checksum of the error
   -- message, which covers them. Returns it as it must be then. 8 bytes are there (quoted_packet).
   local function rewrite_l4(pkt, at, class, is_src, port, old_addr, addr, sum)
      if class == ICMP then
         local q = pkt:icmp_at(at)
         if not q then return sum end
         local old_id, old_sum = q.id, q.checksum
         local new_sum = csum.replace16(old_sum, old_id, port)
         q.id, q.checksum = port, new_sum
         return csum.replace16(csum.replace16(sum, old_id, port), old_sum, new_sum)
      end
      local head = pkt:udp_at(at)
      if not head then return sum end
      local old_port = head.dst_port
      if is_src then
         old_port = head.src_port
         head.src_port = port
      else
         head.dst_port = port
      end
      sum = csum.replace16(sum, old_port, port)
      if class == UDP then
         local old_sum = head.checksum
         if old_sum == 0 then return sum end
         local new_sum = csum.replace16(csum.replace32(old_sum, old_addr, addr), old_port, port)
         if new_sum == 0 then new_sum = 0xffff end
         head.checksum = new_sum
         return csum.replace16(sum, old_sum, new_sum)
      end
      local tcp = pkt:tcp_at(at) -- most quotes end before its checksum, and the frame may go on behind them
      if not tcp or at + 20 > message_end(pkt) then return sum end
      local old_sum = tcp.checksum
      local new_sum = csum.replace16(csum.replace32(old_sum, old_addr, addr), old_port, port)
      tcp.checksum = new_sum
      return csum.replace16(sum, old_sum, new_sum)
   end

   -- Puts another endpoint into the quoted packet, as its source or its destination. Address and
   -- checksum of its IPv4 header change by opposite amounts: the error's checksum sees neither.
   local function rewrite(pkt, message, at, quoted, class, is_src, addr, port)
      local old_addr = quoted.dst
      if is_src then
         old_addr = quoted.src
         quoted:set_src(addr)
      else
         quoted:set_dst(addr)
      end
      message.checksum = rewrite_l4(pkt, at, class, is_src, port, old_addr, addr, message.checksum)
   end

   -- The quoted packet: its header, the offset of what it carries, class, source and destination port (both the
   -- identifier for ICMP). Nil when not enough of it is there or it has no ports.
   local function quoted_packet(pkt)
      local at = pkt:icmp_inner_offset()
      local quoted = pkt:ipv4_at(at)
      if not quoted or quoted.version ~= 4 or quoted.ihl < 5 or quoted.frag_offset ~= 0 then return nil end
      local class, l4 = class_of(quoted.protocol), at + quoted.ihl * 4
      if class < 0 or l4 + 8 > message_end(pkt) then return nil end
      if class == ICMP then
         local head = pkt:icmp_at(l4)
         if not head or not is_query(head.type) then return nil end
         return quoted, l4, class, head.id, head.id
      end
      local head = pkt:udp_at(l4)
      if not head then return nil end
      return quoted, l4, class, head.src_port, head.dst_port
   end

   --- An error from outside (or a hairpin) about a packet that a mapping sent.
   function icmp.inbound(pkt, ip, hairpin, now)
      local quoted, l4, class, port, remote_port = quoted_packet(pkt)
      local message, dst = pkt:icmp(), ip.dst
      if not quoted or not message or quoted.src ~= dst then return 0 end
      if class == ICMP then remote_port = 0 end
      local r = find_outside(pool_of(dst), port, class, now)
      if not r then return 0 end
      if filter and not hairpin and not filter.allows(r, quoted.dst, remote_port) then return -1 end
      rewrite(pkt, message, l4, quoted, class, true, r.addr, r.port)
      ip:set_dst(r.addr)
      return 1
   end

   --- An error that leaves, about a packet that a mapping received. Its own source becomes the
   --- mapping's external address when it is an inside one.
   function icmp.outbound(pkt, ip, from_inside, now)
      local quoted, l4, class, _, port = quoted_packet(pkt)
      local message = pkt:icmp()
      if not quoted or not message then return 0 end
      local r = find(quoted.dst, port, class, now)
      if not r then return 0 end
      local ext = r.ext
      rewrite(pkt, message, l4, quoted, class, false, ext, r.ext_port)
      if from_inside then ip:set_src(ext) end
      return 1
   end

   return icmp
end

return M
