-- SPDX-License-Identifier: BSD-3-Clause
-- Maps of the kernel with the same functions as Tideway's tables.
--
-- Every access is a system call on a copy, programs go on meanwhile. Values of several fields read
-- as entries: v.packets reads what get() found, v.packets = n looks the value up again, changes the
-- one field and stores it; what a program changes between those two calls is lost, and so with
-- add(), exchange() and compare_exchange(). Programs themselves do these atomically. Arrays in an
-- entry are written as a whole. The spin lock of a value is taken by the kernel for each get() and
-- set(), no longer. Arrays made with mmapable = true are memory that user
-- space and programs share: no system calls, references are live, and add() is atomic.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local btf = require "tideway.bpf.btf"
local code = require "tideway.bpf.map_code"
local map_declare = require "tideway.bpf.map_declare"
local map_value = require "tideway.bpf.map_value"
local map_walk = require "tideway.bpf.map_walk"
local btf_read = require "tideway.bpf.btf_read"
local pin = require "tideway.bpf.pin"
local program = require "tideway.bpf.program"

local M = {}

local C = abi.C

---@class tideway.bpf.Map
---@field fd integer
---@field id integer  the kernel's
---@field name string
---@field kind string
---@field entries integer  capacity
---@field key_type tideway.Type?
---@field value_type tideway.Type?
---@field value_size integer  bytes in the kernel, the spin lock included
---@field lock_offset integer?  of the spin lock in the value
---@field family integer?  4 or 6, of an lpm_trie
local base = {}

local kinds, align = map_declare.kinds, map_declare.align
M.kinds, M.declare, M.btf_types = kinds, map_declare.declare, map_declare.btf_types

-- ---- objects ----

local meta = { __index = base }

local function buffers(self, k)
   local size = self.value_size
   if self.value_type then size = math.max(size, self.value_type.size) end
   self.stride = align(math.max(size, 1), 8)
   self.cpus = k.per_cpu and C.tw_bpf_cpus() or 1
   self.raw_size = self.stride * self.cpus
   local env = { fd = self.fd, flags = self.lock_offset and C.TW_BPF_LOCK or 0, is_array = k.array }
   env.key_memory = ffi.new("uint64_t[?]", math.ceil(math.max(self.key_size, 8) / 8))
   env.raw = ffi.new("uint64_t[?]", self.raw_size / 8)
   env.zero = ffi.new("uint64_t[?]", self.raw_size / 8)
   env.kptr = ffi.cast("uint8_t *", env.key_memory)
   if self.key_type then env.key = ffi.cast(ffi.typeof("$ *", self.key_type.ctype), env.key_memory) end
   if self.value_type then env.val = ffi.cast(ffi.typeof("$ *", self.value_type.ctype), env.raw) end
   local value_size, stride = self.value_size, self.stride
   function env.spread()
      local raw = ffi.cast("uint8_t *", env.raw)
      for cpu = 1, self.cpus - 1 do ffi.copy(raw + cpu * stride, raw, value_size) end
   end
   function env.clear() ffi.fill(env.raw, self.raw_size) end
   return env
end

local function map_memory(self, env)
   local size = align(self.stride * self.entries, 4096)
   local memory = C.tw_bpf_map_mmap(self.fd, size, true)
   if memory == nil then return nil, abi.error() end
   self.memory, self.memory_size = memory, size
   env.entries = self.entries
   env.cells = ffi.cast(ffi.typeof("struct { uint8_t bytes[$]; } *", self.stride), memory)
   return true
end

-- The Lua object over a descriptor. `self` has the declaration.
local function wrap(self)
   local k = kinds[self.kind]
   local env = buffers(self, k)
   local list = {}
   for i, name in ipairs(k.methods) do list[i] = name end
   local t = self.value_type
   local scalar = t and map_value.is_integer(t)
   if self.mmapable then
      local ok, err = map_memory(self, env)
      if not ok then return nil, err end
      list = { "mapped", scalar and "mapped_add" or nil }
   elseif k.add and scalar then
      list[#list + 1] = "add"
      list[#list + 1] = t.size >= 4 and "exchange" or nil
   elseif scalar and k.per_cpu then
      list[#list + 1] = "percpu_add"
   elseif not scalar and not k.per_cpu and not k.handles and not k.keyless then
      list[#list + 1] = "put"
   end
   if t then env.read = map_value.reader(self, env) end
   self.env = env
   for name, f in pairs(code.generate(self, list, env)) do self[name] = f end
   if self.kind == "sockmap" or self.kind == "sockhash" then require("tideway.bpf.socket").remember(self) end
   return setmetatable(self, meta)
end

-- What a declaration is, in words that two can be compared by.
local function words_of(info, key, value)
   return ("a %s of %d entries, key %s, value %s, flags 0x%x"):format(info.kind, info.entries, key or info.key_size,
      value or info.value_size, info.flags)
end

-- The map of an earlier run, when it is of the same kind, size and types; nil when there is none.
local function find_pinned(self, path)
   local fd, err = pin.open(path)
   if not fd then return nil, err end
   local there = base.info { fd = fd }
   local key, value, own_key, own_value
   if kinds[self.kind].btf and there.btf_id ~= 0 then
      local b = btf.new()
      local key_id, value_id = M.btf_types(b, self)
      local declared, pinned = btf_read.parse(b:bytes()), btf_read.from_kernel(there.btf_id)
      own_key, own_value = declared:text(key_id), declared:text(value_id)
      if pinned then key, value = pinned:text(there.key_type), pinned:text(there.value_type) end
   end
   -- The kernel sets flags of its own in some kinds, none that we declare.
   there.flags = bit.band(there.flags, bit.bor(C.TW_BPF_NO_PREALLOC, C.TW_BPF_MMAPABLE, C.TW_BPF_RDONLY_PROG))
   local was, is = words_of(there, key, value), words_of(self, own_key, own_value)
   if was ~= is then
      C.tw_bpf_close(fd)
      return nil, ("%s is %s; declared is %s. Remove it, if its entries are not needed, or give another name"):format(
         path, was, is)
   end
   self.fd, self.id, self.pinned, self.adopted = fd, there.id, path, true
   return wrap(self)
end

--- A map. See README for the kinds.
---@param o table  { kind =, name =, key = "u32 src; u16 port", value = "...", entries =, family = 4 or 6
---  (lpm_trie), lock = bool (a spin lock behind the fields), mmapable = bool (array), prealloc = bool,
---  hashes = n (bloom_filter), flags = more flags of the kernel, persist = name of the instance: pinned,
---  and an earlier run's map of the same declaration is taken up with its entries (.adopted) }
---@return tideway.bpf.Map? map
---@return string? err
function M.new(o)
   local self, err = M.declare(o)
   local label = ("map %s"):format(type(o) == "table" and tostring(o.name or o.kind) or "")
   if not self then return nil, ("%s: %s"):format(label, err) end
   local path = o.persist and pin.path(o.persist, "map", self.name)
   if path then
      local found
      found, err = find_pinned(self, path)
      if found or err then return found, err and ("%s: %s"):format(label, err) end
   end
   local types, key_id, value_id = nil, 0, 0
   if kinds[self.kind].btf then
      local b = btf.new()
      key_id, value_id = M.btf_types(b, self)
      types, err = b:load()
      if not types then return nil, ("%s: %s"):format(label, err) end
   end
   local fd = C.tw_bpf_map_create(ffi.new("struct tw_bpf_map_spec", {
      name = program.kernel_name(self.name), kind = self.id_of_kind, key_size = self.key_size,
      value_size = self.value_size, entries = self.entries, flags = self.flags, btf = types or 0,
      key_type = key_id, value_type = value_id, extra = self.hashes or 0, ifindex = o.ifindex or 0,
   }))
   if types then C.tw_bpf_close(types) end
   if fd < 0 then return nil, ("%s: %s"):format(label, abi.error()) end
   self.fd = fd
   self.id = base.info(self).id
   if path then
      local ok
      ok, err = pin.pin(fd, path)
      if not ok then
         C.tw_bpf_close(fd)
         return nil, ("%s: %s"):format(label, err)
      end
      self.pinned, self.note = path, err
   end
   return wrap(self)
end

--- The object for a map that exists: pinned, of another program, or of this process.
---@param fd integer  the object owns it
---@param o? table  { name =, key =, value =, lock = }, or { types = { key =, value =, lock_offset = } } from a
---  BTF; when absent the kernel's BTF of the map says what they are
---@return tideway.bpf.Map? map
---@return string? err
function M.from_fd(fd, o)
   local info = ffi.new "struct tw_bpf_map_info"
   if C.tw_bpf_map_get_info(fd, info) < 0 then return nil, abi.error() end
   local kernel_name = ffi.string(info.name)
   local name = map_declare.names[info.kind]
   if not name then
      return nil, ("map %s is of kind %d, which Tideway does not know"):format(kernel_name, info.kind)
   end
   local k = kinds[name]
   o = o or require("tideway.bpf.map_types").of(info)
   local family = name == "lpm_trie" and (info.key_size == 20 and 6 or info.key_size == 8 and 4) or nil
   local types = o.types
   if family and types then
      types = { value = types.value, key = { size = info.key_size }, lock_offset = types.lock_offset }
   end
   local self, err = M.declare {
      kind = name, name = o.name or kernel_name, key = not k.key and o.key or nil, value = o.value,
      entries = info.entries, family = not types and family or nil, lock = o.lock, types = types,
      mmapable = name == "array" and bit.band(info.flags, C.TW_BPF_MMAPABLE) ~= 0 or nil,
   }
   if not self then return nil, err end
   if family then self.family, self.key_type = family, nil end
   if self.key_size ~= info.key_size or self.value_size ~= info.value_size then
      return nil, ("map %s has keys of %d and values of %d bytes, not %d and %d as declared"):format(self.name,
         info.key_size, info.value_size, self.key_size, self.value_size)
   end
   self.fd, self.id, self.flags = fd, info.id, info.flags
   return wrap(self)
end

-- ---- methods of every map ----

--- What the kernel says: { id, name, kind, key_size, value_size, entries, flags, btf_id, frozen, bytes }.
function base:info()
   local info = ffi.new "struct tw_bpf_map_info"
   if C.tw_bpf_map_get_info(self.fd, info) < 0 then error(abi.error(), 2) end
   return {
      id = info.id, name = ffi.string(info.name), kind = map_declare.names[info.kind] or info.kind,
      key_size = info.key_size, value_size = info.value_size, entries = info.entries, flags = info.flags,
      btf_id = info.btf_id,
      key_type = info.key_type, value_type = info.value_type, frozen = info.frozen ~= 0,
      bytes = tonumber(info.bytes),
   }
end

base.pairs = map_walk.pairs

--- The value of exactly this prefix of an lpm_trie, or nil. The kernel gives the longest match only, so
--- this walks the map.
---@param address any  a text such as "10.0.0.0/8", or an address and a length
---@param length? integer
function base:find(address, length)
   if not self.family then error(("a %s has no prefixes"):format(self.kind), 2) end
   self.env.prefix(address, length)
   local wanted = ffi.string(self.env.kptr, self.key_size)
   for keys, _, count in map_walk.walk(self) do
      for i = 0, count - 1 do
         if ffi.string(keys + i * self.key_size, self.key_size) == wanted then
            ffi.copy(self.env.kptr, wanted, self.key_size)
            return C.tw_bpf_map_lookup(self.fd, self.env.kptr, self.env.raw, 0) == 0 and self.env.read() or nil
         end
      end
   end
end

--- Number of entries now; for arrays their size. Walks the map.
---@return integer count
function base:count()
   if kinds[self.kind].array and not kinds[self.kind].handles then return self.entries end
   local total = 0
   for _, _, n in map_walk.walk(self) do total = total + n end
   return total
end

--- Figures: { count, capacity, bytes, id, kind }. count is nil for maps that cannot be walked.
function base:stats()
   local info = self:info()
   local count = not self.keyless and self:count() or nil
   return { count = count, capacity = self.entries, bytes = info.bytes, id = info.id, kind = self.kind }
end

--- Removes all entries; arrays become zero.
---@return integer removed  number of entries
function base:clear()
   local k = kinds[self.kind]
   local removed = 0
   if self.memory then
      ffi.fill(self.memory, self.memory_size)
      return self.entries
   elseif k.array and not k.handles then
      local key = ffi.new "uint32_t[1]"
      for i = 0, self.entries - 1 do
         key[0] = i
         if C.tw_bpf_map_update(self.fd, key, self.env.zero, 0) < 0 then error(abi.error(), 2) end
      end
      return self.entries
   elseif self.keyless then
      if not self.pop then error(("a %s cannot be cleared"):format(self.kind), 2) end
      while self:pop() ~= nil do removed = removed + 1 end
      return removed
   end
   local count = ffi.new "uint32_t[1]"
   for keys, _, n in map_walk.walk(self) do
      count[0] = n
      if n > 1 and C.tw_bpf_map_delete_batch(self.fd, keys, count) == 0 then
         removed = removed + n
      else -- no batches for the kind, or an entry went meanwhile, which ends a batch
         for i = 0, n - 1 do
            if C.tw_bpf_map_delete(self.fd, keys + i * self.key_size) == 0 then removed = removed + 1 end
         end
      end
   end
   return removed
end

--- No system call changes the map from now on; programs may.
function base:freeze()
   if C.tw_bpf_map_freeze(self.fd) < 0 then error(abi.error(), 2) end
end

--- The reader of a ring buffer, one at a time: next(), poll(ms), close().
---@return table? reader
---@return string? err
function base:reader()
   return require("tideway.bpf.ringbuf").open(self)
end

-- The one reader behind poll() and records().
local function own_reader(self)
   if self.kind ~= "ringbuf" then error(("a %s has no records to poll"):format(self.kind), 3) end
   if not self.records_of then
      local reader, err = self:reader()
      if not reader then error(("map %s: %s"):format(self.name, err), 3) end
      self.records_of = reader
   end
   return self.records_of
end

--- Waits for a record of a ring buffer.
---@param ms? integer  at most; 0, which is the default, only looks
---@return boolean there
function base:poll(ms)
   return own_reader(self):poll(ms or 0)
end

--- Takes the records of a ring buffer that are there now: `for record in map:records() do`. A record is a copy of
--- what its value type says, or a string.
---@return fun(): any
function base:records()
   local reader = own_reader(self)
   return function() return reader:next() end
end

--- Removes the pin: the map ends with the last process or program that uses it.
function base:unpersist()
   if not self.pinned then return true end
   local ok, err = pin.unpin(self.pinned)
   if ok then self.pinned = nil end
   return ok, err
end

--- Closes the descriptor. Programs that use the map keep it alive.
function base:free()
   if self.records_of then
      self.records_of:close()
      self.records_of = nil
   end
   if self.memory then C.tw_bpf_map_munmap(self.memory, self.memory_size) end
   if self.owner then ffi.gc(self.owner, nil) end
   C.tw_bpf_close(self.fd)
   self.fd, self.memory = -1, nil
   for name, f in pairs(self) do
      if type(f) == "function" then self[name] = function() error("this map was freed", 2) end end
   end
end

meta.__tostring = function(self) return ("%s %s"):format(self.kind, self.name) end

-- All VMs are in one process: a descriptor is good in each.
meta.__transfer = function(self)
   return "tideway.bpf.map", "attach", { {
      fd = self.fd, kind = self.kind, name = self.name, key = self.key_type and self.key_type.text,
      value = self.value_type and self.value_type.text, lock = self.lock_offset and true or nil,
   } }
end

local attached = {}

--- Makes the object of a map that another VM of this process has; called by the transfer of an NF.
---@param d table  what __transfer gave
---@return tideway.bpf.Map
function M.attach(d)
   if not attached[d.fd] then
      attached[d.fd] = assert(M.from_fd(d.fd, d))
   end
   return attached[d.fd]
end

return M
