-- SPDX-License-Identifier: BSD-3-Clause
-- l4_proxy: who may connect, how often, and to which servers; TCP connections and UDP datagrams.

local tw = require "tideway"
local addresses = require "tideway.nf.access.clients"

local PARAMS = {
   upstream = { type = "any", doc = "a tw.upstream or its name; without it, the end of the chain decides" },
   allow = { type = "table", doc = "prefixes of clients that may connect; all others may not" },
   deny = { type = "table", doc = "prefixes of clients that may not, before allow is asked" },
   max_per_client = { type = "number", min = 1, doc = "connections of one client address in a window" },
   window = { type = "number", default = 1, min = 0.001, max = 3600, doc = "its seconds" },
   clients = { type = "number", default = 16384, min = 16, max = 2 ^ 22, doc = "client addresses remembered" },
   key = { type = "string", default = "client", one_of = { "client", "connection" },
      doc = "what a server is chosen by where the group's balance is \"hash\"" },
   name = { type = "string", default = "l4_proxy", doc = "of its counters, tables.NAME" },
}

local COUNTED = { "connections", "denied", "not_allowed", "limited" }

return tw.nf("l4_proxy", function(cfg)
   cfg = tw.args("l4_proxy", cfg, PARAMS)
   local allowed = cfg.allow and addresses.among("l4_proxy: allow", cfg.allow) or false
   local denied = cfg.deny and addresses.among("l4_proxy: deny", cfg.deny) or false
   local group = cfg.upstream
   if type(group) == "table" then group = group.name end
   if group ~= nil and type(group) ~= "string" then
      error(("l4_proxy: upstream must be a tw.upstream or its name, not %s"):format(tostring(group)), 0)
   end
   local most, window, by_connection = cfg.max_per_client, cfg.window, cfg.key == "connection"
   local counts = tw.store { name = cfg.name, bytes = 2 ^ 16, entries = 32, shards = 1 }
   local clients = most and tw.store { name = cfg.name .. ".clients", entries = cfg.clients, piece = 64,
      bytes = 2 ^ 16 + cfg.clients * 192 }

   local function refuse(msg, why)
      counts:incr(why, 1, 0)
      return msg:drop(why)
   end

   return {
      name = "l4_proxy",
      upstreams = { cfg.upstream },
      message = function(msg)
         local peer = msg.peer
         counts:incr("connections", 1, 0)
         if denied and denied(peer) then return refuse(msg, "denied") end
         if allowed and not allowed(peer) then return refuse(msg, "not_allowed") end
         -- A store that cannot be asked now lets everybody in.
         if clients and (clients:incr(peer, 1, 0, window) or 0) > most then return refuse(msg, "limited") end
         if group then return msg:upstream(group, by_connection and peer .. " " .. msg.peer_port or peer) end
      end,
      --- What it has counted.
      export = function()
         local out = {}
         for _, name in ipairs(COUNTED) do out[name] = counts:get(name) or 0 end
         return out
      end,
   }
end)
