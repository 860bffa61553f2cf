-- SPDX-License-Identifier: BSD-3-Clause
-- Is a client's address in a list of prefixes? For access, headers and l4_proxy.

local tw = require "tideway"

local M = {}

local KNOWN_MAX = 4096 -- addresses whose answer is remembered

-- IPv4 addresses that a PROXY header gives as IPv6 ones (RFC 4291 2.5.5.2) are IPv4.
local function address_of(peer)
   local v4 = peer:match "^::ffff:([%d.]+)$" or (not peer:find(":", 1, true) and peer)
   return v4 and tw.ip4(v4) or tw.ip6(peer)
end

local function inside(prefixes, address)
   for i = 1, #prefixes do
      if prefixes[i]:contains(address) then return true end
   end
   return false
end

--- A question whether an address is in a list. Raises which prefix of it is none.
---@param what string parameter and NF, for the error: "access: allow"
---@param list string[]
---@return fun(peer: string?): boolean is_in no address is in no list
function M.among(what, list)
   local prefixes = {}
   for i, text in ipairs(list) do
      local ok, prefix = pcall(tw.prefix, text)
      if not ok then error(("%s[%d]: %s"):format(what, i, (tostring(prefix):gsub("^.-:%d+: ", ""))), 0) end
      prefixes[i] = prefix
   end
   local known, n = {}, 0
   return function(peer)
      if #prefixes == 0 or not peer then return false end
      local is_in = known[peer]
      if is_in ~= nil then return is_in end
      if n >= KNOWN_MAX then known, n = {}, 0 end
      is_in = inside(prefixes, address_of(peer))
      known[peer], n = is_in, n + 1
      return is_in
   end
end

return M
