-- SPDX-License-Identifier: BSD-3-Clause
-- router: forwarding, malformed packets and configuration. Neighbours and errors have specs of their own.

local frame = require "test.support.frame"
local h = require "test.support.router"
local tw = require "tideway"

local r

describe("router", function()
   after_each(function()
      if r then r:close() end
      r = nil
   end)

   describe("forwards", function()
      it("IPv4: decrements the TTL, keeps the checksum valid, rewrites the MACs", function()
         r = h.start()
         local input = h.udp4 { ttl = 64, id = 0x1234, df = true }
         local out = r:through(r.lan, input, r.wan)
         assert.is_true(h.valid4(out))
         assert.equal(63, h.u8(out, 22))
         assert.equal(h.GATE_MAC, h.mac(out, 0))
         assert.equal(h.WAN_MAC, h.mac(out, 6))
         assert.equal(input:sub(13, 22), out:sub(13, 22))
         assert.equal(input:sub(27), out:sub(27))
      end)

      it("every TTL and identification with a valid checksum", function()
         r = h.start()
         for ttl = 2, 255 do
            local out = r:through(r.lan, h.udp4 { ttl = ttl, id = ttl * 257 % 65536 }, r.wan)
            assert.is_true(h.valid4(out))
            assert.equal(ttl - 1, h.u8(out, 22))
         end
      end)

      it("IPv6: decrements the hop limit and nothing else", function()
         r = h.start()
         local input = h.udp6 { hops = 9 }
         local out = r:through(r.lan, input, r.wan)
         assert.equal(8, h.u8(out, 21))
         assert.equal(h.GATE_MAC .. " " .. h.WAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
         assert.equal(input:sub(13, 21), out:sub(13, 21))
         assert.equal(input:sub(23), out:sub(23))
      end)

      it("to hosts of connected networks, both ways", function()
         r = h.start()
         local back = frame.udp4({ dst = h.WAN_MAC, src = h.GATE_MAC }, { src = "192.0.2.9", dst = h.HOST },
            { sport = 53, dport = 4000 }, "answer")
         local out = r:through(r.wan, back, r.lan)
         assert.is_true(h.valid4(out))
         assert.equal(h.HOST_MAC .. " " .. h.LAN_MAC, h.mac(out, 0) .. " " .. h.mac(out, 6))
         back = frame.udp6({ dst = h.WAN_MAC, src = h.GATE_MAC }, { src = "2001:db8:9::9", dst = h.HOST6 },
            { sport = 53, dport = 4000 }, "answer")
         assert.equal(h.HOST_MAC, h.mac(r:through(r.wan, back, r.lan), 0))
      end)

      it("options as they are, recording the route where asked", function()
         r = h.start()
         local out = r:through(r.lan, h.udp4 { options = "\7\7\4\0\0\0\0\0" }, r.wan)
         assert.is_true(h.valid4(out))
         assert.equal("\7\7\8" .. frame.ip4 "198.51.100.1" .. "\0", out:sub(35, 42))
         out = r:through(r.lan, h.udp4 { options = "\148\4\0\0" }, r.wan)
         assert.is_true(h.valid4(out))
         assert.equal("\148\4\0\0", out:sub(35, 38))
      end)

      it("by the longest matching prefix, as a search through all prefixes says", function()
         math.randomseed(7)
         local prefixes, seen = {}, {}
         for i = 1, 300 do
            local length = math.random(12, 32)
            local address = math.random(11, 12) * 2 ^ 24 + math.random(0, 2 ^ 24 - 1)
            address = address - address % 2 ^ (32 - length)
            local text = ("%s/%d"):format(tw.ip4_string(address), length)
            if not seen[text] then
               seen[text] = true
               prefixes[#prefixes + 1] = { text = text, address = address, length = length, gate = 10 + i % 5 }
            end
         end
         r = h.start(function(cfg)
            cfg.routes = {}
            for i, p in ipairs(prefixes) do cfg.routes[i] = { p.text, via = "198.51.100." .. p.gate } end
            for gate = 10, 14 do cfg.neighbours["198.51.100." .. gate] = ("02:00:00:00:09:%02d"):format(gate) end
         end)
         local found, missing = 0, 0
         for i = 1, 1000 do
            local near = prefixes[math.random(#prefixes)]
            local dst = i % 4 == 0 and math.random(11, 12) * 2 ^ 24 + math.random(0, 2 ^ 24 - 1)
               or near.address + math.random(0, 2 ^ (32 - near.length) - 1)
            local best
            for _, p in ipairs(prefixes) do
               local inside = dst >= p.address and dst < p.address + 2 ^ (32 - p.length)
               if inside and (not best or p.length > best.length) then best = p end
            end
            local out = r:through(r.lan, h.udp4 { dst = tw.ip4_string(dst) }, r.wan)
            assert.equal(best and ("02:00:00:00:09:%02d"):format(best.gate), out and h.mac(out, 0), tw.ip4_string(dst))
            if best then found = found + 1 else missing = missing + 1 end
         end
         assert.is_true(found > 500 and missing > 5)
      end)

      it("in compiled code, without an abort in the steady state", function()
         r = h.start()
         local function burst()
            local list = {}
            for i = 1, 32 do
               list[i] = i % 4 == 0 and h.udp6 { dst = "2001:db8:9::" .. i }
                  or h.udp4 { dst = "192.0.2." .. i, ttl = 40 + i }
            end
            r:send(r.lan, unpack(list))
            assert.equal(32, #r:collect(r.wan))
         end
         -- In the first ticks the engine throws traces away and records them again; timers become hot
         -- later than packets do.
         for _ = 1, 300 do
            for _ = 1, 4 do burst() end
            r:advance(0.11)
         end
         local jit_state = h.jit()
         assert.is_true(jit_state.traces > 0)
         local aborts, flushes = jit_state.aborts, jit_state.flushes
         for _ = 1, 100 do
            for _ = 1, 5 do burst() end
            r:advance(0.11)
         end
         assert.equal(aborts, jit_state.aborts, require("ffi").string(jit_state.last_abort))
         assert.equal(flushes, jit_state.flushes)
      end)
   end)

   describe("drops by name", function()
      -- The frame leaves by no port, and is counted under this reason.
      local function dropped(reason, input, port)
         local before = r:drops()[reason] or 0
         r:send(port or r.lan, input)
         assert.equal(0, #r:collect(r.lan) + #r:collect(r.wan), reason)
         assert.equal(before + 1, r:drops()[reason] or 0, reason)
      end

      it("what is for other stations, or for nobody", function()
         r = h.start()
         dropped("not_for_us", h.udp4({}, nil, { dst = "02:00:00:00:01:77" }))
         dropped("not_for_us", h.udp4({}, nil, { dst = h.WAN_MAC }))
         dropped("link_broadcast", h.udp4({}, nil, { dst = h.BROADCAST }))
         dropped("link_broadcast", h.udp6({}, nil, { dst = "33:33:00:00:00:01" }))
         dropped("not_ip", frame.eth(h.eth { type = 0x88cc }, ("x"):rep(46)))
         dropped("not_ip", frame.eth(h.eth { type = 46 }, ("x"):rep(46)))
         dropped("vlan_unknown", h.udp4({}, nil, { vlan = { { 0x8100, 5 } } }))
         dropped("vlan_unknown", h.udp6({}, nil, { vlan = { { 0x88a8, 5 }, { 0x8100, 6 } } }))
      end)

      it("broadcast and multicast", function()
         r = h.start()
         for _, dst in ipairs { "255.255.255.255", "198.51.100.255", "198.51.100.0", "10.0.0.255" } do
            dropped("broadcast", h.udp4 { dst = dst })
            dropped("broadcast", h.udp4({ dst = dst }, nil, { dst = h.BROADCAST }))
         end
         dropped("multicast", h.udp4({ dst = "224.0.0.5" }, nil, { dst = "01:00:5e:00:00:05" }))
         dropped("multicast", h.udp6({ dst = "ff05::1:3" }, nil, { dst = "33:33:00:01:00:03" }))
         dropped("link_local", h.udp6 { dst = "fe80::99" })
      end)

      it("sources and destinations that cannot be", function()
         r = h.start()
         for src in ("0.0.0.0 0.1.2.3 127.0.0.1 224.0.0.1 240.0.0.1 255.255.255.255 " ..
            "10.0.0.255 198.51.100.255 10.0.0.0 10.0.0.1 198.51.100.1"):gmatch "%S+" do
            dropped("martian_source", h.udp4 { src = src, dst = h.LAN })
            dropped("martian_source", h.udp4 { src = src })
         end
         for _, src in ipairs { "::", "::1", "ff02::1" } do dropped("martian_source", h.udp6 { src = src }) end
         for _, src in ipairs { h.LAN6, h.WAN6, "fe80::ff:fe00:101" } do
            dropped("martian_source", h.udp6 { src = src, dst = h.LAN6 })
         end
         for _, dst in ipairs { "0.0.0.1", "127.0.0.1", "240.0.0.1", "250.1.2.3" } do
            dropped("martian_destination", h.udp4 { dst = dst })
         end
         dropped("martian_destination", h.udp6 { dst = "::1" })
      end)

      it("a wrong checksum, whichever bit of the header is wrong", function()
         r = h.start()
         local input = h.udp4 {}
         for byte = 15, 34 do
            for bit_value = 0, 7 do
               local flipped = (input:byte(byte) + 2 ^ bit_value) % 256
               if flipped < 256 and byte ~= 15 and byte ~= 17 and byte ~= 18 then
                  dropped("ip_checksum", input:sub(1, byte - 1) .. string.char(flipped) .. input:sub(byte + 1))
               end
            end
         end
      end)

      it("source routes and broken options", function()
         r = h.start()
         dropped("source_route", h.udp4 { options = "\131\7\4\192\0\2\1\0" })
         dropped("source_route", h.udp4 { options = "\1\137\7\4\192\0\2\1" })
         dropped("ip_options_malformed", h.udp4 { options = "\7\1\0\0" })
         dropped("ip_options_malformed", h.udp4 { options = "\1\1\148\5" })
      end)

      it("sources that the route does not lead back to, where asked", function()
         r = h.start(function(cfg) cfg.strict_source = true end)
         dropped("source_unexpected", h.udp4 { src = "203.0.113.1" })
         dropped("source_unexpected", h.udp6 { src = "2001:db8:77::1" })
         assert.is_truthy(r:through(r.lan, h.udp4 {}, r.wan))
         assert.is_truthy(r:through(r.lan, h.udp6 {}, r.wan))
      end)

      it("frames cut at any length, and lengths that lie", function()
         r = h.start()
         local inputs = {
            h.udp4 {}, h.udp4 { options = "\7\7\4\0\0\0\0\0" }, h.udp4 { dst = h.LAN },
            h.udp6 {}, h.udp6 { dst = h.LAN6 }, h.icmp4({ dst = h.LAN }, { type = 8 }),
            h.icmp6({ dst = h.LAN6 }, { type = 128 }),
            h.arp_request(h.HOST_MAC, h.HOST, h.LAN), h.udp4({}, nil, { vlan = { { 0x8100, 5 } } }),
            h.nd(h.eth(), { src = h.HOST6, dst = h.LAN6 }, 135, 0, h.LAN6, { 1, h.HOST_MAC }),
         }
         local count = 0
         for _, input in ipairs(inputs) do
            for length = 1, #input - 1 do
               r:send(r.lan, input:sub(1, length))
               assert.equal(0, #r:collect(r.lan) + #r:collect(r.wan), ("%d of %d bytes"):format(length, #input))
               count = count + 1
            end
         end
         local sum = 0
         for _, n in pairs(r:drops()) do sum = sum + n end
         assert.equal(count, sum)
         assert.equal(10 * 14, r:drops().truncated)
         assert.same({}, r:log())
         for _, total in ipairs { 0, 19, 27, 1000, 65535 } do
            dropped(total == 27 and "ip_checksum" or "ip_malformed",
               (h.udp4 {}):sub(1, 16) .. frame.u16(total) .. (h.udp4 {}):sub(19))
         end
         dropped("ip_malformed", h.udp6 { length = 1000 })
      end)

      it("random bytes behind a valid link header without a fault", function()
         r = h.start()
         math.randomseed(11)
         for _ = 1, 2000 do
            local bytes = {}
            for i = 1, math.random(0, 90) do bytes[i] = string.char(math.random(0, 255)) end
            local type = ({ 0x0800, 0x86dd, 0x0806 })[math.random(3)]
            local lead = ({ "", "\69", "\96", "\0\1\8\0\6\4" })[math.random(4)]
            r:send(r.lan, frame.eth(h.eth { type = type }, lead .. table.concat(bytes)))
         end
         assert.same({}, r:log())
         assert.is_truthy(r:through(r.lan, h.udp4 {}, r.wan))
      end)
   end)

   describe("configuration", function()
      local engine = require "tideway.engine"

      local function refused(pattern, change)
         local ok, err = pcall(h.start, change)
         if ok then err:close() end
         assert.is_false(ok, pattern)
         assert.is_truthy(err:find(pattern, 1, true), err)
         engine.close()
      end

      it("is refused with the parameter, the value and what to write", function()
         refused("router: ports is missing", function(cfg) cfg.ports = nil end)
         refused('there is no parameter "rotues"', function(cfg) cfg.rotues = {} end)
         refused("router: ports[2].port is eth0", function(cfg) cfg.ports[2].port = "eth0" end)
         refused("router: ports[2].port: the port stands in ports twice", function(cfg, rig)
            cfg.ports[2].port = rig.lan
         end)
         refused("router: ports[1].addresses is empty", function(cfg) cfg.ports[1].addresses = {} end)
         refused('router: ports[1].addresses[2]: not a prefix: "10.0.1/24"', function(cfg)
            cfg.ports[1].addresses[2] = "10.0.1/24"
         end)
         refused("ports[2].addresses[2] is 10.0.0.1/24, which port lan has already", function(cfg)
            cfg.ports[2].addresses[2] = "10.0.0.1/24"
         end)
         refused("that is the broadcast address of the network", function(cfg)
            cfg.ports[1].addresses[1] = "10.0.0.255/24"
         end)
         refused("ports[1].addresses[1] is 127.0.0.1/8", function(cfg) cfg.ports[1].addresses[1] = "127.0.0.1/8" end)
         refused("ports[1].mtu is 1279; it must be from 1280", function(cfg) cfg.ports[1].mtu = 1279 end)
         refused("ports[1].mtu is 67", function(cfg) cfg.ports[1].addresses[2], cfg.ports[1].mtu = nil, 67 end)
         refused("ports[1].mtu is 65536", function(cfg) cfg.ports[1].mtu = 65536 end)
         refused("ports[1].mac is ff:ff:ff:ff:ff:ff", function(cfg) cfg.ports[1].mac = h.BROADCAST end)
         refused('ports[1] has no "address"', function(cfg) cfg.ports[1].address = "10.0.0.1" end)
         refused("icmp_rate is -1", function(cfg) cfg.icmp_rate = -1 end)
      end)

      it("is refused for routes that lead nowhere", function()
         local function route(...)
            local list = { ... }
            return function(cfg) cfg.routes = list end
         end
         refused('routes[1]: not a prefix: "10.0.0/8"', route { "10.0.0/8", via = h.GATE })
         refused('the network is "10.0.0.0/8"', route { "10.1.0.0/8", via = h.GATE })
         refused("routes[1]: via 192.0.2.1 is on no connected network", route { "10.0.0.0/8", via = "192.0.2.1" })
         refused("the prefix is IPv4 and the next hop IPv6", route { "10.0.0.0/8", via = h.GATE6 })
         refused("via 198.51.100.1 is an address of this router itself", route { "10.0.0.0/8", via = h.WAN })
         refused("has neither via", route { "10.0.0.0/8" })
         refused("routes[2]: 10.0.0.0/8 is there already, at routes[1]",
            route({ "10.0.0.0/8", via = h.GATE }, { "10.0.0.0/8", via = h.HOST }))
         refused("via fe80::1 is link-local; say by which port", route { "2001:db8::/32", via = "fe80::1" })
         refused("224.0.0.0/4 is multicast", route { "224.0.1.0/24", via = h.GATE })
         refused("is a connected network", route { "10.0.0.0/24", via = h.GATE })
         refused("port is 9, which is not in ports", function(cfg) cfg.routes = { { "10.0.0.0/8", port = 9 } } end)
      end)

      it("takes routes from a file, and says which line is wrong", function()
         local path = os.tmpname()
         local function write(text)
            local file = assert(io.open(path, "w"))
            file:write(text)
            file:close()
         end
         write("# comment\n\n203.0.113.0/24 via 198.51.100.9   # behind the second gateway\n192.0.2.0/25 port wan\n")
         r = h.start(function(cfg)
            cfg.route_file = path
            cfg.neighbours["198.51.100.9"] = "02:00:00:00:09:09"
            cfg.neighbours["192.0.2.1"] = nil
         end)
         assert.equal("02:00:00:00:09:09", h.mac(r:through(r.lan, h.udp4 { dst = "203.0.113.7" }, r.wan), 0))
         local question = r:through(r.lan, h.udp4 { dst = "192.0.2.1" }, r.wan)
         assert.equal("192.0.2.1", h.ip4(question, 38))
         r:close()
         r = nil
         write "203.0.113.0/24 198.51.100.9\n"
         refused(path .. ":1: ", function(cfg) cfg.route_file = path end)
         os.remove(path)
         refused("route_file: " .. path, function(cfg) cfg.route_file = path end)
      end)

      it("can be read back at run time", function()
         local router
         r, router = h.start()
         r:send(r.lan, h.udp4 {})
         local state = router.export()
         local by_prefix = {}
         for _, route in ipairs(state.routes) do by_prefix[route.prefix] = route end
         assert.same({ prefix = "0.0.0.0/0", kind = "via", via = h.GATE, port = "wan" }, by_prefix["0.0.0.0/0"])
         assert.same({ prefix = "10.0.0.0/24", kind = "connected", port = "lan" }, by_prefix["10.0.0.0/24"])
         assert.same({ prefix = "::/0", kind = "via", via = h.GATE6, port = "wan" }, by_prefix["::/0"])
         assert.equal("local", by_prefix["10.0.0.1/32"].kind)
         assert.is_nil(by_prefix["127.0.0.0/8"])
         assert.is_nil(by_prefix[h.HOST .. "/32"])
         assert.equal(4, #state.neighbours)
         assert.equal("static", state.neighbours[1].state)
      end)
   end)
end)
