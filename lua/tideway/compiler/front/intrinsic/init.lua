-- SPDX-License-Identifier: BSD-3-Clause
-- Functions that the compiler knows by heart instead of inlining their source.

local bit = require "bit"
local ffi = require "ffi"
local bits = require "tideway.compiler.front.bits"
local bpf = require "tideway.bpf"
local barrier = require "tideway.packet.barrier"
local checksum = require "tideway.packet.checksum"
local choice = require "tideway.compiler.front.choice"
local ctype = require "tideway.compiler.front.ctype"
local helper = require "tideway.compiler.front.intrinsic.helper"
local header = require "tideway.packet.header"
local memory = require "tideway.compiler.front.memory"
local lock = require "tideway.compiler.front.intrinsic.lock"
local number = require "tideway.compiler.front.number"
local packet = require "tideway.compiler.front.intrinsic.packet"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"
local tables = require "tideway.compiler.front.intrinsic.table"

local M = {}

-- function -> handler(cx, args) -> values
local known = {}
-- C function of the engine -> handler
local by_name = {}

M.known, M.by_name = known, by_name

for name, fn in pairs(bit) do
   if name ~= "tohex" then known[fn] = function(cx, args) return { bits.bitop(cx, name, args) } end end
end

known[math.floor] = function(cx, args) return { number.floor(cx, args[1] or value.NIL) } end

local function extreme(name)
   return function(cx, args)
      local fv = args[1]
      for i, a in ipairs(args) do
         number.lua_number(cx, a, ("math.%s, argument %d"):format(name, i))
         if i > 1 then fv = number.extreme(cx, name, fv, a) end
      end
      return { fv }
   end
end
known[math.min], known[math.max] = extreme "min", extreme "max"

known[math.abs] = function(cx, args)
   number.lua_number(cx, args[1] or value.NIL, "math.abs")
   return { number.absolute(cx, args[1]) }
end

known[tonumber] = function(cx, args) return { number.tonumber(cx, args[1]) } end

known[type] = function(cx, args)
   local fv = args[1]
   if fv.k == "host" then return { value.host(type(fv.v)) } end
   if fv.k == "int" then return { value.host(fv.ir.type == "num" and "number" or "cdata") } end
   if fv.k == "choice" then return { choice.each(cx, fv, function(one) return value.host(type(one.v)) end) } end
   cx:refuse "the type of this value is known only at run time"
end

known[assert] = function(cx, args)
   local fv = args[1] or value.NIL
   local always = fv.k == "int" or fv.k == "ptr" and not fv.nilable or fv.k == "host" and fv.v
   if not always then
      cx:refuse("assert: a packet function can't raise an error",
         "decide what becomes of the packet: if not x then return pkt:drop \"reason\" end")
   end
   return args
end

known[error] = function(cx)
   cx:refuse("error: a packet function can't raise an error",
      "decide what becomes of the packet: return pkt:drop \"reason\"")
end

known[ffi.cast] = function(cx, args)
   local ct, fv = args[1], args[2]
   if ct.k ~= "host" then cx:refuse "ffi.cast: the type must be a constant" end
   local t = ctype.of(ffi.typeof(ct.v))
   if fv.k == "host" then return { value.host(ffi.cast(ct.v, fv.v)) } end
   if t.kind == "ptr" and fv.k == "ptr" then
      local shape = header.by_ctype[t.to.id] or types.by_ctype[t.to.id]
      return { value.ptr(fv.ir, fv.off, t.to, { gen = fv.gen, shape = shape, nilable = fv.nilable }) }
   elseif t.kind == "int" and number.type(fv) then
      return { number.cast(cx, t, fv) }
   end
   cx:refuse(("ffi.cast of %s to this type"):format(value.describe(fv)))
end

-- Nothing is kept in registers behind LuaJIT's back here.
known[barrier] = function() return {} end
known[require("tideway.packet.ipv4").remember] = function() return {} end

by_name.tw_now = function(cx) return { cx.target.now(cx) } end
by_name.tw_pkt_adjust_head = function(cx, args) return { cx.target.adjust(cx, "head", args[2]) } end
by_name.tw_pkt_adjust_tail = function(cx, args) return { cx.target.adjust(cx, "tail", args[2]) } end
by_name.tw_random = function(cx) return { cx.target.random(cx) } end
known[require("tideway").random] = by_name.tw_random
known[checksum.raw_sum] = function(cx, args) return { cx.target.raw_sum(cx, args[1], args[2]) } end

known[require("tideway.packet.ipv4").options_sum] = function(cx, args)
   return { cx.target.options_sum(cx, args[1], args[2]) }
end

local in6_type = ffi.typeof "struct tw_in6"

-- struct tw_in6 of two 64-bit halves: an address of its own, on the stack.
local function new_in6(cx, args)
   local p = value.ptr(cx:alloca(16, 8), 0, ctype.of(in6_type), { ref = true })
   for i = 1, 2 do
      memory.store(cx, p, (i - 1) * 8, 64, number.widen(cx, number.ir(cx, args[i] or value.host(0), "tw_in6"), "u64"))
   end
   return { p }
end

known[require("tideway.compiler.hooklib.sum").blur] = function(cx, args)
   return { value.int(memory.blur(cx, number.ir(cx, args[1], "blur"))) }
end

known[require("tideway.compiler.hooklib.sum").give_up] = function(cx)
   cx.target.trap(cx)
   return {}
end

--- Handler of a called value, nil to inline it.
function M.of(fv)
   if fv.cname then return by_name[fv.cname] end
   if fv.v == nil then return nil end
   if known[fv.v] then return known[fv.v] end
   if type(fv.v) == "cdata" and fv.v == in6_type then return new_in6 end
   local name = type(fv.v) == "function" and bpf.helper(fv.v)
   if name then return helper.of(name) end
   return tables.callable(fv.v)
end

--- Handler of object:name(...), called with (cx, object, args); nil to look the method up.
function M.method(cx, object, name)
   if object.k == "pkt" then
      local own = cx.target.methods and cx.target.methods[name]
      if type(own) == "function" then
         return function(_, _, args) return require("tideway.compiler.front.call").inline_live(cx, own, args) end
      end
      return packet.methods[name]
   end
   if object.k == "ptr" then return lock.method(object, name) end
   if object.k == "host" and type(object.v) == "table" then return tables.method(cx, object.v, name) end
end

return M
