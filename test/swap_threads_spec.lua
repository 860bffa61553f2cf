-- SPDX-License-Identifier: BSD-3-Clause
-- Exchanging the plans of lcores with threads, under load: how soon they are back, what others lose, what comes and goes,
-- and that nothing is left behind.
-- Runs alone: it measures how soon lcores are back.

local ffi = require "ffi"
local abi = require "tideway.abi"
local nfs = require "test.support.swap_nfs"
local Swap = require "test.support.swap"

ffi.cdef [[int tw_spec_nanosleep(const struct tw_posix_timespec *time, void *rest) __asm__("nanosleep");]]

local C = abi.C
local udp, with, pass, dropper, bad, faults = nfs.udp, nfs.with, nfs.pass, nfs.dropper, nfs.bad, nfs.faults

describe("swap, with threads", function()
   local s
   local cpus = require("tideway.plan").cpus()

   before_each(function() s = Swap.new { "a", "b", "c", "d" } end)
   after_each(function()
      if s then s:close() end
      s = nil
   end)

   local function chain(index, from, to, stages) return { index = index, inputs = { from }, sink = to, stages = stages } end

   -- Sends frames and takes what comes out, until so many have come or a minute has passed.
   local function stream(port, out, n)
      local sent, got, stop = 0, 0, C.tw_now() + 60000000000ULL
      while got < n and C.tw_now() < stop do
         if sent < n and s:inject(port, with(3)) then sent = sent + 1 end
         got = got + #s:collect(out)
      end
      return sent, got
   end

   -- A function that says how much CPU time an lcore's thread has used, ms.
   local function cpu_clock(cpu)
      local dir = "/proc/" .. C.tw_stats().pid .. "/task/"
      local pipe = io.popen("grep -lx tw-lcore-" .. cpu .. " " .. dir .. "*/comm")
      local path = pipe:read("*l"):gsub("comm$", "schedstat")
      pipe:close()
      return function()
         local file = assert(io.open(path))
         local ns = file:read "*n"
         file:close()
         return ns / 1e6
      end
   end

   local moment = ffi.new("struct tw_posix_timespec", 0, 100000)

   -- Milliseconds from the frame that breaks the NF to the next one that comes out: of time, and of the lcore's CPU time.
   local function time_back(poison, clock)
      local began, spent = C.tw_now(), clock()
      assert(s:inject(0, poison))
      local stop = began + 5000000000ULL
      repeat
         ffi.C.tw_spec_nanosleep(moment, nil) -- whoever turns round and round here takes the CPU of the lcore
         s:inject(0, with(3))
      until #s:collect(1) > 0 or C.tw_now() > stop
      return tonumber(C.tw_now() - began) / 1e6, clock() - spent
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
         local worst, most, clock = 0, 0, cpu_clock(cpus[1])
         for _ = 1, 5 do
            local out = s:publish(plan { { nf = pass(), from = 0 }, { nf = bad(fault.act), name = "bad" } })
            assert.equal(2, out.lcores)
            stream(0, 1, 50)
            for _ = 1, 40 do assert(s:inject(2, with(3))) end
            local ms, cpu = time_back(with(9), clock)
            worst, most = math.max(worst, ms), math.max(most, cpu)
            local stop = C.tw_now() + 60000000000ULL
            local why
            repeat why = s:fell() until why or C.tw_now() > stop
            assert.truthy(why and why:find("NF bad", 1, true), why)
            s:rollback()
            drain()
         end
         print(("   %s: back after %.1f ms at worst, %.1f ms of its CPU time"):format(name, worst, most))
         assert.is_true(most < 20, ("%.1f ms of CPU time"):format(most)) -- time is as long when nobody else wants the CPU
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
      local stop = C.tw_now() + 60000000000ULL
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
         local stop, why = C.tw_now() + 60000000000ULL
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
      local stop, rc = C.tw_now() + 120000000000ULL
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
