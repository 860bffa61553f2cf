-- SPDX-License-Identifier: BSD-3-Clause
-- Contenders of a benchmark that are other programs, or a kernel's network: DPDK programs from outside, veth pairs.
-- Runs alone: it reserves hugepages for DPDK programs, which other engines would take.

local lfs = require "lfs"
local affinity = require "tideway.affinity"
local bench = require "tideway".bench
local child = require "tideway.bench.child"
local frame = require "test.support.frame"
local posix = require "tideway.posix"
local shell = require "test.shell"
local runner = require "tideway.bench.runner"
local telemetry = require "tideway.bench.telemetry"
local veth = require "tideway.bench.veth"

local root = require("tideway.abi").root:match "^(.*)/lua/?$" or "."
local is_root = posix.geteuid() == 0

local dir
setup(function() dir = shell.directory() end)
teardown(function() shell.remove(dir) end)

-- A DPDK program that every machine has that runs the specs: this engine, from net_null to net_null.
local function engine(script, ...)
   local cpus = affinity.cpus()
   return { "env", "TIDEWAY_RUN_DIR=" .. dir, shell.binary, "run", "--no-huge", "--memory", "128", "--json",
      script or root .. "/scripts/bench/chains/forward.lua", "net_null0", "net_null1,no-rx=1", tostring(cpus[#cpus]), ... }
end

describe("bench.child", function()
   it("keeps what a program prints and says how it ended", function()
      local c = assert(child.start { "sh", "-c", "seq 9; echo last words >&2; exit 3" })
      assert.is_truthy(runner.wait(function() return not c:running() end, 60))
      assert.matches("^sh %(pid %d+%) ended with exit code 3; it printed last:\n   6\n   7\n   8\n   9\n   last words$",
         c:epitaph())
      c:stop()
      assert.is_nil(lfs.attributes(c.log))
      assert.matches("last words", c:output())
   end)

   it("kills what does not end when it is asked", function()
      local c = assert(child.start { "sh", "-c", "trap '' INT; echo deaf; while :; do sleep 0.1; done" })
      assert.is_truthy(runner.wait(function() return c:output():find "deaf" end, 60))
      assert.is_false(c:stop(0.3))
      assert.equal(128 + 9, c.code)
      assert.is_false(posix.alive(c.pid))
   end)

   it("says which program there is none of", function()
      local c = assert(child.start { "nothing-of-that-name" }) -- by setpriv, which says it
      assert.is_truthy(runner.wait(function() return not c:running() end, 60))
      assert.matches("nothing%-of%-that%-name", c:epitaph())
      c:stop()
   end)

   it("lets nothing live on when the benchmark is killed", function()
      shell.write(dir .. "/parent.lua", ([[
         local c = assert(require("tideway.bench.child").start({ "sleep", "600" }, %q))
         local file = io.open(%q, "w")
         file:write(c.pid)
         file:close()
         require("tideway.posix").poll({}, 60000)
      ]]):format(dir .. "/log", dir .. "/pid"))
      local parent = assert(child.start { shell.binary, "check", dir .. "/parent.lua" })
      local pid
      runner.wait(function()
         pid = tonumber(posix.slurp(dir .. "/pid") or "")
         return pid
      end, 60)
      assert.is_true(posix.alive(assert(pid)))
      parent:stop(0, 9)
      assert.is_truthy(runner.wait(function() return not posix.alive(pid) end, 60))
   end)

   it("counts the CPU time of processes and their children", function()
      local began, used = posix.now(), 0
      local c = assert(child.start { "sh", "-c", "sh -c 'while :; do :; done' & sleep 600" })
      runner.wait(function()
         used = child.cpu_time { c.pid }
         return used >= 0.2
      end, 60)
      os.execute("pkill -KILL -P " .. c.pid)
      c:stop(0)
      local most = (posix.now() - began) / 1e9 * 1.5 + 0.1 -- one of them works
      assert.is_true(used >= 0.2 and used < most, used .. " s")
   end)
end)

describe("bench.process", function()
   local contender
   after_each(function()
      if contender and contender.child then contender:stop() end
      contender = nil
      assert.is_nil(lfs.attributes("/run/dpdk/tideway-bench-" .. posix.getpid()))
   end)

   -- Packets move before it has printed everything.
   local function started(c)
      assert(c:start())
      if not runner.wait(function() return c.child:output():find("ready:", 1, true) end, 60) then
         error(c.child:epitaph())
      end
   end

   local function new(o)
      o.count, o.memory_mb, o.warm_up = o.count or { device = "net_null1" }, 0, 0.05
      contender = bench.process(o)
      return contender
   end

   it("counts a program from outside", function()
      local c = new { name = "engine", command = engine(), from = "net_null0" }
      assert(c:start())
      local pid = c.child.pid
      local s = assert(c:measure(0.2))
      assert.equal("Mpps", s.unit)
      assert.is_true(s.value > 0)
      assert.is_true(s.ns >= 0 and s.cpu >= 0) -- CPU time
      assert.equal(0, s.loss)
      assert.matches("tideway run .*net_null1", s.extras.command)
      c:stop()
      assert.is_false(posix.alive(pid))
   end)

   it("lets what the program printed complete the sample", function()
      local c = new { name = "engine", command = engine(),
         after = function(sample, said) sample.said = said:match "chain (%S+) on lcore" end }
      started(c)
      local s = assert(c:measure(0.1))
      c:stop()
      assert.equal("forward", s.said)
   end)

   it("says what a program that dies meanwhile printed last", function()
      local c = new { name = "mortal", command = engine() }
      started(c)
      os.execute(("(sleep 0.2; kill -SEGV %d) &"):format(c.child.pid))
      local s, err = c:measure(1)
      assert.is_nil(s)
      assert.matches("^mortal: .* while it was measured; .*%(pid %d+%) .*it printed last:\n.*ready:", err)
   end)

   it("says why a program did not start", function()
      local c = new { name = "broken", command = engine(dir .. "/no-such-script.lua") }
      local ok, err = c:start()
      assert.is_nil(ok)
      assert.matches("^broken: it ended before it moved a packet; .*exit code 2; it printed last:\n.*no%-such%-script", err)
      assert.is_nil(c.child)
   end)

   it("says which devices there are when the one to count is not", function()
      local c = new { name = "other", command = engine(), count = { device = "net_ring7" }, start_limit = 8 }
      local ok, err = c:start()
      assert.is_nil(ok)
      assert.matches("^other: it has no device net_ring7; there are: net_null0, net_null1;", err)
   end)

   it("says why it cannot run here, and refuses what makes no sense", function()
      assert.equal(is_root and "nothing-of-that-name is not installed" or "needs root for hugepages; try: sudo",
         new { name = "x", command = { "nothing-of-that-name" } }:missing())
      assert.equal("not today", new { name = "x", command = { "true" }, missing = function() return "not today" end }
         :missing())
      assert.error_matches(function() bench.process { name = "x", command = "true", count = { device = "y" } } end,
         "x: command is the program with its arguments")
      assert.error_matches(function() bench.process { name = "x", command = { "true" } } end, "count says whose")
   end)

   it("is not held up by a program that is stopped, nor by sockets that dead ones left", function()
      local other = assert(child.start(engine()))
      finally(function() other:stop(0, 9) end)
      local t
      runner.wait(function()
         t = telemetry.open(other.pid)
         return t
      end, 60)
      local path = assert(t, other:output()).path
      assert.is_true(#t:ask "/ethdev/list" == 2)
      t:close()
      os.execute("kill -STOP " .. other.pid)
      -- It listens and never answers; its connections fill up.
      local fds = {}
      for i = 1, 30 do fds[i] = require("tideway.posix.socket").connect(path, true) end
      local c = new { name = "engine", command = engine(), from = "net_null0" }
      local before = posix.now()
      assert(c:start())
      assert(c:measure(0.05))
      c:stop()
      for _, fd in pairs(fds) do posix.close(fd) end
      assert.is_true(posix.now() - before < 40e9)
      os.execute("kill -CONT " .. other.pid)
      other:stop(0, 9)
      assert.is_not_nil(lfs.attributes(path)) -- what a killed one leaves
      local none, err = telemetry.open(other.pid)
      assert.is_nil(none)
      assert.matches("has no telemetry socket", err)
      os.execute(("rm -rf '%s'"):format(path:match "^(.*)/"))
   end)
end)

describe("bench.live", function()
   if not is_root then
      pending "needs root for network namespaces"
      return
   end

   local M = veth.MACS
   local frames = {}
   for i = 1, 64 do
      frames[i] = frame.udp4({ dst = M.lan, src = M.near }, { src = "198.18.0.2", dst = "203.0.113." .. i },
         { sport = 1024 + i, dport = 9 }, ("\0"):rep(22))
   end

   -- Network namespaces that this process holds open, besides its own.
   local function namespaces()
      local list, own = {}, posix.readlink "/proc/self/ns/net"
      for fd in lfs.dir "/proc/self/fd" do
         local target = posix.readlink("/proc/self/fd/" .. fd)
         if target and target:find "^net:" and target ~= own then list[#list + 1] = target end
      end
      return list
   end

   local contender
   after_each(function()
      if contender then contender:stop() end
      contender = nil
      assert.same({}, namespaces())
   end)

   local function new(o)
      o.packets = o.packets or frames
      contender = bench.live(o)
      return contender
   end

   local ROUTER = {
      "ip address add 198.18.0.1/15 dev lan", "ip address add 198.51.100.1/24 dev wan",
      "ip route add 203.0.113.0/24 via 198.51.100.2", "ip neighbour add 198.51.100.2 lladdr " .. M.far .. " dev wan",
      "echo 1 > /proc/sys/net/ipv4/ip_forward",
   }

   it("counts what the kernel forwards", function()
      local c = new { name = "kernel", setup = ROUTER }
      assert.is_nil(c:missing())
      assert(c:start())
      local s = assert(c:measure(0.02))
      assert.equal("Mpps", s.unit)
      assert.is_true(s.value > 0.001)
      assert.is_true(s.loss < 0.01, "loss " .. s.loss)
   end)

   it("sends the same frames again and again, whatever the path does with them", function()
      local c = new { name = "one destination", setup = ROUTER }
      assert(c:start())
      -- Of the frames one destination is not routed: exactly its share is missing.
      c.path.dut:within(function() os.execute "ip route add blackhole 203.0.113.7" end)
      local sum = c.path:send(6400)
      assert.equal(6400, sum.sent)
      assert.equal(6400, sum.lan)
      assert.equal(6300, sum.arrived)
   end)

   it("measures the path alone, also with bench.packets", function()
      local c = new { name = "path", shut = true, packets = bench.packets { size = 64, flows = 50 } }
      assert(c:start())
      local s = assert(c:measure(0.02))
      assert.is_true(s.value > 0.001)
      assert.is_true(s.loss < 0.01)
   end)

   it("runs a chain of ours on XDP inside", function()
      local c = new { name = "xdp", ready = "ready:", command = function(ctx)
         return { "env", "TIDEWAY_RUN_DIR=" .. dir, ctx.tideway, "run", root .. "/scripts/bench/chains/kernel.lua", "xdp",
            "forward" }
      end }
      assert(c:start())
      local pid = c.child.pid
      assert.is_true(assert(c:measure(0.02)).loss < 0.01)
      c:stop()
      assert.is_false(posix.alive(pid))
   end)

   it("says when nothing arrives, and how far it came", function()
      local c = new { name = "nobody forwards" }
      assert(c:start())
      local s, err = c:measure(0.01)
      assert.is_nil(s)
      assert.matches("^nobody forwards: of (%d+) frames %1 came to the device under test and none to the far end$", err)
   end)

   it("says which line of the setup failed", function()
      local ok, err = new { name = "wrong", setup = { "ip link set none up" } }:start()
      assert.is_nil(ok)
      assert.matches("^wrong: ip link set none up: .*none", err)
   end)

   it("says what a program inside printed when it is not ready", function()
      local ok, err = new { name = "failing", command = { "sh", "-c", "echo I cannot; exit 4" }, ready = "ready" }:start()
      assert.is_nil(ok)
      assert.matches("^failing: .*exit code 4; it printed last:\n   I cannot", err)
   end)

   it("gives the thread its CPUs and its namespace back", function()
      local function state()
         return posix.slurp "/proc/self/status":match "Cpus_allowed_list:[^\n]+", posix.readlink "/proc/thread-self/ns/net"
      end
      local cpus, ns = state()
      local c = new { name = "path", shut = true }
      assert(c:start())
      c:stop()
      local after, ns_after = state()
      assert.same({ cpus, ns }, { after, ns_after })
   end)

   it("refuses frames that it cannot send", function()
      assert.error_matches(function() bench.live { name = "x", packets = { frames[1], frames[1] .. "x" } } end,
         "frame 2 has 65 bytes and the first has 64")
      assert.error_matches(function() bench.live { name = "x", packets = { ("x"):rep(59) } } end,
         "frame 1 has 59 bytes; the path takes 60 to 3000")
   end)
end)

describe("scripts/bench", function()
   it("declares all its experiments", function()
      local r = shell.run(("cd %s && %s bench --list scripts/bench/standard.lua"):format(root, shell.binary))
      assert.equal(0, r.code, r.err)
      for _, name in ipairs { "forward", "macswap", "5tswap", "csum", "route", "edge", "entry", "kernel-forward",
         "kernel-route", "kernel-filter", "ebpf-ttl", "fuse-1024" } do
         assert.matches("\n" .. name:gsub("%-", "%%-") .. ": ", "\n" .. r.out)
      end
   end)

   it("counts testpmd and Open vSwitch as it counts Tideway", function()
      if not is_root then return pending "needs root for hugepages" end
      local json = dir .. "/result.json"
      local r = shell.run(("cd %s && %s bench --rounds 1 --seconds 0.2 --only forward --json %s scripts/bench/ports.lua")
         :format(root, shell.binary, json))
      assert.equal(0, r.code, r.out .. r.err)
      local group = require("tideway.json").decode(posix.slurp(json)).results[1]
      assert.equal(4, #group.rows)
      for _, row in ipairs(group.rows) do
         assert.is_true(row.missing ~= nil or row.values[1] > 0.1, row.name)
         if row.name == "tideway-forward" then assert.is_nil(row.missing) end
         -- A peer that is not installed is said so; one that is works.
         if row.missing then assert.matches("try: ", row.missing) end
      end
   end)
end)
