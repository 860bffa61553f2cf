-- SPDX-License-Identifier: BSD-3-Clause
-- tw.store: dictionaries in shared memory, for functions of messages. All instances of a function, functions that run
-- inline and the control VM see the same one, in whatever process they are. They are bounded: what was not used for
-- longest goes.
--
-- Anybody who has a store can write nonsense into its memory. That costs the entries of a part of it, and nothing else.

local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"

local M = {}

local C = abi.C
local KEY_MAX = C.TW_STORE_KEY_MAX
local NEVER = 0x7fffffffffffffffLL
local EEXIST, ENOENT = -17, -2
local SHOWN = 20 -- entries in the REPL

---@class tideway.Store
---@field name string
---@field number integer of this process, and of those it is given to
---@field store ffi.cdata* struct tw_store *
local Store = {}
local meta = { __index = Store }

-- Of this VM: a store by its number, and the stores a version of the model has declared by name.
local by_number = setmetatable({}, { __mode = "v" })
local declared = setmetatable({}, { __mode = "k" })

local value = ffi.new "struct tw_store_value"
local piece = ffi.new "struct tw_store_piece[1]"
local number = ffi.new "double[1]"
local scratch, scratch_size = ffi.new("uint8_t[?]", 4096), 4096

local function key_of(self, key)
   if type(key) == "number" then key = tostring(key) end
   if type(key) ~= "string" then
      error(("store %s: a key is a string, not %s"):format(self.name, type(key)), 3)
   end
   return key, #key
end

-- Seconds to ns; 0: never.
local function ttl_of(self, seconds)
   if seconds == nil or seconds == 0 then return 0 end
   if type(seconds) ~= "number" or seconds ~= seconds or seconds <= 0 then
      error(("store %s: a time to live is a number of seconds above 0, not %s"):format(self.name, tostring(seconds)), 3)
   end
   return seconds >= 9e9 and 0 or math.max(1, seconds * 1e9)
end

local function seconds_of(ttl_ns)
   return ttl_ns == NEVER and math.huge or tonumber(ttl_ns) / 1e9
end

-- ---- reading ----

local function read(self, key, stale)
   local text, len = key_of(self, key)
   local rc = C.tw_store_get(self.store, text, len, stale, value, scratch, 0, scratch_size)
   if rc == 0 then return nil end
   if rc < 0 then return nil, abi.error() end
   local kind = value.kind
   if kind == C.TW_STORE_NUMBER then return value.number, value.user end
   if kind == C.TW_STORE_BOOLEAN then return value.number ~= 0, value.user end
   local size = tonumber(value.len)
   if size > scratch_size then
      scratch_size = 2 ^ math.ceil(math.log(size) / math.log(2))
      scratch = ffi.new("uint8_t[?]", scratch_size)
      return read(self, key, stale)
   end
   return ffi.string(scratch, size), value.user
end

--- The value of a key: a string, number or boolean, and the number that was left with it (`user`, else 0). Nil when
--- there is none or it has expired; nil and a sentence when the store cannot be read now.
---@param key string|number 1 to 512 bytes
---@return string|number|boolean? value
---@return integer|string|nil user
function Store:get(key) return read(self, key, false) end

--- As get(), also when it has expired, as long as it was not thrown away: then the third result is true.
---@param key string|number
---@return string|number|boolean? value
---@return integer|string|nil user
---@return boolean stale
function Store:get_stale(key)
   local found, user = read(self, key, true)
   return found, user, found ~= nil and value.ttl_ns <= 0
end

--- Seconds until an entry expires; math.huge: never. Nil when it is not there.
---@param key string|number
---@return number? seconds
function Store:ttl(key)
   local text, len = key_of(self, key)
   local rc = C.tw_store_get(self.store, text, len, false, value, nil, 0, 0)
   if rc == 1 then return seconds_of(value.ttl_ns) end
   return nil, rc < 0 and abi.error() or nil
end

--- Copy bytes of a value straight to memory, such as a block of the pool, without making a string of them.
---@param key string|number
---@param to ffi.cdata* room for `max` bytes
---@param max integer
---@param from? integer first byte of the value, default 0
---@param stale? boolean also one that has expired
---@return integer? copied nil: it is not there
---@return integer len of the whole value
---@return ffi.cdata* version uint64_t; the same one, the same value: for who reads a value in several parts
---@return integer user
---@return number ttl seconds; not above 0: expired
function Store:read(key, to, max, from, stale)
   local text, len = key_of(self, key)
   local start = from or 0
   local rc = C.tw_store_get(self.store, text, len, stale or false, value, to, start, max)
   if rc ~= 1 then return nil, rc < 0 and abi.error() or nil end
   local size = tonumber(value.len)
   return math.max(0, math.min(max, size - start)), size, value.version, value.user, seconds_of(value.ttl_ns)
end

-- ---- writing ----

local function done(rc)
   if rc == 0 then return true end
   if rc == EEXIST then return false, "exists" end
   if rc == ENOENT then return false, "not found" end
   return nil, abi.error()
end

local function put(self, key, what, ttl, user, mode)
   local text, len = key_of(self, key)
   local kind, ttl_ns = type(what), ttl_of(self, ttl)
   user = user or 0
   if kind == "string" then
      piece[0].at, piece[0].len = what, #what
      return done(C.tw_store_put(self.store, text, len, piece, 1, ttl_ns, user, mode))
   elseif kind == "number" then
      return done(C.tw_store_put_number(self.store, text, len, what, false, ttl_ns, user, mode))
   elseif kind == "boolean" then
      return done(C.tw_store_put_number(self.store, text, len, what and 1 or 0, true, ttl_ns, user, mode))
   end
   error(("store %s: a value is a string, number or boolean, not %s"):format(self.name, kind), 3)
end

--- Set a value; nil deletes. Others are evicted when there is no room.
---@param key string|number 1 to 512 bytes
---@param what string|number|boolean|nil
---@param ttl? number seconds until it expires; nil or 0: never
---@param user? integer a number of 32 bits to be left with it
---@return boolean? ok nil and a sentence: it is too long, or the store cannot be written now
---@return string? error
function Store:set(key, what, ttl, user)
   if what == nil then
      self:delete(key)
      return true
   end
   return put(self, key, what, ttl, user, C.TW_STORE_SET)
end

--- As set(), only when there is none, or it has expired; else false, "exists". One of several that try it at the same
--- time succeeds.
---@return boolean? ok
---@return string? error
function Store:add(key, what, ttl, user) return put(self, key, what, ttl, user, C.TW_STORE_ADD) end

--- As set(), only when there is one; else false, "not found".
---@return boolean? ok
---@return string? error
function Store:replace(key, what, ttl, user) return put(self, key, what, ttl, user, C.TW_STORE_REPLACE) end

--- Add to a number, at once. One that is not there, or has expired, begins with `init`, and expires after `init_ttl`.
---@param key string|number
---@param by number
---@param init? number without it: nil, "not found"
---@param init_ttl? number seconds
---@return number? value the sum
---@return string? error
function Store:incr(key, by, init, init_ttl)
   local text, len = key_of(self, key)
   local rc = C.tw_store_incr(self.store, text, len, by, init ~= nil, init or 0, ttl_of(self, init_ttl), number)
   if rc == 0 then return number[0] end
   if rc == ENOENT then return nil, "not found" end
   return nil, abi.error()
end

--- Set a value from memory, such as a block of the pool, without making a string of it.
---@param key string|number
---@param from ffi.cdata* pointer
---@param len integer bytes
---@param ttl? number seconds
---@param user? integer
---@return boolean? ok
---@return string? error
function Store:put_block(key, from, len, ttl, user)
   local text, key_len = key_of(self, key)
   piece[0].at, piece[0].len = from, len
   return done(C.tw_store_put(self.store, text, key_len, piece, 1, ttl_of(self, ttl), user or 0, C.TW_STORE_SET))
end

--- The same from several places, one behind the other.
---@param key string|number
---@param pieces ffi.cdata* struct tw_store_piece[n]
---@param n integer at most 72
---@param ttl? number seconds
---@param user? integer
---@return boolean? ok
---@return string? error
function Store:put_blocks(key, pieces, n, ttl, user)
   local text, len = key_of(self, key)
   return done(C.tw_store_put(self.store, text, len, pieces, n, ttl_of(self, ttl), user or 0, C.TW_STORE_SET))
end

--- Change when an entry expires.
---@param key string|number
---@param ttl? number seconds; nil or 0: never
---@return boolean there
function Store:expire(key, ttl)
   local text, len = key_of(self, key)
   return C.tw_store_expire(self.store, text, len, ttl_of(self, ttl)) == 1
end

---@param key string|number
---@return boolean there was one
function Store:delete(key)
   local text, len = key_of(self, key)
   return C.tw_store_delete(self.store, text, len) == 1
end

--- Remove all entries.
---@return integer removed
function Store:flush() return tonumber(C.tw_store_flush(self.store, false)) end

--- Remove those that have expired, and are kept for get_stale().
---@return integer removed
function Store:flush_expired() return tonumber(C.tw_store_flush(self.store, true)) end

-- ---- all of it ----

--- Iterates over copies of the entries, in no order: `for key, value in store:pairs() do`.
function Store:pairs()
   local cursor, key = ffi.new "uint64_t[1]", ffi.new("char[?]", KEY_MAX)
   return function()
      while true do
         local len = C.tw_store_next(self.store, cursor, key, value)
         if len <= 0 then return nil end
         local name = ffi.string(key, len)
         local found = read(self, name, false)
         if found ~= nil then return name, found end
      end
   end
end

--- Keys of entries, in no order.
---@param max? integer default 1024
---@return string[]
function Store:keys(max)
   local list, cursor, key = {}, ffi.new "uint64_t[1]", ffi.new("char[?]", KEY_MAX)
   while #list < (max or 1024) do
      local len = C.tw_store_next(self.store, cursor, key, value)
      if len <= 0 then break end
      list[#list + 1] = ffi.string(key, len)
   end
   return list
end

--- Figures.
---@return table stats { count, capacity, bytes, used, room, largest, hits, misses, evictions, expired, full = values
---  that were too long, emptied = parts whose user died in the middle, broken = parts that were damaged, busy =
---  operations given up }
function Store:stats()
   local s, out = ffi.new "struct tw_store_stats", {}
   C.tw_store_get_stats(self.store, s)
   for _, name in ipairs { "count", "capacity", "bytes", "used", "room", "largest", "hits", "misses", "evictions",
      "expired", "full", "emptied", "broken", "busy" } do
      out[name] = tonumber(s[name])
   end
   return out
end

--- Number of entries, with those that have expired and were not removed yet.
---@return integer
function Store:count() return self:stats().count end

function meta:__tostring() return "store " .. self.name end

--- How the REPL shows it: its figures and some of its entries.
function meta:__view()
   local view, list, n = require "tideway.live.view", {}, 0
   for key, found in self:pairs() do
      n = n + 1
      if n > SHOWN then break end
      local text = type(found) == "string" and ("%q"):format(#found > 60 and found:sub(1, 60) .. "..." or found)
         or tostring(found)
      local ttl = self:ttl(key) or 0
      list[n] = { key, text, ttl == math.huge and "" or ("%.0f s"):format(ttl) }
   end
   local s = self:stats()
   local head = ("store %s: %d entries, %d of %d bytes used, %d hits, %d misses, %d evicted, %d expired"):format(
      self.name, s.count, s.used, s.room, s.hits, s.misses, s.evictions, s.expired)
   if n == 0 then return view.text(head, s) end
   return view.list({ view.text(head), view.table({ "key", "value", "expires in" }, list) }, s)
end

-- ---- which there are ----

local noted -- list of numbers, while somebody packs

--- What another VM needs to have it: see tideway.transfer.
function meta:__transfer()
   if noted then noted[self.number] = true end
   return "tideway.store", "attach", { { number = self.number, name = self.name } }
end

local function wrap(n)
   local known = by_number[n]
   if known then return known end
   local pointer = C.tw_store_open(n)
   if pointer == nil then return nil, abi.error() end
   local self = setmetatable({
      store = ffi.gc(pointer, C.tw_store_close), number = n, name = ffi.string(C.tw_store_name(pointer)),
      kind = "store",
   }, meta)
   by_number[n] = self
   return self
end

--- The object of a store that another VM, or another process, has made; called by the transfer of an NF.
---@param d { number: integer, name: string }
---@return tideway.Store
function M.attach(d)
   local self, err = wrap(d.number)
   if not self then error(("store %s: %s"):format(d.name, err), 0) end
   return self
end

--- Calls pack(...) and gives, behind its result, the descriptors of the stores that were packed by it. They stay the
--- stores'; whoever gives them to another process has them passed on at once.
---@param pack fun(...): any
---@return any result
---@return integer[] descriptors
function M.noting(pack, ...)
   local outer = noted
   noted = {}
   local ok, result = pcall(pack, ...)
   local mine = noted
   noted = outer
   if not ok then error(result, 0) end
   local list = {}
   for n in pairs(mine) do list[#list + 1] = C.tw_store_fd(n) end
   table.sort(list)
   return result, list
end

--- In a worker: has the stores whose descriptors it was given, which are taken over.
---@param fds ffi.cdata* int[n]
---@param n integer
---@return boolean? ok
---@return string? error
function M.adopt(fds, n)
   for i = 0, n - 1 do
      if C.tw_store_adopt(0, fds[i]) < 0 then return nil, abi.error() end
   end
   return true
end

local OPTIONS = { name = "string", bytes = "number", entries = "number", piece = "number", shards = "number" }

local function check(o)
   if type(o) ~= "table" then return ("its argument is a %s, not a table of options"):format(type(o)) end
   for key, what in pairs(o) do
      if not OPTIONS[key] then
         return ("%s is not an option; options are bytes, entries, name, piece, shards"):format(tostring(key))
      end
      if type(what) ~= OPTIONS[key] then
         return ("%s is %s, not a %s"):format(key, tostring(what), OPTIONS[key])
      end
      if type(what) == "number" and (what < 1 or what % 1 ~= 0 or what > 2 ^ 40) then
         return ("%s is %s, not a whole number above 0"):format(key, tostring(what))
      end
   end
   if not o.name or o.name == "" or #o.name >= C.TW_NAME_LEN then
      return ("it needs a name of 1 to %d bytes"):format(C.TW_NAME_LEN - 1)
   end
end

local function same(a, b)
   return a.bytes == b.bytes and a.entries == b.entries and a.piece == b.piece and a.shards == b.shards
end

-- One of this name and these sizes that something still has: a script that is loaded again goes on with its entries.
local function known(o)
   for _, store in pairs(by_number) do
      if store.name == o.name and store.options and same(store.options, o) then return store end
   end
end

--- A dictionary in shared memory. A second one of the same name is the same one, when it asks for the same sizes.
---@param o { name: string, bytes: integer?, entries: integer?, piece: integer?, shards: integer? } bytes of memory,
---  everything included, default 1 MB; entries at most, default as fit; piece: unit of memory of values, 64 to 65536,
---  default 256; shards: parts with a lock each, default 16. A value is at most as long as a shard has room for.
---@return tideway.Store
function M.store(o)
   local err = check(o)
   if err then error("tw.store: " .. err, 2) end
   local options = { bytes = o.bytes or 2 ^ 20, entries = o.entries or 0, piece = o.piece or 0, shards = o.shards or 0 }
   options.name = o.name
   local version = model.current()
   local names = declared[version] or {}
   declared[version] = names
   local here = names[o.name]
   if here and not same(here.options, options) then
      error(("tw.store: store %q has %d bytes and %d entries, and cannot be declared once more with other sizes")
         :format(o.name, here.options.bytes, here.options.entries), 2)
   end
   local self = here or known(options)
   if not self then
      local spec = ffi.new("struct tw_store_spec", options)
      local n = C.tw_store_new(spec)
      if n < 0 then -- those that nothing knows any more are still in the way
         collectgarbage()
         collectgarbage()
         n = C.tw_store_new(spec)
      end
      if n < 0 then error("tw.store: " .. abi.error(), 2) end
      self = wrap(n)
      self.options = options
   end
   names[o.name] = self
   return self
end

--- A store of this VM by its name.
---@param name string
---@return tideway.Store?
function M.find(name)
   for _, store in pairs(by_number) do
      if store.name == name then return store end
   end
end

--- The stores that live now, as tw.tables() lists tables.
---@return table[] list
function M.list()
   local list = {}
   for _, store in pairs(by_number) do
      local s = store:stats()
      s.name, s.kind, s.number = store.name, "store", store.number
      list[#list + 1] = s
   end
   table.sort(list, function(a, b) return a.number < b.number end)
   return list
end

return M
