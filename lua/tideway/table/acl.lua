-- SPDX-License-Identifier: BSD-3-Clause
-- ACL tables: ordered rules over the fields of a packet, first match wins, at the cost of one trie
-- walk whatever their number (DPDK's rte_acl).
--
--    local acl = tw.acl {
--       key = "u8 proto bits; ip6 src prefix; u16 port range",
--       rules = {
--          { proto = 6, port = { 1024, 65535 } },                 -- result 1
--          { proto = { 0, 0xfe }, src = "2001:db8::/32" },        -- result 2
--       },
--    }
--    acl:get(6, src, 80)   -> 2, or nil when no rule matches
--
-- A field that a rule leaves out matches everything. Fields: u8, u16, u32 as "bits" (a number, or
-- { value, mask }) or "range" (a number, or { first, last }); u32 (IPv4) and ip6 as "prefix".

local ffi = require "ffi"
local abi = require "tideway.abi"
local address = require "tideway.packet.address"
local type_lib = require "tideway.table.type"
local kind_lib = require "tideway.table.kind"
local scope = require "tideway.table.scope"

local M = {}

local C = abi.C

local MATCH = { bits = C.TW_ACL_BITS, range = C.TW_ACL_RANGE, prefix = C.TW_ACL_PREFIX }
local TYPES = {
   bits = { u8 = true, u16 = true, u32 = true }, range = { u8 = true, u16 = true, u32 = true },
   prefix = { u32 = true, ip6 = true },
}
local OPTIONS = { name = true, key = true, rules = true }

---@class tideway.Acl
---@field name string
---@field kind string  "acl"
---@field key_type tideway.Type
local Acl = {}
Acl.__index = Acl

-- ---- the key ----

-- "u8 proto bits; ..." -> the type of the key as other tables have it, and how each field matches.
local function parse_key(text)
   if type(text) ~= "string" then return nil, ("key is a %s, not a string"):format(type(text)) end
   local plain, matches = {}, {}
   for declaration in text:gmatch "[^;]+" do
      if declaration:match "%S" then
         local kind, name, match = declaration:match "^%s*(%w+)%s+([%a_][%w_]*)%s+(%w+)%s*$"
         if not kind or not MATCH[match] then
            return nil, ("key field %q: write type, name and bits, range or prefix"):format(declaration)
         elseif not TYPES[match][kind] then
            return nil, ("key field %q: a %s cannot match by %s"):format(declaration, kind, match)
         end
         plain[#plain + 1] = kind .. " " .. name
         matches[#matches + 1] = match
      end
   end
   local t, err = type_lib.parse(table.concat(plain, "; "))
   if not t then return nil, ("key %q: %s"):format(text, err) end
   return t, matches
end

-- C's fields; an IPv6 address is four words in network order.
local function c_fields(t, matches)
   local list = {}
   for i, field in ipairs(t.fields) do
      local match = MATCH[matches[i]]
      if field.type == "ip6" then
         for w = 0, 3 do list[#list + 1] = { match, 4, field.offset + 4 * w, 1 } end
      else
         list[#list + 1] = { match, field.size, field.offset, 0 }
      end
   end
   return list
end

-- ---- rules ----

local function pair(value, max, both)
   if value == nil then return 0, both == "bits" and 0 or max end
   local a, b = value, both == "bits" and max or value
   if type(value) == "table" then a, b = value[1], value[2] end
   if type(a) ~= "number" or type(b) ~= "number" or a < 0 or b < 0 or a > max or b > max then return nil end
   if both == "range" and a > b then return nil end
   return a, b
end

local function words_of_prefix(words, at, value, family)
   if type(value) == "number" then value = address.ip4_string(value) end
   if type(value) == "string" then
      local prefix, err = address.parse_prefix(value)
      if not prefix then return err end
      value = prefix
   end
   if value and value.family ~= family then return ("%s is no IPv%d prefix"):format(tostring(value), family) end
   local length = value and value.length or 0
   if family == 4 then
      words[at], words[at + 1] = value and value.address or 0, length
      return nil, at + 2
   end
   local raw = value and ffi.cast("const uint32_t *", ffi.cast("const struct tw_in6 *", value.address))
   for w = 0, 3 do
      words[at], words[at + 1] = raw and raw[w] or 0, math.max(0, math.min(32, length - 32 * w))
      at = at + 2
   end
   return nil, at
end

-- Writes the words of one rule from `at` on; nil and an error, or where the next rule starts.
local function words_of_rule(words, at, rule, t, matches, result)
   words[at] = result
   at = at + 1
   for i, field in ipairs(t.fields) do
      local value = rule[field.name]
      if matches[i] == "prefix" then
         local err
         err, at = words_of_prefix(words, at, value, field.type == "ip6" and 6 or 4)
         if err then return nil, ("%s: %s"):format(field.name, err) end
      else
         local a, b = pair(value, 2 ^ (8 * field.size) - 1, matches[i])
         if not a then
            return nil, ("%s: not a number of %d bits, or two in order"):format(field.name, 8 * field.size)
         end
         words[at], words[at + 1] = a, b
         at = at + 2
      end
   end
   return at
end

local function build(self, t, matches, rules)
   local fields = c_fields(t, matches)
   local words = ffi.new("uint32_t[?]", math.max(1, #rules * (1 + 2 * #fields)))
   local at = 0
   for i, rule in ipairs(rules) do
      local err
      at, err = words_of_rule(words, at, rule, t, matches, rule.result or i)
      if not at then return ("rules[%d]: %s"):format(i, err) end
   end
   local c = ffi.new("struct tw_acl_field[?]", #fields, fields)
   if C.tw_acl_build(self.table, c, #fields, words, #rules) < 0 then return abi.error() end
   self.rules = ffi.string(words, ffi.sizeof(words))
end

-- ---- objects ----

-- The scratch key is one per table and VM, so a look-up allocates nothing.
local GET = [[
local C, t, key, copy = ...
return function(_, %s)
   %s
   local result = C.tw_acl_get(t, key)
   if result < 0 then return nil end
   return result
end
]]

local function wrap(pointer, key_text)
   local t = parse_key(key_text)
   local info = ffi.new "struct tw_table_info"
   C.tw_table_get_info(pointer, info)
   local self = setmetatable({
      table = pointer, kind = "acl", name = ffi.string(info.name), key = key_text, key_type = t,
      anchor = ffi.new("uint64_t[?]", info.key_stride / 8),
   }, Acl)
   local store, arguments = type_lib.store(t, "key", "k")
   local key = ffi.cast(ffi.typeof("$ *", t.ctype), self.anchor)
   self.get = assert(loadstring(GET:format(arguments, store), "=(acl " .. self.name .. ")"))(C, pointer, key, ffi.copy)
   return self
end

local function make(options)
   if type(options) ~= "table" then return ("its argument is a %s, not a table"):format(type(options)) end
   for option in pairs(options) do
      if not OPTIONS[option] then
         return ("%s is not an option; options are key, name, rules"):format(tostring(option))
      end
   end
   local t, matches = parse_key(options.key)
   if not t then return matches end
   if type(options.rules) ~= "table" then return "rules is not a list" end
   if options.name and (type(options.name) ~= "string" or #options.name >= C.TW_NAME_LEN) then
      return ("name is not a string of up to %d bytes"):format(C.TW_NAME_LEN - 1)
   end
   local name, taken = scope.free_name(options.name)
   if taken then return taken end
   local spec = ffi.new("struct tw_table_spec", {
      name = name, kind = C.TW_TABLE_ACL, entries = math.max(1, #options.rules), key_size = t.size,
      value_size = 4, expires_offset = C.TW_TABLE_NO_EXPIRY,
   })
   local pointer = scope.make(spec)
   if pointer == nil then return abi.error() end
   local self = wrap(scope.own(pointer), options.key)
   scope.add(self, options.name)
   local err = build(self, t, matches, options.rules)
   if err then
      self:free()
      return err
   end
   return nil, self
end

--- An ordered rule set. `acl:get(fields...)` gives the result of the first rule that matches, or
--- nil. A rule's result is its place in the list (from 1) unless it has a number `result` of its
--- own, below 2^28; then the lowest result wins. The rules cannot change later: make a new table.
---@param options table  { name =, key = "type name match; ...", rules = { { field = match, ... }, ... } }
---@return tideway.Acl
function M.acl(options)
   local err, self = make(options)
   if not self then error("tw.acl: " .. err, 2) end
   return self
end

local attached = {}

--- The object of a table that another VM made (see tideway.transfer).
---@param at number  address
---@param key string
---@return tideway.Acl
function M.attach(at, key)
   if not attached[at] then attached[at] = wrap(ffi.cast("struct tw_table *", at), key) end
   return attached[at]
end

--- Number of rules.
---@return integer
function Acl:count() return kind_lib.info_of(self).count end

--- Figures of the table, as other tables give them.
---@return table
function Acl:stats() return kind_lib.stats_of(self) end

--- Frees the memory now. Only for a table that no running chain uses.
function Acl:free()
   if self.table ~= nil then
      scope.freed(self.table)
      scope.remove(self)
      C.tw_table_free(self.table)
   end
   self.table, self.get = nil, nil
end

function Acl:__transfer()
   return "tideway.table.acl", "attach", { tonumber(ffi.cast("uintptr_t", self.table)), self.key }
end

function Acl:__declared() return self.key .. "|" .. self.rules end

function Acl:__tostring() return "acl " .. self.name end

return M
