-- SPDX-License-Identifier: BSD-3-Clause
local abi = require "tideway.abi"
local packet = require "tideway.packet"
local tables = require "tideway.table"
local support = require "test.support.tables"

local ffi = require "ffi"

local band = require("bit").band -- a local: in a spec, globals are reached by functions of busted

local C, make = abi.C, support.make

describe("hash table", function()
   after_each(support.free)

   it("sets, gets and deletes scalar values", function()
      local t = make.hash { key = "u32", value = "u32", entries = 100 }
      assert.is_nil(t:get(1))
      assert.is_true(t:set(1, 4294967295))
      assert.equal(4294967295, t:get(1))
      assert.is_true(t:set(1, 7))
      assert.equal(7, t:get(1))
      assert.equal(1, t:count())
      assert.is_true(t:del(1))
      assert.is_false(t:del(1))
      assert.is_nil(t:get(1))
      assert.equal(0, t:count())
   end)

   it("reads every field type as declared", function()
      local t = make.hash { key = "u32", entries = 4,
         value = "u8 a; u16 b; u32 c; u64 d; i32 e; i64 f; ns g; mac h" }
      t:set(1, 255, 65535, 4294967295, 2^40, -5, -6, 2^52, 0xffffffffffff)
      local v = t:get(1)
      assert.same({ 255, 65535, 4294967295, -5 }, { v.a, v.b, v.c, v.e })
      assert.is_true(v.d == 2^40 + 0ULL and ffi.istype("uint64_t", v.d))
      assert.is_true(v.f == -6LL)
      assert.equal(2^52, v.g)
      assert.equal(0xffffffffffff, v.h)
      v.g, v.c = 17, 18
      assert.same({ 17, 18 }, { t:get(1).g, t:get(1).c })
      assert.has_error(function() return v.nothing end, "no field 'nothing'")
      assert.has_error(function() v.nothing = 1 end, "no field 'nothing'")
   end)

   it("tells keys apart by every field, padding never counts", function()
      local t = make.hash { key = "u8 proto; u32 src; u16 port; u64 id; mac m", value = "u32", entries = 64 }
      local key = { 6, 0x0a000001, 443, 2^50, 0x020000000001 }
      t:set(key[1], key[2], key[3], key[4], key[5], 1)
      for i = 1, 5 do
         local other = { unpack(key) }
         other[i] = other[i] + 1
         assert.is_nil(t:get(unpack(other)))
      end
      assert.equal(1, t:get(unpack(key)))
   end)

   it("takes IPv6 addresses as key and value", function()
      local t = make.hash { key = "ip6 dst; u16 port", value = "ip6 hop; u32 out", entries = 16 }
      local a, b = support.in6(("\32\1"):rep(8)), support.in6(("\32\2"):rep(8))
      t:set(a, 80, b, 3)
      assert.is_nil(t:get(b, 80))
      local v = t:get(a, 80)
      assert.equal(3, v.out)
      assert.equal(ffi.string(b, 16), ffi.string(v.hop, 16))
   end)

   it("put() gives the entry, zeroed when new", function()
      local t = make.hash { key = "u32 a; u32 b", value = "u64 packets; u32 flags", entries = 8 }
      local v = t:put(1, 2)
      assert.is_true(v.packets == 0 and v.flags == 0)
      v.packets = v.packets + 5
      assert.is_true(t:put(1, 2).packets == 5)
      t:del(1, 2)
      assert.is_true(t:put(1, 2).packets == 0)
   end)

   it("set() replaces a struct in one piece: who holds the old one sees no mixture", function()
      local t = make.hash { key = "u32", value = "u32 a; u32 b; u32 c", entries = 8 }
      t:set(1, 10, 11, 12)
      local old = t:get(1)
      t:set(1, 20, 21, 22)
      local new = t:get(1)
      assert.same({ 10, 11, 12, 20, 21, 22 }, { old.a, old.b, old.c, new.a, new.b, new.c })
      assert.equal(1, t:count())
   end)

   it("add() counts, also below zero for signed values", function()
      local t = make.hash { key = "u32", value = "u64", entries = 8 }
      assert.is_true(t:add(1, 5))
      assert.is_true(t:add(1, 7))
      assert.is_true(t:get(1) == 12)
      local s = make.hash { key = "u32", value = "i32", entries = 8 }
      s:add(1, -5)
      assert.equal(-5, s:get(1))
   end)

   it("takes exactly as many entries as declared", function()
      for _, entries in ipairs { 1, 7, 64, 1000, 5000, 983040 } do
         local t = make.hash { key = "u32", value = "u32", entries = entries }
         for i = 1, entries do
            assert.is_true(t:set(i * 7919, i))
         end
         assert.is_false(t:set(1, 1))
         assert.is_true(t:set(7919, 42))
         assert.same({ entries, 1 }, { t:count(), t:stats().full })
         assert.is_true(t:del(7919))
         assert.is_true(t:set(1, 1))
      end
      local t = make.hash { key = "u32", value = "u32 a; u32 b", entries = 1 }
      assert.is_not_nil(t:put(1))
      assert.is_nil(t:put(2))
   end)

   it("agrees with a Lua table over random operations", function()
      local t = make.hash { key = "u32 a; u16 b", value = "u32", entries = 512 }
      local model, count = {}, 0
      math.randomseed(4711)
      for _ = 1, 50000 do
         local a, b, op = math.random(0, 31), math.random(0, 31), math.random(4)
         local k = a * 32 + b
         if op == 1 then
            assert.equal(model[k], t:get(a, b))
         elseif op == 2 then
            assert.equal(model[k] ~= nil, t:del(a, b))
            count = model[k] and count - 1 or count
            model[k] = nil
         else
            local v = math.random(0, 1000)
            local fits = model[k] ~= nil or count < 512
            assert.equal(fits, t:set(a, b, v))
            if fits then
               count = model[k] and count or count + 1
               model[k] = v
            end
         end
      end
      local seen = 0
      for k, v in t:pairs() do
         seen = seen + 1
         assert.equal(model[k.a * 32 + k.b], v)
      end
      assert.same({ count, count }, { seen, t:count() })
      assert.equal(count, t:clear())
      assert.is_nil(t:pairs()())
   end)

   it("pairs() gives copies that outlive the entry", function()
      local t = make.hash { key = "u32 a; u32 b", value = "u32 x; ns y", entries = 8 }
      t:set(1, 2, 3, 4)
      local k, v = t:pairs()()
      t:clear()
      t:set(9, 9, 9, 9)
      assert.equal("{a=1, b=2} {x=3, y=4}", tostring(k) .. " " .. tostring(v))
   end)

   it("finds keys in bulk", function()
      local t = make.hash { key = "u32", value = "u64", entries = 100 }
      for i = 1, 50 do
         t:set(i, i * 10)
      end
      local keys, list, values = ffi.new "uint64_t[64]", ffi.new "const void *[64]", ffi.new "void *[64]"
      for i = 0, 63 do
         keys[i], list[i] = i + 1, keys + i
      end
      assert.equal(50, C.tw_hash_get_bulk(t.table, list, 64, 0, values))
      for i = 0, 63 do
         if i < 50 then
            assert.is_true(ffi.cast("uint64_t *", values[i])[0] == (i + 1) * 10)
         else
            assert.is_true(values[i] == nil)
         end
      end
   end)

   it("compiles get, put, set, add and del without garbage", function()
      local five = "u32 src; u32 dst; u16 sport; u16 dport; u8 proto"
      local t = make.hash { key = five, value = "u32 addr; u64 packets; ns expires", entries = 1024, expire = true }
      local n = make.hash { key = "u32", value = "u64", entries = 1024 }
      local function loop()
         local sum = 0
         for i = 1, 5000 do
            local k = band(i, 511)
            local v = t:put(k, 1, 2, 3, 4)
            if v then v.packets = v.packets + 1 end
            v = t:get(k, 1, 2, 3, 4)
            if v then sum = sum + v.addr end
            t:set(k, 1, 2, 3, 4, 5, 6, 0)
            n:add(k, 1)
            if n:del(k) then sum = sum + 1 end
         end
         return sum
      end
      local traces, aborts = support.compile(loop)
      assert.is_true(traces > 0)
      assert.same({}, aborts)
      assert.is_near(0, support.garbage(loop), 1024)
   end)
end)

describe("hash table with expiry", function()
   local before, burst

   before_each(function()
      before = packet.burst
      burst = ffi.new "struct tw_burst"
      burst.now = 1000
      packet.burst = burst
   end)

   after_each(function()
      support.free()
      packet.burst = before
   end)

   local function flows(entries)
      return make.hash { key = "u32", value = "u32 x; ns expires", entries = entries, expire = true }
   end

   it("hides an entry from its deadline on", function()
      local t = flows(8)
      t:set(1, 5, 2000)
      assert.equal(5, t:get(1).x)
      burst.now = 1999
      assert.equal(5, t:get(1).x)
      burst.now = 2000
      assert.is_nil(t:get(1))
      assert.is_false(t:del(1))
   end)

   it("never expires an entry without a deadline", function()
      local t = flows(8)
      t:put(1)
      burst.now = 2^50
      assert.is_not_nil(t:get(1))
   end)

   it("starts an expired entry afresh", function()
      local t = flows(8)
      t:set(1, 5, 2000)
      burst.now = 3000
      assert.equal(0, t:put(1).x)
      assert.equal(1, t:count())
      assert.equal(1, t:stats().expired)
   end)

   it("hides expired entries from bulk look-ups", function()
      local t = flows(8)
      t:set(1, 5, 2000)
      t:set(2, 6, 3000)
      local keys, list, values = ffi.new("uint64_t[2]", 1, 2), ffi.new "const void *[2]", ffi.new "void *[2]"
      list[0], list[1] = keys, keys + 1
      assert.equal(1, C.tw_hash_get_bulk(t.table, list, 2, 2000, values))
      assert.is_true(values[0] == nil and values[1] ~= nil)
   end)

   it("sweeps in steps of the budget", function()
      local t = flows(1000)
      for i = 1, 1000 do
         t:set(i, i, i <= 600 and 2000 or 5000)
      end
      C.tw_tables_sweep(1999, 100000)
      assert.equal(1000, t:count())
      C.tw_tables_sweep(2000, 50)
      local some = t:count()
      assert.is_true(some >= 950 and some <= 1000)
      for _ = 1, 10 do
         C.tw_tables_sweep(2000, 100000)
      end
      assert.equal(400, t:count())
      assert.equal(600, t:stats().expired)
      burst.now = 2500
      assert.is_nil(t:get(600))
      assert.equal(601, t:get(601).x)
   end)

   it("takes the room of expired entries when full", function()
      local t = flows(16)
      for i = 1, 16 do
         t:set(i, i, 2000)
      end
      assert.is_false(t:set(17, 1, 9000))
      burst.now = 2000
      for _ = 1, 200 do -- each attempt looks at a bounded number of entries
         if t:set(17, 1, 9000) then break end
      end
      assert.equal(1, t:get(17).x)
   end)

   it("does not list expired entries", function()
      local t = flows(8)
      t:set(1, 1, 1) -- pairs() goes by the real time, far past 1 ns
      t:set(2, 2, 2^52)
      local list = {}
      for k in t:pairs() do
         list[#list + 1] = k
      end
      assert.same({ 2 }, list)
   end)
end)

describe("lru table", function()
   after_each(support.free)

   it("evicts what was not used for longest", function()
      local t = make.lru { key = "u32", value = "u32", entries = 4 }
      for i = 1, 4 do
         t:set(i, i)
      end
      t:get(1)
      t:get(3)
      t:set(5, 5)
      assert.is_nil(t:get(2))
      t:set(6, 6)
      assert.is_nil(t:get(4))
      assert.same({ 1, 3, 5, 6 }, { t:get(1), t:get(3), t:get(5), t:get(6) })
      assert.same({ 4, 2, 0 }, { t:count(), t:stats().evictions, t:stats().full })
   end)

   it("never refuses and never holds more than declared", function()
      local t = make.lru { key = "u32 a; u32 b", value = "u32 x; u32 y", entries = 100 }
      for i = 1, 20000 do
         assert.is_not_nil(t:put(i, i))
      end
      assert.same({ 100, 19900, 0 }, { t:count(), t:stats().evictions, t:stats().full })
   end)

   it("keeps a working set that is used among many others", function()
      local t = make.lru { key = "u32", value = "u32", entries = 256 }
      for i = 1, 64 do
         t:set(i, i)
      end
      local lost = 0
      for i = 1, 5000 do
         t:set(1000 + i, i)
         local k = i % 64 + 1
         if not t:get(k) then
            lost = lost + 1
            t:set(k, k)
         end
      end
      assert.is_true(lost < 50, lost .. " of the working set were evicted")
   end)
end)

describe("table declarations", function()
   after_each(support.free)

   local function refuses(kind, options, text)
      local ok, err = pcall(function()
         tables[kind](options)
      end)
      assert.is_false(ok)
      assert.is_truthy(err:find(text, 1, true), err)
      assert.is_truthy(err:find "^[^:]*table_hash_spec.lua:%d+: ", err)
   end

   it("are refused with the value, the reason and the caller's line", function()
      refuses("hash", nil, "its argument is a nil")
      refuses("hash", { key = "u33", value = "u32", entries = 1 }, "'u33' is not a type: types are u8 u16")
      refuses("hash", { key = "", value = "u32", entries = 1 }, "declares no field")
      refuses("hash", { key = "u32 a; u32 a", value = "u32", entries = 1 }, "field 'a' is declared twice")
      refuses("hash", { key = "u32 a; u32", value = "u32", entries = 1 }, "can leave out its name")
      refuses("hash", { key = "u32 int", value = "u32", entries = 1 }, "word of C")
      refuses("hash", { key = "u32 1a", value = "u32", entries = 1 }, "write a type and a name")
      refuses("hash", { key = 4, value = "u32", entries = 1 }, "not a string such as")
      refuses("hash", { key = "u32", entries = 1 }, "value type nil")
      refuses("hash", { key = "u32", value = "u32", entries = 0 }, "entries is 0")
      refuses("hash", { key = "u32", value = "u32", entries = "many" }, "entries is many")
      refuses("hash", { key = "u32", value = "u32", entries = 2^40 }, "not a whole number from 1 to")
      refuses("hash", { key = "u32", value = "u32", entrys = 1 }, "options are entries, expire, keep, key")
      refuses("hash", { key = "u32", value = "u32", entries = 1, expire = true }, "ns expires")
      refuses("hash", { key = "ip6 a; ip6 b; ip6 c; ip6 d; u8 e", value = "u32", entries = 1 }, "keys have 1 to 64")
      refuses("hash", { name = "", key = "u32", value = "u32", entries = 1 }, "not a string")
      refuses("hash", { name = ("x"):rep(48), key = "u32", value = "u32", entries = 1 }, "longer than 47")
      refuses("lpm", { family = 5, value = "u32", entries = 1 }, "family is 5")
      refuses("counters", { names = {} }, "not a list of names")
      refuses("counters", { names = { "a", "a" } }, "names[2]")
      refuses("counters", {}, "size (or names) is nil")
      refuses("meter", { cbs = 1 }, "cir, the committed rate")
      refuses("meter", { cir = 10, cbs = 10, pir = 5, pbs = 10 }, "pir is below cir")
      refuses("meter", { cir = 10 }, "cbs or ebs must be above 0")
   end)

   it("have a name of their own, made up when not given", function()
      local t = make.hash { name = "flows", key = "u32", value = "u32", entries = 1 }
      assert.equal("flows", t.name)
      refuses("hash", { name = "flows", key = "u32", value = "u32", entries = 1 }, "give this one another name")
      local a = make.hash { key = "u32", value = "u32", entries = 1 }
      local b = make.hash { key = "u32", value = "u32", entries = 1 }
      assert.is_truthy(a.name:find "^hash%d+$")
      assert.are_not.equal(a.name, b.name)
      local found
      for _, entry in ipairs(tables.tables()) do
         found = found or entry.name == "flows" and entry
      end
      assert.same({ "hash", 1, 0 }, { found.kind, found.capacity, found.count })
   end)

   it("are listed in order of creation, also while others are collected", function()
      local a = make.hash { name = "first", key = "u32", value = "u32", entries = 1 }
      local b = make.hash { name = "last", key = "u32", value = "u32", entries = 1 }
      for i = 1, 400 do
         for _ = 1, 3 do make.counters { size = i } end
         local names = {}
         for _, entry in ipairs(tables.tables()) do names[#names + 1] = entry.name end
         assert.same({ a.name, b.name }, { names[1], names[2] })
      end
   end)

   it("give the layout of a C struct", function()
      local t = make.hash { key = "u8 a; u32 b; u16 c; u64 d", value = "u32", entries = 1 }
      local offsets = {}
      for i, field in ipairs(t.key_type.fields) do
         offsets[i] = ("%s %s %d %d"):format(field.type, field.name, field.offset, field.size)
      end
      assert.same({ "u8 a 0 1", "u32 b 4 4", "u16 c 8 2", "u64 d 16 8" }, offsets)
      assert.equal(24, t.key_type.size)
   end)

   it("move to another VM by their address", function()
      local t = make.hash { key = "u32", value = "u32 a; ns expires", entries = 4, expire = true }
      local module, name, args = getmetatable(t).__transfer(t)
      local other = require(module)[name](unpack(args))
      assert.are_not.equal(t, other)
      t:set(1, 7, 0)
      assert.equal(7, other:get(1).a)
      other:set(2, 8, 0)
      assert.equal(8, t:get(2).a)
      assert.same({ t.name, "hash", 4, true }, { other.name, other.kind, other.entries, other.expire })
      assert.equal(other, require(module)[name](unpack(args)))
   end)

   it("are dead once freed", function()
      local t = make.hash { key = "u32", value = "u32", entries = 4 }
      t:free()
      assert.has_error(function() t:get(1) end, "this table was freed")
      assert.has_error(function() t:count() end, "this table was freed")
   end)
end)
