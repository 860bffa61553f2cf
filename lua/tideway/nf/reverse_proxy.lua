-- SPDX-License-Identifier: BSD-3-Clause
-- reverse_proxy: which upstream group a request goes to, and what the servers see of it; see reverse_proxy.md.

local tw = require "tideway"

local ROUTE = {
   upstream = { type = "any", required = true, doc = "a tw.upstream, or its name" },
   host = { type = "string", doc = "Host that the servers see; default: the client's" },
   strip = { type = "string", doc = "taken off the beginning of the path: \"/api\"" },
   prefix = { type = "string", doc = "put in front of the path" },
   key = { type = "any", doc = "for balance = \"hash\": \"client\", \"host\", \"path\", \"header:NAME\", "
      .. "\"cookie:NAME\", or a function(msg)" },
}
local PARAMS = {
   routes = { type = "table", default = {}, doc = "a list of { path = or when_host =, upstream = ... }" },
   redirects = { type = "boolean", default = true, doc = "Location headers of the servers are made the client's" },
}
for name, spec in pairs(ROUTE) do PARAMS[name] = spec end
PARAMS.upstream = { type = "any", doc = ROUTE.upstream.doc }

local KEYS = {
   client = function(msg) return msg.peer end,
   host = function(msg) return msg.host end,
   path = function(msg) return msg.path end,
}

-- A cookie's value (RFC 6265 4.2.1).
local function cookie(msg, name)
   for _, line in ipairs(msg:headers_of "Cookie") do
      for found, value in line:gmatch "%s*([^=;]+)=([^;]*)" do
         if found == name then return value end
      end
   end
end

local function key_function(key)
   if key == nil then return false end
   if type(key) == "function" then return key end
   if type(key) == "string" then
      local kind, name = key:match "^(%w+):(.+)$"
      if kind == "header" then return function(msg) return msg:header(name) end end
      if kind == "cookie" then return function(msg) return cookie(msg, name) end end
      if KEYS[key] then return KEYS[key] end
   end
   error(("reverse_proxy: key is %s; it can be client, host, path, header:NAME, cookie:NAME or a function(msg)")
      :format(tostring(key)), 0)
end

local function check_path(name, value)
   if value ~= nil and (value:sub(1, 1) ~= "/" or value:find "[%s?#%c]") then
      error(("reverse_proxy: %s is %q; it must be a path that begins with /"):format(name, value), 0)
   end
   -- "/api/" and "/api" mean the same: what is left begins with a slash
   return value and value:gsub("/+$", "") or ""
end

local function target_of(cfg)
   if type(cfg.upstream) ~= "string" and type(cfg.upstream) ~= "table" then
      error(("reverse_proxy: upstream is %s; give a tw.upstream or its name"):format(tostring(cfg.upstream)), 0)
   end
   if cfg.host and cfg.host:find "[%s/%c]" then
      error(("reverse_proxy: host is %q; it must be a name, with a port if need be"):format(cfg.host), 0)
   end
   return {
      upstream = cfg.upstream, host = cfg.host or false, strip = check_path("strip", cfg.strip),
      prefix = check_path("prefix", cfg.prefix), key_of = key_function(cfg.key),
   }
end

local function route_of(i, given)
   if type(given) ~= "table" then error(("reverse_proxy: routes[%d] must be a table"):format(i), 0) end
   local own = {}
   for name, value in pairs(given) do own[name] = value end
   local path, name = own.path, own.when_host
   own.path, own.when_host = nil, nil
   local target = target_of(tw.args(("reverse_proxy: routes[%d]"):format(i), own, ROUTE))
   if path ~= nil and type(path) ~= "string" or name ~= nil and type(name) ~= "string" then
      error(("reverse_proxy: routes[%d]: path and when_host are strings"):format(i), 0)
   end
   if not path and not name then
      error(("reverse_proxy: routes[%d] needs path or when_host, to say what goes there"):format(i), 0)
   end
   target.path, target.when_host = path or false, name and name:lower() or false
   return target
end

-- ---- paths ----

-- At a segment's end: "/api" is the beginning of "/api" and "/api/x", not of "/apix".
local function begins(path, prefix)
   if path:sub(1, #prefix) ~= prefix then return false end
   local behind = path:byte(#prefix + 1)
   return prefix == "" or behind == nil or behind == 47 or prefix:byte(-1) == 47
end

-- With another beginning.
local function moved(path, from, to)
   if from ~= "" and begins(path, from) then
      path = path:sub(#from + 1)
      if path == "" then path = "/" end
   end
   return to .. path
end

local function server_path(target, path) return moved(path, target.strip, target.prefix) end
local function client_path(target, path) return moved(path, target.prefix, target.strip) end

local function name_of(host)
   host = (host or ""):lower()
   return host:match "^%[.*%]" or host:match "^[^:]*"
end

local function choose(routes, own, msg)
   for i = 1, #routes do
      local route = routes[i]
      if (not route.path or begins(msg.path, route.path)) and
         (not route.when_host or name_of(msg.host) == route.when_host) then return route end
   end
   return own
end

-- Servers that name themselves in a redirect (RFC 9110 10.2.2) name a place that clients do not reach.
local function mend_location(msg, target, kept)
   local location = msg:header "Location"
   if not location then return end
   local authority, path = location:match "^https?://([^/?#]*)(.*)$"
   if not authority then
      if location:sub(1, 1) == "/" and location:sub(1, 2) ~= "//" then
         local changed = client_path(target, location)
         if changed ~= location then msg:set_header("Location", changed) end
      end
   elseif target.host and authority:lower() == target.host:lower() and kept.host then
      if path == "" then path = "/" end
      msg:set_header("Location", ("%s://%s%s"):format(kept.scheme, kept.host, client_path(target, path)))
   end
end

local function changes(target) return target.host or target.strip ~= "" or target.prefix ~= "" end

--- Send requests to upstream groups. Parameters: reverse_proxy.md.
return tw.nf("reverse_proxy", function(cfg)
   cfg = tw.args("reverse_proxy", cfg, PARAMS)
   local routes = {}
   for i, given in ipairs(cfg.routes) do routes[i] = route_of(i, given) end
   local own = cfg.upstream ~= nil and target_of(cfg) or false
   if not own and #routes == 0 then error("reverse_proxy: upstream is missing", 0) end
   local mends, groups = own and changes(own), { own and own.upstream or nil }
   for _, route in ipairs(routes) do
      mends, groups[#groups + 1] = mends or changes(route), route.upstream
   end

   local function response(msg)
      local kept = msg.state
      if kept.target then mend_location(msg, kept.target, kept) end
   end

   return {
      message = function(msg)
         if msg.kind ~= "request" then
            return own and msg:upstream(own.upstream, own.key_of and own.key_of(msg) or nil) or nil
         end
         local target = choose(routes, own, msg)
         if not target then return end
         local key = target.key_of and target.key_of(msg) or nil
         if changes(target) then
            if cfg.redirects then
               local kept = msg.state
               kept.target, kept.host, kept.scheme = target, msg.host, msg.scheme
            end
            local path = server_path(target, msg.path)
            if path ~= msg.path then msg.path = path end
            if target.host then msg.host = target.host end
         end
         return msg:upstream(target.upstream, key)
      end,
      response = mends and cfg.redirects and response or nil,
      sticky = mends and cfg.redirects and "exchange" or nil,
      on_fault = "fail",
      upstreams = groups,
   }
end, { pure = true })
