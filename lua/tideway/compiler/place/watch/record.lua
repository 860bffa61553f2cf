-- SPDX-License-Identifier: BSD-3-Clause
-- Writes what is seen of a packet into the ring of those who watch a hook's program.

local maps = require "tideway.compiler.place.watch.maps"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

local need = maps.need

-- BPF_RB_NO_WAKEUP: the reader comes by itself.
local NO_WAKEUP = 1

local function store(cx, at, name, v)
   local bits, off = maps.field(maps.record_type, name)
   cx:emit("store", "void", { at, v }, { bits = bits, off = off })
end

-- Tags that the kernel took out of the frame go along.
local function fill_tag(place, cx, at)
   local tci, proto = cx:const(0), cx:const(0)
   if place.kernel.fields.vlan_tci then
      tci = place:ctxload(cx, "vlan_tci")
      proto = cx:emit("mul", "num", { place:ctxload(cx, "vlan_proto"), place:ctxload(cx, "vlan_present") },
         { w = 32, lo = 0, hi = 2 ^ 32 - 1 })
   end
   store(cx, at, "vlan_tci", tci)
   store(cx, at, "vlan_proto", proto)
end

local function fill(place, cx, w, at, facts)
   store(cx, at, "time", facts.time)
   store(cx, at, "spent", facts.spent or cx:const(0))
   store(cx, at, "packet", facts.packet)
   store(cx, at, "mark", facts.mark)
   store(cx, at, "program", cx:const(w.program))
   store(cx, at, "cpu", place:call(cx, "get_smp_processor_id", "num", {}, { lo = 0, hi = 4095 }))
   store(cx, at, "point", cx:const(facts.point))
   store(cx, at, "exit", facts.exit or cx:const(0))
   store(cx, at, "port", cx:const(place.port))
   store(cx, at, "out", facts.out)
   fill_tag(place, cx, at)
end

-- The first bytes of the frame; their number.
local function copy_frame(place, cx, w, at, failed)
   local length = place:length_of(cx)
   store(cx, at, "length", length)
   local join = cx:join()
   local some, none = cx:split("gt", length, cx:const(0))
   if none then
      cx:go(none)
      cx:jump(join, { value.host(0) })
   end
   cx:go(some)
   local n = number.ir(cx, number.extreme(cx, "min", value.int(length), value.host(w.snap)))
   local frame = cx:emit("ptradd", "ptr", { at, cx:const(maps.HEADER_SIZE) }, { space = "value" })
   local rc = place:call(cx, place.load_bytes, "num", { place:context(cx), cx:const(0), frame, n },
      { lo = -4095, hi = 0, reads = { pkt = true }, writes = { value = true } })
   need(cx, "eq", rc, cx:const(0), failed)
   cx:jump(join, { value.int(n) })
   local copied = number.ir(cx, cx:enter(join)[1])
   store(cx, at, "caplen", copied)
   return copied
end

-- A record could not be written: it is counted, and the limit is not.
local function miss(place, cx, w, tally, to)
   maps.add(cx, tally, "missed")
   if w.control and not w.follow then
      local at = maps.entry(place, cx, w.control, to)
      cx:emit("atomic", "void", { at, cx:const(2 ^ 32 - 1) }, { kind = "add", bits = 32, off = 0 })
   end
   cx:jump(to)
end

--- One record.
---@param facts table point, packet, mark, out; exit, time, spent where there is one
function M.write(place, cx, w, facts)
   local began = maps.now(place, cx)
   facts.time = facts.time or began
   local done, missed, free = cx:join(), cx:join(), cx:join()
   local tally = maps.entry(place, cx, w.tally, done)
   local room = maps.entry(place, cx, w.scratch, done)
   local one = number.widen(cx, cx:const(1), "u64")
   local busy = cx:emit("atomic", "u64", { room, one }, { kind = "xchg", bits = 64, off = 0, fetch = true })
   need(cx, "eq", busy, number.widen(cx, cx:const(0), "u64"), missed)
   local at = cx:emit("ptradd", "ptr", { room, cx:const(maps.RECORD_AT) }, { space = "value" })
   fill(place, cx, w, at, facts)
   local failed = cx:join()
   local copied = copy_frame(place, cx, w, at, failed)
   local size = number.binary(cx, "+", value.int(copied), value.host(maps.HEADER_SIZE))
   local rc = place:call(cx, "ringbuf_output", "num",
      { cx:table_const(w.ring), at, number.ir(cx, size), cx:const(NO_WAKEUP) },
      { lo = -4095, hi = 0, reads = { value = true }, writes = { mem = true }, table = w.ring })
   need(cx, "eq", rc, cx:const(0), failed)
   maps.add(cx, tally, "records")
   cx:jump(free)
   cx:enter(failed)
   miss(place, cx, w, tally, free)
   cx:enter(free)
   cx:emit("store", "void", { room, number.widen(cx, cx:const(0), "u64") }, { bits = 64, off = 0 })
   local after = maps.now(place, cx)
   maps.add(cx, tally, "spent", cx:emit("sub", "num", { after, began }, { lo = 0, hi = memory.LATEST }))
   cx:jump(done)
   cx:enter(missed)
   miss(place, cx, w, tally, done)
   cx:enter(done)
end

return M
