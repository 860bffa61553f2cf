-- SPDX-License-Identifier: BSD-3-Clause
-- The real binary when things go wrong: scripts that do not load, devices that do not fit, kills, neighbours.

local json = require "tideway.json"
local labs = require "test.support.lab"
local posix = require "tideway.posix"
local shell = require "test.shell"

local missing = labs.missing()
local DRIVERS = { "af_packet", "af_xdp" }

local function has(text, ...)
   for _, part in ipairs { ... } do
      assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text))
   end
end

local function ping_works(lab, role, address)
   local r = lab:run(role, "ping -n -c 2 -i 0.02 -W 2 " .. address)
   assert.equal(0, r.code, r.out .. r.err)
end

local function devices_of(driver)
   return { ("net_%s0,iface=tw-lan"):format(driver), ("net_%s1,iface=tw-wan"):format(driver) }
end

describe("tideway run, live:", function()
   local lab, dir

   setup(function()
      if missing then return end
      lab = labs.up { mode = "l2" }
      dir = shell.directory()
   end)
   teardown(function()
      if lab then lab:down() end
      if dir then shell.remove(dir) end
   end)

   local function live(name, test)
      it(name, function()
         if missing then return pending(missing) end
         test()
      end)
   end

   local function script(text)
      shell.write(dir .. "/script.lua", 'local tw = require "tideway"\n' .. text)
      return dir .. "/script.lua"
   end

   -- Run a script that cannot start; returns its error text.
   local function refused(text, options)
      local process = lab:launch(script(text), {}, options)
      local code = process:wait(60)
      local result = process:stop "KILL"
      assert.equal(2, code, result.err)
      assert.equal("", result.out)
      assert.same({}, lab:left_by(process.pid))
      return result.err
   end

   local LAN = 'local lan = tw.port("lan", "net_af_packet0,iface=tw-lan")\n'
   local SINK = 'tw.chain("c", lan, tw.nf.count {}, lan)\n'

   describe("a script that cannot start exits with 2, says where and why, and leaves nothing:", function()
      live("a syntax error", function()
         has(refused "local x = = 1", "script.lua:2:", "unexpected symbol")
      end)

      live("an error after a port was opened", function()
         has(refused(LAN .. "error 'no such plan'"), "script.lua:3: no such plan")
      end)

      live("an error with XDP attached already", function()
         has(refused 'local lan = tw.port("lan", "net_af_xdp0,iface=tw-lan")\nlocal x = nil + 1', "script.lua:3:")
      end)

      live("an NF that does not exist", function()
         has(refused(LAN .. 'tw.chain("c", lan, tw.nf.brigde {})'), "script.lua:3:", '"brigde"', "l2_bridge")
      end)

      live("an interface that does not exist", function()
         has(refused 'tw.port "net_af_packet0,iface=tw-lann"', "script.lua:2:", "tw-lann", "tw-lan, tw-wan")
         has(refused 'tw.port "net_af_xdp0,iface=nope"', "nope", "tw-lan")
      end)

      live("a driver that does not exist", function()
         has(refused 'tw.port "net_afpacket0,iface=tw-lan"', "script.lua:2:", "net_afpacket0", "such as net_af_packet0")
      end)

      live("a port given twice", function()
         for _, second in ipairs {
            '"again", "net_af_packet0,iface=tw-wan"', '"again", "net_af_packet1,iface=tw-lan"',
            '"lan", "net_af_packet1,iface=tw-wan"',
         } do
            has(refused(LAN .. "tw.port(" .. second .. ")"), "script.lua:3: tw.port: ", "script.lua:2")
         end
      end)

      live("an lcore that does not exist", function()
         has(refused(LAN .. 'tw.chain("c", lan, lan):pin { lcore = 4095 }'), "script.lua:3", "4095", "may use CPU")
      end)

      live("more queues than the device has", function()
         for _, driver in ipairs(DRIVERS) do
            local text = refused(([[
               local lan = tw.port("lan", "net_%s0,iface=tw-lan")
               tw.chain("c", lan, lan):pin { lcore = { 0, 1 } }]]):format(driver))
            has(text, "script.lua:3", "2 lcores", "at most 1", "queue_count=")
         end
      end)

      live("more queues than the interface has", function()
         has(refused [[
            local lan = tw.port("lan", "net_af_xdp0,iface=tw-lan,start_queue=0,queue_count=8")
            tw.chain("c", lan, lan)]], "net_af_xdp0", "8")
      end)

      live("a pool that is too small for the queues", function()
         has(refused("tw.options { mbufs = 256 }\n" .. LAN .. SINK), "256", "too small", "mbufs =")
      end)

      live("a chain without a source, and a script without a chain", function()
         has(refused(LAN .. 'tw.chain("c", nil, lan)'), "script.lua:3:", "source")
         has(refused(LAN), "no chain", "tw.chain")
      end)

      live("a configuration that an NF refuses", function()
         has(refused(LAN .. 'tw.chain("c", lan, tw.nf.l2_bridge { ageing = -5 })'), "script.lua:3:", "ageing is -5")
      end)
   end)

   for _, driver in ipairs(DRIVERS) do
      describe("on " .. driver .. " ports", function()
         local function start() return lab:engine("examples/02-bridge.lua", devices_of(driver)) end

         for _, signal in ipairs { "INT", "TERM" } do
            live("SIG" .. signal .. " ends it with its counters and leaves nothing", function()
               local engine = start()
               ping_works(lab, "client", "10.0.0.3")
               local result = engine:stop(signal)
               assert.equal(0, result.code, result.err)
               assert.equal(0, result.counters.totals.difference)
               assert.is_true(result.counters.totals.received >= 4)
               assert.same({}, lab:left_by(engine.pid))
            end)
         end

         live("a stop in the middle of a TCP flow loses no count", function()
            local lacking = labs.missing "iperf3"
            if lacking then return pending(lacking) end
            local engine = start()
            local server = lab:spawn("server", "iperf3 -s -1 --forceflush")
            assert(server:says("listening", 60))
            local client = lab:spawn("client", "iperf3 -c 10.0.0.3 -t 300")
            assert.is_truthy(labs.eventually(60, function()
               local top = shell.tideway("top --once --json --interval 0.1", "TIDEWAY_RUN_DIR=" .. lab.run_dir)
               return top.code == 0 and json.decode(top.out).totals.received > 1000
            end))
            local result = engine:stop()
            client:signal "KILL"
            server:signal "KILL"
            assert.equal(0, result.code, result.err)
            assert.is_true(result.counters.totals.received > 1000)
            assert.equal(0, result.counters.totals.difference)
            assert.equal(0, result.counters.chains[1].difference)
            assert.same({}, lab:left_by(engine.pid))
         end)

         live("kill -9 needs nothing done before the next start", function()
            for _ = 1, 2 do
               local engine = start()
               ping_works(lab, "client", "10.0.0.3")
               assert.equal(137, engine:stop("KILL").code)
            end
            local engine = start()
            ping_works(lab, "client", "10.0.0.3")
            ping_works(lab, "server", "2001:db8:1::2")
            assert.equal(0, engine:stop().code)
            assert.same({}, lab:left_by(engine.pid))
         end)

         live("kill -9 while it starts needs nothing done either", function()
            for _, ms in ipairs { 20, 80, 200 } do
               local engine = lab:launch("examples/02-bridge.lua", devices_of(driver))
               posix.poll({}, ms)
               engine:stop "KILL"
            end
            local engine = start()
            ping_works(lab, "client", "10.0.0.3")
            assert.equal(0, engine:stop().code)
            assert.same({}, lab:left_by(engine.pid))
         end)

         live("two instances stand side by side", function()
            local devices = devices_of(driver)
            lab:run("client", "ip neighbour replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0")
            lab:run("server", "ip neighbour replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0")
            local one = lab:engine("examples/01-reflect.lua", { devices[1] })
            local two = lab:engine("examples/01-reflect.lua", { devices[2] })
            ping_works(lab, "client", "10.0.0.9")
            ping_works(lab, "server", "10.0.0.9")
            local top = shell.tideway("top --once --json --interval 0.1 01-reflect-2",
               "TIDEWAY_RUN_DIR=" .. lab.run_dir)
            assert.equal(0, top.code, top.err)
            local before = json.decode(top.out).totals.received
            -- The end of one is nothing to the other.
            local first = one:stop()
            assert.equal(0, first.code, first.err)
            ping_works(lab, "server", "10.0.0.9")
            local second = two:stop()
            assert.equal(0, second.code, second.err)
            assert.equal("01-reflect", first.counters.instance)
            assert.equal("01-reflect-2", second.counters.instance)
            assert.is_true(second.counters.totals.received >= before + 2)
            assert.same({}, lab:left_by(two.pid))
         end)

      end)
   end

   live("an interface that an XDP program is on is not taken from it", function()
      local engine = lab:engine("examples/02-bridge.lua", devices_of "af_xdp")
      local text = 'local lan = tw.port("lan", "net_af_xdp0,iface=tw-lan")\n' .. SINK
      -- refused() would find the XDP programs of the instance that runs.
      local late = lab:launch(script(text))
      assert.equal(2, late:wait(60))
      has(late:stop("KILL").err, "script.lua:2:", "interface tw-lan is in use", ("process %d "):format(engine.pid))
      ping_works(lab, "client", "10.0.0.3")
      assert.equal(0, engine:stop().code)
   end)

   live("an XDP program of somebody else is not removed", function()
      if not shell.has "clang" then return pending "clang is missing: apt-get install clang" end
      local source = '__attribute__((section("xdp"), used)) int others(void *ctx) { return 2; }'
      shell.write(dir .. "/others.c", source .. '\nchar _license[] __attribute__((section("license"), used)) = "BSD";')
      local object = dir .. "/others.o"
      assert.equal(0, shell.run(("clang -O2 -g -target bpf -c %s/others.c -o %s"):format(dir, object)).code)
      local attach = lab:run("dut", "ip link set dev tw-lan xdp object " .. object .. " section xdp")
      assert.equal(0, attach.code, attach.err)
      local late = lab:launch("examples/01-reflect.lua", { "net_af_xdp0,iface=tw-lan" })
      assert.equal(2, late:wait(60))
      has(late:stop("KILL").err, "01-reflect.lua:", "XDP program", "(others), which is not ours", "xdp off")
      has(lab:run("dut", "ip -d link show tw-lan").out, "others")
      assert.equal(0, lab:run("dut", "ip link set dev tw-lan xdp off").code)
   end)

   live("two queues on two lcores forward both directions", function()
      local wide = labs.up { mode = "l2", queues = 2 }
      local ok, err = pcall(function()
         shell.write(dir .. "/wide.lua", [[
            local tw = require "tideway"
            local lan = tw.port("lan", "net_af_packet0,iface=tw-lan,qpairs=2")
            local wan = tw.port("wan", "net_af_packet1,iface=tw-wan,qpairs=2")
            tw.chain("bridge", { lan, wan }, tw.nf.l2_bridge {}):pin { lcore = { 0, 1 } }]])
         local engine = wide:engine(dir .. "/wide.lua")
         for _ = 1, 8 do -- flows of several hashes, so that both queues get some
            ping_works(wide, "client", "10.0.0.3")
            ping_works(wide, "client", "2001:db8:1::3")
         end
         local result = engine:stop()
         assert.equal(0, result.code, result.err)
         assert.equal(0, result.counters.totals.difference)
         assert.equal(2, #result.counters.lcores)
         assert.equal(2, result.counters.ports[1].rx_queues)
      end)
      wide:down()
      if not ok then error(err, 0) end
   end)

   live("bad arguments of examples are the script's own errors", function()
      local process = lab:launch("examples/05-write-your-own.lua", { "eighty" })
      assert.equal(2, process:wait(60))
      has(process:stop("KILL").err, "05-write-your-own.lua:", "eighty is not a port number")
   end)
end)
