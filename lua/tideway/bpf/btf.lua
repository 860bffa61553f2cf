-- SPDX-License-Identifier: BSD-3-Clause
-- Writes BTF, the kernel's type information: types of keys and values, functions, lines of Lua.
-- Format: Documentation/bpf/btf.rst of the kernel.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local diagnostic = require "tideway.compiler.diagnostic"

local M = {}

local C = abi.C
local bor, lshift = bit.bor, bit.lshift

---@class tideway.bpf.Btf
---@field count integer  types so far; the id of the last one
local Btf = {}
Btf.__index = Btf

local INT, PTR, ARRAY, STRUCT, FUNC, FUNC_PROTO, VAR, DATASEC = 1, 2, 3, 4, 12, 13, 14, 15
local SIGNED = 1
local HEADER_SIZE, LOG_SIZE, COLUMN_MAX, LINE_MAX = 24, 65536, 1023, 2 ^ 22 - 1

M.STATIC, M.GLOBAL = 0, 1 -- linkage of functions and variables

--- Little-endian 32-bit words, as bytes.
---@param ... number
---@return string
local function words(...)
   local n = select("#", ...)
   return ffi.string(ffi.new("uint32_t[?]", n, ...), n * 4)
end
M.words = words

--- An empty collection of types.
---@return tideway.bpf.Btf
function M.new()
   return setmetatable({
      count = 0, types = {}, known = {}, text = { "\0" }, text_size = 1, offsets = { [""] = 0 },
   }, Btf)
end

--- A name that the kernel takes: letters, digits and '_'.
---@param text string
---@return string
function M.identifier(text)
   local name = text:gsub("[^%w_]", "_")
   return name:match "^%d" and "_" .. name or name
end

--- Offset of a text among the strings.
---@param text string
---@return integer offset
function Btf:string(text)
   if not self.offsets[text] then
      self.offsets[text] = self.text_size
      self.text[#self.text + 1] = text .. "\0"
      self.text_size = self.text_size + #text + 1
   end
   return self.offsets[text]
end

local function add(self, kind, name, size_or_type, vlen, rest)
   local info = bor(lshift(kind, 24), vlen)
   local bytes = words(self:string(name), info, size_or_type) .. (rest or "")
   if self.known[bytes] then return self.known[bytes] end
   self.count = self.count + 1
   self.types[self.count] = bytes
   self.known[bytes] = self.count
   return self.count
end

--- An integer type. The same type asked for again has the same id.
---@param name string
---@param size integer  bytes
---@param signed? boolean
---@return integer id
function Btf:int(name, size, signed)
   return add(self, INT, name, size, 0, words(bor(lshift(signed and SIGNED or 0, 24), size * 8)))
end

--- A pointer to a type; 0 is void.
function Btf:ptr(id) return add(self, PTR, "", id, 0) end

--- An array of `n` elements.
function Btf:array(id, n) return add(self, ARRAY, "", 0, 0, words(id, self:int("u32", 4), n)) end

--- A structure.
---@param name string  "" for none
---@param size integer  bytes
---@param members table[]  { name, type id, offset in bytes }
---@return integer id
function Btf:struct(name, size, members)
   local rest = {}
   for i, m in ipairs(members) do rest[i] = words(self:string(m[1]), m[2], m[3] * 8) end
   return add(self, STRUCT, name, size, #members, table.concat(rest))
end

--- The type of a function.
---@param result integer  type id, 0 void
---@param parameters table[]  { name, type id }
function Btf:func_proto(result, parameters)
   local rest = {}
   for i, p in ipairs(parameters) do rest[i] = words(self:string(p[1]), p[2]) end
   return add(self, FUNC_PROTO, "", result, #parameters, table.concat(rest))
end

--- A function.
---@param linkage integer  M.STATIC or M.GLOBAL
function Btf:func(name, proto, linkage) return add(self, FUNC, name, proto, linkage) end

--- A variable.
function Btf:var(name, id, linkage) return add(self, VAR, name, id, 0, words(linkage)) end

--- A data section.
---@param variables table[]  { var id, offset, size }
function Btf:datasec(name, size, variables)
   local rest = {}
   for i, v in ipairs(variables) do rest[i] = words(v[1], v[2], v[3]) end
   return add(self, DATASEC, name, size, #variables, table.concat(rest))
end

local signed = { i32 = true, i64 = true, ns = true }

--- The type of one field of a table's key or value.
---@param name string  "u32", "mac", ...
---@param size integer
---@return integer id
function Btf:basic(name, size)
   if name == "ip6" then
      return self:struct("ip6", 16, { { "bytes", self:array(self:int("u8", 1), 16), 0 } })
   end
   return self:int(name, size, signed[name])
end

--- The type of a table's key or value: an integer, or a structure with the fields' names.
---@param t tideway.Type
---@param name string  of the structure
---@param size? integer  bytes, when there is more than the fields
---@param lock_offset? integer  of a struct bpf_spin_lock
---@return integer id
function Btf:of(t, name, size, lock_offset)
   if t.scalar and not lock_offset then
      return self:basic(t.fields[1].type, t.size)
   end
   local members = {}
   for i, field in ipairs(t.fields) do
      local elements = field.array
      local id = elements and self:array(self:basic(elements.element, elements.element_size), elements.count)
         or self:basic(field.type, field.size)
      members[i] = { field.name, id, field.offset }
   end
   if lock_offset then
      local lock = self:struct("bpf_spin_lock", 4, { { "val", self:int("u32", 4), 0 } })
      members[#members + 1] = { "lock", lock, lock_offset }
   end
   return self:struct(M.identifier(name), size or t.size, members)
end

--- Functions of a program: where they start and what they are called.
---@param functions table[]  { insn =, name = } in order of insn; the first one is the program
---@param context? string  name of the kernel's context structure: "xdp_md"
---@return string func_info  for BPF_PROG_LOAD: 8 bytes an entry
function Btf:func_info(functions, context)
   local int = self:int("int", 4, true)
   local ctx = self:ptr(self:struct(context or "context", 0, {}))
   local proto = self:func_proto(int, { { "ctx", ctx } })
   local out = {}
   for i, f in ipairs(functions) do
      local id
      if i == 1 then
         id = self:func(M.identifier(f.name), proto, M.GLOBAL)
      else -- static: the verifier follows every call of it, so its parameters need no types
         id = self:func(M.identifier(f.name), self:func_proto(int, {}), M.STATIC)
      end
      out[i] = words(f.insn, id)
   end
   return table.concat(out)
end

-- Text of a source line, without what stands around it.
local function source_line(pos)
   local text = diagnostic.line_of(pos.file, pos.line) or ""
   return (text:gsub("^%s+", ""):gsub("%s+$", ""))
end

-- The kernel wants a line where each function starts: one without gets that of what follows.
local function with_starts(lines, starts)
   local all = {}
   for i, l in ipairs(lines) do all[i] = l end
   for insn in pairs(starts) do
      local at = 1
      while all[at] and all[at].insn < insn do at = at + 1 end
      local near = all[at] or all[at - 1]
      if near and near.insn ~= insn then table.insert(all, at, { insn = insn, pos = near.pos }) end
   end
   return all
end

--- Lines of a program, so that the verifier's log and the tools show Lua.
---@param lines table[]  { insn =, pos = { file =, line =, col = } }, in order of insn
---@param starts? table<integer, boolean>  instructions at which a function starts: they need a line
---@return string line_info  for BPF_PROG_LOAD: 16 bytes an entry
function Btf:line_info(lines, starts)
   local out, last, last_insn = {}, nil, -1
   for _, l in ipairs(with_starts(lines, starts or {})) do
      local pos = l.pos
      local line, col = math.min(pos.line or 0, LINE_MAX), math.min(pos.col or 0, COLUMN_MAX)
      local key = ("%s:%d:%d"):format(pos.file, line, col)
      if l.insn > last_insn and (key ~= last or starts and starts[l.insn]) then
         local text = self:string(source_line(pos))
         out[#out + 1] = words(l.insn, self:string(pos.file), text, line * 1024 + col)
         last, last_insn = key, l.insn
      end
   end
   return table.concat(out)
end

--- The whole as the kernel and the .BTF section have it.
---@return string bytes
function Btf:bytes()
   local types, text = table.concat(self.types), table.concat(self.text)
   return "\x9f\xeb\1\0" .. words(HEADER_SIZE, 0, #types, #types, #text) .. types .. text
end

--- Loads it into the kernel.
---@return integer? fd
---@return string? err
function Btf:load()
   local data = self:bytes()
   local log = ffi.new("char[?]", LOG_SIZE)
   local fd = C.tw_bpf_btf_load(data, #data, log, LOG_SIZE)
   if fd >= 0 then return fd end
   local text = ffi.string(log)
   return nil, abi.error() .. (text ~= "" and "\n" .. text or "")
end

return M
