-- SPDX-License-Identifier: BSD-3-Clause
-- Tables that only hooks have: from a packet function in the kernel, and from user space.

local backing = require "tideway.bpf.backing"
local bpf = require "tideway.bpf"
local compiler = require "tideway.compiler"
local frame = require "test.support.frame"
local lab = require "test.support.lab"
local language = require "test.support.language"
local sockets = require "test.support.sockets"
local tw = require "tideway"

local missing = lab.missing()
local function live(name, f)
   it(name, missing and function() pending(missing) end or f)
end

local XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_REDIRECT = 0, 1, 2, 4

local function udp(sport, dport)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = sport, dport = dport or 53 }, ("x"):rep(40))
end

local open = {}

after_each(function()
   for _, o in ipairs(open) do o() end
   open = {}
end)

-- A table whose map goes when the spec is over.
local function own(t)
   open[#open + 1] = function() backing.of(t):free() end
   return t
end

local function loaded(packet, hook, options)
   local program = language.load(packet, hook, options)
   open[#open + 1] = function() program:close() end
   return program
end

local refused = language.refused_packet

describe("per-CPU tables", function()
   live("count without atomics and are summed", function()
      local calls = own(tw.percpu_array { name = "lang_calls", value = "u64", entries = 4 })
      local ports = own(tw.percpu_hash { name = "lang_ports", key = "u16 port", value = "u32", entries = 8 })
      local flows = own(tw.lru_percpu {
         name = "lang_flows", key = "u16 port", value = "u32 packets; u64 bytes; u8 t[4]", entries = 8 })
      local program = loaded(function(pkt)
         local u = pkt:udp()
         if not u then return end
         calls:add(2, 3)
         ports:add(u.src_port, 1)
         local f = flows:put(u.src_port)
         if not f then return pkt:drop "lang_full" end
         f.packets = f.packets + 1
         f.bytes = f.bytes + pkt.len
         f.t[3] = f.t[3] + 2
      end)
      for _ = 1, 5 do program:test(udp(7)) end
      program:test(udp(8))
      assert.equal(18, tonumber(calls:sum(2)))
      assert.equal(5, ports:sum(7))
      assert.is_nil(ports:sum(9))
      local sum = flows:sum(7)
      assert.same({ 5, 5 * #udp(7), 10 }, { sum.packets, tonumber(sum.bytes), sum.t[3] })
      local list = ports:get(7)
      local total = 0
      for _, n in ipairs(list) do total = total + n end
      assert.equal(5, total)
      assert.is_true(ports:set(7, 100))
      assert.equal(#list * 100, ports:sum(7))
      assert.is_true(ports:del(7))
      assert.is_nil(ports:sum(7))
      assert.equal(1, ports:count())
      calls:clear()
      assert.equal(0, tonumber(calls:sum(2)))
   end)
end)

describe("a ring buffer", function()
   live("brings records to user space", function()
      local events = own(tw.ringbuf { name = "lang_events", value = "u32 src; u16 port; u8 head[4]", size = 4096 })
      local shape = tw.header("lang_head", "u8 bytes[4]")
      local program = loaded(function(pkt)
         local u, ip = pkt:udp(), pkt:ipv4()
         if not u or not ip then return end
         local at = pkt:payload_offset()
         local head = at and pkt:header(shape, at)
         if not head then return end
         if not events:output(ip.src, u.src_port, head.bytes) then return pkt:drop "lang_lost" end
      end)
      assert.is_false(events:poll(0))
      assert.equal(XDP_PASS, program:test(udp(1)))
      program:test(udp(2))
      assert.is_true(events:poll(100))
      local ports = {}
      for r in events:records() do
         assert.equal(0x0a000001, r.src)
         assert.equal("78:78:78:78", tostring(r.head))
         ports[#ports + 1] = r.port
      end
      assert.same({ 1, 2 }, ports)
      local code
      for n = 1, 4096 / 24 + 1 do code = program:test(udp(n)) end
      assert.equal(XDP_DROP, code) -- full
      local count = 0
      for _ in events:records() do count = count + 1 end
      assert.is_true(count > 100)
      assert.equal(XDP_PASS, program:test(udp(1)))
   end)

   live("of single numbers", function()
      local lengths = own(tw.ringbuf { value = "u32", size = 4096 })
      local program = loaded(function(pkt) lengths:output(pkt.len) end)
      program:test(udp(1))
      local list = {}
      for n in lengths:records() do list[#list + 1] = n end
      assert.same({ #udp(1) }, list)
   end)
end)

describe("a queue and a stack", function()
   live("take in from packets and from user space, and give back in order", function()
      local q = own(tw.queue { name = "lang_q", value = "u32 n; u16 port", entries = 3 })
      local s = own(tw.stack { name = "lang_s", value = "u32", entries = 3 })
      local push = loaded(function(pkt)
         local u = pkt:udp()
         if not u then return end
         if not q:push(pkt.len, u.src_port) then return pkt:drop "lang_full" end
         s:push(u.src_port)
      end)
      for n = 1, 3 do assert.equal(XDP_PASS, push:test(udp(n))) end
      assert.equal(XDP_DROP, push:test(udp(4)))
      assert.is_false(q:push(1, 2))
      assert.equal(1, q:peek().port)
      assert.equal(1, q:pop().port)
      assert.equal(3, s:peek())
      assert.equal(3, s:pop())
      local pop = loaded(function(pkt)
         local u = pkt:udp()
         if not u then return end
         local first, last = q:peek(), s:pop()
         if not first or not last then return pkt:drop "lang_empty" end
         u.src_port = first.port * 256 + last
         local taken = q:pop()
         if taken then u.dst_port = taken.n end
      end)
      local code, data = pop:test(udp(9))
      assert.equal(XDP_PASS, code)
      assert.equal(2 * 256 + 2, data:byte(35) * 256 + data:byte(36))
      assert.equal(#udp(1), data:byte(37) * 256 + data:byte(38))
      assert.equal(1, s:pop())
      assert.equal(XDP_DROP, pop:test(udp(9)))
      assert.equal(1, q:clear())
      assert.is_nil(q:pop())
      assert.is_nil(s:pop())
   end)
end)

describe("a bloom filter", function()
   live("knows what it has seen", function()
      local seen = own(tw.bloom { name = "lang_seen", value = "u32 src; u16 port", entries = 1000 })
      local program = loaded(function(pkt)
         local u, ip = pkt:udp(), pkt:ipv4()
         if not u or not ip then return end
         if seen:has(ip.src, u.src_port) then return pkt:drop "lang_seen" end
         seen:push(ip.src, u.src_port)
      end)
      assert.is_false(seen:has(0x0a000001, 5))
      assert.equal(XDP_PASS, program:test(udp(5)))
      assert.equal(XDP_DROP, program:test(udp(5)))
      assert.is_true(seen:has(0x0a000001, 5))
      assert.is_false(seen:has(0x0a000001, 6))
      seen:push(0x0a000001, 6)
      assert.equal(XDP_DROP, program:test(udp(6)))
   end)
end)

describe("maps that packets are redirected through", function()
   for _, kind in ipairs { "devmap", "devmap_hash", "cpumap" } do
      live(kind, function()
         local m = own(tw[kind] { name = "lang_" .. kind, entries = 8 })
         local program = loaded(function(pkt)
            local u = pkt:udp()
            if u then m:redirect(u.src_port) end
         end)
         assert.equal(XDP_ABORTED, program:test(udp(1)))
         assert.is_true(m:set(1, kind == "cpumap" and 64 or "lo"))
         assert.equal(XDP_REDIRECT, program:test(udp(1)))
         assert.equal(1, kind == "cpumap" and 1 or m:get(1).ifindex)
         assert.is_true(m:del(1))
         assert.equal(XDP_ABORTED, program:test(udp(1)))
      end)
   end

   live("say what becomes of packets without an entry", function()
      local m = own(tw.xskmap { name = "lang_xsk", entries = 8 })
      local program = loaded(function(pkt)
         local u = pkt:udp()
         if u then m:redirect(u.src_port, 2) end
      end)
      assert.equal(XDP_PASS, program:test(udp(1)))
   end)

   live("take names of interfaces that are there", function()
      local m = own(tw.devmap { entries = 1 })
      assert.error_matches(function() m:set(0, "nosuchif0") end, "nosuchif0")
   end)
end)

describe("maps of sockets", function()
   local function pairs_of_sockets()
      local list = {}
      for i = 1, 2 do
         local client, server = sockets.pair()
         list[i] = { client = client, server = server }
         open[#open + 1] = function()
            client:close()
            server:close()
         end
      end
      return list[1], list[2]
   end

   local function attached(hook, map, program)
      local link = assert(bpf.link.attach { hook = hook, map = map, program = program })
      table.insert(open, 1, function() link:detach() end)
   end

   for _, kind in ipairs { "sockmap", "sockhash" } do
      local key = kind == "sockhash" and "u32 n" or nil

      live(kind .. ": what is sent goes out of another socket", function()
         local one, two = pairs_of_sockets()
         local m = own(tw[kind] { name = "lang_" .. kind, key = key, entries = 4 })
         local program = loaded(function(pkt)
            if pkt.len > 10 then return pkt:drop "lang_long" end
            m:redirect(7 - 5)
         end, "sk_msg")
         attached("sk_msg", backing.of(m), program)
         assert.is_true(m:set(0, one.client))
         assert.is_true(m:set(2, two.client))
         assert.equal(5, one.client:send "hello")
         assert.equal("hello", two.server:receive())
         assert.is_nil(one.client:send "more than ten bytes")
         assert.is_true(m:del(2))
         assert.is_nil(m:get(2))
         assert.is_nil(one.client:send "none")
      end)

      live(kind .. ": what is received goes out of another socket", function()
         local one, two = pairs_of_sockets()
         local m = own(tw[kind] { name = "lang_" .. kind, key = key, entries = 4 })
         local program = loaded(function(pkt)
            if pkt.len > 10 then return pkt:drop "lang_long" end
            m:redirect(3)
         end, "sk_skb", { attach_type = "verdict" })
         attached("sk_skb_verdict", backing.of(m), program)
         m:set(1, one.server)
         m:set(3, two.client)
         one.client:send "hello"
         assert.equal("hello", two.server:receive())
         assert.is_nil(one.server:receive(20))
      end)
   end

   it("are not for other hooks", function()
      local m = tw.sockmap { name = "lang_socks2", entries = 4 }
      assert.matches("bpf_sk_redirect_map on hook xdp", (refused(function() m:redirect(1) end)))
   end)
end)

describe("a prog array", function()
   live("goes on with another program", function()
      local programs = own(tw.prog_array { name = "lang_next", entries = 4 })
      local first = loaded(function(pkt)
         local u = pkt:udp()
         if not u then return end
         u.dst_port = 77
         programs:tail_call(u.src_port)
      end)
      local second = loaded(function(pkt)
         local u = pkt:udp()
         if u and u.dst_port == 77 then return pkt:drop "lang_second" end
      end)
      assert.equal(XDP_PASS, first:test(udp(2)))
      assert.is_true(programs:set(2, second))
      assert.equal(XDP_DROP, first:test(udp(2)))
      assert.equal(XDP_PASS, first:test(udp(3)))
      assert.equal(XDP_PASS, first:test(udp(9000)))
      assert.is_true(programs:del(2))
      assert.equal(XDP_PASS, first:test(udp(2)))
   end)
end)

describe("tables of hooks are refused", function()
   it("when the declaration is wrong", function()
      for _, case in ipairs {
         { "percpu_hash", { value = "u32", entries = 4 }, "key type nil" },
         { "percpu_hash", { key = "u32", value = "u32" }, "entries is nil" },
         { "percpu_array", { key = "u32", value = "u32", entries = 1 }, "options are name, entries, value" },
         { "ringbuf", { value = "u32", size = 5000 }, "a power of two and whole pages of 4096; 5000 is not" },
         { "ringbuf", { value = "u32", entries = 5 }, "entries is not an option; options are name, size, value" },
         { "queue", { key = "u32", value = "u32", entries = 1 }, "key is not an option" },
         { "bloom", { entries = 1 }, "value type nil" },
         { "devmap", { value = "u32", entries = 1 }, "value is not an option" },
         { "sockhash", { entries = 1 }, "key type nil" },
         { "stack", 5, "is a number, not a table" },
         { "queue", { value = "u32 x", entries = 1, name = 5 }, "name is 5" },
         { "queue", { value = "u32 x", entries = 0 }, "entries is 0" },
         { "queue", { value = "u32 x", entry = 1 }, "entry is not an option" },
      } do
         assert.error_matches(function() tw[case[1]](case[2]) end, case[3])
      end
   end)

   it("for what they cannot do", function()
      local q = tw.queue { name = "lang_q2", value = "u32", entries = 3 }
      assert.matches("queue lang_q2: get%(%) can't be used here.*a queue has peek, pop, push",
         (refused(function() q:get(1) end)))
      local m = tw.devmap { name = "lang_dev2", entries = 3 }
      assert.matches("devmap lang_dev2: push%(%) can't be used here.*a devmap has redirect",
         (refused(function() m:push(1) end)))
      assert.matches("redirect_map", (refused(function() m:redirect(1) end, "tc")))
      local r = tw.ringbuf { name = "lang_ring2", value = "u32 a; u32 b", size = 4096 }
      assert.matches("lang_ring2:output: 2 values are needed %(u32 a, u32 b%), there are 1", (refused(function()
         r:output(1)
      end)))
   end)

   it("on lcores", function()
      local q = tw.queue { name = "lang_q3", value = "u32", entries = 3 }
      local nf = { name = "nf", packet = function() q:push(1) end }
      local segments = compiler.for_lcore { name = "c", stages = { nf } }
      assert.matches("kind queue do not run on lcore", tostring(segments[1].raw))
   end)
end)
