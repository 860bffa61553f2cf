-- SPDX-License-Identifier: BSD-3-Clause
-- pkt:punt() on a hook: a copy of the frame goes to user space through a ring buffer, with what the punt() of the NF
-- and the NFs behind it have to know; the packet itself ends here. tideway.hook.punt reads the other end.

local ffi = require "ffi"
local number = require "tideway.compiler.front.number"
local types = require "tideway.table.type"
local value = require "tideway.compiler.front.value"
local watch = require "tideway.compiler.place.watch"

local M = {}

--- Bytes of a frame that can be punted: longer ones are dropped as "punt_too_long".
M.FRAME = 4 * 4096

-- What lies before the frame in a record.
local HEADER = "u32 length; u32 mark; u32 ifindex; u32 vlan_proto; u16 vlan_tci; u16 stage; u16 port; u16 out; "
   .. "u32 egress; u32 watched; "

-- Arrays have a limit of their own: the frame is several of them in a row.
local record = types.parse(HEADER .. "u8 frame[4096]; u8 frame2[4096]; u8 frame3[4096]; u8 frame4[4096]")

--- A record as it lies in the ring.
---@type ffi.ctype*
M.record = record.ctype
M.HEADER_SIZE = ffi.offsetof(record.ctype, "frame")

--- The ring of a chain.
---@param bytes? integer a power of two
function M.ring(bytes)
   return { kind = "ringbuf", name = "punted", entries = bytes or 2 ^ 20, internal = true }
end

--- Hooks where it can be.
M.LOAD = { xdp = "xdp_load_bytes", tc = "skb_load_bytes" }

-- A packet that the punt() of an NF passed to the kernel comes here a second time, on tc and in generic XDP: it
-- passes, and is not counted again.
local function pass_again(place, cx)
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, cx:const(0) }, { bits = 32, off = 0 })
   local at = place:call(cx, "map_lookup_elem", "ptr", { cx:table_const(place.again), key },
      { space = "value", reads = { stack = true }, table = place.again })
   local join = cx:join()
   local yes, no = cx:split("ne", at, cx:null())
   cx:go(no)
   cx:jump(join)
   cx:go(yes)
   local marked = cx:emit("load", "num", { at }, { bits = 32, off = 0, lo = 0, hi = 2 ^ 32 - 1 })
   yes, no = cx:split("ne", marked, cx:const(0))
   cx:go(no)
   cx:jump(join)
   cx:go(yes)
   cx:emit("store", "void", { at, cx:const(0) }, { bits = 32, off = 0 })
   cx:ret(cx:const(place.code.pass))
   cx:enter(join)
end

--- Opens the place that packets are punted at.
function M.enter(place, cx)
   if not place.punts or not M.LOAD[place.name] then return end
   if place.again then pass_again(place, cx) end
   place.punt_table = place.punt_ring or M.ring()
   place.punt_way = cx:landing(watch.carried_kinds(place,
      { { "num", 0, 255 }, { "num", 0, 65535 }, { "num", 0, 2 ^ 32 - 1 } }))
   place.punt_exits = {}
end

--- A packet is punted by the NF at a stage.
function M.leave(place, cx, stage)
   local load = M.LOAD[place.name]
   if not load then
      cx:refuse(("on hook %s a packet can't be punted"):format(place.name), "pin this chain to xdp, tc or an lcore")
   end
   if not (place.punts and place.punts[stage]) then
      return place:leave(cx, stage, "drop", "no_punt", place.code.drop)
   end
   local out = number.ir(cx, cx.state.vars[cx.out], "pkt.out")
   local mark = number.ir(cx, place:field_of(cx, "mark"), "pkt.mark")
   place.punt_exits[stage] = true
   cx:land(place.punt_way, watch.carried(place, cx, { cx:const(stage), out, mark }))
end

-- Leaves with one of the counters of the stage, which is known at run time only.
local function leave(place, cx, stage, kind, argument)
   local stages = {}
   for s in pairs(place.punt_exits) do stages[#stages + 1] = s end
   table.sort(stages)
   for i, s in ipairs(stages) do
      local yes, no
      if i < #stages then yes, no = cx:split("eq", stage, cx:const(s)) end
      if yes then cx:go(yes) end
      place:leave(cx, s, kind, argument, place.code.drop)
      if not no then return end
      cx:go(no)
   end
end

local function store(cx, at, name, v)
   local offset = ffi.offsetof(record.ctype, name)
   local bits = 16
   for _, field in ipairs(record.fields) do
      if field.name == name then bits = field.size * 8 end
   end
   cx:emit("store", "void", { at, v }, { bits = bits, off = offset })
end

-- The part of the record before the frame. Tags that the kernel took out of the frame go along.
local function fill(place, cx, at, length, stage, out, mark)
   store(cx, at, "length", length)
   store(cx, at, "mark", mark)
   store(cx, at, "stage", stage)
   store(cx, at, "port", cx:const(place.port))
   store(cx, at, "out", out)
   store(cx, at, "egress", cx:const(place.egress and 1 or 0))
   store(cx, at, "watched", watch.number(place, cx))
   store(cx, at, "ifindex", place:ctxload(cx, place.name == "xdp" and "ingress_ifindex" or "ifindex"))
   local tagged = place.kernel.fields.vlan_tci ~= nil
   store(cx, at, "vlan_tci", tagged and place:ctxload(cx, "vlan_tci") or cx:const(0))
   local proto = cx:const(0)
   if tagged then
      local present = place:ctxload(cx, "vlan_present")
      proto = cx:emit("mul", "num", { place:ctxload(cx, "vlan_proto"), present }, { w = 32, lo = 0, hi = 2 ^ 32 - 1 })
   end
   store(cx, at, "vlan_proto", proto)
end

-- A place per CPU where a record is put together.
local function scratch(place, cx)
   place.punt_scratch = place.punt_scratch or {
      kind = "percpu_array", name = "punt", key_type = types.parse "u32", value_type = record, entries = 1,
      internal = true,
   }
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, cx:const(0) }, { bits = 32, off = 0 })
   return place:call(cx, "map_lookup_elem", "ptr", { cx:table_const(place.punt_scratch), key },
      { space = "value", reads = { stack = true }, table = place.punt_scratch })
end

--- Writes the place that packets are punted at, when there are any.
function M.close(place, cx)
   if not place.punt_exits then return end
   if not next(place.punt_exits) then -- nobody comes
      place.punt_table = nil
      local blocks = cx.program.blocks
      for i = #blocks, 1, -1 do
         if blocks[i] == place.punt_way then table.remove(blocks, i) end
      end
      return
   end
   local values = cx:arrive(place.punt_way)
   local stage, out, mark = unpack(values)
   watch.take_over(place, cx, values, 4)
   local length = place:length_of(cx)
   local some, none = cx:split("gt", length, cx:const(0))
   local fits, long
   if some then
      cx:go(some)
      fits, long = cx:split("le", length, cx:const(M.FRAME))
   end
   for _, point in pairs { none or false, long or false } do
      if point then
         cx:go(point)
         leave(place, cx, stage, "drop", "punt_too_long")
      end
   end
   cx:go(fits)
   local full = cx:join()
   local at = scratch(place, cx)
   local there, gone = cx:split("ne", at, cx:null())
   cx:go(gone)
   cx:jump(full)
   cx:go(there)
   fill(place, cx, at, length, stage, out, mark)
   local frame = cx:emit("ptradd", "ptr", { at, cx:const(M.HEADER_SIZE) }, { space = "value" })
   local rc = place:call(cx, M.LOAD[place.name], "num", { place:context(cx), cx:const(0), frame, length },
      { lo = -4095, hi = 0, reads = { pkt = true }, writes = { value = true } })
   local loaded, failed = cx:split("eq", rc, cx:const(0))
   cx:go(failed)
   cx:jump(full)
   cx:go(loaded)
   local size = number.binary(cx, "+", value.int(length), value.host(M.HEADER_SIZE))
   rc = place:call(cx, "ringbuf_output", "num",
      { cx:table_const(place.punt_table), at, number.ir(cx, size), cx:const(0) },
      { lo = -4095, hi = 0, reads = { value = true }, writes = { mem = true }, table = place.punt_table })
   local done, refused = cx:split("eq", rc, cx:const(0))
   cx:go(refused)
   cx:jump(full)
   cx:go(done)
   leave(place, cx, stage, "punt")
   cx:enter(full)
   leave(place, cx, stage, "drop", "punt_full")
end

return M
