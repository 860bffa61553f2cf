-- SPDX-License-Identifier: BSD-3-Clause
-- Ready-made eBPF objects of other compilers, such as clang: maps with the functions of tables,
-- programs with the hooks of ours, variables by name.
--
--    local o = tw.bpf.object "filter.o"
--    o:set("limit", 100)                                    -- const volatile, static or global
--    assert(o:load())
--    o.maps.flows:get(1, 2).packets
--    o:attach { program = "filter", interface = "eth0" }

local ffi = require "ffi"
local abi = require "tideway.abi"
local btf_read = require "tideway.bpf.btf_read"
local link = require "tideway.bpf.link"
local map = require "tideway.bpf.map"
local map_types = require "tideway.bpf.map_types"
local program = require "tideway.bpf.program"
local verifier = require "tideway.bpf.verifier"

local M = {}

local C = abi.C

---@class tideway.bpf.Object
---@field path string
---@field maps table<string, tideway.bpf.Map>  after load(); before it what they are
---@field programs table<string, tideway.bpf.Program>  after load(); before it { section, type }
---@field variables table<string, table>  name -> { section, type, constant }
local Object = {}
Object.__index = Object
Object.__tostring = function(self) return "object " .. self.path end

-- Sections of libbpf -> hooks. Those of TC do not say which way.
local section_hooks = {
   xdp = "xdp", tc = "tc_ingress", classifier = "tc_ingress", socket = "socket_filter",
   ["cgroup_skb/ingress"] = "cgroup_ingress", ["cgroup_skb/egress"] = "cgroup_egress", sk_msg = "sk_msg",
   ["sk_skb/stream_parser"] = "stream_parser", ["sk_skb/stream_verdict"] = "stream_verdict", sk_skb = "sk_skb_verdict",
   sk_lookup = "sk_lookup", sk_reuseport = "sk_reuseport", lwt_in = "lwt_in", lwt_out = "lwt_out",
   lwt_xmit = "lwt_xmit",
}

local function hook_of(section)
   return section_hooks[section] or section_hooks[section:match "^([^/.]+)"]
end

-- Calls f(index, info) for every map or program.
local function each(self, what, f)
   local info = ffi.new("struct tw_bpf_object_" .. what)
   local index = 0
   while C["tw_bpf_object_" .. what](self.object, index, info) == 1 do
      f(index, info)
      index = index + 1
   end
end

-- Variables of a section of data, by the names that BTF has for them.
local function read_variables(self, info)
   local section = ffi.string(info.section)
   local types = self.types and self.types:find("datasec", section)
   for _, m in ipairs(types and types.members or {}) do
      local var = self.types[m.type]
      self.variables[var.name] = {
         section = section, constant = section:match "^%.rodata" ~= nil, type = self.types:text(var.type),
         layout = self.types:layout(var.type), offset = m.offset, data = ffi.cast("uint8_t *", info.data),
      }
   end
end

--- Opens an object; nothing is loaded yet.
---@param path string
---@return tideway.bpf.Object? object
---@return string? err
function M.open(path)
   local object = C.tw_bpf_object_open(path)
   if object == nil then return nil, abi.error() end
   local self = setmetatable({ path = path, object = ffi.gc(object, C.tw_bpf_object_close), maps = {}, programs = {},
      variables = {}, given = {} }, Object)
   local size = ffi.new "uint32_t[1]"
   local data = C.tw_bpf_object_btf(object, size)
   if data ~= nil then self.types = btf_read.parse(ffi.string(data, size[0])) end
   each(self, "map", function(index, info)
      if info.internal ~= 0 then
         if info.data ~= nil then read_variables(self, info) end
      else
         self.maps[ffi.string(info.name)] = { index = index, entries = info.entries, key_size = info.key_size,
            value_size = info.value_size }
      end
   end)
   each(self, "program", function(index, info)
      local section = ffi.string(info.section)
      self.programs[ffi.string(info.name)] = { index = index, section = section, hook = hook_of(section),
         count = info.count }
   end)
   return self
end

local function names_of(t)
   local list = {}
   for name in pairs(t) do list[#list + 1] = name end
   table.sort(list)
   return #list > 0 and table.concat(list, ", ") or "none"
end

local function variable(self, name)
   local v = self.variables[name]
   if not v then
      error(("%s has no variable '%s'; there are: %s%s"):format(self.path, tostring(name), names_of(self.variables),
         self.types and "" or " (it was built without -g)"), 3)
   end
   return v
end

--- A variable's value: a number, 64-bit integer, or an object. After load() what programs see now.
---@param name string
function Object:get(name)
   local v = variable(self, name)
   local p = ffi.cast(ffi.typeof("$ *", v.layout.ctype), v.data + v.offset)
   if v.layout.scalar then return p[0] end
   if #v.layout.fields == 1 and v.layout.fields[1].compound and v.layout.fields[1].name == "value" then
      return p[0].value
   end
   return p[0]
end

--- Sets a variable. Constants (.rodata) only before load(), when the verifier can use them.
---@param name string
---@param value any  a number, text, object, or table of fields or elements
function Object:set(name, value)
   local v = variable(self, name)
   if v.constant and self.loaded then
      error(("%s: '%s' is constant and %s is loaded: set it before load()"):format(self.path, name, self.path), 2)
   end
   local p = ffi.cast(ffi.typeof("$ *", v.layout.ctype), v.data + v.offset)
   if v.layout.scalar then
      p[0] = value
      return
   end
   local array = #v.layout.fields == 1 and v.layout.fields[1].name == "value" and v.layout.fields[1].compound
   local target = array and p[0].value or p[0]
   if type(value) == "string" then
      ffi.fill(target, v.layout.size)
      ffi.copy(target, value, math.min(#value, v.layout.size))
   elseif type(value) == "table" then
      -- Lists count from 1 in Lua and from 0 in C.
      for k, x in pairs(value) do target[type(k) == "number" and k - 1 or k] = x end
   else
      ffi.copy(target, value, v.layout.size)
   end
end

-- Data sections as the programs have them, so that get() and set() go on after loading.
local function remap_variables(self)
   each(self, "map", function(_, info)
      if info.internal ~= 0 then
         local section = ffi.string(info.section)
         local memory = C.tw_bpf_map_mmap(info.fd, info.value_size, not section:match "^%.rodata")
         for _, v in pairs(self.variables) do
            if v.section == section then v.data = memory ~= nil and ffi.cast("uint8_t *", memory) or v.data end
         end
      end
   end)
end

local function take_maps(self)
   each(self, "map", function(_, info)
      if info.internal == 0 then
         local name = ffi.string(info.name)
         local given = self.given[name]
         local m, err = given, nil
         if not m then
            m, err = map.from_fd(C.tw_bpf_dup(info.fd), { name = name, types = map_types.from(self.types, info) })
         end
         self.maps[name] = m
         if not m then self.unknown[name] = err end
      end
   end)
end

local function take_programs(self)
   each(self, "program", function(_, info)
      local name = ffi.string(info.name)
      local p = self.programs[name]
      if info.fd >= 0 then
         local loaded = assert(program.from_fd(C.tw_bpf_dup(info.fd), name))
         loaded.section, loaded.hook = p.section, p.hook
         self.programs[name] = loaded
      else
         self.programs[name] = nil
      end
   end)
end

local function prepare(self, o)
   for name, m in pairs(o.maps or {}) do
      local there = self.maps[name] or error(("%s has no map '%s'; there are: %s"):format(self.path, name,
         names_of(self.maps)), 3)
      if type(m) == "number" then
         if C.tw_bpf_object_resize(self.object, there.index, m) < 0 then return nil, abi.error() end
      else
         if C.tw_bpf_object_reuse(self.object, there.index, m.fd) < 0 then return nil, abi.error() end
         self.given[name] = m
      end
   end
   if o.programs then
      local wanted = {}
      for _, name in ipairs(o.programs) do
         if not self.programs[name] then
            error(("%s has no program '%s'; there are: %s"):format(self.path, name, names_of(self.programs)), 3)
         end
         wanted[name] = true
      end
      for name, p in pairs(self.programs) do
         if not wanted[name] and C.tw_bpf_object_skip(self.object, p.index) < 0 then return nil, abi.error() end
      end
   end
   return true
end

--- Loads the maps and programs into the kernel.
---@param o? table  { programs = names of those wanted, all when absent; maps = { name = a map to be used
---  instead of the object's, or its number of entries } }
---@return boolean? ok
---@return string|tideway.compiler.diagnostic|nil err
function Object:load(o)
   if self.loaded then error(("%s is loaded already"):format(self.path), 2) end
   local ok, err = prepare(self, o or {})
   if not ok then return nil, ("%s: %s"):format(self.path, err) end
   if C.tw_bpf_object_load(self.object) < 0 then
      local sentence, log = abi.error(), ffi.string(C.tw_bpf_object_log(self.object))
      if log ~= "" then return nil, verifier.translate(log, { name = self.path, sentence = sentence }) end
      return nil, ("%s: %s"):format(self.path, sentence)
   end
   self.loaded, self.unknown = true, {}
   take_maps(self)
   take_programs(self)
   remap_variables(self)
   return true
end

--- Attaches one of its programs; the hook is that of its section when `hook` is absent.
---@param o table  as for link.attach, with program = a name (may be absent when there is one only)
---@return tideway.bpf.Link? link
---@return string? err
function Object:attach(o)
   if not self.loaded then error(("%s is not loaded: call load() first"):format(self.path), 2) end
   local name = o.program or next(self.programs)
   local p = self.programs[name]
   if not p or not o.program and next(self.programs, name) then
      error(("%s: program = '%s' is not one of: %s"):format(self.path, tostring(o.program), names_of(self.programs)), 2)
   end
   local copy = {}
   for k, v in pairs(o) do copy[k] = v end
   copy.program, copy.hook = p, o.hook or p.hook
   if not copy.hook then
      error(("%s: section %s does not say where program %s belongs; give hook = one"):format(self.path, p.section,
         name), 2)
   end
   return link.attach(copy)
end

--- Closes the object. What is attached, and maps and programs that were taken from it, stay.
function Object:close()
   if self.object then C.tw_bpf_object_close(ffi.gc(self.object, nil)) end
   self.object = nil
   self.variables = {}
end

return setmetatable(M, {
   --- tw.bpf.object "file.o"
   __call = function(_, path)
      local object, err = M.open(path)
      if not object then error(err, 2) end
      return object
   end,
})
