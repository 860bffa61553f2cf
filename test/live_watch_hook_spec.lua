-- SPDX-License-Identifier: BSD-3-Clause
-- Chains on XDP and TC that are traced and captured under real traffic: what is shown is what passed, and when those
-- who look end, in whatever way, the program that ran before runs again.

local json = require "tideway.json"
local labs = require "test.support.lab"
local shell = require "test.shell"

local missing = labs.missing "tc"

local SCRIPT = [[
local tw = require "tideway"
local lan, wan = tw.port "tw-lan", tw.port "tw-wan"
local ttl = tw.nf("ttl", function() return {
   packet = function(pkt)
      local ip = pkt:ipv4()
      if not ip then return end
      if ip.ttl == 1 then return pkt:drop "too_old" end
      ip.ttl = ip.ttl - 1
      ip:update_checksum()
   end,
} end)
local last = tw.nf("last", function() return { packet = function(pkt) pkt.mark = 5 end } end)
tw.chain("up", lan, ttl {}, last {}, wan):pin { %s = true }
tw.chain("down", wan, lan):pin { %s = true }
]]

for _, kind in ipairs { "xdp", "tc" } do
   describe("watched under traffic on " .. kind .. ":", function()
      local lab, engine, path

      setup(function()
         if missing then return end
         lab = labs.up { mode = "l2", napi = true }
         path = lab.files .. "/script.lua"
         shell.write(path, SCRIPT:format(kind, kind))
      end)
      teardown(function()
         if lab then lab:down() end
      end)

      local function live(name, test)
         it(name, function()
            if missing then return pending(missing) end
            engine = lab:engine(path)
            local ok, err = pcall(test)
            local result = engine:stop()
            if not ok then error(err, 0) end
            assert.equal(0, result.code, result.err)
            assert.equal(0, result.counters.totals.difference)
            for _, chain in ipairs(result.counters.chains) do assert.equal(0, chain.difference) end
            assert.same({}, lab:left_by(engine.pid))
         end)
      end

      local function command(text) return ("env TIDEWAY_RUN_DIR=%s %s %s"):format(lab.run_dir, shell.binary, text) end
      local function tideway(text) return lab:run("dut", command(text)) end

      local function pinging(options)
         return lab:spawn("client", "ping -n -i 0.01 -W 1 " .. options .. " 10.0.0.3")
      end

      -- Id of the program on tw-lan.
      local function program()
         local text = kind == "xdp" and lab:run("dut", "ip -d link show tw-lan").out
            or lab:run("dut", "tc filter show dev tw-lan ingress").out
         return text:match "prog/xdp id (%d+)" or text:match " id (%d+) name"
      end

      -- Who looks is there when the program on tw-lan is another one; only then packets come.
      local function looking(text)
         local before = program()
         local process = lab:spawn("dut", command(text))
         assert.is_truthy(labs.eventually(60, function() return process:code() or program() ~= before end))
         assert.is_nil(process:code(), process:read "err")
         return process
      end

      live("trace", function()
         local before = program()
         assert.is_truthy(before)
         local trace = looking "trace -n 3 --chain up --json icmp"
         local ping = pinging "-c 100"
         assert.equal(0, trace:wait(60), trace:read "err")
         local report = json.decode(trace:read "out")
         assert.equal(3, #report.packets)
         for _, p in ipairs(report.packets) do
            assert.same({ "up", "sent", "tw-lan", "tw-wan", 98 }, { p.chain, p.result, p.from, p.to, p.length })
            assert.same({ "ttl", "last" }, { p.steps[1].nf, p.steps[2].nf })
            assert.same({ field = "ipv4.ttl", before = "64", after = "63" }, p.steps[1].changes[1])
            assert.same({ "next", "next", 2 }, { p.steps[1].verdict, p.steps[2].verdict, #p.steps })
            assert.is_true(p.steps[1].ns > 0 and p.steps[1].ns < 1e9)
         end
         assert.is_truthy(labs.eventually(60, function() return program() == before end))
         assert.equal(0, ping:wait(60), ping:read "out")
         assert.is_truthy(ping:read("out"):find(" 0%% packet loss"))
      end)

      live("only those dropped for a reason", function()
         local trace = looking "trace -n 2 --reason too_old --json"
         local ping, dropped = pinging "-c 60", pinging "-c 60 -t 1"
         assert.equal(0, trace:wait(60), trace:read "err")
         for _, p in ipairs(json.decode(trace:read "out").packets) do
            assert.same({ "dropped", "too_old", "ttl" }, { p.result, p.reason, p.by })
         end
         assert.equal(0, ping:wait(60))
         dropped:stop()
      end)

      live("capture", function()
         local file = lab.files .. "/up.pcapng"
         local capture = looking(("capture up:out 'icmp and ip[8] = 63' -c 40 -w %s"):format(file))
         local ping = pinging "-c 100 -s 1000"
         assert.equal(0, capture:wait(60), capture:read "err")
         local text = shell.run("tcpdump -nn -v -r " .. file).out
         local n = 0
         for line in text:gmatch "[^\n]+" do
            if line:find "ICMP echo request" then n = n + 1 end
         end
         assert.equal(40, n)
         assert.is_truthy(text:find("ttl 63", 1, true))
         assert.is_nil(text:find("ttl 64", 1, true))
         assert.equal(0, ping:wait(60))
      end)

      live("goes on through a change of the chain", function()
         local file = lab.files .. "/on.pcapng"
         local client = looking(("capture up:in 'icmp and ip[8] = 64' -c 120 -w %s"):format(file))
         local ping = pinging "-c 200"
         shell.write(path, (SCRIPT:gsub("ip.ttl == 1 then", "ip.ttl <= 1 then"):format(kind, kind)))
         local r = tideway "repl -e 'reload()'"
         shell.write(path, SCRIPT:format(kind, kind))
         assert.equal(0, r.code, r.err)
         assert.is_truthy(r.out:find "applied to 1 hook", r.out)
         assert.equal(0, client:wait(60), client:read "err")
         local last, n = nil, 0
         for line in shell.run("tcpdump -nn -r " .. file).out:gmatch "[^\n]+" do
            local seq = tonumber(line:match "seq (%d+)")
            assert.is_true(not last or seq == last + 1, line)
            last, n = seq, n + 1
         end
         assert.equal(120, n)
         assert.equal(0, ping:wait(60))
         assert.is_truthy(ping:read("out"):find(" 0%% packet loss"))
      end)

      live("those who look are killed, or the engine ends", function()
         local before = program()
         local ping = pinging "-c 100000"
         local client = looking "capture up:in -w /dev/null"
         client:signal "KILL"
         assert.is_truthy(labs.eventually(60, function() return program() == before end))
         lab:spawn("dut", command "trace -n 1000 'tcp port 1'")
         lab:spawn("dut", command "capture up:drop -w /dev/null")
         assert.is_truthy(labs.eventually(60, function() return program() ~= before end))
         local function replies() return select(2, ping:read("out"):gsub("icmp_seq=", "")) end
         local before_end = replies()
         assert.is_truthy(labs.eventually(60, function() return replies() >= before_end + 20 end), "pings do not go on")
         assert.is_nil(ping:code(), ping:read "out")
         ping:signal "KILL"
      end)

      if kind == "tc" then
         live("tags that the kernel took out of frames are there again", function()
            local sender = lab.files .. "/send.lua"
            shell.write(sender, [[
               local abi = require "tideway.abi"
               local frame = require "test.support.frame"
               local to, fd = abi.C.tw_bpf_ifindex "eth0", abi.C.tw_inject_open(true)
               for i = 1, 10000 do -- until it is ended
                  local f = frame.udp4({ vlan = { { 0x8100, i % 2 == 0 and 0x6005 or 6 } } },
                     { src = "10.0.0.2", dst = "10.0.0.3" }, { sport = 1, dport = i % 10 }, "hello")
                  assert(abi.C.tw_inject(fd, to, f, #f) == 0, abi.error())
                  require("tideway.posix").poll({}, 20)
               end]])
            local process = lab:spawn("client", ("%s check %s"):format(shell.binary, sender))
            local file = lab.files .. "/tag.pcapng"
            local r = tideway(("capture up:in 'vlan 5 and udp dst port 4' -c 10 -w %s"):format(file))
            process:stop "KILL"
            assert.equal(0, r.code, r.err)
            local n = 0
            for line in shell.run("tcpdump -nne -r " .. file).out:gmatch "[^\n]+" do
               if line:find("vlan 5, p 3, ethertype IPv4", 1, true) and line:find("> 10.0.0.3.4: UDP", 1, true) then
                  n = n + 1
               end
            end
            assert.equal(10, n)
         end)
      end
   end)
end
