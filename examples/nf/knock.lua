-- SPDX-License-Identifier: BSD-3-Clause
-- Port knocking (Krzywinski, 2003): a TCP or UDP port is closed to a source until it has sent packets to other ports
-- in the right order. A wrong one in between starts the sequence anew; a repeated one (a retransmitted SYN) does not.
--
-- A lock on the door, not a strong one: who can see the packets can copy them.

local tw = require "tideway"

local PARAMS = {
   port = { type = "number", required = true, min = 1, max = 65535, doc = "the port to guard" },
   sequence = { type = "table", required = true, doc = "ports to knock at, in order: { 7000, 8000, 9000 }" },
   window = { type = "number", default = 30, min = 1, max = 86400, doc = "seconds from one packet to the next" },
   entries = { type = "number", default = 65536, min = 1, max = 2 ^ 22, doc = "sources remembered" },
}

return tw.nf("knock", function(cfg)
   cfg = tw.args("knock", cfg, PARAMS)
   local steps = tw.hash { name = "knock_steps", key = "u16", value = "u32", entries = 64 }
   local states = tw.lru { name = "knock_states", key = "u32", value = "ns expires; u32 step", entries = cfg.entries }
   for i, port in ipairs(cfg.sequence) do
      if port == cfg.port or steps:get(port) then
         error(("knock: port %d stands twice; the guarded port and those of the sequence must differ"):format(port), 0)
      end
      steps:set(port, i)
   end
   local guarded, last, window = cfg.port, #cfg.sequence, cfg.window * 1000000000

   return {
      tables = { steps = steps, states = states },
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         local l4 = pkt:tcp() or pkt:udp()
         if not l4 then return end
         local port, now = l4.dst_port, pkt:now()
         if port == guarded then
            local state = states:get(ip.src)
            if not state or state.step ~= last or now > state.expires then return pkt:drop "knock_closed" end
            state.expires = now + window -- open as long as it is used
            return
         end
         local step = steps:get(port)
         if not step then return end
         local state = states:put(ip.src)
         if not state then return pkt:drop "knock_full" end
         if step == state.step + 1 and (step == 1 or now <= state.expires) then
            state.step = step
         elseif step ~= state.step then
            state.step = step == 1 and 1 or 0
         end
         state.expires = now + window
         return pkt:drop "knock"
      end,
   }
end)
