-- SPDX-License-Identifier: BSD-3-Clause
-- napt44: network address and port translation for IPv4 (RFC 3022, RFC 4787, RFC 5382, RFC 5508, RFC 7857).

local tw = require "tideway"
local bit = require "bit"
local addresses = require "tideway.nf.napt44.addresses"
local config = require "tideway.nf.napt44.config"
local filters = require "tideway.nf.napt44.filter"
local fragments = require "tideway.nf.napt44.fragments"
local mappings = require "tideway.nf.napt44.mappings"
local open_new = require("tideway.nf.napt44.open").new
local translate = require "tideway.nf.napt44.translate"

local band = bit.band

local NO_PORT = 0xffff    -- pkt.out before routing
local FRAGMENT = 0x3fff   -- more fragments, or an offset

-- "napt44", or "napt44_2" where a table of the first name exists.
local function free_name(base)
   local taken = {}
   for _, t in ipairs(tw.tables()) do taken[t.name] = true end
   local name, n = base, 1
   while taken[name .. ".outer"] do
      n = n + 1
      name = base .. "_" .. n
   end
   return name
end

-- An instance that stands before and after a router in one chain: packet(), and whether a packet is at
-- the second place, and whether it is a hairpin.
local function around_router(c, a, outbound, inbound, fragment)
   local outside, mark = c.outside, 2 ^ c.mark_bit
   local pool_of, is_inside = a.pool_of, a.is_inside

   local function packet(pkt)
      local ip = pkt:ipv4()
      if not ip then return end
      local out = pkt.out
      if out == NO_PORT then
         if pool_of(ip.dst) < 0 then
            if pkt.port == outside and is_inside(ip.dst) then pkt:drop "nat_untranslated" end
            return
         end
         local hairpin = pkt.port ~= outside
         if hairpin and not is_inside(ip.src) then return end
         if band(ip.frag, FRAGMENT) ~= 0 then return fragment(pkt, ip, false, hairpin) end
         return inbound(pkt, ip, hairpin)
      end
      local hairpin = band(pkt.mark, mark) ~= 0
      if out ~= outside and not hairpin then return end
      if band(ip.frag, FRAGMENT) ~= 0 then return fragment(pkt, ip, true, hairpin) end
      return outbound(pkt, ip, hairpin, false)
   end

   return packet, function(pkt)
      if pkt.out == NO_PORT then return false, pkt.port ~= outside end
      return true, band(pkt.mark, mark) ~= 0
   end
end

-- The same for an instance that stands alone between two ports, in one chain or one for each way.
local function inline(c, a, outbound, inbound, fragment)
   local outside, pool_of, is_inside = c.outside, a.pool_of, a.is_inside

   local function packet(pkt)
      local ip = pkt:ipv4()
      if not ip then return end
      if pkt.port ~= outside then
         if band(ip.frag, FRAGMENT) ~= 0 then return fragment(pkt, ip, true, false) end
         return outbound(pkt, ip, false, false)
      end
      if pool_of(ip.dst) < 0 then
         if is_inside(ip.dst) then pkt:drop "nat_untranslated" end
         return
      end
      if band(ip.frag, FRAGMENT) ~= 0 then return fragment(pkt, ip, false, false) end
      return inbound(pkt, ip, false)
   end

   return packet, function(pkt) return pkt.port ~= outside, false end
end

--- Source NAT with ports: hosts inside share external addresses.
--- `tw.nf.napt44 { outside = wan, address = "198.51.100.1", inside = "10.0.0.0/8" }`; put the same
--- instance before and after the router. Parameters, drop reasons and limits stand in napt44.md.
return tw.nf("napt44", function(cfg)
   local c = config.check(cfg)
   local name = c.name or free_name "napt44"
   local a = addresses.new(c, name)
   local m = mappings.new(c, name)
   local open = open_new(c, a, m)
   local outbound, inbound = translate.new(c, a, m, filters.new(c, name))
   local fragment = fragments.new(c, name, a.is_inside, open, outbound, inbound)
   local packet, way = (c.inline and inline or around_router)(c, a, outbound, inbound, fragment.packet)

   -- Packets that need a mapping made, and fragments that need more than a look-up.
   local function punt(pkt)
      local ip = pkt:ipv4()
      local is_out, hairpin = way(pkt)
      if not ip then return end
      if band(ip.frag, FRAGMENT) ~= 0 then return fragment.punt(pkt, ip, is_out, hairpin) end
      if open(pkt, ip, hairpin) then outbound(pkt, ip, hairpin, true) end
   end

   return {
      packet = packet,
      punt = punt,
      tick = function(now)
         fragment.tick()
         m.sweep(now)
      end,
      export = function() return m.export(tw.now()) end,
      tables = m.tables,
   }
end, { pure = true })
