-- SPDX-License-Identifier: BSD-3-Clause
-- The map behind a declared table: made when a chain on a hook uses the table, with the entries it has by then.
-- From then on the table's functions work on the map.

local ffi = require "ffi"
local abi = require "tideway.abi"
local map = require "tideway.bpf.map"
local meter = require "tideway.bpf.meter"

local C = abi.C
local M = {}

local KIND = {
   hash = "hash", lru = "lru_hash", array = "array", lpm = "lpm_trie", counters = "percpu_array",
   lru_percpu = "lru_percpu_hash", bloom = "bloom_filter",
}

-- engine table -> map
local maps = setmetatable({}, { __mode = "k" })

--- The declaration of a table's map, as for tideway.bpf.map.
---@param t table
---@return table
function M.declaration(t)
   if t.kind == "meter" then return meter.declaration(t) end
   local kind = KIND[t.kind] or t.kind
   local d = { kind = kind, name = (t.name:gsub("[^%w_]", "_")), entries = t.entries }
   if t.kind == "counters" then
      d.value = "u64"
   else
      local has_key = t.kind ~= "lpm" and t.kind ~= "array" and t.kind ~= "percpu_array"
      d.key = has_key and t.key_type and t.key_type.text or nil
      d.value = t.value_type and t.value_type.text
   end
   if kind == "lpm_trie" then d.family = t.family end
   d.lock = t.lock
   return d
end

-- Field values of a key or value, in order.
local function unpacked(t, v)
   if t.scalar then return v end
   local list = {}
   for i, field in ipairs(t.fields) do list[i] = v[field.name] end
   return unpack(list, 1, #t.fields)
end
-- A trace that reads a field by the metatype's __index has no guard on the name, and the next name runs on it.
require("jit").off(unpacked)

local function joined(a, b)
   local list = { unpack(a, 1, a.n) }
   for i = 1, b.n do list[a.n + i] = b[i] end
   return unpack(list, 1, a.n + b.n)
end

local function packed(...) return { n = select("#", ...), ... } end

local function is_zero(words, count)
   for i = 0, count - 1 do
      if words[i] ~= 0 then return false end
   end
   return true
end

local BATCH = 1024

-- Entries of an array. One that nobody set is zero in a new map, and leaves what an earlier run has counted.
local function copy_array(t, m)
   local size, stride, n = t.value_type.size, m.value_size, 0
   local words = math.ceil(size / 8)
   local memory = ffi.new("uint64_t[?]", words)
   local cell = ffi.cast(ffi.typeof("$ *", t.value_type.ctype), memory)
   local keys, count = ffi.new("uint32_t[?]", BATCH), ffi.new "uint32_t[1]"
   local values = ffi.new("uint8_t[?]", BATCH * stride)
   local function write()
      count[0] = n
      if n > 0 and C.tw_bpf_map_write_batch(m.fd, keys, values, count) < 0 then -- no batches in this kernel
         for k = 0, n - 1 do
            if C.tw_bpf_map_update(m.fd, keys + k, values + k * stride, 0) < 0 then error(abi.error(), 0) end
         end
      end
      n = 0
   end
   for i, v in t:pairs() do
      cell[0] = v
      if not is_zero(memory, words) then
         keys[n] = i
         ffi.copy(values + n * stride, memory, size)
         n = n + 1
         if n == BATCH then write() end
      end
   end
   write()
end

local function copy_entries(t, m)
   if t.kind == "counters" or not t.pairs then return end
   if t.kind == "lpm" then
      for prefix, v in t:pairs() do m:set(prefix.address, prefix.length, unpacked(t.value_type, v)) end
   elseif t.kind == "array" then
      copy_array(t, m)
   else
      for k, v in t:pairs() do
         m:set(joined(packed(unpacked(t.key_type, k)), packed(unpacked(t.value_type, v))))
      end
   end
end

local METHODS = { "get", "set", "put", "del", "add", "exchange", "compare_exchange", "pairs", "count", "stats", "clear",
   "sum", "find" }

local function redirect(t, m)
   for _, name in ipairs(METHODS) do
      if m[name] then rawset(t, name, function(_, ...) return m[name](m, ...) end) end
   end
   rawset(t, "map", m)
end

-- Counters: programs count in the map, this thread in the engine's memory as before; sums have both.
local function redirect_counters(t, m)
   local sum, clear = t.sum, t.clear
   rawset(t, "sum", function(_, i)
      local here = sum(t, i)
      return here and here + tonumber(m:sum(t.id[i] or i))
   end)
   rawset(t, "clear", function()
      m:clear()
      return clear(t)
   end)
   rawset(t, "map", m)
end

--- One table stands for another now: it has the same map, if there is one.
---@param t table
---@param other table
function M.share(t, other) maps[t] = maps[other] end

--- What is in the map of a table that only hooks have, for tideway.table.scope: nothing, when there is none yet.
---@param t table
---@return string
function M.digest(t) return maps[t] and ("%p"):format(maps[t]) or "0ULL" end

--- The map of a table; made on first use.
---@param t table
---@param persist? string name of the instance whose map it is from run to run; the script's entries are set over those
---  that are there
---@return tideway.bpf.Map? map
---@return string? err
function M.of(t, persist)
   if maps[t] then return maps[t] end
   local declared = M.declaration(t)
   if not t.internal then declared.persist = persist end
   local m, err = map.new(declared)
   if not m then return nil, err end
   m.owner = ffi.gc(ffi.new("int[1]", m.fd), function(fd) C.tw_bpf_close(fd[0]) end)
   if not t.internal and not t.hook_only then
      if t.kind == "meter" then
         meter.redirect(t, m)
      else
         copy_entries(t, m)
         local to = t.kind == "counters" and redirect_counters or redirect
         to(t, m)
      end
   end
   maps[t] = m
   return m
end

return M
