-- SPDX-License-Identifier: BSD-3-Clause
-- Tables: hash, lru, lpm, array, counters and meter, in memory that all lcores share.
--
-- Types. A key or value is "u32", or fields with names: "u32 src; u32 dst; u8 proto". Fields: u8
-- u16 u32 u64 i32 i64, ns (64-bit time stamp), mac (48-bit number), ip6 (struct tw_in6), and arrays of
-- u8 u16 u32 be16 be32: "u8 name[16]", whose index is checked and which are copied whole. Values
-- of u64 and i64 read as 64-bit cdata; ns and mac as numbers (exact to 2^53); the others as
-- numbers. Values of several fields are references: v.packets = v.packets + 1 changes the table.
-- A reference is good until the end of the burst (on an lcore) or the next change of the table
-- (elsewhere); do not keep one.
--
-- Threads. Every function may be called on any lcore and in the control VM at the same time.

local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"
local type_lib = require "tideway.table.type"
local kind_lib = require "tideway.table.kind"
local scope = require "tideway.table.scope"
local staged = require "tideway.table.staged"

local M = {}

local C = abi.C

local kinds, declared = kind_lib.kinds, kind_lib.declared
local info_of, prefix_of, stats_of = kind_lib.info_of, kind_lib.prefix_of, kind_lib.stats_of

-- The Lua object over a C table. `d` has the declarations as transfer() packs them.
local function wrap(pointer, d)
   local kind = kinds[d.kind]
   local self = { table = pointer }
   for _, field in ipairs(declared) do
      self[field] = d[field]
   end
   self.keep = d.keep
   self.key_type = d.key and type_lib.parse(d.key)
   self.value_type = d.value and type_lib.parse(d.value, d.lock)
   if d.kind == "array" then
      self.key_type = type_lib.parse("u32")
   elseif d.kind == "lpm" then
      self.key_type = prefix_of(d.family)
   end
   local info = info_of(self)
   self.name, self.entries = d.name or ffi.string(info.name), info.entries
   if self.value_type and info.value_size ~= self.value_type.size then
      error(("table %s holds values of %d bytes, not %s"):format(self.name, info.value_size, d.value))
   end
   local env
   self.generated, env = kind.build(self, info)
   self.anchor = env -- scratch memory that the functions reach by pointer only
   for name, f in pairs(self.generated) do
      self[name] = f
   end
   return setmetatable(self, kind.meta)
end

local function check_options(kind, o)
   if type(o) ~= "table" then
      return ("its argument is a %s, not a table of options"):format(type(o))
   end
   for option in pairs(o) do
      if not kinds[kind].options[option] then
         local list = {}
         for name in pairs(kinds[kind].options) do
            list[#list + 1] = name
         end
         table.sort(list)
         return ("%s is not an option; options are %s"):format(tostring(option), table.concat(list, ", "))
      end
   end
   if o.name ~= nil and (type(o.name) ~= "string" or o.name == "") then
      return ("name is %s, not a string"):format(tostring(o.name))
   end
   if o.keep ~= nil and type(o.keep) ~= "boolean" then
      return ("keep is %s, not true or false"):format(tostring(o.keep))
   end
end

local function check_types(kind, o, spec)
   for _, which in ipairs { "key", "value" } do
      if kinds[kind][which] then
         local t, err = type_lib.parse(o[which], which == "value" and o.lock)
         if not t then
            return ("%s type %s: %s"):format(which, type(o[which]) == "string" and '"' .. o[which] .. '"'
               or tostring(o[which]), err)
         end
         spec[which .. "_size"] = t.size
         spec.number = which == "value" and t.scalar or nil
      end
   end
   if o.expire then
      local field = type_lib.field(type_lib.parse(o.value), "expires")
      if not field or (field.type ~= "ns" and field.type ~= "u64") then
         return ('expire = true needs a field "ns expires" in the value, which is "%s"'):format(o.value)
      end
      spec.expires_offset = field.offset
   end
end

local function check_entries(o, spec)
   local max = C.TW_TABLE_ENTRIES_MAX
   local n = o.entries
   if type(n) ~= "number" or n < 1 or n > max or n % 1 ~= 0 then
      return ("%s is %s, not a whole number from 1 to %d"):format(spec.entries_option or "entries",
         tostring(n), max)
   end
end

-- A table of the engine.
local function new(o, spec)
   local pointer = scope.make(ffi.new("struct tw_table_spec", spec))
   if pointer == nil then
      return nil, ffi.string(C.tw_error())
   end
   local self = wrap(scope.own(pointer), o)
   if kinds[o.kind].finish and not kinds[o.kind].finish(self, o) then
      local err = ffi.string(C.tw_error())
      self:free()
      return nil, err
   end
   return self
end

-- Returns the table, or nil and a sentence.
local function make(kind, options)
   local err = check_options(kind, options)
   if err then
      return nil, err
   end
   local o = {}
   for k, v in pairs(options) do
      o[k] = v
   end
   local spec = { kind = kinds[kind].id, expires_offset = C.TW_TABLE_NO_EXPIRY }
   err = kinds[kind].prepare and kinds[kind].prepare(o, spec) or check_types(kind, o, spec)
      or check_entries(o, spec)
   if err then
      return nil, err
   end
   if o.name and #o.name >= C.TW_NAME_LEN then
      return nil, ("name is longer than %d bytes"):format(C.TW_NAME_LEN - 1)
   end
   spec.name, err = scope.free_name(o.name)
   if err then
      return nil, err
   end
   spec.entries, spec.entries_option = o.entries, nil
   o.kind, o.expire, o.lock = kind, o.expire and true or nil, o.lock and true or nil
   local self
   if staged.applies(kind) then
      self, err = staged.new(o, function(name)
         spec.name = scope.free_name(o.name or name, true)
         return new(o, spec)
      end)
   else
      self, err = new(o, spec)
   end
   if self then
      scope.add(self, o.name)
   end
   return self, err
end

local function maker(kind)
   return function(options)
      local self, err = make(kind, options)
      if not self then
         local name = type(options) == "table" and options.name
         error(("tw.%s%s: %s"):format(kind, type(name) == "string" and ' "' .. name .. '"' or "", err), 2)
      end
      return self
   end
end

--- A hash table: `get(key...)`, `set(key..., value...)`, `put(key...)`, `del(key...)`,
--- `add(key..., n)`. Of one integer of 4 or 8 bytes also `exchange(key..., value)` and
--- `compare_exchange(key..., expected, new)`: atomic, the old value, nil when there is no entry.
--- With lock = true entries have `lock()` and `unlock()`: one at a time, for a few instructions.
--- When a change makes the NF anew, a table of the same declaration goes on with its entries, unless the constructor
--- wrote into it, or keep = false; with keep = true also then. So it is with all kinds.
---@param options table  { name =, key =, value =, entries =, expire = bool, lock = bool, keep = bool }
---@return tideway.Table
M.hash = maker "hash"

--- A hash that evicts about the least recently used entry when full (CLOCK).
---@param options table  as for hash
---@return tideway.Table
M.lru = maker "lru"

--- Longest prefix match: `get(address)`, `set(prefix, value...)`, `put`, `del`, `find(prefix)`.
--- A prefix is a text, "10.0.0.0/8", or two arguments, address and length.
---@param options table  { name =, family = 4 or 6, value =, entries =, groups = tbl8 groups }
---@return tideway.Table
M.lpm = maker "lpm"

--- An array indexed from 0: `get(i)`, `set(i, value...)`, `add(i, n)`, `exchange(i, value)`,
--- `compare_exchange(i, expected, new)`; lock as for hash.
---@param options table  { name =, value =, entries =, lock = bool }
---@return tideway.Table
M.array = maker "array"

--- Counters, one copy per lcore: `add(name or index, n)`, `sum(name or index)`, `pairs()`.
--- Indexes count from 0.
---@param options table  { name =, names = { "a", "b" } } or { name =, size = n }
---@return tideway.Table
M.counters = maker "counters"

--- Three-colour markers, srTCM (RFC 2697) or with pir trTCM (RFC 2698): `mark(i, bytes)` gives
--- 0 green, 1 yellow or 2 red; `mark(i, bytes, color)` is the colour-aware mode.
---@param options table  { name =, entries = 1, cir =, cbs =, ebs = } or { ..., cir =, cbs =, pir =,
---  pbs = }; rates in bytes a second, bursts in bytes
---@return tideway.Table
M.meter = maker "meter"

local attached = {}

--- Makes the object of a table that another VM created; called by the transfer of an NF.
---@param d table  what __transfer gave
---@return tideway.Table
function M.attach(d)
   if not attached[d.address] then
      attached[d.address] = wrap(ffi.cast("struct tw_table *", d.address), d)
   end
   return attached[d.address]
end

local kind_names = {
   [C.TW_TABLE_HASH] = "hash", [C.TW_TABLE_LRU] = "lru", [C.TW_TABLE_LPM4] = "lpm",
   [C.TW_TABLE_LPM6] = "lpm", [C.TW_TABLE_ARRAY] = "array", [C.TW_TABLE_COUNTERS] = "counters",
   [C.TW_TABLE_METER] = "meter", [C.TW_TABLE_ACL] = "acl",
}

--- The tables that live now, in order of creation, and stores behind them.
---@return table[] list  each { name, kind, count, capacity, full, evictions, expired, bytes }
function M.tables()
   local list = {}
   for _, object in pairs(scope.by_address()) do
      local entry, info = stats_of(object), info_of(object)
      entry.name, entry.kind, entry.number = object.name, kind_names[info.kind], tonumber(info.number)
      list[#list + 1] = entry
   end
   table.sort(list, function(a, b) return a.number < b.number end)
   for _, entry in ipairs(list) do entry.number = nil end
   for _, waiting in ipairs(staged.waiting()) do list[#list + 1] = waiting end
   local stores = package.loaded["tideway.store"]
   for _, store in ipairs(stores and stores.list() or {}) do list[#list + 1] = store end
   return list
end

--- Frees every table. Only when no chain runs; objects made before must not be used again.
function M.free_all()
   attached = {}
   scope.forget()
   model.current().tables = setmetatable({}, { __mode = "k" })
   C.tw_tables_free_all()
end

return M
