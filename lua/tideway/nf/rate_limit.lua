-- SPDX-License-Identifier: BSD-3-Clause
-- rate_limit: so many requests a second for each client (or header, path, ...); see rate_limit.md.

local tw = require "tideway"

local PARAMS = {
   rate = { type = "number", required = true, min = 1 / 86400, max = 1e6, doc = "requests a second" },
   burst = { type = "number", min = 1, max = 1e6, doc = "that may come at once; default: as many as in a second" },
   key = { type = "any", default = "client", doc = "\"client\", \"host\", \"path\", \"all\", \"header:NAME\", or a "
      .. "function(msg) that returns a string" },
   status = { type = "number", default = 429, min = 400, max = 599, doc = "of the answer" },
   store = { type = "table", doc = "a tw.store to count in; default: one of its own" },
   entries = { type = "number", default = 65536, min = 16, max = 2 ^ 24, doc = "keys remembered, of its own store" },
   name = { type = "string", default = "rate_limit", doc = "of the store, and in front of its keys" },
}

local KEYS = {
   client = function(msg) return msg.peer end,
   host = function(msg) return (msg.host or ""):lower() end,
   path = function(msg) return msg.plain_path end,
   all = function() return "" end,
}

local KEY_BYTES = 200 -- of a client's own choice: longer ones share what their beginning has

local function key_function(key)
   if type(key) == "function" then return key end
   local header = type(key) == "string" and key:match "^header:(.+)$"
   if header then return function(msg) return msg:header(header) or "" end end
   if KEYS[key] then return KEYS[key] end
   error(("rate_limit: key is %s; it can be client, host, path, all, header:NAME or a function(msg)")
      :format(tostring(key)), 0)
end

-- The generic cell rate algorithm (ITU-T I.371): of each key only the time is kept at which a next request would come
-- in steady traffic. What comes earlier than `tolerance` before that is too much.
local function take(store, key, now, interval, tolerance)
   local due = store:get(key)
   if type(due) ~= "number" or due <= now then
      store:set(key, now + interval)
      return nil
   end
   local early = due - now - tolerance
   if early > 0 then return early end
   if not store:incr(key, interval) then store:set(key, due + interval) end
   return nil
end

--- Answer 429 (RFC 6585 4) to what is too much. Parameters: rate_limit.md.
return tw.nf("rate_limit", function(cfg)
   cfg = tw.args("rate_limit", cfg, PARAMS)
   local rate, status, prefix = cfg.rate, cfg.status, cfg.name .. ":"
   local burst = cfg.burst or math.max(1, rate)
   local interval = 1e9 / rate
   -- one that is on time, and burst - 1 before their time
   local tolerance = (burst - 1) * interval
   local key_of = key_function(cfg.key)
   local store = cfg.store or tw.store { name = cfg.name, entries = cfg.entries,
      bytes = 2 ^ 16 + cfg.entries * 512 }

   return {
      message = function(msg)
         local key = key_of(msg)
         if key == nil then return end
         key = prefix .. tostring(key):sub(1, KEY_BYTES)
         local early = take(store, key, tw.now(), interval, tolerance)
         if not early then return end
         if msg.kind ~= "request" then return msg:drop "rate limit" end
         return msg:respond(status, { ["Retry-After"] = math.max(1, math.ceil(early / 1e9)) }, "Too Many Requests\n")
      end,
      on_fault = "bypass",
   }
end, { pure = true })
