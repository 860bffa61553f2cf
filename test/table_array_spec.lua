-- SPDX-License-Identifier: BSD-3-Clause
local ffi = require "ffi"
local abi = require "tideway.abi"
local packet = require "tideway.packet"
local tables = require "tideway.table"
local support = require "test.support.tables"

local band = require("bit").band -- a local: in a spec, globals are reached by functions of busted

local C, make = abi.C, support.make
local GREEN, YELLOW, RED = C.TW_GREEN, C.TW_YELLOW, C.TW_RED

describe("array table", function()
   after_each(support.free)

   it("has zeroed entries from 0 to entries - 1", function()
      local t = make.array { value = "u32", entries = 3 }
      assert.same({ 0, 0, 0 }, { t:get(0), t:get(1), t:get(2) })
      assert.is_nil(t:get(3))
      assert.is_nil(t:get(-1))
      assert.is_true(t:set(2, 9))
      assert.is_false(t:set(3, 9))
      assert.is_true(t:add(2, 5))
      assert.is_false(t:add(3, 5))
      assert.is_false(t:add(-1, 5))
      assert.equal(14, t:get(2))
      local list = {}
      for i, v in t:pairs() do
         list[i] = v
      end
      assert.same({ [0] = 0, [1] = 0, [2] = 14 }, list)
      t:clear()
      assert.equal(0, t:get(2))
   end)

   it("hands out references to structs that do not overlap", function()
      local t = make.array { value = "u8 a; u32 b; u64 c", entries = 10 }
      for i = 0, 9 do
         t:set(i, i, i * 2, i * 3)
      end
      t:get(5).b = 77
      for i = 0, 9 do
         local v = t:get(i)
         assert.same({ i, i == 5 and 77 or i * 2 }, { v.a, v.b })
         assert.is_true(v.c == i * 3)
      end
   end)

   it("is one memory for all VMs", function()
      local t = make.array { value = "u32 x", entries = 4 }
      local module, name, args = getmetatable(t).__transfer(t)
      require(module)[name](unpack(args)):get(1).x = 6
      assert.equal(6, t:get(1).x)
   end)
end)

describe("counters", function()
   local before = packet.burst
   after_each(function()
      support.free()
      packet.burst = before
   end)

   it("count by name and by index", function()
      local c = make.counters { names = { "ok", "bad" } }
      c:add "ok"
      c:add("bad", 5)
      c:add(1, 2)
      assert.is_false(c:add("unknown"))
      assert.is_false(c:add(2))
      assert.same({ 1, 7 }, { c:sum "ok", c:sum(1) })
      assert.is_nil(c:sum "unknown")
      local list = {}
      for k, v in c:pairs() do
         list[#list + 1] = k .. "=" .. v
      end
      assert.same({ "ok=1", "bad=7" }, list)
      c:clear()
      assert.equal(0, c:sum "bad")
   end)

   it("keep a copy per lcore and add them up", function()
      local c = make.counters { size = 3 }
      local _, _, args = getmetatable(c).__transfer(c)
      local burst = ffi.new "struct tw_burst"
      packet.burst = burst
      for lcore = 0, 3 do
         burst.lcore = lcore
         c:add(1, 10 ^ lcore)
      end
      assert.equal(1111, c:sum(1))
      -- What runs on an lcore is made while the burst is set: its slot is a constant.
      burst.lcore = 63
      local mine = tables.attach(unpack(args))
      burst.lcore = 0
      mine:add(1, 10000)
      local stride = ffi.new "uint32_t[1]"
      local base = C.tw_counters_base(c.table, stride)
      assert.equal(8, stride[0])
      assert.is_true(base[63 * 8 + 1] == 10000 and base[2 * 8 + 1] == 100)
      packet.burst = nil
      c:add(1, 100000)
      assert.equal(111111, c:sum(1))
      assert.is_true(base[C.TW_TABLE_CONTROL * 8 + 1] == 100000)
   end)

   it("compile to a loop without garbage", function()
      local c = make.counters { names = { "a", "b" } }
      local t = make.array { value = "u32 n; u64 bytes", entries = 64 }
      local function loop()
         for i = 1, 5000 do
            c:add "a"
            c:add(band(i, 1), 2)
            local v = t:get(band(i, 127))
            if v then v.bytes = v.bytes + i end
         end
      end
      local traces, aborts = support.compile(loop)
      assert.is_true(traces > 0)
      assert.same({}, aborts)
      assert.is_near(0, support.garbage(loop), 1024)
   end)
end)

describe("meter", function()
   local before, burst
   local second = 1e9

   before_each(function()
      before = packet.burst
      burst = ffi.new "struct tw_burst"
      burst.now = tonumber(C.tw_now())
      packet.burst = burst
   end)

   after_each(function()
      support.free()
      packet.burst = before
   end)

   local function wait(seconds)
      burst.now = burst.now + seconds * second
   end

   -- Bytes marked green by a source that sends packets of `length` at `rate` bytes/s.
   local function green(m, rate, length, seconds)
      local bytes, n = { [0] = 0, 0, 0 }, rate * seconds / length
      for _ = 1, n do
         wait(length / rate)
         local color = m:mark(0, length)
         bytes[color] = bytes[color] + length
      end
      return bytes
   end

   it("marks with one rate and two buckets (RFC 2697)", function()
      local m = make.meter { cir = 1000, cbs = 1500, ebs = 3000 }
      assert.same({ GREEN, YELLOW, YELLOW, YELLOW, RED }, { m:mark(0, 1000), m:mark(0, 1000), m:mark(0, 1000),
         m:mark(0, 1000), m:mark(0, 1000) })
      wait(1.001)
      assert.same({ GREEN, RED }, { m:mark(0, 1000), m:mark(0, 1000) })
      wait(100)
      assert.same({ GREEN, YELLOW, YELLOW, YELLOW, RED }, { m:mark(0, 1000), m:mark(0, 1000), m:mark(0, 1000),
         m:mark(0, 1000), m:mark(0, 1000) })
   end)

   it("marks with two rates (RFC 2698)", function()
      local m = make.meter { cir = 1000, cbs = 1000, pir = 2000, pbs = 2000 }
      assert.same({ GREEN, YELLOW, RED }, { m:mark(0, 1000), m:mark(0, 1000), m:mark(0, 1000) })
      wait(1.001)
      assert.same({ GREEN, YELLOW, RED }, { m:mark(0, 1000), m:mark(0, 1000), m:mark(0, 1000) })
   end)

   it("never improves a colour given before", function()
      local m = make.meter { cir = 1000, cbs = 10000, ebs = 10000 }
      assert.equal(YELLOW, m:mark(0, 100, YELLOW))
      assert.equal(RED, m:mark(0, 100, RED))
      assert.equal(GREEN, m:mark(0, 100, GREEN))
   end)

   it("lets the committed rate through, to 0.1 %", function()
      for _, cir in ipairs { 1e5, 1.25e6, 7.77e8 } do
         local m = make.meter { cir = cir, cbs = 15000, ebs = 0 }
         local seconds = 60000 * 1000 / (2 * cir)
         local bytes = green(m, 2 * cir, 1000, seconds)
         local expected = cir * seconds + 15000
         assert.is_true(math.abs(bytes[GREEN] / expected - 1) < 0.001,
            ("%g: %g of %g"):format(cir, bytes[GREEN], expected))
      end
   end)

   it("keeps entries apart, with rates of their own", function()
      local m = make.meter { entries = 3, cir = 1000, cbs = 1000, ebs = 0 }
      m:rate(1, { cir = 1000, cbs = 5000, ebs = 0 })
      assert.same({ GREEN, RED, GREEN, GREEN }, { m:mark(0, 1000), m:mark(0, 1000), m:mark(2, 1000), m:mark(1, 5000) })
      assert.equal(RED, m:mark(3, 1))
      assert.has_error(function() m:rate(3, { cir = 1, cbs = 1 }) end)
   end)

   it("does not run backwards when bursts of two lcores come out of order", function()
      local m = make.meter { cir = 1000, cbs = 1000, ebs = 0 }
      m:mark(0, 1000)
      burst.now = burst.now - 1e7
      assert.equal(RED, m:mark(0, 1000))
   end)

   it("compiles to a loop without garbage", function()
      local m = make.meter { entries = 8, cir = 1e9, cbs = 1e6, ebs = 1e6 }
      local function loop()
         local sum = 0
         for i = 1, 5000 do
            sum = sum + m:mark(band(i, 7), 64)
         end
         return sum
      end
      local traces, aborts = support.compile(loop)
      assert.is_true(traces > 0)
      assert.same({}, aborts)
      assert.is_near(0, support.garbage(loop), 1024)
   end)
end)
