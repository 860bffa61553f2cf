-- SPDX-License-Identifier: BSD-3-Clause
-- access: who may ask for what: by address, method, user and path; see access.md.

local tw = require "tideway"
local basic = require "tideway.nf.access.basic"
local clients = require "tideway.nf.access.clients"

local RULE = {
   allow = { type = "table", doc = "prefixes; all others are refused" },
   deny = { type = "table", doc = "prefixes that are refused" },
   methods = { type = "table", doc = "methods that are allowed" },
   basic = { type = "table", doc = "{ realm =, users = { name = \"{SHA256}...\" } }" },
}
local PARAMS = {
   paths = { type = "table", default = {}, doc = "a list of { prefix =, allow =, ... }, instead of what stands here" },
   user_header = { type = "string", doc = "header that tells the server the user; the client's own is removed" },
}
for name, spec in pairs(RULE) do PARAMS[name] = spec end

-- May this address?
local function address_rule(cfg)
   if not cfg.allow and not cfg.deny then return false end
   local denied = clients.among("access: deny", cfg.deny or {})
   local allowed = cfg.allow and clients.among("access: allow", cfg.allow)
   return function(peer) return peer ~= nil and not denied(peer) and (not allowed or allowed(peer)) end
end

-- ---- methods ----

local function method_rule(list)
   if not list then return false, "" end
   local set, names = {}, {}
   for i, name in ipairs(list) do
      if type(name) ~= "string" or not name:find "^%u+$" then
         error(("access: methods: %s is not a method; they are written in capitals (RFC 9110 9.1)")
            :format(tostring(name)), 0)
      end
      set[name], names[i] = true, name
   end
   -- A server that answers GET answers HEAD (RFC 9110 9.1).
   if set.GET and not set.HEAD then
      set.HEAD = true
      names[#names + 1] = "HEAD"
   end
   return set, table.concat(names, ", ")
end

local function compile(cfg)
   local rule = { may = address_rule(cfg), check = false, challenge = "" }
   rule.methods, rule.method_list = method_rule(cfg.methods)
   if cfg.basic then rule.check, rule.challenge = basic.new(cfg.basic) end
   return rule
end

local function compile_path(i, given)
   if type(given) ~= "table" or type(given.prefix) ~= "string" or given.prefix:sub(1, 1) ~= "/" then
      error(("access: paths[%d] must be { prefix = \"/...\", ... }"):format(i), 0)
   end
   local own = {}
   for key, value in pairs(given) do
      if key ~= "prefix" then own[key] = value end
   end
   local rule = compile(tw.args("access: paths[" .. i .. "]", own, RULE))
   rule.prefix = given.prefix
   return rule
end

-- ---- requests ----

local TEXT = { ["Content-Type"] = "text/plain; charset=utf-8" }

local function judge(msg, rule)
   if rule.may and not rule.may(msg.peer) then return 403, TEXT, "403 Forbidden\n" end
   if rule.methods and not rule.methods[msg.method] then
      return 405, { Allow = rule.method_list, ["Content-Type"] = TEXT["Content-Type"] }, "405 Method Not Allowed\n"
   end
   if not rule.check then return nil end
   local user = rule.check(msg:header "Authorization")
   if user then return nil, user end
   return 401, { ["WWW-Authenticate"] = rule.challenge, ["Content-Type"] = TEXT["Content-Type"] }, "401 Unauthorized\n"
end

local function rule_for(paths, own, msg)
   if #paths == 0 then return own end
   local path = msg.plain_path
   for i = 1, #paths do
      local prefix = paths[i].prefix
      if path:sub(1, #prefix) == prefix then return paths[i] end
   end
   return own
end

--- Refuse requests by address (403), method (405) and user (401, RFC 7617). Parameters: access.md.
return tw.nf("access", function(cfg)
   cfg = tw.args("access", cfg, PARAMS)
   local own, paths, user_header = compile(cfg), {}, cfg.user_header or false
   for i, given in ipairs(cfg.paths) do paths[i] = compile_path(i, given) end
   if not (own.may or own.methods or own.check or #paths > 0) then
      error("access: there is nothing to do: give allow, deny, methods, basic or paths", 0)
   end

   return {
      message = function(msg)
         local kind = msg.kind
         if kind ~= "request" then
            if own.may and not own.may(msg.peer) then return msg:drop "address refused" end
            return
         end
         local status, second, text = judge(msg, rule_for(paths, own, msg))
         if status then return msg:respond(status, second, text) end
         if user_header then
            if second then msg:set_header(user_header, second) else msg:remove_header(user_header) end
         end
      end,
      on_fault = "fail",
   }
end, { pure = true })
