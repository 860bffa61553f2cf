-- SPDX-License-Identifier: BSD-3-Clause
-- The place "lcore" for the front end: fields of struct tw_pkt, verdict words left for C, tables of the engine.

local ffi = require "ffi"
local abi = require "tideway.abi"
local kind = require "tideway.table.kind"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local tables = require "tideway.compiler.front.intrinsic.table"
local value = require "tideway.compiler.front.value"

local C = abi.C
local M = {}
M.__index = M

-- Ranges of the fields that NFs see.
local FIELDS = {
   port = { 0, 65535 }, out = { 0, 65535, true }, hash = { 0, 2 ^ 32 - 1 }, mark = { 0, 2 ^ 32 - 1, true },
   stage = { 0, 65535 }, key = { 0, 2 ^ 53, true },
}

function M.field(cx, name)
   local f = FIELDS[name]
   if f then return value.int(cx:emit("ctxload", "num", {}, { field = name, lo = f[1], hi = f[2] })) end
end

function M.set_field(cx, name, fv)
   local f = FIELDS[name]
   if not f or not f[3] then return false end
   cx:emit("ctxstore", "void", { number.ir(cx, fv, "pkt." .. name) }, { field = name })
   return true
end

--- Time of the burst.
function M.now(cx) return value.int(cx:emit("ctxload", "num", {}, { field = "now", lo = 0, hi = memory.LATEST })) end

function M.random(cx)
   return value.int(cx:emit("call", "num", {}, { fn = "tw_random", lo = 0, hi = 2 ^ 32 - 1 }))
end

function M.trap() error("no bounds checks are made on lcores") end

local function call(cx, fn, type, args, fields)
   fields.fn = fn
   return cx:emit("call", type, args, fields)
end

--- Resize: 0 when done.
function M.adjust(cx, which, delta)
   local v = number.ir(cx, delta, "the number of bytes")
   local old = cx:range(memory.length(cx))
   local lo, hi = cx:range(v)
   local packet = cx:emit("ctxload", "ptr", {}, { field = "pkt", space = "ctx" })
   local rc = call(cx, "tw_pkt_adjust_" .. which, "num", { packet, v },
      { resizes = true, writes = { pkt = true }, lo = -4095, hi = 0 })
   return memory.resize_outcome(cx, rc, old, which == "head" and -hi or lo)
end

function M.raw_sum(cx, p, length)
   local at = p.off == 0 and p.ir or cx:emit("ptradd", "ptr", { p.ir, cx:const(p.off) }, { space = p.ir.space })
   return value.int(call(cx, "tw_raw_sum", "num", { at, number.ir(cx, length, "a length") },
      { reads = { pkt = true }, lo = 0, hi = 65535 }))
end

--- Sum over IPv4 options, nil when they do not lie inside the frame.
function M.options_sum(cx, ip, size)
   local join = cx:join()
   local stop = number.binary(cx, "+", memory.offset_in_frame(cx, ip), number.binary(cx, "+", size, value.host(20)))
   local inside, outside = number.compare(cx, "le", stop, value.int(memory.length(cx)))
   if outside then
      cx:go(outside)
      cx:jump(join, { value.NIL })
   end
   if inside then
      cx:go(inside)
      local yes, no = number.compare(cx, "ge", size, value.host(0))
      if no then
         cx:go(no)
         cx:jump(join, { value.NIL })
      end
      if yes then
         cx:go(yes)
         cx:jump(join, { M.raw_sum(cx, value.ptr(ip.ir, ip.off + 20, ip.type, { gen = ip.gen }), size) })
      end
   end
   return cx:enter(join)[1]
end

-- ---- verdicts ----

--- The packet leaves the chain at stage i (from 0) with this verdict word.
function M.finish(cx, word, stage)
   cx:emit("ctxstore", "void", { number.ir(cx, word, "a verdict") }, { field = "verdict" })
   cx:emit("ctxstore", "void", { cx:const(stage) }, { field = "stage" })
   cx:emit("ctxstore", "void", { cx:const(1) }, { field = "odd" })
   cx:ret(cx:const(0))
end

--- The packet came to the end of the chain.
function M.sink(cx)
   cx:emit("ctxstore", "void", { cx:const(C.TW_SINK) }, { field = "verdict" })
   cx:ret(cx:const(0))
end

--- The packet came to the end of the compiled stages; others follow.
function M.go_on(cx) cx:ret(cx:const(0)) end

-- ---- tables ----

M.tables = {}
local T = M.tables

local function table_value(cx, t) return cx:table_const(t) end
local function moment(cx, t) return t.expire and M.now(cx).ir or cx:const(0) end

T.key_word = 8

--- Bytes that the engine reads of a key.
function T.key_size(t) return kind.info_of(t).key_stride end

local STACK, VALUE = { stack = true }, { value = true }

function T.lookup(cx, t, key)
   return call(cx, "tw_hash_get", "ptr", { table_value(cx, t), key, moment(cx, t) },
      { space = "value", reads = STACK, table = t })
end

function T.put(cx, t, key)
   memory.forget(cx, "value")
   return call(cx, "tw_hash_put", "ptr", { table_value(cx, t), key, moment(cx, t) },
      { space = "value", reads = STACK, writes = VALUE, table = t })
end

local function done(cx, fn, t, args)
   memory.forget(cx, "value")
   local rc = call(cx, fn, "num", args, { reads = STACK, writes = VALUE, lo = 0, hi = 1, table = t })
   return tables.outcome(cx, rc, "ne")
end

function T.update(cx, t, key, val)
   return done(cx, "tw_hash_set", t, { table_value(cx, t), key, val, moment(cx, t) })
end
function T.delete(cx, t, key) return done(cx, "tw_hash_del", t, { table_value(cx, t), key, moment(cx, t) }) end
function T.add(cx, t, key, n)
   return done(cx, "tw_hash_add", t, { table_value(cx, t), key, number.widen(cx, n, "i64"), moment(cx, t) })
end

-- A number of 0..most made of another one and a constant.
local function make(cx, op, v, n, most) return cx:emit(op, "num", { v, cx:const(n) }, { lo = 0, hi = most }) end
local function masked(cx, v, mask) return make(cx, "and", v, mask, mask) end

-- A word of memory of the engine, one of many when there is an index.
local function word(cx, base, index, most)
   local p = cx:memory_const(base, "mem")
   if index then p = cx:emit("ptradd", "ptr", { p, make(cx, "shl", index, 2, most * 4) }, { space = "mem" }) end
   return cx:emit("load", "num", { p }, { bits = 32, off = 0, lo = 0, hi = 2 ^ 32 - 1 })
end

local LPM_SLOT, LPM_VALID, LPM_MORE = 0xffffff, 0x01000000, 0x03000000

-- rte_lpm's two tables without a call: tbl24, and tbl8 for prefixes longer than /24. Paths without a value go to
-- `none`.
local function lpm4(cx, t, address, none)
   local view = C.tw_lpm_view(t.table)
   local join, without = cx:join(), cx:join()
   local first = word(cx, view.tbl24, make(cx, "shr", address, 8, LPM_SLOT), LPM_SLOT)
   first.far = true
   local direct, other = cx:split("eq", masked(cx, first, LPM_MORE), cx:const(LPM_VALID))
   cx:go(direct)
   cx:jump(join, { value.int(masked(cx, first, LPM_SLOT)) })
   cx:go(other)
   local longer, invalid = cx:split("eq", masked(cx, first, LPM_MORE), cx:const(LPM_MORE))
   cx:go(invalid)
   cx:jump(without)
   cx:go(longer)
   local group = make(cx, "shl", masked(cx, first, LPM_SLOT), 8, 2 ^ 32 - 256)
   local index = cx:emit("add", "num", { group, masked(cx, address, 255) }, { lo = 0, hi = 2 ^ 32 - 1 })
   local second = word(cx, view.tbl8, index, 2 ^ 32 - 1)
   local valid
   invalid, valid = cx:split("eq", masked(cx, second, LPM_VALID), cx:const(0))
   cx:go(valid)
   cx:jump(join, { value.int(masked(cx, second, LPM_SLOT)) })
   cx:go(invalid)
   cx:jump(without)
   cx:enter(without)
   local default = word(cx, ffi.cast("uint8_t *", view) + ffi.offsetof("struct tw_lpm_view", "default_slot"))
   local absent, there = cx:split("eq", default, cx:const(0))
   cx:go(absent)
   none()
   cx:go(there)
   cx:jump(join, { value.int(masked(cx, default, LPM_SLOT)) })
   local slot = cx:enter(join)[1].ir
   if view.number then
      return nil, value.int(cx:emit("sub", "num", { slot, cx:const(1) }, { lo = 0, hi = 65535 }))
   end
   local offset = make(cx, "mul", slot, view.value_stride, LPM_SLOT * view.value_stride)
   local p = cx:emit("ptradd", "ptr", { cx:memory_const(view.values, "value"), offset }, { space = "value" })
   cx.state.nonnil[p] = true
   return p
end

--- The value of the longest prefix, as a pointer or, when the trie itself holds it, as such; `none` is called on paths
--- that have none.
function T.lpm(cx, t, fv, none)
   if t.family == 6 then
      local p = cx:alloca(16, 8)
      local a, b = memory.halves(cx, fv)
      cx:emit("store", "void", { p, a }, { bits = 64, off = 0 })
      cx:emit("store", "void", { p, b }, { bits = 64, off = 8 })
      return call(cx, "tw_lpm6_get", "ptr", { table_value(cx, t), p }, { space = "value", reads = STACK, table = t })
   end
   local address = number.zext32(cx, number.ir(cx, fv, t.name .. ":get, the address"))
   cx.used_tables[t] = true
   return lpm4(cx, t, address, none)
end

function T.entry(cx, t, index)
   local lo, hi = cx:range(index)
   local base = cx:memory_const(C.tw_array_base(t.table), "value")
   local info = kind.info_of(t)
   local function at()
      local offset = number.ir(cx, number.binary(cx, "*", value.int(index), value.host(info.value_stride)))
      return cx:emit("ptradd", "ptr", { base, offset }, { space = "value" })
   end
   if lo >= 0 and hi < t.entries then
      local p = at()
      cx.state.nonnil[p] = true
      return p
   end
   local join = cx:join()
   local yes, no = cx:split("ult", index, cx:const(t.entries))
   local byte = require("tideway.compiler.front.ctype").int.uint8_t
   if no then
      cx:go(no)
      cx:jump(join, { value.ptr(cx:null(), 0, byte, { nilable = true, space = "value" }) })
   end
   if yes then
      cx:go(yes)
      if lo < 0 or hi >= t.entries then cx.state.range[index] = { math.max(lo, 0), math.min(hi, t.entries - 1) } end
      cx:jump(join, { value.ptr(at(), 0, byte, { nilable = true }) })
   end
   return cx:enter(join)[1].ir
end

function T.count(cx, t, index, by)
   local row = call(cx, "counters_row", "ptr", {}, { space = "mem", table = t, pure = true })
   local p = value.ptr(row, 0, require("tideway.compiler.front.ctype").int.uint64_t)
   p = memory.add(cx, p, number.binary(cx, "*", value.int(index), value.host(8)))
   local old = memory.load(cx, p, 0, 64)
   memory.store(cx, p, 0, 64, cx:emit("add", "u64", { old, by }))
end

function T.meter(cx, t, args)
   local color = args[3] and number.ir(cx, args[3], "a colour") or cx:const(0)
   return value.int(call(cx, "tw_meter_mark", "num", {
      table_value(cx, t), number.ir(cx, args[1], "the meter"), number.ir(cx, args[2], "a length"), color, M.now(cx).ir,
   }, { lo = 0, hi = 2, table = t, writes = { mem = true } }))
end

function T.acl(cx, t, key)
   return call(cx, "tw_acl_get", "num", { table_value(cx, t), key },
      { reads = STACK, lo = -1, hi = 2 ^ 28 - 1, table = t })
end

local function lock_word(cx, entry)
   local offset = cx:const(entry.off + entry.shape.lock_offset)
   return cx:emit("ptradd", "ptr", { entry.ir, offset }, { space = "value" })
end

-- The packet goes when the holder of the lock does not give it back.
function T.lock(cx, entry)
   local packet = require "tideway.compiler.front.intrinsic.packet"
   local at = lock_word(cx, entry)
   local rc = call(cx, "tw_lock", "num", { at }, { reads = VALUE, writes = VALUE, lo = -4095, hi = 0 })
   local locked, failed = cx:split("eq", rc, cx:const(0))
   cx:go(failed)
   M.finish(cx, value.host(packet.drop_word(cx, "lock_timeout")), cx.stage or 0)
   cx:go(locked)
end

function T.unlock(cx, entry)
   call(cx, "tw_unlock", "num", { lock_word(cx, entry) }, { reads = VALUE, writes = VALUE, lo = -4095, hi = 0 })
end

--- The place of an lcore chain.
function M.new() return setmetatable({ name = "lcore", checks = false }, M) end

return M
