-- SPDX-License-Identifier: BSD-3-Clause
-- Tables that only hooks of the kernel have: per-CPU tables, ring buffers, queues, bloom filters, and the maps that
-- packets are redirected through. The map is made when it is first used.

local scope = require "tideway.table.scope"
local type_lib = require "tideway.table.type"

local M = {}

---@class tideway.HookTable
---@field kind string
---@field name string
---@field entries integer
---@field key_type tideway.Type?
---@field value_type tideway.Type?
local HookTable = {}

-- kind -> what its declaration has: key, value (true: declared; a text: fixed), per_cpu, size instead of entries
local KINDS = {
   percpu_hash = { key = true, value = true, per_cpu = true },
   lru_percpu = { key = true, value = true, per_cpu = true },
   percpu_array = { value = true, key = "u32", per_cpu = true },
   ringbuf = { value = true, size = true },
   queue = { value = true },
   stack = { value = true },
   bloom = { value = true },
   devmap = { key = "u32" }, devmap_hash = { key = "u32" }, cpumap = { key = "u32" }, xskmap = { key = "u32" },
   prog_array = { key = "u32" }, sockmap = { key = "u32" }, sockhash = { key = true },
}

-- Functions of maps. Looking one up makes the map.
local FUNCTIONS = {}
for name in ([[get set put del add sum pairs count stats clear push pop peek has poll records take
   fd id]]):gmatch "%S+" do
   FUNCTIONS[name] = true
end

HookTable.__index = function(self, name)
   if not FUNCTIONS[name] then return nil end
   local m, err = require("tideway.bpf.backing").of(self)
   if not m then error(("tw.%s %q: %s"):format(rawget(self, "kind"), rawget(self, "name"), tostring(err)), 2) end
   local v = m[name]
   if type(v) == "function" then return function(_, ...) return v(m, ...) end end
   return v
end
HookTable.__tostring = function(self) return ("%s %s"):format(rawget(self, "kind"), rawget(self, "name")) end
HookTable.__declared = function() return "" end
HookTable.__transfer = function(self)
   error(("tw.%s %q is a map of the kernel: NFs that use it can be pinned to hooks only"):format(self.kind, self.name),
      0)
end

local made = 0

local PAGE = 4096

local function options_of(spec)
   local list = { "name", spec.size and "size" or "entries" }
   for _, which in ipairs { "key", "value" } do
      if spec[which] == true then list[#list + 1] = which end
   end
   list[#list + 1] = "keep"
   return list
end

local function check_options(spec, o)
   local known, list = {}, options_of(spec)
   for _, name in ipairs(list) do known[name] = true end
   for option in pairs(o) do
      if not known[option] then
         return ("%s is not an option; options are %s"):format(tostring(option), table.concat(list, ", "))
      end
   end
end

local function check_size(spec, n)
   if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then
      return ("%s is %s, not a whole number from 1"):format(spec.size and "size" or "entries", tostring(n))
   elseif spec.size and (n % PAGE ~= 0 or select(1, math.frexp(n)) ~= 0.5) then
      return ("size is in bytes, a power of two and whole pages of %d; %d is not"):format(PAGE, n)
   end
end

local function declared(kind, o)
   local spec = KINDS[kind]
   if type(o) ~= "table" then return nil, ("its argument is a %s, not a table of options"):format(type(o)) end
   local wrong = check_options(spec, o)
   if wrong then return nil, wrong end
   if o.keep ~= nil and type(o.keep) ~= "boolean" then
      return nil, ("keep is %s, not true or false"):format(tostring(o.keep))
   end
   local self = { kind = kind, per_cpu = spec.per_cpu, hook_only = true, keep = o.keep }
   made = made + 1
   self.name = o.name or ("%s%d"):format(kind, made)
   if type(self.name) ~= "string" then return nil, ("name is %s, not a string"):format(tostring(o.name)) end
   for _, which in ipairs { "key", "value" } do
      local wanted = spec[which]
      local text = wanted
      if wanted == true then text = o[which] end
      if wanted then
         local t, err = type_lib.parse(text)
         if not t then return nil, ("%s type %s: %s"):format(which, tostring(text), err) end
         self[which .. "_type"] = t
      end
   end
   if spec.size then self.entries = o.size or 262144 else self.entries = o.entries end
   wrong = check_size(spec, self.entries)
   if wrong then return nil, wrong end
   return setmetatable(self, HookTable)
end

local function maker(kind)
   return function(options)
      local self, err = declared(kind, options)
      if not self then error(("tw.%s: %s"):format(kind, err), 2) end
      scope.add(self, type(options.name) == "string" and options.name or nil)
      return self
   end
end

--- Is the value a table that only hooks have?
function M.is(value) return getmetatable(value) == HookTable end

--- Per-CPU hash, LRU hash and array: as tw.hash, tw.lru and tw.array, with a copy of the values per CPU, so that
--- packet functions change them without atomic operations. `sum(key...)` adds them up.
M.percpu_hash, M.lru_percpu, M.percpu_array = maker "percpu_hash", maker "lru_percpu", maker "percpu_array"

--- Ring buffer from the kernel to user space: `rb:output(fields...)` in a packet function; elsewhere
--- `for record in rb:records() do` takes what is there, and `rb:poll(ms)` waits for a record.
---@param options table { name =, value = "fields", size = bytes, a power of two and whole pages }
M.ringbuf = maker "ringbuf"

--- First in first out, last in first out: `push(fields...)`, `pop()`, `peek()`.
M.queue, M.stack = maker "queue", maker "stack"

--- Bloom filter: `push(fields...)`, `has(fields...)`.
M.bloom = maker "bloom"

--- Maps that packets are redirected through: `m:redirect(key)` in a packet function, `m:set(key, ...)` elsewhere.
M.devmap, M.devmap_hash, M.cpumap, M.xskmap = maker "devmap", maker "devmap_hash", maker "cpumap", maker "xskmap"
M.sockmap, M.sockhash = maker "sockmap", maker "sockhash"

--- Programs to go on with: `m:tail_call(i)`.
M.prog_array = maker "prog_array"

return M
