-- SPDX-License-Identifier: BSD-3-Clause
-- Writes programs and maps as an ELF file that libbpf, bpftool and ip take, as clang would: a section
-- per program, .text for their functions, .maps with BTF, license, .BTF and .BTF.ext.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local btf = require "tideway.bpf.btf"
local map = require "tideway.bpf.map"
local program = require "tideway.bpf.program"

local M = {}

local C = abi.C
local PROGBITS, SYMTAB, STRTAB, REL = 1, 2, 3, 9
local WRITE, ALLOC, EXEC = 1, 2, 4
local LOCAL, GLOBAL = 0, 1
local OBJECT, FUNC = 1, 2
local R_BPF_64_64, R_BPF_64_32 = 1, 10
local LDDW, CALL, PSEUDO_CALL = 0x18, 0x85, 1
local POINTER = 8

local words = btf.words

-- Program type, or type and attach type -> section, as libbpf names them.
local sections = {
   xdp = "xdp", tc = "tc", socket_filter = "socket", cgroup_skb = "cgroup_skb/ingress", lwt_in = "lwt_in",
   lwt_out = "lwt_out", lwt_xmit = "lwt_xmit", sk_msg = "sk_msg", sk_skb = "sk_skb", sk_lookup = "sk_lookup",
   sk_reuseport = "sk_reuseport", flow_dissector = "flow_dissector", sock_ops = "sockops",
   cgroup_ingress = "cgroup_skb/ingress", cgroup_egress = "cgroup_skb/egress",
   stream_parser = "sk_skb/stream_parser", stream_verdict = "sk_skb/stream_verdict",
   xdp_devmap = "xdp/devmap", xdp_cpumap = "xdp/cpumap", reuseport_migrate = "sk_reuseport/migrate",
}

--- The section that libbpf knows a program's type by.
---@param type string
---@param attach_type? string
---@return string
function M.section(type, attach_type) return sections[attach_type] or sections[type] end

-- ---- the file under construction ----

local File = {}
File.__index = File

local function new_file()
   return setmetatable({ sections = {}, names = { "\0" }, names_size = 1, locals = {}, globals = {}, btf = btf.new(),
      func_info = {}, line_info = {} }, File)
end

function File:name(text)
   local at = self.names_size
   self.names[#self.names + 1] = text .. "\0"
   self.names_size = at + #text + 1
   return at
end

-- Adds a section; its number is known at once, its content may come later.
function File:section(name, type, flags, o)
   local s = { name = name, type = type, flags = flags, align = 8, link = 0, info = 0, entry_size = 0, data = "" }
   for k, v in pairs(o or {}) do s[k] = v end
   self.sections[#self.sections + 1] = s
   s.index = #self.sections
   return s
end

function File:symbol(name, kind, linkage, section, value, size)
   local s = { name = self:name(name), kind = kind, linkage = linkage, section = section, value = value, size = size }
   local list = linkage == GLOBAL and self.globals or self.locals
   list[#list + 1] = s
   return s
end

local function symbol_bytes(s)
   return words(s.name) .. string.char(s.linkage * 16 + s.kind, 0, bit.band(s.section.index, 255),
      bit.rshift(s.section.index, 8)) .. words(s.value, 0, s.size, 0)
end

-- The symbols, local ones first, get their numbers.
function File:number_symbols()
   local out = { ("\0"):rep(24) }
   for _, list in ipairs { self.locals, self.globals } do
      for _, s in ipairs(list) do
         s.number = #out
         out[#out + 1] = symbol_bytes(s)
      end
   end
   return table.concat(out)
end

-- ---- maps ----

-- An integer of a map's definition: a pointer to an array of that many.
local function number(b, n) return b:ptr(b:array(b:int("int", 4, true), n)) end

-- Members of a map's definition in BTF, { name, type id }.
local function definition(b, m)
   local list = { { "type", number(b, map.kinds[m.kind].id) }, { "max_entries", number(b, m.entries) } }
   local function add(name, id) list[#list + 1] = { name, id } end
   if m.flags ~= 0 then add("map_flags", number(b, m.flags)) end
   if m.hashes then add("map_extra", number(b, m.hashes)) end
   if map.kinds[m.kind].btf then
      local key, value = map.btf_types(b, m)
      add("key", b:ptr(key))
      add("value", b:ptr(value))
   else
      if m.key_size > 0 then add("key_size", number(b, m.key_size)) end
      if m.value_size > 0 then add("value_size", number(b, m.value_size)) end
   end
   return list
end

-- Maps whose value programs address directly are sections of data, as global variables of C are.
local function add_data(file, m)
   local b, name = file.btf, btf.identifier(m.name)
   if m.kind ~= "array" or m.entries ~= 1 then
      error(("map %s: only an array of one entry can be addressed by value"):format(m.name), 0)
   end
   local section = file:section(".data." .. name, PROGBITS, ALLOC + WRITE, { data = ("\0"):rep(m.value_size) })
   local value = b:of(m.value_type, m.name .. "_value", m.value_size, m.lock_offset)
   local var = b:var(name, value, btf.GLOBAL)
   b:datasec(section.name, m.value_size, { { var, 0, m.value_size } })
   return file:symbol(name, OBJECT, GLOBAL, section, 0, m.value_size)
end

-- map -> symbol, of all maps that the programs use and of those given.
local function add_maps(file, o)
   local b, by_value, order, symbols = file.btf, {}, {}, {}
   local function use(m, value)
      if by_value[m] == nil then
         by_value[m] = value
         order[#order + 1] = m
      elseif by_value[m] ~= value then
         error(("map %s is used both as a map and by its value's address: an ELF file cannot say so"):format(m.name), 0)
      end
   end
   for _, p in ipairs(o.programs) do
      for _, r in ipairs(p.relocs or {}) do use(r.map or r[2], r.value ~= nil) end
   end
   for _, m in ipairs(o.maps or {}) do
      if by_value[m] == nil then use(m, false) end
   end
   local section, size, variables, names = nil, 0, {}, {}
   for _, m in ipairs(order) do
      local name = btf.identifier(m.name)
      if names[name] then error(("two maps are called %s"):format(name), 0) end
      names[name] = true
      if by_value[m] then
         symbols[m] = add_data(file, m)
      else
         section = section or file:section(".maps", PROGBITS, ALLOC + WRITE)
         local list = definition(b, m)
         for i, member in ipairs(list) do member[3] = (i - 1) * POINTER end
         local bytes = #list * POINTER
         local var = b:var(name, b:struct("", bytes, list), btf.GLOBAL)
         variables[#variables + 1] = { var, size, bytes }
         symbols[m] = file:symbol(name, OBJECT, GLOBAL, section, size, bytes)
         size = size + bytes
      end
   end
   if section then
      section.data = ("\0"):rep(size)
      b:datasec(".maps", size, variables)
   end
   return symbols
end

-- ---- programs ----

-- Ranges of a program's functions, { name, first, last + 1 }.
local function functions_of(p)
   local list = {}
   for i, f in ipairs(p.functions or { { insn = 0, name = p.name } }) do
      local next = p.functions and p.functions[i + 1]
      list[i] = { name = btf.identifier(i == 1 and p.name or f.name), first = f.insn,
         stop = next and next.insn or p.count }
   end
   return list
end

local function text_of(file)
   if not file.text then
      file.text = file:section(".text", PROGBITS, ALLOC + EXEC)
      file.text.parts, file.text.count = {}, 0
   end
   return file.text
end

local function new_code_section(file, name)
   local s = file:section(name, PROGBITS, ALLOC + EXEC)
   s.parts, s.count = {}, 0
   return s
end

-- Places of the functions: the first in the program's section, the others in .text.
local function place(file, p, sections_by_name)
   local name = p.section or M.section(p.type, p.attach_type)
   if not name then error(("program %s: there is no section for type %s"):format(p.name, tostring(p.type)), 0) end
   local main = sections_by_name[name] or new_code_section(file, name)
   sections_by_name[name] = main
   local list = functions_of(p)
   for i, f in ipairs(list) do
      local s = i == 1 and main or text_of(file)
      f.section, f.at = s, s.count
      f.symbol = file:symbol(i == 1 and f.name or btf.identifier(p.name) .. "_" .. f.name, FUNC,
         i == 1 and GLOBAL or LOCAL, s, s.count * 8, (f.stop - f.first) * 8)
      s.count = s.count + f.stop - f.first
   end
   return list
end

local function function_at(list, insn)
   for _, f in ipairs(list) do
      if insn >= f.first and insn < f.stop then return f end
   end
end

-- A relocation record of an instruction.
local function relocate(f, insn, symbol, type)
   local s = f.section
   s.relocs = s.relocs or {}
   s.relocs[#s.relocs + 1] = { at = (f.at + insn - f.first) * 8, symbol = symbol, type = type }
end

-- The instructions, with what relocations need in their immediates.
local function add_code(p, list, symbols)
   local insns = ffi.new("uint64_t[?]", p.count)
   ffi.copy(insns, p.insns, p.count * 8)
   for _, r in ipairs(p.relocs or {}) do
      local at = r.insn or r[1]
      insns[at] = bit.bor(bit.band(insns[at], 0x0fff), bit.lshift((r.value or 0) + 0ULL, 32))
      insns[at + 1] = 0
      relocate(function_at(list, at), at, symbols[r.map or r[2]], R_BPF_64_64)
   end
   local skip
   for i = 0, p.count - 1 do
      local op, src = tonumber(bit.band(insns[i], 0xff)), tonumber(bit.band(bit.rshift(insns[i], 12), 15))
      if skip then
         skip = false
      elseif op == LDDW then
         skip = true
      elseif op == CALL and src == PSEUDO_CALL then
         local target = i + 1 + tonumber(ffi.cast("int32_t", bit.rshift(insns[i], 32)))
         local from, to = function_at(list, i), function_at(list, target)
         if from.section ~= to.section then
            insns[i] = bit.bor(bit.band(insns[i], 0xffffffffULL), 0xffffffff00000000ULL)
            relocate(from, i, to.symbol, R_BPF_64_32)
         end
      end
   end
   for _, f in ipairs(list) do
      f.section.parts[#f.section.parts + 1] = ffi.string(insns + f.first, (f.stop - f.first) * 8)
   end
end

-- func_info and line_info of a program, for .BTF.ext: offsets are bytes of the section there.
local function add_info(file, p, list)
   local b = file.btf
   local starts, declared = {}, {}
   for i, f in ipairs(list) do
      starts[f.first] = true
      declared[i] = { insn = f.first, name = i == 1 and f.name or btf.identifier(p.name) .. "_" .. f.name }
   end
   local function add(to, record_size, records, info)
      local w = ffi.cast("const uint32_t *", records)
      for i = 0, #records / record_size - 1 do
         local f = function_at(list, w[i * record_size / 4])
         local per_section = info[f.section.index] or {}
         info[f.section.index] = per_section
         per_section[#per_section + 1] = words((f.at + w[i * record_size / 4] - f.first) * 8)
            .. records:sub(i * record_size + 5, (i + 1) * record_size)
         to.order[f.section.index] = f.section
      end
   end
   local kind = program.types[p.type] or {}
   file.func_info.order, file.line_info.order = file.func_info.order or {}, file.line_info.order or {}
   add(file.func_info, 8, b:func_info(declared, kind[2]), file.func_info)
   if p.lines then add(file.line_info, 16, b:line_info(p.lines, starts), file.line_info) end
end

-- One half of .BTF.ext: record size, then for each section its name and records.
local function ext_part(file, info, record_size)
   local out = { words(record_size) }
   for index, section in pairs(info.order or {}) do
      table.sort(info[index], function(a, b)
         return ffi.cast("const uint32_t *", a)[0] < ffi.cast("const uint32_t *", b)[0]
      end)
      out[#out + 1] = words(file.btf:string(section.name), #info[index]) .. table.concat(info[index])
   end
   return #out > 1 and table.concat(out) or ""
end

local function ext_bytes(file)
   local functions, lines = ext_part(file, file.func_info, 8), ext_part(file, file.line_info, 16)
   return "\x9f\xeb\1\0" .. words(32, 0, #functions, #functions, #lines, #functions + #lines, 0) .. functions .. lines
end

-- ---- writing ----

local function finish(file)
   for _, s in ipairs(file.sections) do
      if s.parts then s.data = table.concat(s.parts) end
   end
   local ext = ext_bytes(file) -- adds names to the BTF
   file:section(".BTF", PROGBITS, 0, { data = file.btf:bytes(), align = 4 })
   file:section(".BTF.ext", PROGBITS, 0, { data = ext, align = 4 })
   local symbols = file:section(".symtab", SYMTAB, 0, { entry_size = 24, data = file:number_symbols(),
      info = #file.locals + 1 })
   for i = 1, #file.sections do
      local s = file.sections[i]
      if s.relocs then
         table.sort(s.relocs, function(a, b) return a.at < b.at end)
         local out = {}
         for j, r in ipairs(s.relocs) do out[j] = words(r.at, 0, r.type, r.symbol.number) end
         file:section(".rel" .. s.name, REL, 0, { data = table.concat(out), link = symbols.index, info = s.index,
            entry_size = 16 })
      end
   end
   local names = file:section(".strtab", STRTAB, 0, { align = 1 })
   symbols.link = names.index
   for _, s in ipairs(file.sections) do s.name_at = file:name(s.name) end
   names.data = table.concat(file.names)
   return names
end

--- Writes an ELF file.
---@param path string
---@param o table  { programs = { { name =, type =, attach_type =?, section = as the type says?, insns =,
---  count =, relocs =?, lines =?, functions =? } }, maps = those that no program uses?,
---  license = "Dual BSD/GPL"? }
---@return boolean? ok
---@return string? err
function M.write(path, o)
   local file = new_file()
   local ok, err = pcall(function()
      local symbols = add_maps(file, o)
      local by_name, placed = {}, {}
      for i, p in ipairs(o.programs) do placed[i] = place(file, p, by_name) end
      for i, p in ipairs(o.programs) do
         add_code(p, placed[i], symbols)
         add_info(file, p, placed[i])
      end
      file:section("license", PROGBITS, ALLOC + WRITE, { data = (o.license or "Dual BSD/GPL") .. "\0", align = 1 })
   end)
   if not ok then return nil, ("%s: %s"):format(path, tostring(err)) end
   local names = finish(file)
   local list = ffi.new("struct tw_elf_section[?]", #file.sections)
   for i, s in ipairs(file.sections) do
      local t = list[i - 1]
      t.name, t.type, t.link, t.info, t.align = s.name_at, s.type, s.link, s.info, s.align
      t.entry_size, t.flags, t.size = s.entry_size, s.flags, #s.data
      t.data = ffi.cast("const char *", s.data)
   end
   if C.tw_elf_write(path, list, #file.sections, names.index) < 0 then return nil, abi.error() end
   return true
end

return M
