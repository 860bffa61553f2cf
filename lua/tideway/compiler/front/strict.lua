-- SPDX-License-Identifier: BSD-3-Clause
-- What NFs that were loaded in a sandbox may not write, although NF Lua knows it: addresses. The packet library and the
-- tables of the engine are trusted and use pointers; such an NF gets views, entries and numbers from them, of which
-- every access is inside, and has no way to make a pointer of its own or to pass off a Lua table as one of theirs.

local ffi = require "ffi"
require "tideway.packet.in6" -- declares struct tw_in6

local M = {}

local in6 = ffi.typeof "struct tw_in6"
local weak = { __mode = "k" }
local environments = setmetatable({}, weak)

--- Objects of the engine that a sandbox was given: tables, header types.
---@type table<table, boolean>
M.genuine = setmetatable({}, weak)

--- The function that is compiled where an NF shows this one.
---@type table<function, function>
M.code = setmetatable({}, weak)

--- Functions with this environment are those of a sandbox.
---@param env table
function M.add(env) environments[env] = true end

-- handle or gate -> what it stands for
local reals = setmetatable({}, weak)

--- A sandbox was given this in place of something of the engine's.
---@param shown table|function
---@param what any
function M.stands_for(shown, what) reals[shown] = what end

--- What it stands for; nil: it is what it is.
---@param value any
---@return any
function M.real(value) return value ~= nil and reals[value] or nil end

---@param env table
---@return boolean
function M.is(env) return environments[env] == true end

-- Fields of a packet that say nothing of addresses or of the engine's own business.
local FIELDS = { len = true, port = true, out = true, mark = true, hash = true }
local METHODS_REFUSED = { hold = "packets cannot be held in a sandbox" }

-- What of an object of the engine is plain data.
local SHOWN = { name = true, entries = true, kind = true, size = true, id = true }

local function packet_field(cx, name)
   if name == "data" then
      cx:refuse("pkt.data is an address, and there are none in a sandbox",
         "use views: pkt:ipv4(), pkt:header(type, offset), pkt:u16(offset)")
   end
   -- What a hook's context offers is read by the kernel's rules.
   if not FIELDS[name] and cx.target.name == "lcore" then
      cx:refuse(("pkt.%s is the engine's own and not for a sandbox"):format(tostring(name)))
   end
end

local function host_key(cx, object, key)
   if type(object) == "cdata" and not (ffi.istype(in6, object) and type(key) == "string") then
      cx:refuse "C memory can't be read in a sandbox"
   elseif M.genuine[object] and not SHOWN[key] then
      cx:refuse(("%s is the engine's own and not for a sandbox"):format(tostring(key)), "call its methods: t:get(...)")
   end
end

--- object[key] is read or written.
function M.index(cx, object, key)
   if object.k == "pkt" then
      if key.k == "host" then packet_field(cx, key.v) end
   elseif object.k == "host" then
      host_key(cx, object.v, key.k == "host" and key.v or nil)
   elseif object.k == "choice" then
      cx:refuse "a field of one of several tables can't be read in a sandbox"
   elseif object.k == "ptr" and key.k ~= "host" or object.k == "ptr" and type(key.v) ~= "string" then
      local array = require "tideway.compiler.front.array"
      if not array.of(object) and object.type.kind ~= "array" then
         cx:refuse("a pointer can't be indexed in a sandbox", "use fields and arrays of views and entries")
      end
   end
end

--- object[key] was read; methods are for calling.
function M.read(cx, object, fv)
   local live = object.k == "pkt" or object.k == "ptr" or type(object.v) == "cdata"
   if live and fv.k == "host" and type(fv.v) == "function" then
      cx:refuse("a method of a packet or a view can only be called in a sandbox", "write object:method(...)")
   end
end

--- An operator is applied.
function M.operands(cx, a, b)
   if a.k == "ptr" or b.k == "ptr" then
      cx:refuse("pointers can't be computed with in a sandbox", "use fields of views and entries")
   end
end

-- Nothing but numbers, texts and what the engine gave goes to functions that are not the sandbox's own.
local function arguments(cx, args)
   local function foreign(v) return type(v) == "function" or type(v) == "table" and not M.genuine[v] end
   for _, a in ipairs(args) do
      local bad = a.k == "closure" or a.k == "host" and foreign(a.v)
      for id in pairs(a.k == "choice" and a.set or {}) do bad = bad or foreign(cx.choices[id]) end
      if bad then cx:refuse "this argument is a table or function of the sandbox, which only its own functions take" end
   end
end

--- object:name(args) is called.
function M.method(cx, object, name, args)
   if object.k == "pkt" and METHODS_REFUSED[name] then cx:refuse(METHODS_REFUSED[name]) end
   if object.k == "host" and type(object.v) == "table" then
      if not M.genuine[object.v] then
         if rawget(object.v, "kind") ~= nil then cx:refuse "this is no table of the engine" end
         return
      end
   elseif object.k == "host" and type(object.v) == "cdata" and not ffi.istype(in6, object.v) then
      cx:refuse "C memory can't be used in a sandbox"
   end
   arguments(cx, args)
end

--- A value is called.
function M.call(cx, fv, args)
   if fv.k == "host" and not (type(fv.v) == "function" and M.is(getfenv(fv.v))) then arguments(cx, args) end
end

return M
