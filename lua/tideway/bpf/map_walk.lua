-- SPDX-License-Identifier: BSD-3-Clause
-- Walks the entries of a map: in batches where the kernel has them for the kind, else one by one.

local ffi = require "ffi"
local abi = require "tideway.abi"
local map_value = require "tideway.bpf.map_value"

local M = {}

local C = abi.C
local ENOENT, ENOSPC = -2, -28
local BATCH = 256

-- Keys and values, batch by batch: f() -> keys, values, count, nil at the end.
local function batches(self)
   local size = math.max(self.key_size, 8)
   local cursor, first, over, room = ffi.new("uint8_t[?]", size), true, false, BATCH
   local count = ffi.new "uint32_t[1]"
   return function()
      while not over do
         local keys = ffi.new("uint8_t[?]", room * self.key_size)
         local values = ffi.new("uint8_t[?]", room * self.raw_size)
         count[0] = room
         local rc = C.tw_bpf_map_read_batch(self.fd, cursor, first, self.env.flags, keys, values, count)
         if rc == ENOSPC then
            room = room * 2 -- a bucket of the hash is larger than the room
         elseif rc < 0 and rc ~= ENOENT then
            if not first then error(abi.error(), 3) end
            return nil, rc -- no batches for this kind, or in this kernel
         else
            first, over = false, rc == ENOENT
            if count[0] > 0 then return keys, values, count[0] end
         end
      end
   end
end

-- The same with a system call per entry, where the kernel has no batches for the kind.
local function singles(self)
   local key, more = nil, true
   return function()
      while more do
         local next, value = ffi.new("uint8_t[?]", self.key_size), ffi.new("uint8_t[?]", self.raw_size)
         local rc = C.tw_bpf_map_next_key(self.fd, key, next)
         if rc < 0 then
            more = false
            if rc ~= ENOENT then error(abi.error(), 3) end
            return nil
         end
         key = next
         if C.tw_bpf_map_lookup(self.fd, key, value, self.env.flags) == 0 then return key, value, 1 end
      end
   end
end

local function key_copy(self, pointer)
   if self.family then return map_value.prefix(self.family, pointer) end
   return map_value.copy(self.key_type, pointer)
end

local function value_copy(self, pointer)
   if not self.per_cpu then return map_value.copy(self.value_type, pointer) end
   local list = {}
   for cpu = 0, self.cpus - 1 do list[cpu + 1] = map_value.copy(self.value_type, pointer + cpu * self.stride) end
   return list
end

--- Batches of entries: `for keys, values, count in M.walk(map) do`.
---@param self tideway.bpf.Map
function M.walk(self)
   if self.keyless then error(("a %s has no entries to walk"):format(self.kind), 3) end
   local next = batches(self)
   local keys, values, count = next()
   if not keys and values then
      next = singles(self)
      keys, values, count = next()
   end
   return function()
      local k, v, n = keys, values, count
      if k then keys, values, count = next() end
      return k, v, n
   end
end

--- Iterates over copies of the entries, in no order: `for key, value in m:pairs() do`. Values of
--- per-CPU maps are lists, one value a CPU. Entries that come and go meanwhile may or may not be seen.
---@param self tideway.bpf.Map
function M.pairs(self)
   local next = M.walk(self)
   local keys, values, count, i = nil, nil, 0, 0
   -- In a batch, values of other kinds than per-CPU ones are not rounded up.
   local stride = self.per_cpu and self.raw_size or self.value_size
   return function()
      if i == count then
         keys, values, count = next()
         if not keys then
            count, i = 0, 0
            return nil
         end
         i = 0
      end
      i = i + 1
      return key_copy(self, keys + (i - 1) * self.key_size), value_copy(self, values + (i - 1) * stride)
   end
end

return M
