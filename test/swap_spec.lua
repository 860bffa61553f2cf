-- SPDX-License-Identifier: BSD-3-Clause
-- Exchanging the plan of an lcore that is stepped by hand: counters, holds and Lua state go to where the NFs are now, a
-- bad NF makes it fall back, with exact accounting.

local abi = require "tideway.abi"
local nfs = require "test.support.swap_nfs"
local Swap = require "test.support.swap"

local C = abi.C
local udp, with, pass, dropper, bad, faults, list = nfs.udp, nfs.with, nfs.pass, nfs.dropper, nfs.bad, nfs.faults, nfs.list

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
