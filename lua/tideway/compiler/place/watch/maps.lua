-- SPDX-License-Identifier: BSD-3-Clause
-- The maps of those who watch a hook's program, what lies in them, and how the program gets at it.

local ffi = require "ffi"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local types = require "tideway.table.type"

local M = {}

--- Bytes of a frame that a record can hold.
M.FRAME = 4 * 4096

-- What lies before the frame in a record.
local HEADER = "u64 time; u32 length; u32 caplen; u32 packet; u32 spent; u32 mark; u32 program; u32 vlan_proto; "
   .. "u16 vlan_tci; u16 cpu; u16 point; u16 exit; u16 port; u16 out; "

M.record_type = types.parse(HEADER .. "u8 frame[4096]; u8 frame2[4096]; u8 frame3[4096]; u8 frame4[4096]")

--- A record as it lies in the ring.
---@type ffi.ctype*
M.record = M.record_type.ctype
M.HEADER_SIZE = ffi.offsetof(M.record, "frame")

--- Points: as a packet comes in, behind stage i (NF + i), where it leaves.
M.ENTER, M.NF, M.EXIT = 0, 1, 0xffff

-- The record stands behind a word that says whether it is in use: where the kernel may interrupt a program by the same
-- one, the second finds it so.
local scratch_type = types.parse("u64 busy; " .. HEADER
   .. "u8 frame[4096]; u8 frame2[4096]; u8 frame3[4096]; u8 frame4[4096]")
--- Where the record begins in it.
M.RECORD_AT = ffi.offsetof(scratch_type.ctype, "time")
local tally_type = types.parse("u64 looked; u64 matched; u64 records; u64 packets; u64 missed; u64 spent; "
   .. "u64 clocked; u64 timed; u32 sampled; u32 turn")
local limit_type = types.parse "u32 taken; u32 spare"

local function map(kind, name, value_type)
   return { kind = kind, name = name, key_type = types.parse "u32", value_type = value_type, entries = 1,
      internal = true }
end

--- What numbers packets that are followed, per CPU; one for all programs.
M.numbers = map("percpu_array", "numbers", types.parse "u32 n; u32 spare")

--- Maps of a watch.
---@param bytes integer of the ring, a power of two
---@param limit boolean
---@return table fields of tideway.place.watch
function M.new(bytes, limit)
   return {
      ring = { kind = "ringbuf", name = "watched", entries = bytes, internal = true },
      scratch = map("percpu_array", "watch", scratch_type), tally = map("percpu_array", "tally", tally_type),
      control = limit and map("array", "taken", limit_type) or nil,
   }
end

--- The entry of a map of one; where there is none, which cannot be, the packet goes to `gone`.
function M.entry(place, cx, t, gone)
   local key = cx:alloca(4, 4)
   cx:emit("store", "void", { key, cx:const(0) }, { bits = 32, off = 0 })
   local p = place:call(cx, "map_lookup_elem", "ptr", { cx:table_const(t), key },
      { space = "value", reads = { stack = true }, table = t })
   local yes, no = cx:split("ne", p, cx:null())
   cx:go(no)
   cx:jump(gone)
   cx:go(yes)
   return p
end

--- Bits and offset of a field of a record, or of what lies in a map.
function M.field(type, name)
   for _, field in ipairs(type.fields) do
      if field.name == name then return field.size * 8, ffi.offsetof(type.ctype, name) end
   end
end

--- Adds n, or 1, to a count.
function M.add(cx, tally, name, n)
   local bits, off = M.field(tally_type, name)
   n = number.widen(cx, n or cx:const(1), "u64")
   cx:emit("atomic", "void", { tally, n }, { kind = "add", bits = bits, off = off })
end

--- Adds 1 to a u32 of a map's entry; the value before.
function M.fetch_add(cx, at, t, name)
   local bits, off = M.field(t.value_type, name)
   return cx:emit("atomic", "num", { at, cx:const(1) },
      { kind = "add", bits = bits, off = off, fetch = true, lo = 0, hi = 2 ^ 32 - 1 })
end

-- ---- what all of it needs ----

function M.now(place, cx) return place:call(cx, "ktime_get_ns", "num", {}, { lo = 0, hi = memory.LATEST }) end

--- Goes on where `cc` holds; other paths go to `otherwise`. No path may be left.
function M.need(cx, cc, a, b, otherwise)
   local yes, no = cx:split(cc, a, b)
   if no then
      cx:go(no)
      cx:jump(otherwise)
   end
   if yes then cx:go(yes) end
end

return M
