-- SPDX-License-Identifier: BSD-3-Clause
-- `bench compare`: no false alarm on a machine that drifts, and a change of 10 % is found.

local compare = require "tideway.bench.compare"
local json = require "tideway.json"
local rows = require "tideway.bench.rows"
local shell = require "test.shell"

local ROUNDS = 9

-- The same numbers in every run: a linear congruential generator (Numerical Recipes), and normal values of it.
local function random(seed)
   local state = seed
   local function uniform()
      state = (state * 1664525 + 1013904223) % 2 ^ 32
      return (state + 0.5) / 2 ^ 32
   end
   for _ = 1, 10 do uniform() end
   return uniform, function() return math.sqrt(-2 * math.log(uniform())) * math.cos(2 * math.pi * uniform()) end
end

-- A run on a shared machine: its speed is up to 20 % away from other runs', drifts from round to round by some 6 %, every
-- tenth round is disturbed by up to 30 %; what a contender has of its own are 1 % a measurement, and 0.7 % for where its
-- code happens to lie in this run.
local function a_run(seed, ns, options)
   options = options or {}
   local uniform, normal = random(seed)
   local speed = 1 + 0.2 * (2 * uniform() - 1)
   local names, list, measured, speeds = { "reference", "nf" }, {}, {}, {}
   for i, name in ipairs(names) do
      list[i] = { name = name, lies = 1 + 0.007 * normal() }
      measured[name] = { samples = {}, why = {} }
   end
   for round = 1, options.rounds or ROUNDS do
      speed = speed * (1 + 0.06 * normal())
      speeds[round] = 10 * speed
      local blow = uniform() < 0.1 and 1 + 0.3 * uniform() or 1
      for _, c in ipairs(list) do
         local took = ns[c.name] * speed * c.lies * (1 + 0.01 * normal()) * blow
         measured[c.name].samples[round] = { value = 1000 / took, unit = "Mpps", ns = took }
      end
   end
   local group = {
      kind = "group", name = "g", unit = "Mpps", better = "more", rounds = options.rounds or ROUNDS,
      contenders = list, reference = not options.alone and "reference" or nil, speeds = speeds,
   }
   group.rows = rows.make(group, measured)
   return { tideway = "1", results = { group } }
end

local function verdict_of(a, b, name)
   for _, row in ipairs((compare.documents(a, b))) do
      if row.name == name then return row.verdict, row end
   end
end

local function count(change, options, wanted)
   local n = 0
   for try = 1, 20 do
      local a = a_run(100 + try, { reference = 10, nf = 25 }, options)
      local b = a_run(900 + try, { reference = 10, nf = 25 * change }, options)
      if verdict_of(a, b, "nf") == wanted then n = n + 1 end
   end
   return n
end

describe("bench compare:", function()
   it("flags nothing that is the same in 20 of 20 runs that drift", function()
      assert.equal(20, count(1, nil, "same"))
   end)

   it("finds what is 10 % slower, and faster", function()
      assert.equal(20, count(1.1, nil, "slower"))
      assert.equal(20, count(1 / 1.1, nil, "faster"))
   end)

   it("flags nothing without a reference either, where the drift hides changes", function()
      assert.equal(20, count(1, { alone = true }, "same"))
      assert.is_truthy(count(3, { alone = true }, "slower") >= 18)
   end)

   it("says that two rounds are too few", function()
      assert.equal(20, count(1.5, { rounds = 2 }, "too few rounds"))
   end)

   it("gives the ratio of the speeds and its interval", function()
      local a, b = a_run(1, { reference = 10, nf = 20 }), a_run(2, { reference = 10, nf = 40 })
      local verdict, row = verdict_of(a, b, "nf")
      assert.equal("slower", verdict)
      assert.equal("reference", row.to)
      assert.is_truthy(math.abs(row.ratio - 0.5) < 0.02, row.ratio)
      assert.is_truthy(row.low <= row.ratio and row.ratio <= row.high)
   end)

   it("takes CPU times where there are any, and less of them as faster", function()
      local a, b = a_run(1, { reference = 10, nf = 20 }), a_run(2, { reference = 10, nf = 20 })
      for _, document in ipairs { a, b } do
         for _, row in ipairs(document.results[1].rows) do
            row.cpu_ns = {}
            for i in ipairs(row.values) do
               row.cpu_ns[i] = row.name == "nf" and document == b and 10 + i / 1000 or 20 + i / 1000
            end
         end
      end
      assert.equal("faster", (verdict_of(a, b, "nf")))
   end)

   it("takes less as better where the group says so", function()
      local a, b = a_run(1, { reference = 10, nf = 20 }), a_run(2, { reference = 10, nf = 30 })
      for _, document in ipairs { a, b } do
         document.results[1].unit, document.results[1].better = "Mpps", "less"
      end
      assert.equal("faster", (verdict_of(a, b, "nf")))
   end)

   it("compares the points of curves", function()
      local function curve(value)
         local points = {}
         for i, x in ipairs { 60, 1514 } do
            local values = {}
            for k = 1, 9 do values[k] = value * i * (1 + k / 1000) end
            points[i] = { x = x, values = values, median = value * i }
         end
         return { tideway = "1", results = {
            { kind = "curve", name = "size", unit = "Mpps", better = "more", series = { { name = "nf", points = points } } },
         } }
      end
      local list = compare.documents(curve(10), curve(8))
      assert.equal(2, #list)
      assert.equal("size 1514", list[2].group)
      assert.equal("slower", list[1].verdict)
   end)

   it("names what is in one result only, and what was not measured", function()
      local a, b = a_run(1, { reference = 10, nf = 20 }), a_run(2, { reference = 10, nf = 20 })
      a.results[1].rows[2].name = "old"
      b.results[1].rows[1].values, b.results[1].rows[1].missing = {}, "it is not installed"
      local list, notes = compare.documents(a, b)
      assert.same({ "g: nf is in the second only", "g: old is in the first only" }, notes)
      assert.equal("missing", list[1].verdict)
      assert.is_truthy(list[1].why:find("it is not installed", 1, true))
   end)
end)

describe("tideway bench compare", function()
   local dir
   setup(function()
      dir = shell.directory()
      shell.write(dir .. "/a.json", json.encode(a_run(1, { reference = 10, nf = 20 })))
      shell.write(dir .. "/same.json", json.encode(a_run(2, { reference = 10, nf = 20 })))
      shell.write(dir .. "/slow.json", json.encode(a_run(3, { reference = 10, nf = 24 })))
      shell.write(dir .. "/text.json", "no JSON")
      shell.write(dir .. "/other.json", "[1, 2]")
   end)
   teardown(function() shell.remove(dir) end)

   local function run(a, b, more)
      return shell.tideway(("bench compare %s/%s %s/%s %s"):format(dir, a, dir, b, more or ""))
   end

   it("exits with 0 when nothing is slower", function()
      local r = run("a.json", "same.json")
      assert.equal(0, r.code)
      assert.is_truthy(r.out:find("g/nf +same"), r.out)
      assert.equal(0, run("slow.json", "a.json").code)
   end)

   it("exits with 1 when something is", function()
      local r = run("a.json", "slow.json")
      assert.equal(1, r.code)
      assert.is_truthy(r.out:find("g/nf +slower +%-%d+%.%d %%"), r.out)
   end)

   it("prints JSON", function()
      local r = run("a.json", "slow.json", "--json")
      local value = assert(json.decode(r.out))
      assert.equal("slower", value.rows[2].verdict)
      assert.equal(1, r.code)
   end)

   for name, case in pairs {
      ["one file"] = { "bench compare a.json", "give two results" },
      ["a file that is not there"] = { "bench compare /nowhere.json /nowhere.json", "cannot read /nowhere.json" },
      ["an option that it does not have"] = { "bench compare --fast a b", "cannot use '--fast'" },
   } do
      it("exits with 2 for " .. name, function()
         local r = shell.tideway(case[1])
         assert.equal(2, r.code)
         assert.is_truthy(r.err:find(case[2], 1, true), r.err)
      end)
   end

   it("exits with 2 for what is no result", function()
      local r = run("a.json", "text.json")
      assert.equal(2, r.code)
      assert.is_truthy(r.err:find("is no JSON", 1, true), r.err)
      r = run("a.json", "other.json")
      assert.equal(2, r.code)
      assert.is_truthy(r.err:find("other.json: it is no result", 1, true), r.err)
   end)
end)
