-- SPDX-License-Identifier: BSD-3-Clause
-- Access functions of tables, generated per table so that they compile to straight code.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local type_lib = require "tideway.table.type"

local M = {}

local C = abi.C

-- Each template is a chunk of "get, set, ..." for one kind of table. $words are replaced:
-- $K, $V the argument lists of key and value; $STORE_K, $STORE_V statements that store them into
-- `key` and `val` (preallocated, one per table and VM, so nothing is allocated per call);
-- $LOAD what the value pointer `p` reads as; $NOW the time of the burst.
local templates = {}

local prelude = [[
local C, t, key, val, vptr, kptr, env = ...
local cast, copy, tonumber, type = env.cast, env.copy, env.tonumber, env.type
local error, tostring, burst, packet = env.error, env.tostring, env.burst, env.packet
local words, i64, band, bor, lshift = env.words, env.i64, env.bit.band, env.bit.bor, env.bit.lshift
local bytes, arrays = env.bytes, env.arrays
local tables = {}
]]

-- `local ok = C.f() return ok`, because LuaJIT cannot compile a tail call of a C function that
-- returns a bool.
templates.hash = [[
function tables.get(_, $K)
   $STORE_K
   local p = cast(vptr, C.tw_hash_get(t, key, $NOW))
   if p == nil then return nil end
   return $LOAD
end
function tables.set(_, $K, $V)
   $STORE_K
   $STORE_V
   local ok = C.tw_hash_set(t, key, val, $NOW)
   return ok
end
function tables.del(_, $K)
   $STORE_K
   local ok = C.tw_hash_del(t, key, $NOW)
   return ok
end
]]

templates.hash_struct = [[
function tables.put(_, $K)
   $STORE_K
   local p = cast(vptr, C.tw_hash_put(t, key, $NOW))
   if p == nil then return nil end
   return p
end
]]

templates.hash_scalar = [[
function tables.add(_, $K, n)
   $STORE_K
   local ok = C.tw_hash_add(t, key, n, $NOW)
   return ok
end
]]

-- What was there lies in `old`, as 64 bits whose low ones are the value.
templates.hash_atomic = [[
local old, oldp = env.old, cast(vptr, env.old)
function tables.exchange(_, $K, value)
   $STORE_K
   local ok = C.tw_hash_exchange(t, key, value, $NOW, old)
   if not ok then return nil end
   local p = oldp
   return $LOAD
end
function tables.compare_exchange(_, $K, expected, value)
   $STORE_K
   local ok = C.tw_hash_compare_exchange(t, key, expected, value, $NOW, old)
   if not ok then return nil end
   local p = oldp
   return $LOAD
end
]]

-- Two loads and no call: rte_lpm's tbl24, and tbl8 for prefixes longer than /24.
templates.lpm4 = [[
local view, cells = env.view, env.cells
local tbl24, tbl8 = env.tbl24, env.tbl8
local band, rshift = env.band, env.rshift
function tables.get(_, address)
   local e = tbl24[rshift(address, 8)]
   if band(e, 0x03000000) == 0x03000000 then
      e = tbl8[band(e, 0xffffff) * 256 + band(address, 255)]
   end
   local slot = band(e, 0xffffff)
   if band(e, 0x01000000) == 0 then
      slot = view.default_slot
      if slot == 0 then return nil end
   end
   local p = cast(vptr, cells + slot)
   return $LOAD
end
]]

templates.lpm6 = [[
function tables.get(_, address)
   local p = cast(vptr, C.tw_lpm6_get(t, address))
   if p == nil then return nil end
   return $LOAD
end
]]

templates.lpm = [[
local parse, string_of = env.parse, env.string_of
local function prefix(address, length)
   if type(length) ~= "number" then
      error("prefix length is " .. tostring(length) .. ": give an address and a length, or a text such as "
         .. env.example, 3)
   end
   $STORE_A
   return length
end
function tables.set(_, address, length, $V)
   if type(address) == "string" then
      local ok = tables.set_text(address, length, $V)
      return ok
   end
   length = prefix(address, length)
   $STORE_V
   local rc = C.tw_lpm_set(t, key, length, val)
   if rc == 0 then return true end
   if rc ~= env.ENOSPC then error(string_of(C.tw_error()), 2) end
   return false
end
function tables.set_text(text, $V)
   local length = parse(text, key, 4)
   $STORE_V
   local rc = C.tw_lpm_set(t, key, length, val)
   if rc == 0 then return true end
   return false
end
function tables.find(_, address, length)
   length = type(address) == "string" and parse(address, key, 3) or prefix(address, length)
   local p = cast(vptr, C.tw_lpm_find(t, key, length))
   if p == nil then return nil end
   return $LOAD
end
function tables.del(_, address, length)
   length = type(address) == "string" and parse(address, key, 3) or prefix(address, length)
   local ok = C.tw_lpm_del(t, key, length)
   return ok
end
]]

templates.lpm_struct = [[
function tables.put(_, address, length)
   length = type(address) == "string" and parse(address, key, 3) or prefix(address, length)
   local p = C.tw_lpm_find(t, key, length)
   if p == nil then
      local rc = C.tw_lpm_set(t, key, length, env.zero)
      if rc ~= 0 and rc ~= env.ENOSPC then error(string_of(C.tw_error()), 2) end
      p = C.tw_lpm_find(t, key, length)
   end
   p = cast(vptr, p)
   if p == nil then return nil end
   return p
end
]]

templates.array = [[
local cells, entries = env.cells, env.entries
function tables.get(_, i)
   if i < 0 or i >= entries then return nil end
   local p = cast(vptr, cells + i)
   return $LOAD
end
function tables.set(_, i, $V)
   if i < 0 or i >= entries then return false end
   local val = cast(vptr, cells + i)
   $STORE_V
   return true
end
]]

templates.array_scalar = [[
function tables.add(_, i, n)
   if i < 0 or i >= entries then return false end
   local ok = C.tw_array_add(t, i, n)
   return ok
end
]]

templates.array_atomic = [[
local old, oldp = env.old, cast(vptr, env.old)
function tables.exchange(_, i, value)
   if i < 0 or i >= entries then return nil end
   local ok = C.tw_array_exchange(t, i, value, old)
   if not ok then return nil end
   local p = oldp
   return $LOAD
end
function tables.compare_exchange(_, i, expected, value)
   if i < 0 or i >= entries then return nil end
   local ok = C.tw_array_compare_exchange(t, i, expected, value, old)
   if not ok then return nil end
   local p = oldp
   return $LOAD
end
]]

-- One copy of the counters per lcore, whole cache lines apart: no atomic, no shared line.
templates.counters = [[
local base, stride, entries, id, mine = env.base, env.stride, env.entries, env.id, env.mine
function tables.add(_, i, n)
   if type(i) == "string" then i = id[i] or -1 end
   if i < 0 or i >= entries then return false end
   local at = $SLOT * stride + i
   base[at] = base[at] + (n or 1)
   return true
end
function tables.sum(_, i)
   if type(i) == "string" then i = id[i] or -1 end
   if i < 0 or i >= entries then return nil end
   return tonumber(C.tw_counters_sum(t, i))
end
]]

templates.meter = [[
function tables.mark(_, i, length, color)
   return C.tw_meter_mark(t, i, length, color or 0, $NOW)
end
]]

-- The engine sets packet.burst before it builds what runs on an lcore: a constant then. In the
-- control VM it may come and go, so it is looked up per call.
local function time_of(env)
   return env.burst and "burst.now" or "(packet.burst and packet.burst.now or C.tw_now())"
end

local function slot_of(env)
   return env.burst and "mine" or "(packet.burst and packet.burst.lcore or mine)"
end

local function burst()
   local ok, packet = pcall(require, "tideway.packet")
   if not ok then
      packet = {}
   end
   return packet, packet.burst and ffi.cast("struct tw_burst *", packet.burst) or nil
end

--- Scratch memory for an object of this type.
---@param t tideway.Type
---@param size integer  bytes, at least t.size
---@return ffi.cdata* pointer  to the zeroed object
---@return ffi.cdata* anchor  keeps it alive
function M.scratch(t, size)
   local memory = ffi.new("uint64_t[?]", math.ceil(size / 8))
   return ffi.cast(ffi.typeof("$ *", t.ctype), memory), memory
end

--- Generates the access functions of a table.
---@param kinds string[]  names of templates, in order
---@param o table  { table = C pointer, name =, key = Type?, value = Type?, key_stride = bytes,
---  timed = bool, env = table of what else the templates use }
---@return table<string, function> functions
function M.generate(kinds, o)
   local env = o.env or {}
   env.cast, env.copy, env.tonumber, env.type = ffi.cast, ffi.copy, tonumber, type
   env.error, env.tostring, env.string_of, env.bit = error, tostring, ffi.string, bit
   env.packet, env.burst = burst()
   env.old = ffi.new "int64_t[1]"
   env.bytes, env.arrays = ffi.typeof "uint8_t *", type_lib.array_stores(o.key, o.value)
   env.mine = env.burst and env.burst.lcore or C.TW_TABLE_CONTROL
   local words, key, val, vptr, kptr = { NOW = "0", SLOT = slot_of(env) }, nil, nil, nil, nil
   if o.timed then
      words.NOW = time_of(env)
   end
   if o.key then
      key, env.key_anchor = M.scratch(o.key, o.key_stride)
      kptr = ffi.typeof("$ *", o.key.ctype)
      env.words, env.i64 = ffi.cast("int64_t *", env.key_anchor), ffi.typeof "int64_t"
      words.STORE_K, words.K = type_lib.store_words(o.key, "words", "k")
   end
   if o.value then
      val, env.val_anchor = M.scratch(o.value, math.max(8, o.value.size))
      vptr = ffi.typeof("$ *", o.value.ctype)
      words.STORE_V, words.V = type_lib.store(o.value, "val", "v")
      words.LOAD = type_lib.load(o.value, "p")
   end
   if env.values then
      -- A pointer to whole entries: LuaJIT scales the index with a shift, where `i * stride` would be
      -- a multiplication of doubles.
      env.cells = ffi.cast(ffi.typeof("struct { uint8_t bytes[$]; } *", env.stride), env.values)
   end
   if env.scratch then
      key = env.scratch
   end
   words.STORE_A = env.store_address
   local text = { prelude }
   for i, kind in ipairs(kinds) do
      text[i + 1] = templates[kind]:gsub("%$([%u_]+)", words)
   end
   text[#text + 1] = "return tables, env"
   local chunk = assert(loadstring(table.concat(text, "\n"), ("=(table %s)"):format(o.name)))
   return chunk(o.access or C, o.table, key, val, vptr, kptr, env)
end

return M
