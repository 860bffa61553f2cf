-- SPDX-License-Identifier: BSD-3-Clause
-- Reloads under load: nothing lost, nothing out of order, how long packets took at worst; bad NFs that are swapped in
-- and roll back by themselves. TIDEWAY_RELOADS and TIDEWAY_FAULTS say how many of each.
--
-- The load is made inside of the engine: one lcore makes numbered packets at half the rate that the chain under test can
-- take, another one runs that chain, the first one checks. With fewer than two CPUs this is skipped.
-- Runs alone: it measures, and has lcores on two CPUs.

local tw = require "tideway"
local abi = require "tideway.abi"
local change = require "tideway.change"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local history = require "tideway.change.history"
local load = require "test.support.load"
local loop = require "tideway.loop"
local model = require "tideway.model"
local native = require "tideway.native"
local plan = require "tideway.plan"
local probation = require "tideway.change.probation"
local reload = require "tideway.change.reload"
local script = require "tideway.script"
local stats = require "tideway.stats"
local swap_nfs = require "test.support.swap_nfs"

local C = abi.C
local WORDS = load.WORDS

local RELOADS = tonumber(os.getenv "TIDEWAY_RELOADS") or 1000
local FAULTS = tonumber(os.getenv "TIDEWAY_FAULTS") or 50

local SCRIPT = [[
   local tw = require "tideway"
   local load = require "test.support.load"
   local words, delays = load.tables()
   local into, out = tw.ring("into", { size = 32768 }), tw.ring("out", { size = 32768 })
   local null = tw.port("null", "net_null0,size=64")
   local mark = tw.nf("mark", function(cfg)
      local seen = tw.hash { name = "seen", key = "u32", value = "u32", entries = 1024 }
      return { packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         seen:add(ip.src, 1)
         pkt.mark = cfg.value
      end }
   end)
   tw.chain("source", null, load.source(words, arg[1]), into):pin { lcore = %d }
   tw.chain("test", into, mark { value = %d }, tw.nf.count {}, out):pin { lcore = %d }
   tw.chain("check", out, load.check(words, delays), null):pin { lcore = %d }
]]

describe("under load", function()
   local cpus = plan.cpus()
   local dir, path, words, delays, phase

   local function write(value)
      local f = assert(io.open(path, "w"))
      f:write(SCRIPT:format(cpus[1], value, cpus[2], cpus[1]))
      f:close()
   end

   -- Turns the control loop, as `tideway run` does.
   local function turn(seconds)
      local stop = tonumber(C.tw_now()) + seconds * 1e9
      repeat
         loop.turn(5)
         native.poll()
      until tonumber(C.tw_now()) >= stop
   end

   local function table_named(name)
      for t in pairs(model.running.tables) do
         if t.name == name then return t end
      end
   end

   local function word(name) return tonumber(words:get(WORDS[name])) end

   local function begin(rate)
      phase = phase + 1
      words:set(WORDS.stop, 0)
      words:set(WORDS.phase, phase)
      words:set(WORDS.rate, rate)
   end

   -- Lets what is under way come through, however long others have the CPUs; then no more.
   local function finish()
      words:set(WORDS.stop, 1)
      local seen, since
      repeat
         turn(0.05)
         if word "seen" ~= seen then seen, since = word "seen", tonumber(C.tw_now()) end
      until seen + word "lost" >= word "sent" or tonumber(C.tw_now()) - since > 3e9
      return word "sent"
   end

   local function start()
      engine.close()
      C.tw_stats_close()
      assert(C.tw_stats_open(nil, "spec", "spec") == 0)
      dir, phase = os.tmpname(), 0
      os.remove(dir)
      assert(require("lfs").mkdir(dir))
      path = dir .. "/script.lua"
      write(0)
      tw.options { mbufs = 98304, mbuf_size = 256 }
      assert(script.load(path, { frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = 9 },
         ("x"):rep(22)) }))
      engine.start()
      native.finish(120)
      words, delays = table_named "load.words", table_named "load.delays"
   end

   local function stop()
      C.tw_engine_stop()
      local snapshot = stats.snapshot(C.tw_stats())
      engine.close()
      C.tw_stats_close()
      model.staged, script.loaded = false, nil
      os.execute("rm -rf " .. dir)
      assert.is_true(stats.adds_up(snapshot), "the counters do not add up")
      return snapshot
   end

   -- Packets a second that come through when so many are wanted.
   local function through(wanted, seconds)
      begin(wanted)
      for _ = 1, 100 do
         turn(0.1)
         if word "seen" > 50000 then break end
      end
      local before, at = word "seen", tonumber(C.tw_now())
      turn(seconds)
      local rate = (word "seen" - before) / (tonumber(C.tw_now()) - at) * 1e9
      finish()
      return rate
   end

   -- Half of what the chain under test takes when there is always more; less, where that does not come through because
   -- the machine has other things to do.
   local function half()
      local rate = through(1e9, 0.5) / 2
      local got = through(rate, 0.3)
      return math.max(got > rate * 0.9 and rate or got / 2, 2e5)
   end

   local function report(what, rate, n)
      local p = load.percentiles(delays)
      print(("\n   %s at %.2f Mpkt/s: %d packets, %d lost, %d out of order; each took %d us at p50, %d at p99, "
         .. "%d at p99.9, %.0f at worst"):format(what, rate / 1e6, n, word "lost", word "reordered", p.p50, p.p99, p.p999,
         word "worst" / 1e3))
   end

   if #cpus < 2 then
      it("needs two CPUs", function() pending "one CPU only" end)
      return
   end

   it(("%d reloads lose nothing and change no order"):format(RELOADS), function()
      start()
      local rate = half()
      delays:clear()
      begin(rate)
      turn(1)
      report("without reloads", rate, finish())
      delays:clear()
      begin(rate)
      turn(0.2)
      local worst_ns, ns = 0, 0
      for i = 1, RELOADS do
         write(i % 2 + 1)
         local text = reload.reload()
         assert.truthy(text:find "^applied to 1/1 lcores in %d+%.%d ms, 0 packets lost$", text)
         local ms = tonumber(text:match "in ([%d.]+) ms")
         worst_ns, ns = math.max(worst_ns, ms * 1e6), ns + ms * 1e6
         turn(0.002)
      end
      local sent = finish()
      assert.equal(RELOADS + 1, history.generation)
      assert.equal(0, word "lost")
      assert.equal(0, word "reordered")
      assert.equal(sent, word "seen")
      report(("%d reloads"):format(RELOADS), rate, sent)
      print(("   a switch took %.2f ms on average, %.1f at worst"):format(ns / RELOADS / 1e6, worst_ns / 1e6))
      stop()
   end)

   -- Goes wrong on one packet of many.
   local function bad(act)
      return tw.nf("bad", function()
         local n = 0
         return { packet = function()
            n = n + 1
            if n == 500 then act() end
         end }
      end) {}
   end

   local function resident()
      collectgarbage()
      collectgarbage()
      return tonumber(assert(io.open "/proc/self/status"):read("*a"):match "VmRSS:%s*(%d+)") / 1024
   end

   local function test_chain() return model.find(model.chains, "name", "test") end

   it(("%d bad NFs roll back by themselves, cost one packet each, and leave nothing behind"):format(FAULTS), function()
      start()
      tw.options { probation = 8 } -- a busy machine may hold the packets up
      local rate = half() / 4
      delays:clear()
      begin(rate)
      local names, per, before = {}, 0, nil
      for name in pairs(swap_nfs.faults) do names[#names + 1] = name end
      table.sort(names)
      for i = 1, FAULTS do
         local name = names[(i - 1) % #names + 1]
         change.transaction(function() test_chain():insert(bad(swap_nfs.faults[name].act), { at = i % 3 + 1 }) end)
         for _ = 1, 2000 do
            if not probation.active() then break end
            turn(0.005)
         end
         local entries = history.entries() -- the last 200
         local entry = entries[#entries]
         assert.equal(2 * i, entry.generation)
         assert.equal("rolled back", entry.state, name)
         assert.truthy(entry.why:find("NF bad (", 1, true), entry.why)
         assert.truthy(entry.why:find("live_reload_spec.lua:", 1, true), entry.why)
         assert.truthy(entry.why:find(swap_nfs.faults[name].says, 1, true), entry.why)
         assert.equal(2, #test_chain().stages)
         per = per + 1
         if i == #names * 2 then before = resident() end
      end
      local sent = finish()
      local drops = {}
      for _, nf in ipairs(engine.snapshot().chains[2].nfs) do
         for _, d in ipairs(nf.drops) do drops[d.reason] = (drops[d.reason] or 0) + d.count end
      end
      assert.same({ nf_fault = FAULTS }, drops)
      assert.equal(FAULTS, word "lost")
      assert.equal(0, word "reordered")
      assert.equal(sent - FAULTS, word "seen")
      assert.same({ "mark", "count" }, test_chain().stage_names)
      report(("%d bad NFs"):format(FAULTS), rate, sent)
      if before then
         local grown = resident() - before
         print(("   memory grew by %.1f MB"):format(grown))
         assert.is_true(grown < 48, ("memory grew by %.1f MB"):format(grown))
      end
      stop()
   end)
end)
