-- SPDX-License-Identifier: BSD-3-Clause
-- l2_bridge: a transparent learning bridge (IEEE 802.1D, 802.1Q) for any number of ports in one chain.

local tw = require "tideway"

local floor = math.floor

local GROUP_BIT = 2 ^ 40 -- least significant bit of the first octet: group address (IEEE 802, 8.2)
local RESERVED = tw.mac "01:80:c2:00:00:00" -- this and the 15 after it are never relayed (802.1Q 8.6.3)
local VLAN_TAG, VID_BAD = 0x8100, 0xfff
local FOREVER = 2 ^ 62 -- deadline of static stations, ns

local PARAMS = {
   ageing = {
      type = "number", default = 300, min = 1, max = 1e6,
      doc = "seconds after which a station that was not heard is forgotten",
   },
   entries = { type = "number", default = 8192, min = 1, max = 2 ^ 24, doc = "size of the station table" },
   vlan_aware = { type = "boolean", default = false, doc = "learn per VLAN (802.1Q independent learning)" },
   pvid = { type = "number", default = 1, min = 1, max = 4094, doc = "VLAN of frames without a VLAN id" },
   static = { type = "table", default = {}, doc = "stations that never move: { mac =, port =, vlan = }" },
   name = { type = "string", doc = "prefix of the table names, to tell two bridges apart" },
}

-- "l2_bridge", or "l2_bridge2" where a table of the first name exists.
local function free_name(base)
   local taken = {}
   for _, t in ipairs(tw.tables()) do taken[t.name] = true end
   local n = 1
   while taken[base .. (n > 1 and n or "") .. ".stations"] do n = n + 1 end
   return base .. (n > 1 and n or "")
end

local function refuse(i, field, value, advice)
   error(("l2_bridge: static[%d]: %s is %s; write %s"):format(i, field, tostring(value), advice), 0)
end

local function check_static(i, s, cfg)
   if type(s) ~= "table" then refuse(i, "the entry", s, '{ mac = "02:00:00:00:00:01", port = lan }') end
   local ok, mac = pcall(tw.mac, s.mac)
   if not ok or not mac or mac == 0 or floor(mac / GROUP_BIT) % 2 == 1 then
      refuse(i, "mac", s.mac, 'the address of one station, such as "02:00:00:00:00:01"')
   end
   local port = type(s.port) == "table" and s.port.index or s.port
   if type(port) ~= "number" then refuse(i, "port", s.port, "a port of the chain") end
   local vlan = s.vlan or (cfg.vlan_aware and cfg.pvid or 0)
   if not cfg.vlan_aware and s.vlan then refuse(i, "vlan", s.vlan, "vlan_aware = true, or leave vlan out") end
   if type(vlan) ~= "number" or vlan % 1 ~= 0 or vlan < 0 or vlan >= VID_BAD then
      refuse(i, "vlan", s.vlan, "a VLAN id from 1 to 4094")
   end
   return mac, vlan, port
end

local function add_static(stations, cfg)
   for i, s in ipairs(cfg.static) do
      local mac, vlan, port = check_static(i, s, cfg)
      if not stations:set(mac, vlan, FOREVER, port, 1) then
         refuse(i, "the table of " .. cfg.entries .. " stations", "full", "a larger entries")
      end
   end
end

local function export(stations, now)
   local list = {}
   for key, v in stations:pairs() do
      local static = v.fixed == 1
      list[#list + 1] = {
         mac = tw.mac_string(key.addr), vlan = key.vlan > 0 and key.vlan or nil, port = v.port, static = static,
         expires_in = not static and (v.expires - now) / 1e9 or nil,
      }
   end
   table.sort(list, function(a, b)
      if a.mac ~= b.mac then return a.mac < b.mac end
      return (a.vlan or 0) < (b.vlan or 0)
   end)
   return list
end

--- A learning bridge. Put it into a chain that reads all of its ports:
--- `tw.chain("bridge", { a, b, c }, tw.nf.l2_bridge { ageing = 300 })`.
--- Parameters and drop reasons stand in l2_bridge.md beside this file.
return tw.nf("l2_bridge", function(cfg)
   cfg = tw.args("l2_bridge", cfg, PARAMS)
   local name = cfg.name or free_name "l2_bridge"
   local stations = tw.hash {
      name = name .. ".stations", key = "mac addr; u16 vlan", value = "ns expires; u16 port; u8 fixed",
      entries = cfg.entries, expire = true,
   }
   local events = tw.counters { name = name .. ".events", names = { "learned", "moved", "table_full", "unknown" } }
   add_static(stations, cfg)

   local ageing = cfg.ageing * 1e9
   -- A busy station's deadline is put off once in a while, not with each frame: the entry is
   -- shared by the lcores, and writing it costs the others their cached copy.
   local slack = math.min(floor(ageing / 64), 1e9)
   local vlan_aware, pvid = cfg.vlan_aware, cfg.pvid

   -- 802.1Q 8.7: note where the source was heard. Its entry may be new, in another place, or ageing.
   local function learn(pkt, src, vid)
      local now = pkt:now()
      local v = stations:get(src, vid)
      if not v then
         if stations:set(src, vid, now + ageing, pkt.port, 0) then
            events:add("learned", 1)
         else
            events:add("table_full", 1)
         end
         return
      end
      if v.fixed == 1 then return end
      if v.port ~= pkt.port then
         v.port = pkt.port
         v.expires = now + ageing
         events:add("moved", 1)
      elseif v.expires < now + ageing - slack then
         v.expires = now + ageing
      end
   end

   -- 802.1Q 8.8: where the destination was heard, and everywhere when it is a group or unknown.
   local function forward(pkt, dst, vid)
      if floor(dst / GROUP_BIT) % 2 == 1 then
         if dst >= RESERVED and dst <= RESERVED + 15 then return pkt:drop "reserved_multicast" end
         return pkt:flood()
      end
      local v = stations:get(dst, vid)
      if not v then
         events:add("unknown", 1)
         return pkt:flood()
      end
      if v.port == pkt.port then return pkt:drop "same_port" end
      return pkt:send(v.port)
   end

   return {
      packet = function(pkt)
         local eth = pkt:eth()
         if not eth then return pkt:drop "truncated" end
         local src, dst = eth.src, eth.dst
         if src == 0 or floor(src / GROUP_BIT) % 2 == 1 then return pkt:drop "bad_source" end
         local vid = 0
         if vlan_aware then
            vid = pvid
            if eth.type == VLAN_TAG then
               local tag = pkt:vlan()
               if not tag then return pkt:drop "truncated" end
               vid = tag.vid
               if vid == VID_BAD then return pkt:drop "bad_vlan" end
               if vid == 0 then vid = pvid end
            end
         end
         learn(pkt, src, vid)
         return forward(pkt, dst, vid)
      end,
      export = function()
         return { name = name, stations = export(stations, tw.now()), events = {
            learned = events:sum "learned", moved = events:sum "moved",
            table_full = events:sum "table_full", unknown = events:sum "unknown",
         } }
      end,
   }
end, { pure = true })
