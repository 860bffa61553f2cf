-- SPDX-License-Identifier: BSD-3-Clause
-- The packet: its fields, and the methods whose source says nothing to the compiler.

local ffi = require "ffi"
local bit = require "bit"
local abi = require "tideway.abi"
local choice = require "tideway.compiler.front.choice"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local C = abi.C
local M = {}

--- Methods that are not inlined: name -> handler(cx, object, args) -> values.
M.methods = {}

-- Live methods of packets, by name.
local probe

local function method_of(name)
   require "tideway.packet"
   probe = probe or ffi.new "struct tw_pkt"
   local ok, fn = pcall(function() return probe[name] end)
   if ok and type(fn) == "function" then return fn end
end

--- pkt.name
function M.field(cx, name)
   if name ~= "data" and name ~= "len" then cx.effects = cx.effects + 1 end -- may be another value next time
   if name == "data" then return memory.frame(cx) end
   if name == "len" then return value.int(memory.length(cx)) end
   if name == "verdict" then return cx.state.vars[cx.verdict] end
   local fv = cx.target.field(cx, name)
   if fv then return fv end
   local fn = method_of(name)
   if fn then return value.host(fn) end
   cx:refuse(("a packet has no field or method %q"):format(tostring(name)),
      "fields are len, port, out, mark and hash; methods stand in lua/tideway/packet/README.md")
end

--- The packet's verdict word is this from here on. Places ask which words there are where paths have met.
function M.set_verdict(cx, fv)
   cx.state.vars[cx.verdict] = fv
   if fv.k == "host" then cx.words[fv.v] = true end
end

--- pkt.name = fv
function M.set_field(cx, name, fv)
   cx.effects = cx.effects + 1
   if name == "verdict" then
      M.set_verdict(cx, fv)
      return
   end
   if not cx.target.set_field(cx, name, fv) then
      cx:refuse(("pkt.%s can't be written here"):format(tostring(name)),
         name == "len" and "pkt:adjust_tail(n) and pkt:adjust_head(n) change the length" or nil)
   end
end

-- ---- drop ----

--- The verdict word of a drop with this reason.
function M.drop_word(cx, reason)
   local id = C.tw_reason_id(reason)
   if id < 0 then cx:refuse(("pkt:drop(%q): %s"):format(reason, ffi.string(C.tw_error()))) end
   return bit.bor(C.TW_DROP, bit.lshift(id, 8))
end

function M.methods.drop(cx, _, args)
   local word = choice.each(cx, args[1] or value.NIL, function(reason)
      if reason.k ~= "host" or type(reason.v) ~= "string" then
         cx:refuse(("pkt:drop(reason): the reason must be a constant string, this is %s"):format(
            value.describe(reason)), "write it in quotes: pkt:drop \"ttl_expired\"")
      end
      local drop = value.host(M.drop_word(cx, reason.v))
      cx.words[drop.v] = true
      return drop
   end)
   M.set_verdict(cx, word)
   return {}
end

-- ---- a header of the user's own ----

local header_type = require "tideway.packet.header"
local ctype = require "tideway.compiler.front.ctype"

function M.methods.header(cx, _, args)
   local type, offset = args[1] or value.NIL, args[2] or value.NIL
   if type.k ~= "host" or not header_type.by_ctype[tonumber(type.v and type.v.ctype or 0)] then
      cx:refuse("pkt:header(type, offset): the type must be a constant made by tw.header")
   end
   return { M.view_at(cx, type.v, offset) }
end

--- A view at an offset, or nil when it would not lie inside the frame.
function M.view_at(cx, header, offset)
   local expression = require "tideway.compiler.front.expression"
   offset = expression.resolve(cx, offset)
   if value.is_host(offset, nil) then return value.NIL end
   local join = cx:join()
   if offset.k == "tagged" then
      local yes, no = expression.truth(cx, offset)
      if no then
         cx:go(no)
         cx:jump(join, { value.NIL })
      end
      if not yes then return cx:enter(join)[1] end
      cx:go(yes)
      offset = expression.resolve(cx, offset)
   end
   if not number.type(offset) then number.not_a_number(cx, offset, "pkt:header, the offset") end
   local yes, no = number.compare(cx, "ge", offset, value.host(0))
   if no then
      cx:go(no)
      cx:jump(join, { value.NIL })
   end
   if yes then
      cx:go(yes)
      local stop = number.binary(cx, "+", offset, value.host(header.size))
      local inside, outside = number.compare(cx, "le", stop, value.int(memory.length(cx)))
      if outside then
         cx:go(outside)
         cx:jump(join, { value.NIL })
      end
      if inside then
         cx:go(inside)
         local at = memory.add(cx, memory.frame(cx), offset)
         cx:jump(join, { value.ptr(at.ir, at.off, ctype.of(header.ctype),
            { ref = true, gen = cx.state.gen, shape = header }) })
      end
   end
   return cx:enter(join)[1]
end

return M
