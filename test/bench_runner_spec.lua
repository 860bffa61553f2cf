-- SPDX-License-Identifier: BSD-3-Clause
-- Rounds, rows and verdicts of benchmarks, and chains that are measured in the engine of this process.

local abi = require "tideway.abi"
local engine = require "tideway.engine"
local groups = require "tideway.bench.group"
local native = require "tideway.native"
local plan = require "tideway.plan"
local posix = require "tideway.posix"
local rows = require "tideway.bench.rows"
local runner = require "tideway.bench.runner"
local tw = require "tideway"

local bench = tw.bench

local function context(rounds)
   local said = {}
   return {
      rounds = rounds, seconds = 0.001, quick = false, given = { rounds = true, seconds = true }, sleep = runner.sleep,
      progress = function(text, done, of, partial)
         if not partial then said[#said + 1] = ("%s %s/%s"):format(text, tostring(done), tostring(of)) end
      end,
   }, said
end

-- A contender that notes what is done with it.
local function noting(log, name, value, more)
   local c = {
      name = name,
      start = function() log[#log + 1] = "start " .. name return true end,
      measure = function()
         log[#log + 1] = "measure " .. name
         return { value = value, unit = "Mpps" }
      end,
      stop = function() log[#log + 1] = "stop " .. name end,
   }
   for k, v in pairs(more or {}) do c[k] = v end
   return c
end

local function group_of(contenders, more)
   local group = { contenders = contenders, unit = "Mpps", better = "more", rounds = 3, seconds = 0.001 }
   for k, v in pairs(more or {}) do group[k] = v end
   return group
end

local function measured(values, more)
   local out = { samples = {}, why = {} }
   for round, value in ipairs(values) do
      out.samples[round] = { value = value, unit = "Mpps", ns = 1000 / value }
      out.why[round] = {}
   end
   for k, v in pairs(more or {}) do out[k] = v end
   return out
end

describe("tw.bench", function()
   after_each(function() runner.reset() end)

   it("says what it offers when a name is wrong", function()
      assert.has_error(function() return bench.nothing end, nil)
      local _, err = pcall(function() return bench.nothing end)
      assert.is_truthy(err:find("tw.bench has no \"nothing\"; there are: alone, chain", 1, true), err)
   end)

   it("refuses two experiments of one name", function()
      bench.experiment { kind = "table", name = "x", run = function() end }
      local _, err = pcall(bench.experiment, { kind = "table", name = "x", run = function() end })
      assert.is_truthy(err:find("the name \"x\" is taken by the experiment declared at test/bench_runner_spec.lua", 1,
         true), err)
   end)

   for what, case in pairs {
      ["no contenders"] = { {}, "contenders = { ... } is missing" },
      ["two of one name"] = { { contenders = { noting({}, "a"), noting({}, "a") } }, "two contenders are named \"a\"" },
      ["a reference that is not there"] = {
         { contenders = { noting({}, "a") }, reference = "b" }, "reference: there is no contender \"b\"",
      },
      ["a goal of nobody"] = { { contenders = { noting({}, "a") }, goals = { c = 1 } }, "goals: there is no contender" },
      ["a part that it does not have"] = {
         { contenders = { noting({}, "a") }, refrence = "a" }, "bench.group(\"g\"): there is no \"refrence\"; there are: title,",
      },
      ["what is no contender"] = { { contenders = { 5 } }, "contender 1 is 5, not one of bench.chain" },
   } do
      it("refuses a group with " .. what, function()
         local ok, err = pcall(bench.group, "g", case[1])
         assert.is_false(ok)
         assert.is_truthy(err:find(case[2], 1, true), err)
      end)
   end

   it("refuses a curve without values, and a chain without packets", function()
      local _, err = pcall(bench.curve, "c", { x = { name = "size", values = {} }, contenders = {} })
      assert.is_truthy(err:find("x = { name =, values = { ... }", 1, true), err)
      _, err = pcall(bench.chain, { 5 })
      assert.is_truthy(err:find("the first item is 5, not traffic", 1, true), err)
      _, err = pcall(bench.chain, { { frames = {} }, tw.nf.count })
      assert.is_truthy(err:find("bench.chain: item 2 is ", 1, true) and err:find("expected an NF instance", 1, true), err)
      _, err = pcall(bench.chain, { 5, lcores = 1 })
      assert.is_truthy(err:find("bench.chain: there is no \"lcores\"; there are: name, note, lcore", 1, true), err)
   end)
end)

describe("rounds of a benchmark", function()
   it("take turns, every second one backwards, and stop what they started", function()
      local log = {}
      groups.measure(group_of { noting(log, "a", 1), noting(log, "b", 2) }, (context(3)))
      local order = {}
      for _, line in ipairs(log) do order[#order + 1] = line:match "^measure (.)" end
      assert.equal("abbaab", table.concat(order))
      assert.same({ "start a", "measure a", "stop a", "start b" }, { unpack(log, 1, 4) })
   end)

   it("go on without a contender that fails, and name why", function()
      local log = {}
      local bad = noting(log, "bad", 1, { measure = function() error("it fell over", 0) end })
      local gone = noting(log, "gone", 1, { start = function() return nil, "no such device" end })
      local list = groups.measure(group_of { bad, gone, noting(log, "good", 2) }, (context(3)))
      assert.equal("it fell over", list[1].missing)
      assert.equal("no such device", list[2].missing)
      assert.equal(2, list[3].median)
      assert.equal(3, #list[3].values)
      local stops = 0
      for _, line in ipairs(log) do stops = stops + (line == "stop bad" and 1 or 0) end
      assert.equal(2, stops) -- once more, and then no more
   end)

   it("skip a contender that cannot run here", function()
      local log = {}
      local list = groups.measure(group_of { noting(log, "a", 1, { missing = function() return "no wrk here" end }) },
         (context(1)))
      assert.equal("no wrk here", list[1].missing)
      assert.same({}, log)
   end)
end)

describe("a row", function()
   local a, b = { name = "a" }, { name = "b" }

   it("has ratios that are taken within a round", function()
      local list = rows.make(group_of({ a, b }, { reference = "a" }), {
         a = measured { 10, 20, 40 }, b = measured { 9, 18, 36.4 },
      })
      assert.equal("unstable", list[2].verdict)
      assert.equal("the rounds spread by 76 %", list[2].why[1])
      assert.equal("stable", list[2].ratio.verdict)
      assert.equal(0.9, list[2].ratio.median)
   end)

   it("takes the ratio of CPU times where both have them: other processes are not in it", function()
      local x, y = measured { 10, 10, 5 }, measured { 10, 5, 10 }
      for round = 1, 3 do
         x.samples[round].ns, x.samples[round].cpu_time = 100, true
         y.samples[round].ns, y.samples[round].cpu_time = 125, true
         x.why[round] = { { text = "other processes had 50 % of CPU 1", load = true } }
      end
      local list = rows.make(group_of({ a, b }, { reference = "a" }), { a = x, b = y })
      assert.equal(0.8, list[2].ratio.median)
      assert.equal("stable", list[2].ratio.verdict)
      assert.same({ 125, 125, 125 }, list[2].cpu_ns)
   end)

   it("is unstable when most rounds were disturbed, and says by what", function()
      local m = measured { 10, 10, 10 }
      m.why[1], m.why[3] = { { text = "steal time 3 %" } }, { { text = "steal time 9 %" } }
      local row = rows.make(group_of { a }, { a = m })[1]
      assert.equal("unstable", row.verdict)
      assert.same({ "steal time 9 % in 2 rounds" }, row.why)
      m.why[3] = {}
      assert.equal("stable", rows.make(group_of { a }, { a = m })[1].verdict)
   end)

   it("has what is left without the base", function()
      local list = rows.make(group_of({ a, b }, { base = "a", unit = "ns", better = "less" }), {
         a = measured { 100, 100, 100 }, b = measured { 50, 50, 40 },
      })
      assert.is_nil(list[1].net)
      assert.same({ 10, 10, 15 }, list[2].net.ns.values)
      assert.equal(20, list[2].median)
   end)

   it("meets a goal, misses it, or leaves it open", function()
      local function goal(values, limit, more)
         return rows.make(group_of({ a }, more or { goals = { a = limit } }), { a = measured(values) })[1]
      end
      assert.is_true(goal({ 10, 10, 10 }, 9).met)
      assert.is_false(goal({ 10, 10, 10 }, 11).met)
      local open = goal({ 8, 10, 12 }, 9)
      assert.is_false(open.met)
      assert.equal("unstable: the rounds spread by 20 %", open.undecided)
      assert.is_true(goal({ 8, 10, 12 }, 7).met)
      assert.is_true(goal({ 100, 100 }, nil, { unit = "ns", better = "less", goals = { a = 11 } }).met)
      assert.is_false(rows.make(group_of({ a }, { goals = { a = 1 } }), { a = measured({}, { missing = "x" }) })[1].met)
   end)
end)

describe("results of several runs", function()
   local runs = require "tideway.bench.runs"
   local function document(values, ratio, more)
      local row = { name = "b", values = values, cpu_ns = values, ratio = { values = ratio, verdict = "stable" } }
      for k, v in pairs(more or {}) do row[k] = v end
      return { tideway = "1", seconds = 1, results = {
         { kind = "group", name = "g", unit = "Mpps", better = "more", rows = { row }, speeds = { 1 } },
         { kind = "curve", name = "c", unit = "ns", better = "less", x = {}, series = { { name = "s", points = {
            { x = 1, values = values }, { x = 2, values = ratio } } } } },
         { kind = "search", name = "s", rows = { { #values } } },
      } }
   end

   it("are those of all their rounds", function()
      local out = runs.merge { document({ 10, 10 }, { 0.9, 0.9 }, { goal = 0.85, met = true }),
         document({ 10, 10.1, 10 }, { 0.8, 0.8, 0.8 }) }
      local row = out.results[1].rows[1]
      assert.same({ 10, 10, 10, 10.1, 10 }, row.values)
      assert.same(row.values, row.cpu_ns)
      assert.equal("stable", row.verdict)
      assert.equal(0.8, row.ratio.median)
      assert.equal("unstable", row.ratio.verdict)
      assert.equal("unstable: the rounds spread by 12 %", row.undecided)
      assert.is_false(row.met)
      assert.same({ 1, 1 }, out.results[1].speeds)
      assert.same({ 0.9, 0.9, 0.8, 0.8, 0.8 }, out.results[2].series[1].points[2].values)
      assert.same({ { 2 } }, out.results[3].rows)
      assert.same({ 2, 2 }, { out.runs, out.seconds })
   end)

   it("leave out a run in which an experiment failed, and are unstable when most runs were", function()
      local bad = document({ 1 }, { 1 })
      bad.results[1] = { kind = "group", name = "g", rows = {}, error = "it broke" }
      local shaky = { verdict = "unstable", why = { "steal time 3 % in 2 rounds", "the rounds spread by 9 %" } }
      local worse = { verdict = "unstable", why = { "steal time 7 % in 1 round" } }
      local out = runs.merge { bad, document({ 10, 10 }, { 1, 1 }, shaky), document({ 10, 10 }, { 1, 1 }, worse) }
      assert.is_nil(out.results[1].error)
      assert.equal(4, #out.results[1].rows[1].values)
      assert.same({ "steal time 7 % in 1 round" }, out.results[1].rows[1].why)
   end)
end)

describe("bench.sleep", function()
   it("lets the loop work, and takes its time", function()
      local loop, ticks = require "tideway.loop", 0
      local timer = loop.every(0.01, function() ticks = ticks + 1 end)
      local from = runner.now()
      bench.sleep(0.4)
      loop.cancel(timer)
      assert.is_truthy(runner.now() - from >= 0.4)
      assert.is_truthy(ticks >= 2)
   end)
end)

describe("what disturbs a measurement:", function()
   local disturbance = require "tideway.bench.disturbance"
   local function allowed() return posix.slurp "/proc/self/status":match "Cpus_allowed_list:%s*(%S+)" end

   it("the CPU's speed is measured there, and the thread goes where it was", function()
      local before, cpus = allowed(), plan.cpus()
      local ticks = disturbance.speed(cpus[#cpus])
      assert.is_truthy(ticks > 0.5 and ticks < 1000, ticks)
      assert.equal(before, allowed())
   end)

   it("rounds in which the CPU was slower are named", function()
      local why = disturbance.speed_changes { 10, 10.1, 12.5, 10, 9 }
      assert.equal("the CPU was 20 % slower than in most rounds", why[3].text)
      assert.equal("the CPU was 11 % faster than in most rounds", why[5].text)
      assert.is_nil(why[1] or why[2] or why[4])
   end)

   it("a CPU of which nothing is known has no reasons", function()
      local seen, why = disturbance.watch(nil):stop()
      assert.same({ {}, {} }, { seen, why })
   end)
end)

describe("a chain in the engine", function()
   local C = abi.C
   setup(function()
      if posix.geteuid() ~= 0 then return end
      C.tw_options().no_huge, C.tw_options().memory_mb = true, 256
   end)
   after_each(function()
      engine.close()
      runner.reset()
   end)

   it("is measured, and taken out again", function()
      if posix.geteuid() ~= 0 then pending "DPDK ports need root" end
      local source = tw.port("packets", "net_null_spec,size=64")
      local nf = tw.nf("nothing", function() return { packet = function() end } end)
      local list = {
         bench.chain { source, name = "empty" }, bench.chain { source, nf {}, name = "nf" },
         bench.chain { source, tw.nf("drops", function()
            return { packet = function(pkt) return pkt:drop "spec_dropped" end }
         end) {}, name = "drops" },
      }
      engine.start(true)
      local made = groups.measure(group_of(list, { rounds = 2, seconds = 0.05, base = "empty", reference = "empty" }),
         (context(2)))
      native.stop()
      for _, row in ipairs(made) do
         assert.is_nil(row.missing)
         assert.equal(2, #row.values)
         assert.is_truthy(row.median > 0 and row.cpu_ns[1] > 0)
      end
      assert.equal("direct", made[1].extras.tier)
      assert.is_truthy(made[2].extras.tier == "native" or not native.compiler(), made[2].extras.tier)
      assert.is_truthy(made[3].extras.dropped > 0.99) -- counters are read while it runs
      assert.equal("drops spec_dropped", made[3].extras.drops)
      assert.is_truthy(made[2].net.ns.median)
      assert.same({}, plan.on_lcores())
   end)

   it("shares the source of its traffic, keeps its tables from turn to turn, and leaves nothing", function()
      if posix.geteuid() ~= 0 then pending "DPDK ports need root" end
      local seen = tw.hash { name = "bench_spec", key = "u32", value = "u64", entries = 4096 }
      local flows = tw.nf("flows", function()
         return { packet = function(pkt)
            local ip = pkt:ipv4()
            if not ip then return end
            if not seen:get(ip.src) then seen:set(ip.src, 1) end
         end }
      end)
      local packets = bench.packets { flows = 256, ipv4 = { src = bench.flow "198.18.0.0/16" } }
      engine.start(true)
      local ports = {}
      local a, b = bench.chain { packets, name = "a" }, bench.chain { packets, flows {}, name = "b" }
      local stop = b.stop
      function b:stop()
         ports[#ports + 1] = self.from
         ports[self.from] = self.from:running()
         stop(self)
      end
      local made = groups.measure(group_of({ a, b }, { rounds = 2, base = "a", unit = "ns", better = "less" }),
         (context(2)))
      assert.is_nil(made[1].missing)
      assert.is_nil(made[2].missing)
      assert.equal(3, #ports) -- the warm-up and two rounds
      assert.equal(ports[1], ports[3])
      assert.is_true(ports[ports[1]])
      assert.equal(256, seen:count())
      assert.same({}, plan.on_lcores())
      for _, port in ipairs(require("tideway.model").ports) do assert.not_equal(ports[1], port) end
   end)

   it("whose CPU another process has is unstable by the clock on the wall, and its ratio is one of CPU times", function()
      if posix.geteuid() ~= 0 then pending "DPDK ports need root" end
      local process = require "tideway.posix.process"
      local cpus = plan.cpus()
      local source = tw.port("shared", "net_null_shared,size=64")
      engine.start(true)
      local pid = assert(process.spawn { "taskset", "-c", tostring(cpus[#cpus]), "sh", "-c", "while :; do :; done" })
      local ok, made = pcall(groups.measure, group_of({ bench.chain { source, name = "a" },
         bench.chain { source, tw.nf.count {}, name = "b" } }, { reference = "a", seconds = 0.1 }), (context(3)))
      process.terminate(pid)
      process.ended(pid, true)
      assert.is_true(ok, made)
      assert.equal("unstable", made[2].verdict)
      assert.is_truthy(table.concat(made[2].why, "; "):find("other processes had %d+ %% of CPU " .. cpus[#cpus]))
      for i = 1, 3 do
         assert.is_truthy(math.abs(made[2].ratio.values[i] - made[1].cpu_ns[i] / made[2].cpu_ns[i]) < 1e-9)
      end
   end)

   it("whose NF fails is no result", function()
      if posix.geteuid() ~= 0 then pending "DPDK ports need root" end
      local log, said = require "tideway.log", {}
      local function listen(_, text)
         said[#said + 1] = text
         return true
      end
      log.listeners[listen] = true
      local bad = tw.nf("bad", function()
         return { packet = function() error "it was me" end, on_fault = "bypass" }
      end)
      local some = tw.port("some", "net_null_bad,size=64")
      engine.start(true)
      local made = groups.measure(group_of({ bench.chain { some, bad {} } }, { rounds = 2 }), (context(2)))
      log.listeners[listen] = nil
      assert.is_truthy(table.concat(said):find("it was me", 1, true))
      assert.is_truthy(made[1].missing:find("chain bad: one of its NFs failed and was taken out", 1, true),
         made[1].missing)
      assert.same({}, plan.on_lcores())
   end)

   it("that gets no packet is named", function()
      if posix.geteuid() ~= 0 then pending "DPDK ports need root" end
      local silent = tw.port("silent", "net_null_silent,no-rx=1")
      engine.start(true)
      local c = bench.chain { silent, name = "hungry" }
      c.seconds_to_start = 0.2
      local made = groups.measure(group_of({ c }, { rounds = 1 }), (context(1)))
      assert.is_truthy(made[1].missing:find("chain hungry: no packet came from port silent", 1, true), made[1].missing)
      assert.same({}, plan.on_lcores())
   end)
end)
