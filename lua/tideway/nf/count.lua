-- SPDX-License-Identifier: BSD-3-Clause
-- count: counts what passes, by frame type, protocol and size, and on demand by flow or by station.

local tw = require "tideway"

local FCS = 4 -- RFC 2819 counts frames with their frame check sequence, which ports do not deliver

-- Three groups that each sum up to `packets`: by destination (with `truncated`), by type (with
-- `truncated`), by size. The sizes are those of RFC 2819 (etherStatsPkts64Octets, ...).
local NAMES = {
   "packets", "bytes", "truncated",
   "unicast", "multicast", "broadcast",
   "ipv4", "ipv6", "arp", "vlan", "mpls", "other_type",
   "size_under_64", "size_64", "size_65_127", "size_128_255", "size_256_511", "size_512_1023", "size_1024_1518",
   "size_over_1518",
   -- of ipv4 and ipv6; these sum up to ipv4 + ipv6
   "tcp", "udp", "icmp", "icmp6", "sctp", "gre", "other_protocol",
}
local ID = {}
for i, name in ipairs(NAMES) do ID[name] = i - 1 end

local PACKETS, BYTES, TRUNCATED = ID.packets, ID.bytes, ID.truncated
local UNICAST, MULTICAST, BROADCASTS = ID.unicast, ID.multicast, ID.broadcast
local IPV4, IPV6, ARP, VLAN, MPLS, OTHER_TYPE = ID.ipv4, ID.ipv6, ID.arp, ID.vlan, ID.mpls, ID.other_type
local TCP, UDP, ICMP, ICMP6, SCTP, GRE = ID.tcp, ID.udp, ID.icmp, ID.icmp6, ID.sctp, ID.gre
local OTHER_PROTOCOL = ID.other_protocol

local PARAMS = {
   per = { type = "string", one_of = { "flow", "mac" }, doc = "count each flow or each source address too" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 24, doc = "flows or addresses remembered" },
   name = { type = "string", doc = "prefix of the table names, to tell two of them apart" },
}

-- "count", or "count2" where a table of the first name exists.
local function free_name(base)
   local taken = {}
   for _, t in ipairs(tw.tables()) do taken[t.name] = true end
   local n = 1
   while taken[base .. (n > 1 and n or "") .. ".totals"] do n = n + 1 end
   return base .. (n > 1 and n or "")
end

local function cast_class(eth)
   if eth:is_broadcast() then return BROADCASTS end
   if eth:is_multicast() then return MULTICAST end
   return UNICAST
end

local SIZES = ID.size_under_64

local function size_class(len)
   if len < 64 then return SIZES end
   if len == 64 then return SIZES + 1 end
   if len < 128 then return SIZES + 2 end
   if len < 256 then return SIZES + 3 end
   if len < 512 then return SIZES + 4 end
   if len < 1024 then return SIZES + 5 end
   if len <= 1518 then return SIZES + 6 end
   return SIZES + 7
end

local function type_class(ethertype)
   if ethertype == 0x0800 then return IPV4 end
   if ethertype == 0x86dd then return IPV6 end
   if ethertype == 0x0806 then return ARP end
   if ethertype == 0x8100 or ethertype == 0x88a8 then return VLAN end
   if ethertype == 0x8847 or ethertype == 0x8848 then return MPLS end
   return OTHER_TYPE
end

local function protocol_class(proto)
   if proto == 6 then return TCP end
   if proto == 17 then return UDP end
   if proto == 1 then return ICMP end
   if proto == 58 then return ICMP6 end
   if proto == 132 then return SCTP end
   if proto == 47 then return GRE end
   return OTHER_PROTOCOL
end

local TALLY = "u64 packets; u64 bytes; ns last"

local function tally(entry, pkt)
   if not entry then return end
   entry.packets = entry.packets + 1
   entry.bytes = entry.bytes + pkt.len
   entry.last = pkt:now()
end

-- One entry for each direction of a flow. Ports are 0 where the protocol has none and in fragments.
local function flow_counter(name, entries)
   local flows4 = tw.lru {
      name = name .. ".flows4", key = "u32 src; u32 dst; u16 src_port; u16 dst_port; u8 protocol", value = TALLY,
      entries = entries,
   }
   local flows6 = tw.lru {
      name = name .. ".flows6", key = "ip6 src; ip6 dst; u16 src_port; u16 dst_port; u8 protocol", value = TALLY,
      entries = entries,
   }
   local function count(pkt)
      local src_port, dst_port = 0, 0
      local l4 = pkt:tcp() or pkt:udp()
      if l4 then
         src_port, dst_port = l4.src_port, l4.dst_port
      end
      local ip4 = pkt:ipv4()
      if ip4 then return tally(flows4:put(ip4.src, ip4.dst, src_port, dst_port, ip4.protocol), pkt) end
      local ip6 = pkt:ipv6()
      if ip6 then return tally(flows6:put(ip6.src, ip6.dst, src_port, dst_port, ip6.next_header), pkt) end
   end
   return count, { flows4, flows6 }
end

-- One entry for each source address, all VLANs together.
local function mac_counter(name, entries)
   local stations = tw.lru { name = name .. ".stations", key = "mac", value = TALLY, entries = entries }
   local function count(pkt)
      local eth = pkt:eth()
      if eth then return tally(stations:put(eth.src), pkt) end
   end
   return count, { stations }
end

local function describe(key)
   if type(key) == "number" then return { mac = tw.mac_string(key) } end
   local text = type(key.src) == "number" and tw.ip4_string or tw.ip6_string
   return {
      src = text(key.src), dst = text(key.dst), src_port = key.src_port, dst_port = key.dst_port,
      protocol = key.protocol,
   }
end

-- Entries of the tables as a list, most bytes first.
local function list_of(tables)
   local list = {}
   for _, t in ipairs(tables) do
      for key, v in t:pairs() do
         local item = describe(key)
         item.packets, item.bytes, item.last = tonumber(v.packets), tonumber(v.bytes), v.last
         list[#list + 1] = item
      end
   end
   table.sort(list, function(a, b) return a.bytes > b.bytes end)
   return list
end

local function export(totals, per, tables)
   local out = {}
   for name, n in totals:pairs() do out[name] = tonumber(n) end
   if per then out[per == "flow" and "flows" or "stations"] = list_of(tables) end
   return out
end

--- Count packets and let them go on. Parameters and what is counted: count.md.
return tw.nf("count", function(cfg)
   cfg = tw.args("count", cfg, PARAMS)
   local name, per = cfg.name or free_name "count", cfg.per
   local totals = tw.counters { name = name .. ".totals", names = NAMES }
   local count_each, tables
   if per == "flow" then
      count_each, tables = flow_counter(name, cfg.entries)
   elseif per == "mac" then
      count_each, tables = mac_counter(name, cfg.entries)
   end

   return {
      packet = function(pkt)
         totals:add(PACKETS, 1)
         totals:add(BYTES, pkt.len)
         totals:add(size_class(pkt.len + FCS), 1)
         local eth = pkt:eth()
         if not eth then
            totals:add(TRUNCATED, 1)
            return
         end
         totals:add(cast_class(eth), 1)
         local class = type_class(eth.type)
         totals:add(class, 1)
         if class == IPV4 then
            local ip4 = pkt:ipv4()
            totals:add(ip4 and protocol_class(ip4.protocol) or OTHER_PROTOCOL, 1)
         elseif class == IPV6 then
            local ip6 = pkt:ipv6()
            totals:add(ip6 and protocol_class(ip6.next_header) or OTHER_PROTOCOL, 1)
         end
         if count_each then count_each(pkt) end
      end,
      on_fault = "bypass",
      export = function() return export(totals, per, tables) end,
   }
end, { pure = true })
