-- SPDX-License-Identifier: BSD-3-Clause
-- Which addresses are external ones of the NAT, and which are inside.

local tw = require "tideway"

local M = { RANGES_MAX = 8 }

-- Addresses that follow one another need no table: the difference is the index.
local function contiguous(list)
   for i = 2, #list do
      if list[i] ~= list[1] + i - 1 then return false end
   end
   return true
end

-- Prefixes as ranges in order, those that overlap or adjoin as one.
local function ranges(first, last)
   local order, list = {}, {}
   for i = 1, #first do order[i] = i end
   table.sort(order, function(i, j) return first[i] < first[j] end)
   for _, i in ipairs(order) do
      local top = list[#list]
      if top and first[i] <= top[2] + 1 then
         top[2] = math.max(top[2], last[i])
      else
         list[#list + 1] = { first[i], last[i] }
      end
   end
   return list
end

-- Written out, since a loop inside the loop over packets would cost LuaJIT the trace through it.
local function range_test(list)
   if #list > M.RANGES_MAX then
      error(("napt44: inside makes %d ranges of addresses; write prefixes that make at most %d"):format(#list,
         M.RANGES_MAX), 0)
   end
   local f, l = {}, {}
   for i = 1, M.RANGES_MAX do
      f[i], l[i] = 2 ^ 32, 0 -- nothing
      if list[i] then f[i], l[i] = list[i][1], list[i][2] end
   end
   local f1, f2, f3, f4, f5, f6, f7, f8 = unpack(f)
   local l1, l2, l3, l4, l5, l6, l7, l8 = unpack(l)
   return function(a)
      return (a >= f1 and a <= l1) or (a >= f2 and a <= l2) or (a >= f3 and a <= l3) or (a >= f4 and a <= l4)
         or (a >= f5 and a <= l5) or (a >= f6 and a <= l6) or (a >= f7 and a <= l7) or (a >= f8 and a <= l8)
   end
end

--- The functions for one configuration.
---@param c table from config.check
---@param name string prefix of table names
---@return table a pool_of(addr): index of an external address, -1 for others; is_inside(addr)
function M.new(c, name)
   local base, count = c.address[1], #c.address
   local in_range = range_test(ranges(c.first, c.last))
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

   return {
      pool_of = pool_of,
      is_inside = function(addr) return in_range(addr) and pool_of(addr) < 0 end,
   }
end

return M
