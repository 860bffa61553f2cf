-- SPDX-License-Identifier: BSD-3-Clause
-- Locks, exchange() and compare_exchange() from two lcores at once: nothing is lost, nothing counted twice.

local abi = require "tideway.abi"
local engine = require "tideway.engine"
local plan = require "tideway.plan"
local tw = require "tideway"

-- Runs it on both until there were many packets; what its log says.
local function run(nf, packets)
   local cpus = plan.cpus()
   abi.C.tw_stats_close()
   assert(abi.C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
   local a, b, out = tw.port("a", "net_null0"), tw.port("b", "net_null1"), tw.port("out", "net_null2")
   tw.chain("one", a, nf, out):pin { lcore = cpus[1] }
   tw.chain("two", b, nf, out):pin { lcore = cpus[2] }
   engine.start()
   local deadline = tw.now() + 60e9
   repeat abi.C.tw_sleep_ms(300) until packets:sum(0) > 10000 or tw.now() > deadline
   abi.C.tw_engine_stop()
   return table.concat(engine.log(), "\n")
end

-- The body of a packet function; t has its tables.
local function two_lcores(name, t, packet)
   it(name, function()
      if #plan.cpus() < 2 then return pending "needs two CPUs" end
      t = t()
      local nf = tw.nf("lang_" .. name:gsub("%W", "_"), function() return { packet = packet(t), tables = t } end)
      local log = run(nf {}, t.packets)
      local packets = tonumber(t.packets:sum(0))
      t.check(packets)
      engine.close()
      assert.equal("", log)
      assert.is_true(packets > 10000, packets .. " packets")
   end)
end

describe("two lcores", function()
   two_lcores("count under a lock", function()
      local t = { packets = tw.counters { size = 1 } }
      t.cell = tw.hash { key = "u32", value = "u64 a; u64 b", entries = 4, lock = true }
      t.cell:put(1)
      function t.check(packets)
         local e = t.cell:get(1)
         assert.same({ packets, packets, 0 }, { tonumber(e.a), tonumber(e.b), e.raw_lock })
      end
      return t
   end, function(t)
      local packets, cell = t.packets, t.cell
      return function()
         local e = cell:get(1)
         if not e then return end
         e:lock()
         if e.a == e.b then
            e.a = e.a + 1
            e.b = e.b + 1
         end
         e:unlock()
         packets:add(0, 1)
      end
   end)

   two_lcores("hand over by exchange", function()
      local t = { packets = tw.counters { size = 1 }, taken = tw.counters { size = 1 } }
      t.bank = tw.array { value = "u32", entries = 1 }
      function t.check(packets) assert.equal(packets, tonumber(t.taken:sum(0)) + t.bank:get(0)) end
      return t
   end, function(t)
      local packets, taken, bank = t.packets, t.taken, t.bank
      return function(pkt)
         bank:add(0, 1)
         packets:add(0, 1)
         if pkt:now() % 2 == 0 then
            local n = bank:exchange(0, 0)
            if n then taken:add(0, n) end
         end
      end
   end)

   two_lcores("count by compare_exchange", function()
      local t = { packets = tw.counters { size = 1 } }
      t.number = tw.hash { key = "u32", value = "u32", entries = 1 }
      t.number:set(7, 0)
      function t.check(packets) assert.equal(packets, t.number:get(7)) end
      return t
   end, function(t)
      local packets, number = t.packets, t.number
      return function()
         for _ = 1, 50 do
            local n = number:get(7)
            if not n then return end
            if number:compare_exchange(7, n, n + 1) == n then
               packets:add(0, 1)
               return
            end
         end
      end
   end)
end)
