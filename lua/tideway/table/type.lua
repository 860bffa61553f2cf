-- SPDX-License-Identifier: BSD-3-Clause
-- Types of table keys and values: from a text such as "u32 src; u16 port" to a C layout.

local ffi = require "ffi"
local array = require "tideway.packet.array"

local M = {}

---@class tideway.Field
---@field name string
---@field type string  one of the names in the table below
---@field offset integer  bytes
---@field size integer  bytes
---@field raw string  member name in the C struct
---@field array tideway.array?  "u8 name[16]"

---@class tideway.Type
---@field text string  the declaration
---@field scalar boolean  one nameless field
---@field fields tideway.Field[]  in order; the layout is that of a C struct
---@field size integer  bytes, padding at the end included
---@field align integer  bytes
---@field ctype ffi.ctype*  what the fields lie in: the scalar, or a struct
---@field lock_offset integer?  of the spin lock behind the fields

-- ns and mac are 64 bits wide in memory. Lua sees them as numbers, which are exact to 2^53 ns
-- (104 days of uptime, then to 2 ns); int64_t converts to a number in one instruction.
local basic = {
   u8 = { size = 1, c = "uint8_t" },
   u16 = { size = 2, c = "uint16_t" },
   u32 = { size = 4, c = "uint32_t" },
   u64 = { size = 8, c = "uint64_t" },
   i32 = { size = 4, c = "int32_t" },
   i64 = { size = 8, c = "int64_t" },
   ns = { size = 8, c = "int64_t", number = true },
   mac = { size = 8, c = "int64_t", number = true },
   ip6 = { size = 16, c = "struct tw_in6", struct = true },
}
local names = "u8 u16 u32 u64 i32 i64 ns mac ip6"

M.basic = basic

--- Types of several fields by LuaJIT's number of their struct; for the compiler.
M.by_ctype = {}

local cache = {}

local function need_in6()
   if not pcall(ffi.sizeof, "struct tw_in6") then
      require "tideway.packet.address"
   end
   basic.ip6.align = 8 -- keys are stored as 64-bit words
end

-- "name[16]": the name and the array type.
local function parse_array(kind, declaration)
   local name, count = declaration:match "^%s*%w+%s+([%a_][%w_]*)%s*%[%s*(%w+)%s*%]%s*$"
   if not name then
      return nil, ("'%s' is not an array: write a type, a name and [n]"):format(declaration:match "^%s*(.-)%s*$")
   end
   local elements, why = array.of(kind, tonumber(count))
   if not elements then return nil, ("%s[%s]: %s"):format(name, count, why) end
   return { name = name, type = kind, array = elements }
end

local function parse_field(declaration)
   if declaration:find "[%[%]]" then return parse_array(declaration:match "^%s*(%w*)", declaration) end
   local words = {}
   for word in declaration:gmatch("%S+") do
      words[#words + 1] = word
   end
   local kind, name = words[1], words[2]
   if not basic[kind] then
      return nil, ("'%s' is not a type: types are %s"):format(kind, names)
   end
   if #words > 2 or (name and not name:match("^[%a_][%w_]*$")) then
      return nil, ("'%s' is not a field: write a type and a name"):format(declaration:match("^%s*(.-)%s*$"))
   end
   return { name = name, type = kind }
end

local function parse_fields(text)
   local fields, seen = {}, {}
   for declaration in text:gmatch("[^;]+") do
      if declaration:match("%S") then
         local field, err = parse_field(declaration)
         if not field then
            return nil, err
         end
         if field.name and seen[field.name] then
            return nil, ("field '%s' is declared twice"):format(field.name)
         end
         seen[field.name or ""] = true
         fields[#fields + 1] = field
      end
   end
   if #fields == 0 then
      return nil, "it declares no field"
   end
   if #fields > 1 and seen[""] then
      return nil, "only a type of one field can leave out its name"
   end
   return fields
end

-- Natural alignment with explicit padding, so that every byte of a key is defined. A spin lock is the kernel's struct
-- bpf_spin_lock, behind the fields.
local function lay_out(fields, lock)
   local offset, align, pads, c = 0, 1, 0, {}
   local function pad_to(n)
      local gap = -offset % n
      if gap > 0 then
         pads = pads + 1
         c[#c + 1] = ("uint8_t pad_%d[%d];"):format(pads, gap)
         offset = offset + gap
      end
   end
   for _, field in ipairs(fields) do
      local b, elements = basic[field.type], field.array
      local a = elements and elements.element_size or b.align or b.size
      pad_to(a)
      field.offset, field.size = offset, (elements or b).size
      field.raw = not elements and b.number and "raw_" .. field.name or field.name
      c[#c + 1] = ("%s %s;"):format((elements or b).c, field.raw)
      offset = offset + field.size
      align = math.max(align, a)
   end
   pad_to(align)
   local lock_offset
   if lock then
      align = math.max(align, 4)
      pad_to(4)
      lock_offset = offset
      c[#c + 1] = "uint32_t raw_lock;"
      offset = offset + 4
      pad_to(align)
   end
   return offset, align, "struct { " .. table.concat(c, " ") .. " }", lock_offset
end

-- Reads as a Lua value what `field` holds in the C object whose members are reached by `prefix`.
local function read_expression(prefix, field)
   local e = ("%s[%q]"):format(prefix, field.raw)
   return basic[field.type].number and ("tonumber(%s)"):format(e) or e
end

-- The methods of an entry with a lock.
local function lock_methods(offset)
   local C = require("tideway.abi").C
   local bytes, cast, string_of = ffi.typeof "uint8_t *", ffi.cast, ffi.string
   local function lock(self)
      local rc = C.tw_lock(cast(bytes, self) + offset)
      if rc ~= 0 then error(string_of(C.tw_error()), 2) end
   end
   local function unlock(self)
      local rc = C.tw_unlock(cast(bytes, self) + offset)
      if rc ~= 0 then error(string_of(C.tw_error()), 2) end
   end
   return lock, unlock
end

-- Fields stored as int64_t have another name in the struct; these functions give them theirs. They know the others
-- too: where the name is a variable, LuaJIT's traces come here with names of the struct as well.
local function accessors(fields, lock_offset)
   local get, set, lock, unlock = {}, {}, nil, nil
   if lock_offset then
      get[1] = 'if k == "lock" then return lock elseif k == "unlock" then return unlock end'
      lock, unlock = lock_methods(lock_offset)
   end
   for _, field in ipairs(fields) do
      get[#get + 1] = ("if k == %q then return %s end"):format(field.name, read_expression("self", field))
      set[#set + 1] = ("if k == %q then self[%q] = v return end"):format(field.name, field.raw)
   end
   return loadstring(([[
      local error, tonumber, lock, unlock = ...
      local function index(self, k) %s error("no field '" .. tostring(k) .. "'", 2) end
      local function newindex(self, k, v) %s error("no field '" .. tostring(k) .. "'", 2) end
      return index, newindex]]):format(table.concat(get, " "), table.concat(set, " ")), "=tideway.table.type")(
      error, tonumber, lock, unlock)
end

local function make_struct(t, declaration)
   local ok, ctype = pcall(ffi.typeof, declaration)
   if not ok then
      return nil, "a field name is a word of C, use another one"
   end
   local index, newindex = accessors(t.fields, t.lock_offset)
   t.ctype = ffi.metatype(ctype, {
      __index = index,
      __newindex = newindex,
      __tostring = function(self)
         local parts = {}
         for i, field in ipairs(t.fields) do
            parts[i] = field.name .. "=" .. tostring(self[field.name])
         end
         return "{" .. table.concat(parts, ", ") .. "}"
      end,
   })
   return t
end

local function check_lock(t)
   if t.scalar then
      return "lock = true is for values with named fields; a single number has add, exchange and compare_exchange"
   end
   for _, field in ipairs(t.fields) do
      if field.name == "lock" or field.name == "unlock" then
         return ("a field cannot be called '%s' where lock = true"):format(field.name)
      end
   end
end

--- Parses a key or value type.
---@param text string  "u32", or fields: "u32 src; u32 dst; u16 sport; u16 dport; u8 proto; u8 name[16]"
---@param lock? boolean  with a spin lock behind the fields: methods lock() and unlock()
---@return tideway.Type|nil type  nil when the text is wrong
---@return string? err  why, as the end of a sentence
function M.parse(text, lock)
   if type(text) ~= "string" then
      return nil, ("it is a %s, not a string such as \"u32\""):format(type(text))
   end
   local name = lock and text .. "; lock" or text
   if cache[name] then
      return cache[name]
   end
   if text:find("ip6", 1, true) then
      need_in6()
   end
   local fields, err = parse_fields(text)
   if not fields then
      return nil, err
   end
   local t = { text = text, fields = fields, scalar = fields[1].name == nil }
   err = lock and check_lock(t)
   if err then
      return nil, err
   end
   if t.scalar then
      local b = basic[fields[1].type]
      fields[1].name, fields[1].raw, fields[1].offset, fields[1].size = "value", "value", 0, b.size
      t.size, t.align, t.ctype = b.size, b.align or b.size, ffi.typeof(b.c)
   else
      local declaration
      t.size, t.align, declaration, t.lock_offset = lay_out(fields, lock)
      t, err = make_struct(t, declaration)
      if not t then
         return nil, err
      end
      assert(ffi.sizeof(t.ctype) == t.size, "layout differs from the FFI's")
      M.by_ctype[tonumber(t.ctype)] = t
   end
   cache[name] = t
   return t
end

--- The field of that name, or nil.
---@param t tideway.Type
---@param name string
---@return tideway.Field?
function M.field(t, name)
   for _, field in ipairs(t.fields) do
      if field.name == name and not t.scalar then
         return field
      end
   end
end

--- How arrays are stored, by name: what the statements of store() and store_words() use besides.
---@param ... tideway.Type?
---@return table<string, function>
function M.array_stores(...)
   local out = {}
   for i = 1, select("#", ...) do
      local t = select(i, ...)
      for _, field in ipairs(t and t.fields or {}) do
         if field.array then out[field.array.c:gsub("%W", "_")] = field.array.store end
      end
   end
   return out
end

local function store_array(field, target, argument)
   return ("arrays.%s(%s, %s)"):format(field.array.c:gsub("%W", "_"), target, argument)
end

--- Lua source that stores arguments into a C object.
---@param t tideway.Type
---@param object string  name of a variable holding a pointer to the object
---@param argument string  prefix of the arguments: "k" for k1, k2, ...
---@return string statements  they use `copy` = ffi.copy, `arrays` = M.array_stores(...)
---@return string arguments  "k1, k2"
function M.store(t, object, argument)
   local out, args = {}, {}
   for i, field in ipairs(t.fields) do
      local arg = argument .. i
      args[i] = arg
      local target = t.scalar and object .. "[0]" or ("%s[%q]"):format(object, field.raw)
      if field.array then
         out[i] = store_array(field, target, arg)
      else
         out[i] = basic[field.type].struct and ("copy(%s, %s, 16)"):format(target, arg)
            or ("%s = %s"):format(target, arg)
      end
   end
   return table.concat(out, "; "), table.concat(args, ", ")
end

-- The value of a field as an expression for the bits it has in a word of 32.
local function bits_of(field, argument, shift)
   if field.size == 4 then return argument end
   local mask = field.size == 1 and "0xff" or "0xffff"
   return shift == 0 and ("band(%s, %s)"):format(argument, mask)
      or ("lshift(band(%s, %s), %d)"):format(argument, mask, shift)
end

-- Expression for the 32 bits at `offset` of an object, 0 where no field lies.
local function half_word(t, offset, args)
   local parts = {}
   for i, field in ipairs(t.fields) do
      if not field.array and field.offset >= offset and field.offset < offset + 4 then
         parts[#parts + 1] = bits_of(field, args[i], (field.offset - offset) * 8)
      end
   end
   if #parts < 2 then return parts[1] end
   return ("bor(%s)"):format(table.concat(parts, ", "))
end

--- As store(), but in whole 64-bit words. A CPU forwards a store to a later load only when the
--- store covers the load: C reads keys word by word right after Lua wrote them, and fields
--- written one by one would cost it more than ten ns to wait for.
---@param t tideway.Type
---@param object string  name of a variable holding an `int64_t *`
---@param argument string
---@return string statements  they use `copy`, `cast`, `i64`, `bytes` = uint8_t *, `band`, `bor`, `lshift`, `arrays`
---@return string arguments
function M.store_words(t, object, argument)
   local out, args, at = {}, {}, 0
   for i in ipairs(t.fields) do args[i] = argument .. i end
   while at < t.size do
      local whole
      for i, field in ipairs(t.fields) do
         if field.offset == at and field.size >= 8 and not field.array then whole = { field, args[i] } end
      end
      if whole then
         local field, arg = whole[1], whole[2]
         out[#out + 1] = field.size == 16 and ("copy(%s + %d, %s, 16)"):format(object, at / 8, arg)
            or ("%s[%d] = cast(i64, %s)"):format(object, at / 8, arg)
         at = at + field.size
      else
         local low, high = half_word(t, at, args), half_word(t, at + 4, args)
         local parts = {}
         if low then parts[1] = ("band(cast(i64, %s), 0xffffffffLL)"):format(low) end
         if high then parts[#parts + 1] = ("lshift(cast(i64, %s), 32)"):format(high) end
         if parts[1] then
            out[#out + 1] = ("%s[%d] = %s"):format(object, at / 8,
               #parts > 1 and ("bor(%s, %s)"):format(parts[1], parts[2]) or parts[1])
         end
         at = at + 8
      end
   end
   for i, field in ipairs(t.fields) do
      if field.array then
         out[#out + 1] = store_array(field, ("cast(bytes, %s) + %d"):format(object, field.offset), args[i])
      end
   end
   return table.concat(out, "; "), table.concat(args, ", ")
end

--- Lua source for what a pointer to an object of this type reads as: a number (u8 to i32, ns,
--- mac), 64-bit cdata (u64, i64), or for a struct and ip6 the pointer itself.
---@param t tideway.Type
---@param pointer string  an expression of type `T *`
---@return string expression
function M.load(t, pointer)
   if not t.scalar or basic[t.fields[1].type].struct then
      return pointer
   end
   local e = pointer .. "[0]"
   return basic[t.fields[1].type].number and ("tonumber(%s)"):format(e) or e
end

return M
