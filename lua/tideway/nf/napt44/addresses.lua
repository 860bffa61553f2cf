-- SPDX-License-Identifier: BSD-3-Clause
-- Which addresses are external ones of the NAT, and which are inside.

local tw = require "tideway"

local M = {}

-- Addresses that follow one another need no table: the difference is the index.
local function contiguous(list)
   for i = 2, #list do
      if list[i] ~= list[1] + i - 1 then return false end
   end
   return true
end

--- The functions for one configuration.
---@param c table from config.check
---@param name string prefix of table names
---@return table a pool_of(addr): index of an external address, -1 for others; is_inside(addr)
function M.new(c, name)
   local base, count = c.address[1], #c.address
   local first, last, prefixes = c.first, c.last, #c.first
   local first_1, last_1 = first[1], last[1]
   local pool_of
   if contiguous(c.address) then
      function pool_of(addr)
         if addr >= base and addr < base + count then return addr - base end
         return -1
      end
   else
      local index = tw.hash { name = name .. ".addresses", key = "u32", value = "u32", entries = math.max(8, count) }
      for i, addr in ipairs(c.address) do assert(index:set(addr, i - 1)) end
      function pool_of(addr) return index:get(addr) or -1 end
   end

   local function is_inside(addr)
      if pool_of(addr) >= 0 then return false end
      if addr >= first_1 and addr <= last_1 then return true end
      for i = 2, prefixes do
         if addr >= first[i] and addr <= last[i] then return true end
      end
      return false
   end

   return { pool_of = pool_of, is_inside = is_inside }
end

return M
