-- SPDX-License-Identifier: BSD-3-Clause
-- Figures of all tables in the shared counters, for top and metrics.

local ffi = require "ffi"
local abi = require "tideway.abi"
local tables = require "tideway.table"

local C = abi.C
local M = {}

local function copy(field, text) ffi.copy(field, text:sub(1, ffi.sizeof(field) - 1)) end

--- Bring them up to date.
function M.refresh()
   local stats, list = C.tw_stats(), tables.tables()
   local shown = math.min(#list, C.TW_TABLES_SHOWN)
   for i = 1, shown do
      local from, to = list[i], stats.table[i - 1]
      copy(to.name, from.name)
      copy(to.kind, from.kind)
      to.count, to.capacity, to.full = from.count, from.capacity, from.full
      to.evictions, to.expired, to.bytes = from.evictions, from.expired, from.bytes
   end
   stats.tables, stats.tables_hidden = shown, #list - shown
end

return M
