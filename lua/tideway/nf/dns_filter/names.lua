-- SPDX-License-Identifier: BSD-3-Clause
-- Sets of domain names: single ones and whole domains, asked in as many steps as a name has labels, however many there
-- are in the set.

local M = {}

--- Check a name, or "*." and a name.
---@param text any
---@return string? name lower case, without the dot at its end
---@return boolean|string below all names below it are meant, or what is wrong
function M.parse(text)
   if type(text) ~= "string" then return nil, ("a name is a string, not %s"):format(type(text)) end
   local name = text:lower():gsub("%.$", "")
   local below = name:sub(1, 2) == "*."
   if below then name = name:sub(3) end
   if name == "" or #name > 253 then return nil, ("%q is not a name"):format(text) end
   for label in (name .. "."):gmatch "(.-)%." do
      if #label == 0 or #label > 63 or not label:find "^[%w_-]+$" then
         return nil, ("%q is not a name: %q cannot be a label"):format(text, label)
      end
   end
   return name, below
end

--- An empty set.
function M.set() return { names = {}, below = {}, count = 0 } end

--- Add a name that parse() gave.
function M.add(set, name, below)
   local to = below and set.below or set.names
   if not to[name] then
      to[name] = true
      set.count = set.count + 1
   end
end

--- Is the name in the set, or below a domain that is?
---@param set table
---@param name string lower case
---@return boolean
function M.has(set, name)
   if set.names[name] then return true end
   local below, at = set.below, name:find(".", 1, true)
   while at do
      if below[name:sub(at + 1)] then return true end
      at = name:find(".", at + 1, true)
   end
   return false
end

-- Names of this machine that lists in the format of /etc/hosts begin with.
local LOCAL = {
   localhost = true, ["localhost.localdomain"] = true, ["local"] = true, broadcasthost = true, ["ip6-localhost"] = true,
   ["ip6-loopback"] = true, ["ip6-localnet"] = true, ["ip6-mcastprefix"] = true, ["ip6-allnodes"] = true,
   ["ip6-allrouters"] = true, ["ip6-allhosts"] = true,
}

--- Add the names of a file: one a line, or as in /etc/hosts an address and names; # begins a comment.
---@param set table
---@param path string
---@return integer? count
---@return string? err
function M.load(set, path)
   local file, err = io.open(path)
   if not file then return nil, err end
   local line_number, before = 0, set.count
   for line in file:lines() do
      line_number = line_number + 1
      local words = {}
      for one in line:gsub("#.*", ""):gmatch "%S+" do words[#words + 1] = one end
      local first = #words > 1 and (words[1]:find "^[%d.]+$" or words[1]:find ":") and 2 or 1
      for i = first, #words do
         local name, below = M.parse(words[i])
         if not name then
            file:close()
            return nil, ("%s:%d: %s"):format(path, line_number, below)
         end
         if first == 1 or (not LOCAL[name] and name ~= "0.0.0.0") then M.add(set, name, below) end
      end
   end
   file:close()
   return set.count - before
end

return M
