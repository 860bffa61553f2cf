-- SPDX-License-Identifier: BSD-3-Clause
-- VLAN tags by table: push, pop or translate (IEEE 802.1Q, 802.1ad), priority kept.
--
-- The outermost VLAN id of a frame, 0 for one without a tag, finds what to do. Frames of other VLANs are dropped.

local tw = require "tideway"
local bit = require "bit"

local band, bor = bit.band, bit.bor

local PARAMS = {
   map = { type = "table", required = true,
      doc = "{ [0] = { push = 10 }, [20] = { pop = true }, [30] = { to = 31 }, [40] = { push = 7 } }" },
   service = { type = "boolean", default = false, doc = "push service tags, 0x88a8 (802.1ad)" },
}

local KEEP, POP, PUSH, TRANSLATE = 0, 1, 2, 3

local function make_table(map)
   local vlans = tw.hash { name = "vlans", key = "u16", value = "u16 action; u16 vid; u64 packets", entries = 4096 }
   for vid, what in pairs(map) do
      local action = what.pop and POP or what.push and PUSH or what.to and TRANSLATE or KEEP
      local new = what.push or what.to or 0
      if type(vid) ~= "number" or vid < 0 or vid > 4094 or new < 0 or new > 4094 then
         error(("vlan: map[%s] gives VLAN %s; VLAN ids are 0 (none) to 4094"):format(tostring(vid), tostring(new)), 0)
      end
      vlans:set(vid, action, new, 0)
   end
   return vlans
end

return tw.nf("vlan", function(cfg)
   cfg = tw.args("vlan", cfg, PARAMS)
   local vlans = make_table(cfg.map)
   local tag_type = cfg.service and 0x88a8 or 0x8100

   return {
      tables = { vlans = vlans },
      packet = function(pkt)
         if not pkt:eth() then return pkt:drop "vlan_short" end
         local tag, vid = pkt:vlan(), 0
         if tag then vid = tag.vid end
         local what = vlans:get(vid)
         if not what then return pkt:drop "vlan_unknown" end
         what.packets = what.packets + 1
         local action = what.action
         if action == PUSH then
            if not pkt:push_vlan(what.vid, tag_type) then return pkt:drop "no_headroom" end
         elseif action == POP then
            if not pkt:pop_vlan() then return pkt:drop "vlan_untagged" end
         elseif action == TRANSLATE and tag then
            tag.tci = bor(band(tag.tci, 0xf000), what.vid)
         end
      end,
   }
end)
