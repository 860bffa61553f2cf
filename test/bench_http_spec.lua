-- SPDX-License-Identifier: BSD-3-Clause
-- HTTP load as a contender: wrk against nginx in a network namespace.

local bench = require "tideway".bench
local child = require "tideway.bench.child"
local posix = require "tideway.posix"
local shell = require "test.shell"

local why
if posix.geteuid() ~= 0 then why = "needs root for network namespaces" end
for _, tool in ipairs { "wrk", "nginx", "curl", "ip" } do
   if not shell.has(tool) then why = why or tool .. " is missing (scripts/deps)" end
end

describe("bench.http", function()
   if why then
      pending(why)
      return
   end

   local ns, dir = "spec-http-" .. posix.getpid(), nil
   local URL = "http://127.0.0.1:8080"

   local function write(name, text)
      local file = assert(io.open(dir .. "/" .. name, "w"))
      file:write(text)
      file:close()
      return dir .. "/" .. name
   end

   local function server() return { "nginx", "-p", dir, "-c", dir .. "/nginx.conf", "-e", dir .. "/error.log" } end

   setup(function()
      dir = shell.directory()
      os.execute(("ip netns add %s && ip -n %s link set lo up && chmod 755 %s"):format(ns, ns, dir))
      local paths = {}
      for i, kind in ipairs { "client_body", "proxy", "fastcgi", "uwsgi", "scgi" } do
         paths[i] = ("%s_temp_path %s/%s;"):format(kind, dir, kind)
      end
      write("nginx.conf", ([[
         daemon off; worker_processes 1; pid %s/pid; error_log stderr;
         events { worker_connections 256; }
         http { access_log off; %s
            server { listen 8080; location = /x { return 200 "%s"; } location = /bad { return 503; } } }
      ]]):format(dir, table.concat(paths, " "), ("x"):rep(100)))
   end)

   teardown(function()
      os.execute("ip netns del " .. ns)
      shell.remove(dir)
   end)

   local contender

   local function new(o)
      o.url, o.netns, o.connections = o.url or URL .. "/x", ns, o.connections or 8
      contender = bench.http(o)
      return contender
   end

   after_each(function()
      if contender then contender:stop() end
      contender = nil
      assert.equal("", (shell.run("ip netns pids " .. ns).out))
   end)

   it("is measured beside others in a group that says so", function()
      local group, runner = require "tideway.bench.group", require "tideway.bench.runner"
      write("other.conf", (assert(require("tideway.posix").slurp(dir .. "/nginx.conf")):gsub("8080", "8081")
         :gsub("/pid;", "/pid2;")))
      local began, both = {}, 0
      local function watched(name, port, conf)
         local c = bench.http { name = name, netns = ns, connections = 4, url = ("http://127.0.0.1:%d/x"):format(port),
            value = "per_cpu", warm_up = 0,
            server = { "nginx", "-p", dir, "-c", dir .. "/" .. conf, "-e", dir .. "/error.log" } }
         local begin, finish = c.begin, c.finish
         function c.begin(...)
            began[name] = true
            return begin(...)
         end
         function c.finish(...)
            if began.a and began.b then both = both + 1 end
            local sample, err = finish(...)
            if name == "b" then began = {} end
            return sample, err
         end
         return c
      end
      local a, b = watched("a", 8080, "nginx.conf"), watched("b", 8081, "other.conf")
      local rows = group.measure({ contenders = { a, b }, unit = "requests/CPU s", better = "more", rounds = 1, seconds = 1,
         reference = "a", together = true }, { progress = function() end, sleep = runner.sleep })
      assert.is_nil(rows[1].missing, rows[1].missing)
      assert.is_nil(rows[2].missing, rows[2].missing)
      assert.equal(2, both)
      assert.is_true(rows[2].ratio.median > 0.1 and rows[2].ratio.median < 10, rows[2].ratio.median)
      assert.is_nil(a.child or b.child)
      assert.error_matches(function()
         bench.group("beside", { together = true, contenders = { { name = "own", measure = function() end } } })
      end, '"own" cannot be measured beside others')
   end)

   it("gives requests a second, percentiles and the server's CPU time", function()
      local c = new { name = "nginx", server = server() }
      assert.is_nil(c:missing())
      assert.is_true(c:start())
      local pid = c.child.pid
      local s = assert(c:measure(0.5))
      assert.equal("requests/s", s.unit)
      assert.is_true(s.value > 100)
      local e = s.extras
      assert.equal(0, e.errors)
      assert.is_nil(s.note)
      assert.is_true(e.p50_us > 0 and e.p50_us <= e.p99_us and e.p99_us <= e["p99.9_us"])
      -- All of it is the worker's, a child of the process that was started.
      assert.is_true(e.cpu_us > 0 and e.cpu_us * s.value < 1.2e6, ("%g us of CPU at %g/s"):format(e.cpu_us, s.value))
      if s.latency then
         assert.is_true(s.latency:count() > 100)
         local p50 = s.latency:percentile(50)
         assert.is_true(math.abs(p50 - e.p50_us * 1000) <= 0.05 * p50 + 1000)
      end
      c:stop()
      assert.is_false(posix.alive(pid))
   end)

   it("counts the CPU time of the processes it is told", function()
      local nginx = assert(child.start({ "ip", "netns", "exec", ns, unpack(server()) }))
      finally(function() nginx:stop() end)
      local c = new { processes = function() return { nginx.pid } end }
      assert.is_truthy(require("tideway.bench.runner").wait(function()
         return shell.run(("ip netns exec %s curl -s -o /dev/null %s/x"):format(ns, URL)).code == 0
      end, 60))
      assert.is_true(c:start())
      assert.is_true(assert(c:measure(1)).extras.cpu_us > 0)
   end)

   it("says what was answered with an error, and does not count it", function()
      local script = write("half.lua", [[
         local n = 0
         function request()
            n = n + 1
            return wrk.format("GET", n % 2 == 0 and "/x" or "/bad")
         end
         function done() io.write "the user's own\n" end
      ]])
      local c = new { server = server(), script = script }
      assert.is_true(c:start())
      local s = assert(c:measure(1))
      assert.is_true(s.extras.errors > 0)
      assert.matches("^%d+ answers with status 400 or more$", s.note)
      -- Half of the answers: as many good ones as bad ones.
      local good = s.value -- in one second, about
      assert.is_true(s.extras.errors > good * 0.4 and s.extras.errors < good * 2.5)
   end)

   it("says when nothing is answered well", function()
      local c = new { name = "all bad", url = URL .. "/bad", server = server() }
      assert.is_true(c:start())
      local s, err = c:measure(1)
      assert.is_nil(s)
      assert.matches("^all bad: no request was answered well: %d+ answers with status 400 or more$", err)
   end)

   it("says when nobody is there, with wrk's own words", function()
      local c = new { name = "nobody" }
      local ok, err = c:start()
      assert.is_nil(ok)
      assert.matches("^nobody: .*exit code 1.*Connection refused", err)
   end)

   it("says why a server does not start", function()
      local c = new { name = "broken", server = { "nginx", "-c", write("broken.conf", "nonsense;") } }
      local ok, err = c:start()
      assert.is_nil(ok)
      assert.matches("^broken: .*exit code 1.*unknown directive", err)
   end)

   it("says when the server dies while it is measured", function()
      local c = new { name = "mortal", server = server() }
      assert.is_true(c:start())
      local pid = c.child.pid
      -- Stopped, so that it starts no other worker.
      os.execute(("(sleep 0.3; kill -STOP %d; pkill -KILL -P %d; kill -KILL %d) &"):format(pid, pid, pid))
      local s, err = c:measure(1)
      assert.is_nil(s)
      assert.matches("^mortal: .*was ended by signal 9", err)
   end)

   it("refuses what it cannot do, and says how", function()
      assert.error_matches(function() bench.http { url = "example.com" } end, 'url = "http://host/path" is needed')
      assert.error_matches(function() bench.http { url = URL, connections = 1, threads = 2 } end,
         "connections = 1, threads = 2: each thread needs a connection")
      assert.error_matches(function() bench.http { url = URL, script = "/none.lua" } end, "/none.lua cannot be read")
      assert.matches("nothing%-of%-that%-name is not installed", bench.http {
         url = URL, server = { "nothing-of-that-name" } }:missing())
   end)
end)
