-- SPDX-License-Identifier: BSD-3-Clause
-- Reads and writes through references: header fields, entries of tables, C structs. On hooks every access to the
-- frame is preceded by a bounds check, unless it is known to be inside.

local ffi = require "ffi"
local arrays = require "tideway.packet.array"
local header = require "tideway.packet.header"
local ir = require "tideway.compiler.ir"
local alias = require "tideway.compiler.front.alias"
local ctype = require "tideway.compiler.front.ctype"
local number = require "tideway.compiler.front.number"
local types = require "tideway.table.type"
require "tideway.packet.in6"
local value = require "tideway.compiler.front.value"

local M = {}

-- ---- the frame ----

local function remembered(cx, key, make)
   local memo = cx.state.memo
   local entry = memo[key]
   if not entry then
      entry = { ir = make() }
      memo[key] = entry
   end
   return entry.ir
end

function M.data(cx)
   if cx.copied then return cx.copied.data end
   return remembered(cx, "data", function() return cx:emit("pktdata", "ptr", {}, { space = "pkt" }) end)
end

function M.data_end(cx)
   return remembered(cx, "end", function() return cx:emit("pktend", "ptr", {}, { space = "pkt" }) end)
end

function M.length(cx)
   if cx.copied then return cx.copied.frame_length end
   return remembered(cx, "len", function() return cx:emit("pktlen", "num", {}, { lo = 0, hi = 65535 }) end)
end

local byte = ctype.int.uint8_t

--- pkt.data as a value.
function M.frame(cx) return value.ptr(M.data(cx), 0, byte, { gen = cx.state.gen }) end

--- Packet pointers made so far are dead.
function M.resized(cx)
   cx.state.gen = {}
   cx.state.inside = {}
   cx.state.memo = {}
end

--- The packet was resized by `delta` bytes (positive: longer) if the number `rc` is 0: 0 or 1, as a value. What that
--- says about the new length is known where the result is known to be 0.
function M.resize_outcome(cx, rc, old_lo, delta_lo)
   M.resized(cx)
   M.data(cx)
   M.data_end(cx)
   local length = M.length(cx)
   local join = cx:join()
   local yes, no = cx:split("eq", rc, cx:const(0))
   cx:go(yes)
   cx.state.range[length] = { math.max(0, math.min(65535, old_lo + delta_lo)), 65535 }
   cx:jump(join, { value.host(0) })
   cx:go(no)
   cx:jump(join, { value.host(1) })
   return cx:enter(join)[1]
end

-- ---- what is known to be in memory ----

local function key_of(base, off, bits) return ("%d+%d:%d"):format(base.id, off, bits) end

--- Forget loads that a store to `size` bytes at base + off may have changed; without base, all of the space.
function M.forget(cx, space, base, off, size)
   local memo = cx.state.memo
   local function touched(entry) return entry.space == space and alias.overlaps(space, base, off, size, entry) end
   for key, entry in pairs(memo) do
      if entry.reads then
         for _, read in ipairs(entry.reads) do
            if touched(read) then
               memo[key] = nil
               break
            end
         end
      elseif touched(entry) then
         memo[key] = nil
      end
   end
end

-- ---- access ----

--- Refuses a reference that may be nil, or a view from before a resize.
function M.usable(cx, p)
   if p.nilable and cx.state.nonnil[p.ir] ~= true then
      cx:refuse(("%s may be nil here"):format(p.shape and p.shape.name and "the view of " .. p.shape.name
         or "what the table gave"), "test it first: if x then ... end")
   end
   if p.gen and p.gen ~= cx.state.gen then
      cx:refuse("this view was taken before the packet was resized", "take it again after the resize")
   end
   if cx.inferred[p.ir] and cx.target.checks and p.ir.space ~= "pkt" then
      local yes, no = cx:split("ne", p.ir, cx:null())
      if no then
         cx:go(no)
         cx.target.trap(cx)
         cx:go(yes)
      end
   end
end

-- Largest offset that an access to the frame has itself; the IR's is 16 bits.
local FARTHEST = 32000

local function at_index(cx, root, index)
   return remembered(cx, ("at %d+%d"):format(root.id, index.id or index.value), function()
      return cx:emit("ptradd", "ptr", { root, index }, { space = root.space })
   end)
end

-- A packet pointer with a constant offset that is not negative.
local function settled(cx, p, off)
   local base = p.ir
   local root, own = alias.parts(base)
   if off > FARTHEST then -- beyond what an access holds: the offset becomes part of the pointer
      local index = own and number.ir(cx, number.binary(cx, "+", value.int(own), value.host(off))) or cx:const(off)
      return at_index(cx, root, index), 0
   end
   if off >= 0 then return base, off end
   if own then
      local lo = cx:range(own)
      if lo + off >= 0 then
         local index = number.binary(cx, "+", value.int(own), value.host(off))
         local moved = M.add(cx, value.ptr(root, 0, byte, { gen = p.gen }), index)
         return moved.ir, moved.off
      end
   end
   cx:refuse("this reaches in front of the frame")
end

-- Bytes of the header, of the smallest one that the view may be of.
local function smallest(p)
   local size = p.type.size
   for _, a in ipairs(p.alternatives or {}) do size = math.min(size, a.type.size) end
   return size
end

-- The same in a copy of the frame's first bytes, whose length is a number.
local function reach_copy(cx, p, off, size)
   local root, index = alias.parts(p.ir)
   local stop = value.host(off + size)
   if index then stop = number.binary(cx, "+", value.int(index), stop) end
   local inside, outside = number.compare(cx, "le", stop, value.int(cx.copied.length))
   if outside then
      cx:go(outside)
      cx.target.trap(cx)
   end
   if not inside then cx:refuse(("a socket filter sees the first %d bytes only"):format(cx.copied.size)) end
   cx:go(inside)
   if not index then return root, off end
   -- The verifier wants the bound of the index itself; behind the copy there is as much room again.
   local yes, no = cx:split("ult", index, cx:const(cx.copied.size))
   if no then
      cx:go(no)
      cx.target.trap(cx)
   end
   if not yes then cx:refuse(("a socket filter sees the first %d bytes only"):format(cx.copied.size)) end
   cx:go(yes)
   return cx:emit("ptradd", "ptr", { root, index }, { space = root.space }), off
end

-- Makes sure that `size` bytes at p + off may be read and written. A header is in the frame as a whole or not at
-- all: the first access to one of its fields checks all of it.
local function reach(cx, p, off, size)
   M.usable(cx, p)
   if cx.copied and p.gen then return reach_copy(cx, p, off, size) end
   if p.ir.space ~= "pkt" then return p.ir, off end
   local past = p.type.kind == "struct" and p.off + smallest(p) - off - size or 0
   local base
   base, off = settled(cx, p, off)
   if not cx.target.checks or (cx.state.inside[base] or 0) >= off + size then return base, off end
   if base.index then base = at_index(cx, base.root, base.index) end
   local inside, outside = cx:check(base, off + size + math.max(past, 0), M.data_end(cx))
   cx:go(outside)
   cx.target.trap(cx)
   cx:go(inside)
   return base, off
end

--- Greatest time stamp in ns, and 48-bit address, as a number: leaves room to add 13 days below 2^53.
M.LATEST = 2 ^ 53 - 2 ^ 50

local MAX = { [8] = 255, [16] = 65535, [32] = 4294967295 }

--- Load of 8 to 64 bits, as they lie in memory, little-endian.
function M.load(cx, p, off, bits, type)
   local base, at = reach(cx, p, p.off + off, bits / 8)
   local memo, key = cx.state.memo, key_of(base, at, bits)
   cx.reads[#cx.reads + 1] = { base = base, off = at, size = bits / 8, space = base.space }
   local entry = memo[key]
   if entry and entry.ir.type == (type or (bits == 64 and "u64" or "num")) then return entry.ir end
   local v = cx:emit("load", type or (bits == 64 and "u64" or "num"), { base }, { bits = bits, off = at })
   if bits < 64 then v.lo, v.hi = 0, MAX[bits] end
   if type == "num" and bits == 64 then v.lo, v.hi = 0, M.LATEST end
   memo[key] = { ir = v, base = base, off = at, size = bits / 8, space = base.space }
   return v
end

--- Store of the low bits.
function M.store(cx, p, off, bits, v)
   if p.gen and cx.target.kernel and not cx.target.kernel.writable then
      cx:refuse(("packets can't be changed on hook %s"):format(cx.target.name), "pin the chain to xdp, tc or an lcore")
   end
   local base, at = reach(cx, p, p.off + off, bits / 8)
   M.forget(cx, base.space, base, at, bits / 8)
   cx:emit("store", "void", { base, v }, { bits = bits, off = at })
   local lo, hi = cx:range(v)
   if v.op ~= "const" and bits < 64 and v.type == "num" and lo >= 0 and hi <= MAX[bits] then
      cx.state.memo[key_of(base, at, bits)] = { ir = v, base = base, off = at, size = bits / 8, space = base.space }
   end
end

-- ---- pointer arithmetic ----

--- p + bytes (a value).
function M.add(cx, p, bytes)
   if bytes.k == "host" then
      return value.ptr(p.ir, p.off + bytes.v, p.type, { gen = p.gen, ref = p.ref, shape = p.shape })
   end
   local index = number.ir(cx, bytes, "an offset into memory")
   local lo, hi = cx:range(index)
   if (p.ir.space == "pkt" or (cx.copied and p.gen)) and cx.target.checks then
      local root, own = alias.parts(p.ir)
      if own then -- one variable part
         local sum = number.binary(cx, "+", value.int(own), bytes)
         return M.add(cx, value.ptr(root, p.off, p.type, { gen = p.gen, ref = p.ref, shape = p.shape }), sum)
      end
      -- A constant part goes to the offset of the access.
      if index.op == "add" and index.args[2].op == "const" and index.args[2].value >= 0 then
         local rest = index.args[1]
         if cx:range(rest) >= 0 then
            local moved = value.ptr(p.ir, p.off + index.args[2].value, p.type,
               { gen = p.gen, ref = p.ref, shape = p.shape })
            return M.add(cx, moved, value.int(rest))
         end
      end
      if not lo or lo < 0 or hi > 65535 then
         local yes, no = cx:split("ult", index, cx:const(65536))
         if no then
            cx:go(no)
            cx.target.trap(cx)
         end
         if not yes then cx:refuse "this reaches behind any frame" end
         cx:go(yes)
         if not lo or lo < 0 or hi > 65535 then
            cx.state.range[index] = { math.max(lo or 0, 0), math.min(hi or 65535, 65535) }
            index = cx:emit("and", "num", { index, cx:const(65535) },
               { lo = math.max(lo or 0, 0), hi = math.min(hi or 65535, 65535) })
         end
      end
   end
   return value.ptr(at_index(cx, p.ir, index), p.off, p.type, { gen = p.gen, ref = p.ref, shape = p.shape })
end

--- Offset from the start of the frame of what a pointer into it points to, a number.
function M.offset_in_frame(cx, p)
   if p.ir.op == "pktdata" then return value.host(p.off) end
   local root, index = alias.parts(p.ir)
   if index and root.op == "pktdata" then return number.binary(cx, "+", value.int(index), value.host(p.off)) end
   cx:refuse("where this view lies in the frame is not known here")
end

-- Numbers whose range the verifier may forget; off hooks, none.
local function can_blur(cx, v, most)
   local lo, hi = cx:range(v)
   return cx.target.checks and cx.target.kernel.packet and not (v.op == "const" and hi == 0) and lo >= 0 and hi < most
end

local function stands_for(v, of)
   v.stands_for = of.stands_for or of
   return v
end

--- The same number, of which the verifier knows no more than the range: it follows every path with every value that
--- it can tell apart, and would follow n such choices 2^n times. Off hooks, the number itself.
---@param v tideway.ir.value num
function M.blur(cx, v)
   if not can_blur(cx, v, 2 ^ 24) then return v end
   local lo, hi = cx:range(v)
   local zero = remembered(cx, "zero", function()
      return cx:emit("call", "num", {}, { fn = "zero", pure = true, lo = 0, hi = 2 ^ 24 - 1 })
   end)
   local mask = 1
   while mask <= hi do mask = mask * 2 end
   local sum = cx:emit("add", "num", { v, zero }, { lo = lo, hi = hi + 2 ^ 24 })
   return stands_for(cx:emit("and", "num", { sum, cx:const(mask - 1) }, { lo = lo, hi = hi }), v)
end

--- The same number, of which the verifier forgets the least value, unless it knows the number itself. That makes
--- rounds of a loop alike, for a tenth of the price.
---@param v tideway.ir.value num
function M.loosen(cx, v)
   if not can_blur(cx, v, 2 ^ 31) then return v end
   local lo, hi = cx:range(v)
   return stands_for(cx:emit("call", "num", { v }, { fn = "loosen", pure = true, lo = lo, hi = hi }), v)
end

-- ---- C types ----

local function shape_of(t)
   return t.kind == "struct" and (header.by_ctype[t.id] or types.by_ctype[t.id] or arrays.by_ctype[t.id]) or nil
end

--- The struct or number that a pointer points to: p[0], p[i].
function M.deref(cx, p, index)
   if index then
      p = M.add(cx, p, number.binary(cx, "*", index, value.host(p.type.size)))
   end
   if p.type.kind == "struct" then
      return value.ptr(p.ir, p.off, p.type,
         { ref = true, gen = p.gen, nilable = p.nilable, shape = p.shape or shape_of(p.type) })
   end
   return M.load_ctype(cx, p, 0, p.type)
end

--- What a C object reads as in Lua.
function M.load_ctype(cx, p, off, t)
   if t.kind == "struct" or t.kind == "array" then
      return value.ptr(p.ir, p.off + off, t,
         { ref = true, gen = p.gen, nilable = p.nilable, shape = shape_of(t) })
   elseif t.kind ~= "int" then
      cx:refuse(("a C %s can't be read in NF Lua"):format(t.kind))
   elseif t.size == 8 then
      local v = M.load(cx, p, off, 64, t.signed and "i64" or "u64")
      return value.int(v)
   end
   local v = M.load(cx, p, off, t.size * 8)
   if t.signed then v = number.truncate(cx, v, t.size * 8, true) end
   return value.int(v)
end

--- Assignment to a C object.
function M.store_ctype(cx, p, off, t, fv)
   if t.kind == "struct" then return M.copy_struct(cx, p, off, t, fv) end
   if t.kind ~= "int" then cx:refuse(("a C %s can't be written in NF Lua"):format(t.kind)) end
   local v = number.ir(cx, fv, "assignment")
   M.store(cx, p, off, t.size * 8, v)
end

local in6 = ffi.typeof "struct tw_in6"

--- The two 64-bit halves of an IPv6 address, as they lie in memory.
function M.halves(cx, fv)
   if fv.k == "host" and type(fv.v) == "cdata" and ffi.istype(in6, fv.v) then
      return ir.const(fv.v.q0, "u64"), ir.const(fv.v.q1, "u64")
   elseif fv.k == "ptr" and fv.type == ctype.of(in6) then
      return M.load(cx, fv, 0, 64, "u64"), M.load(cx, fv, 8, 64, "u64")
   elseif fv.k == "tagged" then
      cx:refuse("the address may be nil here", "test it first: if x then ... end")
   end
   cx:refuse(("an IPv6 address is needed, this is %s"):format(value.describe(fv)))
end

function M.copy_struct(cx, p, off, t, fv)
   local array = require "tideway.compiler.front.array"
   if t == ctype.of(in6) then
      local a, b = M.halves(cx, fv)
      M.store(cx, p, off, 64, a)
      M.store(cx, p, off + 8, 64, b)
      return
   elseif arrays.by_ctype[t.id] then
      return array.copy(cx, p, off, arrays.by_ctype[t.id], fv)
   end
   if fv.k ~= "ptr" or fv.type ~= t then
      cx:refuse(("%d bytes of the same type are needed, this is %s"):format(t.size, value.describe(fv)))
   end
   for at, bytes in array.words(t.size) do
      M.store(cx, p, off + at, bytes * 8, M.load(cx, fv, at, bytes * 8))
   end
end

-- ---- header fields ----

--- A number of so many bits with its bytes in the other order, unless that is the CPU's own.
local function swap(cx, v, bits, order)
   if order == "le" or bits == 8 then return v end
   if v.op == "const" then
      local r = ffi.cast("uint64_t", bits == 64 and v.value or v.value % 2 ^ bits)
      r = bit.bswap(r)
      if bits == 64 then return ir.const(r, "u64") end
      return cx:const(tonumber(bit.rshift(r, 64 - bits)))
   end
   local fields = { bits = bits }
   if bits < 64 then fields.lo, fields.hi = 0, MAX[bits] end
   return cx:emit("bswap", bits == 64 and "u64" or "num", { v }, fields)
end

M.swap = swap

-- The member that holds the field, as a host number.
local function member(cx, p, field, at)
   local bits = field.raw_size * 8
   if bits == 24 then
      local a, b, c = M.load(cx, p, at, 8), M.load(cx, p, at + 1, 8), M.load(cx, p, at + 2, 8)
      a = cx:emit("shl", "num", { a, cx:const(16) }, { lo = 0, hi = 0xff0000 })
      b = cx:emit("shl", "num", { b, cx:const(8) }, { lo = 0, hi = 0xff00 })
      local ab = cx:emit("or", "num", { a, b }, { lo = 0, hi = 0xffff00 })
      return cx:emit("or", "num", { ab, c }, { lo = 0, hi = 0xffffff })
   end
   return swap(cx, M.load(cx, p, at, bits), bits, field.order)
end

local function offset_of(p, field)
   local fields = p.type.fields
   local m = fields[field.raw] or fields[field.raw .. "_0"] or fields[field.raw .. "_hi"] or fields[field.name]
   return m.offset
end

local function read_mac(cx, p, at)
   local hi, lo = M.load(cx, p, at, 16), M.load(cx, p, at + 2, 32)
   local high = cx:emit("shl", "num", { swap(cx, hi, 16), cx:const(32) }, { lo = 0, hi = 0xffff * 2 ^ 32 })
   local fv = value.int(cx:emit("add", "num", { high, swap(cx, lo, 32) }, { lo = 0, hi = 2 ^ 48 - 1 }))
   fv.mac = { hi = hi, lo = lo }
   return fv
end

local function read_header_field(cx, p, field)
   local at = offset_of(p, field)
   if field.type == "mac" then return read_mac(cx, p, at) end
   if field.count or field.fields then return M.load_ctype(cx, p, at, p.type.fields[field.raw].type) end
   if field.type == "ip6" then return M.load_ctype(cx, p, at, ctype.of(in6)) end
   local v = member(cx, p, field, at)
   local bits = field.raw_size * 8
   if field.width == bits then return value.int(v) end
   local hi = 2 ^ field.width - 1
   if field.shift > 0 then
      v = cx:emit("shr", "num", { v, cx:const(field.shift) },
         { lo = 0, hi = math.floor((2 ^ bits - 1) / 2 ^ field.shift) })
   end
   if v.hi > hi then v = cx:emit("and", "num", { v, cx:const(hi) }, { lo = 0, hi = hi }) end
   return value.int(v)
end

local function write_mac(cx, p, at, fv)
   if fv.mac then
      M.store(cx, p, at, 16, fv.mac.hi)
      M.store(cx, p, at + 2, 32, fv.mac.lo)
      return
   end
   local v = number.ir(cx, fv, "a MAC address")
   local lo, hi = cx:range(v)
   if lo < 0 or hi >= 2 ^ 48 then
      v = cx:emit("and", "num", { v, cx:const(2 ^ 48 - 1) }, { lo = 0, hi = 2 ^ 48 - 1 })
   end
   local high
   if v.op == "const" then
      high = cx:const(math.floor(v.value / 2 ^ 32))
   else
      high = cx:emit("shr", "num", { v, cx:const(32) }, { lo = 0, hi = 65535 })
   end
   M.store(cx, p, at, 16, swap(cx, high, 16))
   M.store(cx, p, at + 2, 32, swap(cx, number.zext32(cx, v), 32))
end

local function write_header_field(cx, p, field, fv)
   local at = offset_of(p, field)
   if field.type == "mac" then return write_mac(cx, p, at, fv) end
   if field.count or field.fields then return M.copy_struct(cx, p, at, p.type.fields[field.raw].type, fv) end
   if field.type == "ip6" then return M.copy_struct(cx, p, at, ctype.of(in6), fv) end
   local bits = field.raw_size * 8
   local what = "assignment to " .. field.name
   local v = number.ir(cx, fv, what)
   if bits < 64 then number.low_bits(cx, v, what, bits == 8 and field.width == 8 and 2 ^ 31 or nil) end
   if field.width < bits then
      local ones = 2 ^ field.width - 1
      local mask = 2 ^ bits - 1 - ones * 2 ^ field.shift
      local old = cx:emit("and", "num", { member(cx, p, field, at), cx:const(mask) }, { lo = 0, hi = mask })
      local lo, hi = cx:range(v)
      if lo < 0 or hi > ones then v = cx:emit("and", "num", { v, cx:const(ones) }, { lo = 0, hi = ones }) end
      if field.shift > 0 then
         v = cx:emit("shl", "num", { v, cx:const(field.shift) }, { lo = 0, hi = ones * 2 ^ field.shift })
      end
      v = cx:emit("or", "num", { old, v }, { lo = 0, hi = 2 ^ bits - 1 })
   end
   if bits == 24 then
      for i = 0, 2 do
         local part = cx:emit("shr", "num", { number.zext32(cx, v), cx:const(16 - 8 * i) },
            { lo = 0, hi = math.floor(4294967295 / 2 ^ (16 - 8 * i)) })
         M.store(cx, p, at + i, 8, part)
      end
      return
   end
   if bits == 64 then v = number.widen(cx, v, "u64") end
   M.store(cx, p, at, bits, swap(cx, v, bits, field.order))
end

-- ---- fields of tables' entries ----

local function entry_field(shape, name)
   for _, field in ipairs(shape.fields or {}) do
      if field.name == name then return field end
   end
end

--- A scalar of a table's type (ns and mac are numbers in 64 bits).
function M.load_basic(cx, p, off, type)
   if type == "ns" or type == "mac" then return value.int(M.load(cx, p, off, 64, "num")) end
   if type == "ip6" then return M.load_ctype(cx, p, off, ctype.of(in6)) end
   return M.load_ctype(cx, p, off, ctype.int[({
      u8 = "uint8_t", u16 = "uint16_t", u32 = "uint32_t", u64 = "uint64_t", i32 = "int32_t", i64 = "int64_t",
   })[type]])
end

--- Keys are stored by bit operations, values as C does it, which knows no number beyond an int in a small field.
---@param as_key boolean?
function M.store_basic(cx, p, off, type, fv, as_key)
   if type == "ip6" then return M.copy_struct(cx, p, off, ctype.of(in6), fv) end
   local bits, what = types.basic[type].size * 8, "a value of type " .. type
   local v = number.ir(cx, fv, what)
   if bits < 32 or type == "i32" then number.low_bits(cx, v, what, not as_key and 2 ^ 31 or nil) end
   if type == "u64" then v = number.widen(cx, v, "u64") end
   M.store(cx, p, off, bits, v)
end

--- A field of an entry.
function M.load_field(cx, p, field)
   if field.array then return M.load_ctype(cx, p, field.offset, ctype.of(field.array.ctype)) end
   return M.load_basic(cx, p, field.offset, field.type)
end

function M.store_field(cx, p, field, fv, as_key)
   if field.array then return M.copy_struct(cx, p, field.offset, ctype.of(field.array.ctype), fv) end
   return M.store_basic(cx, p, field.offset, field.type, fv, as_key)
end

-- ---- by name ----

local function names_of(p)
   local list = {}
   for name in pairs(p.type.fields or {}) do
      if not name:find "^raw_" and not name:find "^pad_" then list[#list + 1] = name end
   end
   for _, field in ipairs(p.shape and p.shape.fields or {}) do list[#list + 1] = field.name end
   table.sort(list)
   local out, seen = {}, {}
   for _, n in ipairs(list) do
      if not seen[n] then out[#out + 1] = n end
      seen[n] = true
   end
   return table.concat(out, ", ")
end

local function unknown(cx, p, name)
   cx:refuse(("%s has no field %q"):format(p.shape and p.shape.name or "this struct", tostring(name)),
      "it has " .. names_of(p))
end

local function is_header(p) return p.shape and p.shape.members ~= nil end

-- A view that is one of several headers (pkt:tcp() or pkt:udp()) has the fields that lie alike in all of them.
local function check_alternatives(cx, p, name)
   local first
   for _, a in ipairs(p.alternatives) do
      local field = a.shape and a.shape.members and a.shape.fields[name]
      local at = field and offset_of({ type = a.type }, field)
      local this = field and ("%d %d %d %d %s"):format(at, field.raw_size, field.shift, field.width, field.order)
      first = first or this
      if not this or this ~= first then
         local names = {}
         for i, b in ipairs(p.alternatives) do names[i] = b.shape and b.shape.name or "a struct" end
         cx:refuse(("%s is not the same in %s"):format(name, table.concat(names, " and ")),
            "take one of the views at a time")
      end
   end
end

--- p.name
function M.field(cx, p, name)
   if p.alternatives then check_alternatives(cx, p, name) end
   if p.type.kind ~= "struct" then cx:refuse(("%s has no fields"):format(value.describe(p))) end
   if is_header(p) then
      local field = p.shape.fields[name]
      if field then return read_header_field(cx, p, field) end
      local method = p.shape.methods[name]
      if method then return value.host(method) end
   elseif p.shape then
      local field = entry_field(p.shape, name)
      if field then return M.load_field(cx, p, field) end
   end
   local member_of = p.type.fields[name]
   if member_of then return M.load_ctype(cx, p, member_of.offset, member_of.type) end
   local probe = p.type == ctype.of(in6) and ffi.new(in6)
   if probe then
      local ok, method = pcall(function() return probe[name] end)
      if ok and type(method) == "function" then return value.host(method) end
   end
   unknown(cx, p, name)
end

--- p.name = fv
function M.set_field(cx, p, name, fv)
   if p.alternatives then check_alternatives(cx, p, name) end
   if p.type.kind ~= "struct" then cx:refuse(("%s has no fields"):format(value.describe(p))) end
   if is_header(p) then
      local field = p.shape.fields[name]
      if field then return write_header_field(cx, p, field, fv) end
   elseif p.shape then
      local field = entry_field(p.shape, name)
      if field then return M.store_field(cx, p, field, fv) end
   end
   local member_of = p.type.fields[name]
   if not member_of then unknown(cx, p, name) end
   M.store_ctype(cx, p, member_of.offset, member_of.type, fv)
end

return M
