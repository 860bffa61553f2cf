-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway test` itself: files side by side and alone, counts, failures again at the end, and an end for what hangs.

local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

describe("tideway test", function()
   local dir
   before_each(function() dir = shell.directory() end)
   after_each(function() shell.remove(dir) end)

   local function spec(name, body) shell.write(("%s/%s_spec.lua"):format(dir, name), body) end
   local function run(options) return shell.tideway(("test %s %s"):format(options or "", dir)) end

   local function has(text, ...)
      for _, part in ipairs { ... } do
         assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
      end
   end

   it("adds up what files say, and shows failures again at the end", function()
      spec("good", 'it("works", function() end)\nit("waits", function() pending "a reason" end)')
      spec("bad", 'describe("it", function() it("fails", function() error "so it is" end) end)')
      local r = run()
      assert.equal(1, r.code)
      has(r.out, "good_spec.lua .\n   skipped: waits: ", "what failed, again:\n", "bad_spec.lua:1: error: it fails")
      assert.equal(2, select(2, r.out:gsub("so it is", "")))
      assert.matches("\n1 passed, 1 failed, 1 skipped\n$", r.out)
      r = run "--filter works"
      assert.equal(0, r.code)
      assert.is_nil(r.out:find("bad_spec", 1, true))
      assert.matches("\n1 passed, 0 failed, 0 skipped\n$", r.out)
   end)

   it("runs files side by side, and those alone that want it", function()
      -- Each notes when it begins and ends; those side by side wait for each other.
      local note = [[
         local labs, posix = require "test.support.lab", require "tideway.posix"
         local path = "%s/notes"
         local function note(what)
            local f = assert(io.open(path, "a"))
            f:write(what, "\n")
            f:close()
         end
         local function noted(what, n) return select(2, posix.slurp(path):gsub(what, "")) >= n end
         it("notes", function()
            note "begin"
            %s
            note "end"
         end)]]
      local together = 'assert(labs.eventually(60, function() return noted("begin", 2) end)) posix.poll({}, 200)'
      for i = 1, 2 do spec("beside" .. i, note:format(dir, together)) end
      for i = 1, 2 do
         spec("alone" .. i, "-- SPDX\n-- Runs alone: it says so.\n" .. note:format(dir, "posix.poll({}, 500)"))
      end
      local r = run "--jobs 2"
      assert.equal(0, r.code, r.out)
      assert.equal("begin\nbegin\nend\nend\nbegin\nend\nbegin\nend\n", posix.slurp(dir .. "/notes"))
   end)

   it("ends a file that hangs, with what it started, and one that dies, and says so", function()
      spec("hangs", ([[it("hangs", function()
         os.execute "sleep 1000 & echo $! >%s/pid"
         while true do end
      end)]]):format(dir))
      spec("dies", 'it("dies", function() os.exit(7) end)')
      spec("good", 'it("works", function() end)')
      local r = run "--limit 5"
      assert.equal(1, r.code)
      has(r.out, "hangs_spec.lua: failed: it did not end within 5 s", "dies_spec.lua: failed: its process ended before its "
         .. "tests did, with code 7")
      assert.matches("\n1 passed, 2 failed, 0 skipped\n$", r.out)
      local left = tonumber(posix.slurp(dir .. "/pid"))
      assert.is_truthy(labs.eventually(60, function() return not posix.alive(left) end))
   end)

   it("takes its files along when it is ended", function()
      spec("sleeps", ([[it("sleeps", function() os.execute "echo $PPID >%s/pid; sleep 1000" end)]]):format(dir))
      spec("sleeps2", 'it("sleeps", function() os.execute "sleep 1000" end)')
      local process = labs.spawn(("%s test %s"):format(shell.binary, dir))
      local pid = labs.eventually(60, function()
         return tonumber(((posix.slurp(dir .. "/pid") or ""):match "^(%d+)\n"))
      end)
      process:stop "KILL"
      assert.is_truthy(labs.eventually(60, function() return not posix.alive(pid) end))
   end)

   it("ends a command of a spec that hangs, and says which", function()
      local ok, err = pcall(shell.run, "echo said; sleep 1000", 2)
      assert.is_false(ok)
      has(err, "this did not end within 2 s:", "echo said; sleep 1000", "its output:\nsaid\n")
      assert.equal(124, shell.run("timeout 0.1 sleep 10", 60).code) -- its own limit
   end)
end)
