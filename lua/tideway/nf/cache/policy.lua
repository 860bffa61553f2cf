-- SPDX-License-Identifier: BSD-3-Clause
-- What a shared cache may keep, for how long, and when it may answer with it: RFC 9111, and RFC 5861 for stale ones.
-- Knows headers as texts; no messages, no store.

local date = require "tideway.nf.cache.date"

local M = {}

-- Status codes that may be kept without a word of the server on it (RFC 9110, 15.1); 206 needs ranges, which this
-- cache does not keep.
local HEURISTIC = { [200] = true, [203] = true, [204] = true, [300] = true, [301] = true, [308] = true, [404] = true,
   [405] = true, [410] = true, [414] = true, [501] = true }
-- Those whose meaning for caches this one understands.
local UNDERSTOOD = { [302] = true, [303] = true, [307] = true }
for status in pairs(HEURISTIC) do UNDERSTOOD[status] = true end

local HEURISTIC_PART, HEURISTIC_MOST = 0.1, 86400 -- of the time since it was changed last; RFC 9111, 4.2.2
local MOST = 2 ^ 31 -- seconds, 1.2.2

local SECONDS = { ["max-age"] = true, ["s-maxage"] = true, ["max-stale"] = true, ["min-fresh"] = true,
   ["stale-while-revalidate"] = true, ["stale-if-error"] = true }

--- Directives of Cache-Control: name in lower case -> value, or true. What cannot be read as a number of seconds where
--- one is wanted counts as 0, which is the careful reading.
---@param values string[] of all its fields
---@return table<string, number|string|boolean>
function M.directives(values)
   local list = {}
   for _, text in ipairs(values) do
      local at = 1
      while at <= #text do
         local name, after = text:match("^[%s,]*([%w!#$%%&'*+%-.^_`|~]+)()", at)
         if not name then break end
         local value, rest = text:match('^="([^"]*)"()', after)
         if not value then value, rest = text:match("^=([^%s,]*)()", after) end
         name = name:lower()
         if SECONDS[name] then
            value = tonumber((value or ""):match "^%d+$") or (value and 0)
            if value then value = math.min(value, MOST) end
         end
         -- The same one twice: the smaller, RFC 9111 4.2.1.
         local before = list[name]
         if type(before) == "number" and type(value) == "number" then value = math.min(before, value) end
         list[name] = value or true
         at = rest or after
         at = text:match("^[^,]*()", at)
      end
   end
   return list
end

--- How long a response is fresh, in seconds from its birth; RFC 9111, 4.2.1.
---@param response { status: integer, date: number, expires: string?, last_modified: string? } date: seconds since 1970
---@param control table directives of the response
---@return number seconds
function M.lifetime(response, control)
   if type(control["s-maxage"]) == "number" then return control["s-maxage"] end
   if type(control["max-age"]) == "number" then return control["max-age"] end
   if response.expires then
      local expires = date.parse(response.expires)
      return expires and math.max(0, expires - response.date) or 0
   end
   if not HEURISTIC[response.status] and not control.public then return 0 end
   local modified = date.parse(response.last_modified)
   if not modified or modified > response.date then return 0 end
   return math.min((response.date - modified) * HEURISTIC_PART, HEURISTIC_MOST)
end

--- May a shared cache keep it? RFC 9111, 3.
---@param request { method: string, authorization: boolean, control: table, range: boolean }
---@param response { status: integer, control: table, vary: string?, set_cookie: boolean, validator: boolean,
---  lifetime: number }
---@return boolean
---@return string? why not
function M.storable(request, response)
   local asked, control = request.control, response.control
   if request.method ~= "GET" then return false, "method" end
   if request.range or response.status == 206 then return false, "range" end
   if not UNDERSTOOD[response.status] then return false, "status" end
   if asked["no-store"] or control["no-store"] then return false, "no-store" end
   if control.private then return false, "private" end
   if response.vary and response.vary:find "%*" then return false, "vary" end
   if request.authorization and not (control.public or control["s-maxage"] or control["must-revalidate"]) then
      return false, "authorization"
   end
   if response.set_cookie and not control.public then return false, "set-cookie" end
   local said = control.public or control["max-age"] or control["s-maxage"] or response.expires
   if not said and not HEURISTIC[response.status] then return false, "status" end
   -- What is never fresh and cannot be asked about is no use.
   if response.lifetime <= 0 and not response.validator then return false, "not fresh" end
   return true
end

--- Age when it came: RFC 9111, 4.2.3.
---@param age string? field of the response
---@param response_date number seconds since 1970
---@param asked number when the request was sent, seconds since 1970
---@param came number when the response came
---@return number seconds
function M.initial_age(age, response_date, asked, came)
   local apparent = math.max(0, came - response_date)
   local value = tonumber((age or ""):match "^%d+$") or 0
   return math.max(apparent, math.min(value, MOST) + (came - asked))
end

--- May a kept response answer this request?
---@param entry { lifetime: number, control: table }
---@param age number seconds, now
---@param asked table directives of the request
---@return "fresh"|"stale"|"revalidate" answer fresh: yes; stale: yes, though it is not fresh, and it is to be asked
---  about meanwhile; revalidate: not before the server was asked
function M.usable(entry, age, asked)
   local control, left = entry.control, entry.lifetime - age
   if asked["no-cache"] or control["no-cache"] then return "revalidate" end
   if type(asked["max-age"]) == "number" and age > asked["max-age"] then return "revalidate" end
   if type(asked["min-fresh"]) == "number" then left = left - asked["min-fresh"] end
   if left > 0 then return "fresh" end
   if control["must-revalidate"] or control["proxy-revalidate"] or control["s-maxage"] then return "revalidate" end
   local stale = asked["max-stale"]
   if stale == true or type(stale) == "number" and -left <= stale then return "fresh" end
   local meanwhile = control["stale-while-revalidate"]
   if type(meanwhile) == "number" and -left <= meanwhile then return "stale" end
   return "revalidate"
end

--- May a kept response stand in for an error of the server? RFC 5861, 4.
---@param entry { lifetime: number, control: table }
---@param age number seconds, now
---@param asked table directives of the request
---@param default number seconds, where nobody says
---@return boolean
function M.stands_in(entry, age, asked, default)
   local control = entry.control
   if control["must-revalidate"] or control["proxy-revalidate"] or control["s-maxage"] or control["no-cache"] then
      return false
   end
   local window = control["stale-if-error"] or asked["stale-if-error"] or default
   return type(window) == "number" and age - entry.lifetime <= window
end

--- What of the request a response with this Vary was chosen by, as a text; RFC 9111, 4.1.
---@param vary string? "Accept-Encoding, Accept"
---@param header fun(name: string): string? of the request
---@return string
function M.variant(vary, header)
   if not vary or vary == "" then return "" end
   local parts = {}
   for name in vary:lower():gmatch "[^%s,]+" do
      local value = (header(name) or ""):gsub("%s+", " "):gsub("^ ", ""):gsub(" $", ""):gsub("%s*,%s*", ",")
      parts[#parts + 1] = name .. "=" .. value
   end
   table.sort(parts)
   return table.concat(parts, "\n")
end

-- An entity tag without its mark of weakness.
local function opaque(tag) return (tag:gsub("^W/", "")) end

--- Does the client have it already? RFC 9110, 13.1: If-None-Match, else If-Modified-Since.
---@param header fun(name: string): string? of the request
---@param etag string? of what is kept
---@param modified string? Last-Modified of what is kept
---@return boolean
function M.not_modified(header, etag, modified)
   local tags = header "if-none-match"
   if tags then
      if tags:match "^%s*%*%s*$" then return true end
      if not etag then return false end
      for tag in tags:gmatch '[W/]*"[^"]*"' do
         if opaque(tag) == opaque(etag) then return true end
      end
      return false
   end
   local asked = header "if-modified-since"
   if not asked then return false end
   local since, changed = date.parse(asked), date.parse(modified)
   return since ~= nil and changed ~= nil and changed <= since
end

return M
