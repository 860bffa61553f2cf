-- SPDX-License-Identifier: BSD-3-Clause
-- napt44: translation in both directions, mappings, port forwarding, hairpins, filtering, configuration.

local frame = require "test.support.frame"
local napt = require "test.support.napt"
local tw = require "tideway"

local EXT, HOST, OTHER, SERVER = napt.EXT, napt.HOST, napt.OTHER, napt.SERVER
local udp, tcp, icmp = napt.udp, napt.tcp, napt.icmp
local SYN, ACK = 0x02, 0x10

local nat

local function close_rig()
   if nat then nat.rig:close() end
   nat = nil
end

for _, place in ipairs { "edge", "inline" } do
   describe("napt44, " .. place .. ":", function()
      after_each(close_rig)

      it("translates UDP out and its answer back", function()
         nat = napt[place]()
         local p = nat:up(udp(HOST .. ":5000", SERVER .. ":53", nil, "query"))
         assert.same({ EXT, 5000, SERVER, 53, "query" }, { p.src, p.sport, p.dst, p.dport, p.data })
         local a = nat:down(udp(SERVER .. ":53", EXT .. ":5000", nil, "answer"))
         assert.same({ SERVER, 53, HOST, 5000, "answer" }, { a.src, a.sport, a.dst, a.dport, a.data })
      end)

      it("translates TCP out and back", function()
         nat = napt[place]()
         local p = nat:up(tcp(HOST .. ":40000", SERVER .. ":80", { flags = SYN }))
         assert.same({ EXT, 40000, SERVER, 80 }, { p.src, p.sport, p.dst, p.dport })
         local a = nat:down(tcp(SERVER .. ":80", EXT .. ":40000", { flags = SYN + ACK }))
         assert.same({ HOST, 40000 }, { a.dst, a.dport })
         assert.equal("GET /", nat:up(tcp(HOST .. ":40000", SERVER .. ":80", { flags = ACK }, "GET /")).data)
      end)

      it("translates ICMP echo by its identifier", function()
         nat = napt[place]()
         local p = nat:up(icmp(HOST, SERVER, { type = 8, id = 2000, seq = 7 }, "ping"))
         local q = nat:up(icmp(OTHER, SERVER, { type = 8, id = 2000, seq = 7 }, "ping"))
         assert.same({ EXT, 2000 }, { p.src, p.id_icmp })
         assert.equal(EXT, q.src)
         assert.not_equal(2000, q.id_icmp)
         assert.same({ HOST, 2000 }, (function(a) return { a.dst, a.id_icmp } end)(
            nat:down(icmp(SERVER, EXT, { type = 0, id = 2000, seq = 7 }, "ping"))))
         assert.same({ OTHER, 2000 }, (function(a) return { a.dst, a.id_icmp } end)(
            nat:down(icmp(SERVER, EXT, { type = 0, id = q.id_icmp, seq = 7 }, "ping"))))
      end)

      it("leaves a UDP checksum of zero alone and sends ffff where zero comes out", function()
         nat = napt[place] { preserve_port = true }
         local p = nat:up(udp(HOST .. ":5000", SERVER .. ":53", { no_checksum = true }, "x"))
         assert.equal(0, p.sum)
         assert.equal(0, nat:down(udp(SERVER .. ":53", EXT .. ":5000", { no_checksum = true }, "x")).sum)
         -- Two bytes of data take every value, so one translated checksum is 0.
         local seen
         for i = 0, 65535, 1 do
            local data = frame.u16(i)
            local i4 = { src = EXT, dst = SERVER }
            local body = frame.udp(i4, { sport = 5000, dport = 53 }, data)
            if body:sub(7, 8) == "\255\255" then
               seen = nat:up(udp(HOST .. ":5000", SERVER .. ":53", nil, data)).sum
               break
            end
         end
         assert.equal(0xffff, seen)
      end)

      it("keeps one external port for all destinations, and one for each host", function()
         nat = napt[place]()
         local a = nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         local b = nat:up(udp(HOST .. ":5000", "192.0.2.77:123"))
         local c = nat:up(udp(OTHER .. ":5000", SERVER .. ":53"))
         local d = nat:up(udp(HOST .. ":5001", SERVER .. ":53"))
         assert.equal(a.sport, b.sport)
         assert.equal(5000, a.sport)
         assert.equal(5001, d.sport)
         assert.is_true(c.sport ~= 5000 and c.sport >= 1024)
         assert.equal(OTHER, nat:down(udp(SERVER .. ":53", EXT .. ":" .. c.sport)).dst)
      end)

      it("gives ports nobody can foretell when they are not free", function()
         nat = napt[place] { preserve_port = false, ports = "10000-60000" }
         local seen, low, high, steps = {}, 65536, 0, {}
         local last = 0
         for i = 1, 200 do
            local p = nat:up(udp(("10.0.%d.1:777"):format(i), SERVER .. ":53")).sport
            assert.is_nil(seen[p])
            seen[p] = true
            low, high = math.min(low, p), math.max(high, p)
            steps[p - last] = true
            last = p
         end
         local distinct = 0
         for _ in pairs(steps) do distinct = distinct + 1 end
         assert.is_true(low >= 10000 and high <= 60000)
         assert.is_true(high - low > 40000)
         assert.is_true(distinct > 150)
      end)

      it("keeps parity when told so", function()
         nat = napt[place] { preserve_port = false, preserve_parity = true }
         for port = 2001, 2040 do
            assert.equal(port % 2, nat:up(udp(HOST .. ":" .. port, SERVER .. ":53")).sport % 2)
         end
      end)

      it("does not touch what is not its business", function()
         nat = napt[place]()
         local lan, wan = nat.rig.lan, nat.rig.wan
         local function same(from, f, to)
            assert.equal(frame.hex(f), frame.hex(assert(nat.rig:through(from, f, to))))
         end
         same(lan, udp("192.0.2.5:9", SERVER .. ":53"), wan)           -- source not inside
         same(lan, icmp("192.0.2.5", SERVER, { type = 8, id = 9 }), wan)
         same(lan, udp(EXT .. ":9", SERVER .. ":53"), wan)             -- the router's own
         same(lan, frame.eth({}, frame.ipv4({ src = "192.0.2.5", dst = SERVER, proto = 89 }, "ospf")), wan)
         if place == "inline" then
            same(lan, frame.udp6({}, { src = "2001:db8::1", dst = "2001:db8::2" }, { sport = 1, dport = 2 }), wan)
            same(wan, frame.arp({}, { oper = 1, sha = "02:00:00:00:00:01", spa = "10.0.0.1",
               tha = "00:00:00:00:00:00", tpa = EXT }), lan)
         end
      end)

      it("lets nobody outside name an inside address", function()
         nat = napt[place]()
         assert(nat:up(udp(HOST .. ":9", SERVER .. ":53")))
         nat.rig:send(nat.rig.wan, udp(SERVER .. ":53", HOST .. ":9"))
         assert.same({}, nat.rig:collect(nat.rig.lan))
         assert.equal(1, nat:drops().nat_untranslated)
      end)

      it("lets nothing with an inside source out untranslated", function()
         nat = napt[place]()
         assert.is_nil(nat:up(frame.eth({}, frame.ipv4({ src = HOST, dst = SERVER, proto = 47 }, "gregre!!"))))
         assert.is_nil(nat:up(frame.eth({}, frame.ipv4({ src = HOST, dst = SERVER, proto = 17 }, "short"))))
         assert.is_nil(nat:up(icmp(HOST, SERVER, { type = 0, id = 5 })))
         assert.is_nil(nat:up(tcp(HOST .. ":1", SERVER .. ":2", { flags = 4 })))
         local d = nat:drops()
         assert.same({ 1, 1, 2 }, { d.nat_protocol, d.nat_malformed, d.nat_no_mapping })
      end)

      it("translates behind VLAN tags and IPv4 options", function()
         nat = napt[place]()
         local i = { src = HOST, dst = SERVER, proto = 17, options = "\1\1\1\0" }
         local body = frame.ipv4(i, frame.udp(i, { sport = 5000, dport = 53 }, "x"))
         assert.equal(EXT, nat:up(frame.eth({}, body)).src)
         local out = nat.rig:through(nat.rig.lan, frame.eth({ vlan = { { 0x8100, 7 } } }, body), nat.rig.wan)
         local p = napt.decode_ip(out:sub(19))
         assert.is_true(p.ip_ok and p.l4_ok)
         assert.same({ EXT, 5000 }, { p.src, p.sport })
      end)

      it("survives every truncation, in both directions", function()
         nat = napt[place]()
         nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         local outer = udp(EXT .. ":5000", SERVER .. ":53", nil, ("d"):rep(20))
         local frames = {
            { nat.rig.lan, udp(HOST .. ":5000", SERVER .. ":53", nil, "data") },
            { nat.rig.lan, tcp(HOST .. ":5000", SERVER .. ":53", nil, "data") },
            { nat.rig.lan, icmp(HOST, SERVER, { type = 8, id = 1 }, "data") },
            { nat.rig.wan, udp(SERVER .. ":53", EXT .. ":5000", nil, "data") },
            { nat.rig.wan, tcp(SERVER .. ":53", EXT .. ":5000", nil, "data") },
            { nat.rig.wan, napt.error(SERVER, EXT, { type = 3, code = 3 }, outer, 28) },
         }
         for _, f in ipairs(frames) do
            for n = 1, #f[2] do
               nat.rig:send(f[1], f[2]:sub(1, n))
               -- The same with a total length that agrees, so that later headers are the ones cut off.
               if n >= 34 then nat.rig:send(f[1], f[2]:sub(1, 16) .. frame.u16(n - 14) .. f[2]:sub(19, n)) end
               nat.rig:collect(nat.rig.lan)
               for _, out in ipairs(nat.rig:collect(nat.rig.wan)) do
                  if n >= 34 and f[1] == nat.rig.lan and out:sub(13, 14) == "\8\0" and #out >= 42
                     and out:byte(17) * 256 + out:byte(18) <= #out - 14 then
                     assert.equal(EXT, napt.decode_ip(out:sub(15)).src)
                  end
               end
            end
         end
         assert.same({}, nat.rig:log())
      end)
   end)
end

describe("napt44", function()
   after_each(close_rig)

   it("drops what no mapping wants inline, and leaves it to the router around one", function()
      nat = napt.inline()
      assert.is_nil(nat:down(udp(SERVER .. ":53", EXT .. ":5000")))
      assert.is_nil(nat:down(icmp(SERVER, EXT, { type = 8, id = 1 })))
      assert.equal(2, nat:drops().nat_no_mapping)
      close_rig()
      nat = napt.edge()
      nat:up(icmp(HOST, SERVER, { type = 8, id = 2000 }))
      assert.is_nil(nat:down(udp(SERVER .. ":53", EXT .. ":5000")))
      assert.is_nil(nat:down(icmp(SERVER, EXT, { type = 8, id = 2000 }))) -- a ping of the router, not an answer
      assert.is_nil(nat:hairpin(udp(HOST .. ":1", EXT .. ":5000")))
      assert.equal(3, nat:drops().for_router)
   end)

   it("leaves an external address alone that lies in an inside prefix", function()
      nat = napt.inline { address = "10.255.0.1" }
      local f = udp("10.255.0.1:5000", SERVER .. ":53")
      assert.equal(frame.hex(f), frame.hex(nat.rig:through(nat.rig.lan, f, nat.rig.wan)))
      assert.equal("10.255.0.1", nat:up(udp(HOST .. ":5000", SERVER .. ":53")).src)
   end)

   it("turns round nothing whose source is not inside", function()
      nat = napt.edge()
      nat:up(udp(OTHER .. ":7000", SERVER .. ":53"))
      assert.is_nil(nat:hairpin(udp("192.0.2.5:6000", EXT .. ":7000")))
      assert.equal(1, nat:drops().for_router)
   end)

   it("spreads hosts over a pool, each host on one address", function()
      for _, pool in ipairs { { "198.51.100.1", "198.51.100.2" }, { "198.51.100.1", "203.0.113.200" } } do
         nat = napt.inline { address = pool }
         local used = {}
         for i = 1, 4 do
            local host = "10.0.0." .. i
            local a = nat:up(udp(host .. ":5000", SERVER .. ":53"))
            local b = nat:up(udp(host .. ":5001", SERVER .. ":53"))
            assert.equal(a.src, b.src)
            used[a.src] = true
            assert.equal(host, nat:down(udp(SERVER .. ":53", ("%s:%d"):format(a.src, a.sport))).dst)
         end
         for _, address in ipairs(pool) do assert.is_true(used[address]) end
         close_rig()
      end
   end)

   describe("forwards ports", function()
      local FORWARD = {
         { proto = "tcp", port = 8080, to = "10.0.0.2:80" }, { proto = "udp", port = "500-502", to = "10.0.0.3:1500" },
      }

      it("from outside and back", function()
         nat = napt.edge { forward = FORWARD }
         local p = nat:down(tcp(SERVER .. ":3333", EXT .. ":8080", { flags = SYN }))
         assert.same({ HOST, 80, SERVER, 3333 }, { p.dst, p.dport, p.src, p.sport })
         local a = nat:up(tcp(HOST .. ":80", SERVER .. ":3333", { flags = SYN + ACK }))
         assert.same({ EXT, 8080 }, { a.src, a.sport })
         assert.same({ OTHER, 1502 }, (function(q) return { q.dst, q.dport } end)(
            nat:down(udp(SERVER .. ":9", EXT .. ":502"))))
      end)

      it("for ever, and whatever filtering says", function()
         nat = napt.edge { forward = FORWARD, filtering = "address_and_port_dependent" }
         nat:pass(1e6)
         assert.equal(HOST, nat:down(tcp(SERVER .. ":3333", EXT .. ":8080", { flags = SYN })).dst)
         nat:down(tcp(SERVER .. ":3333", EXT .. ":8080", { flags = 4 }))
         nat:pass(1e5)
         assert.equal(HOST, nat:down(tcp(SERVER .. ":3334", EXT .. ":8080", { flags = SYN })).dst)
      end)

      it("and gives the port to nobody else", function()
         nat = napt.edge { forward = { { proto = "udp", port = 5000, to = "10.0.0.9:1" } }, ports = "5000-5001" }
         assert.equal(5001, nat:up(udp(HOST .. ":5000", SERVER .. ":53")).sport)
         assert.is_nil(nat:up(udp(OTHER .. ":5000", SERVER .. ":53")))
         assert.equal(1, nat:drops().nat_ports_exhausted)
      end)
   end)

   describe("turns hairpins round", function()
      it("between two hosts, each seeing the other's external endpoint", function()
         nat = napt.edge()
         nat:up(udp(OTHER .. ":7000", SERVER .. ":53"))
         local p = nat:hairpin(udp(HOST .. ":6000", EXT .. ":7000", nil, "hello"))
         assert.same({ EXT, 6000, OTHER, 7000, "hello" }, { p.src, p.sport, p.dst, p.dport, p.data })
         local a = nat:hairpin(udp(OTHER .. ":7000", EXT .. ":6000", nil, "again"))
         assert.same({ EXT, 7000, HOST, 6000 }, { a.src, a.sport, a.dst, a.dport })
      end)

      it("to a forwarded port, TCP", function()
         nat = napt.edge { forward = { { proto = "tcp", port = 8080, to = OTHER .. ":80" } } }
         local p = nat:hairpin(tcp(HOST .. ":6000", EXT .. ":8080", { flags = SYN }))
         assert.same({ EXT, 6000, OTHER, 80 }, { p.src, p.sport, p.dst, p.dport })
         local a = nat:hairpin(tcp(OTHER .. ":80", EXT .. ":6000", { flags = SYN + ACK }))
         assert.same({ EXT, 8080, HOST, 6000 }, { a.src, a.sport, a.dst, a.dport })
      end)

      it("with the state of both connections' ends", function()
         nat = napt.edge()
         nat:up(tcp(HOST .. ":6000", SERVER .. ":80", { flags = SYN }))
         assert.is_table(nat:hairpin(tcp(OTHER .. ":7000", EXT .. ":6000", { flags = SYN })))
         assert.is_table(nat:hairpin(tcp(HOST .. ":6000", EXT .. ":7000", { flags = SYN + ACK })))
         assert.is_table(nat:hairpin(tcp(OTHER .. ":7000", EXT .. ":6000", { flags = ACK })))
         nat.rig:advance(1000) -- the one that began it is established
         assert.is_table(nat:down(tcp(SERVER .. ":80", EXT .. ":7000", { flags = ACK })))
      end)

      it("under filtering, by external endpoints", function()
         nat = napt.edge { filtering = "address_and_port_dependent" }
         nat:up(udp(OTHER .. ":7000", SERVER .. ":53"))
         assert.is_nil(nat:hairpin(udp(HOST .. ":6000", EXT .. ":7000")))
         assert.equal(1, nat:drops().nat_filtered)
         assert.is_table(nat:hairpin(udp(OTHER .. ":7000", EXT .. ":6000"))) -- HOST spoke to that endpoint
         assert.is_table(nat:hairpin(udp(HOST .. ":6000", EXT .. ":7000")))
      end)

      it("and leaves other traffic between inside hosts alone", function()
         nat = napt.edge()
         local f = udp(HOST .. ":1", OTHER .. ":2")
         assert.equal(frame.hex(f), frame.hex(nat.rig:through(nat.rig.lan, f, nat.rig.lan)))
      end)
   end)

   describe("filters", function()
      local function reaches(from) return nat:down(udp(from, EXT .. ":5000")) ~= nil end

      it("nobody, endpoint-independent", function()
         nat = napt.inline()
         nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         assert.same({ true, true, true },
            { reaches(SERVER .. ":53"), reaches(SERVER .. ":54"), reaches "192.0.2.1:53" })
      end)

      it("by address", function()
         nat = napt.inline { filtering = "address_dependent" }
         nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         assert.same({ true, true, false },
            { reaches(SERVER .. ":53"), reaches(SERVER .. ":54"), reaches "192.0.2.1:53" })
         assert.equal(5000, nat:up(udp(HOST .. ":5000", "192.0.2.1:1")).sport)
         assert.same({ true, true }, { reaches "192.0.2.1:53", reaches(SERVER .. ":53") })
      end)

      it("by address and port", function()
         nat = napt.inline { filtering = "address_and_port_dependent" }
         nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         assert.same({ true, false, false },
            { reaches(SERVER .. ":53"), reaches(SERVER .. ":54"), reaches "192.0.2.1:53" })
         nat:up(udp(HOST .. ":5000", SERVER .. ":54"))
         assert.same({ true, true, false },
            { reaches(SERVER .. ":53"), reaches(SERVER .. ":54"), reaches "192.0.2.1:53" })
         assert.equal(3, nat:drops().nat_filtered)
      end)

      it("sessions that end one by one", function()
         nat = napt.inline { filtering = "address_and_port_dependent", timeouts = { udp = 100 } }
         nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         nat:up(udp(HOST .. ":5000", "192.0.2.1:53"))
         nat.rig:advance(60)
         nat:up(udp(HOST .. ":5000", SERVER .. ":53"))
         nat.rig:advance(60)
         assert.same({ true, false }, { reaches(SERVER .. ":53"), reaches "192.0.2.1:53" })
      end)

      it("ICMP by address", function()
         nat = napt.inline { filtering = "address_and_port_dependent" }
         nat:up(icmp(HOST, SERVER, { type = 8, id = 2000 }))
         assert.is_table(nat:down(icmp(SERVER, EXT, { type = 0, id = 2000 })))
         assert.is_nil(nat:down(icmp("192.0.2.1", EXT, { type = 0, id = 2000 })))
      end)
   end)

   describe("refuses", function()
      local function refused(text, cfg)
         local base = { outside = 1, address = EXT }
         for k, v in pairs(cfg) do base[k] = v end
         local ok, err = pcall(tw.nf.napt44, base)
         assert.is_false(ok)
         assert.is_truthy(err:find(text, 1, true), err)
      end

      it("configurations that are wrong, naming parameter and value", function()
         refused('address[1] is "10.0.0"', { address = "10.0.0" })
         refused('address[2]: "198.51.100.1" stands twice', { address = { EXT, EXT } })
         refused('inside[2] is "10.0.0.0/33"', { inside = { "10.0.0.0/8", "10.0.0.0/33" } })
         refused('inside[1] is "2001:db8::/32": not IPv4', { inside = "2001:db8::/32" })
         refused('ports is "65536"', { ports = "65536" })
         refused('ports is "9-3"', { ports = "9-3" })
         refused('timeouts has no "udpp"', { timeouts = { udpp = 3 } })
         refused("timeouts.udp is 0", { timeouts = { udp = 0 } })
         refused('forward[1].proto is "icmp"', { forward = { { proto = "icmp", port = 1, to = "10.0.0.2:1" } } })
         refused('forward[1].to is "10.0.0.2"', { forward = { { proto = "tcp", port = 1, to = "10.0.0.2" } } })
         refused("forward[2]: port 80 is forwarded by forward[1] already", { forward = {
            { proto = "tcp", port = 80, to = "10.0.0.2:1" }, { proto = "tcp", port = 80, to = "10.0.0.2:2" } } })
         refused("forward[2]: 10.0.0.2:1 is the target of forward[1] already", { forward = {
            { proto = "tcp", port = 80, to = "10.0.0.2:1" }, { proto = "tcp", port = 81, to = "10.0.0.2:1" } } })
         refused("outside is true", { outside = true })
         refused("filtering", { filtering = "none" })
         refused('there is no parameter "adress"', { adress = EXT })
      end)
   end)
end)
