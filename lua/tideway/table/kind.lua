-- SPDX-License-Identifier: BSD-3-Clause
-- The kinds of tables: their options, their methods, and which access functions they get.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local type_lib = require "tideway.table.type"
local code = require "tideway.table.code"
local scope = require "tideway.table.scope"

local M = {}

local C = abi.C

---@class tideway.Table
---@field name string
---@field kind string  "hash", "lru", "lpm", "array", "counters" or "meter"
---@field entries integer  capacity
---@field key_type tideway.Type?
---@field value_type tideway.Type?
---@field table ffi.cdata*  struct tw_table *

local base = {} -- methods of every table

-- kind -> { id = C's number, options = names allowed, key, value = whether it has such a type,
--   prepare = f(o, spec) -> error sentence or nil, build = f(self, info) -> functions, anchor,
--   finish = f(self, o) -> bool, methods = those besides base, meta = metatable }
local kinds = {}

local function info_of(self)
   if self.table == nil then
      error("this table was freed", 3)
   end
   local info = ffi.new("struct tw_table_info")
   C.tw_table_get_info(self.table, info)
   return info
end

--- Number of entries now, including expired ones that were not swept yet.
---@return integer count
function base:count()
   return info_of(self).count
end

--- Figures of the table.
---@return table stats  { count, capacity, full = insertions refused, evictions, expired,
---  retired = removed but memory not reused yet, bytes }
function base:stats()
   local info = info_of(self)
   return {
      count = info.count,
      capacity = info.entries,
      full = tonumber(info.full),
      evictions = tonumber(info.evictions),
      expired = tonumber(info.expired),
      retired = info.retired,
      bytes = tonumber(info.bytes),
   }
end

--- Removes all entries; arrays and counters become zero. Lcores may go on meanwhile.
---@return integer removed  number of entries
function base:clear()
   info_of(self)
   return C.tw_table_clear(self.table)
end

local function stale()
   error("this table was freed", 2)
end

--- Frees the table's memory now instead of at the stop of the engine. Only for a table that no
--- running chain uses.
function base:free()
   if self.table ~= nil then
      scope.freed(self.table)
      scope.remove(self)
      C.tw_table_free(self.table)
   end
   self.table = nil
   for name in pairs(self.generated) do
      self[name] = stale
   end
end

local function copy_of(t, pointer)
   if t.scalar and not type_lib.basic[t.fields[1].type].struct then
      local field = t.fields[1]
      return type_lib.basic[field.type].number and tonumber(pointer[0]) or pointer[0]
   end
   local copy = ffi.new(t.ctype)
   ffi.copy(copy, pointer, t.size)
   return copy
end

--- Iterates over copies of the entries, in no order: `for key, value in t:pairs() do`. Keys and
--- values of several fields are objects of their own with the fields' names. Entries that other
--- threads add or remove meanwhile may or may not be seen.
function base:pairs()
   local cursor = ffi.new("uint32_t[1]")
   info_of(self)
   local key_type, value_type = self.key_type, self.value_type
   local key, key_anchor = code.scratch(key_type, C.TW_TABLE_KEY_MAX)
   local value, value_anchor = code.scratch(value_type, math.max(8, value_type.size))
   local now = C.tw_now()
   return function()
      if C.tw_table_entry(self.table, cursor, now, key_anchor, value_anchor) == 0 then
         return nil
      end
      return copy_of(key_type, key), copy_of(value_type, value)
   end
end

-- What only some types of values have; tables that have it hide these.
local function only_for(name, what)
   base[name] = function(self)
      error(("%s %s has no %s(): it is for %s"):format(self.kind, self.name, name, what), 2)
   end
end
only_for("put", "values with named fields in hash, lru and lpm")
only_for("add", "values that are one integer")
only_for("exchange", "values that are one integer of 4 or 8 bytes in hash, lru and array")
only_for("compare_exchange", "values that are one integer of 4 or 8 bytes in hash, lru and array")

-- ---- kinds ----

local in_hash = { name = true, keep = true, key = true, value = true, entries = true, expire = true, lock = true }
local in_lru = { name = true, keep = true, key = true, value = true, entries = true, expire = true }
local is_integer = { u8 = true, u16 = true, u32 = true, u64 = true, i32 = true, i64 = true, ns = true }

local function can_add(t)
   return t.scalar and is_integer[t.fields[1].type]
end

-- exchange() and compare_exchange(): what one instruction can do.
local function can_exchange(t)
   return can_add(t) and t.size >= 4
end

local function build_hash(self, info)
   local list = { "hash" }
   if not self.value_type.scalar then
      list[2] = "hash_struct"
   elseif can_add(self.value_type) then
      list[2] = "hash_scalar"
      list[3] = can_exchange(self.value_type) and "hash_atomic" or nil
   end
   return code.generate(list, {
      table = self.table, name = self.name, key = self.key_type, value = self.value_type,
      key_stride = info.key_stride, timed = self.expire, access = self.access,
   })
end

kinds.hash = { id = C.TW_TABLE_HASH, options = in_hash, build = build_hash, key = true, value = true }
kinds.lru = { id = C.TW_TABLE_LRU, options = in_lru, build = build_hash, key = true, value = true }

-- What pairs() of an lpm table gives as key: struct tw_lpm_key with a typed address.
local function prefix_type(family, declaration)
   return ffi.metatype(declaration, {
      __tostring = function(self)
         local text = ffi.new("char[64]")
         C.tw_prefix_print(family, self, self.length, text, 64)
         return ffi.string(text)
      end,
   })
end

local prefix_types = {}

local function prefix_of(family)
   if not prefix_types[family] then
      local address = family == 6 and "struct tw_in6 address;" or "uint32_t address; uint8_t zero_[12];"
      type_lib.parse "ip6" -- declares struct tw_in6
      prefix_types[family] = prefix_type(family, "struct { " .. address .. " uint32_t length; }")
   end
   return { scalar = false, fields = {}, size = ffi.sizeof("struct tw_lpm_key"), ctype = prefix_types[family] }
end

local function build_lpm(self, info)
   local v6 = self.family == 6
   local view = C.tw_lpm_view(self.table)
   local env = {
      view = view, values = view.values, stride = view.value_stride,
      tbl24 = view.tbl24, tbl8 = view.tbl8, band = bit.band, rshift = bit.rshift,
      ENOSPC = -28,
      example = v6 and '"2001:db8::/32"' or '"10.0.0.0/8"',
      zero = ffi.new("uint8_t[?]", info.value_size),
      length = ffi.new("uint32_t[1]"),
      memory = ffi.new("uint64_t[2]"),
      store_address = v6 and "copy(key, address, 16)" or "key[0] = address",
   }
   env.scratch = ffi.cast(v6 and "uint8_t *" or "uint32_t *", env.memory)
   function env.parse(text, key, level)
      if C.tw_prefix_parse(text, self.family, key, env.length) < 0 then
         error(ffi.string(C.tw_error()), level)
      end
      return env.length[0]
   end
   local list = { v6 and "lpm6" or "lpm4", "lpm" }
   if not self.value_type.scalar then
      list[3] = "lpm_struct"
   end
   return code.generate(list, { table = self.table, name = self.name, value = self.value_type, env = env })
end

kinds.lpm = {
   id = C.TW_TABLE_LPM4, build = build_lpm, value = true,
   options = { name = true, keep = true, family = true, value = true, entries = true, groups = true },
   prepare = function(o, spec)
      local family = o.family == nil and 4 or o.family
      if family ~= 4 and family ~= 6 then
         return ("family is %s, not 4 or 6"):format(tostring(family))
      end
      if o.groups ~= nil and (type(o.groups) ~= "number" or o.groups < 1) then
         return ("groups is %s, not a number above 0"):format(tostring(o.groups))
      end
      o.family, spec.kind = family, family == 6 and C.TW_TABLE_LPM6 or C.TW_TABLE_LPM4
      spec.groups = o.groups or 0
   end,
}

kinds.array = {
   id = C.TW_TABLE_ARRAY, value = true,
   options = { name = true, keep = true, value = true, entries = true, lock = true },
   build = function(self, info)
      local list = { "array" }
      if can_add(self.value_type) then
         list[2] = "array_scalar"
         list[3] = can_exchange(self.value_type) and "array_atomic" or nil
      end
      return code.generate(list, {
         table = self.table, name = self.name, value = self.value_type, env = {
            values = ffi.cast("uint8_t *", C.tw_array_base(self.table)),
            stride = info.value_stride, entries = info.entries,
         },
      })
   end,
}

kinds.counters = {
   id = C.TW_TABLE_COUNTERS, options = { name = true, keep = true, names = true, size = true },
   prepare = function(o, spec)
      if o.names ~= nil and (type(o.names) ~= "table" or #o.names == 0) then
         return "names is not a list of names"
      end
      local seen = {}
      for i, name in ipairs(o.names or {}) do
         if type(name) ~= "string" or seen[name] then
            return ("names[%d] is %s, not a name of its own"):format(i, tostring(name))
         end
         seen[name] = true
      end
      o.entries = o.names and #o.names or o.size
      spec.entries_option = "size (or names)"
   end,
   build = function(self, info)
      local stride = ffi.new("uint32_t[1]")
      local memory = C.tw_counters_base(self.table, stride)
      self.id = {}
      for i, name in ipairs(self.names or {}) do
         self.id[name] = i - 1
      end
      return code.generate({ "counters" }, { table = self.table, name = self.name, env = {
         base = memory, stride = stride[0], entries = info.entries, id = self.id,
      } })
   end,
   methods = {
      --- Iterates over name (or index from 0) and sum over all lcores, in order.
      pairs = function(self)
         local i = -1
         return function()
            i = i + 1
            if i < self.entries then
               return self.names and self.names[i + 1] or i, self:sum(i)
            end
         end
      end,
   },
}

local rate_fields = { cir = true, cbs = true, ebs = true, pir = true, pbs = true }

local function rate_of(o)
   for field in pairs(rate_fields) do
      if o[field] ~= nil and (type(o[field]) ~= "number" or o[field] < 0 or o[field] % 1 ~= 0) then
         return nil, ("%s is %s, not a whole number of bytes%s"):format(field, tostring(o[field]),
            field:match("ir$") and " a second" or "")
      end
   end
   if not o.cir then
      return nil, "cir, the committed rate in bytes a second, is missing"
   end
   if (o.pir or o.pbs) and o.ebs then
      return nil, "ebs belongs to the single-rate meter, pir and pbs to the two-rate one"
   end
   return ffi.new("struct tw_meter_rate", o.cir, o.cbs or 0, o.pir or 0, o.pbs or o.ebs or 0)
end

kinds.meter = {
   id = C.TW_TABLE_METER,
   options = {
      name = true, keep = true, entries = true, cir = true, cbs = true, ebs = true, pir = true, pbs = true,
   },
   prepare = function(o)
      local rate, err = rate_of(o)
      o.entries = o.entries == nil and 1 or o.entries
      return not rate and err or nil
   end,
   finish = function(self, o)
      self.rates = { all = rate_of(o) } -- for a map of the kernel that takes its place
      return C.tw_meter_config(self.table, 0, self.entries - 1, self.rates.all, C.tw_now()) == 0
   end,
   declared = function(self)
      local rates = {}
      for i, rate in pairs(self.rates) do
         rates[#rates + 1] = ("%s=%s/%s/%s/%s"):format(i, rate.cir, rate.cbs, rate.pir, rate.pbs)
      end
      table.sort(rates)
      return table.concat(rates, ",")
   end,
   build = function(self)
      return code.generate({ "meter" }, { table = self.table, name = self.name, timed = true })
   end,
   methods = {
      --- Gives entry i another rate and full buckets.
      ---@param i integer  from 0
      ---@param rate table  { cir =, cbs =, ebs = } or { cir =, cbs =, pir =, pbs = }
      rate = function(self, i, rate)
         local r, err = rate_of(rate)
         if not r then
            error(err, 2)
         end
         if C.tw_meter_config(self.table, i, i, r, C.tw_now()) < 0 then
            error(ffi.string(C.tw_error()), 2)
         end
         if self.rates then
            self.rates[i] = r
         end
      end,
   },
}

-- Fields of a table that another VM needs to make its own object of it.
local declared = { "kind", "name", "entries", "expire", "family", "names", "lock" }

local function transfer(self)
   local d = { address = tonumber(ffi.cast("uintptr_t", self.table)) }
   for _, field in ipairs(declared) do
      d[field] = self[field]
   end
   d.key = self.key_type and self.key_type.text
   d.value = self.value_type and self.value_type.text
   return "tideway.table", "attach", { d }
end

for name, kind in pairs(kinds) do
   local methods = setmetatable(kind.methods or {}, { __index = base })
   if name == "meter" then
      methods.pairs = function()
         error("a meter has no entries to walk", 2)
      end
   end
   kind.meta = {
      __index = methods,
      __transfer = transfer,
      __declared = kind.declared or function() return "" end,
      __tostring = function(self)
         return ("%s %s"):format(self.kind, self.name)
      end,
   }
end

M.kinds, M.declared, M.info_of, M.prefix_of, M.stats_of = kinds, declared, info_of, prefix_of, base.stats

return M
