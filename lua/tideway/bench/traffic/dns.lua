-- SPDX-License-Identifier: BSD-3-Clause
-- The question of a DNS query (RFC 1035 4.1.2).

local nearest = require "tideway.live.nearest"

local M = {}

local TYPES = {
   A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, MX = 15, TXT = 16, AAAA = 28, SRV = 33, DS = 43, DNSKEY = 48,
   SVCB = 64, HTTPS = 65, ANY = 255,
}

local function u16(n) return string.char(math.floor(n / 256), n % 256) end

-- "www.example.com" as labels with their lengths (RFC 1035 3.1).
local function labels(label, name)
   if type(name) ~= "string" or #name > 253 then
      error(("%s.name: %s is not a name of at most 253 characters such as \"www.example.com\""):format(label,
         tostring(name)), 0)
   end
   local list = {}
   for part in (name:gsub("%.$", "") .. "."):gmatch "(.-)%." do
      if #part > 63 or (part == "" and name ~= "." and name ~= "") then
         error(("%s.name: %q: a label has 1 to 63 characters, %q has %d"):format(label, name, part, #part), 0)
      end
      if part ~= "" then list[#list + 1] = string.char(#part) .. part end
   end
   return table.concat(list) .. "\0"
end

--- Bytes of a question in class IN.
---@param label string for messages
---@param name? string default "example.com"
---@param type? string|number "A" (default), "AAAA", ... or its number
---@return string
function M.question(label, name, type)
   local number = TYPES[type or "A"] or type
   if _G.type(number) ~= "number" or number % 1 ~= 0 or number < 0 or number > 65535 then
      local list = {}
      for known in pairs(TYPES) do list[#list + 1] = known end
      table.sort(list)
      error(("%s.type: there is no %q%s"):format(label, tostring(type), nearest.hint(tostring(type), list)), 0)
   end
   return labels(label, name or "example.com") .. u16(number) .. u16(1)
end

return M
