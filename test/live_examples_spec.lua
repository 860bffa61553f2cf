-- SPDX-License-Identifier: BSD-3-Clause
-- Every script of examples/ in the lab, with real clients and servers, on af_packet and af_xdp ports.
-- Runs alone: iperf3 may lose a tenth and no more.

local json = require "tideway.json"
local labs = require "test.support.lab"
local services = require "test.support.services"
local shell = require "test.shell"

local DRIVERS = { "af_packet", "af_xdp" }

-- Arguments for the ports; af_packet ones are what the examples take by themselves.
local function devices(driver)
   if driver == "af_packet" then return {} end
   return { ("net_%s0,iface=tw-lan"):format(driver), ("net_%s1,iface=tw-wan"):format(driver) }
end

local function has(text, part) assert.is_truthy(text:find(part, 1, true), ("no %q in:\n%s"):format(part, text)) end

-- ---- what every run must show at its end ----

-- Stop the engine: exit code 0, counters that add up, nothing left. Returns the counters.
local function stopped(lab, engine, signal)
   local result = engine:stop(signal)
   assert.equal(0, result.code, result.err)
   local c = assert(result.counters, result.out .. result.err)
   assert.equal(0, c.totals.difference)
   assert.equal(c.totals.received + c.totals.originated, c.totals.sent + c.totals.dropped)
   for _, chain in ipairs(c.chains) do
      assert.equal(0, chain.difference)
      assert.equal(0, chain.faults)
   end
   assert.same({}, lab:left_by(engine.pid))
   return c
end

local function dropped(counters, reason)
   local n = 0
   for _, d in ipairs(require("tideway.stats").drops(counters)) do
      if d.reason == reason then n = n + d.count end
   end
   return n
end

-- What a host received: something of each kind, no bad checksum.
local function valid_checksums(capture, ...)
   local seen = labs.seen(capture)
   assert.same({}, seen.bad)
   for _, kind in ipairs { ... } do has(seen.text, kind) end
end

local TCP_GOOD, UDP_GOOD = "(correct)", "udp sum ok"

local function ping(lab, role, address, ...)
   local r = lab:run(role, ("ping -n -c 3 -i 0.02 -W 20 %s %s"):format(table.concat({ ... }, " "), address))
   assert.equal(0, r.code, r.out .. r.err)
   has(r.out, " 0% packet loss")
   return r.out
end

local function curl(lab, url, want)
   local r = lab:run("client", "curl -sS --max-time 50 " .. url)
   assert.equal(0, r.code, r.err)
   assert.is_true(r.out == want, ("%d bytes came, %d were sent"):format(#r.out, #want))
end

local function dig(lab, arguments)
   local r = lab:run("client", ("dig +short +tries=5 +time=5 %s %s"):format(arguments, services.NAME))
   assert.equal(services.ANSWER .. "\n", r.out, r.err)
end

-- Half a second of UDP: a tenth of a second without a CPU is more than it may lose. Then once more, five times at most.
local function iperf(lab, address, arguments)
   local got, lost
   for _ = 1, 5 do
      local r = lab:run("client", ("iperf3 -J -c %s %s"):format(address, arguments))
      assert.equal(0, r.code, r.out .. r.err)
      local sum = json.decode(r.out)["end"]
      got, lost = (sum.sum_received or sum.sum).bytes, sum.sum and sum.sum.lost_percent or 0
      if lost <= 10 then break end
   end
   assert.is_true(got > 100000, ("%s: %d bytes arrived"):format(arguments, got))
   assert.is_true(lost <= 10, ("%s: %.1f %% lost"):format(arguments, lost))
end

-- TCP and UDP, both directions.
local function iperf_all(lab, address)
   iperf(lab, address, "-u -b 20M -l 1400 -n 1M")
   iperf(lab, address, "-u -b 20M -l 1400 -n 1M -R")
   iperf(lab, address, "-n 30M")
   iperf(lab, address, "-n 30M -R")
end

-- ping, dig, curl and iperf3 from the client to the server, checksums watched at both ends.
local function all_clients(lab, server4, server6)
   local page = services.start(lab)
   local at_client, at_server = lab:capture "client", lab:capture "server"
   ping(lab, "client", server4)
   ping(lab, "client", server6)
   ping(lab, "client", server4, "-s 1400 -M do")
   dig(lab, "@" .. server4)
   dig(lab, "+tcp @" .. server6)
   curl(lab, ("http://%s/file"):format(server4), page)
   curl(lab, ("'http://[%s]/file'"):format(server6), page)
   iperf_all(lab, server4)
   valid_checksums(at_client, TCP_GOOD, UDP_GOOD, "ICMP echo reply", "ICMP6, echo reply")
   valid_checksums(at_server, TCP_GOOD, UDP_GOOD, "ICMP echo request", "ICMP6, echo request")
end

-- ---- the examples ----

local without_servers = labs.missing()
local with_servers = labs.missing(unpack(services.PROGRAMS))

-- An error with the lines of this file that led to it; helpers make the first one say little.
local function located(err)
   local lines = {}
   for level = 2, 20 do
      local info = debug.getinfo(level, "Sl")
      if info and info.short_src:find "live_examples_spec" then lines[#lines + 1] = "line " .. info.currentline end
   end
   return ("%s\n(%s)"):format(tostring(err), table.concat(lines, ", "))
end

-- One test for each driver, in a lab of its own that is removed whatever happens.
local function live(name, mode, missing, test)
   for _, driver in ipairs(DRIVERS) do
      it(("%s on %s ports"):format(name, driver), function()
         if missing then return pending(missing) end
         local lab = labs.up { mode = mode }
         local ok, err = xpcall(test, located, lab, driver)
         lab:down()
         if not ok then error(err, 0) end
         assert.equal("", shell.run("ip netns list | grep " .. lab.name).out)
      end)
   end
end

describe("examples", function()
   live("01-reflect.lua answers ping", "l3", without_servers, function(lab, driver)
      local engine = lab:engine("examples/01-reflect.lua", { devices(driver)[1] })
      local capture = lab:capture "client"
      lab:run("client", "ip neighbour replace 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0")
      lab:run("client", "ip neighbour replace 2001:db8:1::9 lladdr 02:00:00:00:00:09 dev eth0")
      ping(lab, "client", "10.0.0.9")
      ping(lab, "client", "2001:db8:1::9")
      valid_checksums(capture, "10.0.0.9 > 10.0.0.2: ICMP echo reply")
      local c = stopped(lab, engine)
      assert.is_true(c.ports[1].tx_packets >= 12)
   end)

   live("02-bridge.lua joins two hosts", "l2", with_servers, function(lab, driver)
      local engine = lab:engine("examples/02-bridge.lua", devices(driver))
      all_clients(lab, "10.0.0.3", "2001:db8:1::3")
      local c = stopped(lab, engine)
      assert.is_true(c.ports[1].tx_packets > 100 and c.ports[2].tx_packets > 100)
   end)

   live("03-router.lua joins two subnets", "l3", with_servers, function(lab, driver)
      local engine = lab:engine("examples/03-router.lua", devices(driver))
      all_clients(lab, "198.51.100.2", "2001:db8:2::2")
      has(ping(lab, "client", "198.51.100.2"), "ttl=63")
      -- The router itself: answers at its addresses, reports what it cannot deliver.
      has(lab:run("client", "ping -n -c 1 -W 20 -t 1 198.51.100.2").out, "Time to live exceeded")
      has(lab:run("client", "ping -n -c 1 -W 20 203.0.113.9").out, "Unreachable")
      stopped(lab, engine)
   end)

   live("04-edge.lua is a router with firewall and NAT", "l3", with_servers, function(lab, driver)
      local engine = lab:engine("examples/04-edge.lua", { driver })
      all_clients(lab, "198.51.100.2", "2001:db8:2::2")
      local peers = services.http_peers(lab)
      assert.is_true(peers["198.51.100.1"], "the server saw the client's own address")
      assert.is_nil(peers["10.0.0.2"])
      assert.is_true(peers["2001:db8:1::2"])
      -- Nobody outside may open a connection.
      for _, address in ipairs { "10.0.0.2", "'[2001:db8:1::2]'" } do
         assert.not_equal(0, lab:run("server", ("curl -sS --max-time 0.5 http://%s/"):format(address)).code)
      end
      local c = stopped(lab, engine)
      assert.is_true(c.totals.dropped > 0)
   end)

   live("05-write-your-own.lua blocks what its table holds", "l2", with_servers, function(lab, driver)
      local arguments = devices(driver)
      arguments[#arguments + 1] = "80"
      local engine = lab:engine("examples/05-write-your-own.lua", arguments)
      services.start(lab)
      local page = services.page
      ping(lab, "client", "10.0.0.3")
      dig(lab, "@10.0.0.3")
      assert.equal(28, lab:run("client", "curl -sS --max-time 0.3 http://10.0.0.3:80/file").code) -- timeout
      assert.equal(7, lab:run("client", "curl -sS --max-time 50 http://10.0.0.3:81/").code) -- refused
      assert.is_string(page)
      local c = stopped(lab, engine)
      assert.is_true(dropped(c, "blocked_port") > 0)
   end)

   live("06-pipeline.lua crosses lcores", "l2", with_servers, function(lab, driver)
      local engine = lab:engine("examples/06-pipeline.lua", devices(driver))
      local page = services.start(lab)
      ping(lab, "client", "10.0.0.3")
      ping(lab, "client", "2001:db8:1::3")
      curl(lab, "http://10.0.0.3/file", page)
      assert.not_equal(0, lab:run("client", "ping -n -c 1 -W 0.2 -t 1 10.0.0.3").code)
      local c = stopped(lab, engine, "TERM")
      assert.equal(2, #c.lcores)
      assert.equal(c.chains[1].sent, c.chains[2].rx)
      assert.equal(1, dropped(c, "ttl_too_old"))
   end)

   live("08-your-module.lua finds its module", "l2", without_servers, function(lab, driver)
      local engine = lab:engine("examples/08-your-module.lua", devices(driver))
      local capture = lab:capture "client"
      has(ping(lab, "client", "10.0.0.3"), "ttl=63")
      ping(lab, "client", "2001:db8:1::3")
      assert.not_equal(0, lab:run("client", "ping -n -c 1 -W 0.2 -t 1 10.0.0.3").code)
      valid_checksums(capture, "ICMP echo reply")
      assert.equal(1, dropped(stopped(lab, engine), "ttl_expired"))
   end)
end)

describe("examples without a lab", function()
   local frame = require "test.support.frame"

   -- Classic pcap (little endian, Ethernet), one record a frame.
   local function pcap(frames)
      local function le32(n) return frame.u32(n):reverse() end
      local parts = { le32(0xa1b2c3d4), "\2\0\4\0", le32(0), le32(0), le32(65535), le32(1) }
      for i, f in ipairs(frames) do parts[#parts + 1] = le32(i) .. le32(0) .. le32(#f) .. le32(#f) .. f end
      return table.concat(parts)
   end

   it("07-pcap.lua filters a capture file into another", function()
      local dir = shell.directory()
      local i4, i6 = { src = "10.0.0.1", dst = "10.0.0.2" }, { src = "2001:db8::1", dst = "2001:db8::2" }
      local udp4 = frame.udp4({}, i4, { sport = 1, dport = 53 }, "question")
      local udp6 = frame.udp6({}, i6, { sport = 2, dport = 53 }, "question")
      shell.write(dir .. "/in.pcap", pcap {
         udp4, frame.tcp4({}, i4, { sport = 3, dport = 80 }), udp6, frame.icmp4({}, i4, { type = 8 }),
         frame.arp({}, {
            oper = 1, sha = "02:00:00:00:00:01", spa = "10.0.0.1", tha = "00:00:00:00:00:00", tpa = "10.0.0.2",
         }),
      })
      local command = "run --for %g --json --no-huge examples/07-pcap.lua %s/in.pcap %s/out.pcap"
      local c
      for _, seconds in ipairs { 0.3, 3, 30 } do -- a busy machine may not run its lcore for a while
         local r = shell.tideway(command:format(seconds, dir, dir), "TIDEWAY_RUN_DIR=" .. dir)
         assert.equal(0, r.code, r.err)
         c = json.decode(r.out)
         if c.totals.received >= 5 then break end
      end
      assert.equal(5, c.totals.received)
      assert.equal(2, c.totals.sent)
      assert.equal(1, dropped(c, "tcp"))
      assert.equal(2, dropped(c, "neither_tcp_nor_udp"))
      local out = require("tideway.posix").slurp(dir .. "/out.pcap")
      assert.equal(24 + 2 * 16 + #udp4 + #udp6, #out)
      has(out, udp4)
      has(out, udp6)
      shell.remove(dir)
   end)

   it("are at most 60 lines, say what they show and how to run them, and validate", function()
      local count = 0
      for name in require("lfs").dir "examples" do
         if name:find "^%d%d%-.*%.lua$" then
            count = count + 1
            local text = require("tideway.posix").slurp("examples/" .. name)
            local _, lines = text:gsub("\n", "")
            assert.is_true(lines <= 60, ("%s has %d lines"):format(name, lines))
            has(text:sub(1, 1000), "tideway run")
            has(text:sub(1, 1000), name)
            local r = shell.tideway("check examples/" .. name)
            assert.equal(0, r.code, r.err)
         end
      end
      assert.equal(15, count)
   end)
end)
