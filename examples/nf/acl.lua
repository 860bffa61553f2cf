-- SPDX-License-Identifier: BSD-3-Clause
-- Access list over IPv4: the longest source prefix gives a group, and group, destination, port and protocol an
-- action. Rules for one port stand before those for all ports; what no rule names gets the default.
--
-- Stateless, in constant time whatever the number of rules. Later fragments, which have no ports, and other
-- protocols meet only the rules without a port. (Tuple space search: Srinivasan et al., SIGCOMM 1999.)

local tw = require "tideway"

local PARAMS = {
   sources = { type = "table", default = {}, doc = "{ [\"10.0.0.0/8\"] = group 1 to 255, ... }; all others: group 0" },
   rules = { type = "table", default = {},
      doc = "{ { group = 0, dst = \"10.0.0.1\", port = 80, proto = 6, allow = true }, ... }" },
   default = { type = "string", default = "allow", one_of = { "allow", "deny" }, doc = "no rule matches" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "rules, and source prefixes" },
}

local function make_tables(cfg)
   local t = {
      sources = tw.lpm { name = "acl_sources", value = "u32", entries = cfg.entries },
      rules = tw.hash {
         name = "acl_rules", key = "u32 dst; u16 port; u8 proto; u8 group", value = "u32 allow; u32 number",
         entries = cfg.entries,
      },
      -- 0: packets without a rule, then one per rule
      hits = tw.counters { name = "acl_hits", size = #cfg.rules + 1 },
   }
   for prefix, group in pairs(cfg.sources) do t.sources:set(prefix, group) end
   for i, rule in ipairs(cfg.rules) do
      t.rules:set(tw.ip4(rule.dst), rule.port or 0, rule.proto, rule.group or 0, rule.allow and 1 or 0, i)
   end
   return t
end

return tw.nf("acl", function(cfg)
   cfg = tw.args("acl", cfg, PARAMS)
   local tables = make_tables(cfg)
   local sources, rules, hits, allow = tables.sources, tables.rules, tables.hits, cfg.default == "allow"

   return {
      tables = tables,
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local port = 0
         local l4 = pkt:tcp() or pkt:udp()
         if l4 then port = l4.dst_port end
         local group = sources:get(ip.src) or 0
         local rule = rules:get(ip.dst, port, ip.protocol, group)
         if not rule and port ~= 0 then rule = rules:get(ip.dst, 0, ip.protocol, group) end
         if rule then
            hits:add(rule.number, 1)
            if rule.allow == 0 then return pkt:drop "acl_denied" end
         else
            hits:add(0, 1)
            if not allow then return pkt:drop "acl_default" end
         end
      end,
   }
end)
