-- SPDX-License-Identifier: BSD-3-Clause
-- What a cache keeps of a response, as one string: numbers, then the headers, line by line. The body is kept beside it.

local M = {}

--- A response that is kept.
---@class tideway.nf.cache.entry
---@field status integer
---@field born number seconds since 1970: when its age was 0
---@field lifetime number seconds
---@field cache_control string all fields, joined by ", "
---@field etag string
---@field modified string Last-Modified
---@field vary string
---@field body string name of the body in the store
---@field size integer bytes of the body
---@field headers string[][] { name, value }

local FIELDS = { "status", "born", "lifetime", "cache_control", "etag", "modified", "vary", "body", "size" }
local NUMBERS = { status = true, born = true, lifetime = true, size = true }

--- Headers' names and values have neither line ends nor control characters, the gate has looked.
---@param entry tideway.nf.cache.entry
---@return string
function M.pack(entry)
   local lines = {}
   for i, field in ipairs(FIELDS) do
      local value = entry[field]
      lines[i] = NUMBERS[field] and ("%.14g"):format(value) or value
   end
   for _, header in ipairs(entry.headers) do lines[#lines + 1] = header[1] .. ":" .. header[2] end
   return table.concat(lines, "\n") .. "\n"
end

--- The other way; nil: it is none (another version's, or damaged).
---@param text string
---@return tideway.nf.cache.entry?
function M.unpack(text)
   local entry, at = { headers = {} }, 1
   for _, field in ipairs(FIELDS) do
      local value, after = text:match("^([^\n]*)\n()", at)
      if not value then return nil end
      if NUMBERS[field] then
         value = tonumber(value)
         if not value then return nil end
      end
      entry[field], at = value, after
   end
   for name, value in text:sub(at):gmatch "([^:\n]+):([^\n]*)\n" do
      entry.headers[#entry.headers + 1] = { name, value }
   end
   return entry
end

return M
