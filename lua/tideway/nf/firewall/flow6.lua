-- SPDX-License-Identifier: BSD-3-Clause
-- The hot path for IPv6. flow4.lua is its twin; they differ in addresses, fragments and ICMP.

local bit = require "bit"
local track = require "tideway.nf.firewall.track"
local words = require "tideway.nf.firewall.words"

local M = {}

local band = bit.band
local is_syn, is_over = track.is_syn, track.is_over
local NEW, ESTABLISHED, RELATED = words.states.new, words.states.established, words.states.related
local UNTRACKED, FRAGMENT = words.UNTRACKED, words.FRAGMENT

local ICMP6, TCP, UDP, SCTP = 58, 6, 17, 132
local FRAGMENT_NS = 30e9 -- later fragments follow the first this long; RFC 8200 4.5: 60 s at the receiver

-- What a packet that no connection knows may do.
local NOTHING, OPEN, OPEN_SYN, MIDDLE = 0, 1, 2, 3

-- Negative when the first end is the lower one: by the last words that differ, where hosts differ
-- most, then by port.
local function order_of(a, b, a_port, b_port)
   local order = a:u32(3) - b:u32(3)
   if order == 0 then order = a:u32(2) - b:u32(2) end
   if order == 0 then order = a:u32(1) - b:u32(1) end
   if order == 0 then order = a:u32(0) - b:u32(0) end
   if order == 0 then order = a_port - b_port end
   return order
end

-- Rule and connection of a packet whose ports are known; true when it goes on.
local function make_tracked(o, judge)
   local conns, hits, settled = o.tables.conns6, o.tables.hits, o.established
   local tcp, other, open = o.track.tcp, o.track.other, o.track.open

   -- (src, from) and (dst, to) are the ends of the connection, sport and dport what rules look at.
   return function(pkt, src, dst, from, to, proto, sport, dport, flags, may)
      local now = pkt:now()
      local conn
      local order = order_of(src, dst, from, to)
      local low = 0
      if order < 0 then
         low = 1
         conn = conns:get(src, dst, from, to, proto)
      else
         conn = conns:get(dst, src, to, from, proto)
      end
      if conn and not (may == OPEN_SYN and is_over(conn)) then
         if settled then
            hits:add(settled, 1)
         elseif judge(pkt, src, dst, sport, dport, proto, flags, ESTABLISHED) < 0 then
            return false
         end
         if proto == TCP then
            tcp(conn, flags, low ~= conn.low, now)
         else
            other(conn, proto, now)
         end
         return true
      end
      if may == NOTHING then return judge(pkt, src, dst, sport, dport, proto, flags, UNTRACKED) >= 0 end
      if may == MIDDLE then
         pkt:drop "fw_not_syn"
         return false
      end
      local rule = judge(pkt, src, dst, sport, dport, proto, flags, NEW)
      if rule < 0 then return false end
      if order < 0 then
         conn = conns:put(src, dst, from, to, proto)
      else
         conn = conns:put(dst, src, to, from, proto)
      end
      if not conn then
         pkt:drop "fw_state_full"
         return false
      end
      open(conn, proto, flags, low, rule, now)
      return true
   end
end

-- Is this ICMPv6 error about a connection, and for the one who sent the packet it quotes? Extension
-- headers inside the quoted packet are not walked: such an error is not related.
local function make_related(conns)
   return function(pkt, dst)
      local at = pkt:icmp_inner_offset()
      local ip = pkt:ipv6_at(at)
      if not ip or ip.version ~= 6 then return false end
      local src, to, proto = ip.src, ip.dst, ip.next_header
      if src ~= dst then return false end
      at = at + 40
      local from_port, to_port = 0, 0
      if proto == TCP or proto == UDP or proto == SCTP then
         local ports = pkt:udp_at(at)
         if not ports then return false end
         from_port, to_port = ports.src_port, ports.dst_port
      elseif proto == ICMP6 then
         local icmp = pkt:icmp6_at(at)
         if not icmp then return false end
         if icmp.type == 128 then
            from_port, to_port = icmp.id, 128
         elseif icmp.type == 129 then
            from_port, to_port = 128, icmp.id
         else
            return false
         end
      end
      if order_of(src, to, from_port, to_port) < 0 then
         return conns:get(src, to, from_port, to_port, proto) ~= nil
      end
      return conns:get(to, src, to_port, from_port, proto) ~= nil
   end
end

local function make_icmp(o, judge, tracked)
   local tracks, related = o.tracks, make_related(o.tables.conns6)

   return function(pkt, src, dst)
      local icmp = pkt:icmp6()
      if not icmp then
         pkt:drop "l4_malformed"
         return false
      end
      local type, code = icmp.type, icmp.code
      if not tracks then return judge(pkt, src, dst, type, code, ICMP6, 0, UNTRACKED) >= 0 end
      if type == 128 then
         return tracked(pkt, src, dst, icmp.id, 128, ICMP6, type, code, 0, OPEN)
      elseif type == 129 then
         return tracked(pkt, src, dst, 128, icmp.id, ICMP6, type, code, 0, NOTHING)
      end
      local state = UNTRACKED
      if type >= 1 and type <= 4 and related(pkt, dst) then state = RELATED end
      return judge(pkt, src, dst, type, code, ICMP6, 0, state) >= 0
   end
end

-- A packet that has its transport header.
local function make_transport(o, judge, tracked)
   local tracks, loose, icmp = o.tracks, o.loose, make_icmp(o, judge, tracked)

   return function(pkt, src, dst, proto)
      local sport, dport, flags, may = 0, 0, 0, OPEN
      if proto == TCP then
         local tcp = pkt:tcp()
         if not tcp then
            pkt:drop "l4_malformed"
            return false
         end
         sport, dport, flags = tcp.src_port, tcp.dst_port, tcp.flags
         if is_syn(flags) then
            may = OPEN_SYN
         elseif not loose or band(flags, 0x17) ~= 0x10 then
            may = MIDDLE
         end
      elseif proto == UDP then
         local udp = pkt:udp()
         if not udp then
            pkt:drop "l4_malformed"
            return false
         end
         sport, dport = udp.src_port, udp.dst_port
      elseif proto == ICMP6 then
         return icmp(pkt, src, dst)
      elseif proto == SCTP then
         local sctp = pkt:sctp()
         if not sctp then
            pkt:drop "l4_malformed"
            return false
         end
         sport, dport = sctp.src_port, sctp.dst_port
      end
      if not tracks then return judge(pkt, src, dst, sport, dport, proto, flags, UNTRACKED) >= 0 end
      return tracked(pkt, src, dst, sport, dport, proto, sport, dport, flags, may)
   end
end

-- Packets with extension headers, fragments among them.
local function make_extended(o, judge, transport)
   local frags, follow, allow = o.tables.frags6, o.fragments == "follow", o.fragments == "allow"

   return function(pkt, src, dst)
      local frag = pkt:ipv6_fragment()
      if not frag or frag.frag_offset == 0 then
         local proto = pkt:l4_protocol()
         if not proto then return pkt:drop "ip_malformed" end
         local ok = transport(pkt, src, dst, proto)
         if ok and follow and frag then frags:set(src, dst, frag.id, pkt:now() + FRAGMENT_NS) end
         return
      end
      if follow and frags:get(src, dst, frag.id) then return end
      if allow then return judge(pkt, src, dst, 0, 0, frag.next_header, 0, FRAGMENT) end
      pkt:drop "fw_fragment"
   end
end

--- The function for IPv6 packets.
---@param o tideway.nf.firewall.flow
---@return fun(pkt: tideway.pkt, ip: tideway.ipv6)
function M.new(o)
   local acl, settle = o.tables.acl6, o.settle

   local function judge(pkt, src, dst, sport, dport, proto, flags, state)
      return settle(pkt, acl:get(proto, pkt.port, band(pkt.out, 0xff), state, flags, src, dst, sport, dport))
   end

   local transport = make_transport(o, judge, make_tracked(o, judge))
   local extended = make_extended(o, judge, transport)

   return function(pkt, ip)
      local src, dst, proto = ip.src, ip.dst, ip.next_header
      if proto == TCP or proto == UDP or proto == ICMP6 then
         transport(pkt, src, dst, proto)
         return
      end
      extended(pkt, src, dst)
   end
end

return M
