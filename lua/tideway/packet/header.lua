-- SPDX-License-Identifier: BSD-3-Clause
-- Makes a header type from a declaration: a packed FFI struct whose fields read and write as host numbers.
--
-- A view is a reference to such a struct inside a frame. LuaJIT resolves a field or method of it while
-- recording: the tables below hang under cdata of their own, and an index of a cdata whose __index is
-- a table becomes a constant of the trace. So `ip.total_length` is one load and one byte swap.
--
-- LuaJIT's alias analysis assumes that memory reached through two different base pointers is not
-- accessed with two different widths. Every field is therefore always read and written through one
-- member, parts through the member of the whole; code that must use other widths puts a barrier
-- (tideway.packet.barrier).
--
-- What packet() calls has no tail calls, not even of built-in functions, hence `return (f(x))` in
-- this folder: LuaJIT gives up a trace with more tail calls than its loop unroll limit (15 by
-- default), and every field that an NF reads would count.

local ffi = require "ffi"
local bit = require "bit"
local layout = require "tideway.packet.layout"

assert(ffi.abi "le", "tideway.packet: only little-endian machines are supported")

local M = {}
local builtin = {}

--- Header types by LuaJIT's number of their struct; for the compiler.
M.by_ctype = {}

-- ---- code for getters and setters ----

local PROLOGUE = [[
local bit, cast, tonumber, floor, u32, i64, u64 = ...
local band, bor, bswap, lshift, rshift, tobit = bit.band, bit.bor, bit.bswap, bit.lshift, bit.rshift, bit.tobit
local get, set = {}, {}
]]

-- Expression for the host value of a member (a signed 32-bit number when it has 4 bytes).
local function load_code(field)
   local raw, size = "h." .. field.raw, field.raw_size
   if size == 3 then return ("bor(lshift(%s_0, 16), lshift(%s_1, 8), %s_2)"):format(raw, raw, raw) end
   if size == 1 or field.order == "le" then return raw end
   if size == 2 then return ("rshift(bswap(%s), 16)"):format(raw) end
   return ("bswap(%s)"):format(raw)
end

-- Statement that stores the host value `v` to a member.
local function store_code(field)
   local raw, size = "h." .. field.raw, field.raw_size
   if size == 3 then return ("%s_0 = rshift(v, 16) %s_1 = rshift(v, 8) %s_2 = v"):format(raw, raw, raw) end
   if size == 1 or field.order == "le" then return ("%s = v"):format(raw) end
   if size == 2 then return ("%s = rshift(bswap(v), 16)"):format(raw) end
   return ("%s = bswap(v)"):format(raw)
end

local function getter_code(field)
   local size = field.raw_size
   if field.type == "mac" then
      return ("tonumber(cast(i64, lshift(cast(u64, rshift(bswap(h.%s_hi), 16)), 32) + cast(u32, bswap(h.%s_lo))))")
         :format(field.raw, field.raw)
   elseif size == 8 then
      return load_code(field)
   elseif field.width == 32 then
      return ("tonumber(cast(u32, %s))"):format(load_code(field))
   elseif field.width == size * 8 then
      return load_code(field)
   end
   return ("band(rshift(%s, %d), 0x%x)"):format(load_code(field), field.shift, 2 ^ field.width - 1)
end

local function setter_code(field)
   local size = field.raw_size
   if field.type == "mac" then
      return ("h.%s_hi = rshift(bswap(tobit(floor(v * 2^-32))), 16) h.%s_lo = bswap(tobit(v))")
         :format(field.raw, field.raw)
   elseif size == 8 then
      return ("v = cast(u64, v) %s"):format(store_code(field))
   elseif field.width == size * 8 then
      return ("v = tobit(v) %s"):format(store_code(field))
   end
   local mask = 2 ^ field.width - 1
   local code = "v = bor(band(%s, %s), lshift(band(tobit(v), 0x%x), %d)) %s"
   return code:format(load_code(field), bit.bnot(bit.lshift(mask, field.shift)), mask, field.shift, store_code(field))
end

-- Every accessor gets a function of its own, so that each is a root of its own to the tracer.
local function accessors(name, fields)
   local code = { PROLOGUE }
   for _, field in ipairs(fields) do
      if not field.native then
         code[#code + 1] = ("function get.%s(h) return (%s) end"):format(field.name, getter_code(field))
         code[#code + 1] = ("function set.%s(h, v) %s end"):format(field.name, setter_code(field))
      end
   end
   code[#code + 1] = "return get, set"
   local chunk = assert(loadstring(table.concat(code, "\n"), "=header " .. name))
   return chunk(bit, ffi.cast, tonumber, math.floor, ffi.typeof "uint32_t", ffi.typeof "int64_t",
      ffi.typeof "uint64_t")
end

-- ---- the struct ----

local MEMBER = { [1] = "uint8_t %s;", [2] = "uint16_t %s;", [4] = "int32_t %s;", [8] = "uint64_t %s;" }

-- `inner` makes the ctype of a struct in it.
local function struct_of(members, inner)
   local code, types = {}, {}
   for i, member in ipairs(members) do
      local name = member.name
      if member.kind == "pad" then
         code[i] = ("uint8_t %s[%d];"):format(name, member.size)
      elseif member.kind == "array" then
         code[i] = ("%s %s;"):format(member.array.c, name)
      elseif member.kind == "struct" then
         code[i] = ("$ %s;"):format(name)
         types[#types + 1] = inner(member)
      elseif member.kind == "mac" then
         code[i] = ("uint16_t %s_hi; int32_t %s_lo;"):format(name, name)
      elseif member.kind == "ip6" then
         require "tideway.packet.in6"
         code[i] = ("struct tw_in6 %s;"):format(name)
      elseif member.size == 3 then
         code[i] = ("uint8_t %s_0, %s_1, %s_2;"):format(name, name, name)
      else
         code[i] = MEMBER[member.size]:format(name)
      end
   end
   return ffi.typeof("struct { " .. table.concat(code, " ") .. " } __attribute__((packed))", unpack(types))
end

-- Fields of one byte, arrays, structs and IPv6 addresses are members of the C struct under their own name.
local function word_of_c(members)
   for _, member in ipairs(members) do
      if not pcall(ffi.typeof, ("struct { uint8_t %s; }"):format(member.name)) then return member.name end
      local inside = member.layout and word_of_c(member.layout.members)
      if inside then return inside end
   end
end

local function why_no_struct(members)
   local word = word_of_c(members)
   return word and ("%q is a word of C and cannot name a field of this type"):format(word) or "it is too large"
end

-- A cdata under which a table of functions can be indexed at the cost of a constant.
local function dispatcher(functions, complain)
   setmetatable(functions, { __index = complain })
   return ffi.metatype(ffi.typeof "struct { }", { __index = functions })()
end

local function text_of(header)
   local address = require "tideway.packet.address"
   return function(view)
      local text = {}
      for _, field in ipairs(header.fields) do
         local value = view[field.name]
         if field.type == "mac" then
            value = address.mac_string(value)
         elseif field.type == "ip4" then
            value = address.ip4_string(value)
         elseif field.count then
            value = ("[%s]"):format(tostring(value))
         end
         text[#text + 1] = ("%s=%s"):format(field.name, tostring(value))
      end
      return ("%s{%s}"):format(header.name, table.concat(text, " "))
   end
end

local function make_metatype(header, methods)
   local get, set = accessors(header.name, header.fields)
   for name, method in pairs(methods) do get[name] = function() return method end end
   local function unknown(what)
      return function(_, name)
         error(("%s has no %s %q"):format(header.name, what, tostring(name)), 3)
      end
   end
   local getters = dispatcher(get, unknown "field or method")
   local setters = dispatcher(set, unknown "field to write named")
   ffi.metatype(header.ctype, {
      __index = function(view, name)
         local value = getters[name](view)
         return value
      end,
      __newindex = function(view, name, value) setters[name](view, value) end,
      __tostring = text_of(header),
   })
end

-- ---- header types ----

---@class tideway.header
---@field name string
---@field size integer bytes of the fixed part, which a view covers
---@field fields tideway.field[] in order; also by name
---@field declaration string
---@field ctype ffi.ctype* the struct
---@field pointer ffi.ctype* pointer to it, for casts
---@field methods table<string, function>
local Header = {}
Header.__index = Header

function Header:__tostring() return ("header %s, %d bytes"):format(self.name, self.size) end

function Header:__transfer()
   if builtin[self.name] == self then return "tideway.packet.header", "builtin", { self.name } end
   return "tideway.packet.header", "define", { self.name, self.declaration, self.methods }
end

-- The struct of a layout, with those inside it.
local function ctype_of(name, members)
   return struct_of(members, function(member)
      local inner = setmetatable({
         name = ("%s.%s"):format(name, member.name), methods = {}, size = member.size, fields = member.layout.fields,
         members = member.layout.members,
      }, Header)
      inner.ctype = ctype_of(inner.name, inner.members)
      inner.pointer = ffi.typeof("$ *", inner.ctype)
      M.by_ctype[tonumber(inner.ctype)] = inner
      make_metatype(inner, inner.methods)
      return inner.ctype
   end)
end

--- Define a header type. Fields are declared as `type name;` in the order of the bytes:
--- `u8 be16 be32 be64 le16 le32 le64 mac ip4 ip6`, `uN` for N bits (most significant first),
--- `pad N` for bytes to skip, `_` for a field without a name; `be16 tci { u3 pcp; u1 dei; u12 vid }`
--- also names the parts of a field, `u8 chaddr[16]` is an array (elements u8 be16 be32 le16 le32),
--- `struct question { be16 type; be16 class }` a field with fields. A view's fields read as host
--- numbers (be64/le64: uint64_t; ip6, arrays and structs: references) and writing truncates to the
--- field's width.
---@param name string
---@param declaration string
---@param methods? table<string, function> called as view:method(...)
---@return tideway.header
function M.define(name, declaration, methods)
   if type(name) ~= "string" or type(declaration) ~= "string" then
      error("tw.header(name, declaration): both are strings, such as tw.header(\"my\", \"u8 a; be16 b\")", 2)
   end
   local ok, parsed = pcall(layout.parse, name, declaration)
   if not ok then error(parsed, 2) end
   methods = methods or {}
   for method in pairs(methods) do
      if parsed.fields[method] then error(("header %s: %q is a field and a method"):format(name, method), 2) end
   end
   local made, ctype = pcall(ctype_of, name, parsed.members)
   if not made then error(("header %s: %s"):format(name, why_no_struct(parsed.members)), 2) end
   assert(ffi.sizeof(ctype) == parsed.size)
   local header = setmetatable({
      name = name, declaration = declaration, methods = methods, size = parsed.size, fields = parsed.fields,
      members = parsed.members, ctype = ctype, pointer = ffi.typeof("$ *", ctype),
   }, Header)
   M.by_ctype[tonumber(ctype)] = header
   make_metatype(header, methods)
   return header
end

--- Define one of the headers that Tideway brings.
---@return tideway.header
function M.define_builtin(name, declaration, methods)
   builtin[name] = M.define(name, declaration, methods)
   return builtin[name]
end

--- A header that Tideway brings, by name.
---@param name string
---@return tideway.header
function M.builtin(name) return builtin[name] end

--- All headers that Tideway brings, by name.
M.all = builtin

return M
