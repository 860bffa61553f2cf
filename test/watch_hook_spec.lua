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
   local stage = r.stage < 250 and r.stage + 1 or ""
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
      if not missing then assert(shell.run(("ip link add %s type veth peer name %sp && ip link set %s up"):format(IFACE, IFACE, IFACE)).code == 0) end
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
            assert.is_true(r.time >= time and r.spent < 1e6 and r.flags == 0)
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
end)
