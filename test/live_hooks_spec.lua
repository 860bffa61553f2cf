-- SPDX-License-Identifier: BSD-3-Clause
-- Chains on hooks of the kernel with real traffic: native and generic XDP, TC ingress and egress, in the lab.

local json = require "tideway.json"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local missing = labs.missing "tc"

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
   end
end

local function ping(lab, role, address, options)
   return lab:run(role, ("ping -n -i 0.02 -W 1 %s %s"):format(options or "-c 3", address))
end

local function works(lab, role, address, options)
   local r = ping(lab, role, address, options)
   assert.equal(0, r.code, r.out .. r.err)
   return r.out
end

local function chain_of(counters, name)
   for _, chain in ipairs(counters.chains) do
      if chain.name == name then return chain end
   end
end

local function dropped(chain, reason)
   local n = 0
   for _, nf in ipairs(chain.nfs) do
      for _, d in ipairs(nf.drops) do
         if d.reason == reason then n = n + d.count end
      end
   end
   return n
end

-- Programs, filters and qdiscs on the interfaces in the middle.
local function attached(lab)
   local list = {}
   for line in lab:run("dut", "ip -d link").out:gmatch "[^\n]+" do
      if line:find "prog/xdp" then list[#list + 1] = line end
   end
   for _, iface in ipairs { "tw-lan", "tw-wan" } do
      for _, side in ipairs { "ingress", "egress" } do
         for line in lab:run("dut", ("tc filter show dev %s %s"):format(iface, side)).out:gmatch "[^\n]+" do
            if line:find "^filter" then list[#list + 1] = ("%s %s: %s"):format(iface, side, line) end
         end
      end
   end
   return list
end

-- The programs of ours among them.
local function running(lab)
   local list = {}
   for _, line in ipairs(attached(lab)) do
      if line:find "prog/xdp" or line:find "handle 0x7457" then list[#list + 1] = line end
   end
   return list
end

-- Stopped by a signal; its counters add up, and nothing is left of it.
local function stopped(lab, engine, signal)
   local result = engine:stop(signal)
   assert.equal(0, result.code, result.err)
   local c = result.counters
   assert.equal(0, c.totals.difference)
   for _, chain in ipairs(c.chains) do
      assert.equal(0, chain.difference)
      assert.equal(chain.rx, chain.nfs[1].received)
   end
   assert.same({}, attached(lab))
   assert.same({}, lab:left_by(engine.pid))
   return c, result
end

describe("chains on hooks:", function()
   local lab, dir

   setup(function()
      if missing then return end
      lab = labs.up { mode = "l2", napi = true }
      dir = shell.directory()
   end)
   teardown(function()
      if lab then
         lab:down()
         shell.remove(dir)
      end
   end)

   local function live(name, test, lacking)
      it(name, function()
         local why = missing or lacking
         if why then return pending(why) end
         test()
      end)
   end

   local function script(text)
      local path = dir .. "/script.lua"
      shell.write(path, 'local tw = require "tideway"\nlocal lan, wan = tw.port "tw-lan", tw.port "tw-wan"\n' .. text)
      return path
   end

   -- Counts and forwards both ways; IPv4 packets of TTL 1 are dropped.
   local FORWARD = [[
      local passed = tw.array { name = "passed", value = "u64", entries = 2 }
      local nf = tw.nf("nf", function() return {
         packet = function(pkt)
            passed:add(0, 1)
            local ip = pkt:ipv4()
            if ip and ip.ttl == 1 then return pkt:drop "too_old" end
         end,
         stop = function() io.stderr:write("counted " .. tonumber(passed:get(0)) .. "\n") end,
      } end)
      local place = { %s }
      tw.chain("up", lan, nf {}, wan):pin(place)
      tw.chain("down", wan, nf {}, lan):pin(place) ]]

   local places = {
      { "native XDP", "xdp = true, mode = 'native'", "xdp on tw-lan (native)" },
      { "generic XDP", "xdp = true, mode = 'generic'", "xdp on tw-lan (generic)" },
      { "TC ingress", "tc = true", "tc ingress of tw-lan" },
   }
   for _, place in ipairs(places) do
      live(place[1] .. " forwards, drops and counts exactly; nothing is left", function()
         local engine = lab:engine(script(FORWARD:format(place[2])))
         has(engine:read "err", place[3] .. ", program id", "instructions", "bytes")
         assert.is_nil(engine:read("err"):find("EAL", 1, true), "DPDK was started")
         works(lab, "client", "10.0.0.3", "-c 10")
         works(lab, "server", "2001:db8:1::2")
         assert.not_equal(0, ping(lab, "client", "10.0.0.3", "-c 2 -t 1").code)
         local c, result = stopped(lab, engine)
         local up, down = chain_of(c, "up"), chain_of(c, "down")
         assert.equal(2, up.dropped)
         assert.equal(2, dropped(up, "too_old"))
         assert.is_true(up.sent >= 13 and down.sent >= 13)
         assert.equal(up.rx, up.sent + 2)
         has(result.err, ("counted %d"):format(up.rx + down.rx))
      end)

      live(place[1] .. " carries TCP", function()
         local engine = lab:engine(script(FORWARD:format(place[2])))
         local server = lab:spawn("server", "iperf3 -s -1 --forceflush")
         assert(server:says("listening", 60))
         local r = lab:run("client", "iperf3 -J -t 1 -c 10.0.0.3")
         assert.equal(0, r.code, r.out .. r.err)
         assert.is_true(json.decode(r.out)["end"].sum_received.bytes > 1e6)
         local c = stopped(lab, engine)
         assert.is_true(chain_of(c, "up").rx_bytes > 1e6)
      end, labs.missing "iperf3")
   end

   live("TC egress sees what the host sends, and drops of it", function()
      lab:run("dut", "ip addr add 10.0.0.9/24 dev tw-lan")
      lab:run("dut", "ip link set tw-lan arp on")
      local answered = labs.eventually(60, function() return ping(lab, "dut", "10.0.0.2", "-c 1").code == 0 end)
      local ok, err = pcall(function()
         assert(answered, "the kernel's own ping does not work")
         local engine = lab:engine(script [[
            tw.chain("out", lan, function(pkt)
               local ip = pkt:ipv4()
               if ip and ip.protocol == 1 and ip.total_length == 28 + 10 then return pkt:drop "unwanted" end
            end):pin { tc = "tw-lan:egress" } ]])
         works(lab, "dut", "10.0.0.2", "-c 2")
         assert.not_equal(0, ping(lab, "dut", "10.0.0.2", "-c 2 -s 10").code)
         works(lab, "dut", "10.0.0.2", "-c 2")
         local out = chain_of(stopped(lab, engine), "out")
         assert.is_true(dropped(out, "unwanted") >= 2) -- ping hears of it, and tries again
         assert.equal(out.rx, out.passed + out.dropped)
         assert.is_true(out.passed >= 4)
      end)
      lab:run("dut", "ip link set tw-lan arp off")
      lab:run("dut", "ip addr del 10.0.0.9/24 dev tw-lan")
      if not ok then error(err, 0) end
   end)

   live("a table is edited while its chain runs, in tick() too", function()
      local engine = lab:engine(script [[
         local limit = tw.array { name = "limit", value = "u32", entries = 1 }
         local seen = 0
         local nf = tw.nf("nf", function() return {
            packet = function(pkt)
               if (limit:get(0) or 0) > 0 and pkt:ipv4() then return pkt:drop "closed" end
            end,
            tick = function()
               seen = seen + 1
               if seen == 5 then limit:set(0, 1) io.stderr:write "closed now\n" end
            end,
         } end)
         tw.chain("up", lan, nf {}, wan):pin { tc = lan }
         tw.chain("down", wan, nf {}, lan):pin { tc = wan }]])
      assert(engine:says("closed now", 60), engine:read "err")
      assert.not_equal(0, ping(lab, "client", "10.0.0.3", "-c 1").code)
      local c = stopped(lab, engine, "TERM")
      assert.is_true(dropped(chain_of(c, "up"), "closed") >= 1)
   end)

   for _, place in ipairs { "xdp = true", "tc = true" } do
      live("kill -9 leaves nothing that lasts: " .. place, function()
         local path = script(FORWARD:format(place))
         local engine = lab:engine(path)
         works(lab, "client", "10.0.0.3")
         assert.equal(137, engine:stop("KILL").code)
         -- Links of XDP end with the process, filters of TC when the next one starts, wherever that attaches.
         if place:find "xdp" then
            assert(labs.eventually(60, function() return #attached(lab) == 0 end), attached(lab)[1])
         end
         local next = lab:engine(script [[tw.chain("c", lan, function(pkt) return pkt:pass() end):pin { xdp = lan }]])
         for _, line in ipairs(attached(lab)) do has(line, "xdp") end
         stopped(lab, next)
      end)
   end

   live("programs and filters of others stay as they are", function()
      lab:run("dut", "tc qdisc add dev tw-lan clsact")
      lab:run("dut", "tc filter add dev tw-lan ingress pref 7 u32 match u32 0 0xffffffff flowid 1:1")
      local theirs = attached(lab)
      assert.is_true(#theirs > 0)
      local engine = lab:engine(script(FORWARD:format "tc = true"))
      assert.is_true(#attached(lab) > #theirs)
      local result = engine:stop()
      assert.equal(0, result.code, result.err)
      assert.same(theirs, attached(lab))
      lab:run("dut", "tc qdisc del dev tw-lan clsact")

      local first = lab:engine(script(FORWARD:format "xdp = true"))
      local second = lab:launch(script(FORWARD:format "xdp = true"), {}, "--name second")
      assert.equal(2, second:wait(60))
      has(second:stop("KILL").err, "script.lua:", "chain up", "tw-lan already runs", "which is not ours")
      works(lab, "client", "10.0.0.3")
      stopped(lab, first)
   end)

   for _, place in ipairs { "xdp = true", "tc = true" } do
      live("what persists goes on without a process, and the next run takes it up: " .. place, function()
         local name = "spec-" .. posix.getpid()
         local path = script(FORWARD:format(("%s, persist = %q"):format(place, name)))
         -- `ip netns exec` would give it a /sys of its own, and take the pins away at its end.
         local function start()
            local engine = labs.spawn(("nsenter --net=/run/netns/%s-dut env TIDEWAY_RUN_DIR=%s %s run --json %s")
               :format(lab.name, lab.run_dir, shell.binary, path))
            assert(engine:says("ready:", 60), engine:read "err")
            return engine
         end
         local forwarded = 0
         for _ = 1, 2 do
            local engine = start()
            works(lab, "client", "10.0.0.3")
            local result = engine:stop()
            assert.equal(0, result.code, result.err)
            assert.equal(0, result.counters.totals.difference)
            forwarded = forwarded + 6
            works(lab, "client", "10.0.0.3")
            assert.equal(2, #running(lab))
         end
         local engine = start()
         has(engine:read "err", "earlier run")
         assert.equal(2, #running(lab))
         local result = engine:stop()
         -- Tables stay too: all that was forwarded so far, by whom ever.
         assert.is_true(tonumber(result.err:match "counted (%d+)") >= forwarded + 12)
         os.execute("rm -rf /sys/fs/bpf/tideway/" .. name)
         os.execute "rmdir /sys/fs/bpf/tideway 2>/dev/null"
         for _, iface in ipairs { "tw-lan", "tw-wan" } do lab:run("dut", "tc qdisc del dev " .. iface .. " clsact") end
         assert(labs.eventually(60, function() return #attached(lab) == 0 end), attached(lab)[1])
      end, not shell.has "nsenter" and "nsenter is missing" or nil)
   end

   for _, place in ipairs { "xdp", "tc" } do
      live("the library's bridge learns and floods on " .. place, function()
         local engine = lab:engine(script(
            ("tw.chain('bridge', { lan, wan }, tw.nf.l2_bridge {}):pin { %s = true }"):format(place)))
         lab:run("client", "ip neighbour flush dev eth0")
         works(lab, "client", "10.0.0.3")
         works(lab, "server", "2001:db8:1::2")
         local bridge = chain_of(stopped(lab, engine), "bridge")
         assert.is_true(bridge.sent >= 14)
      end)
   end

   live("a route's packets, by a lightweight tunnel", function()
      local engine = labs.spawn(lab:inside("client", ("env TIDEWAY_RUN_DIR=%s %s run --json %s"):format(lab.run_dir,
         shell.binary, script [[
            tw.chain("out", {}, function(pkt)
               local ip = pkt:ipv4()
               if ip and ip.ttl == 3 then return pkt:drop "three" end
            end):pin { lwt = "203.0.113.0/24 via 10.0.0.3 dev eth0", at = "xmit" }]])))
      assert(engine:says("ready:", 60), engine:read "err")
      has(lab:run("client", "ip route").out, "203.0.113.0/24", "encap bpf")
      ping(lab, "client", "203.0.113.7", "-c 2 -W 0.2")
      ping(lab, "client", "203.0.113.7", "-c 2 -W 0.2 -t 3")
      local result = engine:stop()
      assert.equal(0, result.code, result.err)
      local out = chain_of(result.counters, "out")
      assert.same({ 4, 2, 2, 0 }, { out.rx, out.passed, dropped(out, "three"), out.difference })
      assert.is_nil(lab:run("client", "ip route").out:find("203.0.113", 1, true))
   end)

   live("what will be dropped behind a program is told", function()
      lab:run("client", "ethtool -K eth0 gro off")
      local engine = lab:engine(script(FORWARD:format "xdp = true"))
      has(engine:read "err", "tw-lan drops what XDP redirects to it", "ethtool -K PEER gro on")
      assert.is_nil(engine:read("err"):find("tw-wan drops", 1, true))
      stopped(lab, engine)
      lab:run("client", "ethtool -K eth0 gro on")
   end)

   live("top shows chains on hooks", function()
      local engine = lab:engine(script(FORWARD:format "tc = true"))
      works(lab, "client", "10.0.0.3", "-c 5")
      local up
      assert.is_truthy(labs.eventually(60, function()
         local top = shell.tideway("top --once --json --interval 0.1", "TIDEWAY_RUN_DIR=" .. lab.run_dir)
         assert.equal(0, top.code, top.err)
         up = chain_of(json.decode(top.out), "up")
         return up.rx >= 5
      end))
      assert.equal("tc ingress of tw-lan", up.place)
      has(shell.tideway("top --once", "TIDEWAY_RUN_DIR=" .. lab.run_dir).out, "up", "nf", "eBPF",
         "tc ingress of tw-lan")
      stopped(lab, engine)
   end)

   local function refused(text, ...)
      local process = lab:launch(script(text))
      assert.equal(2, process:wait(60), process:read "err")
      local result = process:stop "KILL"
      has(result.err, ...)
      assert.same({}, attached(lab))
      assert.same({}, lab:left_by(process.pid))
   end

   live("what cannot start exits with 2, says where and why, and leaves nothing", function()
      refused([[tw.chain("c", lan, function(pkt) local x = {} end):pin { xdp = true }]], "script.lua:3:", "^",
         "in chain c, pinned to xdp at")
      refused([[tw.chain("c", tw.port "nope", function() end):pin { xdp = true }]], "script.lua:3: port nope",
         'no network interface "nope"', "ip link")
      refused([[tw.chain("c", lan, function() end):pin { xdp = "nope" }]], "nope")
      refused([[
         tw.chain("one", lan, function() end):pin { tc = true }
         tw.chain("two", wan, function(pkt) local x = {} end):pin { tc = true }]], "script.lua:4:")
      refused([[
         local t = tw.array { name = "shared", value = "u64", entries = 1 }
         local function count() t:add(0, 1) end
         tw.chain("one", lan, count):pin { xdp = true }
         tw.chain("two", wan, count):pin { lcore = 0 }]], "table shared", "chain one", "chain two")
   end)

   live("09-anywhere.lua runs on every place", function()
      for _, place in ipairs { "lcore", "xdp", "generic", "tc" } do
         local engine = lab:engine("examples/09-anywhere.lua", { place })
         has(works(lab, "client", "10.0.0.3"), "ttl=63")
         works(lab, "server", "2001:db8:1::2")
         assert.not_equal(0, ping(lab, "client", "10.0.0.3", "-c 1 -t 1").code)
         assert.equal(1, dropped(chain_of(stopped(lab, engine), "up"), "ttl_expired"))
      end
   end)
end)
