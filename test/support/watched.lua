-- SPDX-License-Identifier: BSD-3-Clause
-- What the specs of watches and traces share: frames, and NFs that drop, rewrite, mark and work on bursts.

local frame = require "test.support.frame"
local tw = require "tideway"

local M = {}

local A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"

--- A UDP frame from 10.0.0.1:1000 to 10.0.0.2.
function M.udp(ttl, dport, data)
   return frame.udp4({ src = A, dst = B }, { src = "10.0.0.1", dst = "10.0.0.2", ttl = ttl or 64 },
      { sport = 1000, dport = dport or 53 }, data or "hello")
end

--- Drops at the end of the TTL, else counts it down.
M.ttl = tw.nf("ttl", function()
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= 1 then return pkt:drop "ttl_expired" end
         ip.ttl = ip.ttl - 1
         ip:update_checksum()
      end,
   }
end)

--- Drops UDP to port 7, marks that to port 9.
M.guard = tw.nf("guard", function()
   return {
      packet = function(pkt)
         local l4 = pkt:udp()
         if l4 and l4.dst_port == 7 then return pkt:drop "echo" end
         if l4 and l4.dst_port == 9 then pkt.mark = 5 end
      end,
   }
end)


--- A burst NF: it sees its packets together, and marks them.
M.bulk = tw.nf("bulk", function()
   return {
      burst = function(batch)
         for i = 0, batch.count - 1 do
            local pkt = batch.pkts[i]
            if pkt.verdict == 0 then pkt.mark = 7 end
         end
      end,
   }
end)

--- One field of all items.
function M.fields(list, name)
   local out = {}
   for i, item in ipairs(list) do out[i] = item[name] end
   return out
end

return M
