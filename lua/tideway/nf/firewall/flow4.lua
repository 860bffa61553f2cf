-- SPDX-License-Identifier: BSD-3-Clause
-- The hot path for IPv4. flow6.lua is its twin; they differ in addresses, fragments and ICMP.

local bit = require "bit"
local track = require "tideway.nf.firewall.track"
local words = require "tideway.nf.firewall.words"

local M = {}

local band = bit.band
local is_syn, is_over = track.is_syn, track.is_over
local NEW, ESTABLISHED, RELATED = words.states.new, words.states.established, words.states.related
local UNTRACKED, FRAGMENT = words.UNTRACKED, words.FRAGMENT

local ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
local MORE_FRAGMENTS, OFFSET = 0x2000, 0x1fff
local FRAGMENT_NS = 30e9 -- later fragments follow the first this long; RFC 1122 3.3.2: 60 to 120 s at the receiver

-- What a packet that no connection knows may do.
local NOTHING, OPEN, OPEN_SYN, MIDDLE = 0, 1, 2, 3

-- Rule and connection of a packet whose ports are known; true when it goes on.
local function make_tracked(o, judge)
   local conns, hits, settled = o.tables.conns4, o.tables.hits, o.established
   local tcp, other, open = o.track.tcp, o.track.other, o.track.open

   -- (src, from) and (dst, to) are the ends of the connection, sport and dport what rules look at.
   return function(pkt, src, dst, from, to, proto, sport, dport, flags, may)
      local now = pkt:now()
      local conn
      local order = (src - dst) * 65536 + from - to
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

-- Is this ICMP error about a connection, and for the one who sent the packet it quotes (RFC 5927 4)?
local function make_related(conns)
   return function(pkt, dst)
      local at = pkt:icmp_inner_offset()
      local ip = pkt:ipv4_at(at)
      if not ip or ip.version ~= 4 or ip.ihl < 5 or band(ip.frag, OFFSET) ~= 0 then return false end
      local src, to, proto = ip.src, ip.dst, ip.protocol
      if src ~= dst then return false end
      at = at + ip.ihl * 4
      local from_port, to_port = 0, 0
      if proto == TCP or proto == UDP or proto == SCTP then
         local ports = pkt:udp_at(at) -- the first 8 bytes are there (RFC 792), the ports of all three in them
         if not ports then return false end
         from_port, to_port = ports.src_port, ports.dst_port
      elseif proto == ICMP then
         local icmp = pkt:icmp_at(at)
         if not icmp then return false end
         if icmp.type == 8 or icmp.type == 13 then
            from_port, to_port = icmp.id, icmp.type
         elseif icmp.type == 0 then
            from_port, to_port = 8, icmp.id
         else
            return false
         end
      end
      if (src - to) * 65536 + from_port - to_port < 0 then
         return conns:get(src, to, from_port, to_port, proto) ~= nil
      end
      return conns:get(to, src, to_port, from_port, proto) ~= nil
   end
end

local function make_icmp(o, judge, tracked)
   local tracks, related = o.tracks, make_related(o.tables.conns4)

   return function(pkt, src, dst)
      local icmp = pkt:icmp()
      if not icmp then
         pkt:drop "l4_malformed"
         return false
      end
      local type, code = icmp.type, icmp.code
      if not tracks then return judge(pkt, src, dst, type, code, ICMP, 0, UNTRACKED) >= 0 end
      if type == 8 or type == 13 then
         return tracked(pkt, src, dst, icmp.id, type, ICMP, type, code, 0, OPEN)
      elseif type == 0 then
         return tracked(pkt, src, dst, 8, icmp.id, ICMP, type, code, 0, NOTHING)
      elseif type == 14 then
         return tracked(pkt, src, dst, 13, icmp.id, ICMP, type, code, 0, NOTHING)
      end
      local state = UNTRACKED
      if (type == 3 or type == 11 or type == 12) and related(pkt, dst) then state = RELATED end
      return judge(pkt, src, dst, type, code, ICMP, 0, state) >= 0
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
      elseif proto == ICMP then
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

-- Fragments, the first one included.
local function make_fragment(o, judge, transport)
   local frags, follow, allow = o.tables.frags4, o.fragments == "follow", o.fragments == "allow"

   return function(pkt, ip, src, dst, proto)
      local offset = band(ip.frag, OFFSET)
      if offset == 0 then
         local ok = transport(pkt, src, dst, proto)
         if ok and follow then frags:set(src, dst, ip.id, proto, pkt:now() + FRAGMENT_NS) end
         return
      end
      -- Offset 1 would overwrite the TCP flags that were judged (RFC 3128).
      if proto == TCP and offset == 1 then return pkt:drop "fw_fragment" end
      if follow and frags:get(src, dst, ip.id, proto) then return end
      if allow then return judge(pkt, src, dst, 0, 0, proto, 0, FRAGMENT) end
      pkt:drop "fw_fragment"
   end
end

--- The function for IPv4 packets.
---@param o tideway.nf.firewall.flow
---@return fun(pkt: tideway.pkt, ip: tideway.ipv4)
function M.new(o)
   local acl, settle = o.tables.acl4, o.settle

   local function judge(pkt, src, dst, sport, dport, proto, flags, state)
      return settle(pkt, acl:get(proto, pkt.port, band(pkt.out, 0xff), state, flags, src, dst, sport, dport))
   end

   local transport = make_transport(o, judge, make_tracked(o, judge))
   local fragment = make_fragment(o, judge, transport)

   return function(pkt, ip)
      local src, dst, proto = ip.src, ip.dst, ip.protocol
      if band(ip.frag, MORE_FRAGMENTS + OFFSET) ~= 0 then return fragment(pkt, ip, src, dst, proto) end
      transport(pkt, src, dst, proto)
   end
end

return M
