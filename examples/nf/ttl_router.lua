-- SPDX-License-Identifier: BSD-3-Clause
-- A router without a control plane: longest prefix -> next hop, its MAC addresses, TTL or hop limit one less
-- (RFC 791, RFC 1812 5.2 and 5.3.1, RFC 8200 3; checksum incrementally, RFC 1624).
--
-- No ARP, no ICMP: tw.nf.router has those. Routes and next hops stand in tables that may change while it runs.

local tw = require "tideway"

local PARAMS = {
   hops = { type = "table", required = true, doc = "next hops: { { dst = mac, src = mac, port = port }, ... }" },
   routes = { type = "table", default = {}, doc = "{ [\"10.0.0.0/8\"] = number of a next hop, ... }, also IPv6" },
   one_armed = { type = "boolean", default = false, doc = "every packet leaves by the port it came from" },
   entries = { type = "number", default = 8192, min = 1, max = 2 ^ 22, doc = "routes per IP version" },
}

local function make_tables(cfg)
   local t = {
      routes4 = tw.lpm { name = "routes4", value = "u32", entries = cfg.entries },
      routes6 = tw.lpm { name = "routes6", family = 6, value = "u32", entries = cfg.entries },
      hops = tw.array { name = "hops", value = "mac dst; mac src; u32 port", entries = math.max(#cfg.hops, 1) },
   }
   for i, hop in ipairs(cfg.hops) do
      local port = type(hop.port) == "table" and hop.port.index or hop.port or 0
      t.hops:set(i - 1, tw.mac(hop.dst), tw.mac(hop.src), port)
   end
   for prefix, number in pairs(cfg.routes) do
      if not cfg.hops[number] then
         error(("ttl_router: route %s wants hop %s; hops has %d"):format(prefix, tostring(number), #cfg.hops), 0)
      end
      local routes = prefix:find(":", 1, true) and t.routes6 or t.routes4
      routes:set(prefix, number - 1)
   end
   return t
end

return tw.nf("ttl_router", function(cfg)
   cfg = tw.args("ttl_router", cfg, PARAMS)
   local tables = make_tables(cfg)
   local routes4, routes6, hops, one_armed = tables.routes4, tables.routes6, tables.hops, cfg.one_armed

   local function leave(pkt, hop)
      local eth = pkt:eth()
      eth.dst = hop.dst
      eth.src = hop.src
      if one_armed then
         pkt:send(pkt.port)
      else
         pkt:send(hop.port)
      end
   end

   return {
      tables = tables,
      packet = function(pkt)
         local ip = pkt:ipv4()
         if ip then
            if ip.ttl <= 1 then return pkt:drop "ttl_expired" end
            local number = routes4:get(ip.dst)
            if not number then return pkt:drop "no_route" end
            local hop = hops:get(number)
            if not hop then return pkt:drop "no_hop" end
            ip:decrement_ttl()
            return leave(pkt, hop)
         end
         local ip6 = pkt:ipv6()
         if not ip6 then return end
         if ip6.hop_limit <= 1 then return pkt:drop "ttl_expired" end
         local number = routes6:get(ip6.dst)
         if not number then return pkt:drop "no_route" end
         local hop = hops:get(number)
         if not hop then return pkt:drop "no_hop" end
         ip6.hop_limit = ip6.hop_limit - 1
         return leave(pkt, hop)
      end,
   }
end)
