-- SPDX-License-Identifier: BSD-3-Clause
-- Chains on hooks that are watched: what is recorded of packets is what happened to them, by the kernel's test run of
-- the program that is attached; what runs when nobody watches any more is what ran before.

local bit = require "bit"
local ffi = require "ffi"
local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local hook_chain = require "tideway.hook.chain"
local hook_engine = require "tideway.hook"
local posix = require "tideway.posix"
local shell = require "test.shell"
local stats = require "tideway.stats"
local watch_hook = require "tideway.live.watch_hook"

local C = abi.C
local IN, NF, OUT, DROP, HELD = C.TW_EDGE_IN, C.TW_EDGE_NF, C.TW_EDGE_OUT, C.TW_EDGE_DROP, C.TW_EDGE_HELD
local missing = posix.geteuid() ~= 0 and "needs root to load programs" or not shell.has "ip" and "ip is missing" or nil
local IFACE = ("twh%d"):format(posix.getpid() % 100000)

local function fresh()
   engine.close()
   C.tw_stats_close()
   assert(C.tw_stats_open(nil, "spec", "spec") == 0, abi.error())
end

local function udp(ttl, port, size)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2", ttl = ttl }, { sport = 9, dport = port or 1 },
      ("x"):rep(size or 1))
end

-- ---- NFs ----

local function ttl(pkt)
   local ip = pkt:ipv4()
   if not ip then return pkt:pass() end
   if ip.ttl == 1 then return pkt:drop "too_old" end
   ip.ttl = ip.ttl - 1
   ip:update_checksum()
end

local function ports(pkt)
   local l4 = pkt:udp()
   if not l4 then return end
   if l4.dst_port == 7 then return pkt:drop "seven" end
   if l4.dst_port == 53 then
      pkt.mark = 5
      return pkt:pass()
   end
end

local function last(pkt)
   local l4 = pkt:udp()
   if l4 and l4.dst_port == 99 then return pkt:drop "last" end
end

-- ---- the chain ----

local hook, part
local NFS = { ttl, ports, last }

local function load(place, stages)
   local list = {}
   for i, f in ipairs(stages or NFS) do
      list[i] = type(f) == "function" and tw.nf("nf" .. i, function() return { packet = f } end) {} or f
   end
   local chain = tw.chain("up", tw.port(IFACE), unpack(list)):pin(place)
   hook = hook_chain.load(chain)
   hook_engine.list[1] = hook
   hook:attach()
   require("tideway.plan").publish_names(chain, "spec")
   C.tw_stats().chain[chain.index].hook = 1
   return hook
end

local function run(...)
   for _, f in ipairs { ... } do assert(hook.parts[1].split:program():test(f)) end
end

local function open(options)
   local wanted = { chains = { { chain = hook.chain, index = hook.chain.index, stages = options.stages or 0 } },
      edges = IN, snaplen = 65535, headers = false, sample = 1, follow = false }
   for key, value in pairs(options) do if key ~= "stages" then wanted[key] = value end end
   if wanted.follow then wanted.edges = IN + NF + OUT + DROP + HELD end
   local err
   part, err = watch_hook.open(wanted)
   return part, err
end

local EDGE = { [IN] = "in", [NF] = "nf", [OUT] = "out", [DROP] = "drop", [HELD] = "held" }
local KIND = { [0] = "next", "drop", "port", "flood", "pass", "punt", "hold", "sink" }

-- A record in words: "nf1 next", "drop seven", ...
local function words(r)
   local kind, argument = KIND[bit.band(r.verdict, 255)], bit.rshift(r.verdict, 8)
   local stage = r.stage < C.TW_STAGES_MAX - 2 and r.stage + 1 or ""
   if kind == "drop" then kind = ffi.string(C.tw_stats().reason[argument]) end
   if kind == "port" then kind = "port " .. argument end
   return ("%s%s %s"):format(EDGE[r.edge], stage, kind)
end

-- Records as plain tables, in order.
local function read()
   local list = {}
   while true do
      local r, f = part:next(ffi.new("uint64_t", -1))
      if not r then return list end
      list[#list + 1] = {
         words = words(r), packet = r.packet, len = r.len, caplen = r.caplen, ttl = r.caplen > 22 and f[22] or nil,
         time = r.time, spent = r.spent, mark = r.mark, port = r.port, out = r.out, chain = r.chain, flags = r.flags,
         text = ffi.string(f, r.caplen),
      }
   end
end

local function texts(list)
   local out = {}
   for i, r in ipairs(list) do out[i] = r.words end
   return out
end

local function row()
   hook:refresh()
   local c = stats.snapshot(C.tw_stats()).chains[1]
   assert.equal(0, c.difference)
   return c
end

local function rooted(name, f) it(name, missing and function() pending(missing) end or f) end

describe("a watched chain on a hook", function()
   setup(function()
      if missing then return end
      local made = shell.run(("ip link add %s type veth peer name %sp && ip link set %s up"):format(IFACE, IFACE, IFACE))
      assert(made.code == 0, made.err)
   end)
   teardown(function()
      if not missing then shell.run("ip link del " .. IFACE) end
   end)
   before_each(fresh)
   after_each(function()
      if part then part:close() end
      if hook then
         hook:detach()
         hook:close()
      end
      hook, part, hook_engine.list[1] = nil, nil, nil
      fresh()
   end)

   for kind, place in pairs { xdp = { xdp = true, mode = "generic" }, tc = { tc = true } } do
      rooted("follows packets through every NF on " .. kind, function()
         load(place)
         run(udp(9))
         local before = hook.parts[1].split:program().id
         assert(open { follow = true })
         assert.not_equal(before, hook.parts[1].split:program().id)
         run(udp(9), udp(1), udp(9, 7), udp(9, 53), udp(9, 99))
         local list = read()
         assert.same({
            "in next", "nf1 next", "nf2 next", "nf3 next", "out pass",
            "in next", "nf1 too_old", "drop1 too_old",
            "in next", "nf1 next", "nf2 seven", "drop2 seven",
            "in next", "nf1 next", "nf2 pass", "out2 pass",
            "in next", "nf1 next", "nf2 next", "nf3 last", "drop3 last",
         }, texts(list))
         assert.same({ 9, 8, 8, 8 }, { list[1].ttl, list[2].ttl, list[3].ttl, list[4].ttl })
         local numbers, time = {}, 0ULL
         for _, r in ipairs(list) do
            numbers[r.packet] = (numbers[r.packet] or 0) + 1
            assert.is_true(r.time >= time and r.spent < 1e9 and r.flags == 0)
            time = r.time
         end
         local counts = {}
         for _, n in pairs(numbers) do counts[#counts + 1] = n end
         table.sort(counts)
         assert.same({ 3, 4, 4, 5, 5 }, counts)
         assert.same({ #udp(9), #udp(9), 0 }, { list[1].len, list[1].caplen, list[5].caplen })
         assert.equal(udp(9), list[1].text)
         assert.same({ 0, 5 }, { list[14].mark, list[15].mark })
         assert.is_true(math.abs(tonumber(C.tw_now() - time)) < 5e9)
         part:stop()
         assert.equal(before, hook.parts[1].split:program().id)
         assert.equal(before, hook.parts[1].link:info().program)
         run(udp(9), udp(1))
         assert.same({}, read())
         local c = row()
         assert.same({ 8, 4, 4 }, { c.rx, c.dropped, c.sent })
         local counted = part:counts()
         assert.same({ 5, 5, 0 }, { counted.matched, counted.packets, counted.missed })
      end)

      rooted("captures at each edge on " .. kind, function()
         load(place)
         local packets = { udp(9), udp(1), udp(9, 7), udp(9, 53), udp(9, 99), udp(8, 7) }
         for _, case in ipairs {
            { { edges = IN }, 6, "in next" },
            { { edges = NF, stages = 1 }, 5, "nf1 next" },
            { { edges = NF, stages = 2 }, 3, "nf2 next", "nf2 pass" },
            { { edges = DROP }, 4, "drop1 too_old", "drop2 seven", "drop3 last" },
            { { edges = DROP, reason = "seven" }, 2, "drop2 seven" },
            { { edges = OUT }, 2, "out pass", "out2 pass" },
            { { edges = IN, filter = "udp dst port 7" }, 2, "in next" },
            { { edges = DROP, filter = "udp dst port 7 and ip[8] == 7" }, 1, "drop2 seven" }, -- as it is there
            { { edges = IN, filter = "tcp" }, 0 },
            { { edges = IN, limit = 2 }, 2, "in next" },
            { { edges = IN, sample = 3 }, 2, "in next" },
            { { edges = IN, filter = "udp", sample = 2, limit = 1, snaplen = 20 }, 1, "in next" },
            { { edges = IN, filter = "greater 1000" }, 0 },
            { { edges = IN, filter = "less 1000 and ether[12:2] & 0xff00 = 0x800 and ip[4000] = 1" }, 0 },
         } do
            assert(open(case[1]))
            run(unpack(packets))
            part:stop()
            local list, known = read(), {}
            assert.equal(case[2], #list)
            for i = 3, #case do known[case[i]] = true end
            for _, r in ipairs(list) do
               assert.is_true(known[r.words], r.words)
               assert.equal(math.min(#packets[1], case[1].snaplen or 1000), r.caplen)
            end
            part:close()
         end
         assert.equal(6 * 14, row().rx)
      end)
   end

   rooted("stops at as many packets as were asked for, whatever happens to them", function()
      load { xdp = true, mode = "generic" }
      assert(open { follow = true, limit = 2 })
      run(udp(9), udp(1), udp(9, 7), udp(9))
      assert.equal(8, #read())
      part:close()
      assert(open { follow = true, reason = "seven" })
      run(udp(9), udp(9, 7), udp(1))
      assert.same({ "in next", "nf1 next", "nf2 seven", "drop2 seven" }, texts(read()))
   end)

   rooted("serves several who watch at once", function()
      load { xdp = true, mode = "generic" }
      assert(open { follow = true })
      local first = part
      assert(open { follow = true, filter = "udp dst port 7" })
      local second = part
      assert(open { edges = DROP })
      local third = part
      run(udp(9, 7), udp(1))
      for _, case in ipairs { { first, 7 }, { second, 4 }, { third, 2 } } do
         part = case[1]
         assert.equal(case[2], #read())
      end
      second:close()
      run(udp(9, 7))
      part = first
      assert.equal(4, #read())
      first:close()
      part = third
      run(udp(9, 7))
      assert.equal(2, #read())
      third:close()
      assert.equal(0, #hook.parts[1].split.parts[1].compiled.watches)
      assert.equal(4, row().rx)
   end)

   rooted("goes on to be watched when its NFs are replaced, and not when nobody watches any more", function()
      load { xdp = true, mode = "generic" }
      assert(open { edges = DROP })
      local all = tw.nf("all", function() return { packet = function(pkt) return pkt:drop "all" end } end) {}
      assert(hook:replace { all, hook.stages[2], hook.stages[3] })
      run(udp(9))
      assert.same({ "drop1 all" }, texts(read()))
      part:close()
      assert.equal(0, #hook.parts[1].split.parts[1].compiled.watches)
      run(udp(9))
      assert.same({ { reason = "all", count = 2 } }, row().nfs[1].drops)
   end)

   rooted("counts what it had no room for", function()
      load { xdp = true, mode = "generic" }
      assert(open { edges = IN })
      local big = udp(9, 1, 1400)
      assert(hook.parts[1].split:program():test(big, { repeat_count = 5000 }))
      local counts, n = part:counts(), #read()
      assert.is_true(n > 2000 and n < 5000)
      assert.same({ 5000, n, 5000 - n, 5000 },
         { counts.matched, counts.records, counts.missed, counts.chain_packets })
      run(big)
      assert.equal(1, #read())
   end)

   rooted("is watched when it is split into several programs", function()
      for _, place in ipairs { { xdp = true, mode = "generic", split = true }, { tc = true, split = true } } do
         load(place)
         assert.equal(3, #hook.parts[1].split.parts)
         assert(open { follow = true })
         run(udp(9), udp(9, 99), udp(1))
         local list = read()
         assert.same({
            "in next", "nf1 next", "nf2 next", "nf3 next", "out pass",
            "in next", "nf1 next", "nf2 next", "nf3 last", "drop3 last",
            "in next", "nf1 too_old", "drop1 too_old",
         }, texts(list))
         for i, r in ipairs(list) do
            assert.equal(list[i <= 5 and 1 or i <= 10 and 6 or 11].packet, r.packet)
            assert.is_true(r.flags == 0 and r.spent < 1e9)
         end
         part:close()
         hook:detach()
         hook:close()
         fresh()
      end
      hook = nil
   end)

   rooted("leaves nothing behind, however often it is watched", function()
      load { xdp = true, mode = "generic" }
      local function descriptors()
         hook:refresh()
         collectgarbage()
         collectgarbage()
         return tonumber((shell.run("ls /proc/" .. posix.getpid() .. "/fd | wc -l").out))
      end
      local function again(n)
         for _ = 1, n do
            assert(open { follow = true })
            run(udp(9))
            part:close()
         end
         posix.poll({}, 120)
      end
      again(2)
      local before = descriptors()
      again(10)
      assert.is_true(descriptors() <= before)
      assert.is_true(#hook.runs <= 3)
      assert.equal(12, row().rx)
   end)

   rooted("runs on as it is when the observation is refused", function()
      load { xdp = true, mode = "generic" }
      local before = hook.parts[1].split:program().id
      local ok, err = open { edges = IN, filter = "udp dst prt 7" }
      assert.is_nil(ok)
      assert.is_truthy(err:find('filter "udp dst prt 7"', 1, true), err)
      ok, err = open { edges = IN, fn = function(pkt) return { pkt } end }
      assert.is_nil(ok)
      assert.is_truthy(err:find("chain up can't be watched, and goes on as it is: ", 1, true), err)
      assert.equal(before, hook.parts[1].split:program().id)
      run(udp(9))
      assert.equal(1, row().rx)
   end)

   rooted("follows punted packets through the user half of NFs", function()
      for i, place in ipairs { { xdp = true, mode = "generic" }, { tc = true } } do
         local reason = "three" .. i -- ids of reasons are remembered, and the counters are others each time
         local hybrid = tw.nf("hybrid", function()
            return {
               packet = function(pkt)
                  local l4 = pkt:udp()
                  if l4 and l4.dst_port > 1 then return pkt:punt() end
               end,
               punt = function(pkt)
                  local ip = pkt:ipv4()
                  if ip.ttl == 3 then return pkt:drop(reason) end
                  ip.ttl = 77
                  ip:update_checksum()
               end,
            }
         end) {}
         load(place, { ttl, hybrid, ports })
         local function go(...)
            run(...)
            assert.is_true(hook.punts:drain(100) >= 0)
         end
         assert(open { follow = true })
         go(udp(9, 7), udp(4, 9), udp(9), udp(9, 53))
         local list, found = read(), {}
         for _, r in ipairs(list) do
            found[r.packet] = found[r.packet] or {}
            table.insert(found[r.packet], r.words)
            if r.words == "nf2 next" and bit.band(r.flags, C.TW_WATCH_PUNT) ~= 0 then assert.equal(77, r.ttl) end
            assert.equal(0, bit.band(r.flags, C.TW_WATCH_INCOMPLETE))
         end
         local ways = {}
         for _, way in pairs(found) do ways[#ways + 1] = table.concat(way, ", ") end
         table.sort(ways)
         assert.same({
            "in next, nf1 next, nf2 next, nf3 next, out pass",
            "in next, nf1 next, nf2 punt, nf2 next, nf3 pass, out3 pass",
            "in next, nf1 next, nf2 punt, nf2 next, nf3 seven, drop3 seven",
            ("in next, nf1 next, nf2 punt, nf2 %s, drop2 %s"):format(reason, reason),
         }, ways)
         part:close()
         for _, case in ipairs {
            { { edges = DROP }, 2 }, { { edges = OUT }, 2 }, { { edges = NF, stages = 2 }, 3 },
            { { edges = DROP, reason = "seven", filter = "udp" }, 1 }, { { edges = OUT, filter = "tcp" }, 0 },
         } do
            assert(open(case[1]))
            go(udp(9, 7), udp(4, 9), udp(9), udp(9, 53))
            assert.equal(case[2], #read())
            part:close()
         end
         local c = row()
         assert.same({ 24, 12, 12, 18 }, { c.rx, c.dropped, c.sent, c.punted })
         hook:detach()
         hook.punts:close()
         hook:close()
         fresh()
      end
      hook = nil
   end)

   rooted("shows packets that start with the IP header as frames", function()
      local mounted = shell.run "findmnt -n -o TARGET -t cgroup2".out:match "[^\n]+"
      if not mounted then return pending "cgroup2 is not mounted" end
      local path = ("%s/%s"):format(mounted, IFACE)
      assert(shell.run("mkdir " .. path).code == 0)
      finally(function() shell.run("rmdir " .. path) end)
      local reads = function(pkt)
         local ip = pkt:ipv4()
         if ip and ip.ttl == 1 then return pkt:drop "too_old" end
      end
      load({ cgroup = path }, { reads, ports })
      assert(open { edges = IN + DROP, filter = "udp dst port 7 or ip[8] = 1" })
      run(udp(9), udp(9, 7), udp(1))
      local list = read()
      assert.same({ "in next", "drop2 seven", "in next", "drop1 too_old" }, texts(list))
      local frame_of = ("\0"):rep(12) .. udp(9, 7):sub(13)
      assert.same({ #frame_of, frame_of }, { list[1].len, list[1].text })
      local sockets = { chains = { { index = hook.chain.index, stages = 0 } }, edges = IN, snaplen = 64, sample = 1 }
      hook.chain.place.hook = "sk_skb"
      local ok, err = watch_hook.open(sockets)
      hook.chain.place.hook = "cgroup_skb"
      assert.is_nil(ok)
      assert.is_truthy(err:find("chain up is on sk_skb, where packets have no headers", 1, true), err)
      hook:detach()
   end)

   local FILTERS = {
      "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)", "vlan and udp", "ip6 and tcp",
      "host 10.0.0.1 and not arp", "port 53 or port 67 or net 192.168.0.0/16", "ether[0] & 1 != 0", "ip proto 1 or icmp6",
      "len > 60 and ip[ip[0] & 15] % 3 = 1", "ip[8] << ip[9] > 7 or ip[1] / ip[8] = 0", "arp or mpls", "greater 100",
      "-ip[8] < 5 or ether[len - 1] = 120",
   }

   rooted("filters as libpcap's own interpreter does", function()
      local frames = require("test.support.corpus").valid()
      assert.is_true(#frames > 20)
      load({ xdp = true, mode = "generic" }, { function(pkt) return pkt:pass() end })
      for _, filter in ipairs(FILTERS) do
         assert(open { edges = IN, filter = filter })
         local expected, got = {}, {}
         for i, entry in ipairs(frames) do
            assert(hook.parts[1].split:program():test(entry.frame))
            expected[i] = C.tw_filter_match(filter, entry.frame, #entry.frame, #entry.frame)
            got[i] = #read()
         end
         assert.same(expected, got, filter)
         part:close()
      end
   end)

   rooted("is watched on routes", function()
      for _, at in ipairs { "in", "out", "xmit" } do
         load({ lwt = "198.18.7.0/24 dev " .. IFACE, at = at }, { function(pkt)
            local ip = pkt:ipv4()
            if ip and ip.ttl == 1 then return pkt:drop("old_" .. "age") end
         end, ports })
         assert(open { follow = true, filter = "ip[8] < 9" })
         run(udp(9), udp(8), udp(1))
         assert.same({ "in next", "nf1 next", "nf2 next", "out pass", "in next", "nf1 old_age", "drop1 old_age" },
            texts(read()))
         part:close()
         hook:detach()
         hook:close()
         fresh()
      end
      hook = nil
   end)

   rooted("takes a packet function as its filter", function()
      load { tc = true }
      assert(open { edges = IN, fn = function(pkt)
         local l4 = pkt:udp()
         return l4 and l4.dst_port > 50
      end })
      run(udp(9), udp(9, 53), frame.arp({}, {
         oper = 1, sha = "02:00:00:00:00:01", spa = "10.0.0.1", tha = "00:00:00:00:00:00", tpa = "10.0.0.2",
      }))
      assert.equal(1, #read())
   end)
end)
