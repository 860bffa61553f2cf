-- SPDX-License-Identifier: BSD-3-Clause
-- Scrubs floods: drops packets of blocked source prefixes, packets that no honest stack sends, and what a /24 sends
-- beyond so many packets in a window of time.
--
-- Sources are counted in a table of fixed size by the hash of their /24 (a count-min sketch of one row; Cormode and
-- Muthukrishnan, 2005): two prefixes may share a cell, none is missed. Bogus packets: TCP without flags, SYN with FIN
-- or RST, a header cut by the first fragment (RFC 1858), source equal to destination (LAND).

local tw = require "tideway"
local bit = require "bit"

local band, rshift = bit.band, bit.rshift
local jhash = tw.jhash

local PARAMS = {
   blocked = { type = "table", default = {}, doc = "source prefixes, { \"192.0.2.0/24\", ... }" },
   limit = { type = "number", default = 100000, min = 1, max = 2 ^ 31, doc = "packets of a /24 in a window" },
   window = { type = "number", default = 1, min = 1, max = 86400, doc = "seconds" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "blocked prefixes" },
}

local PASSED, BLOCKED, BOGUS, FLOOD = 0, 1, 2, 3
local CELLS = 65536

local function is_bogus(pkt, ip)
   if ip.src == ip.dst then return true end
   if ip.protocol ~= 6 then return false end
   local tcp = pkt:tcp()
   if not tcp then return ip.frag_offset == 0 end
   local flags = band(tcp.flags, 0x3f)
   return flags == 0 or band(flags, 3) == 3 or band(flags, 6) == 6
end

return tw.nf("ddos", function(cfg)
   cfg = tw.args("ddos", cfg, PARAMS)
   local blocked = tw.lpm { name = "ddos_blocked", value = "u32", entries = cfg.entries }
   local cells = tw.array { name = "ddos_cells", value = "u64 start; u64 packets", entries = CELLS }
   local stats = tw.counters { name = "ddos_stats", names = { "passed", "blocked", "bogus", "flood" } }
   for _, prefix in ipairs(cfg.blocked) do blocked:set(prefix, 1) end
   local limit, window = cfg.limit, cfg.window * 1000000000

   return {
      tables = { blocked = blocked, cells = cells, stats = stats },
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if blocked:get(ip.src) then
            stats:add(BLOCKED, 1)
            return pkt:drop "ddos_blocked"
         end
         if is_bogus(pkt, ip) then
            stats:add(BOGUS, 1)
            return pkt:drop "ddos_bogus"
         end
         local cell = cells:get(band(jhash(rshift(ip.src, 8), 0, 0), CELLS - 1))
         if not cell then return end
         local now = pkt:now()
         if now - cell.start > window then
            cell.start = now
            cell.packets = 1
         else
            local packets = cell.packets + 1
            cell.packets = packets
            if packets > limit then
               stats:add(FLOOD, 1)
               return pkt:drop "ddos_flood"
            end
         end
         stats:add(PASSED, 1)
      end,
   }
end)
