-- SPDX-License-Identifier: BSD-3-Clause
-- What Lua gets of keys and values that lie in a buffer: numbers, copies, entries that write through.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local type_lib = require "tideway.table.type"

local M = {}

local C = abi.C
local ENOENT = -2

--- Is it one integer, read as a number or a 64-bit integer?
---@param t tideway.Type
---@return boolean
function M.is_integer(t) return t.scalar and not type_lib.basic[t.fields[1].type].struct end

--- A copy of what lies at a pointer: a number, or an object of the type.
---@param t tideway.Type
---@param pointer ffi.cdata*
local function copy_of(t, pointer)
   if M.is_integer(t) then
      local value = ffi.cast(ffi.typeof("$ *", t.ctype), pointer)[0]
      return type_lib.basic[t.fields[1].type].number and tonumber(value) or value
   end
   local copy = ffi.new(t.ctype)
   ffi.copy(copy, pointer, t.size)
   return copy
end

-- An entry: reads what was found, writes through. The key is kept as bytes.
local function entry_meta(self, env)
   local t, size = self.value_type, self.raw_size
   local is_field, fixed = {}, {}
   for _, field in ipairs(t.fields) do
      is_field[field.name] = field
      -- An element written in the copy would be lost: arrays and addresses are written as a whole.
      if field.array then fixed[field.name] = ffi.typeof("const $ *", field.array.ctype) end
      if field.type == "ip6" and not field.array then fixed[field.name] = ffi.typeof "const struct tw_in6 *" end
   end
   local function bad(name)
      if self.lock_offset and (name == "lock" or name == "unlock") then
         error(("map %s: only programs hold the lock of a kernel map; here get() and set() of the whole value take it")
            :format(self.name), 3)
      end
      error(("map %s has no field '%s'"):format(self.name, tostring(name)), 3)
   end
   local function read(entry, name)
      if not is_field[name] then bad(name) end
      local found = rawget(entry, 1)[name]
      return fixed[name] and ffi.cast(fixed[name], found)[0] or found
   end
   -- A trace that reads a field by the metatype's __index has no guard on the name, and the next name runs on it.
   require("jit").off(read)
   return {
      __index = read,
      __newindex = function(entry, name, value)
         if not is_field[name] then bad(name) end
         local key, now = rawget(entry, 2), ffi.new("uint8_t[?]", size)
         local rc = C.tw_bpf_map_lookup(self.fd, key, now, env.flags)
         if rc == ENOENT then return end -- gone meanwhile, as with tables
         if rc < 0 then error(abi.error(), 2) end
         local field = is_field[name]
         local target = ffi.cast(env.vptr, now)[0]
         if field.compound or field.type == "ip6" then
            env.compound(target[field.raw], value, field.size)
         else
            target[field.raw] = value
         end
         ffi.copy(rawget(entry, 1), now, t.size)
         rc = C.tw_bpf_map_update(self.fd, key, now, C.TW_BPF_EXIST + env.flags)
         if rc < 0 and rc ~= ENOENT then error(abi.error(), 2) end
      end,
      __tostring = function(entry) return tostring(rawget(entry, 1)) end,
   }
end

M.copy = copy_of

--- The function that makes a value of what lies in a map's buffer.
---@param self tideway.bpf.Map
---@param env table  the map's buffers
---@return fun(): any
function M.reader(self, env)
   local t = self.value_type
   if self.per_cpu then
      local raw = ffi.cast("uint8_t *", env.raw)
      return function()
         local list = {}
         for cpu = 0, self.cpus - 1 do list[cpu + 1] = copy_of(t, raw + cpu * self.stride) end
         return list
      end
   end
   if t.scalar or self.keyless then return function() return copy_of(t, env.raw) end end
   local meta
   return function()
      meta = meta or entry_meta(self, env)
      local key = ffi.new("uint8_t[?]", self.key_size)
      ffi.copy(key, env.kptr, self.key_size)
      return setmetatable({ copy_of(t, env.raw), key }, meta)
   end
end

local lpm_keys = {}

-- What pairs() of an lpm_trie gives as key: address as tables have it, length, a text.
local function lpm_key_type(family)
   if not lpm_keys[family] then
      if family == 6 then type_lib.parse "ip6" end
      lpm_keys[family] = ffi.metatype(family == 6 and "struct { struct tw_in6 address; uint32_t length; }"
         or "struct { uint32_t address, length; }", {
         __tostring = function(self)
            local text = ffi.new "char[64]"
            C.tw_prefix_print(family, self, self.length, text, 64)
            return ffi.string(text)
         end,
      })
   end
   return lpm_keys[family]
end

--- The key of an lpm_trie from its bytes.
---@param family integer
---@param raw ffi.cdata*
function M.prefix(family, raw)
   local key = lpm_key_type(family)()
   local word = ffi.cast("int32_t *", raw)
   key.length = word[0]
   if family == 6 then
      ffi.copy(key, word + 1, 16)
   else
      ffi.cast("int32_t *", key)[0] = bit.bswap(word[1])
   end
   return key
end

return M
