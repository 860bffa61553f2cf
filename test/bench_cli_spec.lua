-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway bench`: options, reports, errors, exit codes, Ctrl-C.

local json = require "tideway.json"
local labs = require "test.support.lab"
local lfs = require "lfs"
local posix = require "tideway.posix"
local shell = require "test.shell"

local TOY = [[
local tw = require "tideway"
local bench = tw.bench
local n = 0
local function number(name, value, note)
   return bench.contender {
      name = name, note = note,
      measure = function(_, seconds)
         bench.sleep(seconds)
         n = n + 1
         return { value = value + n / 1000, unit = "Mpps", extras = { calls = n } }
      end,
   }
end
bench.group("toy", {
   title = "two numbers", contenders = { number("a", 100, "the first"), number("b", 90) }, reference = "a",
   goals = { b = tonumber((...)) or 0.8 },
})
bench.experiment { kind = "table", name = "second", run = function(context)
   return { columns = { "rounds", "seconds" }, rows = { { context.rounds, context.seconds } } }
end }
]]

describe("tideway bench", function()
   local dir
   local function file(name, text)
      shell.write(dir .. "/" .. name, text)
      return dir .. "/" .. name
   end
   local function bench(arguments, prefix)
      return shell.tideway("bench " .. arguments, ("env TIDEWAY_RUN_DIR=%s/run %s"):format(dir, prefix or ""))
   end
   local function has(text, part) assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text)) end
   -- Nothing of an instance stays.
   local function left()
      local list = {}
      for name in lfs.dir(dir .. "/run") do
         if name:sub(1, 1) ~= "." then list[#list + 1] = name end
      end
      return list
   end

   setup(function()
      dir = shell.directory()
      lfs.mkdir(dir .. "/run")
      file("toy.lua", TOY)
   end)
   teardown(function() shell.remove(dir) end)
   after_each(function() assert.same({}, left()) end)

   it("runs a script's experiments and prints what they found", function()
      local r = bench("--quick --seconds 0.01 " .. dir .. "/toy.lua")
      assert.equal(0, r.code, r.err)
      for _, part in ipairs { "toy: two numbers", "1/3", "3/3", "second" } do has(r.out, part) end
   end)

   it("writes everything as JSON, and keeps standard output for it", function()
      local r = bench(("--rounds 4 --seconds 0.01 --json - %s/toy.lua"):format(dir))
      assert.equal(0, r.code, r.err)
      local document = assert(json.decode(r.out))
      has(r.err, "4/4")
      assert.equal(require "tideway.version", document.tideway)
      has(document.command, "bench --rounds 4")
      assert.equal(4, #document.results[1].rows[2].values)
      assert.is_truthy(document.results[1].rows[2].met)
      assert.equal("reference", document.results[1].reference and "reference")
      assert.same({ { 4, 0.01 } }, document.results[2].rows)
      local e = document.environment
      assert.is_truthy(e.cpu and e.cpus > 0 and e.kernel and e.luajit and e.load_before)
      assert.is_truthy(document.started:find "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ$")
   end)

   it("pools the rounds of --runs, and does what has none once", function()
      local r = bench(("--runs 2 --quick --seconds 0.01 --json %s/runs.json --check %s/toy.lua 0.95"):format(dir, dir))
      assert.equal(1, r.code)
      has(r.out, "run 2 of 2")
      has(r.err, "toy: b: goal 0.95 missed")
      local document = assert(json.decode(posix.slurp(dir .. "/runs.json")))
      assert.equal(2, document.runs)
      has(document.command, "--runs 2")
      local toy, second = document.results[1], document.results[2]
      assert.equal(6, #toy.rows[1].values)
      assert.equal(6, #toy.rows[2].ratio.values)
      assert.is_truthy(math.abs(toy.rows[2].ratio.median - 0.9) < 0.01)
      assert.equal(1, #second.rows)
      assert.is_nil(second.runs)
   end)

   it("ends at the first of --runs that cannot begin", function()
      local r = bench("--runs 3 /nowhere.lua")
      assert.equal(2, r.code)
      local _, times = r.err:gsub("/nowhere.lua", "")
      assert.equal(1, times)
   end)

   it("runs those of --only", function()
      local r = bench(("--quick --only second --json - %s/toy.lua"):format(dir))
      local document = assert(json.decode(r.out))
      assert.equal(1, #document.results)
      assert.equal("second", document.results[1].name)
   end)

   it("lists them and their contenders, and runs nothing", function()
      local r = bench(("--list %s/toy.lua"):format(dir))
      assert.equal(0, r.code, r.err)
      assert.equal("toy: two numbers (group)\n   a: the first\n   b\nsecond: table\n", r.out)
   end)

   it("exits with 1 for a missed goal, with --check", function()
      assert.equal(0, bench(("--quick --seconds 0.01 --only toy %s/toy.lua 0.95"):format(dir)).code)
      local r = bench(("--quick --seconds 0.01 --only toy --check %s/toy.lua 0.95"):format(dir))
      assert.equal(1, r.code)
      has(r.err, "toy: b: goal 0.95 missed")
      assert.equal(0, bench(("--quick --seconds 0.01 --only toy --check %s/toy.lua 0.85"):format(dir)).code)
   end)

   it("says that an experiment failed, and runs the others", function()
      local path = file("bad.lua", [[
         local bench = require("tideway").bench
         bench.experiment { kind = "table", name = "bad", run = function() error("it broke", 0) end }
         bench.experiment { kind = "table", name = "good", run = function() return { columns = {}, rows = {} } end }
      ]])
      local r = bench("--json - " .. path)
      assert.equal(1, r.code)
      has(r.err, "bad: it broke")
      local document = assert(json.decode(r.out))
      assert.equal("it broke", document.results[1].error)
      assert.equal("good", document.results[2].name)
   end)

   for what, case in pairs {
      ["a script that is not there"] = { "/nowhere.lua", "/nowhere.lua" },
      ["a script that raises"] = { "raises.lua", "it was me", "error('it was me')" },
      ["a script without experiments"] = { "empty.lua", "the script declares no experiment", "" },
      ["an experiment that is not there"] = { "toy.lua", "there is no experiment \"x\"; there are: toy, second", nil, "--only x" },
      ["no script"] = { nil, "missing argument 'SCRIPT'" },
      ["a wrong number"] = { "toy.lua", "option '--rounds': a whole number above 0 is needed, not '1.5'", nil, "--rounds 1.5" },
   } do
      it("exits with 2 for " .. what, function()
         local path = case[1]
         if case[3] then file(path, case[3]) end
         if path and path:sub(1, 1) ~= "/" then path = dir .. "/" .. path end
         local r = bench((case[4] or "") .. " " .. (path or ""))
         assert.equal(2, r.code)
         has(r.err, case[2])
      end)
   end

   it("says where it cannot write", function()
      local r = bench(("--quick --seconds 0.01 --only second --json /nowhere/x.json %s/toy.lua"):format(dir))
      assert.equal(1, r.code)
      has(r.err, "cannot write /nowhere/x.json")
   end)

   local function interrupted(options)
      local path = file("long.lua", [[
         local bench = require("tideway").bench
         bench.group("quick", { rounds = 1, seconds = 0.01, contenders = {
            { name = "a", measure = function() return { value = 1, unit = "x" } end } }, unit = "x" })
         bench.group("long", { contenders = { {
            name = "b",
            measure = function()
               io.stderr:write "measuring\n"
               bench.sleep(60)
               return { value = 1, unit = "x" }
            end,
            stop = function()
               bench.sleep(0.01)
               io.stderr:write "stopped b\n"
            end,
         } }, unit = "x" })
         bench.experiment { kind = "table", name = "never", run = function() return { columns = {}, rows = {} } end }
      ]])
      local process = labs.spawn(("env TIDEWAY_RUN_DIR=%s/run %s bench %s --json %s/out.json %s"):format(dir, shell.binary,
         options, dir, path))
      local ready = process:says("measuring", 60)
      local ls = shell.tideway("ls", ("env TIDEWAY_RUN_DIR=%s/run"):format(dir))
      process:signal "INT"
      process:wait(60)
      local err = process:read "err"
      local ended = process:stop "KILL"
      assert.is_truthy(ready, err)
      has(ls.out, "long")
      has(err, "stopped b")
      has(err, "interrupted: the results are partial")
      assert.equal(1, ended.code)
      local document = assert(json.decode(posix.slurp(dir .. "/out.json")))
      assert.is_true(document.interrupted)
      assert.equal("quick", document.results[1].name)
      assert.is_nil(document.results[1].interrupted)
      assert.equal("long", document.results[2].name)
      assert.is_true(document.results[2].interrupted)
      assert.equal(2, #document.results)
   end

   it("is an instance while it runs, and on Ctrl-C writes what there is and stops its contenders", function()
      interrupted ""
   end)

   it("does so in the run of --runs that is under way, and begins no other", function() interrupted "--runs 2" end)
end)
