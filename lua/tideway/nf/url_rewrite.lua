-- SPDX-License-Identifier: BSD-3-Clause
-- url_rewrite: changes paths of requests by rules, or redirects; see url_rewrite.md.

local tw = require "tideway"

local PARAMS = {
   rules = { type = "table", required = true, doc = "a list: { \"^/old/(.*)$\", \"/new/%1\" } or { prefix =, to = }" },
}

-- RFC 9110 15.4: 303 asks for GET, 307 and 308 keep the method.
local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
local KEYS = { prefix = true, exact = true, to = true, redirect = true, host = true, method = true, go_on = true }

local function wrong(i, text) error(("url_rewrite: rule %d: %s"):format(i, text), 0) end

-- Where a set ends: behind its "]", nil: it does not.
local function behind_set(pattern, i)
   i = i + (pattern:sub(i + 1, i + 1) == "^" and 2 or 1)
   local first = true
   while i <= #pattern do
      local c = pattern:sub(i, i)
      if c == "]" and not first then return i + 1 end
      i, first = i + (c == "%" and 2 or 1), false
   end
end

-- What is wrong with a pattern as such. Lua itself only says so when a text gets it that far.
local function mistake(pattern)
   local i, open = 1, 0
   while i and i <= #pattern do
      local c = pattern:sub(i, i)
      if c == "%" then
         if i == #pattern then return "it ends with %" end
         i = i + 2
      elseif c == "[" then
         i = behind_set(pattern, i)
      else
         if c == "(" then open = open + 1 elseif c == ")" then open = open - 1 end
         if open < 0 then return "a ) without its (" end
         i = i + 1
      end
   end
   return not i and "a [ without its ]" or open > 0 and "a ( without its )" or nil
end

local function check_pattern(i, pattern)
   local text = mistake(pattern)
   if text then wrong(i, ("the pattern %q has a mistake: %s"):format(pattern, text)) end
end

-- A pattern whose replacement names captures that it has not got is found out here, not by a request.
local function check_captures(i, pattern, to)
   local captures = select(2, pattern:gsub("%%.", ""):gsub("%(", ""))
   for digit in to:gsub("%%%%", ""):gmatch "%%(%d)" do
      if tonumber(digit) > math.max(captures, 1) then
         wrong(i, ("%q names %%%s, and %q has %d captures"):format(to, digit, pattern, captures))
      end
   end
end

local function check_rule(i, given)
   if type(given) ~= "table" then wrong(i, "it must be a table, not " .. type(given)) end
   for key in pairs(given) do
      if key ~= 1 and key ~= 2 and not KEYS[key] then
         wrong(i, ("there is no %q; there are: prefix, exact, to, redirect, host, method, go_on"):format(tostring(key)))
      end
   end
   local ways = (given[1] and 1 or 0) + (given.prefix and 1 or 0) + (given.exact and 1 or 0)
   if ways ~= 1 then wrong(i, "give a pattern as the first value, or prefix, or exact: one of them") end
   local to = given.to or given[2]
   if type(to) ~= "string" or to == "" then wrong(i, "to (or the second value) must be a string") end
   for _, key in ipairs { 1, "prefix", "exact", "host", "method" } do
      if given[key] ~= nil and type(given[key]) ~= "string" then
         wrong(i, ("%s must be a string, not %s"):format(tostring(key), type(given[key])))
      end
   end
   if given.redirect ~= nil and not REDIRECTS[given.redirect] then
      wrong(i, ("redirect is %s; it can be 301, 302, 303, 307 or 308"):format(tostring(given.redirect)))
   end
   if not given.redirect and to:sub(1, 1) ~= "/" then wrong(i, ("%q must begin with /"):format(to)) end
   if given[1] then
      check_pattern(i, given[1])
      check_captures(i, given[1], to)
   end
   return to
end

local function compile(i, given)
   local to = check_rule(i, given)
   return {
      pattern = given[1] or false, prefix = given.prefix or false, exact = given.exact or false, to = to,
      redirect = given.redirect or false, host = given.host and given.host:lower() or false,
      method = given.method or false, go_on = given.go_on == true,
   }
end

local function new_path(rule, path)
   if rule.prefix then
      if path:sub(1, #rule.prefix) ~= rule.prefix then return nil end
      return rule.to .. path:sub(#rule.prefix + 1)
   elseif rule.exact then
      return path == rule.exact and rule.to or nil
   end
   local text, n = path:gsub(rule.pattern, rule.to, 1)
   return n > 0 and text or nil
end

-- What stands before the port.
local function name_of(host)
   host = (host or ""):lower()
   return host:match "^%[.*%]" or host:match "^[^:]*"
end

local function applies(rule, msg)
   if rule.method and msg.method ~= rule.method then return false end
   return not rule.host or name_of(msg.host) == rule.host
end

-- The rule's own query goes before the request's.
local function with_query(text, query)
   if not query then return text end
   return text .. (text:find("?", 1, true) and "&" or "?") .. query
end

local function redirect(msg, rule, path)
   -- "//host/" would be a reference to another host (RFC 3986 4.2).
   if path:sub(1, 1) == "/" then path = path:gsub("^/+", "/") end
   return msg:respond(rule.redirect, { Location = with_query(path, msg.query) })
end

--- Rewrite paths by rules, or redirect. Parameters: url_rewrite.md.
return tw.nf("url_rewrite", function(cfg)
   cfg = tw.args("url_rewrite", cfg, PARAMS)
   local rules = {}
   for i, given in ipairs(cfg.rules) do rules[i] = compile(i, given) end
   if #rules == 0 then error("url_rewrite: rules is empty", 0) end

   return {
      message = function(msg)
         if msg.kind ~= "request" then return end
         for i = 1, #rules do
            local rule = rules[i]
            local path = applies(rule, msg) and new_path(rule, msg.path)
            if path then
               if rule.redirect then return redirect(msg, rule, path) end
               msg.target = with_query(path, msg.query)
               if not rule.go_on then return end
            end
         end
      end,
      on_fault = "fail",
   }
end, { pure = true })
