-- SPDX-License-Identifier: BSD-3-Clause
-- Reads a header declaration such as "u4 version; u4 ihl; be16 length; ip4 src, dst;" into a layout:
-- plain data on where every field lies, for the FFI views here and for compilers to other targets.
-- "u8 address[16]" is an array, "struct question { be16 type; be16 class }" a field with fields of its own.

local array = require "tideway.packet.array"

local M = {}

---@class tideway.field
---@field name string
---@field type string as declared: u8 be16 be32 be64 le16 le32 le64 mac ip4 ip6, uN for N bits, or struct
---@field offset integer byte that holds the field's first bit
---@field bit integer position of the first bit in that byte, the most significant is 0
---@field width integer bits
---@field order "be"|"le"
---@field of? string field that this one is a part of
---@field raw string struct member(s) that hold it
---@field raw_size integer bytes of the member
---@field shift integer bits to the right of the field in the member's value
---@field native boolean the struct member is the field, no conversion needed
---@field count? integer elements of an array; width, raw_size are those of the whole
---@field element? tideway.array
---@field fields? tideway.field[] of a struct, their offsets from its start

---@class tideway.member
---@field name string struct member
---@field size integer 1, 2, 3 (three bytes), 4, 6 (mac), 8, 16 (ip6) or a pad's length
---@field kind "number"|"mac"|"ip6"|"pad"|"array"|"struct"
---@field array? tideway.array
---@field layout? tideway.layout of a struct

---@class tideway.layout
---@field size integer bytes
---@field fields tideway.field[] in order, parts after the field they are part of
---@field members tideway.member[]

local WHOLE = {
   u8 = { 1, "be" }, be16 = { 2, "be" }, be32 = { 4, "be" }, be64 = { 8, "be" }, le16 = { 2, "le" },
   le32 = { 4, "le" }, le64 = { 8, "le" }, ip4 = { 4, "be" }, mac = { 6, "be" }, ip6 = { 16, "be" },
}
local TYPES = "u8 be16 be32 be64 le16 le32 le64 mac ip4 ip6, u1..u31 for bits, pad for bytes to skip, struct"

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
   then true until while]]):gmatch "%a+" do
   KEYWORDS[word] = true
end

-- Number of bits of "u12"; nil for other types, "u08" among them.
local function bits_of(type) return tonumber(type:match "^u([1-9]%d*)$" or type:match "^u(0)$") end

local Parser = {}
Parser.__index = Parser

function Parser:fail(text, ...) error(("header %s: " .. text):format(self.header, ...), 0) end

function Parser:next()
   local from, to, token = self.text:find("^%s*([%w_]+)", self.at)
   if not from then from, to, token = self.text:find("^%s*(%p)", self.at) end
   if not from then return nil end
   self.at = to + 1
   return token
end

function Parser:peek()
   local at = self.at
   local token = self:next()
   self.at = at
   return token
end

function Parser:expect(what)
   local token = self:next()
   if token ~= what then self:fail("%q expected, %q found", what, token or "end of text") end
end

function Parser:name()
   local name = self:next()
   if not name or not name:find "^[%a_][%w_]*$" then self:fail("a field name expected, %q found", name or "end") end
   if KEYWORDS[name] then self:fail("%q is a word of Lua and cannot name a field", name) end
   if name:find "^raw_" then self:fail("%q: names that start with raw_ are for the struct's own members", name) end
   if name ~= "_" then
      if self.names[name] then self:fail("field %q stands twice", name) end
      self.names[name] = true
   end
   return name
end

function Parser:add(field)
   if field.name ~= "_" then self.layout.fields[#self.layout.fields + 1] = field end
end

function Parser:member(name, size, kind)
   local member = { name = name, size = size, kind = kind or "number" }
   self.layout.members[#self.layout.members + 1] = member
   self.layout.size = self.layout.size + size
   return member
end

-- Bits that were collected and now fill whole bytes become one member.
function Parser:close_run()
   local run = self.run
   local size = run.bits / 8
   if size > 4 then self:fail("the bits from %q on fill %d bytes; at most 4 can stand together", run[1].name, size) end
   local first = run[1].name
   for _, part in ipairs(run) do
      if first == "_" then first = part.name end
   end
   local raw = "raw_" .. (first == "_" and self.layout.size or first)
   for _, field in ipairs(run) do
      field.raw, field.raw_size = raw, size
      field.shift = run.bits - (field.offset - self.layout.size) * 8 - field.bit - field.width
      self:add(field)
   end
   self:member(raw, size)
   self.run = nil
end

function Parser:bits(width, type)
   if width < 1 or width > 31 then self:fail("%s: a field of bits has 1 to 31 of them", type) end
   local run = self.run or { bits = 0 }
   self.run = run
   run[#run + 1] = {
      name = self:name(), type = type, width = width, order = "be", native = false,
      offset = self.layout.size + math.floor(run.bits / 8), bit = run.bits % 8,
   }
   run.bits = run.bits + width
   if run.bits % 8 == 0 then self:close_run() end
end

-- { u3 pcp; u1 dei; u12 vid } after a field names parts of it.
function Parser:parts(whole)
   self:expect "{"
   local at = 0
   while self:peek() ~= "}" do
      local type = self:next() or "end of text"
      local width = bits_of(type)
      if not width or width < 1 or width >= whole.width then
         self:fail("%s: %q: a part is declared as u1 to u%d", whole.name, type, whole.width - 1)
      end
      self:add {
         name = self:name(), type = type, width = width, order = "be", native = false, of = whole.name,
         offset = whole.offset + math.floor(at / 8), bit = at % 8, raw = whole.raw, raw_size = whole.raw_size,
         shift = whole.width - at - width,
      }
      at = at + width
      if self:peek() == ";" then self:next() end
   end
   self:expect "}"
   if at ~= whole.width then self:fail("the parts of %q have %d bits, it has %d", whole.name, at, whole.width) end
end

-- u8 name[16]
function Parser:array(type, name)
   self:expect "["
   local count = self:next()
   local elements, why = array.of(type, tonumber(count))
   if not elements then self:fail("%s[%s]: %s", name, count or "end of text", why) end
   self:expect "]"
   local raw = name == "_" and "raw_" .. self.layout.size or name
   self:add {
      name = name, type = type, offset = self.layout.size, bit = 0, width = elements.size * 8, order = elements.order,
      raw = raw, raw_size = elements.size, shift = 0, native = true, count = elements.count, element = elements,
   }
   self:member(raw, elements.size, "array").array = elements
end

-- struct name { fields }
function Parser:struct()
   local name = self:name()
   if name == "_" then self:fail "a struct needs a name; write pad N for bytes to skip" end
   self:expect "{"
   local inner = setmetatable({
      header = ("%s, struct %s"):format(self.header, name), text = self.text, at = self.at, names = {},
      layout = { size = 0, fields = {}, members = {} },
   }, Parser)
   inner:body "}"
   self.at = inner.at
   self:expect "}"
   local size = inner.layout.size
   self:add {
      name = name, type = "struct", offset = self.layout.size, bit = 0, width = size * 8, order = "be", raw = name,
      raw_size = size, shift = 0, native = true, fields = inner.layout.fields,
   }
   self:member(name, size, "struct").layout = inner.layout
end

function Parser:whole(type)
   local size, order = WHOLE[type][1], WHOLE[type][2]
   local name = self:name()
   if self:peek() == "[" then return self:array(type, name) end
   local native = size == 1 or type == "ip6"
   local raw = (native and name ~= "_") and name or "raw_" .. (name == "_" and self.layout.size or name)
   local field = {
      name = name, type = type, offset = self.layout.size, bit = 0, width = size * 8, order = order,
      raw = raw, raw_size = size, shift = 0, native = native,
   }
   self:add(field)
   self:member(raw, size, (type == "mac" or type == "ip6") and type or "number")
   while self:peek() == "{" do
      if order ~= "be" or type == "mac" or size > 4 then self:fail("%s %s cannot have parts", type, name) end
      self:parts(field)
   end
end

function Parser:pad()
   local count = self:next()
   if not count or not count:find "^%d+$" or tonumber(count) < 1 or tonumber(count) > 65535 then
      self:fail("pad takes a number of bytes from 1 to 65535, %q found", count or "end of text")
   end
   self:member("raw_" .. self.layout.size, tonumber(count), "pad")
end

function Parser:statement(type)
   local width = bits_of(type)
   local in_bits = self.run ~= nil
   if type ~= "pad" and type ~= "struct" and not WHOLE[type] and not width then
      self:fail("%q is not a type; there are: %s", type, TYPES)
   elseif not in_bits and (width == 16 or width == 32 or width == 64) then
      self:fail("%s has no byte order; write be%d or le%d", type, width, width)
   elseif in_bits and not width then
      self:fail("%q must start at a byte; the bits before it end inside one", type)
   end
   repeat
      if type == "pad" then
         self:pad()
      elseif type == "struct" then
         self:struct()
      elseif width and (width ~= 8 or self.run) then
         self:bits(width, type)
      else
         self:whole(type)
      end
   until self:peek() ~= "," or not self:next()
end

-- Statements up to the end of the text or to `stop`.
function Parser:body(stop)
   while self:peek() ~= stop do
      local type = self:next()
      if not type then self:fail("%q expected at the end", stop) end
      if type ~= ";" then
         self:statement(type)
         if self:peek() ~= stop then self:expect ";" end
      end
   end
   if self.run then self:fail("the bits at the end do not fill a byte") end
   if self.layout.size == 0 then self:fail "it has no fields" end
   for _, field in ipairs(self.layout.fields) do self.layout.fields[field.name] = field end
end

--- Parse a declaration. Raises an error (a string without position) for one that is wrong.
---@param header string name of the header, for messages
---@param text string declaration
---@return tideway.layout
function M.parse(header, text)
   local parser = setmetatable({
      header = header, text = text, at = 1, names = {}, layout = { size = 0, fields = {}, members = {} },
   }, Parser)
   parser:body(nil)
   return parser.layout
end

return M
