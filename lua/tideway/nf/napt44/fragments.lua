-- SPDX-License-Identifier: BSD-3-Clause
-- Fragments: only the first one has ports, so it leaves word for the others (RFC 4787 REQ-14).
--
-- First fragments take the slow path, others the fast one once there is word. Those that come
-- before the first one wait for it in a hold queue.

local tw = require "tideway"

local M = {}

local HOLD_SLOTS, HOLD_PER_DATAGRAM, HOLD_SECONDS = 256, 64, 2

-- Hold queues have one number as key. The address that is not translated, identification and five
-- bits of protocol nearly name a datagram; where they name two, packets are looked at once too often.
local function hold_key(address, id, protocol) return (protocol % 32 * 65536 + id) * 2 ^ 32 + address end

--- The functions for one configuration.
---@param c table from config.check
---@param name string prefix of table names
---@param is_inside fun(addr: number): boolean
---@param open function from open.new
---@param outbound function from translate.new
---@param inbound function from translate.new
---@return table f packet(pkt, ip, is_out, hairpin), punt(pkt, ip, is_out, hairpin), tick()
function M.new(c, name, is_inside, open, outbound, inbound)
   local words = tw.lru {
      name = name .. ".fragments", key = "u32 src; u32 dst; u16 id; u8 protocol", value = "ns expires; u32 address",
      entries = c.fragments, expire = true,
   }
   local queue = tw.hold_queue { slots = HOLD_SLOTS, per_key = HOLD_PER_DATAGRAM, timeout = HOLD_SECONDS }
   local life, mark = c.timeout.fragment, 2 ^ c.mark_bit
   local f = {}
   -- A packet is in the queue only when its burst is over, so what was held in the burst of its first
   -- fragment is released a little later. Keys, per lcore: held since the last tick, and to be released.
   local held, pending = {}, {}

   --- A fragment of a packet in this direction.
   function f.packet(pkt, ip, is_out, hairpin)
      local src, dst = ip.src, ip.dst
      if is_out and not is_inside(src) then return end
      if ip.frag_offset == 0 then return pkt:punt() end
      local word = words:get(src, dst, ip.id, ip.protocol)
      if not word then return pkt:punt() end
      local address = word.address
      if is_out then
         ip:set_src(address)
      elseif address ~= dst then
         if hairpin and pkt.mark % (2 * mark) < mark then pkt.mark = pkt.mark + mark end
         ip:set_dst(address)
      end
   end

   -- Where nothing is translated (a packet for the router itself) the word is that nothing is to be.
   local function first(pkt, ip, is_out, hairpin, key)
      local src, dst, id, protocol = ip.src, ip.dst, ip.id, ip.protocol
      if is_out then
         if open(pkt, ip, hairpin) then outbound(pkt, ip, hairpin, true) end
      else
         inbound(pkt, ip, hairpin)
      end
      if pkt.verdict ~= 0 then return end
      words:set(src, dst, id, protocol, pkt:now() + life, is_out and ip.src or ip.dst)
      queue:release(key)
      if held[key] == pkt:now() then pending[#pending + 1] = key end
   end

   --- Slow path: first fragments, and others that have to wait.
   function f.punt(pkt, ip, is_out, hairpin)
      local protocol, id = ip.protocol, ip.id
      local key = hold_key(is_out and ip.dst or ip.src, id, protocol)
      if ip.frag_offset == 0 then return first(pkt, ip, is_out, hairpin, key) end
      -- The first one may have come in between, earlier in this burst.
      if words:get(ip.src, ip.dst, id, protocol) then return f.packet(pkt, ip, is_out, hairpin) end
      held[key] = pkt:now()
      pkt:hold(queue, key)
   end

   local function release_pending()
      for i = #pending, 1, -1 do
         queue:release(pending[i])
         pending[i] = nil
      end
   end

   function f.tick()
      release_pending()
      if next(held) ~= nil then held = {} end
   end

   return f
end

return M
