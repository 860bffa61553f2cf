-- SPDX-License-Identifier: BSD-3-Clause
-- Watches on lcores that are turned by hand: which packets are copied out at which edge, and exactly how many.

local edges = require "tideway.live.edge"
local frame = require "test.support.frame"
local loop = require "tideway.loop"
local posix = require "tideway.posix"
local rigs = require "test.support.rig"
local tw = require "tideway"
local watch = require "tideway.live.watch"
local watched = require "test.support.watched"

local udp, ttl, guard, bulk, fields = watched.udp, watched.ttl, watched.guard, watched.bulk, watched.fields

describe("watch", function()
   local rig, open

   -- make(rig): the NFs and the sink
   local function start(make)
      rig = rigs.new { ports = { "lan", "wan" } }
      rig:chain("up", rig.lan, make(rig))
      rig:start()
   end

   local function start_usual()
      start(function(r) return guard {}, ttl {}, r.wan end)
   end

   before_each(function() open = {} end)

   after_each(function()
      for _, w in ipairs(open) do w:close() end
      rig:close()
   end)

   local function at(edge, options)
      local w = watch.open(edges.parse(edge), options or {})
      open[#open + 1] = w
      return w
   end

   -- What a watch has seen so far.
   local function seen(w)
      local list = {}
      w:stop()
      local function note(record, bytes, part)
         local from, to = part:ways(record)
         local verdict, argument = watch.verdict(record)
         list[#list + 1] = {
            edge = record.edge, ttl = bytes[22], dport = bytes[36] * 256 + bytes[37], from = from, to = to,
            nf = watch.stage_name(record), verdict = verdict, argument = argument, caplen = record.caplen,
            len = record.len, mark = record.mark,
         }
      end
      while w:read(note) do loop.turn(0) end
      return list
   end

   local function many(n, ...)
      local list = {}
      for i = 1, n do list[i] = udp(...) end
      return unpack(list)
   end

   describe("sees", function()
      it("what comes in before the first NF, and what leaves behind the last", function()
         start_usual()
         local into, out = at "up:in", at "up:out"
         rig:send(rig.lan, udp(64), udp(1), udp(30, 7), udp(20))
         into, out = seen(into), seen(out)
         assert.same({ 64, 1, 30, 20 }, fields(into, "ttl"))
         assert.same({ "lan", "lan", "lan", "lan" }, fields(into, "from"))
         assert.same({ 63, 19 }, fields(out, "ttl"))
         assert.same({ "wan", "wan" }, fields(out, "to"))
         assert.same({ "lan", "lan" }, fields(out, "from"))
      end)

      it("drops, all or those for a reason", function()
         start_usual()
         local all, some, options = at "up:drop", at "up:drop:echo", at("up:drop", { reason = "ttl_expired" })
         rig:send(rig.lan, udp(64), udp(1), udp(30, 7))
         all = seen(all)
         assert.same({ "ttl", "guard" }, { all[1].nf, all[2].nf })
         assert.same({ "ttl_expired", "echo" }, fields(all, "argument"))
         assert.same({ "lan", "lan" }, fields(all, "from"))
         assert.same({ 7 }, fields(seen(some), "dport"))
         assert.same({ 1 }, fields(seen(options), "ttl"))
      end)

      it("what the engine drops: those that a full port did not take, and not as sent", function()
         start_usual()
         local out, drop = at "wan:tx", at "up:drop"
         for _ = 1, 200 do rig:send(rig.lan, many(32)) end -- nobody takes them from wan
         local snapshot = rig:snapshot()
         local sent = #rig:collect(rig.wan)
         out, drop = seen(out), seen(drop)
         assert.is_true(sent < 6400)
         assert.equal(sent, #out)
         assert.equal(6400 - sent, #drop)
         assert.same({ nil, "tx_full" }, { drop[1].nf, drop[1].argument })
         assert.equal(sent, snapshot.chains[1].sent)
      end)

      it("packets between two NFs, and behind one that works on bursts", function()
         start(function(r) return guard {}, bulk {}, ttl {}, r.wan end)
         local one, two, last, second = at "up:guard", at "up:bulk", at "up:ttl", at "up:2"
         rig:send(rig.lan, udp(64, 9), udp(1, 53), udp(30, 7), udp(20))
         one, two, last, second = seen(one), seen(two), seen(last), seen(second)
         assert.same({ 64, 1, 20 }, fields(one, "ttl")) -- not what it dropped
         assert.same({ 5, 0, 0 }, fields(one, "mark"))
         assert.same({ 64, 1, 20 }, fields(two, "ttl"))
         assert.same({ 7, 7, 7 }, fields(two, "mark"))
         assert.same({ 63, 19 }, fields(last, "ttl"))
         assert.equal(3, #second)
         assert.same({ 63, 19 }, { rig:collect(rig.wan)[1]:byte(23), 19 })
      end)

      it("all edges of a chain, in order", function()
         start_usual()
         local w = at "up"
         rig:send(rig.lan, udp(64), udp(1))
         local C = require("tideway.abi").C
         assert.same({ C.TW_EDGE_IN, C.TW_EDGE_IN, C.TW_EDGE_DROP, C.TW_EDGE_OUT }, fields(seen(w), "edge"))
      end)

      it("ports from both sides, and chains without NFs", function()
         rig = rigs.new { ports = { "lan", "wan" } }
         rig:chain("up", rig.lan, rig.wan)
         rig:chain("down", rig.wan, ttl {}, rig.lan)
         rig:start()
         local watches = { at "lan:rx", at "lan:tx", at "wan:rx", at "wan:tx" }
         rig:send(rig.lan, udp(10), udp(11))
         rig:send(rig.wan, udp(20))
         local ttls = {}
         for i, w in ipairs(watches) do ttls[i] = fields(seen(w), "ttl") end
         assert.same({ { 10, 11 }, { 19 }, { 20 }, { 10, 11 } }, ttls)
      end)

      it("packets by ring from one chain to the next", function()
         rig = rigs.new { ports = { "lan", "wan" } }
         local ring = tw.ring "middle"
         rig:chain("up", rig.lan, ttl {}, ring)
         rig:chain("on", ring, ttl {}, rig.wan)
         rig:start()
         local out, into = at "up:out", at "on:in"
         rig:send(rig.lan, udp(10))
         out, into = seen(out), seen(into)
         assert.same({ { "lan", "middle", 9 } }, { { out[1].from, out[1].to, out[1].ttl } })
         assert.same({ "lan", 9 }, { into[1].from, into[1].ttl })
      end)

      it("copies and frames that NFs make, as they leave", function()
         rig = rigs.new { ports = { "one", "two", "three" } }
         rig:chain("hub", { rig.one, rig.two, rig.three }, tw.nf("hub", function()
            return { packet = function(pkt) return pkt:flood() end }
         end) {})
         rig:start()
         local w = at "hub:out"
         rig:send(rig.two, udp(10))
         local list = fields(seen(w), "to")
         table.sort(list)
         assert.same({ "one", "three" }, list)
      end)
   end)

   describe("filters", function()
      it("in pcap-filter language", function()
         start_usual()
         local w = { at("up:in", { filter = "udp dst port 7 or udp dst port 9" }), at("up:in", { filter = "ip[8] < 5" }),
            at("up:in", { filter = "tcp" }), at("up:in", { filter = "net 10.0.0.0/8 and len > 60" }) }
         rig:send(rig.lan, udp(64, 7), udp(3, 53), udp(64, 9), udp(1, 9, ("x"):rep(100)))
         local counts = {}
         for i = 1, 4 do counts[i] = #seen(w[i]) end
         assert.same({ 3, 2, 0, 1 }, counts)
      end)

      it("as a function of the packet", function()
         start_usual()
         local w = at("up:in", { snaplen = 20, filter = function(pkt)
            local ip = pkt:ipv4()
            return ip and ip.ttl == 3 and pkt:udp().dst_port == 53
         end })
         rig:send(rig.lan, udp(64, 53), udp(3, 53), udp(3, 9))
         assert.same({ 3 }, fields(seen(w), "ttl"))
      end)

      local wrong = {
         { "syntax error", "tcp and and" },
         { "names of hosts are not looked up", "host www.example.com" },
         { "names of hosts are not looked up", "src somewhere and tcp" },
         { "names of hosts are not looked up", "port 80 and host www.example.com" },
         { "not a text|is a text such as", true },
      }
      for _, case in ipairs(wrong) do
         it("that are refused: " .. tostring(case[2]), function()
            start_usual()
            local ok, err = pcall(at, "up:in", { filter = case[2] })
            assert.is_false(ok)
            assert.matches(case[1]:match "[^|]+$", err)
         end)
      end

      it("that have names of services and protocols, numbers and addresses", function()
         start_usual()
         for _, text in ipairs { "port http or https", "port domain", "ip proto 1", "ether host 02:00:00:00:00:0a",
            "ip6 net 2001:db8::/32", "host 2001:db8::1", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "vlan 5 and udp",
            "not (net 10.0.0.0 mask 255.0.0.0)", "ip proto \\tcp", "icmp[icmptype] = icmp-echo", "" } do
            at("up:in", { filter = text }):close()
         end
      end)
   end)

   describe("takes", function()
      it("exactly as many as it is told", function()
         start_usual()
         local w = at("up:in", { filter = "udp port 53", count = 10 })
         for _ = 1, 5 do rig:send(rig.lan, udp(64), udp(64, 9), udp(64), udp(64)) end
         local list = seen(w)
         assert.equal(10, #list)
         assert.equal("count", w.over)
         for _, item in ipairs(list) do assert.equal(53, item.dport) end
      end)

      it("as many as it is told when a function filters", function()
         start_usual()
         local w = at("up:in", { filter = function(pkt) return pkt:ipv4().ttl == 9 end, count = 3 })
         for _ = 1, 5 do rig:send(rig.lan, udp(9), udp(8)) end
         assert.same({ 9, 9, 9 }, fields(seen(w), "ttl"))
      end)

      it("one in so many of those that match", function()
         start_usual()
         local w = at("up:in", { filter = "udp port 53", sample = 3 })
         for i = 1, 10 do rig:send(rig.lan, udp(10 + i), udp(64, 9)) end
         assert.same({ 11, 14, 17, 20 }, fields(seen(w), "ttl"))
      end)

      it("those of its time only", function()
         start_usual()
         local w = at("up:in", { seconds = 10 })
         rig:send(rig.lan, udp(1))
         rig:advance(9)
         rig:send(rig.lan, udp(2))
         rig:advance(2)
         rig:send(rig.lan, udp(3))
         local list = {}
         assert.is_false(w:read(function(_, bytes) list[#list + 1] = bytes[22] end) and w.over == nil)
         assert.same({ 1, 2 }, list)
         assert.equal("time", w.over)
      end)

      it("as much of a frame as it is told, and says how long it was", function()
         start_usual()
         local short, headers = at("up:in", { snaplen = 20 }), at("up:in", { headers = true })
         local f = udp(64, 53, ("x"):rep(500))
         rig:send(rig.lan, f)
         short, headers = seen(short)[1], seen(headers)[1]
         assert.same({ 20, #f }, { short.caplen, short.len })
         assert.same({ 14 + 20 + 8, #f }, { headers.caplen, headers.len })
      end)

      it("lets none ask about payload who must not see it", function()
         start_usual()
         local w = { at("up:in", { filter = "udp[8] = 0x68" }), at("up:in", { filter = "udp[8] = 0x68", headers = true }),
            at("up:in", { filter = "udp[2:2] = 53", headers = true }) }
         rig:send(rig.lan, udp(64))
         assert.same({ 1, 0, 1 }, { #seen(w[1]), #seen(w[2]), #seen(w[3]) })
      end)

      it("exactly as many as it is told over several lcores, in order of time", function()
         rig = rigs.new { ports = { "lan", "dmz", "wan" } }
         tw.chain("a", rig.lan, ttl {}, rig.wan):pin { lcore = 0 }
         tw.chain("b", rig.dmz, ttl {}, rig.wan):pin { lcore = 1 }
         rig:start()
         local w = at("wan:tx", { count = 1000 })
         local from, last, ordered, sent = { lan = 0, dmz = 0 }, 0, true, 0
         local deadline = os.time() + 60
         repeat
            for _ = 1, 20 do
               rig.lan:inject(udp(64))
               rig.dmz:inject(udp(64))
            end
            sent = sent + 40
            repeat -- each of them has its turn
               loop.turn(1)
               sent = sent - #rig:collect(rig.wan)
            until sent == 0 or os.time() > deadline
            w:read(function(record, _, part)
               local name = part:ways(record)
               from[name] = from[name] + 1
               ordered, last = ordered and record.time >= last, record.time
            end)
         until w.over or os.time() > deadline
         assert.equal("count", w.over)
         assert.equal(1000, from.lan + from.dmz)
         assert.is_true(from.lan > 0 and from.dmz > 0)
         assert.is_true(ordered)
         assert.equal(1000, w:counts().packets)
      end)

      it("what fits its ring, and counts what it misses", function()
         start_usual()
         local w = at "up:in"
         local f = udp(64, 53, ("x"):rep(1400))
         for _ = 1, 100 do
            rig:send(rig.lan, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f, f)
            rig:collect(rig.wan)
         end
         local list, counts = seen(w), w:counts()
         assert.equal(3000, counts.matched)
         assert.is_true(counts.missed > 0)
         assert.equal(3000, #list + counts.missed)
         for _, item in ipairs(list) do assert.equal(#f, item.len) end
      end)
   end)

   describe("knows where headers end:", function()
      local IP = { src = "10.0.0.1", dst = "10.0.0.2" }
      local IP6 = { src = "2001:db8::1", dst = "2001:db8::2" }
      local payload = ("p"):rep(40)
      local function tcp(words) return ("\0"):rep(12) .. string.char(words * 16) .. ("\0"):rep(words * 4 - 13) .. payload end
      local function ip4(proto, rest, more)
         local ip = { src = IP.src, dst = IP.dst, proto = proto }
         for k, v in pairs(more or {}) do ip[k] = v end
         return frame.ipv4(ip, rest)
      end
      local function ip6(proto, rest) return frame.ipv6({ src = IP6.src, dst = IP6.dst, next = proto }, rest) end
      local VLAN = { vlan = { { 0x8100, 5 } } }
      local cases = {
         { "TCP", frame.eth({}, ip4(6, tcp(5))), 54 },
         { "TCP with options", frame.eth({}, ip4(6, tcp(8))), 66 },
         { "IPv4 with options", frame.eth({}, ip4(17, ("\0"):rep(8) .. payload, { options = "\1\1\1\0" })), 46 },
         { "VLAN", frame.eth(VLAN, ip4(17, ("\0"):rep(8) .. payload)), 46 },
         { "a later fragment", frame.eth({}, ip4(17, payload, { frag = 100 })), 34 },
         { "an unknown protocol", frame.eth({}, ip4(89, payload)), 34 },
         { "ICMP", frame.eth({}, ip4(1, ("\0"):rep(8) .. payload)), 42 },
         { "IPv6 UDP", frame.eth({ type = 0x86dd }, ip6(17, ("\0"):rep(8) .. payload)), 62 },
         { "IPv6 extensions", frame.eth({ type = 0x86dd }, ip6(0, "\60\0" .. ("\0"):rep(6) .. "\17\1" .. ("\0"):rep(14 + 8)
            .. payload)), 14 + 40 + 8 + 16 + 8 },
         { "neighbour discovery", frame.eth({ type = 0x86dd }, ip6(58, "\135" .. ("\0"):rep(23))), 78 },
         { "an echo over IPv6", frame.eth({ type = 0x86dd }, ip6(58, "\128" .. ("\0"):rep(7) .. payload)), 62 },
         { "ARP", frame.eth({ type = 0x0806 }, ("\0"):rep(28) .. payload), 42 },
         { "an unknown type", frame.eth({ type = 0x88b5 }, payload), 14 },
         { "a short frame", "\1\2\3", 3 },
         { "a frame cut inside a header", frame.eth({}, ip4(6, tcp(5))):sub(1, 40), 40 },
      }
      for _, case in ipairs(cases) do
         it(case[1], function()
            rig = rigs.new { ports = {} }
            local C = require("tideway.abi").C
            assert.equal(case[3], C.tw_header_length(case[2], #case[2]))
         end)
      end
   end)

   describe("costs", function()
      it("nothing when it is over, and says what it cost", function()
         start_usual()
         local w = at("up:in", { filter = "udp port 53" })
         rig:send(rig.lan, udp(64), udp(64, 9))
         local counts = w:counts()
         assert.same({ 2, 1, 1, 2 }, { counts.looked, counts.matched, counts.packets, counts.chain_packets })
         assert.is_true(counts.ns > 0)
         w:stop()
         rig:send(rig.lan, udp(64))
         assert.equal(2, w:counts().looked)
      end)

      it("memory that is given back", function()
         start_usual()
         for _ = 1, 200 do at("up", { filter = "udp" }):close() end -- 800 MB of rings otherwise
         rig:send(rig.lan, udp(64))
      end)

      it("a sentence when there are too many at a time", function()
         start_usual()
         for _ = 1, 16 do at "up:in" end
         local ok, err = pcall(at, "up:in")
         assert.is_false(ok)
         assert.matches("16 traces and captures run", err)
      end)
   end)

   describe("when chains change", function()
      local up

      local function change(fn)
         require("tideway.change").transaction(fn, "spec")
         posix.poll({}, 110) -- watches look ten times a second
      end

      local function begin()
         rig = rigs.new { ports = { "lan", "wan" } }
         up = rig:chain("up", rig.lan, guard {}, ttl {}, rig.wan)
         rig:chain("down", rig.wan, rig.lan)
         rig:start()
      end

      -- Records so far, and the sentence of its end.
      local function look(w)
         local list = {}
         while w:read(function(_, bytes) list[#list + 1] = bytes[22] end) do loop.turn(0) end
         posix.poll({}, 5) -- records settle
         while w:read(function(_, bytes) list[#list + 1] = bytes[22] end) do loop.turn(0) end
         return list, w.over
      end

      it("goes on at an edge that stays, also when that moves", function()
         begin()
         local into, behind = at "up:in", at "up:ttl"
         rig:send(rig.lan, udp(64))
         change(function() up:insert(bulk {}, { before = "guard" }) end)
         look(into)
         look(behind)
         rig:send(rig.lan, udp(32))
         assert.same({ { 32 }, { 31 } }, { (look(into)), (look(behind)) })
      end)

      it("ends with a sentence when its chain or NF is taken away", function()
         begin()
         local into, behind = at "up:in", at "up:ttl"
         rig:send(rig.lan, udp(64))
         change(function() up:remove "ttl" end)
         local list, over = look(behind)
         assert.same({ { 63 }, "chain up has no NF ttl any more" }, { list, over })
         rig:send(rig.lan, udp(32))
         change(function() up:delete() end)
         list, over = look(into)
         assert.same({ { 64, 32 }, "chain up was removed" }, { list, over })
      end)
   end)

   describe("edges that are not there:", function()
      local wrong = {
         { "upp:in", "there is no chain \"upp\"; did you mean up" },
         { "up:tll", "chain up has no edge \"tll\"; did you mean ttl" },
         { "lan", "port lan has the edges lan:rx and lan:tx" },
         { "wan:rx", "no chain reads from port wan" },
         { "up:drop:ttl_expird", "did you mean ttl_expired" },
         { "up:in:x", "only drops have a third part" },
      }
      for _, case in ipairs(wrong) do
         it(case[1], function()
            start_usual()
            rig:send(rig.lan, udp(1))
            local ok, err = pcall(edges.parse, case[1])
            assert.is_false(ok)
            assert.is_truthy(err:find(case[2], 1, true), err)
         end)
      end
   end)
end)
