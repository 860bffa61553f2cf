-- SPDX-License-Identifier: BSD-3-Clause
-- Reads BTF: the types of maps that others made, as layouts whose fields have names.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"

local M = {}

local C = abi.C
local band, rshift = bit.band, bit.rshift

local kinds = { [0] = "void", "int", "ptr", "array", "struct", "union", "enum", "fwd", "typedef", "volatile", "const",
   "restrict", "func", "func_proto", "var", "datasec", "float", "decl_tag", "type_tag", "enum64" }
local transparent = { typedef = true, volatile = true, const = true, restrict = true, type_tag = true }

---@class tideway.bpf.BtfTypes
---@field [integer] table  { kind, name, size, type, members, ... } by id
local Types = {}
Types.__index = Types

-- Words behind the common three of each kind.
local readers = {
   int = function(t, w)
      t.bits, t.signed = band(w[0], 0xff), band(rshift(w[0], 24), 1) == 1
      return 1
   end,
   array = function(t, w)
      t.type, t.count = w[0], w[2]
      return 3
   end,
   var = function(t, w)
      t.linkage = w[0]
      return 1
   end,
   decl_tag = function() return 1 end,
   enum = function(t) return t.vlen * 2 end,
   enum64 = function(t) return t.vlen * 3 end,
   func_proto = function(t) return t.vlen * 2 end,
   datasec = function(t, w)
      t.members = {}
      for i = 0, t.vlen - 1 do
         t.members[i + 1] = { type = w[i * 3], offset = w[i * 3 + 1], size = w[i * 3 + 2] }
      end
      return t.vlen * 3
   end,
}

function readers.struct(t, w, text)
   t.members = {}
   for i = 0, t.vlen - 1 do
      local at = w[i * 3 + 2]
      t.members[i + 1] = { name = text(w[i * 3]), type = w[i * 3 + 1], bits = t.flag and rshift(at, 24) or 0,
         offset = (t.flag and band(at, 0xffffff) or at) / 8 }
   end
   return t.vlen * 3
end
readers.union = readers.struct

--- Reads BTF.
---@param data string  as the kernel and the .BTF section have it
---@return tideway.bpf.BtfTypes types
function M.parse(data)
   local bytes = ffi.cast("const uint8_t *", data)
   local header = ffi.cast("const uint32_t *", bytes)
   assert(band(header[0], 0xffff) == 0xeb9f, "not BTF")
   local length, type_off, type_len, str_off = header[1], header[2], header[3], header[4]
   local strings = bytes + length + str_off
   local function text(offset) return ffi.string(strings + offset) end
   local w = ffi.cast("const uint32_t *", bytes + length + type_off)
   local stop = w + type_len / 4
   local types = setmetatable({ data = data }, Types)
   while w < stop do
      local info = w[1]
      local t = { name = text(w[0]), kind = kinds[band(rshift(info, 24), 0x1f)], vlen = band(info, 0xffff),
         flag = rshift(info, 31) == 1, size = w[2], type = w[2] }
      w = w + 3
      local read = readers[t.kind]
      if read then w = w + read(t, w, text) end
      t.id = #types + 1
      types[t.id] = t
   end
   return types
end

--- The BTF of an id in the kernel.
---@param id integer
---@return tideway.bpf.BtfTypes? types
---@return string? err
function M.from_kernel(id)
   local size = C.tw_bpf_btf_read(id, nil, 0)
   if size < 0 then return nil, abi.error() end
   local data = ffi.new("uint8_t[?]", size)
   if C.tw_bpf_btf_read(id, data, size) < 0 then return nil, abi.error() end
   return M.parse(ffi.string(data, size))
end

--- What a type is, behind its typedefs and qualifiers; nil for void.
function Types:resolve(id)
   local t = self[id]
   while t and transparent[t.kind] do t = self[t.type] end
   return t
end

--- The type of that kind and name, or nil.
function Types:find(kind, name)
   for _, t in ipairs(self) do
      if t.kind == kind and t.name == name then return t end
   end
end

--- Bytes of an object of the type.
function Types:size_of(id)
   local t = self:resolve(id)
   if not t then return 0 end
   if t.kind == "ptr" then return 8 end
   if t.kind == "array" then return t.count * self:size_of(t.type) end
   return t.size
end

--- A type as a text: "u32", "{ u32 src; u16 port }".
---@param id integer
---@return string
function Types:text(id)
   local t = self:resolve(id)
   if not t then return "void" end
   if t.kind == "array" then return ("%s[%d]"):format(self:text(t.type), t.count) end
   if t.kind == "ptr" then return "pointer" end
   if t.members then
      local parts = {}
      for i, m in ipairs(t.members) do parts[i] = ("%s %s"):format(self:text(m.type), m.name) end
      return "{ " .. table.concat(parts, "; ") .. " }"
   end
   return t.name ~= "" and t.name or t.kind
end

-- ---- layouts ----

local integers = {
   [1] = { [false] = "uint8_t", [true] = "int8_t" }, [2] = { [false] = "uint16_t", [true] = "int16_t" },
   [4] = { [false] = "uint32_t", [true] = "int32_t" }, [8] = { [false] = "uint64_t", [true] = "int64_t" },
}

local declare

-- Members at their offsets, what lies between them as padding, all packed: BTF has no alignments.
local function declare_members(types, t)
   local out, at, seen = {}, 0, {}
   local function pad(to)
      if to > at then out[#out + 1] = ("uint8_t pad_%d_[%d];"):format(at, to - at) end
      at = to
   end
   for _, m in ipairs(t.members) do
      local size = types:size_of(m.type)
      -- Bit fields: only whole units are reached.
      if m.bits == 0 and m.offset % 1 == 0 and not (m.name ~= "" and seen[m.name]) then
         if t.kind == "struct" then pad(m.offset) end
         seen[m.name] = true
         out[#out + 1] = declare(types, m.type, m.name) .. ";"
         at = m.offset + size
      end
   end
   if t.kind == "struct" then pad(t.size) end
   return table.concat(out, " ")
end

-- A C declaration of `name` of the type.
function declare(types, id, name)
   local t = types:resolve(id)
   local kind = t and t.kind
   if kind == "int" or kind == "enum" or kind == "enum64" then
      local c = integers[t.size]
      return c and ("%s %s"):format(c[t.signed or false], name) or ("uint8_t %s[%d]"):format(name, t.size)
   elseif kind == "array" then
      return declare(types, t.type, ("%s[%d]"):format(name, t.count))
   elseif kind == "struct" or kind == "union" then
      return ("%s __attribute__((packed)) { %s } %s"):format(kind, declare_members(types, t), name)
   elseif kind == "float" then
      return ("%s %s"):format(t.size == 4 and "float" or "double", name)
   end
   return ("uint64_t %s"):format(name) -- a pointer
end

local own = { u8 = true, u16 = true, u32 = true, u64 = true, i32 = true, i64 = true, ns = true, mac = true }
local by_size = { [1] = "u8", [2] = "u16", [4] = "u32", [8] = "u64" }

-- What a field reads and stores as: one of the names of table/type.lua, or nil for a compound.
local function field_type(t)
   if t.kind ~= "int" and t.kind ~= "enum" and t.kind ~= "enum64" then return nil end
   if own[t.name] then return t.name end
   if t.signed then return t.size == 8 and "i64" or "i32" end
   return by_size[t.size]
end

--- A type as tables have it: fields with names, and a C layout.
---@param id integer
---@return tideway.Type type  fields that are arrays or structures are `compound` and have no `type`
---@return integer? lock_offset  of a spin lock in it
function Types:layout(id)
   local t = self:resolve(id)
   local size = self:size_of(id)
   local scalar = field_type(t)
   if scalar then
      local ctype = ffi.typeof(integers[t.size][t.signed or false])
      return { text = self:text(id), scalar = true, size = size, align = size, ctype = ctype,
         fields = { { name = "value", raw = "value", type = scalar, offset = 0, size = size } } }
   end
   if t.kind ~= "struct" then -- an array or union: a structure with one field
      local ctype = ffi.typeof(("struct __attribute__((packed)) { %s; }"):format(declare(self, id, "value")))
      return { text = self:text(id), scalar = false, size = size, align = 1, ctype = ctype,
         fields = { { name = "value", raw = "value", offset = 0, size = size, compound = true } } }
   end
   local fields, lock_offset = {}, nil
   for _, m in ipairs(t.members) do
      local mt = self:resolve(m.type)
      if mt and mt.kind == "struct" and mt.name == "bpf_spin_lock" then
         lock_offset = m.offset -- not for user space
      elseif m.bits == 0 and m.name ~= "" then
         local kind = field_type(mt)
         fields[#fields + 1] = { name = m.name, raw = m.name, type = kind, compound = not kind, offset = m.offset,
            size = self:size_of(m.type) }
      end
   end
   local ctype = ffi.typeof(("struct __attribute__((packed)) { %s }"):format(declare_members(self, t)))
   assert(ffi.sizeof(ctype) == size, "layout differs from BTF's")
   return { text = self:text(id), scalar = false, size = size, align = 1, ctype = ctype, fields = fields },
      lock_offset
end

return M
