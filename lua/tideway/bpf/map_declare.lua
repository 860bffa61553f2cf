-- SPDX-License-Identifier: BSD-3-Clause
-- Kinds of maps, and declarations of maps: checked, with their types and sizes, before there is a map.

local bit = require "bit"
local abi = require "tideway.abi"
local type_lib = require "tideway.table.type"
local btf = require "tideway.bpf.btf"

local M = {}

local C = abi.C

-- kind -> { id, methods = templates, key/value = default type texts, btf, handles = arguments that
-- may be objects or names, per_cpu, array, lookup = false: values cannot be read back }
local kinds = {}

local function kind(name, id, o)
   o.id = id
   kinds[name] = o
end

local access = { "get", "set", "del", "take" }
kind("hash", C.TW_BPF_HASH, { methods = access, btf = true, add = true })
kind("lru_hash", C.TW_BPF_LRU_HASH, { methods = access, btf = true, add = true })
kind("percpu_hash", C.TW_BPF_PERCPU_HASH, { methods = { "get", "set", "del", "sum" }, btf = true, per_cpu = true })
kind("lru_percpu_hash", C.TW_BPF_LRU_PERCPU_HASH,
   { methods = { "get", "set", "del", "sum" }, btf = true, per_cpu = true })
kind("lpm_trie", C.TW_BPF_LPM_TRIE, { methods = { "get", "set", "del" }, btf = true })
kind("array", C.TW_BPF_ARRAY, { methods = { "get", "set" }, btf = true, array = true, key = "u32", add = true })
kind("percpu_array", C.TW_BPF_PERCPU_ARRAY,
   { methods = { "get", "set", "sum" }, btf = true, array = true, key = "u32", per_cpu = true })
kind("prog_array", C.TW_BPF_PROG_ARRAY,
   { methods = { "get", "set", "del" }, array = true, key = "u32", value = "u32", handles = { "fd" } })
kind("devmap", C.TW_BPF_DEVMAP, { methods = { "get", "set", "del" }, array = true, key = "u32",
   value = "u32 ifindex; u32 program", handles = { "ifindex", "fd" } })
kind("devmap_hash", C.TW_BPF_DEVMAP_HASH, { methods = { "get", "set", "del" }, key = "u32",
   value = "u32 ifindex; u32 program", handles = { "ifindex", "fd" } })
kind("cpumap", C.TW_BPF_CPUMAP, { methods = { "get", "set", "del" }, array = true, key = "u32",
   value = "u32 size; u32 program", handles = { "size", "fd" } })
kind("xskmap", C.TW_BPF_XSKMAP,
   { methods = { "set", "del" }, array = true, key = "u32", value = "u32", handles = { "fd" } })
kind("sockmap", C.TW_BPF_SOCKMAP,
   { methods = { "get", "set", "del" }, array = true, key = "u32", value = "u64", handles = { "fd" } })
kind("sockhash", C.TW_BPF_SOCKHASH, { methods = { "get", "set", "del" }, value = "u64", handles = { "fd" } })
kind("reuseport_sockarray", C.TW_BPF_REUSEPORT_SOCKARRAY,
   { methods = { "get", "set", "del" }, array = true, key = "u32", value = "u64", handles = { "fd" } })
kind("queue", C.TW_BPF_QUEUE, { methods = { "push", "pop" }, keyless = true })
kind("stack", C.TW_BPF_STACK, { methods = { "push", "pop" }, keyless = true })
kind("bloom_filter", C.TW_BPF_BLOOM_FILTER, { methods = { "push", "bloom" }, keyless = true })
kind("ringbuf", C.TW_BPF_RINGBUF, { methods = {}, keyless = true, valueless = true })

M.kinds = kinds

--- Names of the kinds by the kernel's numbers.
---@type table<integer, string>
M.names = {}
for name, k in pairs(kinds) do M.names[k.id] = name end

local function align(n, to) return math.ceil(n / to) * to end
M.align = align

local function btf_key(b, self)
   if self.family then
      local address = self.family == 6 and b:array(b:int("u8", 1), 16) or b:int("be32", 4)
      return b:struct(btf.identifier(self.name) .. "_key", self.key_size,
         { { "prefixlen", b:int("u32", 4), 0 }, { "address", address, 4 } })
   end
   return b:of(self.key_type, self.name .. "_key")
end

--- Adds the types of a map's key and value to a BTF.
---@param b tideway.bpf.Btf
---@param self tideway.bpf.Map|table
---@return integer key_id
---@return integer value_id
function M.btf_types(b, self)
   return btf_key(b, self), b:of(self.value_type, self.name .. "_value", self.value_size, self.lock_offset)
end

local allowed = { name = true, kind = true, key = true, value = true, entries = true, family = true, lock = true,
   mmapable = true, prealloc = true, flags = true, hashes = true, ifindex = true,
   persist = true, types = true }

local function type_of(text, which)
   local t, err = type_lib.parse(text)
   if not t then
      return nil, ("%s type %s: %s"):format(which, type(text) == "string" and '"' .. text .. '"' or tostring(text), err)
   end
   return t
end

local function check_entries(k, o)
   local n = o.entries
   if type(n) ~= "number" or n < 1 or n > 2 ^ 31 or n % 1 ~= 0 then
      return ("entries is %s, not a whole number from 1"):format(tostring(n))
   end
   if k == kinds.ringbuf and (n % 4096 ~= 0 or bit.band(n, n - 1) ~= 0) then
      return ("entries of a ring buffer are bytes, a power of two and whole pages; %d is not"):format(n)
   end
end

-- Fills in sizes and types; returns a sentence when the declaration is wrong.
local function declare_types(self, k, o)
   local err
   if k.keyless then
      if o.key then return ("a %s has no key"):format(self.kind) end
      self.key_size = 0
   elseif o.types then
      self.key_type = o.types.key
      self.key_size = self.key_type.size
   elseif self.kind == "lpm_trie" then
      self.family = o.family or 4
      if self.family ~= 4 and self.family ~= 6 then return ("family is %s, not 4 or 6"):format(tostring(o.family)) end
      if o.key then return "an lpm_trie has family = 4 or 6 instead of a key" end
      self.key_size = self.family == 6 and 20 or 8
   else
      if k.key and o.key and o.key ~= k.key then return ("the key of a %s is %s"):format(self.kind, k.key) end
      self.key_type, err = type_of(k.key or o.key, "key")
      if err then return err end
      self.key_size = self.key_type.size
   end
   if k.valueless and not o.value then
      self.value_size = 0
      return
   end
   if o.types then
      self.value_type, self.lock_offset = o.types.value, o.types.lock_offset
      self.value_size = k.valueless and 0 or self.value_type.size
      return
   end
   self.value_type, err = type_of(o.value or k.value, "value")
   if err then return err end
   self.value_size = k.valueless and 0 or self.value_type.size
   if o.lock then
      if not k.btf or k.per_cpu or self.kind == "lru_hash" or self.kind == "lpm_trie" then
         return ("a %s cannot have a spin lock; hash and array can"):format(self.kind)
      end
      self.lock_offset = align(self.value_type.size, 4)
      self.value_size = align(self.lock_offset + 4, math.max(4, self.value_type.align))
   end
end

local function flags_of(self, o)
   local flags = o.flags or 0
   if self.kind == "lpm_trie" or o.prealloc == false then flags = bit.bor(flags, C.TW_BPF_NO_PREALLOC) end
   if o.mmapable then
      if self.kind ~= "array" or o.lock then
         return nil, "only an array without a lock can be mmapable"
      end
      flags = bit.bor(flags, C.TW_BPF_MMAPABLE)
   end
   return flags
end

--- A map's declaration, checked, without the map: what a map in an ELF file is written from.
---@param o table  as for M.new
---@return tideway.bpf.Map|table|nil declaration
---@return string? err
function M.declare(o)
   if type(o) ~= "table" then return nil, ("its argument is a %s, not a table of options"):format(type(o)) end
   for option in pairs(o) do
      if not allowed[option] then return nil, ("%s is not an option of a map"):format(tostring(option)) end
   end
   local k = kinds[o.kind]
   if not k then return nil, ("'%s' is not a kind of map"):format(tostring(o.kind)) end
   local self = { kind = o.kind, name = o.name or o.kind, entries = o.entries, per_cpu = k.per_cpu, keyless = k.keyless,
      handles = k.handles, mmapable = o.mmapable, hashes = o.hashes }
   local err = check_entries(k, o) or declare_types(self, k, o)
   if err then return nil, err end
   self.flags, err = flags_of(self, o)
   if err then return nil, err end
   self.id_of_kind = k.id
   return self
end

return M
