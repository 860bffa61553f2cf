-- SPDX-License-Identifier: BSD-3-Clause
-- router: its state as plain tables, for scripts and the console; runs in the control VM.

local bit = require "bit"
local tw = require "tideway"
local fib = require "tideway.nf.router.fib"

local M = {}

local STATES = {
   [fib.REACHABLE] = "reachable", [fib.PROBE] = "probe", [fib.INCOMPLETE] = "incomplete", [fib.FAILED] = "failed",
   [fib.IDLE] = "idle", [fib.CONNECTED] = "connected", [fib.LOCAL] = "local",
}

local function address_text(hop)
   if hop.family == 6 then return tw.ip6_string(hop.address6) end
   return tw.ip4_string(hop.address4)
end

local function is_neighbour(ctx, i) return i >= ctx.first and i <= ctx.last end

-- Host routes of neighbours and reserved prefixes are not what a user calls a route.
local function route_of(ctx, family, key, i)
   local hop = ctx.hops:get(i)
   local kind = STATES[hop.state]
   local route = { prefix = tostring(key), kind = kind }
   if is_neighbour(ctx, i) then
      route.kind, route.via = "via", address_text(hop)
      if key.length == (family == 6 and 128 or 32) and bit.band(hop.kind, fib.HOST_ROUTE) ~= 0
         and route.prefix == ("%s/%d"):format(route.via, key.length) then
         return nil
      end
   end
   if route.kind == "via" or route.kind == "connected" then route.port = ctx.ports[hop.port].name end
   return route.kind and route
end

local function routes(ctx)
   local list = {}
   for family, lpm in pairs { [4] = ctx.lpm4, [6] = ctx.lpm6 } do
      for key, i in lpm:pairs() do list[#list + 1] = route_of(ctx, family, key, i) end
   end
   table.sort(list, function(a, b) return a.prefix < b.prefix end)
   return list
end

local function neighbours(ctx)
   local list, now = {}, tw.now()
   for i = ctx.first, ctx.last do
      local hop = ctx.hops:get(i)
      if hop.state ~= fib.FREE then
         local static = bit.band(hop.kind, fib.STATIC) ~= 0
         list[#list + 1] = {
            address = address_text(hop), port = ctx.ports[hop.port].name, mac = hop.limit > 0 and tw.mac_string(hop.mac)
               or nil,
            state = static and "static" or STATES[hop.state], gateway = bit.band(hop.kind, fib.GATEWAY) ~= 0,
            seconds = not static and hop.state ~= fib.IDLE and (hop.deadline - now) / 1e9 or nil,
         }
      end
   end
   table.sort(list, function(a, b) return a.address < b.address end)
   return list
end

--- Routes, neighbours and events.
---@param ctx table
---@param names string[] of events
---@return { name: string, routes: table[], neighbours: table[], events: table<string, number> }
function M.all(ctx, names)
   local events = {}
   for _, name in ipairs(names) do events[name] = ctx.events:sum(name) end
   return { name = ctx.name, routes = routes(ctx), neighbours = neighbours(ctx), events = events }
end

return M
