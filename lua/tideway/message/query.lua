-- SPDX-License-Identifier: BSD-3-Clause
-- Queries of targets: names and values as HTML forms write them (WHATWG URL 5.1), and percent-encoding (RFC 3986 2.1).

local M = {}

local ARGS_MAX = 256

local function byte(hex) return string.char(tonumber(hex, 16)) end

--- Text with its percent-encoded bytes decoded. What is no such byte stays as it is.
---@param text string
---@return string
function M.decode(text)
   if not text:find("%", 1, true) then return text end
   return (text:gsub("%%(%x%x)", byte))
end

local function encode_byte(c) return ("%%%02X"):format(c:byte()) end

--- Text as it can stand in a path segment or a query value: all but unreserved characters encoded.
---@param text string
---@return string
function M.encode(text) return (text:gsub("[^%w%-._~]", encode_byte)) end

--- A path as rules should look at it: percent-encoding decoded once, "//" as "/", dot segments resolved (RFC 3986
--- 5.2.4). Servers behind may see more in a path than that, but not less.
---@param path string
---@return string
function M.plain_path(path)
   path = M.decode(path)
   if not path:find("/.", 1, true) and not path:find("//", 1, true) then return path end
   local list, last = {}, ""
   for segment in path:gmatch "[^/]+" do
      last = segment
      if segment == ".." then list[#list] = nil elseif segment ~= "." then list[#list + 1] = segment end
   end
   local directory = path:sub(-1) == "/" or last == "." or last == ".."
   local text = "/" .. table.concat(list, "/")
   return directory and #list > 0 and text .. "/" or text
end

local function plain(text)
   if text:find("+", 1, true) then text = text:gsub("%+", " ") end
   return M.decode(text)
end

--- Parse "a=1&b=x%20y". The first value of a name counts; a name without "=" has the value "". What stands behind the
--- 256th is left out.
---@param query string?
---@return table<string, string>
function M.parse(query)
   local args, n = {}, 0
   if not query then return args end
   for pair in query:gmatch "[^&]+" do
      n = n + 1
      if n > ARGS_MAX then break end
      local name, value = pair:match "^([^=]*)=(.*)$"
      name = plain(name or pair)
      if args[name] == nil then args[name] = plain(value or "") end
   end
   return args
end

return M
