-- SPDX-License-Identifier: BSD-3-Clause
-- napt44 and ICMP errors (RFC 5508): the packet they quote is translated, every checksum is right.

local frame = require "test.support.frame"
local napt = require "test.support.napt"

local EXT, HOST, OTHER, SERVER = napt.EXT, napt.HOST, napt.OTHER, napt.SERVER
local udp, tcp, icmp = napt.udp, napt.tcp, napt.icmp
local HOP = "192.0.2.254" -- a router on the way

local nat

local function close_rig()
   if nat then nat.rig:close() end
   nat = nil
end

-- What comes out by wan for a frame from inside, as bytes.
local function sent(f) return assert(nat.rig:through(nat.rig.lan, f, nat.rig.wan)) end

local ERRORS = {
   { "time exceeded", { type = 11, code = 0 } },
   { "port unreachable", { type = 3, code = 3 } },
   { "fragmentation needed", { type = 3, code = 4, rest = "\0\0\5\120" } },
   { "parameter problem", { type = 12, code = 0, rest = "\20\0\0\0" } },
}

-- Two bytes of data with which the checksum comes out as 0 and is sent as ffff.
local function data_of_sum_zero()
   for i = 0, 65535 do
      local f = udp(HOST .. ":5000", SERVER .. ":53", nil, frame.u16(i))
      if f:sub(41, 42) == "\255\255" then return f end
   end
end

local QUOTED = {
   { "UDP with checksum ffff", data_of_sum_zero() },
   { "UDP", udp(HOST .. ":5000", SERVER .. ":53", nil, "query") },
   { "UDP without checksum", udp(HOST .. ":5000", SERVER .. ":53", { no_checksum = true }, "query") },
   { "TCP", tcp(HOST .. ":5000", SERVER .. ":80", { flags = 2 }, "") },
   { "ICMP echo", icmp(HOST, SERVER, { type = 8, id = 5000, seq = 3 }, "ping") },
}

for _, place in ipairs { "edge", "inline" } do
   describe("napt44, " .. place .. ", ICMP errors from outside:", function()
      after_each(close_rig)

      for _, e in ipairs(ERRORS) do
         for _, q in ipairs(QUOTED) do
            it(e[1] .. " about " .. q[1], function()
               nat = napt[place] { ports = "20000-30000" } -- so that the port changes, too
               local fields = {}
               for k, v in pairs(e[2]) do fields[k] = v end
               local out = sent(q[2])
               local p = nat:down(napt.error(HOP, EXT, fields, out, 1000))
               assert.same({ HOP, HOST, fields.type, fields.code }, { p.src, p.dst, p.type, p.code })
               assert.is_true(p.ip_ok and p.l4_ok)
               -- The quoted packet is what the host sent, to the last byte.
               assert.equal(frame.hex(q[2]:sub(15)), frame.hex(p.data))
               -- Eight bytes of it are enough, and an IP header with options is no obstacle.
               local short = nat:down(napt.error(HOP, EXT, fields, out))
               assert.is_true(short.l4_ok and short.inner.ip_ok)
               assert.same({ HOST, 5000 }, { short.inner.src, short.inner.sport })
            end)
         end
      end

      it("without a mapping are not for inside", function()
         nat = napt[place]()
         assert.is_nil(nat:down(napt.error(HOP, EXT, { type = 11 }, udp(EXT .. ":5000", SERVER .. ":53"))))
         sent(udp(HOST .. ":5000", SERVER .. ":53"))
         -- Quoted source is not the address the error came to.
         assert.is_nil(nat:down(napt.error(HOP, EXT, { type = 11 }, udp("192.0.2.8:5000", SERVER .. ":53"))))
         -- Quoted packet is a later fragment, or has no ports.
         assert.is_nil(nat:down(napt.error(HOP, EXT, { type = 11 },
            udp(EXT .. ":5000", SERVER .. ":53", nil, "", { frag = 5 }))))
         assert.is_nil(nat:down(napt.error(HOP, EXT, { type = 11 },
            frame.eth({}, frame.ipv4({ src = EXT, dst = SERVER, proto = 47 }, "gregregre")))))
         local d = nat:drops()
         assert.equal(4, (d.for_router or 0) + (d.nat_no_mapping or 0))
      end)

      it("are filtered by the quoted destination, not by who sent them", function()
         nat = napt[place] { filtering = "address_and_port_dependent" }
         local out = sent(udp(HOST .. ":5000", SERVER .. ":53"))
         assert.is_table(nat:down(napt.error(HOP, EXT, { type = 11 }, out)))
         assert.is_nil(nat:down(napt.error(HOP, EXT, { type = 11 }, udp(EXT .. ":5000", "192.0.2.1:53"))))
         assert.equal(1, nat:drops().nat_filtered)
      end)

      it("do not refresh a mapping", function()
         nat = napt[place] { refresh_inbound = true }
         local out = sent(udp(HOST .. ":5000", SERVER .. ":53"))
         nat.rig:advance(250)
         assert.is_table(nat:down(napt.error(HOP, EXT, { type = 11 }, out)))
         nat.rig:advance(53)
         assert.is_nil(nat:down(napt.error(HOP, EXT, { type = 11 }, out)))
      end)
   end)

   describe("napt44, " .. place .. ", ICMP errors from inside:", function()
      after_each(close_rig)

      for _, q in ipairs { { "UDP", udp, 53 }, { "TCP", tcp, 80 } } do
         it("about " .. q[1] .. " quote what was sent from outside", function()
            nat = napt[place] { ports = "20000-30000" }
            local p = nat:up(q[2](HOST .. ":5000", SERVER .. ":" .. q[3]))
            local answer = q[2](SERVER .. ":" .. q[3], EXT .. ":" .. p.sport, { flags = 0x10 }, "answer")
            local got = assert(nat.rig:through(nat.rig.wan, answer, nat.rig.lan))
            for _, from in ipairs { HOST, OTHER } do -- the host itself, and a router inside
               local e = nat:up(napt.error(from, SERVER, { type = 3, code = 3 }, got, 1000))
               assert.same({ EXT, SERVER, 3, 3 }, { e.src, e.dst, e.type, e.code })
               assert.is_true(e.l4_ok)
               assert.equal(frame.hex(answer:sub(15)), frame.hex(e.data))
            end
            -- The router's own public address stays.
            local e = nat:up(napt.error("192.0.2.33", SERVER, { type = 11, code = 0 }, got))
            assert.same({ "192.0.2.33", EXT, p.sport }, { e.src, e.inner.dst, e.inner.dport })
            e = nat:up(napt.error(EXT, SERVER, { type = 11, code = 0 }, got))
            assert.same({ EXT, EXT, p.sport }, { e.src, e.inner.dst, e.inner.dport })
         end)
      end

      it("about ICMP echo", function()
         nat = napt[place] { ports = "20000-30000" }
         local p = nat:up(icmp(HOST, SERVER, { type = 8, id = 5000 }))
         local answer = icmp(SERVER, EXT, { type = 0, id = p.id_icmp }, "pong")
         local got = assert(nat.rig:through(nat.rig.wan, answer, nat.rig.lan))
         local e = nat:up(napt.error(HOST, SERVER, { type = 3, code = 1 }, got, 1000))
         assert.equal(frame.hex(answer:sub(15)), frame.hex(e.data))
      end)

      it("about nothing that was let in do not get out with an inside address", function()
         nat = napt[place]()
         assert.is_nil(nat:up(napt.error(HOST, SERVER, { type = 3, code = 3 }, udp(SERVER .. ":53", HOST .. ":5000"))))
         assert.equal(1, nat:drops().nat_no_mapping)
         local f = napt.error("192.0.2.33", SERVER, { type = 3, code = 3 }, udp(SERVER .. ":53", "192.0.2.44:5000"))
         assert.equal(frame.hex(f), frame.hex(sent(f)))
      end)
   end)
end

describe("napt44, ICMP errors between hosts inside", function()
   after_each(close_rig)

   it("are turned round and show external endpoints only", function()
      nat = napt.edge { ports = "20000-30000" }
      local b = nat:up(udp(OTHER .. ":7000", SERVER .. ":53")).sport
      local hello = udp(HOST .. ":6000", EXT .. ":" .. b, nil, "hello")
      local got = assert(nat.rig:through(nat.rig.lan, hello, nat.rig.lan))
      local e = nat:hairpin(napt.error(OTHER, EXT, { type = 3, code = 3 }, got, 1000))
      assert.same({ EXT, HOST, 3 }, { e.src, e.dst, e.type })
      assert.is_true(e.l4_ok)
      assert.equal(frame.hex(hello:sub(15)), frame.hex(e.data))
   end)
end)
