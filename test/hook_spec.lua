-- SPDX-License-Identifier: BSD-3-Clause
-- Chains on hooks without traffic: what pin takes and refuses, and what programs count, packet by packet in the
-- kernel's test run. Tables of scripts that wait until somebody needs them.

local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local hook_chain = require "tideway.hook.chain"
local model = require "tideway.model"
local posix = require "tideway.posix"
local stats = require "tideway.stats"

local missing = posix.geteuid() ~= 0 and "needs root to load programs" or nil

local function rooted(name, f) it(name, missing and function() pending(missing) end or f) end

local function fresh()
   engine.close()
   abi.C.tw_stats_close()
   assert(abi.C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
end

local function udp(ttl, port)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2", ttl = ttl }, { sport = 9, dport = port or 1 }, "x")
end

describe("pin", function()
   local chain, lan, wan
   before_each(function()
      fresh()
      lan, wan = tw.port("lan", "eth7"), tw.port("wan", "net_af_packet0,iface=eth8")
      chain = tw.chain("c", { lan, wan }, function() end)
   end)
   after_each(fresh)

   local function target(place, i)
      chain:pin(place)
      return chain.place.targets[i or 1].link
   end

   it("takes XDP: the sources' interfaces, a name, a port, a list", function()
      assert.same({ hook = "xdp", interface = "eth7", mode = "auto" }, target { xdp = true })
      assert.equal("eth8", target({ xdp = true }, 2).interface)
      assert.equal("eth9", target { xdp = "eth9" }.interface)
      assert.equal("eth8", target { xdp = wan, mode = "generic" }.interface)
      assert.equal("generic", chain.place.targets[1].link.mode)
      assert.equal("eth7", target({ xdp = { "eth1", lan } }, 2).interface)
      assert.equal("xdp", chain.place.hook)
   end)

   it("takes TC: ingress, egress, a priority", function()
      assert.same({ hook = "tc_ingress", interface = "eth7" }, target { tc = true })
      assert.same({ hook = "tc_egress", interface = "eth0" }, target { tc = "eth0:egress" })
      assert.same({ hook = "tc_egress", interface = "eth8", priority = 7 },
         target { tc = wan, direction = "egress", priority = 7 })
   end)

   it("takes the other hooks", function()
      assert.same({ hook = "cgroup_ingress", cgroup = "/sys/fs/cgroup/x" }, target { cgroup = "/sys/fs/cgroup/x" })
      assert.equal("cgroup_egress", target { cgroup = "/sys/fs/cgroup/x", direction = "egress" }.hook)
      assert.equal("cgroup_skb", chain.place.hook)
      assert.same({ hook = "socket_filter", socket = 7 }, target { socket_filter = 7 })
      assert.same({ hook = "sk_reuseport", socket = 7 }, target { sk_reuseport = 7 })
      assert.same({ hook = "sk_lookup" }, target { sk_lookup = true })
      assert.equal("/run/netns/x", target { sk_lookup = "/run/netns/x" }.netns)
      local sockets = tw.sockmap { name = "s", entries = 2 }
      assert.same({ hook = "sk_msg" }, target { sk_msg = sockets })
      assert.equal("sk_skb_verdict", target { sk_skb = sockets }.hook)
      assert.equal("stream_parser", target { sk_skb = sockets, at = "stream_parser" }.hook)
      assert.same({ hook = "lwt_xmit", to = "10.0.0.0/8", via = "10.1.1.1", interface = "eth0", table = 100 },
         target { lwt = "10.0.0.0/8 via 10.1.1.1 dev eth0 table 100" })
      assert.equal("lwt_in", target { lwt = "10.0.0.0/8 dev eth0", at = "in" }.hook)
   end)

   it("replaces what was pinned before", function()
      chain:pin { lcore = 1 }:pin { xdp = true }
      assert.is_nil(chain.lcores)
      chain:pin { lcore = 1 }
      assert.is_nil(chain.place)
      assert.same({ 1 }, chain.lcores)
   end)

   local function refused(place, ...)
      local ok, err = pcall(chain.pin, chain, place)
      assert.is_false(ok)
      for _, part in ipairs { "chain c", ... } do assert.is_truthy(err:find(part, 1, true), err) end
   end

   it("refuses what is wrong, naming value and choices", function()
      refused({ moon = true }, "moon", "lcore, xdp, tc, cgroup")
      refused({ xdp = true, tc = true }, "two places, xdp and tc")
      refused({ xdp = true, mode = "fast" }, "mode", '"fast"', "auto, native, generic")
      refused({ xdp = 7 }, "xdp = 7", "name of an interface")
      refused({ xdp = {} }, "names no interface")
      refused({ xdp = true, priority = 3 }, "priority", "mode")
      refused({ xdp = true, lcore = 1 }, "lcore")
      refused({ tc = "eth0:up" }, '"up"', "ingress, egress")
      refused({ cgroup = true }, "/sys/fs/cgroup")
      refused({ socket_filter = "x" }, "descriptor")
      refused({ sk_msg = 1 }, "tw.sockmap")
      refused({ sk_skb = tw.sockmap { name = "s", entries = 2 }, at = "end" }, '"end"', "stream_parser")
      refused({ lwt = "10.0.0.0/8" }, "PREFIX [via ADDRESS]")
      refused({ lwt = "10.0.0.0/8 by car" }, "PREFIX [via ADDRESS]")
      refused({ xdp = true, persist = true }, "persist")
      refused({ xdp = true, split = 3 }, "split is 3")
      chain = tw.chain("c2", tw.port("null", "net_null0"), function() end)
      local ok, err = pcall(chain.pin, chain, { xdp = true })
      assert.is_false(ok)
      assert.is_truthy(err:find("port null (net_null0): it has no network interface", 1, true), err)
   end)
end)

describe("ports of hooks", function()
   before_each(fresh)
   after_each(fresh)

   it("are interfaces by name; lcores open them with net_af_xdp", function()
      local port = tw.port "eth7"
      assert.equal("eth7", port.name)
      assert.equal("eth7", port.iface)
      assert.equal("net_af_xdp_eth7,iface=eth7", port.devargs)
      assert.is_false(pcall(tw.port, "again", "net_af_packet0,iface=eth7"))
      for _, device in ipairs { "0000:03:00.0", "03:00.0", "wire7", "net_null0", "net_tap0,iface=eth6" } do
         assert.is_nil(tw.port(device).iface)
      end
   end)
end)

describe("a chain on a hook", function()
   local hook
   before_each(fresh)
   after_each(function()
      if hook then hook:close() end
      hook = nil
      fresh()
   end)

   local function load(stages, place)
      local chain = tw.chain("c", tw.port "lo", unpack(stages)):pin(place)
      hook = hook_chain.load(chain)
      require("tideway.plan").publish_names(chain, "spec")
      abi.C.tw_stats().chain[chain.index].hook = 1
      return hook
   end

   local function run(...)
      local program = hook.parts[1].split:program()
      local codes = {}
      for i, f in ipairs { ... } do codes[i] = assert(program:test(f)) end
      hook:refresh()
      return codes
   end

   local function row() return stats.snapshot(abi.C.tw_stats()).chains[1] end

   local function classify(pkt)
      local ip = pkt:ipv4()
      if not ip then return pkt:pass() end
      if ip.ttl == 1 then return pkt:drop "too_old" end
   end
   local function only_one(pkt)
      local l4 = pkt:udp()
      if l4 and l4.dst_port ~= 1 then return pkt:drop "other_port" end
   end

   rooted("counts what left, by NF, verdict and reason, and adds up", function()
      load({ classify, only_one }, { xdp = true })
      local arp = frame.arp({}, {
         oper = 1, sha = "02:00:00:00:00:01", spa = "10.0.0.1", tha = "00:00:00:00:00:00", tpa = "10.0.0.2",
      })
      assert.same({ 1, 1, 2, 1, 2 }, run(udp(1), udp(1), udp(9), udp(9, 53), arp)) -- XDP_DROP, XDP_PASS
      local c = row()
      assert.equal(5, c.rx)
      assert.equal(3, c.dropped)
      assert.equal(2, c.sent)
      assert.equal(2, c.passed)
      assert.equal(0, c.difference)
      assert.same({ 5, 2 }, { c.nfs[1].received, c.nfs[2].received })
      assert.same({ { reason = "too_old", count = 2 } }, c.nfs[1].drops)
      assert.same({ { reason = "other_port", count = 1 } }, c.nfs[2].drops)
      assert.equal(#udp(1) * 4 + math.max(#arp, 42), c.rx_bytes)
      local totals = stats.snapshot(abi.C.tw_stats()).totals
      assert.equal(5, totals.received)
      assert.equal(0, totals.difference)
   end)

   rooted("goes on counting when its NFs are replaced, and keeps them when the new ones do not compile", function()
      load({ classify, only_one }, { xdp = true })
      run(udp(1), udp(9))
      hook.parts[1].link = { replace = function() return true end } -- attached nowhere
      local ok, err = hook:replace { tw.nf("x", function()
         return { packet = function(pkt) local t = { pkt } return pkt:drop(t) end }
      end) {}, hook.stages[2] }
      assert.is_nil(ok)
      assert.is_truthy(tostring(err):find("hook_spec.lua", 1, true))
      assert.same({ 1, 2 }, run(udp(1), udp(9)))
      assert(hook:replace { tw.nf("all", function()
         return { packet = function(pkt) return pkt:drop "all" end }
      end) {}, hook.stages[2] })
      assert.same({ 1, 1 }, run(udp(1), udp(9)))
      local c = row()
      assert.equal(6, c.rx)
      assert.equal(0, c.difference)
      assert.same({ { reason = "all", count = 2 }, { reason = "too_old", count = 2 } }, c.nfs[1].drops)
      hook.parts[1].link = nil
   end)

   rooted("runs as a program per NF when it is split, one of which can be replaced alone", function()
      load({ classify, only_one }, { xdp = true, split = true })
      hook.parts[1].link = { replace = function() return true end } -- attached nowhere
      local first = hook.parts[1].split:program().id
      assert.equal(2, #hook.parts[1].split.parts)
      assert.is_truthy(hook:lines()[1]:find("in 2 programs with tail calls between them (split = true)", 1, true))
      assert.same({ 1, 2, 1 }, run(udp(1), udp(9), udp(9, 53)))
      assert(hook:replace_stage(2, tw.nf("all", function()
         return { packet = function(pkt) return pkt:drop "all" end }
      end) {}))
      assert.equal(first, hook.parts[1].split:program().id)
      assert.same({ 1, 1 }, run(udp(1), udp(9)))
      assert.is_nil((hook:replace_stage(3, hook.stages[2])))
      local c = row()
      assert.equal(5, c.rx)
      assert.equal(0, c.difference)
      assert.same({ 5, 3 }, { c.nfs[1].received, c.nfs[2].received })
      assert.same({ { reason = "too_old", count = 2 } }, c.nfs[1].drops)
      assert.same({ { reason = "all", count = 1 }, { reason = "other_port", count = 1 } }, c.nfs[2].drops)
      hook.parts[1].link = nil
   end)

   rooted("is refused with the position in the script", function()
      local function broken(pkt)
         local t = {}
         return pkt:drop(t)
      end
      local ok, err = pcall(load, { broken }, { tc = true })
      assert.is_false(ok)
      err = tostring(err)
      for _, part in ipairs { "hook_spec.lua:", "^", "in chain c, pinned to tc at" } do
         assert.is_truthy(err:find(part, 1, true), err)
      end
      local burst = tw.nf("bursts", function() return { burst = function() end } end) {}
      ok, err = pcall(hook_chain.load, tw.chain("d", model.ports[1], burst):pin { xdp = true })
      assert.is_false(ok)
      assert.is_truthy(tostring(err):find("works on bursts", 1, true))
   end)

   rooted("is refused when it sends to a ring or an interface that is not there", function()
      local ring = tw.ring "r"
      local lo = tw.port "lo"
      local ok, err = pcall(hook_chain.load, tw.chain("e", lo, only_one, ring):pin { xdp = true })
      assert.is_false(ok)
      assert.is_truthy(err:find("its sink is ring r", 1, true), err)
      ok, err = pcall(hook_chain.load, tw.chain("f", lo, only_one, tw.port "nope7"):pin { xdp = true })
      assert.is_false(ok)
      assert.is_truthy(err:find('port nope7: there is no network interface "nope7"', 1, true), err)
   end)
end)

describe("a table of a script", function()
   local started = abi.C.tw_eal_info()
   local waits
   before_each(function()
      fresh()
      -- As before DPDK runs, whatever ran before this spec.
      waits = require "tideway.table.staged"
      waits.applies = function(kind) return kind == "hash" or kind == "lru" end
   end)
   after_each(function()
      package.loaded["tideway.table.staged"].applies = function() return false end
      fresh()
   end)

   it("works without DPDK as the engine's does", function()
      local was = started.started
      local t = tw.hash { name = "w", key = "u32 a; u16 b", value = "u32 x; u64 n", entries = 3 }
      assert.is_true(t:set(1, 2, 3, 4ULL))
      t:put(5, 6).x = 9
      assert.equal(4ULL, t:get(1, 2).n)
      assert.equal(9, t:get(5, 6).x)
      assert.is_nil(t:get(1, 1))
      assert.is_true(t:set(7, 7, 0, 0ULL))
      assert.is_false(t:set(8, 8, 0, 0ULL))
      assert.is_true(t:del(7, 7))
      assert.is_false(t:del(7, 7))
      local seen = {}
      for k, v in t:pairs() do seen[k.a] = v.x end
      assert.same({ [1] = 3, [5] = 9 }, seen)
      assert.equal(2, t:count())
      local counts = tw.lru { key = "u16", value = "u64", entries = 4 }
      counts:add(7, 5)
      counts:add(7, 1)
      assert.equal(6ULL, counts:get(7))
      assert.equal(was, started.started)
      local ok, err = pcall(tw.hash, { name = "w", key = "u8", value = "u8", entries = 1 })
      assert.is_false(ok)
      assert.is_truthy(err:find('a table named "w" exists', 1, true))
   end)

   it("becomes the engine's with its entries when an lcore needs it, for functions taken before too", function()
      local t = tw.hash { name = "w2", key = "u16", value = "u64", entries = 8 }
      local get, set = t.get, t.set
      t:set(300, 5ULL)
      assert.truthy(t.table ~= nil)
      assert.equal(5ULL, t:get(300))
      assert.equal(1, t:stats().count)
      set(t, 301, 6ULL)
      assert.equal(6ULL, t:get(301))
      assert.equal(5ULL, get(t, 300))
   end)

   rooted("becomes a map with its entries when a hook needs it", function()
      local t = tw.hash { name = "w3", key = "u16", value = "u64", entries = 8 }
      t:set(300, 5ULL)
      local map = assert(require("tideway.bpf.backing").of(t))
      assert.equal(5ULL, map:get(300))
      t:set(301, 7ULL)
      assert.equal(7ULL, map:get(301))
   end)
end)
