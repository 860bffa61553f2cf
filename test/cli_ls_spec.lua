-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway ls` and `tideway call`: instances that run, that were killed, that are somebody else's.

local instances = require "test.support.instance"
local json = require "tideway.json"
local labs = require "test.support.lab"
local lfs = require "lfs"
local posix = require "tideway.posix"
local shell = require "test.shell"

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text and text:find(part, 1, true), ("no %q in:\n%s"):format(part, tostring(text)))
   end
end

describe("tideway ls", function()
   local run_dir, started

   before_each(function()
      run_dir, started = shell.directory(), {}
      os.execute("chmod 755 " .. run_dir)
   end)
   after_each(function()
      for _, instance in ipairs(started) do instance:stop "KILL" end
      shell.remove(run_dir)
   end)

   local function start(name, script)
      local instance = instances.start { name = name, run_dir = run_dir, script = script }
      started[#started + 1] = instance
      return instance
   end
   local function tideway(arguments, prefix)
      return shell.tideway(arguments, ("env TIDEWAY_RUN_DIR=%s %s"):format(run_dir, prefix or ""))
   end
   local function list()
      local r = tideway "ls --json"
      assert.equal(0, r.code, r.err)
      return json.decode(r.out)
   end

   -- Once all that run have answered: on a busy machine some are not run for seconds.
   local function answers()
      return assert(labs.eventually(60, function()
         local all = list()
         for _, entry in ipairs(all) do
            if entry.role ~= "admin" then return nil end
         end
         return all
      end))
   end

   it("says where it looked when nothing runs", function()
      local r = tideway "ls"
      assert.equal(0, r.code)
      assert.equal(("no instance runs (looked in %s)\n"):format(run_dir), r.out)
      assert.same({}, list())
      r = tideway "call log"
      assert.equal(1, r.code)
      has(r.err, "tideway call: no instance runs", run_dir)
   end)

   it("lists what runs: name, process, role, chains, script", function()
      local a = start "one"
      local b = start("two", instances.IDLE .. 'tw.chain("d", tw.port("b", "wire1"), a)')
      local by_name = {}
      for _, entry in ipairs(answers()) do by_name[entry.name] = entry end
      assert.equal(a.pid, by_name.one.pid)
      assert.equal("runs", by_name.one.state)
      assert.equal("admin", by_name.one.role)
      assert.same({ "c", "d" }, by_name.two.chains)
      assert.equal(b.files .. "/script.lua", by_name.two.script)
      assert.is_true(by_name.two.uptime >= 0 and by_name.two.uptime < 60)
      local text = tideway("ls").out
      has(text, "NAME", "PID", "YOUR ROLE", "one", "two", "c, d", tostring(b.pid), "admin", b.files)
   end)

   it("shows a killed one as dead, and the next start cleans up after it", function()
      local a = start "gone"
      local pid = a.pid
      a:stop "KILL"
      assert.is_truthy(lfs.attributes(run_dir .. "/gone/control"))
      assert.same({ name = "gone", pid = pid, state = "dead", dir = run_dir .. "/gone" }, list()[1])
      has(tideway("ls").out, "dead")
      has(tideway("call --name gone log").err, "no instance runs")
      local b = start "gone"
      local found = answers()
      assert.equal(b.pid, found[1].pid)
      assert.equal("runs", found[1].state)
      assert.equal(1, #found)
      assert.equal(0, tideway("call --name gone log").code)
   end)

   it("leaves nothing when the engine stops", function()
      assert.equal(0, start("clean"):stop().code)
      for name in lfs.dir(run_dir) do assert.is_truthy(name:find "^%.+$", name) end
   end)

   it("leaves nothing when the engine fails as the last thing before it serves", function()
      local dir = shell.directory()
      finally(function() shell.remove(dir) end)
      shell.write(dir .. "/s.lua", instances.IDLE .. [[
         require("tideway.privilege").drop = function() error("there is no giving up", 0) end]])
      local r = tideway(("run --name fails %s/s.lua"):format(dir))
      assert.equal(1, r.code, r.out)
      has(r.err, "there is no giving up")
      for name in lfs.dir(run_dir) do assert.is_truthy(name:find "^%.+$", name) end
   end)

   it("tells who has no role what is missing", function()
      if posix.geteuid() ~= 0 or not shell.has "setpriv" then return pending "needs root and setpriv" end
      start "closed"
      local r = tideway("ls", "setpriv --reuid 64001 --regid 64001 --clear-groups")
      assert.equal(0, r.code)
      has(r.out, "closed", "none")
      has(r.err, "tideway ls: cannot connect to instance 'closed'", "you may not")
   end)

   it("does not believe a directory that somebody else made in /tmp", function()
      if posix.geteuid() ~= 0 or not shell.has "setpriv" then return pending "needs root and setpriv" end
      local uid = 64009
      local base = "/tmp/tideway-" .. uid
      local prefix = ("env -u TIDEWAY_RUN_DIR -u XDG_RUNTIME_DIR setpriv --reuid %d --regid %d --clear-groups"):format(
         uid, uid)
      local words = require("ffi").new("uint32_t[2]", 1, posix.getpid())
      shell.write(base .. "/fake/stats", "tideway\0" .. require("ffi").string(words, 8))
      local believed, script = shell.tideway("ls --json", prefix), shell.directory()
      shell.write(script .. "/s.lua", instances.IDLE)
      os.execute("chmod -R a+rX " .. script)
      local started_in_it = shell.tideway("run --for 5 " .. script .. "/s.lua", prefix)
      os.execute(("chown -R %d %s"):format(uid, base))
      local own = shell.tideway("ls --json", prefix)
      shell.remove(base)
      shell.remove(script)
      assert.is_nil(believed.out:find "fake", believed.out)
      assert.equal(1, started_in_it.code)
      has(started_in_it.err, base .. " belongs to somebody else", "TIDEWAY_RUN_DIR")
      has(own.out, '"fake"')
   end)

   it("gives up on an instance that does not answer", function()
      local a = start "stuck"
      a.process:signal "STOP"
      local start_ns = posix.now()
      local r = tideway "ls"
      a.process:signal "CONT"
      assert.is_true(posix.now() - start_ns < 30e9)
      has(r.err, "no answer")
   end)

   it("calls: values, JSON, what is printed, errors", function()
      local a = start("called", instances.IDLE .. [[
         package.preload["spec.command"] = function()
            return { say = function(...)
               require("tideway.live.session").print("said", ...)
               return { n = select("#", ...), last = (select(-1, ...)) }
            end }
         end
         require("tideway.live.commands").say = {
            module = "spec.command", fn = "say", role = "operate", summary = "Says it.",
         }]])
      local r = tideway "call --json say 1 true x -y"
      assert.equal(0, r.code, r.err)
      local printed, rest = r.out:match "^(.-\n)(.*)"
      assert.equal("said\t1\ttrue\tx\t-y\n", printed)
      assert.same({ n = 4, last = "-y" }, json.decode(rest))
      r = tideway "call log"
      has(r.out, 'say(1, true, "x", "-y")', "ok")
      r = tideway "call nope"
      assert.equal(1, r.code)
      has(r.err, 'tideway call: there is no command "nope"', "log")
      for _, signal in ipairs { "INT", "TERM" } do -- ends the call, and the engine goes on
         r = shell.run(("timeout -s %s 1 env TIDEWAY_RUN_DIR=%s %s call events"):format(signal, run_dir, shell.binary))
         assert.same({ 124, "", "" }, { r.code, r.out, r.err })
      end
      r = tideway "call log x"
      has(r.err, "log: how many")
      r = tideway "call --name other log"
      has(r.err, "no instance named 'other' runs; these do: called")
      a:stop()
   end)
end)
