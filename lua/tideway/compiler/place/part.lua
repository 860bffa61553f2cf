-- SPDX-License-Identifier: BSD-3-Clause
-- A hook's program that is one of several of a chain: what it takes over from the one before, and the tail call to the
-- one behind.

local ctype = require "tideway.compiler.front.ctype"
local memory = require "tideway.compiler.front.memory"
local merge = require "tideway.compiler.front.merge"
local number = require "tideway.compiler.front.number"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"
local watch = require "tideway.compiler.place.watch"

local M = {}

--- What a program hands to the next one: an entry per CPU on XDP, the packet's control block where there is one.
M.carry = {
   kind = "percpu_array", name = "carry", key_type = types.parse "u32",
   value_type = types.parse "u32 out; u32 mark; u32 packet; u32 set", entries = 1, internal = true,
}

-- What goes along: names, and the slots of the variables. The last two for those who follow packets (watch.lua).
local function carried(place, cx)
   local list = { { "out", cx.out }, { "mark", cx.mark } }
   if place.follows then
      list[3], list[4] = { "packet", place.follows.packet }, { "set", place.follows.set }
   end
   return list
end

-- What loads the i-th of those and what stores it; refused where the hook has no place for them.
local function carrier(place, cx)
   if place.kernel.fields.cb0 and place.kernel.fields.cb0.write then
      return function(i) return place:ctxload(cx, "cb" .. i - 1) end,
         function(i, v) cx:emit("ctxstore", "void", { v }, { field = "cb" .. i - 1 }) end
   elseif place.name ~= "xdp" then
      cx:refuse(("a chain on hook %s can't be split into several programs"):format(place.name),
         "split chains run on xdp, tc and cgroup")
   end
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, cx:const(0) }, { bits = 32, off = 0 })
   local p = place:call(cx, "map_lookup_elem", "ptr", { cx:table_const(M.carry), key },
      { space = "value", reads = { stack = true }, table = M.carry })
   local there, gone = cx:split("ne", p, cx:null())
   cx:go(gone)
   cx:ret(cx:const(place.code.drop)) -- the kernel has an entry 0 for each CPU
   cx:go(there)
   local entry = value.ptr(p, 0, ctype.int.uint32_t)
   return function(i) return memory.load(cx, entry, (i - 1) * 4, 32) end,
      function(i, v) memory.store(cx, entry, (i - 1) * 4, 32, v) end
end

--- Takes over what the program before has left.
function M.resume(place, cx)
   local load = carrier(place, cx)
   place.carried = {}
   for i, c in ipairs(carried(place, cx)) do
      local fv = value.int(load(i))
      place.carried[c[1]], cx.state.vars[c[2]] = fv, fv
   end
   watch.resume(place, cx)
end

--- On to the next program. The first one always says what it has: what is there is another packet's.
function M.go_on(place, cx)
   local changed = {}
   for i, c in ipairs(carried(place, cx)) do
      local fv = cx.state.vars[c[2]]
      if not place.carried or not merge.equal(place.carried[c[1]], fv) then
         changed[i] = number.ir(cx, fv, "pkt." .. c[1])
      end
   end
   if next(changed) then
      local _, store = carrier(place, cx)
      for i = 1, 4 do
         if changed[i] then store(i, changed[i]) end
      end
   end
   local to = place.part.next
   place:call(cx, "tail_call", "num", { place:context(cx), cx:table_const(to.table), cx:const(to.index) },
      { lo = -4095, hi = 0, table = to.table, writes = { pkt = true, value = true }, resizes = true })
   place:leave(cx, cx.stage, "drop", "no_next_stage", place.code.drop)
end

return M
