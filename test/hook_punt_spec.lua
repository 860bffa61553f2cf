-- SPDX-License-Identifier: BSD-3-Clause
-- Hybrid NFs on hooks with real traffic: packet() in the kernel, punt() in the control thread.

local json = require "tideway.json"
local labs = require "test.support.lab"
local shell = require "test.shell"

local missing = labs.missing()

-- The address of lan's interface that ARP is answered for; the kernel in the middle has it too.
local HOST = "10.0.0.1"

local PLACES = {
   { "xdp, native", "{ xdp = { lan, wan }, mode = 'native' }" },
   { "xdp, generic", "{ xdp = { lan, wan }, mode = 'generic' }" },
   { "tc", "{ tc = { lan, wan } }" },
}

-- NFs, as text of a script.
local NFS = {
   -- A learning bridge: the kernel half looks up, the user half learns.
   learn = [[
      tw.nf("learn", function()
         local stations = tw.hash { name = "stations", key = "mac", value = "u16", entries = 1024 }
         local events = tw.counters { name = "events", names = { "seen", "learned" } }
         return {
            packet = function(pkt)
               events:add("seen", 1)
               local eth = pkt:eth()
               if not eth then return pkt:drop "truncated" end
               if not stations:get(eth.src) then return pkt:punt() end
               local port = stations:get(eth.dst)
               if not port then return pkt:punt() end
               return pkt:send(port)
            end,
            punt = function(pkt)
               local eth = pkt:eth()
               stations:set(eth.src, pkt.port)
               events:add("seen", 1)
               events:add("learned", 1)
               local port = stations:get(eth.dst)
               if port then return pkt:send(port) end
               return pkt:flood()
            end,
            stop = function() io.stderr:write("seen ", events:sum "seen", ", learned ", events:sum "learned", "\n") end,
         }
      end)]],
   -- Answers ARP for HOST itself; what it gives no verdict goes on.
   host = [[
      tw.nf("host", function()
         return {
            packet = function(pkt) return pkt:punt() end,
            punt = function(pkt)
               local eth, arp = pkt:eth(), pkt:arp()
               if not arp or arp.op ~= 1 or arp.tpa ~= tw.ip4 "10.0.0.1" then return end
               local mac = lan:mac()
               eth.dst, eth.src = arp.sha, mac
               arp.op, arp.tha, arp.tpa = 2, arp.sha, arp.spa
               arp.sha, arp.spa = mac, tw.ip4 "10.0.0.1"
               return pkt:send(pkt.port)
            end,
         }
      end)]],
}

local function dropped(chain, reason)
   local n = 0
   for i = 1, #chain.nfs + 1 do
      for _, d in ipairs((chain.nfs[i] or chain.engine).drops) do
         if d.reason == reason then n = n + d.count end
      end
   end
   return n
end

describe("punt() of a chain on a hook:", function()
   local lab, dir

   setup(function()
      if missing then return end
      lab, dir = labs.up { mode = "l2", napi = true }, shell.directory()
   end)
   teardown(function()
      if not lab then return end
      lab:down()
      shell.remove(dir)
   end)

   local function live(name, test)
      it(name, function()
         if missing then return pending(missing) end
         test()
      end)
   end

   local function write(name, text)
      local path = dir .. "/" .. name
      shell.write(path, 'local tw = require "tideway"\n' .. text)
      return path
   end

   local function start(text, options)
      local path = write("script.lua", 'local lan, wan = tw.port("lan", "tw-lan"), tw.port("wan", "tw-wan")\n' .. text)
      return lab:engine(path, {}, options)
   end

   -- Its counters add up; the first chain's, and what it said.
   local function stop(engine)
      local result = engine:stop()
      assert.equal(0, result.code, result.err)
      assert.equal(0, result.counters.totals.difference)
      local chain = result.counters.chains[1]
      assert.equal(0, chain.difference)
      assert.equal(0, chain.held)
      return chain, result.err
   end

   local function ping(role, to, count)
      local r = lab:run(role, ("ping -n -c %d -i 0.05 -W 1 %s"):format(count or 5, to))
      assert.equal(0, r.code, r.out .. r.err)
      return r.out
   end

   -- Frames out of an interface of a namespace, as they are.
   local function send(role, iface, text)
      local path = write("send.lua", ([[
         local abi = require "tideway.abi"
         local to, fd = abi.C.tw_bpf_ifindex "%s", abi.C.tw_inject_open(true)
         local function send(frame) assert(abi.C.tw_inject(fd, to, frame, #frame) == 0, abi.error()) end
         %s
         print "all sent"]]):format(iface, text))
      local r = lab:run(role, ("%s check %s"):format(shell.binary, path))
      assert.truthy(r.out:find "all sent", r.out .. r.err)
   end

   -- The middle has HOST on lan and may talk.
   local function host_up()
      local r = lab:run("dut", "sh -c 'ip link set tw-lan arp on; ip addr replace 10.0.0.1/24 dev tw-lan'")
      assert.equal(0, r.code, r.err)
   end
   local function host_down()
      lab:run("dut", "sh -c 'ip addr flush dev tw-lan; ip link set tw-lan arp off'")
      lab:run("client", "ip neigh flush dev eth0")
   end

   for _, place in ipairs(PLACES) do
      live("learns, and the kernel forwards by it: " .. place[1], function()
         local engine = start(NFS.learn:gsub("^%s*", "local learn = ") .. ([[

            tw.chain("l2", { lan, wan }, learn {}):pin %s]]):format(place[2]))
         ping("client", "10.0.0.3", 20)
         local chain, said = stop(engine)
         assert.is_true(chain.rx >= 40)
         assert.truthy(said:find(("seen %d, learned %d"):format(chain.rx + chain.punted, chain.punted), 1, true), said)
         -- Those that come before it has learned; how many, is a matter of the machine.
         assert.is_true(chain.punted >= 2 and chain.punted < chain.rx / 2, "punted " .. chain.punted)
         assert.equal(chain.rx, chain.sent)
         assert.equal(chain.rx, chain.nfs[1].received)
      end)

      live("changes and answers packets, and passes the others to the kernel: " .. place[1], function()
         host_up()
         local engine = start(NFS.host:gsub("^%s*", "local host = ") .. ([[

            tw.chain("host", lan, host {}):pin %s]]):format(place[2]:gsub("lan, wan", "lan")))
         local ok, err = pcall(ping, "client", HOST, 10)
         local chain = stop(engine)
         host_down()
         assert.is_true(ok, err)
         assert.is_true(chain.rx >= 11 and chain.rx < 30, "received " .. chain.rx)
         assert.equal(chain.rx, chain.punted)
         assert.equal(chain.rx, chain.sent)
         assert.is_true(chain.passed >= 10 and chain.passed < chain.sent, "passed " .. chain.passed)
      end)
   end

   live("passes packets on their way out", function()
      host_up()
      lab:run("dut", "ip neigh replace 10.0.0.2 lladdr 02:00:00:00:01:02 dev tw-lan")
      lab:run("client", "ip neigh replace 10.0.0.1 lladdr 02:00:00:00:01:01 dev eth0")
      local engine = start [[
         tw.chain("out", lan, tw.nf("all", function()
            return { packet = function(pkt) return pkt:punt() end, punt = function() end }
         end) {}):pin { tc = "tw-lan:egress" }]]
      local ok, err = pcall(ping, "dut", "10.0.0.2", 10)
      local chain = stop(engine)
      host_down()
      assert.is_true(ok, err)
      assert.is_true(chain.passed >= 10)
      assert.equal(chain.rx, chain.passed)
      assert.equal(chain.rx, chain.punted)
   end)

   live("passes packets where XDP falls back to generic mode", function()
      local r = lab:run("dut", "sh -c 'ip link add link tw-lan name mv0 address 02:00:00:00:05:01 type macvlan "
         .. "mode bridge && ip addr add 10.0.5.1/24 dev mv0 && ip link set mv0 up'")
      if r.code ~= 0 then return pending("no macvlan here: " .. r.err) end
      lab:run("client", "ip addr add 10.0.5.2/24 dev eth0")
      lab:run("client", "ip neigh replace 10.0.5.1 lladdr 02:00:00:00:05:01 dev eth0")
      local engine = lab:engine(write("script.lua", [[
         local lan = tw.port("lan", "mv0")
         tw.chain("all", lan, tw.nf("all", function()
            return { packet = function(pkt) return pkt:punt() end, punt = function() end }
         end) {}):pin { xdp = lan }]]))
      local ok, err = pcall(ping, "client", "10.0.5.1", 10)
      local chain, said = stop(engine)
      lab:run("client", "ip addr del 10.0.5.2/24 dev eth0")
      lab:run("dut", "ip link del mv0")
      assert.is_true(ok, err)
      assert.truthy(said:find("not native", 1, true), said)
      assert.is_true(chain.rx >= 10 and chain.rx < 40, "received " .. chain.rx)
      assert.equal(chain.rx, chain.passed)
   end)

   live("keeps VLAN tags that the kernel takes out of frames on tc", function()
      local engine = start [[
         tw.chain("all", { lan, wan }, tw.nf("all", function()
            return { packet = function(pkt) return pkt:punt() end, punt = function(pkt) return pkt:flood() end }
         end) {}):pin { tc = { lan, wan } }]]
      local capture = lab:capture("server", "udp or vlan")
      send("client", "eth0", [[
         local frame = require "test.support.frame"
         local ip = { src = "10.0.0.2", dst = "10.0.0.3" }
         send(frame.udp4({ vlan = { { 0x8100, 0x6005 } } }, ip, { sport = 1, dport = 7 }, "hello"))]])
      local seen = labs.seen(capture, 1)
      local chain = stop(engine)
      assert.equal(chain.rx, chain.sent)
      assert.equal(1, seen.packets, seen.text)
      local text = shell.run("tcpdump -nn -e -r " .. capture.file).out
      assert.truthy(text:find("vlan 5, p 3", 1, true), text)
      assert.same({}, seen.bad)
   end)

   live("computes checksums that a sender left to its device", function()
      lab:run("client", "ethtool -K eth0 tx on")
      local engine = start [[
         tw.chain("all", { lan, wan }, tw.nf("all", function()
            return { packet = function(pkt) return pkt:punt() end, punt = function(pkt) return pkt:flood() end }
         end) {}):pin { tc = { lan, wan } }]]
      local capture = lab:capture("server", "udp port 7")
      lab:run("client", "bash -c 'for i in 1 2 3; do echo hello$i >/dev/udp/10.0.0.3/7; done'")
      local seen = labs.seen(capture, 3)
      local chain = stop(engine)
      lab:run("client", "ethtool -K eth0 tx off")
      assert.equal(chain.rx, chain.punted)
      assert.equal(3, seen.packets, seen.text)
      assert.same({}, seen.bad)
   end)

   live("goes on with the NFs behind, with mark, out and room at both ends", function()
      local engine = start [[
         local first = tw.nf("first", function()
            return {
               packet = function(pkt)
                  local udp = pkt:udp()
                  if not udp or udp.dst_port ~= 7 then return pkt:drop "not_mine" end
                  pkt.mark = 5
                  pkt:route(wan.index)
                  return pkt:punt()
               end,
               punt = function(pkt)
                  if pkt.mark ~= 5 or pkt.out ~= wan.index or pkt.port ~= lan.index then error "lost" end
                  if not pkt:adjust_tail(4) or not pkt:adjust_head(-4) then error "no room" end
                  if not pkt:adjust_head(4) then error "no way back" end
                  pkt.mark = 6
               end,
            }
         end)
         local second = tw.nf("second", function()
            return { packet = function(pkt) if pkt.mark ~= 6 then return pkt:drop "wrong_mark" end end }
         end)
         tw.chain("two", { lan, wan }, first {}, second {}):pin { xdp = lan }]]
      local capture = lab:capture("server", "udp port 7")
      send("client", "eth0", [[
         for _ = 1, 3 do
            send(("\255"):rep(6) .. "\2\0\0\0\1\2\8\0\69\0\0\29\0\0\64\0\64\17\38\206\10\0\0\2\10\0\0\3"
               .. "\0\7\0\7\0\9\0\0x")
         end]])
      local seen = labs.seen(capture, 3)
      local chain = stop(engine)
      assert.equal(3, seen.packets, seen.text)
      assert.equal(3, chain.punted)
      assert.equal(3, chain.nfs[2].received)
      assert.equal(0, chain.faults)
   end)

   live("knows the NF of a chain of several programs", function()
      local engine = start [[
         local function numbered(n)
            return tw.nf("nf" .. n, function()
               return {
                  packet = function(pkt)
                     pkt.mark = pkt.mark + n
                     if pkt.mark == 3 then return pkt:punt() end
                  end,
                  punt = function(pkt)
                     if n ~= 2 then error "not mine" end
                     pkt.mark = 1
                  end,
               }
            end) {}
         end
         local last = tw.nf("last", function()
            return { packet = function(pkt) if pkt.mark == 5 then return pkt:drop "right" end end }
         end)
         tw.chain("three", lan, numbered(1), numbered(2), numbered(4), last {}):pin { xdp = lan, split = true }]]
      send("client", "eth0", [[for _ = 1, 10 do send(("\2"):rep(14)) end]])
      local chain, said = stop(engine)
      assert.equal(0, chain.faults)
      assert.is_true(chain.punted >= 10)
      assert.equal(chain.rx, dropped(chain, "right"))
      assert.equal(chain.rx, chain.nfs[3].received)
      assert.truthy(said:find("programs with tail calls", 1, true), said)
   end)

   live("drops and counts what the ring has no room for", function()
      local engine = start [[
         local slept = false
         tw.chain("full", lan, tw.nf("slow", function()
            return {
               packet = function(pkt) return pkt:punt() end,
               punt = function(pkt)
                  if not slept then require("tideway.posix").poll({}, 1500) end
                  slept = true
                  return pkt:drop "seen"
               end,
            }
         end) {}):pin { xdp = lan }]]
      send("client", "eth0", [[
         local frame = ("\2"):rep(12) .. "\8\0" .. ("x"):rep(1386)
         for _ = 1, 2000 do send(frame) end]])
      local chain = stop(engine)
      assert.is_true(chain.rx >= 2000)
      local full, seen = dropped(chain, "punt_full"), dropped(chain, "seen")
      assert.is_true(full > 500, "punt_full: " .. full)
      assert.is_true(seen > 500, "seen: " .. seen)
      assert.equal(chain.rx, full + seen)
      assert.equal(seen, chain.punted)
   end)

   live("stands frames of any shape, and an NF that fails on them", function()
      local engine = start [[
         tw.chain("bad", lan, tw.nf("weak", function()
            return {
               packet = function(pkt) return pkt:punt() end,
               punt = function(pkt)
                  local ip = pkt:ipv4()
                  if ip.ttl == 1 then return pkt:drop "ttl_expired" end -- fails when it is no IPv4
                  return pkt:drop "other"
               end,
            }
         end) {}):pin { xdp = lan }]]
      send("client", "eth0", [[
         local random = require("test.support.traffic").random(7)
         local frame = require("test.support.traffic")
         for length = 14, 80 do send(("\2"):rep(12) .. "\8\0" .. random:bytes(length - 14)) end
         for _ = 1, 500 do
            send(frame.ip(random, { src = { "10.0.0.2" }, dst = { "10.0.0.3" } }):sub(1, 1500))
         end]])
      local chain, said = stop(engine)
      assert.is_true(chain.rx >= 567)
      assert.equal(chain.rx, chain.punted)
      assert.equal(chain.rx, chain.dropped)
      assert.is_true(chain.faults > 60, "faults: " .. chain.faults)
      assert.equal(chain.faults, dropped(chain, "nf_fault"))
      local _, times = said:gsub("punt%(%) failed", "")
      assert.equal(1, times, said)
   end)

   live("makes frames, holds packets and lets them go", function()
      local engine = start [[
         local queue = tw.hold_queue { slots = 4, timeout = 1.5 }
         local let_go, emitted = nil, 0
         tw.chain("hold", { lan, wan }, tw.nf("keeper", function()
            return {
               packet = function(pkt)
                  local udp = pkt:udp()
                  if not udp then return pkt:drop "not_mine" end
                  if udp.dst_port == 9 then return pkt:send(wan.index) end
                  return pkt:punt()
               end,
               punt = function(pkt)
                  local udp = pkt:udp()
                  local key = udp.src_port
                  if key == 1 then -- when it comes back to packet(), the port is 9
                     udp.dst_port = 9
                     let_go = tw.now() + 2e8
                  end
                  return pkt:hold(queue, key)
               end,
               tick = function(now)
                  if let_go and now > let_go then
                     assert(queue:release(1) == 2)
                     let_go = nil
                     local pkt = tw.emit(wan.index, 60)
                     pkt:eth().type = 0x88b5
                     emitted = emitted + 1
                  end
               end,
            }
         end) {}):pin { xdp = lan }]]
      local capture = lab:capture("server", "udp port 9 or ether proto 0x88b5")
      send("client", "eth0", [[
         local frame = require "test.support.frame"
         local function udp(sport)
            return frame.udp4({}, { src = "10.0.0.2", dst = "10.0.0.3" }, { sport = sport, dport = 7 }, "hello")
         end
         for _, port in ipairs { 1, 1, 2, 3, 4, 5 } do send(udp(port)) end]])
      local seen = labs.seen(capture, 3)
      assert.truthy(labs.eventually(60, function()
         local top = shell.tideway("top --once --json --interval 0.1", "TIDEWAY_RUN_DIR=" .. lab.run_dir)
         return top.code == 0 and dropped(json.decode(top.out).chains[1], "hold_timeout") == 2
      end))
      local chain = stop(engine)
      assert.equal(3, seen.packets, seen.text)
      assert.equal(6, chain.punted)
      assert.equal(1, chain.originated)
      assert.equal(3, chain.sent)
      assert.equal(2, dropped(chain, "hold_full"))
      assert.equal(2, dropped(chain, "hold_timeout"))
   end)

   live("drops punted packets of an NF without punt()", function()
      local engine = start [[
         tw.chain("none", lan, tw.nf("half", function() return { packet = function(pkt) return pkt:punt() end } end) {})
            :pin { xdp = lan }]]
      send("client", "eth0", [[for _ = 1, 10 do send(("\2"):rep(14)) end]])
      local chain = stop(engine)
      assert.equal(0, chain.punted)
      assert.is_true(dropped(chain, "no_punt") >= 10)
   end)

   it("is refused where packets can't be taken back", function()
      local compiler, tw = require "tideway.compiler", require "tideway"
      local nf = tw.nf("p", function()
         return { packet = function(pkt) return pkt:punt() end, punt = function() end }
      end) {}
      local compiled, err = compiler.for_hook("p", { nf }, "cgroup_skb")
      assert.is_nil(compiled)
      assert.truthy(tostring(err):find("on hook cgroup_skb a packet can't be punted", 1, true), tostring(err))
   end)

   it("has room in a buffer for what adjust_head() and adjust_tail() ask, and no more", function()
      local frames = require "tideway.hook.frame"
      local C = require("tideway.abi").C
      local pkt = frames.new(60).pkt
      assert.equal(0, C.tw_pkt_adjust_head(pkt, -256))
      assert.equal(316, pkt.len)
      assert.is_true(C.tw_pkt_adjust_head(pkt, -1) < 0)
      assert.equal(0, C.tw_pkt_adjust_tail(pkt, 256))
      assert.is_true(C.tw_pkt_adjust_tail(pkt, 1) < 0)
      assert.is_true(C.tw_pkt_adjust_head(pkt, pkt.len) < 0)
      assert.is_true(C.tw_pkt_adjust_tail(pkt, -pkt.len) < 0)
      assert.equal(0, C.tw_pkt_adjust_tail(pkt, 1 - pkt.len))
      assert.equal(1, pkt.len)
      assert.is_true(C.tw_pkt_adjust_head(pkt, -2 ^ 31) < 0)
      assert.is_true(C.tw_pkt_adjust_tail(pkt, 2 ^ 31 - 1) < 0)
   end)

   it("puts the tag back that the kernel took out", function()
      local frames = require "tideway.hook.frame"
      local ffi = require "ffi"
      local frame = frames.new(16)
      for i = 0, 15 do frame.pkt.data[i] = i end
      frame.vlan_proto, frame.vlan_tci = 0x0081, 0x2064
      frames.put_tag(frame)
      assert.equal("\0\1\2\3\4\5\6\7\8\9\10\11\129\0\32\100\12\13\14\15", ffi.string(frame.pkt.data, frame.pkt.len))
   end)
end)
