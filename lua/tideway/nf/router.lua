-- SPDX-License-Identifier: BSD-3-Clause
-- router: forwards IPv4 (RFC 1812) and IPv6 (RFC 8200) between the ports of a chain.
--
-- packet() does plain forwarding and nothing else; all that is not (ARP, neighbor discovery, own
-- addresses, errors, neighbours to resolve, fragments) is punted to the modules in router/.

local bit = require "bit"
local tw = require "tideway"
local arp = require "tideway.nf.router.arp"
local config = require "tideway.nf.router.config"
local export = require "tideway.nf.router.export"
local fib = require "tideway.nf.router.fib"
local neighbour = require "tideway.nf.router.neighbour"
local v4 = require "tideway.nf.router.v4"
local v6 = require "tideway.nf.router.v6"

local band, bxor, rshift, tobit = bit.band, bit.bxor, bit.rshift, bit.tobit

local ARP, IPV4, IPV6, VLAN, QINQ = 0x0806, 0x0800, 0x86dd, 0x8100, 0x88a8
local MARTIAN_NET = fib.MARTIAN_NET
local HOLD_SECONDS = 5 -- more than three questions take

local EVENTS = {
   "solicitations", "neighbours_full", "neighbours_moved", "neighbours_failed", "address_conflicts",
   "sent_unreachable", "sent_too_big", "sent_time_exceeded", "sent_parameter_problem", "sent_echo_reply",
   "icmp_limited", "forwarded_slow", "fragmented",
}

-- An Ethernet header whose words are read as they lie in the frame, to be compared and copied, and an IPv4
-- header's room behind it, of which the first byte is its version and length: one question for both.
local FRAME = tw.header("router_frame", "le64 head; le32 tail; le16 type_le; u8 first, b; be16 c; be32 d, e, f, g")
local SHORTEST = 15 -- less is no frame for the slow path either
local DESTINATION = 0xffffffffffffULL -- of head

-- What the modules in router/ share; everything in it can be moved to an lcore.
local function context(cfg)
   local ctx = fib.new(cfg, config.read(cfg))
   ctx.reachable, ctx.strict_source = cfg.reachable * 1e9, cfg.strict_source
   ctx.queue = tw.hold_queue { slots = 512, per_key = 3, timeout = HOLD_SECONDS }
   ctx.events = tw.counters { name = ctx.name .. ".events", names = EVENTS }
   if cfg.icmp_rate > 0 then
      ctx.meter = tw.meter { name = ctx.name .. ".icmp", cir = cfg.icmp_rate, cbs = cfg.icmp_rate }
   end
   return ctx
end

--- A router. It stands in a chain that reads all of its ports:
--- `tw.chain("edge", { lan, wan }, tw.nf.router { ports = { { port = lan, addresses = { "10.0.0.1/24" } }, ... } })`.
--- Parameters and drop reasons stand in router.md beside this file.
return tw.nf("router", function(cfg)
   cfg = tw.args("router", cfg, config.PARAMS)
   local ctx = context(cfg)
   local ingress, hops, lpm4, lpm6 = ctx.ingress, ctx.hops, ctx.lpm4, ctx.lpm6 or false
   local nets, sources, shift, mask = ctx.nets, ctx.sources, ctx.shift, ctx.sources.entries - 1
   local strict = cfg.strict_source

   local function forward4(pkt, frame)
      local ip = pkt:ipv4()
      if not ip then return pkt:punt() end
      -- First what has to wait for memory; the checks that follow fill the time.
      local i = lpm4:get(ip.dst)
      if not i then return pkt:punt() end
      local hop = hops:get(i)
      if not hop then return pkt:punt() end
      if not ip:valid_checksum() then return pkt:drop "ip_checksum" end
      local src = tobit(ip.src) -- RFC 1812 5.3.7
      local net = nets:get(rshift(src, 24))
      if ip.ttl <= 1 then return pkt:punt() end
      if net ~= 0 then
         if net == MARTIAN_NET then return pkt:punt() end
         if sources:get(band(bxor(src, rshift(src, shift)), mask)) == src then return pkt:punt() end
      end
      if ip.total_length > hop.limit then return pkt:punt() end
      if strict then
         local from = lpm4:get(ip.src)
         local back = from and hops:get(from)
         if not back or back.port ~= pkt.port then return pkt:punt() end
      end
      ip:decrement_ttl()
      frame.head, frame.tail = hop.head, hop.tail
      return pkt:route(hop.port)
   end

   local function forward6(pkt, frame)
      local ip = pkt:ipv6()
      if not ip or not lpm6 then return pkt:punt() end
      local src = ip.src
      if ip.hop_limit <= 1 or src:is_multicast() or src:is_link_local() then return pkt:punt() end
      if src:is_unspecified() or src:is_loopback() then return pkt:punt() end
      local i = lpm6:get(ip.dst)
      if not i then return pkt:punt() end
      local hop = hops:get(i)
      if not hop then return pkt:punt() end
      if ip.payload_length + 40 > hop.limit then return pkt:punt() end
      if strict then
         local from = lpm6:get(src)
         local back = from and hops:get(from)
         if not back or back.port ~= pkt.port then return pkt:punt() end
      end
      ip.hop_limit = ip.hop_limit - 1
      frame.head, frame.tail = hop.head, hop.tail
      return pkt:route(hop.port)
   end

   return {
      packet = function(pkt)
         local frame = pkt:header(FRAME, 0)
         if not frame then
            if pkt.len < SHORTEST then return pkt:drop "truncated" end
            return pkt:punt()
         end
         local mac = ingress:get(pkt.port)
         if not mac or band(frame.head, DESTINATION) ~= mac then return pkt:punt() end
         -- Literals: the compiler sees that pkt:ipv4() asks the same and asks it once.
         if frame.type_le == 0x0008 and frame.first == 0x45 then return forward4(pkt, frame) end
         if frame.type_le == 0xdd86 then return forward6(pkt, frame) end
         return pkt:punt()
      end,

      punt = function(pkt)
         local port, eth = ctx.ports[pkt.port], pkt:eth()
         if not port then return pkt:drop "not_a_router_port" end
         -- Ports are promiscuous: what is for other stations is not ours to route.
         if eth.dst ~= port.mac and not eth:is_multicast() then return pkt:drop "not_for_us" end
         local type = eth.type
         if type == ARP then return arp.input(ctx, pkt, port, eth) end
         if type == IPV4 then return v4.input(ctx, pkt, port, eth) end
         if type == IPV6 then return v6.input(ctx, pkt, port, eth) end
         if type == VLAN or type == QINQ then return pkt:drop "vlan_unknown" end
         return pkt:drop "not_ip"
      end,

      tick = function(now) neighbour.tick(ctx, now) end,

      export = function() return export.all(ctx, EVENTS) end,
   }
end, { pure = true })
