-- SPDX-License-Identifier: BSD-3-Clause
-- Tables: their methods in terms of what the place offers (target.tables): look-up, update, deletion, addition.

local address = require "tideway.packet.address"
local arrays = require "tideway.compiler.front.array"
local atomic = require "tideway.compiler.front.intrinsic.atomic"
local ctype = require "tideway.compiler.front.ctype"
local memory = require "tideway.compiler.front.memory"
local number = require "tideway.compiler.front.number"
local value = require "tideway.compiler.front.value"

local M = {}

-- ---- keys and values on the stack ----

local UNITS = { 8, 4, 2, 1 }

-- Zeros where no field lies: keys are compared byte by byte.
local function fill_gaps(cx, p, t, size)
   local at, covered = 0, {}
   for _, field in ipairs(t.fields) do
      for i = field.offset, field.offset + field.size - 1 do covered[i] = true end
   end
   while at < size do
      local done = covered[at] and 1
      for _, n in ipairs(UNITS) do
         if not done and at % n == 0 and at + n <= size then
            local free = true
            for i = at, at + n - 1 do free = free and not covered[i] end
            if free then
               memory.store(cx, p, at, n * 8, cx:const(0))
               done = n
            end
         end
      end
      at = at + done
   end
end

local function check_count(cx, what, t, args, first)
   if #args - first + 1 < #t.fields then
      local names = {}
      for i, field in ipairs(t.fields) do
         names[i] = (field.array and field.array.name or field.type) .. " " .. field.name
      end
      cx:refuse(("%s: %d values are needed (%s), there are %d"):format(what, #t.fields, table.concat(names, ", "),
         math.max(0, #args - first + 1)))
   end
end

--- An object of type `t` on the stack with the values args[first...]; the index behind the last one.
local function object(cx, what, t, args, first, size)
   check_count(cx, what, t, args, first)
   size = size or t.size
   local p = value.ptr(cx:alloca(size, 8), 0, ctype.of(t.ctype))
   fill_gaps(cx, p, t, size)
   local expression = require "tideway.compiler.front.expression"
   for i, field in ipairs(t.fields) do
      memory.store_field(cx, p, field, expression.resolve(cx, args[first + i - 1]), first == 1)
   end
   return p.ir, first + #t.fields
end
M.object = object

-- Fields as 64-bit integers: { offset, bytes, value }. An IPv6 address is two, an array as many as it takes.
local function pieces_of(cx, what, t, args)
   local expression = require "tideway.compiler.front.expression"
   local list = {}
   for i, field in ipairs(t.fields) do
      local fv = expression.resolve(cx, args[i])
      if field.type == "ip6" then
         local a, b = memory.halves(cx, fv)
         list[#list + 1] = { offset = field.offset, size = 8, ir = a }
         list[#list + 1] = { offset = field.offset + 8, size = 8, ir = b }
      elseif field.array then
         for _, piece in ipairs(arrays.pieces(cx, field.array, fv)) do
            list[#list + 1] = { offset = field.offset + piece.offset, size = piece.size, ir = piece.ir }
         end
      else
         local v = number.ir(cx, fv, ("%s, %s"):format(what, field.name))
         if field.size < 8 then v = number.truncate(cx, number.low_bits(cx, v, what), field.size * 8) end
         list[#list + 1] = { offset = field.offset, size = field.size, ir = v }
      end
   end
   return list
end

-- a | b << shift, of numbers or 64-bit integers whose bits do not meet.
local function beside(cx, a, b, shift, width)
   if width == 8 then
      if shift ~= 0 then
         b = cx:emit(shift > 0 and "shl" or "shr", "u64", { number.widen(cx, b, "u64"), cx:const(math.abs(shift)) })
      end
      return a and cx:emit("or", "u64", { number.widen(cx, a, "u64"), number.widen(cx, b, "u64") }) or b
   end
   local lo, hi = cx:range(b)
   lo, hi = lo * 2 ^ shift, hi * 2 ^ shift
   if shift ~= 0 then b = cx:emit("shl", "num", { b, cx:const(shift) }, { w = 32, lo = lo, hi = hi }) end
   if not a then return b end
   local more, most = cx:range(a)
   return cx:emit("or", "num", { a, b }, { w = 32, lo = lo + more, hi = hi + most })
end

local function word_at(cx, pieces, at, width)
   local word
   for _, piece in ipairs(pieces) do
      if piece.offset < at + width and piece.offset + piece.size > at then
         if piece.size == width and piece.offset == at then return piece.ir end
         word = beside(cx, word, piece.ir, (piece.offset - at) * 8, width)
      end
   end
   return word or cx:const(0)
end

local function width_at(pieces, at, size, step)
   for _, piece in ipairs(pieces) do
      if piece.offset == at and piece.size > step then return piece.size end
   end
   while at % step ~= 0 or at + step > size do step = step / 2 end
   return step
end

-- In words of less than 64 bits, each field lies in one of them.
local function are_aligned(pieces)
   for _, piece in ipairs(pieces) do
      if piece.offset % piece.size ~= 0 then return false end
   end
   return true
end

--- A key as object() makes it, written in whole words: a CPU forwards a store to a load that follows only when the
--- store covers it, and who gets this key reads it word by word, of `step` bytes.
local function words(cx, what, t, args, size, step)
   check_count(cx, what, t, args, 1)
   local pieces = pieces_of(cx, what, t, args)
   if step < 8 and not are_aligned(pieces) then return nil end
   local p = value.ptr(cx:alloca(size, 8), 0, ctype.int.uint64_t)
   local at = 0
   while at < size do
      local width = width_at(pieces, at, size, step)
      memory.store(cx, p, at, width * 8, word_at(cx, pieces, at, width))
      at = at + width
   end
   return p.ir, #t.fields + 1
end

-- The key of a look-up on the stack; the index of the argument behind it.
local function key_of(cx, what, t, args)
   local place = cx.target.tables
   local size = place.key_size(t)
   local key, next = words(cx, what, t.key_type, args, size, place.key_word)
   if key then return key, next end
   return object(cx, what, t.key_type, args, 1, size)
end

-- A zeroed object.
local function zeros(cx, t)
   local p = value.ptr(cx:alloca(t.size, 8), 0, ctype.of(t.ctype))
   fill_gaps(cx, p, { fields = {} }, t.size)
   return p.ir
end
M.zeros = zeros

-- ---- results ----

--- true when `rc` (an IR number) compares so with 0.
local function outcome(cx, rc, cc)
   local expression = require "tideway.compiler.front.expression"
   local yes, no = cx:split(cc or "eq", rc, cx:const(0))
   return expression.boolean(cx, yes, no)
end
M.outcome = outcome

--- What a pointer to a value, 0 for none, reads as.
local function found(cx, t, pointer)
   local p = value.ptr(pointer, 0, ctype.of(t.ctype), { ref = true, nilable = true, shape = t })
   if not t.scalar then return p end
   local join = cx:join()
   local yes, no = cx:split("ne", pointer, cx:null())
   if no then
      cx:go(no)
      cx:jump(join, { value.NIL })
   end
   cx:go(yes)
   p.nilable = nil
   cx:jump(join, { memory.load_basic(cx, p, 0, t.fields[1].type) })
   return cx:enter(join)[1]
end
M.found = found

-- An entry whose deadline is past is none.
local function alive(cx, t, pointer)
   local types = require "tideway.table.type"
   local field = types.field(t, "expires")
   local join = cx:join()
   local p = value.ptr(pointer, 0, ctype.of(t.ctype), { ref = true, nilable = true, shape = t })
   local yes, no = cx:split("ne", pointer, cx:null())
   local function none(point)
      if not point then return end
      cx:go(point)
      cx:jump(join, { value.NIL })
   end
   none(no)
   cx:go(yes)
   local deadline = memory.load_basic(cx, p, field.offset, field.type)
   local fresh, stale = number.compare(cx, "gt", deadline, cx.target.now(cx))
   none(stale)
   cx:go(fresh)
   cx:jump(join, { value.ptr(pointer, 0, p.type, { ref = true, shape = t }) })
   return cx:enter(join)[1]
end

-- ---- hash, lru ----

local hash = {}

function hash.get(cx, t, args)
   local key = key_of(cx, t.name .. ":get", t, args)
   local p = cx.target.tables.lookup(cx, t, key)
   if t.expire and cx.target.tables.expires then return { alive(cx, t.value_type, p) } end
   return { found(cx, t.value_type, p) }
end

function hash.set(cx, t, args)
   local key, next = key_of(cx, t.name .. ":set", t, args)
   local val = object(cx, t.name .. ":set", t.value_type, args, next)
   return { cx.target.tables.update(cx, t, key, val) }
end

function hash.del(cx, t, args)
   local key = key_of(cx, t.name .. ":del", t, args)
   return { cx.target.tables.delete(cx, t, key) }
end

function hash.put(cx, t, args)
   if t.value_type.scalar then cx:refuse(("%s:put is for values with fields"):format(t.name), "use set or add") end
   local key = key_of(cx, t.name .. ":put", t, args)
   return { found(cx, t.value_type, cx.target.tables.put(cx, t, key)) }
end

function hash.add(cx, t, args)
   if not t.value_type.scalar then cx:refuse(("%s:add is for values that are one number"):format(t.name)) end
   local key, next = key_of(cx, t.name .. ":add", t, args)
   local n = args[next] or value.NIL
   if not number.type(n) then number.not_a_number(cx, n, t.name .. ":add") end
   return { cx.target.tables.add(cx, t, key, number.ir(cx, n, t.name .. ":add")) }
end

for _, name in ipairs(atomic.names) do
   hash[name] = function(cx, t, args)
      local key, next = key_of(cx, ("%s:%s"):format(t.name, name), t, args)
      return { atomic.on(cx, name, t, cx.target.tables.lookup(cx, t, key), args, next) }
   end
end

-- ---- array ----

local array = {}

-- The entry at an index, or nil; nil at once when it can't be.
local function entry(cx, t, fv)
   if fv.k == "host" and type(fv.v) == "number" and (fv.v < 0 or fv.v >= t.entries) then return nil end
   local i = number.ir(cx, fv, t.name .. ", the index")
   local lo, hi = cx:range(i)
   if lo and (lo >= t.entries or hi < 0) then return nil end
   return cx.target.tables.entry(cx, t, i)
end

function array.get(cx, t, args)
   local expression = require "tideway.compiler.front.expression"
   local i = expression.resolve(cx, args[1] or value.NIL)
   local p = entry(cx, t, i)
   if not p then return { value.NIL } end
   return { found(cx, t.value_type, p) }
end

function array.set(cx, t, args)
   local p = entry(cx, t, args[1] or value.NIL)
   if not p then return { value.FALSE } end
   check_count(cx, t.name .. ":set", t.value_type, args, 2)
   local join = cx:join()
   local yes, no = cx:split("ne", p, cx:null())
   if no then
      cx:go(no)
      cx:jump(join, { value.FALSE })
   end
   cx:go(yes)
   local target = value.ptr(p, 0, ctype.of(t.value_type.ctype))
   for k, field in ipairs(t.value_type.fields) do
      memory.store_field(cx, target, field, args[k + 1])
   end
   cx:jump(join, { value.TRUE })
   return { cx:enter(join)[1] }
end

function array.add(cx, t, args)
   local p = entry(cx, t, args[1] or value.NIL)
   if not p then return { value.FALSE } end
   local n = number.ir(cx, args[2] or value.host(1), t.name .. ":add")
   local join = cx:join()
   local yes, no = cx:split("ne", p, cx:null())
   if no then
      cx:go(no)
      cx:jump(join, { value.FALSE })
   end
   cx:go(yes)
   M.add_to(cx, t, p, n)
   cx:jump(join, { value.TRUE })
   return { cx:enter(join)[1] }
end

for _, name in ipairs(atomic.names) do
   array[name] = function(cx, t, args)
      return { atomic.on(cx, name, t, entry(cx, t, args[1] or value.NIL), args, 2) }
   end
end

--- Add to a scalar value in place; atomically unless every CPU has its own.
function M.add_to(cx, t, pointer, n)
   local bits = t.value_type.size * 8
   if bits >= 32 and not t.per_cpu then
      memory.forget(cx, pointer.space)
      cx:emit("atomic", "void", { pointer, n }, { kind = "add", bits = bits, off = 0 })
      return
   end
   local p = value.ptr(pointer, 0, ctype.of(t.value_type.ctype))
   local old = memory.load(cx, p, 0, bits)
   local sum
   if bits == 64 then
      sum = cx:emit("add", "u64", { old, number.widen(cx, n, "u64") })
   else
      sum = number.ir(cx, number.binary(cx, "+", value.int(old), value.int(n)))
   end
   memory.store(cx, p, 0, bits, sum)
end

-- ---- lpm ----

local lpm = {}

function lpm.get(cx, t, args)
   local expression = require "tideway.compiler.front.expression"
   local fv = expression.resolve(cx, args[1] or value.NIL)
   local join = cx:join()
   local p, direct = cx.target.tables.lpm(cx, t, fv, function() cx:jump(join, { value.NIL }) end)
   cx:jump(join, { direct or found(cx, t.value_type, p) })
   return { cx:enter(join)[1] }
end

-- ---- counters ----

local counters = {}

function counters.add(cx, t, args)
   local i, n = args[1] or value.NIL, args[2] or value.host(1)
   if i.k == "host" and type(i.v) == "string" then
      if not t.id[i.v] then cx:refuse(("%s has no counter %q"):format(t.name, i.v)) end
      i = value.host(t.id[i.v])
   end
   local index = number.ir(cx, i, t.name .. ":add, the counter")
   local lo, hi = cx:range(index)
   local by = number.widen(cx, number.ir(cx, n, t.name .. ":add"), "u64")
   if lo < 0 or hi >= t.entries then -- like the table itself: outside is ignored
      local join = cx:join()
      local yes, no = cx:split("ult", index, cx:const(t.entries))
      if no then
         cx:go(no)
         cx:jump(join)
      end
      if yes then
         cx:go(yes)
         cx.target.tables.count(cx, t, index, by)
         cx:jump(join)
      end
      cx:enter(join)
      return {}
   end
   cx.target.tables.count(cx, t, index, by)
   return {}
end

-- ---- meter ----

local meter = {}
function meter.mark(cx, t, args)
   if not cx.target.tables.meter then cx:refuse("meters run on lcores only") end
   return { cx.target.tables.meter(cx, t, args) }
end

-- ---- acl ----

local acl = {}

function acl.get(cx, t, args)
   if not cx.target.tables.acl then
      cx:refuse(("%s:get: tw.acl runs on lcores only"):format(t.name), "pin this chain to an lcore")
   end
   local key = object(cx, t.name .. ":get", t.key_type, args, 1, cx.target.tables.key_size(t))
   local result = cx.target.tables.acl(cx, t, key)
   local join = cx:join()
   local yes, no = cx:split("ge", result, cx:const(0))
   cx:go(no)
   cx:jump(join, { value.NIL })
   cx:go(yes)
   cx:jump(join, { value.int(result) })
   return { cx:enter(join)[1] }
end

-- ---- by kind ----

local KINDS = {
   hash = hash, lru = hash, array = array, lpm = lpm, counters = counters, meter = meter, acl = acl,
   percpu_hash = hash, lru_percpu = hash, percpu_array = array,
}
M.kinds = KINDS

local function list_of(methods)
   local list = {}
   for name in pairs(methods) do list[#list + 1] = name end
   table.sort(list)
   return table.concat(list, ", ")
end

--- Handler of table:name(...), nil when the value is no table of the engine.
function M.method(_, t, name)
   local kind = rawget(t, "kind")
   if not kind or not (rawget(t, "key_type") or rawget(t, "value_type") or rawget(t, "entries")) then return nil end
   return function(cx, _, args)
      if cx.target.tables.method then
         local special = cx.target.tables.method(cx, t, name)
         if special then return special(cx, t, args) end
      end
      local methods = KINDS[kind]
      local handler = methods and methods[name]
      if not handler then
         local names = cx.target.tables.names and cx.target.tables.names(t)
         local hint = ("tables of kind %s do not run on %s"):format(kind, cx.target.name)
         if names or methods then hint = ("in packet functions a %s has %s"):format(kind, names or list_of(methods)) end
         cx:refuse(("%s %s: %s() can't be used here"):format(kind, t.name or "table", name), hint)
      end
      cx.used_tables[t] = true
      return handler(cx, t, args)
   end
end

-- ---- values made from constants ----

local FROM_TEXT = {}
for _, name in ipairs { "ip4", "ip6", "mac", "prefix" } do
   if address[name] then FROM_TEXT[address[name]] = name end
end

--- Callable tables and functions that only make constants.
function M.callable(fn)
   local name = FROM_TEXT[fn]
   if not name then return nil end
   return function(cx, args)
      local list = {}
      for i, a in ipairs(args) do
         if a.k ~= "host" then cx:refuse(("tw.%s of a value that is known only at run time"):format(name)) end
         list[i] = a.v
      end
      local results = { pcall(fn, unpack(list, 1, #args)) }
      if not results[1] then cx:refuse((tostring(results[2]):gsub("^.-:%d+: ", ""))) end
      local out = {}
      for i = 2, #results do out[i - 1] = value.host(results[i]) end
      return out
   end
end

return M
