-- SPDX-License-Identifier: BSD-3-Clause
-- headers: sets, adds and removes headers of requests and responses; says who the client was; see headers.md.

local tw = require "tideway"
local clients = require "tideway.nf.access.clients"

local EDIT = "headers by name: { [\"X-Name\"] = \"value\" }"
local PARAMS = {
   set = { type = "table", doc = "of requests: " .. EDIT },
   add = { type = "table", doc = "of requests, behind those that are there" },
   remove = { type = "table", doc = "of requests: a list of names" },
   response_set = { type = "table", doc = "of responses" },
   response_add = { type = "table", doc = "of responses" },
   response_remove = { type = "table", doc = "of responses: a list of names" },
   forwarded = { type = "any", doc = "true: X-Forwarded-For, -Proto, -Host and Via; \"rfc7239\": Forwarded and Via" },
   trusted = { type = "table", default = {}, doc = "prefixes of proxies whose X-Forwarded-* and Forwarded are kept" },
   via = { type = "string", default = "tideway", doc = "this proxy's name in Via" },
}

local function pairs_of(what, list)
   local out = {}
   for name, value in pairs(list or {}) do
      if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+.^_`|~-]+$" then
         error(("headers: %s: %q is not the name of a header (RFC 9110 5.6.2)"):format(what, tostring(name)), 0)
      end
      for _, one in ipairs(type(value) == "table" and value or { value }) do
         one = tostring(one)
         if one:find "[%z\1-\8\10-\31\127]" then
            error(("headers: %s: %s: a value has no control characters (RFC 9110 5.5)"):format(what, name), 0)
         end
         out[#out + 1] = { name, one }
      end
   end
   table.sort(out, function(a, b) return a[1] < b[1] end)
   return out
end

local function names_of(what, list)
   local out = {}
   for i, name in ipairs(list or {}) do
      if type(name) ~= "string" or name == "" then
         error(("headers: %s: the %dth is not a name but %s"):format(what, i, tostring(name)), 0)
      end
      out[i] = name
   end
   return out
end

local function edits(cfg, before)
   return {
      set = pairs_of(before .. "set", cfg[before .. "set"]), add = pairs_of(before .. "add", cfg[before .. "add"]),
      remove = names_of(before .. "remove", cfg[before .. "remove"]),
   }
end

local function any(edit) return #edit.set + #edit.add + #edit.remove > 0 end

local function apply(msg, edit)
   for i = 1, #edit.remove do msg:remove_header(edit.remove[i]) end
   for i = 1, #edit.set do msg:set_header(edit.set[i][1], edit.set[i][2]) end
   for i = 1, #edit.add do msg:add_header(edit.add[i][1], edit.add[i][2]) end
end

-- ---- who the client was ----

local function joined(msg, name, value)
   local list = msg:headers_of(name)
   list[#list + 1] = value
   return table.concat(list, ", ")
end

-- X-Forwarded-*: the names that servers know; no standard.
local function x_forwarded(msg, trusted)
   local peer = msg.peer or "unknown"
   if not trusted then
      msg:set_header("X-Forwarded-For", peer)
   else
      msg:set_header("X-Forwarded-For", joined(msg, "X-Forwarded-For", peer))
   end
   if not trusted or not msg:header "X-Forwarded-Proto" then msg:set_header("X-Forwarded-Proto", msg.scheme) end
   if not trusted or not msg:header "X-Forwarded-Host" then
      if msg.host then msg:set_header("X-Forwarded-Host", msg.host) else msg:remove_header "X-Forwarded-Host" end
   end
end

-- RFC 7239 4 and 6: IPv6 addresses and hosts with a port are quoted.
local function forwarded(msg, trusted)
   local peer = msg.peer or "unknown"
   local node = peer:find(":", 1, true) and ('"[%s]"'):format(peer) or peer
   local element = ("for=%s;proto=%s"):format(node, msg.scheme)
   if msg.host then element = ('%s;host="%s"'):format(element, msg.host) end
   msg:set_header("Forwarded", trusted and joined(msg, "Forwarded", element) or element)
end

-- RFC 9110 7.6.3.
local function via(msg, name)
   msg:set_header("Via", joined(msg, "Via", (msg.version == "HTTP/1.0" and "1.0 " or "1.1 ") .. name))
end

--- Edit headers of requests and responses. Parameters: headers.md.
return tw.nf("headers", function(cfg)
   cfg = tw.args("headers", cfg, PARAMS)
   local request, response = edits(cfg, ""), edits(cfg, "response_")
   local mode, name, trusts = cfg.forwarded or false, cfg.via, clients.among("headers: trusted", cfg.trusted)
   if mode and mode ~= true and mode ~= "rfc7239" then
      error(("headers: forwarded is %s; it can be true or \"rfc7239\""):format(tostring(mode)), 0)
   end
   if not name:find "^[%w!#$%%&'*+.^_`|~:-]+$" then
      error(("headers: via is %q; it must be a name, without spaces (RFC 9110 7.6.3)"):format(name), 0)
   end
   if not (mode or any(request) or any(response)) then error("headers: there is nothing to do", 0) end

   return {
      message = (mode or any(request)) and function(msg)
         if msg.kind ~= "request" then return end
         if mode then
            local trusted = trusts(msg.peer)
            if mode == "rfc7239" then forwarded(msg, trusted) else x_forwarded(msg, trusted) end
            via(msg, name)
         end
         apply(msg, request)
      end or nil,
      response = (mode or any(response)) and function(msg)
         if mode then via(msg, name) end
         apply(msg, response)
      end or nil,
      on_fault = "fail",
   }
end, { pure = true })
