-- SPDX-License-Identifier: BSD-3-Clause
-- Access functions of maps, generated per map so that their arguments are the fields of its types.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local type_lib = require "tideway.table.type"

local M = {}

local C = abi.C
local ENOENT, EEXIST, E2BIG, ENOSPC, ENOMEM = -2, -17, -7, -28, -12

-- Statements that store arguments into an object, and the arguments: as type_lib.store(), for compound
-- fields of other compilers' types too.
local function store(t, object, argument)
   local statements, args = {}, {}
   for i, field in ipairs(t.fields) do
      args[i] = argument .. i
      local target = t.scalar and object .. "[0]" or ("%s[%q]"):format(object, field.raw)
      if field.compound then
         statements[i] = ("env.compound(%s, %s, %d)"):format(target, args[i], field.size)
      elseif field.array then
         statements[i] = ("env.arrays.%s(%s, %s)"):format(field.array.c:gsub("%W", "_"), target, args[i])
      elseif type_lib.basic[field.type].struct then
         statements[i] = ("copy(%s, %s, 16)"):format(target, args[i])
      else
         statements[i] = ("%s = %s"):format(target, args[i])
      end
   end
   return table.concat(statements, "; "), table.concat(args, ", ")
end

-- Stores into an array or structure: bytes, an object, or a list.
local function compound(target, value, size)
   if type(value) == "string" then
      ffi.fill(target, size)
      ffi.copy(target, value, math.min(#value, size))
   elseif type(value) == "table" then
      for k, v in pairs(value) do target[k] = v end
   else
      ffi.copy(target, value, size)
   end
end

-- $K, $V: the arguments of key and value. $STORE_K, $STORE_V: statements that store them into `key`
-- and `val`. `read()` makes what the caller gets of what lies in the buffer `raw`.
local prelude = [[
local C, env = ...
local fd, key, val, raw, kptr, flags = env.fd, env.key, env.val, env.raw, env.kptr, env.flags
local copy, read, fail, room, zero, handle = env.copy, env.read, env.fail, env.room, env.zero, env.handle
local f = {}
]]

local templates = {}

templates.get = [[
function f.get(_, $K)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, flags)
   if rc == 0 then return read() end
   if rc == env.ENOENT then return nil end
   fail(2)
end
]]

templates.set = [[
function f.set(_, $K, $V)
   $STORE_K
   $STORE_V
   return room(C.tw_bpf_map_update(fd, kptr, raw, flags), 2)
end
]]

templates.del = [[
function f.del(_, $K)
   $STORE_K
   local rc = C.tw_bpf_map_delete(fd, kptr)
   if rc == 0 then return true end
   if rc == env.ENOENT then return false end
   fail(2)
end
]]

templates.take = [[
function f.take(_, $K)
   $STORE_K
   local rc = C.tw_bpf_map_take(fd, kptr, raw)
   if rc == 0 then return read() end
   if rc == env.ENOENT then return nil end
   fail(2)
end
]]

templates.put = [[
function f.put(_, $K)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, flags)
   if rc == env.ENOENT then
      rc = C.tw_bpf_map_update(fd, kptr, zero, env.NOEXIST)
      if rc == 0 or rc == env.EEXIST then
         rc = C.tw_bpf_map_lookup(fd, kptr, raw, flags)
      elseif not room(rc, 2) then
         return nil
      end
   end
   if rc == 0 then return read() end
   if rc == env.ENOENT then return nil end
   fail(2)
end
]]

templates.add = [[
function f.add(_, $K, n)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, 0)
   if rc == env.ENOENT then
      if env.is_array then return false end
      val[0] = n
   elseif rc == 0 then
      val[0] = val[0] + n
   else
      fail(2)
   end
   return room(C.tw_bpf_map_update(fd, kptr, raw, 0), 2)
end
]]

-- Not atomic: a program may change the value between the two calls.
templates.exchange = [[
function f.exchange(_, $K, value)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, 0)
   if rc == env.ENOENT then return nil end
   if rc < 0 then fail(2) end
   local old = read()
   val[0] = value
   room(C.tw_bpf_map_update(fd, kptr, raw, 0), 2)
   return old
end
function f.compare_exchange(_, $K, expected, value)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, 0)
   if rc == env.ENOENT then return nil end
   if rc < 0 then fail(2) end
   local old = read()
   if old == expected then
      val[0] = value
      room(C.tw_bpf_map_update(fd, kptr, raw, 0), 2)
   end
   return old
end
]]

templates.sum = [[
function f.sum(_, $K)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, 0)
   if rc == 0 then return env.total() end
   if rc == env.ENOENT then return nil end
   fail(2)
end
]]

-- To the value of the first CPU: the sum is what counts.
templates.percpu_add = [[
function f.add(_, $K, n)
   $STORE_K
   local rc = C.tw_bpf_map_lookup(fd, kptr, raw, 0)
   if rc == env.ENOENT then
      if env.is_array then return false end
      env.clear()
   elseif rc < 0 then
      fail(2)
   end
   val[0] = val[0] + (n or 1)
   return room(C.tw_bpf_map_update(fd, kptr, raw, 0), 2)
end
]]

templates.push = [[
function f.push(_, $V)
   $STORE_V
   return room(C.tw_bpf_map_update(fd, nil, raw, 0), 2)
end
]]

templates.pop = [[
function f.pop()
   local rc = C.tw_bpf_map_take(fd, nil, raw)
   if rc == 0 then return read() end
   if rc == env.ENOENT then return nil end
   fail(2)
end
function f.peek()
   local rc = C.tw_bpf_map_lookup(fd, nil, raw, 0)
   if rc == 0 then return read() end
   if rc == env.ENOENT then return nil end
   fail(2)
end
]]

templates.bloom = [[
function f.has(_, $V)
   $STORE_V
   local rc = C.tw_bpf_map_lookup(fd, nil, raw, 0)
   if rc == 0 then return true end
   if rc == env.ENOENT then return false end
   fail(2)
end
]]

-- Memory that user space and programs share: no system call, and references are live.
templates.mapped = [[
local cells, entries = env.cells, env.entries
function f.get(_, i)
   if i < 0 or i >= entries then return nil end
   local p = env.cast(env.vptr, cells + i)
   return $LOAD
end
function f.set(_, i, $V)
   if i < 0 or i >= entries then return false end
   local val = env.cast(env.vptr, cells + i)
   $STORE_INTO
   return true
end
]]

templates.mapped_add = [[
function f.add(_, i, n)
   if i < 0 or i >= entries then return false end
   C.tw_bpf_atomic_add(cells + i, env.size, n)
   return true
end
]]

local function fail(level) error(abi.error(), (level or 1) + 1) end

-- True when stored, false when the map is full, an error else.
local function room(rc, level)
   if rc == 0 then return true end
   if rc == E2BIG or rc == ENOSPC or rc == ENOMEM then return false end
   fail(level + 1)
end

--- What a kernel object is called in a map: descriptors of programs and sockets, interfaces by name.
local function handle(v, what)
   local t = type(v)
   if t == "nil" then return 0 end
   if t == "table" then return v.fd or error(("%s has no descriptor"):format(tostring(v)), 3) end
   if t == "string" and what == "ifindex" then
      local index = C.tw_bpf_ifindex(v)
      return index > 0 and index or error(abi.error(), 3)
   end
   return v
end

-- A prefix is a text, or an address and a length; a look-up takes an address, which is the whole length.
local lpm_set = [[
function f.set(_, address, length, $V)
   if env.type(address) == "string" then return f.set_text(address, length, $V) end
   env.prefix(address, length)
   $STORE_V
   return room(C.tw_bpf_map_update(fd, kptr, raw, flags), 2)
end
function f.set_text(address, $V)
   env.prefix(address, nil, 4)
   $STORE_V
   return room(C.tw_bpf_map_update(fd, kptr, raw, flags), 3)
end
]]

local lpm_get = { [4] = "env.length[0] = 32; env.address[0] = env.bswap(address)",
   [6] = "env.length[0] = 128; copy(env.address, address, 16)" }

-- Stores prefixes as keys: bits behind the length are zero, so that equal prefixes are equal keys.
local function lpm_env(map, env)
   local v6 = map.family == 6
   local bytes = ffi.cast("uint8_t *", env.kptr) + 4
   local length, host = ffi.new "uint32_t[1]", ffi.new "uint32_t[4]"
   env.bswap, env.type = bit.bswap, type
   env.length, env.address = ffi.cast("uint32_t *", env.kptr), v6 and bytes or ffi.cast("int32_t *", bytes)
   function env.prefix(address, n, level)
      level = level or 3
      if type(address) == "string" then
         if C.tw_prefix_parse(address, map.family, host, length) < 0 then error(abi.error(), level) end
         address, n = v6 and host or host[0], length[0]
      elseif type(n) ~= "number" or n < 0 or n > (v6 and 128 or 32) then
         error(("prefix length is %s: give an address and a length, or a text such as %s"):format(tostring(n),
            v6 and '"2001:db8::/32"' or '"10.0.0.0/8"'), level)
      end
      env.length[0] = n
      if v6 then ffi.copy(bytes, address, 16) else env.address[0] = bit.bswap(address) end
      for i = math.floor(n / 8), (v6 and 16 or 4) - 1 do
         local keep = math.max(0, n - i * 8)
         bytes[i] = bit.band(bytes[i], bit.lshift(0xff, 8 - keep))
      end
   end
end

local function total_of(map, env)
   local t, cpus = map.value_type, map.cpus
   local stride = map.stride
   local vptr = ffi.typeof("$ *", t.ctype)
   local base = ffi.cast("uint8_t *", env.raw)
   local function at(cpu) return ffi.cast(vptr, base + cpu * stride) end
   if t.scalar then
      return function()
         local total = at(0)[0]
         for cpu = 1, cpus - 1 do total = total + at(cpu)[0] end
         return type_lib.basic[t.fields[1].type].number and tonumber(total) or total
      end
   end
   return function()
      local sum = t.ctype()
      for cpu = 0, cpus - 1 do
         local p = at(cpu)[0]
         for _, field in ipairs(t.fields) do
            local into, from = sum[field.raw], p[field.raw]
            if field.array then
               for i = 0, field.array.count - 1 do into[i] = into[i] + from[i] end
            elseif field.type and field.type ~= "ip6" then
               sum[field.raw] = into + from
            end
         end
      end
      return sum
   end
end

--- The functions of a map.
---@param map tideway.bpf.Map
---@param list string[]  names of templates, in order
---@param env table  { fd, key, val, raw, kptr, read, flags, zero, is_array, cells, entries }
---@return table<string, function>
function M.generate(map, list, env)
   env.ENOENT, env.EEXIST, env.NOEXIST = ENOENT, EEXIST, C.TW_BPF_NOEXIST + env.flags
   env.compound, env.size = compound, map.value_size
   env.arrays = type_lib.array_stores(map.key_type, map.value_type)
   env.copy, env.cast, env.fail, env.room, env.handle = ffi.copy, ffi.cast, fail, room, handle
   local words = { K = "", V = "", STORE_K = "", STORE_V = "" }
   if map.value_type then
      env.vptr = ffi.typeof("$ *", map.value_type.ctype)
      words.STORE_V, words.V = store(map.value_type, "val", "v")
      words.STORE_INTO = words.STORE_V
      words.LOAD = type_lib.load(map.value_type, "p")
      if map.handles then
         local before = {}
         for i, field in ipairs(map.value_type.fields) do
            before[i] = ("v%d = handle(v%d, %q)"):format(i, i, map.handles[i] or field.name)
         end
         words.STORE_V = table.concat(before, "; ") .. "; " .. words.STORE_V
      end
      if map.per_cpu then words.STORE_V = words.STORE_V .. "; env.spread()" end
      words.STORE_V = "env.clear(); " .. words.STORE_V -- padding and the lock are zero in what is stored
   end
   local text = { prelude }
   if map.family then
      lpm_env(map, env)
      words.K, words.STORE_K = "address, length", "env.prefix(address, length)"
   elseif map.key_type then
      words.STORE_K, words.K = store(map.key_type, "key", "k")
   end
   if map.per_cpu then env.total = total_of(map, env) end
   for _, name in ipairs(list) do
      local template, w = templates[name], words
      if map.family and (name == "get" or name == "sum") then
         w = setmetatable({ K = "address", STORE_K = lpm_get[map.family] }, { __index = words })
      elseif map.family and name == "set" then
         template = lpm_set
      end
      text[#text + 1] = template:gsub("%$([%u_]+)", function(word) return w[word] end)
   end
   text[#text + 1] = "return f"
   return assert(loadstring(table.concat(text, "\n"), ("=(map %s)"):format(map.name)))(C, env)
end

return M
