-- SPDX-License-Identifier: BSD-3-Clause
-- An NF of your own, in the script: it drops TCP and UDP packets to ports that stand in a table.
--
--    sudo scripts/lab up --mode l2
--    sudo scripts/lab exec dut build/tideway run examples/05-write-your-own.lua 80 5201
-- and in another terminal (nobody has to listen: "refused" came from the server, a timeout from here):
--    sudo scripts/lab exec client curl --max-time 2 http://10.0.0.3:80/
--    sudo scripts/lab exec client curl --max-time 2 http://10.0.0.3:81/
-- The counters at the end show how many packets `blocked_port` has cost.
--
-- Arguments: devices with a comma in their name, and port numbers to block, in any order.

local tw = require "tideway"

local devices, numbers = {}, {}
for _, word in ipairs { ... } do table.insert(word:find "," and devices or numbers, word) end
local lan = tw.port("lan", devices[1] or "net_af_packet0,iface=tw-lan")
local wan = tw.port("wan", devices[2] or "net_af_packet1,iface=tw-wan")

local blocker = tw.nf("blocker", function(cfg)
   -- A table in shared memory: every lcore sees the same one. Plain Lua values are copied to each lcore.
   local blocked = tw.hash { name = "blocked", key = "u16", value = "u64", entries = 1024 }
   for _, number in ipairs(cfg.ports) do blocked:set(number, 0) end

   return {
      -- Runs for every packet. A view is entirely inside the frame, or it is nil.
      packet = function(pkt)
         local l4 = pkt:tcp() or pkt:udp()
         if not l4 then return end -- no verdict: the next NF
         local port = l4.dst_port
         if blocked:get(port) then
            blocked:add(port, 1)
            return pkt:drop "blocked_port"
         end
      end,
      -- Runs once, on the lcore, at the end: any Lua may stand here.
      stop = function()
         for port, hits in blocked:pairs() do
            io.stderr:write(("port %d: %d packets blocked\n"):format(port, tonumber(hits)))
         end
      end,
   }
end)

local ports = {}
for i, word in ipairs(numbers) do ports[i] = assert(tonumber(word), word .. " is not a port number") end

tw.chain("guarded", { lan, wan }, blocker { ports = ports }, tw.nf.l2_bridge {})
