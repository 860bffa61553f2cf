-- SPDX-License-Identifier: BSD-3-Clause
-- A hash or lru of a script before DPDK runs: its entries are kept in Lua, behind the same functions. When an lcore
-- needs the table it becomes one of the engine's; when a hook needs it, a map of the kernel. So a script with chains
-- on hooks alone starts no DPDK.

local ffi = require "ffi"
local abi = require "tideway.abi"
local kind_lib = require "tideway.table.kind"
local model = require "tideway.model"
local scope = require "tideway.table.scope"
local type_lib = require "tideway.table.type"

local M = {}

local C = abi.C

-- ---- what stands for the engine's functions ----

local access = {}

local function key_of(store, key) return ffi.string(key, store.key_size) end

local function entry(store, key)
   local k = key_of(store, key)
   local cell = store.cells[k]
   if not cell then
      if store.count == store.entries then return nil end
      cell = ffi.new("uint64_t[?]", math.ceil(store.value_size / 8))
      store.cells[k], store.count = cell, store.count + 1
   end
   return cell
end

function access.tw_hash_get(store, key, now)
   if store.real then return C.tw_hash_get(store.real, key, now) end
   return store.cells[key_of(store, key)]
end

function access.tw_hash_put(store, key, now)
   if store.real then return C.tw_hash_put(store.real, key, now) end
   return entry(store, key)
end

function access.tw_hash_set(store, key, value, now)
   if store.real then return C.tw_hash_set(store.real, key, value, now) end
   local cell = entry(store, key)
   if not cell then return false end
   ffi.copy(cell, value, store.value_size)
   return true
end

function access.tw_hash_del(store, key, now)
   if store.real then return C.tw_hash_del(store.real, key, now) end
   local k = key_of(store, key)
   if not store.cells[k] then return false end
   store.cells[k], store.count = nil, store.count - 1
   return true
end

local INTEGER = { [1] = "uint8_t *", [2] = "uint16_t *", [4] = "uint32_t *", [8] = "uint64_t *" }

function access.tw_hash_add(store, key, n, now)
   if store.real then return C.tw_hash_add(store.real, key, n, now) end
   local cell = entry(store, key)
   if not cell then return false end
   local p = ffi.cast(INTEGER[store.value_size], cell)
   p[0] = p[0] + ffi.cast("int64_t", n)
   return true
end

-- ---- the object ----

local methods, meta = {}, {}
local made = 0

function methods:count() return rawget(self, "store").count end

function methods:clear()
   local store = rawget(self, "store")
   local n = store.count
   store.cells, store.count = {}, 0
   return n
end

function methods:free()
   self:clear()
   scope.remove(self)
end

local function copy_of(t, pointer)
   local p = ffi.cast(ffi.typeof("$ *", t.ctype), pointer)
   if t.scalar and not type_lib.basic[t.fields[1].type].struct then
      return type_lib.basic[t.fields[1].type].number and tonumber(p[0]) or p[0]
   end
   local copy = ffi.new(t.ctype)
   ffi.copy(copy, p, t.size)
   return copy
end

function methods:pairs()
   local cells, k = rawget(self, "store").cells, nil
   return function()
      local cell
      k, cell = next(cells, k)
      if not k then return nil end
      return copy_of(self.key_type, k), copy_of(self.value_type, cell)
   end
end

-- Becomes a table of the engine, with what is in it.
local function realise(self)
   local store = rawget(self, "store")
   local real, err = store.object, nil
   if not real then real, err = store.make() end
   if not real then error(("table %s: %s"):format(store.name, err), 0) end
   local name, anonymous = rawget(self, "name"), rawget(self, "anonymous")
   local word = ffi.new("uint8_t[?]", store.key_stride) -- the engine reads keys of whole words
   for k, cell in pairs(store.object and {} or store.cells) do
      ffi.copy(word, k, store.key_size)
      C.tw_hash_set(real.table, word, cell, 0)
   end
   store.real, store.object = real.table, real
   for key in pairs(self) do self[key] = nil end
   for key, value in pairs(real) do self[key] = value end
   self.name, self.anonymous = name, anonymous
   setmetatable(self, getmetatable(real))
end

function meta.__index(self, key)
   if methods[key] then return methods[key] end
   if key == "table" or kind_lib.kinds[rawget(self, "kind")].meta.__index[key] then
      realise(self)
      return self[key]
   end
end

function meta.__transfer(self)
   if not model.dry then realise(self) end
   return kind_lib.kinds[self.kind].meta.__transfer(model.dry and setmetatable({ table = ffi.cast("void *", 0) },
      { __index = self }) or self)
end

function meta.__declared() return "" end

function meta.__tostring(self) return ("%s %s"):format(self.kind, self.name) end

--- Can a new table wait? Those of scripts can, until DPDK runs.
---@param kind string
---@return boolean
function M.applies(kind) return model.staged and (kind == "hash" or kind == "lru") and not C.tw_eal_info().started end

--- The tables that wait, as tw.tables() lists the others.
---@return table[]
function M.waiting()
   local list = {}
   for t in pairs(model.current().tables) do
      local store = rawget(t, "store")
      if store then
         list[#list + 1] = {
            name = t.name, kind = t.kind, count = store.count, capacity = store.entries, full = 0, evictions = 0,
            expired = 0, retired = 0, bytes = 0,
         }
      end
   end
   table.sort(list, function(a, b) return a.name < b.name end)
   return list
end

--- A table that waits.
---@param o table checked options, with kind
---@param make fun(): table?, string? makes the engine's table
---@return tideway.Table? table
---@return string? err
function M.new(o, make)
   local self = {
      kind = o.kind, name = o.name, entries = o.entries, expire = o.expire, lock = o.lock, keep = o.keep,
   }
   if not self.name then
      made = made + 1
      self.name = ("%s%d"):format(o.kind, made)
   end
   self.key_type, self.value_type = type_lib.parse(o.key), type_lib.parse(o.value, o.lock)
   local size = self.key_type.size
   self.store = {
      key_stride = size <= 8 and 8 or math.ceil(size / 16) * 16,
      cells = {}, count = 0, entries = o.entries, key_size = size, value_size = self.value_type.size,
      name = self.name, make = function() return make(self.name) end,
   }
   local env
   self.generated, env = kind_lib.kinds[o.kind].build(
      setmetatable({ table = self.store, access = access }, { __index = self }),
      { key_stride = self.store.key_stride })
   self.anchor = env
   for name, f in pairs(self.generated) do
      if not name:find "exchange" then self[name] = f end
   end
   return setmetatable(self, meta)
end

return M
