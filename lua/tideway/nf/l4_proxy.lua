-- SPDX-License-Identifier: BSD-3-Clause
-- l4_proxy: who may connect, how often, and to which servers; TCP connections and UDP datagrams.

local tw = require "tideway"

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

local function prefixes(what, list)
   if not list then return nil end
   local v4, v6 = {}, {}
   for i, text in ipairs(list) do
      local ok, prefix = pcall(tw.prefix, text)
      if not ok then error(("l4_proxy: %s[%d]: %s"):format(what, i, tostring(prefix):gsub("^.-:%d+: ", "")), 0) end
      local to = prefix.family == 4 and v4 or v6
      to[#to + 1] = prefix
   end
   return { v4 = v4, v6 = v6 }
end

local function contains(set, family, address)
   local list = family == 4 and set.v4 or set.v6
   for i = 1, #list do
      if list[i]:contains(address) then return true end
   end
   return false
end

-- An address as the prefixes know it; clients of IPv4 at a socket of both are IPv4 already.
local function address_of(text)
   if text:find(":", 1, true) then return 6, tw.ip6(text) end
   return 4, tw.ip4(text)
end

return tw.nf("l4_proxy", function(cfg)
   cfg = tw.args("l4_proxy", cfg, PARAMS)
   local allow, deny = prefixes("allow", cfg.allow), prefixes("deny", cfg.deny)
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
      message = function(msg)
         local peer = msg.peer
         counts:incr("connections", 1, 0)
         if allow or deny then
            local family, address = address_of(peer)
            if deny and contains(deny, family, address) then return refuse(msg, "denied") end
            if allow and not contains(allow, family, address) then return refuse(msg, "not_allowed") end
         end
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
