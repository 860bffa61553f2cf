-- SPDX-License-Identifier: BSD-3-Clause
-- Basic authentication (RFC 7617) against a table of users and password hashes.

local bit = require "bit"
local sha256 = require "tideway.nf.access.sha256"

local M = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local VALUE = {}
for i = 1, 64 do VALUE[ALPHABET:byte(i)] = i - 1 end

--- Decode base64 (RFC 4648 4), padding optional.
---@param text string
---@return string? nil: it is none
function M.base64(text)
   text = text:gsub("=+$", "")
   if #text % 4 == 1 then return nil end
   local out, acc, n = {}, 0, 0
   for i = 1, #text do
      local value = VALUE[text:byte(i)]
      if not value then return nil end
      acc, n = acc * 64 + value, n + 6
      if n >= 8 then
         n = n - 8
         local unit = 2 ^ n
         local byte = math.floor(acc / unit)
         out[#out + 1] = string.char(byte)
         acc = acc - byte * unit
      end
   end
   return table.concat(out)
end

-- As long for texts that differ early as for those that differ late. Both have 64 digits.
local function same(a, b)
   local difference = 0
   for i = 1, 64 do difference = bit.bor(difference, bit.bxor(a:byte(i), b:byte(i))) end
   return difference == 0
end

-- "{SHA256}hex" or "{SHA256}salt$hex": the digest of salt .. password.
local function parse(user, text)
   local rest = type(text) == "string" and text:match "^{SHA256}(.*)$"
   local salt, hex = "", rest or ""
   if hex:find("$", 1, true) then salt, hex = hex:match "^(.-)%$(.*)$" end
   hex = hex:lower()
   if not hex:find "^%x+$" or #hex ~= 64 then
      error(("access: basic: the password of %q must be \"{SHA256}\" and 64 hexadecimal digits, or \"{SHA256}SALT$\" "
         .. "and the digest of salt and password; printf %%s PASSWORD | sha256sum makes the digits"):format(user), 0)
   end
   return { salt = salt, hex = hex }
end

-- Those that do not exist cost as much as those that do.
local NOBODY = { salt = "", hex = ("0"):rep(64) }
local KNOWN_MAX = 1024

--- A check of the Authorization header.
---@param given { realm: string?, users: table<string, string> }
---@return fun(header: string?): string? user nil: not this one
---@return string challenge for WWW-Authenticate (RFC 7617 2)
function M.new(given)
   if type(given) ~= "table" or type(given.users) ~= "table" or next(given.users) == nil then
      error("access: basic wants users = { name = \"{SHA256}...\" }", 0)
   end
   local realm = given.realm or "restricted"
   if type(realm) ~= "string" or realm:find '[%c"\\]' then
      error("access: basic: realm is text without quotes and control characters", 0)
   end
   local users = {}
   for user, text in pairs(given.users) do
      if type(user) ~= "string" or user:find ":" then
         error(("access: basic: %q cannot be a user's name: a string without a colon (RFC 7617 2)")
            :format(tostring(user)), 0)
      end
      users[user] = parse(user, text)
   end
   -- Headers that were right: the digest is made once, not for every request.
   local right, n_right = {}, 0
   local function check(header)
      if not header then return nil end
      local user = right[header]
      if user then return user end
      local scheme, text = header:match "^(%a+) +([%w+/]+=*)$"
      if not scheme or scheme:lower() ~= "basic" or #text > 1024 then return nil end
      local password
      user, password = (M.base64(text) or ""):match "^([^:]*):(.*)$"
      if not user then return nil end
      local entry = users[user]
      local is = same(sha256.hex((entry or NOBODY).salt .. password), (entry or NOBODY).hex)
      if not entry or not is then return nil end
      if n_right >= KNOWN_MAX then right, n_right = {}, 0 end
      right[header], n_right = user, n_right + 1
      return user
   end
   return check, ('Basic realm="%s", charset="UTF-8"'):format(realm)
end

return M
