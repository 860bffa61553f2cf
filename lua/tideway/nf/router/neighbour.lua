-- SPDX-License-Identifier: BSD-3-Clause
-- router: the life of a neighbour, the same for ARP and neighbor discovery.
--
-- IDLE -> INCOMPLETE (three questions, packets wait) -> REACHABLE -> PROBE (still forwards) -> REACHABLE,
-- or forgotten. One that never answers is FAILED for a while, so that each packet to it does not make
-- new questions (RFC 1122 2.3.2.1, RFC 4861 7.2 and 7.3).

local bit = require "bit"
local fib = require "tideway.nf.router.fib"
local solicit = require "tideway.nf.router.solicit"

local M = {}

local RETRY, TRIES = 1e9, 3 -- RETRANS_TIMER, MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT of RFC 4861
local REFUSE = 3e9 -- how long FAILED lasts, ns
local SOON = 1e8

local GROUP_BIT = 2 ^ 40

--- Can this be the address of one station other than us?
function M.is_station(port, mac)
   return mac ~= 0 and mac ~= port.mac and math.floor(mac / GROUP_BIT) % 2 == 0
end

local function has(hop, kind) return bit.band(hop.kind, kind) ~= 0 end

-- Away with it; a gateway is only put to rest, because routes lead to it.
local function forget(ctx, i, hop)
   if has(hop, fib.GATEWAY) then
      fib.unset(hop, fib.IDLE)
   else
      fib.free(ctx, i, hop)
   end
end

-- Room for a new neighbour, at the cost of one that did not answer.
local function reclaim(ctx)
   for i = ctx.first, ctx.last do
      local hop = ctx.hops:get(i)
      if hop.state == fib.FAILED and not has(hop, fib.GATEWAY) then
         fib.free(ctx, i, hop)
         return true
      end
   end
   return false
end

--- The hop of a neighbour, made when there is none; nil when the table is full. A new one is IDLE,
--- and the caller starts it: only gateways may stay so.
---@param ctx table
---@param port integer
---@param family integer
---@param address any
---@param now number ns
---@return integer? index
function M.get(ctx, port, family, address, now)
   local i = fib.find(ctx, port, family, address)
   if i then return i end
   -- Looking for room costs a walk through the table: a scan of the network must not buy one per packet.
   if now < (ctx.full_until or 0) then return nil end
   i = fib.claim(ctx, port, family, address)
   if not i and reclaim(ctx) then i = fib.claim(ctx, port, family, address) end
   if not i then ctx.full_until = now + SOON end
   return i
end

--- The link-layer address of a neighbour, nil when it is not known.
---@return number?
function M.mac(ctx, port, family, address)
   local i = fib.find(ctx, port.index, family, address)
   local hop = i and ctx.hops:get(i)
   if hop and hop.limit > 0 then return hop.mac end
end

--- Begin to ask for a neighbour's address.
---@param ctx table
---@param hop any in state IDLE
---@param now number ns
function M.start(ctx, hop, now)
   hop.tries, hop.deadline = 1, now + RETRY
   fib.unset(hop, fib.INCOMPLETE)
   solicit.ask(ctx, hop, false)
end

--- Keep a packet until its next hop is known (RFC 1122 2.3.2.2), and see to it that it will be.
---@param ctx table
---@param pkt tideway.pkt
---@param i integer hop in state IDLE or INCOMPLETE
function M.wait(ctx, pkt, i)
   local hop = ctx.hops:get(i)
   if hop.state == fib.IDLE then M.start(ctx, hop, pkt:now()) end
   return pkt:hold(ctx.queue, i)
end

-- Is the address on the network of this port? Others cannot become neighbours by saying so.
local function on_link(port, family, address)
   if family == 6 and address:is_link_local() then return true end
   for _, a in ipairs(family == 6 and port.v6 or port.v4) do
      if family == 6 then
         if address:matches(a.network, a.length) then return true end
      elseif address >= a.network and address < a.network + 2 ^ (32 - a.length) then
         return true
      end
   end
   return false
end

--- Somebody said where an address is. An entry that exists is changed; a new one is made only if asked for.
---@param ctx table
---@param port table
---@param family integer
---@param address any
---@param mac number
---@param create boolean
---@param now number ns
function M.learn(ctx, port, family, address, mac, create, now)
   local i = fib.find(ctx, port.index, family, address)
   if not i then
      if not create or not on_link(port, family, address) then return end
      i = M.get(ctx, port.index, family, address, now)
      if not i then
         ctx.events:add("neighbours_full", 1)
         return
      end
   end
   local hop = ctx.hops:get(i)
   if has(hop, fib.STATIC) then return end
   local waiting = hop.state == fib.INCOMPLETE
   if hop.mac ~= mac and hop.limit > 0 then ctx.events:add("neighbours_moved", 1) end
   hop.tries, hop.deadline = 0, now + ctx.reachable
   fib.set_macs(ctx, hop, mac, fib.REACHABLE)
   fib.add_host_route(ctx, i, hop)
   if waiting then ctx.queue:release(i) end
end

local function due(ctx, i, hop, now)
   local state = hop.state
   if state == fib.INCOMPLETE and hop.tries >= TRIES then
      fib.unset(hop, fib.FAILED)
      hop.deadline = now + REFUSE
      ctx.events:add("neighbours_failed", 1)
      ctx.queue:release(i) -- they come back to packet(), and get their answer
      return
   elseif state == fib.FAILED or (state == fib.PROBE and hop.tries >= TRIES) then
      forget(ctx, i, hop)
      return
   elseif state == fib.REACHABLE then
      hop.state, hop.tries = fib.PROBE, 0
   end
   hop.tries, hop.deadline = hop.tries + 1, now + RETRY
   solicit.ask(ctx, hop, hop.state == fib.PROBE)
end

--- Timers; about ten times a second. Every lcore does this; the one that comes first puts the deadline off.
---@param ctx table
---@param now number ns
function M.tick(ctx, now)
   local budget = 32 -- questions at a time: an lcore can send 64 frames per call
   for i = ctx.first, ctx.last do
      local hop = ctx.hops:get(i)
      local state = hop.state
      if state >= fib.REACHABLE and state <= fib.FAILED and now >= hop.deadline and not has(hop, fib.STATIC) then
         if budget > 0 then
            budget = budget - 1
            due(ctx, i, hop, now)
         else
            hop.deadline = now + SOON
         end
      end
   end
end

return M
