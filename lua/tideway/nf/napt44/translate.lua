-- SPDX-License-Identifier: BSD-3-Clause
-- Translation of whole packets and first fragments: TCP, UDP and ICMP, out and in.

local bit = require "bit"
local icmp_errors = require "tideway.nf.napt44.icmp"
local mappings = require "tideway.nf.napt44.mappings"
local tcp_state = require "tideway.nf.napt44.tcp"

local M = {}

local band, bxor, rshift = bit.band, bit.bxor, bit.rshift

local TCP, UDP, ICMP = mappings.TCP, mappings.UDP, mappings.ICMP
local FIN_SYN_RST = 7
local PLAIN = tcp_state.ESTABLISHED + 1 -- established and answered, nothing else: needs no look at the flags

-- Deadlines are set this much later than they must be, and again only when that is used up: not every
-- packet writes to memory that other lcores read. A 64th of the time, at most a second.
local function slack_of(life) return math.min(math.floor(life / 64), 1e9) end

-- A checksum after what it covers changed by `shift` (RFC 1624 eqn. 3).
local function adjust(sum, shift)
   local s = bxor(sum, 0xffff) + shift
   return bxor(band(s, 0xffff) + rshift(s, 16), 0xffff)
end

-- UDP: 0 means "no checksum" and stays; one that comes out as 0 is sent as ffff (RFC 768).
local function adjust_udp(sum, shift)
   if sum == 0 then return 0 end
   sum = adjust(sum, shift)
   if sum == 0 then return 0xffff end
   return sum
end

-- Out: the source of packets from inside becomes a mapping's external endpoint.
-- A hairpin packet has been through in() and has an inside destination; towards its sender that is
-- `target`'s external endpoint, and towards `target` the sender is `r`'s (RFC 4787 REQ-9).
local function make_out(c, a, m, filter, tcp, errors)
   local find, is_inside = m.find, a.is_inside
   local life_udp, life_tcp, life_icmp = c.timeout.udp, c.timeout.tcp, c.timeout.icmp
   local slack_udp, slack_tcp, slack_icmp = slack_of(life_udp), slack_of(life_tcp), slack_of(life_icmp)

   -- The first packet of a mapping takes the slow path, which makes it (open.lua).
   -- When even that finds none, another lcore has ended it in the same moment.
   local function missing(pkt, src, opened)
      if opened then return pkt:drop "nat_contention" end
      if is_inside(src) then return pkt:punt() end
   end

   local function malformed(pkt, src)
      if is_inside(src) then return pkt:drop "nat_malformed" end
   end

   local function out_udp(pkt, ip, hairpin, opened)
      local udp = pkt:udp()
      local src, dst, now = ip.src, ip.dst, pkt:now()
      if not udp then return malformed(pkt, src) end
      local sport, dport = udp.src_port, udp.dst_port
      local target
      if hairpin then
         target = find(dst, dport, UDP, now)
         if target then dst, dport = target.ext, target.ext_port end
      end
      local r = find(src, sport, UDP, now)
      if not r then return missing(pkt, src, opened) end
      if r.expires < now + life_udp then
         r.expires = now + life_udp + slack_udp
      end
      if filter then
         filter.sent(r, dst, dport, now)
         if target and not filter.allows(target, r.ext, r.ext_port) then return pkt:drop "nat_filtered" end
      end
      ip.src = r.ext
      ip.checksum = adjust(ip.checksum, r.shift_ip)
      udp.src_port = r.ext_port
      udp.checksum = adjust_udp(udp.checksum, r.shift_l4)
   end

   local function out_tcp(pkt, ip, hairpin, opened)
      local head = pkt:tcp()
      local src, dst, now = ip.src, ip.dst, pkt:now()
      if not head then return malformed(pkt, src) end
      local sport, dport, flags = head.src_port, head.dst_port, head.flags
      local target
      if hairpin then
         target = find(dst, dport, TCP, now)
         if target then dst, dport = target.ext, target.ext_port end
      end
      local r = find(src, sport, TCP, now)
      if not r then return missing(pkt, src, opened) end
      if r.state == PLAIN and band(flags, FIN_SYN_RST) == 0 and r.remote == dst and r.remote_port == dport then
         if r.expires < now + life_tcp then r.expires = now + life_tcp + slack_tcp end
      else
         tcp.outbound(r, dst, dport, flags, now)
      end
      if filter then
         filter.sent(r, dst, dport, now)
         if target and not filter.allows(target, r.ext, r.ext_port) then return pkt:drop "nat_filtered" end
      end
      if target then tcp.inbound(target, r.ext, r.ext_port, flags, now) end
      ip.src = r.ext
      ip.checksum = adjust(ip.checksum, r.shift_ip)
      head.src_port = r.ext_port
      head.checksum = adjust(head.checksum, r.shift_l4)
   end

   local function out_icmp(pkt, ip, opened)
      local head = pkt:icmp()
      local src, now = ip.src, pkt:now()
      if not head then return malformed(pkt, src) end
      local type = head.type
      if type ~= 8 and type ~= 13 then
         local inside = is_inside(src)
         if head:is_error() and errors.outbound(pkt, ip, inside, now) == 1 then return end
         if inside then return pkt:drop "nat_no_mapping" end
         return
      end
      local id = head.id
      local r = find(src, id, ICMP, now)
      if not r then return missing(pkt, src, opened) end
      if r.expires < now + life_icmp then
         r.expires = now + life_icmp + slack_icmp
      end
      if filter then filter.sent(r, ip.dst, 0, now) end
      ip.src = r.ext
      ip.checksum = adjust(ip.checksum, r.shift_ip)
      head.id = r.ext_port
      head.checksum = adjust(head.checksum, r.shift_l4)
   end

   return function(pkt, ip, hairpin, opened)
      local protocol = ip.protocol
      if protocol == 17 then return out_udp(pkt, ip, hairpin, opened) end
      if protocol == 6 then return out_tcp(pkt, ip, hairpin, opened) end
      if protocol == 1 then return out_icmp(pkt, ip, opened) end
      if is_inside(ip.src) then return pkt:drop "nat_protocol" end
   end
end

-- In: the destination, an external endpoint, becomes the mapping's inside endpoint. Whom a hairpin
-- packet comes from is known only when it has gone out again, so filter and state wait for that.
local function make_in(c, a, m, filter, tcp, errors)
   local find_outside, pool_of = m.find_outside, a.pool_of
   local life_udp, life_tcp, life_icmp = c.timeout.udp, c.timeout.tcp, c.timeout.icmp
   local slack_udp, slack_tcp, slack_icmp = slack_of(life_udp), slack_of(life_tcp), slack_of(life_icmp)
   local refresh, inline = c.refresh_inbound, c.inline
   local mark = 2 ^ c.mark_bit

   -- Around a router, what no mapping wants is the router's own. Inline there is nobody to have it.
   local function unmatched(pkt)
      if inline then return pkt:drop "nat_no_mapping" end
   end

   local function mark_hairpin(pkt)
      if band(pkt.mark, mark) == 0 then pkt.mark = pkt.mark + mark end
   end

   local function in_udp(pkt, ip, hairpin)
      local udp = pkt:udp()
      if not udp then return unmatched(pkt) end
      local now = pkt:now()
      local r = find_outside(pool_of(ip.dst), udp.dst_port, UDP, now)
      if not r then return unmatched(pkt) end
      if hairpin then
         mark_hairpin(pkt)
      else
         if filter and not filter.allows(r, ip.src, udp.src_port) then return pkt:drop "nat_filtered" end
         if refresh and r.expires < now + life_udp then r.expires = now + life_udp + slack_udp end
      end
      ip.dst = r.addr
      ip.checksum = adjust(ip.checksum, 0xffff - r.shift_ip)
      udp.dst_port = r.port
      udp.checksum = adjust_udp(udp.checksum, 0xffff - r.shift_l4)
   end

   local function in_tcp(pkt, ip, hairpin)
      local head = pkt:tcp()
      if not head then return unmatched(pkt) end
      local now = pkt:now()
      local r = find_outside(pool_of(ip.dst), head.dst_port, TCP, now)
      if not r then return unmatched(pkt) end
      if hairpin then
         mark_hairpin(pkt)
      else
         local flags = head.flags
         if filter and not filter.allows(r, ip.src, head.src_port) then return pkt:drop "nat_filtered" end
         if band(flags, FIN_SYN_RST) ~= 0 or band(r.state, 1) == 0 then
            tcp.inbound(r, ip.src, head.src_port, flags, now)
         elseif refresh and r.state == PLAIN and r.expires < now + life_tcp then
            r.expires = now + life_tcp + slack_tcp
         end
      end
      ip.dst = r.addr
      ip.checksum = adjust(ip.checksum, 0xffff - r.shift_ip)
      head.dst_port = r.port
      head.checksum = adjust(head.checksum, 0xffff - r.shift_l4)
   end

   local function in_icmp(pkt, ip, hairpin)
      local head = pkt:icmp()
      if not head then return unmatched(pkt) end
      local now, type = pkt:now(), head.type
      if type ~= 0 and type ~= 14 then
         if not head:is_error() then return unmatched(pkt) end
         local done = errors.inbound(pkt, ip, hairpin, now)
         if done < 0 then return pkt:drop "nat_filtered" end
         if done == 0 then return unmatched(pkt) end
         if hairpin then mark_hairpin(pkt) end
         return
      end
      local r = find_outside(pool_of(ip.dst), head.id, ICMP, now)
      if not r or hairpin then return unmatched(pkt) end
      if filter and not filter.allows(r, ip.src, 0) then return pkt:drop "nat_filtered" end
      if refresh and r.expires < now + life_icmp then r.expires = now + life_icmp + slack_icmp end
      ip.dst = r.addr
      ip.checksum = adjust(ip.checksum, 0xffff - r.shift_ip)
      head.id = r.port
      head.checksum = adjust(head.checksum, 0xffff - r.shift_l4)
   end

   return function(pkt, ip, hairpin)
      local protocol = ip.protocol
      if protocol == 17 then return in_udp(pkt, ip, hairpin) end
      if protocol == 6 then return in_tcp(pkt, ip, hairpin) end
      if protocol == 1 then return in_icmp(pkt, ip, hairpin) end
      return unmatched(pkt)
   end
end

--- The two halves of the translation for one configuration.
---@param c table from config.check
---@param a table from addresses.new
---@param m table from mappings.new
---@param filter? table from filter.new
---@return fun(pkt, ip, hairpin: boolean, opened: boolean) outbound opened: open() has seen to its mapping
---@return fun(pkt, ip, hairpin: boolean) inbound
function M.new(c, a, m, filter)
   filter = filter or false -- LuaJIT folds false into a trace, nil not
   local tcp, errors = tcp_state.new(c), icmp_errors.new(a.pool_of, m, filter)
   return make_out(c, a, m, filter, tcp, errors), make_in(c, a, m, filter, tcp, errors)
end

return M
