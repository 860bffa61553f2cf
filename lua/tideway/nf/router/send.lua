-- SPDX-License-Identifier: BSD-3-Clause
-- router: sends on a packet whose next hop is looked up on the slow path, and answers that go back.

local fib = require "tideway.nf.router.fib"
local neighbour = require "tideway.nf.router.neighbour"

local M = {}

--- May an ICMP error be sent now? A token bucket for all of them (RFC 1812 4.3.2.8, RFC 4443 2.4 (f)).
---@return boolean
function M.allowed(ctx)
   if not ctx.meter or ctx.meter:mark(0, 1) ~= 0 then
      ctx.events:add("icmp_limited", 1)
      return false
   end
   return true
end

--- Is it the broadcast address of a connected network?
function M.is_broadcast(ctx, address)
   local i = ctx.lpm4:get(address)
   return i ~= nil and ctx.hops:get(i).state == fib.BROADCAST
end

-- The hop that leads to a destination: on a connected network the neighbour's own, if it is known.
local function hop_for(ctx, family, address)
   local lpm = family == 6 and ctx.lpm6 or ctx.lpm4
   local i = lpm:get(address)
   if not i then return nil end
   local hop = ctx.hops:get(i)
   if hop.state ~= fib.CONNECTED then return hop end
   i = fib.find(ctx, hop.port, family, address)
   if not i then return hop end
   return ctx.hops:get(i)
end

--- Write the Ethernet addresses of a hop that forwards, and choose its port.
---@param ctx table
---@param pkt tideway.pkt
---@param hop any
function M.by(ctx, pkt, hop)
   local eth = pkt:eth()
   eth.dst, eth.src = hop.mac, ctx.ports[hop.port].mac
   return pkt:route(hop.port)
end

-- An answer to a packet: by the route to its source, or when the neighbour that the route names is not
-- resolved, to the station that the packet came from, if it came by the same port.
local function back(ctx, pkt, port, family, to, to_mac, reason)
   local hop = hop_for(ctx, family, to)
   if hop and hop.limit > 0 then return M.by(ctx, pkt, hop) end
   if not hop or hop.port == port.index then
      local eth = pkt:eth()
      eth.dst, eth.src = to_mac, port.mac
      return pkt:route(port.index)
   end
   -- Held, it would come back to packet() with a source of ours. So this one is lost, the next is not.
   local now = pkt:now()
   if hop.state == fib.CONNECTED then
      local i = neighbour.get(ctx, hop.port, family, to, now)
      if i then hop = ctx.hops:get(i) end
   end
   if hop.state == fib.IDLE then neighbour.start(ctx, hop, now) end
   return pkt:drop(reason)
end

--- Send an answer to an IPv4 address.
---@param ctx table
---@param pkt tideway.pkt
---@param port table by which the packet that is answered came in
---@param to number
---@param to_mac number source of its frame
---@param reason string drop reason when it cannot be sent
function M.back4(ctx, pkt, port, to, to_mac, reason) return back(ctx, pkt, port, 4, to, to_mac, reason) end

--- Send an answer to an IPv6 address; link-local ones are on the link that the packet came by.
function M.back6(ctx, pkt, port, to, to_mac, reason)
   if not to:is_link_local() then return back(ctx, pkt, port, 6, to, to_mac, reason) end
   local eth = pkt:eth()
   eth.dst, eth.src = neighbour.mac(ctx, port, 6, to) or to_mac, port.mac
   return pkt:route(port.index)
end

return M
