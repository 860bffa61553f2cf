-- SPDX-License-Identifier: BSD-3-Clause
-- What a running engine gives up, read back from the kernel and tried; its helper process; that everything goes on.

local abi = require "tideway.abi"
local bit = require "bit"
local json = require "tideway.json"
local lab = require "test.support.lab"
local lfs = require "lfs"
local native = require "tideway.native"
local posix = require "tideway.posix"
local privilege = require "tideway.privilege"
local shell = require "test.shell"

local C = abi.C
local CHILD = "test/support/privilege_child.lua"
local NO_NEW = { "CapPrm", "CapEff", "CapBnd", "CapAmb", "CapInh" }

local missing = lab.missing()
local have_cc = native.compiler() ~= nil

local function status_of(pid, tid)
   local text, list = posix.slurp(("/proc/%d/task/%s/status"):format(pid, tid)), {}
   for key, value in (text or ""):gmatch "(%w+):%s*(%S+)" do list[key] = value end
   return list
end

local function threads(pid)
   local list = {}
   for tid in lfs.dir(("/proc/%d/task"):format(pid)) do
      if not tid:find "^%." then list[tid] = status_of(pid, tid) end
   end
   return list
end

local function mask_of(...)
   local mask = 0ULL
   for _, c in ipairs(privilege.CAPABILITIES) do
      for _, name in ipairs { ... } do
         if c.name == name then mask = bit.bor(mask, bit.lshift(1ULL, c.bit)) end
      end
   end
   return mask
end

local function number(hex) return loadstring("return 0x" .. hex .. "ULL")() end

-- The helper of an engine.
local function helper_of(pid)
   for task in io.lines(("/proc/%d/task/%d/children"):format(pid, pid)) do
      for child in task:gmatch "%d+" do
         local name = posix.slurp(("/proc/%s/comm"):format(child))
         if name == "tideway-helper\n" then return tonumber(child) end
      end
   end
end

local function compilations(pid)
   local list = {}
   for name in lfs.dir "/tmp" do
      if name:find("^tideway%-" .. pid .. "%-") then list[#list + 1] = "/tmp/" .. name end
   end
   return list
end

local function ends_well(engine)
   local result = engine:stop()
   assert.equal(0, result.code, result.err)
   return result
end

describe("tideway run", function()
   local dir, engines

   before_each(function()
      dir, engines = shell.directory(), {}
      shell.run("chmod 755 " .. dir)
   end)
   after_each(function()
      for _, engine in ipairs(engines) do
         if posix.alive(engine.pid) then engine:stop "KILL" end
      end
      shell.remove(dir)
   end)

   -- Starts the child script; `prefix`: what stands before the binary.
   local function start(what, options, prefix)
      local engine = lab.spawn(("env TIDEWAY_RUN_DIR=%s/run %s %s run --json %s %s %s/results %s"):format(dir,
         prefix or "", shell.binary, options or "", CHILD, dir, what))
      engines[#engines + 1] = engine
      assert(engine:says("ready:", 60), engine:read "err")
      return engine
   end

   local function results()
      local text = lab.eventually(60, function() return posix.slurp(dir .. "/results") end)
      local got = json.decode(assert(text, "the script wrote nothing"))
      assert.is_nil(got.failed)
      return got
   end

   local function live(name, test)
      it(name, function()
         if missing then return pending(missing) end
         test()
      end)
   end

   live("gives up what it does not need, in every thread", function()
      local engine = start "nothing"
      local mine = number(status_of(posix.getpid(), posix.getpid()).CapPrm)
      local want = bit.band(mine, mask_of("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_PERFMON", "CAP_BPF"))
      local n = 0
      for tid, status in pairs(threads(engine.pid)) do
         local who = status.Name .. " " .. tid
         for _, set in ipairs(NO_NEW) do
            local expected = (set == "CapAmb" or set == "CapInh") and 0ULL or want
            assert.equal(expected, number(status[set]), ("%s of %s"):format(set, who))
         end
         assert.same({ "1", "2" }, { status.NoNewPrivs, status.Seccomp }, who)
         n = n + 1
      end
      assert.is_true(n >= 4, "control thread, EAL's, watchdog, lcore")
      assert.truthy(engine:read("err"):find "privileges: CAP_NET_ADMIN .*; no new ones; %d+ system calls")
      ends_well(engine)
   end)

   live("keeps nothing that wire ports need no more, when told to keep the least", function()
      local engine = start("nothing", "--privileges least")
      for _, status in pairs(threads(engine.pid)) do
         assert.same({ "0000000000000000", "0000000000000000" }, { status.CapPrm, status.CapBnd })
      end
      assert.truthy(engine:read("err"):find("privileges: no capability", 1, true))
      ends_well(engine)
   end)

   live("keeps everything when told so", function()
      local engine = start("nothing", "--privileges keep")
      local mine = status_of(posix.getpid(), posix.getpid())
      for _, status in pairs(threads(engine.pid)) do
         assert.same({ mine.CapPrm, "0", "0" }, { status.CapPrm, status.NoNewPrivs, status.Seccomp })
      end
      ends_well(engine)
   end)

   live("is read back by tideway doctor", function()
      local function finding(engine)
         local report = json.decode(shell.tideway("doctor --json", "TIDEWAY_RUN_DIR=" .. dir .. "/run").out)
         for _, f in ipairs(report.findings) do
            if f.what:find(("(pid %d)"):format(engine.pid), 1, true) then return f end
         end
      end
      local engine = start "nothing"
      local f = finding(engine)
      assert.equal("ok", f.state)
      assert.truthy(f.what:find("CAP_BPF, no new ones, system calls filtered", 1, true), f.what)
      engine:stop()
      f = finding(start("nothing", "--privileges keep"))
      assert.equal("warn", f.state)
      assert.truthy(f.what:find("every system call", 1, true), f.what)
   end)

   live("is refused what no engine does, and goes on", function()
      local engine = start "calls"
      for call, held in pairs(results()) do assert.is_true(held, call) end
      assert.is_nil(engine:code())
      assert.equal(0, ends_well(engine).counters.totals.difference)
   end)

   live("still compiles to machine code, by the helper", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      local engine = start "nothing"
      assert.truthy(lab.eventually(60, function()
         return (posix.slurp(("/proc/%d/maps"):format(engine.pid)) or ""):find("memfd:tideway-chain", 1, true)
      end))
      assert.same({}, compilations(engine.pid))
      local result = engine:stop()
      assert.equal("native", result.counters.chains[1].tier)
      assert.is_false(posix.alive(engine.pid))
   end)

   -- A compiler that says what it may, as an error.
   local function compiler(text)
      shell.write(dir .. "/bin/cc", "#!/bin/sh\n" .. text)
      shell.run(("chmod -R 755 %s/bin"):format(dir))
      return ("PATH=%s/bin:/usr/bin:/bin"):format(dir)
   end

   live("runs the compiler as nobody, without rights, network or a way to get them", function()
      local engine = start("nothing", "", compiler [[
         r=$(grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp|Groups):' /proc/self/status | awk '{printf "%s%s;", $1, $2}')
         touch /tmp/tideway-privilege-spec-$PPID 2>/dev/null
         python3 -c 'import socket; socket.socket()' 2>/dev/null && r="$r socket"
         echo "error $r $(nice) $(ls -ld . | cut -c1-10) ${HOME:-no-home}"
         exit 3]])
      assert.is_true(engine:says("ended with status 3", 60))
      local said = engine:read "err"
      local uid = tonumber(said:match "Uid:(%d+);")
      assert.is_true(uid == 65534 or uid >= 2000000000, said)
      assert.truthy(said:find("Groups:;CapEff:0000000000000000;", 1, true), said)
      assert.truthy(said:find("NoNewPrivs:1;Seccomp:2; 10 drwx------ no-home", 1, true), said)
      os.execute(("rm -f /tmp/tideway-privilege-spec-%d"):format(helper_of(engine.pid)))
      assert.same({}, compilations(engine.pid))
      ends_well(engine)
   end)

   for _, signal in ipairs { "KILL", "INT" } do
      live("leaves neither helper nor compiler nor files behind on SIG" .. signal, function()
         local engine = start("nothing", "", compiler "echo $$ >pid; exec sleep 600")
         local pid, helper = engine.pid, helper_of(engine.pid)
         local compiling = lab.eventually(60, function()
            local made = compilations(pid)[1]
            return made and tonumber(posix.slurp(made .. "/pid") or "")
         end)
         assert.truthy(helper)
         assert.truthy(compiling, "the compiler has not started")
         assert.equal(signal == "KILL" and 137 or 0, engine:stop(signal).code)
         assert.truthy(lab.eventually(60, function()
            return not posix.alive(helper) and not posix.alive(compiling) and #compilations(pid) == 0
         end))
      end)
   end

   live("goes on without a helper, and says so", function()
      local engine = start("nothing", "", compiler "sleep 600")
      local helper = helper_of(engine.pid)
      assert.truthy(lab.eventually(60, function() return #compilations(engine.pid) > 0 end))
      os.execute(("kill -TERM %d"):format(helper))
      assert.is_true(engine:says("the helper process has ended", 60))
      assert.same({}, compilations(engine.pid))
      ends_well(engine)
   end)

   live("opens ports and attaches programs while it runs, and takes nobody's interface", function()
      local net = lab.up { mode = "l2" }
      local ok, err = pcall(function()
         local holder = net:engine("examples/01-reflect.lua", { "net_af_xdp0,iface=tw-wan" })
         local child = ("%s/results"):format(dir)
         local engine = net:engine(CHILD, { child, "changes", "tw-lan", "tw-wan" })
         local got = results()
         for _, change in ipairs { "af_packet", "af_xdp", "xdp", "tc_ingress" } do
            assert.equal(true, got[change], change .. ": " .. tostring(got[change]))
         end
         assert.truthy(tostring(got.taken):find(("process %d runs XDP program"):format(holder.pid), 1, true),
            tostring(got.taken))
         ends_well(engine)
         assert.equal(0, holder:stop().code)
         assert.same({}, net:left_by(engine.pid))
      end)
      net:down()
      if not ok then error(err, 0) end
   end)

   for _, ports in ipairs {
      { "net_af_packet0,iface=tw-lan", "net_af_packet1,iface=tw-wan" },
      { "net_af_xdp0,iface=tw-lan", "net_af_xdp1,iface=tw-wan" },
   } do
      local driver = ports[1]:match "^net_([a-z_]+)"
      live("runs and stops with the least on " .. driver .. " ports", function()
         local net = lab.up { mode = "l2" }
         local ok, err = pcall(function()
            local engine = net:engine("examples/02-bridge.lua", ports, "--privileges least")
            assert.equal(0, net:run("client", "ping -c 2 -i 0.2 -W 2 10.0.0.3").code)
            local result = engine:stop()
            assert.equal(0, result.code, result.err)
            assert.same({}, net:left_by(engine.pid))
         end)
         net:down()
         if not ok then error(err, 0) end
      end)
   end

   for _, place in ipairs { "xdp", "tc" } do
      live("runs and stops with the least on " .. place, function()
         local net = lab.up { mode = "l2", napi = true }
         local ok, err = pcall(function()
            local engine = net:engine("examples/09-anywhere.lua", { place }, "--privileges least")
            assert.equal(0, net:run("client", "ping -c 2 -i 0.2 -W 2 10.0.0.3").code)
            local result = engine:stop()
            assert.equal(0, result.code, result.err)
            assert.same({}, net:left_by(engine.pid))
            assert.equal("", net:run("dut", "tc filter show dev tw-lan ingress").out)
         end)
         net:down()
         if not ok then error(err, 0) end
      end)
   end

   it("takes drop, least and keep, and nothing else", function()
      shell.write(dir .. "/bad.lua", 'require("tideway").options { privileges = "some" }')
      local r = shell.tideway("check " .. dir .. "/bad.lua")
      assert.equal(2, r.code)
      assert.truthy((r.out .. r.err):find("privileges is drop, least or keep, not some", 1, true))
      assert.equal(2, shell.tideway("run --privileges some x.lua").code)
   end)
end)

describe("engines that are turned by hand", function()
   it("give up nothing", function()
      local rig = require("test.support.rig").new { ports = { "a", "b" } }
      rig:chain("c", rig.a, require("tideway").nf.count {}, rig.b)
      rig:start()
      rig:close()
      assert.is_false(C.tw_privileges_dropped())
      assert.equal("0", status_of(posix.getpid(), posix.getpid()).Seccomp)
   end)
end)
