-- SPDX-License-Identifier: BSD-3-Clause
-- Figures of all tables in the shared counters, for top and metrics: those of the engine, and maps of the kernel.

local ffi = require "ffi"
local abi = require "tideway.abi"
local posix = require "tideway.posix"
local tables = require "tideway.table"

local C = abi.C
local M = {
   --- Entries of a map are counted by walking it: one map a call, each at most so often (ns), none larger than this.
   WALK_PERIOD = 2e9,
   WALK_MAX = 65536,
}

local function copy(field, text) ffi.copy(field, text:sub(1, ffi.sizeof(field) - 1)) end

local ALL = { array = true, percpu_array = true, counters = true, meter = true } -- kinds that are full always

-- map -> { count, at }
local counted = setmetatable({}, { __mode = "k" })

-- The maps that hooks use, by the name of their table.
local function maps_of(hooks)
   local list, oldest = {}, nil
   for _, hook in ipairs(hooks) do
      for t in pairs(hook:tables()) do
         local map = rawget(t, "map")
         if map and not t.internal then
            local known = counted[map] or { count = ALL[t.kind] and t.entries or 0, at = 0 }
            counted[map] = known
            list[t.name] = { name = t.name, kind = t.kind, capacity = t.entries, count = known.count }
            local walk = not ALL[t.kind] and not map.keyless and map.count and t.entries <= M.WALK_MAX
            if walk and (not oldest or known.at < counted[oldest].at) then oldest = map end
         end
      end
   end
   local now = posix.now()
   if oldest and now - counted[oldest].at > M.WALK_PERIOD then
      counted[oldest] = { count = oldest:count(), at = now }
   end
   return list
end

local function with_maps(list, maps)
   for i, t in ipairs(list) do
      list[i], maps[t.name] = maps[t.name] or t, nil
   end
   local names = {}
   for name in pairs(maps) do names[#names + 1] = name end
   table.sort(names)
   for _, name in ipairs(names) do list[#list + 1] = maps[name] end
   return list
end

--- Bring them up to date.
---@param hooks tideway.hook.chain[] the chains on hooks
function M.refresh(hooks)
   local stats, list = C.tw_stats(), with_maps(tables.tables(), maps_of(hooks))
   local shown = math.min(#list, C.TW_TABLES_SHOWN)
   for i = 1, shown do
      local from, to = list[i], stats.table[i - 1]
      copy(to.name, from.name)
      copy(to.kind, from.kind)
      to.count, to.capacity, to.full = from.count, from.capacity, from.full or 0
      to.evictions, to.expired, to.bytes = from.evictions or 0, from.expired or 0, from.bytes or 0
   end
   stats.tables, stats.tables_hidden = shown, #list - shown
end

return M
