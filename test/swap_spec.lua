-- SPDX-License-Identifier: BSD-3-Clause
-- Exchanging the plan of lcores that run: counters, holds and Lua state go to where the NFs are now, a bad NF makes its
-- lcore fall back, and nothing is lost, double or left behind.

local ffi = require "ffi"
local abi = require "tideway.abi"
local frame = require "test.support.frame"
local Swap = require "test.support.swap"

local C = abi.C
local udp = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, "payload")

-- A frame whose first byte says what NFs do with it.
local function with(byte) return string.char(byte) .. udp:sub(2) end

local function pass() return { packet = function() end } end

-- Drops frames that begin with its byte.
local function dropper(byte)
   local verdict = bit.bor(C.TW_DROP, bit.lshift(C.tw_reason_id "spec", 8))
   return { packet = function(pkt)
      if pkt.data[0] == byte then pkt.verdict = verdict end
   end }
end

local function list(t, n)
   local out = {}
   for i = 0, n - 1 do out[i + 1] = t[i] end
   return out
end

-- Each is a way for an NF to go wrong on a frame that begins with 9.
local faults = {
   raises = { says = "attempt to index", act = function() local nothing = nil; return nothing.field end },
   ["loops for ever, interpreted"] = {
      says = "ran for more than",
      act = function() while true do pcall(string.rep, "x", 10) end end,
   },
   ["loops for ever, compiled"] = {
      says = "ran for more than",
      act = function() local n = 0 while true do n = n + 1 end end,
   },
   ["recurses without end"] = {
      says = "stack overflow",
      act = function() local function f(x) return 1 + f(x + 1) end return f(1) end,
   },
   ["eats memory"] = {
      says = "", -- its time or its heap runs out first
      act = function()
         local hoard = {}
         for i = 1, 1e9 do hoard[i] = ("x"):rep(1000) .. i end
         return hoard
      end,
   },
   ["writes through a wild pointer"] = {
      says = "memory fault",
      act = function() require("ffi").cast("int *", 8)[0] = 1 end,
   },
}

local function bad(act)
   return { packet = function(pkt)
      if pkt.data[0] == 9 then act() end
   end }
end

describe("swap", function()
   local s

   before_each(function() s = Swap.new { "a", "b" } end)
   after_each(function()
      if s then s:close() end
      s = nil
   end)

   local function one(stages, more)
      local chain = { stages = stages, sink = 1, inputs = { 0 } }
      for k, v in pairs(more or {}) do chain[k] = v end
      return { { cpu = -1, chain } }
   end

   it("takes a plan at one generation and says what it took", function()
      local out = s:publish(one { { nf = pass() } })
      assert.equal(1, out.lcores)
      assert.equal(1, out.started)
      local generation = out.generation
      s:send(0, udp, udp)
      out = s:publish(one { { nf = pass(), from = 0 } })
      assert.equal(generation + 1, out.generation)
      assert.equal(1, out.lcores)
      assert.equal(0, out.started)
      assert.is_true(out.worst_ns > 0 and out.ns >= out.worst_ns)
      s:send(0, udp)
      assert.equal(3, #s:collect(1))
      assert.equal(generation + 1, s:snapshot().lcores[1].generation)
      assert.equal(1, C.tw_plan_on_probation())
      s:settle()
      assert.equal(0, C.tw_plan_on_probation())
   end)

   it("counts for an NF where it is now: inserted before, moved, removed", function()
      s:publish(one { { nf = pass() }, { nf = dropper(1) }, { nf = dropper(2) } })
      s:send(0, with(1), with(2), with(3), with(3))
      local received, dropped = s:stages(0)
      assert.same({ 4, 4, 3 }, list(received, 3))
      assert.same({ 0, 1, 1 }, list(dropped, 3))
      -- a new one in front, the first gone, the other two exchanged
      s:publish(one { { nf = pass() }, { nf = dropper(2), from = 2 }, { nf = dropper(1), from = 1 } })
      received, dropped = s:stages(0)
      assert.same({ 0, 3, 4 }, list(received, 3))
      assert.same({ 0, 1, 1 }, list(dropped, 3))
      assert.equal(4, received[C.TW_STAGE_GONE])
      s:send(0, with(1), with(2), with(2))
      received, dropped = s:stages(0)
      assert.same({ 3, 6, 5 }, list(received, 3))
      assert.same({ 0, 3, 2 }, list(dropped, 3))
      s:publish(one {})
      received, dropped = s:stages(0)
      assert.same({ 0, 0, 0 }, list(received, 3))
      assert.equal(4 + 3 + 6 + 5, received[C.TW_STAGE_GONE])
      assert.equal(5, dropped[C.TW_STAGE_GONE])
      assert.equal(5, s:snapshot().chains[1].dropped)
   end)

   it("goes back to the plan before, counters too", function()
      s:publish(one { { nf = dropper(1) }, { nf = dropper(2) } })
      s:send(0, with(1), with(2), with(3))
      s:publish(one { { nf = dropper(2), from = 1 }, { nf = dropper(4) } })
      s:send(0, with(2), with(4))
      assert.equal(1, #s:collect(1))
      local out = s:rollback()
      assert.equal(1, out.lcores)
      local received, dropped = s:stages(0)
      assert.same({ 3, 4 }, list(received, 2))
      assert.same({ 1, 2 }, list(dropped, 2))
      assert.equal(0, C.tw_plan_on_probation())
      s:send(0, with(1), with(4))
      assert.equal(1, #s:collect(1))
   end)

   it("is refused when a stage continues one that there is not, and nothing is changed", function()
      s:publish(one { { nf = pass() } })
      local plan = s:plan(one { { nf = pass(), from = 3 } })
      assert.is_true(C.tw_plan_publish(plan, nil) < 0)
      assert.truthy(abi.error():find("continues stage 3", 1, true), abi.error())
      plan = s:plan(one { { nf = pass(), from = 0 }, { nf = pass(), from = 0 } })
      assert.is_true(C.tw_plan_publish(plan, nil) < 0)
      s:send(0, udp)
      assert.equal(1, #s:collect(1))
   end)

   for name, fault in pairs(faults) do
      for _, policy in ipairs { "drop", "bypass" } do
         it(("falls back to the plan before (%s) when a new NF %s"):format(policy, name), function()
            s:publish(one { { nf = dropper(1), name = "first" }, { nf = dropper(2), name = "last" } })
            s:send(0, with(1), with(3))
            s:publish(one {
               { nf = dropper(1), from = 0, name = "first" },
               { nf = bad(fault.act), name = "bad", bypass = policy == "bypass" },
               { nf = dropper(2), from = 1, name = "last" },
            })
            s:send(0, with(1), with(2), with(3))
            assert.is_nil(s:fell())
            s:send(0, with(3), with(1), with(9), with(2), with(3), with(9), with(3))
            local why = s:fell()
            assert.truthy(why and why:find("NF bad (bad:2) in chain chain0", 1, true), why)
            assert.truthy(why:find(fault.says, 1, true), why)
            assert.is_nil(s:fell(), "is said once")
            -- 3 of the first two rounds; of the last: 3, 3, 9, 3 and with that policy the one in hand
            assert.equal(2 + 4 + (policy == "bypass" and 1 or 0), #s:collect(1))
            local drops = s:drops()
            assert.equal(policy == "drop" and 1 or nil, drops.nf_fault)
            assert.equal(5, drops.spec)
            assert.is_nil(drops.nf_quarantined)
            local _, dropped = s:stages(0)
            assert.same({ 3, 2 }, list(dropped, 2))
            assert.is_true(C.tw_plan_settle() < 0, "settled what had fallen back")
            s:rollback()
            _, dropped = s:stages(0)
            assert.same({ 3, 2 }, list(dropped, 2))
            assert.equal(policy == "drop" and 1 or 0, dropped[C.TW_STAGE_GONE])
            s:send(0, with(1), with(9))
            assert.equal(1, #s:collect(1))
            assert.equal(0, s:snapshot().lcores[1].vm_rebuilds)
         end)
      end
   end

   it("takes an NF out, as always, that both plans have", function()
      s:publish(one { { nf = bad(faults.raises.act), name = "old" }, { nf = pass() } })
      s:publish(one { { nf = bad(faults.raises.act), name = "old", from = 0 }, { nf = pass() } })
      s:send(0, with(9), with(3))
      assert.is_nil(s:fell())
      assert.truthy(s:log():find("it is taken out", 1, true))
      s:settle()
      assert.is_true(s:snapshot().chains[1].nfs[1].quarantined)
      s:publish(one { { nf = pass() }, { nf = bad(faults.raises.act), name = "old", from = 0 } })
      assert.is_true(s:snapshot().chains[1].nfs[2].quarantined, "it stays out when it is not made anew")
      assert.is_false(s:snapshot().chains[1].nfs[1].quarantined)
      s:publish(one { { nf = pass(), from = 0 }, { nf = pass(), name = "old", from = 1, fresh = true } })
      s:send(0, with(3))
      assert.equal(1, #s:collect(1))
   end)

   it("falls back from faults of punt() and tick(), with what was punted", function()
      local function punter(punt) return { packet = function(pkt) return pkt:punt() end, punt = punt } end
      s:publish(one { { nf = punter(function(pkt) pkt.data[1] = 7 end) } })
      s:publish(one { { nf = punter(function() error "punt is broken" end), from = 0, fresh = true } })
      s:send(0, with(1), with(2), with(3))
      assert.truthy(s:fell():find("punt is broken", 1, true))
      local out = s:collect(1)
      assert.equal(2, #out)
      for i, f in ipairs(out) do assert.same({ i + 1, 7 }, { f:byte(1, 2) }) end
      assert.equal(1, s:drops().nf_fault)
      s:rollback()
      s:publish(one { { nf = { packet = function() end, tick = function() error "tick is broken" end }, from = 0,
         fresh = true } })
      s:advance(1)
      assert.truthy(s:fell():find("tick is broken", 1, true))
      s:rollback()
      s:send(0, with(1))
      assert.equal(7, s:collect(1)[1]:byte(2))
   end)

   it("takes packets through what they have not passed of the plan before", function()
      s:publish(one { { nf = dropper(1), name = "first" }, { nf = dropper(2) }, { nf = dropper(3) } })
      s:publish(one { { nf = dropper(4) }, { nf = dropper(2), from = 1 }, { nf = bad(faults.raises.act) } })
      s:send(0, with(5), with(4), with(9), with(1), with(2), with(3), with(6))
      assert.truthy(s:fell())
      local _, dropped = s:stages(0)
      assert.same({ 1, 1, 1 }, list(dropped, 3))
      assert.equal(2, dropped[C.TW_STAGE_GONE])
      assert.equal(2, #s:collect(1))
   end)

   it("drops what came into a chain that the plan before does not have", function()
      s:publish(one { { nf = pass() } })
      s:publish { { cpu = -1,
         { stages = { { nf = pass(), from = 0 } }, sink = 1, inputs = {} },
         { index = 1, stages = { { nf = bad(faults.raises.act) } }, sink = 1, inputs = { 0 } } } }
      s:send(0, with(3), with(9), with(3), with(3))
      assert.truthy(s:fell())
      assert.equal(1, #s:collect(1))
      assert.equal(3, s:drops().nf_fault)
      s:send(0, with(3))
      assert.equal(1, #s:collect(1), "the port is read for the chain that it was read for")
      s:rollback()
      assert.equal(0, C.tw_chain_gone(1))
      assert.equal(3, s:snapshot().totals.dropped)
   end)

   it("carries the state of an NF over with export() and import(), and back", function()
      local function counter()
         local n, seen = 0, {}
         return {
            packet = function(pkt)
               n = n + 1
               seen[n] = pkt.len
               pkt.data[0] = n
            end,
            export = function() return { n = n, seen = seen, big = 2ULL } end,
            import = function(state)
               assert(state.big == 2ULL and #state.seen == state.n)
               n, seen = state.n, state.seen
            end,
         }
      end
      s:publish(one { { nf = counter() } })
      s:send(0, udp, udp)
      local out = s:publish(one { { nf = pass() }, { nf = counter(), from = 0, fresh = true, carry = true } })
      assert.equal(0, out.not_carried)
      s:send(0, udp)
      s:rollback()
      s:send(0, udp)
      local got = s:collect(1)
      assert.same({ 1, 2, 3, 4 }, { got[1]:byte(), got[2]:byte(), got[3]:byte(), got[4]:byte() })
   end)

   for _, side in ipairs { "export", "import" } do
      it("goes on without the state when " .. side .. "() fails, and says so", function()
         local function nf(broken)
            return {
               packet = function() end,
               export = function() return broken == "export" and error "is broken" or 1 end,
               import = function() error "is broken" end,
            }
         end
         s:publish(one { { nf = nf(side), name = "old" } })
         local out = s:publish(one { { nf = nf(), from = 0, fresh = true, carry = true, name = "new" } })
         assert.equal(1, out.not_carried)
         local log = s:log()
         assert.truthy(log:find(side .. "() failed", 1, true) and log:find("is broken", 1, true), log)
         s:send(0, udp)
         assert.equal(1, #s:collect(1))
         assert.is_nil(s:fell())
      end)
   end

   it("is back at once when import() does not end; runs on when export() does not", function()
      local function nf(export, import) return { packet = function() end, export = export, import = import } end
      local function forever() while true do end end
      s:publish(one { { nf = nf(function() return 1 end) } })
      s:publish(one { { nf = nf(nil, forever), from = 0, carry = true, fresh = true } })
      assert.truthy(s:fell():find("import", 1, true))
      s:send(0, udp)
      s:rollback()
      s:publish(one { { nf = nf(forever), from = 0, fresh = true } })
      s:publish(one { { nf = nf(nil, function() end), from = 0, fresh = true, carry = true } })
      assert.is_nil(s:fell())
      s:send(0, udp)
      s:rollback() -- to a plan without a VM
      s:send(0, udp)
      assert.equal(3, #s:collect(1))
   end)

   describe("held packets", function()
      local queue

      before_each(function() queue = C.tw_hold_new(8, 0, 1e9) end)

      local function holder(id)
         local verdict = C.TW_HOLD + id * 256
         return {
            packet = function(pkt)
               if pkt.data[0] == 5 and pkt.data[1] ~= 1 then
                  pkt.key, pkt.verdict = 1, verdict
               elseif pkt.data[0] == 6 then
                  require("tideway.abi").C.tw_hold_release(id, 1)
               end
               pkt.data[1] = 1
            end,
         }
      end

      it("go to where their NF is now", function()
         s:publish(one { { nf = holder(queue) }, { nf = pass() } })
         s:send(0, with(5), with(5))
         assert.equal(2, s:snapshot().chains[1].held)
         s:publish(one { { nf = dropper(5) }, { nf = pass() }, { nf = holder(queue), from = 0 } })
         assert.equal(2, s:snapshot().chains[1].held)
         s:send(0, with(6))
         assert.equal(3, #s:collect(1))
         assert.equal(0, s:snapshot().chains[1].held)
      end)

      it("are dropped by name when it is gone", function()
         s:publish(one { { nf = pass() }, { nf = holder(queue) } })
         s:send(0, with(5), with(5))
         s:publish(one { { nf = pass(), from = 0 } })
         assert.equal(2, s:drops().nf_removed)
         local _, dropped = s:stages(0)
         assert.equal(2, dropped[C.TW_STAGE_GONE])
      end)

      it("go back to it when the lcore falls back", function()
         s:publish(one { { nf = holder(queue) } })
         s:send(0, with(5))
         s:publish(one { { nf = bad(faults.raises.act) }, { nf = holder(queue), from = 0 } })
         s:send(0, with(5), with(9), with(6), with(3))
         assert.equal(4, #s:collect(1))
         assert.equal(0, s:snapshot().chains[1].held)
      end)

      it("leave a queue that is given up", function()
         s:publish(one { { nf = holder(queue) } })
         s:send(0, with(5))
         C.tw_hold_free(queue)
         s:send(0, with(5))
         assert.equal(1, s:drops().hold_full)
         s:advance(0.2)
         assert.equal(1, s:drops().nf_removed)
         assert.equal(queue, C.tw_hold_new(8, 0, 1e9))
      end)
   end)
end)

describe("swap, with threads", function()
   local s
   local cpus = require("tideway.plan").cpus()

   before_each(function() s = Swap.new { "a", "b", "c", "d" } end)
   after_each(function()
      if s then s:close() end
      s = nil
   end)

   local function chain(index, from, to, stages) return { index = index, inputs = { from }, sink = to, stages = stages } end

   -- Sends frames and takes what comes out, until so many have come or two seconds have passed.
   local function stream(port, out, n)
      local sent, got, stop = 0, 0, C.tw_now() + 5000000000ULL
      while got < n and C.tw_now() < stop do
         if sent < n and s:inject(port, with(3)) then sent = sent + 1 end
         got = got + #s:collect(out)
      end
      return sent, got
   end

   -- Milliseconds from the frame that breaks the NF to the next one that comes out.
   local function time_back(poison)
      local began = C.tw_now()
      assert(s:inject(0, poison))
      local stop, sent = began + 5000000000ULL, began
      repeat
         local now = C.tw_now()
         if now - sent > 100000ULL then
            s:inject(0, with(3))
            sent = now
         end
      until #s:collect(1) > 0 or now > stop
      return tonumber(C.tw_now() - began) / 1e6
   end

   local function drain()
      local stop = C.tw_now() + 30000000ULL
      repeat
         local n = #s:collect(1) + #s:collect(3)
         if n > 0 then stop = C.tw_now() + 30000000ULL end
      until C.tw_now() > stop
   end

   for name, fault in pairs(faults) do
      it(("is back within 20 ms when a new NF %s, and the other lcore loses nothing"):format(name), function()
         if #cpus < 2 then return pending "needs two CPUs" end
         local function plan(stages)
            return { { cpu = cpus[1], chain(0, 0, 1, stages) },
               { cpu = cpus[2], chain(1, 2, 3, { { nf = pass(), from = 0 } }) } }
         end
         s:publish(plan { { nf = pass() } })
         stream(0, 1, 200)
         local worst = 0
         for _ = 1, 5 do
            local out = s:publish(plan { { nf = pass(), from = 0 }, { nf = bad(fault.act), name = "bad" } })
            assert.equal(2, out.lcores)
            stream(0, 1, 50)
            for _ = 1, 40 do assert(s:inject(2, with(3))) end
            local ms = time_back(with(9))
            worst = math.max(worst, ms)
            local stop = C.tw_now() + 5000000000ULL
            local why
            repeat why = s:fell() until why or C.tw_now() > stop
            assert.truthy(why and why:find("NF bad", 1, true), why)
            s:rollback()
            drain()
         end
         print(("   %s: back after %.1f ms at worst"):format(name, worst))
         assert.is_true(worst < 1000, ("%.1f ms"):format(worst)) -- 20 on CPUs that do nothing else
         C.tw_engine_stop()
         local snap = s:snapshot()
         assert.equal(0, snap.chains[2].dropped)
         assert.equal(5 * 40, snap.chains[2].sent)
         assert.equal(5, snap.chains[1].dropped)
      end)
   end

   it("wakes an lcore that waits for interrupts", function()
      if not os.rename("/dev/net/tun", "/dev/net/tun") then return pending "needs /dev/net/tun" end
      s:close()
      s = Swap.new {}
      C.tw_options().idle = C.TW_IDLE_INTERRUPT
      finally(function() C.tw_options().idle = C.TW_IDLE_SLEEP end)
      local pid = C.tw_stats().pid
      for i = 0, 1 do s:open(i, "tap" .. i, ("net_tap%d,iface=sw%d-%d"):format(i, pid % 1000000, i)) end
      s:publish { { cpu = cpus[1], chain(0, 0, 1, { { nf = pass() } }) } }
      local best = math.huge
      for i = 1, 5 do
         C.tw_sleep_ms(60) -- it sleeps for a tick, 100 ms
         local loops = s:snapshot().lcores[1].loops
         C.tw_sleep_ms(20)
         loops = s:snapshot().lcores[1].loops - loops
         local out = s:publish { { cpu = cpus[1], chain(0, i % 2, (i + 1) % 2, { { nf = pass(), from = 0 } }) } }
         if loops == 0 then best = math.min(best, tonumber(out.ns) / 1e6) end
      end
      assert.is_true(best < 10, ("%.1f ms"):format(best))
      assert.equal("", s:log())
   end)

   it("adds lcores, moves what they read from one to the other, and stops them", function()
      if #cpus < 2 then return pending "needs two CPUs" end
      local c1, c2 = cpus[1], cpus[2]
      local function counted() return { { nf = dropper(1), from = 0 } } end
      local sent = 0
      local function pump(n)
         local _, got = stream(0, 1, n)
         assert.equal(n, got)
         sent = sent + n
      end
      s:publish { { cpu = c1, chain(0, 0, 1, { { nf = dropper(1) } }) } }
      pump(100)
      for round = 1, 4 do
         local out = s:publish { { cpu = c2, chain(0, 0, 1, counted()) } } -- c1 ends
         assert.same({ 1, 1 }, { out.started, out.stopped })
         pump(100)
         if round % 2 == 0 then
            out = s:rollback()
            assert.same({ 1, 1 }, { out.started, out.stopped })
            pump(100)
         else
            s:settle()
            -- both, and then the input goes back to c1 while c2 runs on
            s:publish { { cpu = c2, chain(0, 0, 1, counted()) }, { cpu = c1, chain(1, 2, 3, counted()) } }
            pump(100)
            s:publish { { cpu = c2, chain(1, 2, 3, counted()) }, { cpu = c1, chain(0, 0, 1, counted()) } }
            pump(100)
            s:publish { { cpu = c1, chain(0, 0, 1, counted()) } }
            pump(100)
         end
      end
      s:settle()
      local received = s:stages(0)
      assert.equal(sent, received[0])
      assert.equal(0, received[C.TW_STAGE_GONE])
      assert.equal(1, #s:snapshot().lcores)
   end)

   it("goes on with lcores that are kept, while another one comes and goes", function()
      if #cpus < 2 then return pending "needs two CPUs" end
      s:publish { { cpu = cpus[1], chain(0, 0, 1, { { nf = pass() } }) } }
      stream(0, 1, 50)
      local heap = C.tw_lcore_jit(s.slots[cpus[1]])
      for _ = 1, 3 do
         local out = s:publish { { cpu = cpus[1], keep = true }, { cpu = cpus[2], chain(1, 2, 1, { { nf = pass() } }) } }
         assert.same({ 0 + 1, 1, 1 }, { out.lcores, out.kept, out.started })
         assert.equal(50, select(2, stream(0, 1, 50)))
         assert.equal(50, select(2, stream(2, 1, 50)), "it sends to a port of the other, by a queue they share")
         out = s:publish({ { cpu = cpus[1], keep = true } }, { 3 })
         assert.same({ 1, 1 }, { out.kept, out.stopped })
         s:settle()
         assert.equal(50, select(2, stream(0, 1, 50)))
         assert.equal(0, C.tw_chain_gone(1))
      end
      assert.equal(heap, C.tw_lcore_jit(s.slots[cpus[1]]), "its VM is another one")
   end)

   it("loses and swaps nothing in hundreds of exchanges under load", function()
      if #cpus < 2 then return pending "needs two CPUs" end
      local function numbered(n) return string.char(3, n % 256, math.floor(n / 256) % 256) .. udp:sub(4) end
      local function plan(extra)
         local stages = { { nf = pass(), from = 0 } }
         for i = 1, extra do stages[1 + i] = { nf = pass() } end
         return { { cpu = cpus[#cpus], chain(0, 0, 1, stages) } }
      end
      s:publish(plan(0))
      local sent, got, worst = 0, 0, 0
      local function move()
         for _ = 1, 20 do
            if sent - got < 2000 and s:inject(0, numbered(sent)) then sent = sent + 1 end
         end
         for _, f in ipairs(s:collect(1)) do
            assert.equal(numbered(got):sub(1, 3), f:sub(1, 3))
            got = got + 1
         end
      end
      for i = 1, 200 do
         for _ = 1, 10 do move() end
         local plan_ = s:plan(plan(i % 3))
         move()
         local out = ffi.new "struct tw_publish"
         assert(C.tw_plan_publish(plan_, out) == 0, abi.error())
         worst = math.max(worst, tonumber(out.worst_ns))
         if i % 7 == 0 then s:rollback() end
      end
      local stop = C.tw_now() + 5000000000ULL
      while got < sent and C.tw_now() < stop do move() end
      assert.equal(sent, got)
      print(("   200 exchanges under load: the lcore was away for %.0f us at worst"):format(worst / 1e3))
   end)
end)

describe("swap leaves nothing behind", function()
   local function kb(what)
      local file = assert(io.open "/proc/self/status")
      local n = file:read("*a"):match("\n" .. what .. ":%s*(%d+)")
      file:close()
      return tonumber(n)
   end

   local function count(path)
      local pipe = io.popen("ls " .. path .. " | wc -l")
      local n = tonumber(pipe:read "*l")
      pipe:close()
      return n
   end

   local function mappings()
      local n = 0
      for _ in io.lines "/proc/self/maps" do n = n + 1 end
      return n
   end

   it("in a thousand exchanges and fall-backs of every kind", function()
      local s = Swap.new { "a", "b" }
      local function one(stages) return { { cpu = -1, { stages = stages, sink = 1, inputs = { 0 } } } } end
      local names, first = { "settled" }, nil
      for name in pairs(faults) do
         if name ~= "eats memory" then names[#names + 1] = name end
      end
      s:publish(one { { nf = pass() } })
      for i = 1, 1000 do
         local name = i % 50 == 0 and "eats memory" or names[i % #names + 1]
         local act = faults[name] and faults[name].act or function() end
         s:publish(one { { nf = pass(), from = 0 }, { nf = bad(act) } })
         for _ = 1, 4 do s:send(0, with(3), with(3)) end
         s:send(0, with(9))
         if name == "settled" then
            s:publish(one { { nf = pass(), from = 0 } })
            s:settle()
         else
            assert.truthy(s:fell(), name)
            s:rollback()
         end
         s:collect(1)
         s:log()
         if i == 300 or i == 1000 then
            collectgarbage()
            collectgarbage()
            local now = { rss = kb "VmRSS", size = kb "VmSize", maps = mappings(), fds = count "/proc/self/fd" }
            first = first or now
            if i == 1000 then
               assert.is_true(now.rss - first.rss < 4096, ("%d kB more"):format(now.rss - first.rss))
               assert.is_true(now.size - first.size < 16384, ("%d kB more mapped"):format(now.size - first.size))
               assert.is_true(now.maps - first.maps < 8, ("%d mappings more"):format(now.maps - first.maps))
               assert.equal(first.fds, now.fds)
            end
         end
      end
      s:close()
   end)

   it("with threads, which start and end", function()
      local cpus = require("tideway.plan").cpus()
      if #cpus < 2 then return pending "needs two CPUs" end
      local s = Swap.new { "a", "b" }
      local first
      local function lcore(cpu, more)
         local stages = { { nf = pass(), from = 0 } }
         stages[2] = more and { nf = bad(faults["loops for ever, compiled"].act) }
         return { cpu = cpu, { stages = stages, sink = 1, inputs = { 0 } } }
      end
      s:publish { lcore(cpus[1]) }
      for i = 1, 60 do
         s:publish { lcore(cpus[i % 2 + 1]) }
         s:settle()
         s:publish { lcore(cpus[i % 2 + 1], true) }
         s:inject(0, with(9))
         local stop, why = C.tw_now() + 5000000000ULL
         repeat why = s:fell() until why or C.tw_now() > stop
         assert.truthy(why)
         s:rollback()
         s:collect(1)
         local now = { rss = kb "VmRSS", maps = mappings(), fds = count "/proc/self/fd", threads = kb "Threads" }
         if i == 20 then first = now end
         if i == 60 then
            assert.is_true(now.rss - first.rss < 8192, ("%d kB more"):format(now.rss - first.rss))
            assert.is_true(now.maps - first.maps < 16, ("%d mappings more"):format(now.maps - first.maps))
            assert.same({ first.fds, first.threads }, { now.fds, now.threads })
         end
      end
      s:close()
   end)
end)

describe("what comes later and goes", function()
   local s

   before_each(function() s = Swap.new { "a", "b" } end)
   after_each(function()
      if s then s:close() end
      s = nil
   end)

   local function one(from, to, stages, index)
      return { cpu = -1, { index = index or 0, stages = stages, sink = to, inputs = { from } } }
   end

   it("are ports, and their counters stay in the sums", function()
      s:publish { one(0, 1, { { nf = pass() } }) }
      s:send(0, udp, udp)
      for _ = 1, 3 do
         s:open(2, "later", "wire2")
         s:publish { one(0, 2, { { nf = pass(), from = 0 } }) }
         s:send(0, udp)
         assert.equal(1, #s:collect(2))
         assert.is_true(C.tw_port_close(2) < 0, "closed a port of the plan that runs")
         s:publish({ one(0, 1, { { nf = pass(), from = 0 } }) }, { 2 })
         assert.is_true(C.tw_port_close(2) < 0, "closed a port of the plan before")
         s:settle()
         assert.equal(0, C.tw_port_close(2))
         assert.equal(0, C.tw_port_gone(2))
      end
      local snap = s:snapshot()
      assert.equal(3, #snap.ports)
      assert.same({ "(removed)", 3 }, { snap.ports[3].name, snap.ports[3].tx_packets })
      assert.equal(5, snap.totals.sent)
   end)

   it("are ports with more queues than the packet buffers have room for", function()
      s:publish { one(0, 1, { { nf = pass() } }) }
      local options = C.tw_options()
      options.rx_desc = 4096
      finally(function() options.rx_desc = 0 end)
      for i = 2, 5 do s:open(i, "later" .. i, ("net_null%d"):format(i)) end
      s:publish { one(0, 5, { { nf = pass(), from = 0 } }) }
      s:send(0, udp, udp)
      assert.equal(2, s:snapshot().ports[6].tx_packets)
   end)

   it("are chains, and their counters stay in the sums", function()
      local function two(second)
         local lcore = one(0, 1, { { nf = dropper(1), from = 0 } })
         lcore[2] = second
         return { lcore }
      end
      s:publish(two())
      s:publish(two { index = 4, stages = { { nf = dropper(3) } }, sink = 0, inputs = { 1 } })
      s:settle()
      s:send(1, with(3), with(4))
      assert.is_true(C.tw_chain_gone(4) < 0, "of the plan that runs")
      s:publish(two())
      assert.is_true(C.tw_chain_gone(4) < 0, "of the plan before")
      s:settle()
      assert.equal(0, C.tw_chain_gone(4))
      local snap = s:snapshot()
      assert.same({ "chain0", "(removed)" }, { snap.chains[1].name, snap.chains[2].name })
      assert.same({ 2, 1, 1 }, { snap.chains[2].rx, snap.chains[2].sent, snap.chains[2].dropped })
      s:publish(two { index = 4, stages = { { nf = dropper(3) } }, sink = 0, inputs = { 1 } })
      s:send(1, with(4))
      assert.equal(1, s:snapshot().chains[2].rx)
   end)

   it("are rings, and what is in them is dropped by name", function()
      local ring = C.tw_ring_open("between", 64)
      s:publish { { cpu = -1, { stages = { { nf = pass() } }, ring = ring, inputs = { 0 } } } }
      s:send(0, udp, udp, udp)
      assert.is_true(C.tw_ring_close(ring) < 0)
      s:publish { one(0, 1, { { nf = pass(), from = 0 } }) }
      s:settle()
      assert.equal(0, C.tw_ring_close(ring))
      assert.equal(3, s:drops().nf_removed)
      assert.equal(0, #s:snapshot().rings)
   end)

   it("is machine code, which stays as long as a plan has it", function()
      if not require("tideway.native").compiler() then return pending "no C compiler (cc) here" end
      local function loaded()
         local n = 0
         for line in io.lines "/proc/self/maps" do
            if line:find "tideway%-chain" and line:find "r.xp" then n = n + 1 end
         end
         return n
      end
      local before = loaded()
      local text = "void segment_0(void *burst, int count) { }"
      local native = C.tw_native_compile(text, #text)
      assert(native ~= nil, abi.error())
      local stop, rc = C.tw_now() + 20000000000ULL
      repeat
         rc = C.tw_native_poll(native)
         C.tw_sleep_ms(5)
      until rc ~= 0 or C.tw_now() > stop
      assert(rc == 1, abi.error())
      local banks = {}
      for i = 1, 4 do
         local plan = s:plan { one(0, 1, { { nf = pass(), from = 0 } }) }
         banks[i] = C.tw_plan_bank(plan)
         assert.equal(0, C.tw_native_publish(native, "segment_0", C.tw_native_words(banks[i], 0)))
         assert.equal(0, C.tw_plan_publish(plan, nil))
         assert.equal(banks[i], C.tw_plan_bank(nil))
      end
      C.tw_native_free(native)
      assert.equal(before + 1, loaded())
      assert.equal(banks[1], banks[4], "banks are used again")
      assert.is_true(banks[1] ~= banks[2])
      s:publish { one(0, 1, { { nf = pass(), from = 0 } }) }
      assert.equal(before + 1, loaded(), "the plan before has it")
      assert.is_true(C.tw_native_words(C.tw_plan_bank(nil), 0)[0].fn == nil)
      s:settle()
      assert.equal(before, loaded())
   end)
end)
