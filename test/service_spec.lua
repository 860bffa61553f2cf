-- SPDX-License-Identifier: BSD-3-Clause
-- The engine as a service: what it tells a service manager, its watchdog, SIGHUP, logs for the journal and their limit,
-- the unit and its example, and DPDK's own telemetry.
-- Runs alone: a watchdog has to be fed in time.

local ffi = require "ffi"
local json = require "tideway.json"
local Lab = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"
local socket = require "tideway.posix.socket"

local C = ffi.C
local AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, NONBLOCK = 1, 2, 5, 0x80800
local root = require("tideway.abi").root:match "^(.*)/lua/?$" or "."

local function address(path)
   local a = ffi.new "struct tw_posix_sockaddr_un"
   a.family = AF_UNIX
   ffi.copy(a.path, path)
   if path:sub(1, 1) == "@" then a.path[0] = 0 end
   return a, ffi.offsetof("struct tw_posix_sockaddr_un", "path") + #path
end

-- A service manager's socket: what was sent to it, one datagram an entry.
local function manager(path)
   local fd = C.tw_posix_socket(AF_UNIX, SOCK_DGRAM + NONBLOCK, 0)
   assert(C.tw_posix_bind(fd, address(path)) == 0)
   local m = { fd = fd, heard = {} }
   function m:listen()
      while true do
         local bytes, count = socket.receive(fd)
         if not bytes then return self.heard end
         self.heard[#self.heard + 1] = ffi.string(bytes, count)
      end
   end
   function m:hears(text, seconds)
      return Lab.eventually(seconds, function()
         for i, message in ipairs(self:listen()) do
            if message:find(text, 1, true) then return i end
         end
      end)
   end
   function m:count(text)
      local n = 0
      for _, message in ipairs(self:listen()) do
         if message == text then n = n + 1 end
      end
      return n
   end
   function m:close() posix.close(fd) end
   return m
end

local IDLE = [[
local tw = require "tideway"
tw.chain("c", tw.port("a", "net_ring0"), tw.nf.count {}, tw.port("b", "net_null1"))
]]

describe("service", function()
   local dir, m, run
   before_each(function()
      dir = shell.directory()
      m = manager(dir .. "/notify")
   end)
   after_each(function()
      if run then run:stop "KILL" end
      run = nil
      m:close()
      shell.remove(dir)
   end)

   local function start(script, environment, options)
      shell.write(dir .. "/served.lua", script)
      run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run NOTIFY_SOCKET=%s %s %s run --no-huge --memory 128 %s %s/served.lua")
         :format(dir, dir .. "/notify", environment or "", shell.binary, options or "", dir))
      assert(run:says("ready:", 60), run:read "out" .. run:read "err")
   end

   it("is ready when its lcores run, says how it is, and that it stops", function()
      start(IDLE)
      local ready = assert(m:hears("READY=1", 60))
      assert.equal(1, ready)
      assert.is_truthy(m.heard[1]:find("STATUS=instance served runs", 1, true))
      assert.is_truthy(m:hears("STATUS=a in 0 pps out 0 pps | b in", 60), table.concat(m.heard, "|"))
      run:signal "TERM"
      assert.is_truthy(m:hears("STOPPING=1", 60))
      assert.equal(0, run:wait(60))
   end)

   it("feeds the watchdog while its lcores turn", function()
      start(IDLE, "WATCHDOG_USEC=600000")
      assert.is_truthy(m:hears("READY=1", 60))
      local began, fed = posix.now(), 0
      assert.is_truthy(Lab.eventually(60, function()
         fed = m:count "WATCHDOG=1"
         return fed >= 4
      end))
      -- Twice or three times as often as it has to be.
      local most = (posix.now() - began) / 0.2e9 + 3
      assert.is_true(fed <= most, ("%d times, not %.1f"):format(fed, most))
   end)

   it("feeds it when a change took an lcore away", function()
      local cpus = require("tideway.plan").cpus()
      if #cpus < 2 then return pending "there is one CPU only" end
      local function on(cpu) return (IDLE:gsub("\n$", (":pin { lcore = %d }\n"):format(cpu))) end
      start(on(cpus[1]), "WATCHDOG_USEC=600000")
      shell.write(dir .. "/served.lua", on(cpus[2]))
      run:signal "HUP"
      assert.is_truthy(m:hears("STATUS=reload: applied", 60), run:read "err")
      posix.poll({}, 700)
      local fed = m:count "WATCHDOG=1"
      assert.is_truthy(Lab.eventually(60, function() return m:count "WATCHDOG=1" > fed + 2 end), run:read "err")
   end)

   it("does not feed it for another process", function()
      start(IDLE, "WATCHDOG_USEC=300000 WATCHDOG_PID=1")
      posix.poll({}, 600)
      assert.equal(0, m:count "WATCHDOG=1")
   end)

   it("lets it starve when an lcore is stuck, and says which", function()
      start([[
local tw = require "tideway"
tw.options { stall_ms = 10000 }
local stuck = tw.nf("stuck", function() return { burst = function() while true do end end } end)
tw.chain("c", tw.port("a", "net_null0"), stuck {}, tw.port("b", "net_null1"))
]], "WATCHDOG_USEC=600000")
      assert.is_true(run:says("has not turned for", 60), run:read "err")
      m:listen()
      local fed = m:count "WATCHDOG=1"
      posix.poll({}, 700)
      assert.equal(fed, m:count "WATCHDOG=1")
      assert.is_truthy(run:read("err"):find "lcore on CPU %d+ has not turned")
   end)

   it("is not disturbed by a manager that is gone", function()
      start(IDLE, "WATCHDOG_USEC=300000")
      m:close()
      m = manager(dir .. "/other")
      posix.poll({}, 700)
      run:signal "INT"
      assert.equal(0, run:wait(60), run:read "err")
   end)

   it("takes up an edited script on SIGHUP, refuses a broken one, and says both", function()
      start(IDLE)
      assert.is_truthy(m:hears("READY=1", 60))
      shell.write(dir .. "/served.lua", (IDLE:gsub("tw.nf.count {}", 'tw.nf("new", function() return { '
         .. "packet = function() end } end) {}")))
      run:signal "HUP"
      local reloading = assert(m:hears("RELOADING=1\nMONOTONIC_USEC=", 60), run:read "err")
      assert.is_truthy(m:hears("READY=1\nSTATUS=reload: applied to 1/1 lcores", 60), table.concat(m.heard, "|"))
      assert.is_true(reloading < #m.heard)
      local nfs = shell.tideway("top --once --interval 0.1 --page chain/c", "env TIDEWAY_RUN_DIR=" .. dir .. "/run").out
      assert.is_truthy(nfs:find("\nnew ", 1, true), nfs)
      shell.write(dir .. "/served.lua", "local x = = 1\n")
      run:signal "HUP"
      assert.is_truthy(m:hears("STATUS=reload: refused: ", 60), run:read "err")
      assert.is_truthy(run:read("err"):find "served.lua:1:")
      assert.is_nil(run:code())
      run:signal "INT"
      assert.equal(0, run:wait(60))
   end)

   it("reloads by the command of the unit", function()
      start(IDLE, nil, "--name served")
      local unit = assert(posix.slurp(root .. "/scripts/service/tideway@.service"))
      local command = unit:match "\nExecReload=/usr/local/bin/tideway ([^\n]*)":gsub("%%i", "served")
      shell.write(dir .. "/served.lua", (IDLE:gsub("tw.nf.count {}", "tw.nf.count {}, tw.nf.count {}")))
      local r = shell.tideway(command, "env TIDEWAY_RUN_DIR=" .. dir .. "/run")
      assert.equal(0, r.code, r.err)
      assert.is_truthy(r.out:find("applied to 1/1 lcores", 1, true), r.out)
   end)

   it("finds a manager in the abstract namespace", function()
      local name = ("@tideway-spec-%d"):format(posix.getpid())
      local abstract = manager(name)
      start(IDLE, "NOTIFY_SOCKET=" .. name)
      assert.is_truthy(abstract:hears("READY=1", 60))
      abstract:close()
   end)
end)

describe("log", function()
   local dir
   before_each(function() dir = shell.directory() end)
   after_each(function() shell.remove(dir) end)

   -- Standard error of a run whose script logs, and the counters of it.
   local function run(script, options, journal)
      shell.write(dir .. "/logging.lua", 'local log = require "tideway.log"\nlocal tw = require "tideway"\n' .. script
         .. '\ntw.chain("c", tw.port("a", "net_ring0"), tw.nf.count {}, tw.port("b", "net_null1"))\n')
      local words = ("TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 --quiet %s %s/logging.lua"):format(dir,
         shell.binary, options or "--for 0.2", dir)
      shell.run(("bash -c %s"):format(shell.quote(("exec 2>%s/err; %s env %s"):format(dir,
         journal and "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2);" or "", words))))
      return posix.slurp(dir .. "/err")
   end

   it("marks every line with its level on the journal", function()
      local err = run([[log.error "it\nfailed" log.warning "it may" log.info "it is" log.debug "it was"]],
         "--for 0.2 --log-level debug", true)
      assert.equal("<3>it\n<3>failed\n<4>it may\n<6>it is\n<7>it was\n", err)
   end)

   it("is for people elsewhere", function()
      assert.equal("tideway: it may\n", run [[log.warning "it may"]])
   end)

   it("leaves out what is less urgent than its level", function()
      assert.equal("tideway: bad\n", run([[log.error "bad" log.warning "it may" log.info "it is"]],
         "--for 0.2 --log-level error"))
   end)

   it("has faults of NFs as errors", function()
      local err
      for _, seconds in ipairs { 0.4, 3, 30 } do -- a busy machine may not run its lcore for a while
         err = run([[
local bad = tw.nf("bad", function() return { burst = function() error "no" end } end)
tw.chain("bad", tw.port("x", "net_null0"), bad {}, tw.port("y", "net_null2"))
]], "--for " .. seconds, true)
         if err:find("taken out", 1, true) then break end
      end
      assert.is_truthy(err:find "^<3>NF bad .- in chain bad on cpu %d+: .-no; it is taken out", err)
   end)

   it("holds back messages that are alike, and counts them", function()
      local err = run([[for i = 1, 500 do log.warning("packet %d is odd", i) end log.warning "something else"]],
         "--for 2.2")
      local odd, rest = 0, nil
      for line in err:gmatch "[^\n]+" do
         if line:find "^tideway: packet %d+ is odd$" then odd = odd + 1 end
         rest = line:match "^tideway: (%d+) more like this were held back; the last: packet 500 is odd$" or rest
      end
      assert.equal(10, odd)
      assert.equal("490", rest)
      assert.is_truthy(err:find("something else", 1, true))
   end)

   it("is counted by level in the metrics", function()
      shell.write(dir .. "/counted.lua", [[
local log, tw = require "tideway.log", require "tideway"
for i = 1, 30 do log.warning("packet %d is odd", i) end
log.error "bad"
tw.chain("c", tw.port("a", "net_ring0"), tw.nf.count {}, tw.port("b", "net_null1"))
]])
      local process = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 %s/counted.lua"):format(dir,
         shell.binary, dir))
      assert.is_true(process:says("ready:", 60))
      local text = shell.tideway("metrics", "env TIDEWAY_RUN_DIR=" .. dir .. "/run").out
      process:stop()
      assert.is_truthy(text:find('tideway_log_messages_total{level="warning"} 30\n', 1, true), text)
      assert.is_truthy(text:find('tideway_log_messages_total{level="error"} 1\n', 1, true))
      assert.is_truthy(text:find("tideway_log_held_back_messages_total 20\n", 1, true))
   end)
end)

describe("what is installed for a service", function()
   it("has an example that validates", function()
      local r = shell.tideway(("check %s/scripts/service/edge.lua"):format(root))
      assert.equal(0, r.code, r.err)
   end)

   it("has a unit that systemd understands", function()
      if not shell.has "systemd-analyze" then return pending "systemd-analyze is missing (apt-get install systemd)" end
      local dir = shell.directory()
      local text = assert(posix.slurp(root .. "/scripts/service/tideway@.service"))
      shell.write(dir .. "/tideway@.service", (text:gsub("/usr/local/bin/tideway", shell.binary)))
      local r = shell.run(("systemd-analyze verify --man=no %s/tideway@edge.service"):format(dir))
      shell.remove(dir)
      assert.equal("", (r.err:gsub("[^\n]*PID file[^\n]*\n", "")))
      assert.equal(0, r.code)
      for _, setting in ipairs { "Type=notify", "WatchdogSec=", "ExecReload=", "NoNewPrivileges=yes" } do
         assert.is_truthy(text:find("\n" .. setting, 1, true), setting)
      end
   end)
end)

describe("the unit's bounds", function()
   -- What of the unit can be had without systemd: its capabilities and no_new_privs.
   it("leave the engine what it needs: ports, hooks, the C compiler, workers and port 80", function()
      local reason = Lab.missing "setpriv"
      if reason then return pending(reason) end
      local text, set = assert(posix.slurp(root .. "/scripts/service/tideway@.service")), {}
      for line in text:gmatch "\nCapabilityBoundingSet=([^\n]*)" do
         for name in line:gmatch "CAP_(%S+)" do set[#set + 1] = "+" .. name:lower() end
      end
      local lab = Lab.up { mode = "l2" }
      finally(function() lab:down() end)
      shell.write(lab.files .. "/bound.lua", [[
local tw = require "tideway"
tw.chain("look", {}, tw.nf.count {}):pin { xdp = "tw-lan", mode = "generic" }
tw.chain("out", tw.port("w", "net_af_packet0,iface=tw-wan"), tw.nf.count {}, tw.port("n", "net_null0"))
local hello = tw.nf("hello", function()
   return { message = function(msg) return msg:respond(200, nil, "hello") end }
end)
tw.chain("web", tw.listen("web", "http://127.0.0.1:80"), hello {}):pin { worker = "sk_msg" }
]])
      local run = lab:spawn("dut", ("env TIDEWAY_RUN_DIR=%s setpriv --bounding-set=-all,%s --no-new-privs %s run "
         .. "--no-huge --memory 128 %s/bound.lua"):format(lab.run_dir, table.concat(set, ","), shell.binary, lab.files))
      assert.is_true(run:says("ready:", 60), run:read "err")
      local prefix = "env TIDEWAY_RUN_DIR=" .. lab.run_dir
      local compiled = not shell.has "cc" or Lab.eventually(60, function()
         return shell.tideway("metrics", prefix).out:find('tideway_chain_info{chain="out",[^\n]*tier="native"')
      end)
      local answer = lab:run("dut", "curl -sS http://127.0.0.1/")
      run:signal "INT"
      assert.equal(0, run:wait(60), run:read "err")
      assert.is_truthy(compiled, run:read "err")
      assert.equal("hello", answer.out, answer.err)
      assert.equal("", run:read "err")
   end)
end)

describe("DPDK's telemetry", function()
   it("answers while the engine runs", function()
      if posix.geteuid() ~= 0 then return pending "needs root: the socket is in /var/run/dpdk" end
      local dir = shell.directory()
      shell.write(dir .. "/t.lua", IDLE)
      local run = Lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s run --no-huge --memory 128 %s/t.lua"):format(dir,
         shell.binary, dir))
      assert.is_true(run:says("ready:", 60), run:read "err")
      local fd = C.tw_posix_socket(AF_UNIX, SOCK_SEQPACKET, 0)
      local function ask(text)
         if text then socket.send(fd, text, 0) end
         posix.poll({ fd }, 60000)
         local bytes, count = socket.receive(fd)
         return bytes and json.decode(ffi.string(bytes, count))
      end
      local connected = C.tw_posix_connect(fd, address(("/var/run/dpdk/tideway-%d/dpdk_telemetry.v2"):format(run.pid)))
      local hello, list = ask(), ask "/ethdev/list"
      local stats = ask "/ethdev/stats,0"
      posix.close(fd)
      run:stop()
      shell.remove(dir)
      assert.equal(0, connected)
      assert.equal(run.pid, hello.pid)
      assert.same({ ["/ethdev/list"] = { 0, 1 } }, list)
      assert.equal(0, stats["/ethdev/stats"].ierrors)
   end)
end)
