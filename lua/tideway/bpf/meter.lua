-- SPDX-License-Identifier: BSD-3-Clause
-- A meter whose state lies in a map: packet functions on hooks mark by it, and so does user space.

local abi = require "tideway.abi"
local library = require "tideway.compiler.hooklib.meter"
local type_lib = require "tideway.table.type"

local M = {}

local C = abi.C

--- The declaration of a meter's map.
---@param t tideway.Table
---@return table
function M.declaration(t)
   local name = t.name:gsub("[^%w_]", "_")
   return { kind = "array", name = name, entries = t.entries, value = library.value, lock = true }
end

local function store(map, i, entry)
   local list = {}
   for n, field in ipairs(map.value_type.fields) do list[n] = entry[field.name] end
   return map:set(i, unpack(list))
end

--- The meter's functions work on the map from now on; its buckets are full.
---@param t tideway.Table
---@param map tideway.bpf.Map
function M.redirect(t, map)
   for i = 0, t.entries - 1 do
      store(map, i, library.entry(t.rates and t.rates[i] or t.rates.all, tonumber(C.tw_now())))
   end
   local set_rate, parsed = t.rate, type_lib.parse(library.value)
   rawset(t, "rate", function(self, i, rate)
      set_rate(self, i, rate) -- says what is wrong with it
      store(map, i, library.entry(self.rates[i], tonumber(C.tw_now())))
   end)
   -- What a program marks between the two calls is not seen.
   rawset(t, "mark", function(_, i, length, color)
      local found = map:get(i)
      if not found then return C.TW_RED end
      local entry = parsed.ctype()
      for _, field in ipairs(parsed.fields) do entry[field.name] = found[field.name] end
      local result = library.mark(entry, length, color or 0, tonumber(C.tw_now()))
      store(map, i, entry)
      return result
   end)
   rawset(t, "map", map)
end

return M
