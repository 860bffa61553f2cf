-- SPDX-License-Identifier: BSD-3-Clause
-- Watches on chains of lcores: core/watch.c as a source of tideway.live.watch.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

local RING_BYTES = 4 * 1024 * 1024
local NONE = C.TW_PORT_NONE

---@class tideway.live.watch_lcore
local Part = {}
Part.__index = Part

local function spec_of(wanted)
   local spec = ffi.new "struct tw_watch_spec"
   for _, chain in ipairs(wanted.chains) do
      spec.chains = bit.bor(spec.chains, bit.lshift(1, chain.index))
      spec.stages = bit.bor(spec.stages, chain.stages or 0)
   end
   spec.edges = wanted.edges
   spec.reason = wanted.reason and C.tw_reason_id(wanted.reason) or -1
   spec.in_port = wanted.in_port and wanted.in_port.index or NONE
   spec.out_port = wanted.out_port and wanted.out_port.index or NONE
   spec.snaplen, spec.sample, spec.ring_bytes = wanted.snaplen, wanted.sample, RING_BYTES
   spec.limit, spec["until"] = wanted.limit or 0, wanted.stop_at or 0
   spec.headers, spec.follow = wanted.headers and 1 or 0, wanted.follow and 1 or 0
   return spec
end

--- Watch chains on lcores.
---@param wanted tideway.live.watch.wanted
---@return tideway.live.watch_lcore? part
---@return string? error
function M.open(wanted)
   local watch = C.tw_watch_new(spec_of(wanted), wanted.filter or "")
   if watch == nil then return nil, abi.error() end
   watch = ffi.gc(watch, C.tw_watch_free)
   if C.tw_watch_start(watch) < 0 then return nil, abi.error() end
   return setmetatable({ watch = watch, totals = ffi.new "struct tw_watch_counts" }, Part)
end

--- The next record before a time.
---@param before ffi.cdata* uint64_t, ns as tw_now()
---@return ffi.cdata*? record const struct tw_watch_record *, until the next call
---@return ffi.cdata*? frame const uint8_t *
function Part:next(before)
   local record = C.tw_watch_next(self.watch, before)
   if record == nil then return nil end
   return record, ffi.cast("const uint8_t *", record + 1)
end

--- What it did so far.
---@return tideway.live.watch.counts
function Part:counts()
   local t = self.totals
   C.tw_watch_counts(self.watch, -1, t)
   local counts = {}
   for _, name in ipairs { "looked", "matched", "records", "packets", "missed", "chain_packets", "stepped" } do
      counts[name] = tonumber(t[name])
   end
   local ns = 1e9 / tonumber(C.tw_tsc_hz())
   counts.ns, counts.stepped_ns = tonumber(t.cycles) * ns, tonumber(t.stepped_cycles) * ns
   return counts
end

--- To be called now and then: lcores that are new are watched too.
---@return string? over why there is nothing to come
function Part:refresh()
   if C.tw_stats().running == 0 then return "the engine stopped" end
   C.tw_watch_refresh(self.watch)
end

--- Watch no more; what was recorded can still be read.
function Part:stop() C.tw_watch_stop(self.watch) end

--- Forget it.
function Part:close()
   if self.watch then C.tw_watch_free(ffi.gc(self.watch, nil)) end
   self.watch = nil
end

local function name_of(list, count, index)
   if index >= count then return nil end
   local name = ffi.string(list[index].name)
   return name ~= "" and name or nil
end

--- The names of where a record's packet came from and went to.
---@param record ffi.cdata*
---@return string? from
---@return string? to
function Part.ways(_, record)
   local stats = C.tw_stats()
   local ring = bit.band(record.flags, C.TW_WATCH_RING) ~= 0
   local to = ring and name_of(stats.ring, C.TW_RINGS_MAX, record.out) or
      not ring and name_of(stats.port, C.TW_PORTS_MAX, record.out) or nil
   return name_of(stats.port, C.TW_PORTS_MAX, record.port), to
end

--- Where it was seen.
---@param record ffi.cdata*
---@return string
function Part.place(_, record)
   return ("lcore %d"):format(C.tw_stats().lcore[record.slot].cpu)
end

return M
