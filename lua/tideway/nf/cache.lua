-- SPDX-License-Identifier: BSD-3-Clause
-- cache: answers GET and HEAD with responses it has kept (RFC 9111, RFC 5861), in memory that all instances share.

local tw = require "tideway"
local date = require "tideway.nf.cache.date"
local entries = require "tideway.nf.cache.entry"
local policy = require "tideway.nf.cache.policy"

local PARAMS = {
   name = { type = "string", default = "cache", doc = "name of its store" },
   megabytes = { type = "number", default = 64, min = 1, max = 65536, doc = "memory of its store" },
   entries = { type = "number", default = 16384, min = 16, max = 2 ^ 24, doc = "responses kept at most" },
   object_bytes = { type = "number", default = 1048576, min = 0, max = 2 ^ 31, doc = "larger bodies are not kept" },
   keep_stale = { type = "number", default = 3600, min = 0, max = 2 ^ 31,
      doc = "seconds that a response is kept after it was fresh, to ask whether it changed" },
   stale_if_error = { type = "number", default = 0, min = 0, max = 2 ^ 31,
      doc = "seconds that a stale one stands in for an error of the server, where the response says nothing" },
   wait = { type = "number", default = 5, min = 0, max = 60,
      doc = "seconds that a request waits for another one that fetches the same; 0: each fetches itself" },
}

-- Not kept with a response: what belongs to one connection, and what is made anew (RFC 9111, 3.1).
local LEFT_OUT = {
   connection = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["proxy-authenticate"] = true,
   ["proxy-authentication-info"] = true, ["proxy-authorization"] = true, te = true, trailer = true,
   ["transfer-encoding"] = true, upgrade = true, age = true, ["content-length"] = true, ["x-cache"] = true,
}
-- Of a 304, not taken over: they describe the body that is kept (RFC 9111, 3.2).
local OF_BODY = { ["content-encoding"] = true, ["content-type"] = true, ["content-range"] = true }

local LOOK_AGAIN = 0.005 -- seconds; twice as long each time
local LONGEST_LOOK = 0.1
local MOST_READ = 256 -- entries an instance has at hand, unpacked
local LONGEST_KEY = 480 -- a store takes 512 bytes; what has a longer address or variant is not kept

local SAFE = { GET = true, HEAD = true, OPTIONS = true, TRACE = true }

local function now() return os.time() end

local function joined(msg, name)
   local values = msg:headers_of(name)
   return values[1] and table.concat(values, ", ") or ""
end

local NOTHING = {} -- asked for

local function control_of(msg)
   if not msg:header "cache-control" and not msg:header "pragma" then return NOTHING end
   local list = policy.directives(msg:headers_of "cache-control")
   -- RFC 9111, 5.4: only where there is no Cache-Control.
   if next(list) == nil and msg.kind == "request" and joined(msg, "pragma"):lower():find "no%-cache" then
      list["no-cache"] = true
   end
   return list
end

-- Where responses to this request are kept: RFC 9111, 2. One name for all variants.
local function address_of(msg) return ("%s://%s%s"):format(msg.scheme, (msg.host or ""):lower(), msg.target) end

return tw.nf("cache", function(cfg)
   local o = tw.args("cache", cfg, PARAMS)
   local store = tw.store { name = o.name, bytes = o.megabytes * 1048576, entries = o.entries * 3 }

   -- ---- what is kept ----

   -- Keys: "v" + address -> the Vary of what is there; "e" + address + variant -> an entry; "l" + the same -> somebody
   -- fetches it; "b" + number of the exchange -> a body.
   local function variant_of(msg, address)
      local vary = store:get("v" .. address)
      return policy.variant(vary, function(name) return msg:header(name) end)
   end

   -- What is asked for again and again is read once: the same text is the same entry, which nobody changes.
   local read, n_read = {}, 0

   local function find(key)
      local text = store:get("e" .. key)
      if not text then return nil end
      local entry = read[text]
      if entry then return entry end
      entry = entries.unpack(text)
      if not entry then return nil end
      entry.control = policy.directives { entry.cache_control }
      if n_read >= MOST_READ then read, n_read = {}, 0 end
      read[text], n_read = entry, n_read + 1
      return entry
   end

   local function keep(key, entry, body)
      local seconds = math.max(1, entry.lifetime + o.keep_stale)
      if body and not store:set(entry.body, body, seconds) then return false end
      return store:set("e" .. key, entries.pack(entry), seconds)
   end

   local function age_of(entry) return math.max(0, now() - entry.born) end

   -- ---- answering ----

   -- `request` is msg itself, or that of a response. Nil: the body is not there any more.
   local function answer(msg, request, entry, word)
      local headers = {}
      for i, header in ipairs(entry.headers) do headers[i] = header end
      headers[#headers + 1] = { "Age", ("%d"):format(age_of(entry)) }
      headers[#headers + 1] = { "X-Cache", word }
      local function condition(name) return request:header(name) end
      local etag = entry.etag ~= "" and entry.etag or nil
      if not msg.state.condition_is_ours and policy.not_modified(condition, etag, entry.modified) then
         return msg:respond(304, headers, "")
      end
      local body = entry.size > 0 and store:get(entry.body) or ""
      if #body ~= entry.size then return nil end
      return msg:respond(entry.status, headers, body)
   end

   -- The server is asked whether what is kept is still right, unless the client has a condition of its own.
   local function ask(msg, entry)
      local state = msg.state
      state.asked_about = entry
      if msg:header "if-none-match" or msg:header "if-modified-since" then return end
      state.condition_is_ours = true
      if entry.etag ~= "" then
         msg:set_header("If-None-Match", entry.etag)
      elseif entry.modified ~= "" then
         msg:set_header("If-Modified-Since", entry.modified)
      end
   end

   local function usable(entry, control)
      if not entry then return nil end
      return policy.usable(entry, age_of(entry), control)
   end

   -- Nil: too long to be kept.
   local function key_of(msg, address)
      local key = address .. "\n" .. variant_of(msg, address)
      return #key <= LONGEST_KEY and key or nil
   end

   -- Somebody else fetches the same: wait until it is there, or that one has given up. What comes may say that there
   -- are variants, and ours is another one.
   local function wait_for(msg, address, key, control)
      local waited, nap = 0, LOOK_AGAIN
      while waited < o.wait do
         msg:sleep(nap)
         waited, nap = waited + nap, math.min(nap * 2, LONGEST_LOOK)
         key = key_of(msg, address) or key
         local entry = find(key)
         if usable(entry, control) == "fresh" then return entry, false, key end
         if store:add("l" .. key, 1, math.max(1, o.wait)) then return nil, true, key end
      end
      return nil, false, key
   end

   local function begin(msg)
      local control = control_of(msg)
      if control["no-store"] or msg:header "range" or msg:header "upgrade" then return end
      local state, address = msg.state, address_of(msg)
      if #address > LONGEST_KEY then return end
      local key = key_of(msg, address)
      if not key then return end
      local entry = find(key)
      local use = usable(entry, control)
      if use == "fresh" then
         local verdict = answer(msg, msg, entry, "HIT")
         if verdict then return verdict end
         entry, use = nil, nil -- its body is gone
      end
      if control["only-if-cached"] then return msg:respond(504, { { "X-Cache", "MISS" } }, "not in the cache\n") end
      local mine = o.wait == 0 or store:add("l" .. key, 1, math.max(1, o.wait))
      if not mine and use == "stale" then
         local verdict = answer(msg, msg, entry, "STALE")
         if verdict then return verdict end
      end
      -- Requests that want the server's word wait for nobody.
      if not mine and not control["no-cache"] then
         local came
         came, mine, key = wait_for(msg, address, key, control)
         local verdict = came and answer(msg, msg, came, "HIT")
         if verdict then return verdict end
         entry = find(key)
      end
      state.address, state.key, state.locked = address, key, mine and o.wait > 0
      state.asked_at, state.control = now(), control
      if entry and entry.body and (entry.etag ~= "" or entry.modified ~= "") then ask(msg, entry) end
   end

   -- ---- what comes back ----

   local function response_of(msg, control)
      local at = now()
      local r = {
         status = msg.status, control = control, expires = msg:header "expires",
         last_modified = msg:header "last-modified", date = date.parse(msg:header "date", at) or at,
         set_cookie = msg:header "set-cookie" ~= nil, vary = joined(msg, "vary"),
      }
      r.validator = msg:header "etag" ~= nil or r.last_modified ~= nil
      r.lifetime = policy.lifetime(r, control)
      return r
   end

   local function entry_of(msg, r, state, at)
      local headers = {}
      for name, value in msg:each_header() do
         if not LEFT_OUT[name:lower()] then headers[#headers + 1] = { name, value } end
      end
      return {
         status = r.status, born = at - policy.initial_age(msg:header "age", r.date, state.asked_at, at),
         lifetime = r.lifetime, cache_control = joined(msg, "cache-control"), etag = msg:header "etag" or "",
         modified = r.last_modified or "", vary = r.vary, headers = headers,
      }
   end

   local function learn(msg, state)
      local control = policy.directives(msg:headers_of "cache-control")
      local r = response_of(msg, control)
      local asked = { method = state.method, authorization = state.authorization, control = state.control }
      if not policy.storable(asked, r) then return end
      local body = msg.body -- nil: it was too long to be gathered
      if not body or #body > o.object_bytes then return end
      local entry = entry_of(msg, r, state, now())
      local variant = policy.variant(r.vary, function(name) return state.fields(name) end)
      local key = state.address .. "\n" .. variant
      if #key > LONGEST_KEY then return end
      store:set("v" .. state.address, r.vary, r.lifetime + o.keep_stale)
      entry.size, entry.body = #body, ("b%.0f"):format(msg.id) -- tostring() knows 14 digits, not 15
      keep(key, entry, body)
   end

   -- 304: what is kept is right; its headers are brought up to date (RFC 9111, 3.2, 4.3.4).
   local function refresh(msg, state)
      local entry = state.asked_about
      local fresh = entry_of(msg, response_of(msg, policy.directives(msg:headers_of "cache-control")), state, now())
      local headers, said = {}, {}
      for _, header in ipairs(fresh.headers) do
         local name = header[1]:lower()
         if not OF_BODY[name] then headers[#headers + 1], said[name] = header, true end
      end
      for _, header in ipairs(entry.headers) do
         if not said[header[1]:lower()] then headers[#headers + 1] = header end
      end
      fresh.headers = headers
      fresh.status, fresh.size, fresh.body = entry.status, entry.size, entry.body
      if fresh.cache_control == "" then
         fresh.cache_control = entry.cache_control
         if fresh.lifetime == 0 then fresh.lifetime = entry.lifetime end
      end
      if fresh.etag == "" then fresh.etag = entry.etag end
      if fresh.modified == "" then fresh.modified = entry.modified end
      if fresh.vary == "" then fresh.vary = entry.vary end
      local body = entry.size > 0 and store:get(entry.body) or ""
      if #body ~= entry.size then return nil end
      keep(state.key, fresh, body)
      return fresh
   end

   -- Unsafe methods that went well: what is kept of their target is out of date (RFC 9111, 4.4).
   local function forget(msg)
      local request = msg.request
      local status = msg.status
      if status < 200 or status >= 400 then return end
      local address = address_of(request)
      store:delete("v" .. address)
      store:delete("e" .. address .. "\n")
   end

   local function stands_in(state)
      local entry = state.asked_about
      if not entry then return false end
      return policy.stands_in(entry, age_of(entry), state.control, o.stale_if_error)
   end

   local function finish(msg)
      local request, state = msg.request, msg.state
      if not SAFE[request.method] then return forget(msg) end
      if not state.key then return end
      state.method, state.authorization = request.method, request:header "authorization" ~= nil
      state.fields = function(name) return request:header(name) end
      local verdict
      if msg.status == 304 and state.condition_is_ours then
         local entry = refresh(msg, state)
         verdict = entry and answer(msg, request, entry, "REVALIDATED")
      elseif msg.status >= 500 and stands_in(state) then
         verdict = answer(msg, request, state.asked_about, "STALE")
      else
         learn(msg, state)
      end
      if state.locked then store:delete("l" .. state.key) end
      return verdict
   end

   return {
      response_body = "whole", sticky = "exchange",
      message = function(msg)
         local method = msg.method
         if method == "GET" or method == "HEAD" then return begin(msg) end
      end,
      response = finish,
   }
end)
