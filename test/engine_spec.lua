-- SPDX-License-Identifier: BSD-3-Clause
-- The engine: verdicts, slow path, rings, clocks, transfer, plans; on wire ports with exact accounting.

local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local chain_code = require "tideway.chain_code"
local model = require "tideway.model"
local Rig = require "test.support.rig"
local frame = require "test.support.frame"

local function udp(dport, data)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = dport or 1 }, data or "x")
end

local function nf(functions) return tw.nf("test", function() return functions end) {} end

describe("verdicts", function()
   local rig
   before_each(function() rig = Rig.new { ports = { "a", "b", "c" } } end)
   after_each(function() if rig then rig:close() end end)

   it("forwards through a chain without NFs", function()
      rig:chain("c", rig.a, rig.b)
      rig:start()
      assert.equal(udp(), rig:through(rig.a, udp(), rig.b))
   end)

   it("sends to a port, routes to a port, drops by name, floods", function()
      local b, c = rig.b.index, rig.c.index
      rig:chain("c", { rig.a, rig.b, rig.c }, nf { packet = function(pkt)
         local port = pkt:udp().dst_port
         if port == 1 then return pkt:send(c) end
         if port == 2 then pkt:route(b) end
         if port == 3 then return pkt:drop "unwanted" end
         if port == 4 then return pkt:flood() end
         if port == 5 then return pkt:send(63) end
         if port == 6 then return pkt:pass() end
      end })
      rig:start()
      rig:send(rig.a, udp(1), udp(2), udp(3), udp(4), udp(5), udp(6), udp(7))
      assert.same({ udp(2), udp(4) }, rig:collect(rig.b))
      assert.same({ udp(1), udp(4) }, rig:collect(rig.c))
      assert.same({}, rig:collect(rig.a))
      assert.same({ unwanted = 1, bad_port = 1, no_kernel_port = 1, no_sink = 1 }, rig:drops())
   end)

   it("passes to the kernel port of the chain", function()
      rig:chain("c", rig.a, nf { packet = function(pkt) return pkt:pass() end }, rig.b):kernel(rig.c)
      rig:start()
      assert.equal(udp(), rig:through(rig.a, udp(), rig.c))
   end)

   it("counts a verdict that is none and goes on", function()
      rig:chain("c", rig.a, nf { packet = function(pkt) pkt.verdict = 99 end }, rig.b)
      rig:start()
      rig:send(rig.a, udp())
      assert.same({ bad_verdict = 1 }, rig:drops())
   end)

   it("grows and shrinks frames at head and tail", function()
      rig:chain("c", rig.a, nf { packet = function(pkt)
         local port = pkt:udp().dst_port
         if port == 1 then pkt:adjust_head(-4) end
         if port == 2 then pkt:adjust_head(14) end
         if port == 3 then pkt:adjust_tail(6) end
         if port == 4 then pkt:adjust_tail(-1) end
         if port == 5 and not pkt:adjust_head(100000) then return pkt:drop "refused" end
         if port == 6 and not pkt:adjust_tail(100000) then return pkt:drop "refused" end
      end }, rig.b)
      rig:start()
      local len = #udp()
      assert.equal(len + 4, #rig:through(rig.a, udp(1), rig.b))
      assert.equal(udp(2):sub(15), rig:through(rig.a, udp(2), rig.b))
      assert.equal(udp(3) .. ("\0"):rep(6), rig:through(rig.a, udp(3), rig.b))
      assert.equal(udp(4):sub(1, -2), rig:through(rig.a, udp(4), rig.b))
      rig:send(rig.a, udp(5), udp(6))
      assert.same({ refused = 2 }, rig:drops())
   end)

   it("runs burst NFs between packet NFs, on slow-path packets too", function()
      local seen = tw.array { value = "u32", entries = 1 }
      rig:chain("c", rig.a, nf { packet = function(pkt) pkt.mark = 7 end },
         nf { packet = function(pkt) if pkt:udp().dst_port == 2 then return pkt:punt() end end, punt = function() end },
         nf { burst = function(batch)
            for i = 0, batch.count - 1 do
               local pkt = batch.pkts[i]
               if pkt.verdict == 0 and pkt.mark == 7 then seen:add(0, 1) end
               if pkt.verdict == 0 and pkt:udp().dst_port == 3 then pkt:drop "by_burst" end
            end
         end }, rig.b)
      rig:start()
      rig:send(rig.a, udp(1), udp(2), udp(3))
      assert.equal(2, #rig:collect(rig.b))
      assert.equal(3, seen:get(0))
      assert.same({ by_burst = 1 }, rig:drops())
      local nfs = rig:snapshot().chains[1].nfs
      assert.same({ 3, 3, 3 }, { nfs[1].received, nfs[2].received, nfs[3].received })
   end)
end)

describe("slow path", function()
   local rig
   before_each(function() rig = Rig.new { ports = { "a", "b" } } end)
   after_each(function() if rig then rig:close() end end)

   it("punts, emits new frames, and goes on with the packet", function()
      local b = rig.b.index
      rig:chain("c", rig.a, nf {
         packet = function(pkt) return pkt:punt() end,
         punt = function()
            local made = tw.emit(b, 60)
            made:eth().type = 0x88b5
         end,
      }, nf { packet = function(pkt) pkt:eth().type = 0x88b6 end }, rig.b)
      rig:start()
      rig:send(rig.a, udp())
      local out = rig:collect(rig.b)
      assert.equal(2, #out)
      local types = { out[1]:sub(13, 14), out[2]:sub(13, 14) }
      table.sort(types)
      assert.same({ "\x88\xb5", "\x88\xb6" }, types)
      local chain = rig:snapshot().chains[1]
      assert.equal(1, chain.originated)
      assert.equal(1, chain.punted)
   end)

   it("lets new frames go on behind the NF that made them", function()
      local b = rig.b.index
      rig:chain("c", rig.a, nf {
         packet = function(pkt) return pkt:punt() end,
         punt = function(pkt)
            for _ = 1, 3 do
               local made = tw.emit(b, 60, true)
               made.port, made.mark = pkt.port, 5
            end
            return pkt:drop "replaced"
         end,
      }, nf { packet = function(pkt)
         if pkt.mark == 5 then pkt:eth().type = 0x88b6 end
      end }, rig.b)
      rig:start()
      rig:send(rig.a, udp())
      local out = rig:collect(rig.b)
      assert.equal(3, #out)
      for _, f in ipairs(out) do assert.equal("\x88\xb6", f:sub(13, 14)) end
      local chain = rig:snapshot().chains[1]
      assert.equal(3, chain.originated)
      assert.equal(3, chain.nfs[2].received)
   end)

   it("drops punted packets of an NF without punt()", function()
      rig:chain("c", rig.a, nf { packet = function(pkt) return pkt:punt() end }, rig.b)
      rig:start()
      rig:send(rig.a, udp())
      assert.same({ no_punt = 1 }, rig:drops())
   end)

   it("holds packets until they are released, in order, and times them out", function()
      local queue = tw.hold_queue { slots = 4, per_key = 2, timeout = 2 }
      local open = tw.array { value = "u32", entries = 1 }
      rig:chain("c", rig.a, nf {
         packet = function(pkt)
            local port = pkt:udp().dst_port
            if port == 99 then return pkt:punt() end
            if open:get(0) == 0 then return pkt:hold(queue, port) end
         end,
         punt = function(pkt)
            open:set(0, 1)
            queue:release(1)
            pkt:drop "signal"
         end,
      }, rig.b)
      rig:start()
      rig:send(rig.a, udp(1, "first"), udp(1, "second"), udp(1, "third"), udp(2, "other"))
      assert.same({}, rig:collect(rig.b))
      assert.equal(1, rig:drops().hold_full, "two per key")
      assert.equal(3, rig:snapshot().chains[1].held)
      rig:send(rig.a, udp(99))
      assert.same({ udp(1, "first"), udp(1, "second") }, rig:collect(rig.b))
      rig:advance(3)
      assert.equal(1, rig:drops().hold_timeout)
      assert.equal(0, rig:snapshot().chains[1].held)
   end)

   it("drops what is still held when the engine stops", function()
      local queue = tw.hold_queue {}
      rig:chain("c", rig.a, nf { packet = function(pkt) return pkt:hold(queue, 1) end }, rig.b)
      rig:start()
      rig:send(rig.a, udp(), udp())
      local snapshot = rig:close()
      rig = nil
      assert.equal(2, snapshot.chains[1].dropped)
   end)

   it("calls tick() some ten times a second and stop() at the end", function()
      local calls = tw.array { value = "u32", entries = 2 }
      rig:chain("c", rig.a, nf {
         packet = function() end,
         tick = function(now) if now > 0 then calls:add(0, 1) end end,
         stop = function() calls:add(1, 1) end,
      }, rig.b)
      rig:start()
      local before = calls:get(0)
      for _ = 1, 10 do rig:advance(0.1) end
      assert.equal(10, calls:get(0) - before)
      abi.C.tw_engine_stop()
      assert.equal(1, calls:get(1))
   end)
end)

describe("rings", function()
   it("carry packets to another chain with the port they came from", function()
      local rig = Rig.new { ports = { "a", "b" } }
      local mid = tw.ring("mid", { size = 8 })
      local a = rig.a.index
      rig:chain("one", rig.a, mid)
      local check = nf { packet = function(pkt) if pkt.port ~= a then return pkt:drop "lost_port" end end }
      rig:chain("two", mid, check, rig.b)
      rig:start()
      for _ = 1, 20 do rig.a:inject(udp()) end
      rig:run()
      local sent = #rig:collect(rig.b)
      assert.equal(20 - (rig:drops().ring_full or 0), sent)
      assert.equal(13, rig:drops().ring_full, "a ring of 8 holds 7")
      rig:close()
   end)

   it("refuse a ring that nobody reads", function()
      local rig = Rig.new { ports = { "a" } }
      rig:chain("one", rig.a, tw.ring "mid")
      local ok, err = pcall(rig.start, rig)
      assert.is_false(ok)
      assert.truthy(err:find("no chain reads ring mid", 1, true), err)
      engine.close()
   end)
end)

describe("transfer to an lcore", function()
   local rig
   before_each(function() rig = Rig.new { ports = { "a", "b" } } end)
   after_each(function() if rig then rig:close() end end)

   local function says(packet, text)
      rig:chain("c", rig.a, nf { packet = packet }, rig.b)
      local ok, err = pcall(rig.start, rig)
      assert.is_false(ok)
      assert.truthy(err:find(text, 1, true), err)
      engine.close()
      rig = nil
   end

   it("takes upvalues, shared upvalues and cycles along", function()
      local count, list = 40, { deep = { value = 2 } }
      list.self = list
      local function bump() count = count + list.self.deep.value end
      rig:chain("c", rig.a, nf { packet = function(pkt)
         bump()
         if count ~= 42 then return pkt:drop "wrong" end
      end }, rig.b)
      rig:start()
      assert.truthy(rig:through(rig.a, udp(), rig.b))
      assert.equal(40, count, "the script's own copy is untouched")
   end)

   it("takes globals that a function names", function()
      rawset(_G, "spec_named", 3)
      local make = loadstring "return function(pkt) if spec_named ~= 3 then return pkt:drop 'wrong' end end"
      rig:chain("c", rig.a, nf { packet = make() }, rig.b)
      rig:start()
      assert.truthy(rig:through(rig.a, udp(), rig.b))
      rawset(_G, "spec_named", nil)
   end)

   it("refuses what cannot move, with the way to it", function()
      local file = io.stdout
      says(function(pkt) return file, pkt end, 'upvalue "file"')
   end)

   it("refuses pointers", function()
      local pointer = require("ffi").new "int[1]" + 0
      says(function(pkt) return pointer, pkt end, 'upvalue "pointer"')
   end)
end)

describe("the model", function()
   before_each(function()
      abi.C.tw_stats_close()
      abi.C.tw_stats_open(nil, "spec", "spec")
   end)
   after_each(function() engine.close() end)

   local function refused(text, fn)
      local ok, err = pcall(fn)
      assert.is_false(ok)
      assert.truthy(tostring(err):find(text, 1, true), err)
   end

   it("refuses ports that cannot be", function()
      refused("no network interface \"nope0\"", function() assert(tw.port("net_af_packet0,iface=nope0"):open()) end)
      refused("does not open", function() assert(tw.port("net_nonsense0"):open()) end)
      refused("devargs must be a string", function() tw.port(7) end)
      tw.port("x", "net_null0")
      refused("taken", function() tw.port("x", "net_null1") end)
      refused("given twice", function() tw.port("y", "net_null0") end)
   end)

   it("refuses chains that cannot be", function()
      local a, b = tw.port("a", "wire1"), tw.port("b", "wire2")
      refused("neither an NF nor a sink", function() tw.chain("c", a) end)
      refused("source", function() tw.chain("c", 5, b) end)
      refused("argument 3 is 7", function() tw.chain("c", a, 7, b) end)
      refused("stands before other NFs", function() tw.chain("c", a, b, tw.nf.count {}) end)
      tw.chain("c", a, b)
      refused("taken", function() tw.chain("c", b, a) end)
      refused("lcore 999", function() model.chains[1]:pin { lcore = 999 } engine.start() end)
      refused("at most 1 receive queue", function() model.chains[1]:pin { lcore = { 0, 1 } } engine.start() end)
      refused("named twice", function() model.chains[1]:pin { lcore = { 1, 1 } } end)
      refused("cannot pin to", function() model.chains[1]:pin { moon = "eth0" } end)
   end)

   it("refuses a source with two readers", function()
      local a, b = tw.port("a", "wire1"), tw.port("b", "wire2")
      tw.chain("c", a, b)
      tw.chain("d", a, b)
      refused("and so does chain c", engine.start)
   end)

   it("refuses NFs that are none", function()
      refused("must return a table", function() tw.nf("x", function() return 5 end) {} end)
      refused("neither packet", function() tw.nf("x", function() return {} end) {} end)
      refused("give one of them", function()
         tw.nf("x", function() return { packet = print, burst = print } end) {}
      end)
      refused("on_fault", function()
         tw.nf("x", function() return { packet = function() end, on_fault = "explode" } end) {}
      end)
      refused("there is no NF \"nosuch\"", function() return tw.nf.nosuch end)
      refused("there is no parameter \"colour\"", function() tw.nf.count { colour = 1 } end)
   end)

   it("refuses options that are none", function()
      refused("there is no option", function() tw.options { speed = 1 } end)
      refused("whole number from 1 to 64", function() tw.options { burst = 65 } end)
      refused("idle is spin", function() tw.options { idle = "nap" } end)
   end)
end)

describe("machine code", function()
   it("is made once, without aborts, and the heap does not grow with packets", function()
      local rig = Rig.new { ports = { "a", "b" } }
      rig:chain("c", rig.a, nf { packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= 1 then return pkt:drop "ttl_expired" end
         ip.ttl = ip.ttl - 1
         ip:update_checksum()
      end }, rig.b)
      rig:start()
      local slot = engine.lcores[1].slot
      local function load(rounds)
         for _ = 1, rounds do
            for _ = 1, 32 do rig.a:inject(udp()) end
            rig:run()
            rig:collect(rig.b)
         end
      end
      local traces, aborts, where = rig:steady(function() load(20) end)
      assert.equal(0, aborts, where)
      assert.is_true(traces <= 2)
      local heap = tonumber(abi.C.tw_lcore_heap(slot))
      load(2000)
      assert.is_true(tonumber(abi.C.tw_lcore_heap(slot)) - heap < 65536)
      rig:close()
   end)

   it("is generated as one loop per run of packet NFs", function()
      local p, b = { packet = true }, { burst = true }
      local source = chain_code.source(chain_code.pieces { p, p, b, p }, 4)
      local loops = select(2, source:gsub("f%d%(pkt%)", ""))
      assert.equal(3, loops)
      assert.truthy(loadstring(source))
      for n = 0, 22 do
         local list = {}
         for i = 1, n do list[i] = i % 5 == 0 and b or p end
         assert.truthy(loadstring(chain_code.source(chain_code.pieces(list), n)))
      end
   end)
end)
