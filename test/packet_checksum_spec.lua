-- SPDX-License-Identifier: BSD-3-Clause
-- Checksums: RFC vectors, incremental against full, rewriting of addresses and ports.

local frame = require "test.support.frame"
local packets = require "test.support.packets"
local tw = require "tideway.packet"

local csum = tw.csum
local u16, u32 = frame.u16, frame.u32

-- Numbers that look random; the same each run.
local function random(seed)
   local state = seed
   return function(below)
      state = (state * 1103515245 + 12345) % 2 ^ 31
      return math.floor(state / 2 ^ 31 * below)
   end
end

describe("tw.csum", function()
   it("computes the example of RFC 1071 section 3", function()
      assert.equal(0xffff - 0xddf2, csum.compute "\x00\x01\xf2\x03\xf4\xf5\xf6\xf7")
   end)

   it("computes a well-known IPv4 header", function()
      local header = "\x45\x00\x00\x73\x00\x00\x40\x00\x40\x11\x00\x00\xc0\xa8\x00\x01\xc0\xa8\x00\xc7"
      assert.equal(0xb861, csum.compute(header))
   end)

   it("agrees with the definition for every length and alignment", function()
      for length = 0, 200 do
         local bytes = packets.noise(length, length + 1)
         assert.equal(frame.checksum(bytes), csum.compute(bytes))
      end
      for _, length in ipairs { 1500, 9000, 65535 } do
         assert.equal(frame.checksum(("\255"):rep(length)), csum.compute(("\255"):rep(length)))
         local bytes = packets.noise(length, length)
         assert.equal(frame.checksum(bytes), csum.compute(bytes))
      end
      assert.equal(0xffff, csum.compute "")
      assert.equal(frame.checksum "ab", csum.compute("abcd", 2))
      assert.is_false(pcall(csum.compute, "abcd", 5))
      assert.is_false(pcall(csum.compute, "abcd", -1))
   end)

   it("updates as in the example of RFC 1624 section 4", function()
      -- The field 0x5555 becomes 0x3285; eqn. 2 of RFC 1141 gives 0xffff here, the right answer is 0.
      assert.equal(0x0000, csum.replace16(0xdd2f, 0x5555, 0x3285))
   end)

   it("updates to what a computation gives", function()
      local rnd = random(7)
      for _ = 1, 3000 do
         local old, new, rest = rnd(65536), rnd(65536), "\1" .. packets.noise(9, rnd(1000))
         local before, after = csum.compute(u16(old) .. rest), csum.compute(u16(new) .. rest)
         assert.equal(after, csum.replace16(before, old, new))
         local old32, new32 = rnd(2 ^ 32), rnd(2 ^ 32)
         before, after = csum.compute(u32(old32) .. rest), csum.compute(u32(new32) .. rest)
         assert.equal(after, csum.replace32(before, old32, new32))
      end
      for _, pair in ipairs { { 0, 0xffff }, { 0xffff, 0 }, { 0, 0 }, { 0xffff, 0xffff } } do
         local before, after = csum.compute(u16(pair[1]) .. "\0\1"), csum.compute(u16(pair[2]) .. "\0\1")
         assert.equal(after, csum.replace16(before, pair[1], pair[2]))
      end
   end)
end)

describe("the IPv4 header checksum", function()
   local function packet(options, ttl)
      return packets.new(frame.eth({}, frame.ipv4({
         src = "10.0.0.1", dst = "192.0.2.9", options = options, ttl = ttl, id = 0x1234,
      }, "payload")))
   end

   it("is recognized and computed, with and without options", function()
      for _, options in ipairs { "", "\1\1\1\0", ("\148\4\0\0"):rep(10) } do
         local pkt = packet(options)
         local good = packets.bytes(pkt)
         local ip = pkt:ipv4()
         assert.is_true(ip:valid_checksum())
         for at = 14, 14 + 20 + #options - 1 do
            local byte = good:byte(at + 1)
            pkt:set_u8(at, byte + 1)
            if at ~= 14 then assert.is_false(ip:valid_checksum(), at) end
            pkt:set_u8(at, byte)
         end
         ip.checksum = 0
         assert.is_true(ip:update_checksum())
         assert.equal(good, packets.bytes(pkt))
         ip.checksum = 0xffff
         assert.is_true(ip:update_checksum())
         assert.equal(good, packets.bytes(pkt))
      end
   end)

   it("is never read from beyond the frame, whatever ihl says", function()
      local pkt = packets.new(frame.eth({}, frame.ipv4({ src = "1.2.3.4", dst = "1.2.3.4" }, "")))
      local ip = pkt:ipv4()
      for ihl = 0, 15 do
         ip.ihl = ihl
         assert.equal(ihl == 5, ip:update_checksum())
         if ihl ~= 5 then assert.is_false(ip:valid_checksum()) end
         local again = pkt:ipv4_at(14) -- knows the frame, which ends after 20 bytes
         assert.equal(ihl == 5, again:update_checksum())
      end
      -- A header inside an ICMP error, its options cut off by the end of the frame.
      local inner = "\x4f" .. frame.ipv4({ src = "1.2.3.4", dst = "1.2.3.4" }, ""):sub(2)
      for cut = 0, 39 do
         local error_packet = packets.new(inner .. ("\1"):rep(cut))
         assert.is_false(error_packet:ipv4_at(0):update_checksum())
      end
      local small = frame.eth({}, frame.ipv4({ src = "1.2.3.4", dst = "1.2.3.4", options = "\1\1\1\0" }, ""))
      assert.truthy(packets.new(small):ipv4()) -- another, shorter frame was seen in between
      local whole = packets.new(inner .. ("\1"):rep(40))
      assert.is_true(whole:ipv4_at(0):update_checksum())
      assert.equal(0, frame.checksum(packets.bytes(whole)))
   end)

   it("follows the TTL, for every TTL and checksum", function()
      for ttl = 1, 255 do
         for id = 0, 65535, 4369 do
            local i = { src = "10.0.0.1", dst = "10.0.0.2", ttl = ttl, id = id }
            local pkt = packets.new(frame.eth({}, frame.ipv4(i, "")))
            pkt:ipv4():decrement_ttl()
            assert.equal(ttl - 1, pkt:ipv4().ttl)
            assert.is_true(pkt:ipv4():valid_checksum())
            local sum = pkt:ipv4().checksum
            pkt:ipv4():update_checksum()
            assert.equal(pkt:ipv4().checksum, sum)
         end
      end
   end)

   it("follows the TTL where RFC 1141 goes wrong", function()
      local pkt = packet("", 64)
      local ip = pkt:ipv4()
      ip.id = 0
      ip:update_checksum()
      ip.id = (ip.checksum - 0xfeff) % 65535
      ip:update_checksum()
      assert.equal(0xfeff, ip.checksum)
      ip:decrement_ttl()
      local sum = ip.checksum
      ip:update_checksum()
      assert.equal(ip.checksum, sum)
      assert.equal(0, sum)
   end)

   it("follows the addresses", function()
      local rnd = random(3)
      for _ = 1, 500 do
         local ip = packet("", 64):ipv4()
         ip:set_src(rnd(2 ^ 32))
         ip:set_dst(rnd(2 ^ 32))
         local sum = ip.checksum
         assert.is_true(ip:valid_checksum())
         ip:update_checksum()
         assert.equal(ip.checksum, sum)
      end
   end)
end)

-- Frames of every kind that has a transport checksum, from independent code. p: address and port values.
local function kinds(p)
   local i4 = { src = p.src4, dst = p.dst4 }
   local i6 = { src = p.src6, dst = p.dst6 }
   local ports = { sport = p.sport, dport = p.dport }
   local tag = { vlan = { { 0x88a8, 3 }, { 0x8100, 4 } } }
   local id = u16(p.sport) .. u16(9)
   return {
      tcp4 = frame.tcp4({}, i4, ports, p.data),
      udp4 = frame.udp4({}, i4, ports, p.data),
      udp4_options = frame.eth(tag, frame.ipv4({ src = p.src4, dst = p.dst4, options = "\1\1\1\0" },
         frame.udp(i4, ports, p.data))),
      icmp4 = frame.icmp4({}, i4, { type = 8, rest = id }, p.data),
      tcp6 = frame.eth({ type = 0x86dd }, frame.ipv6({ src = p.src6, dst = p.dst6, next = 6 },
         frame.tcp(i6, ports, p.data))),
      udp6 = frame.udp6({}, i6, ports, p.data),
      icmp6 = frame.icmp6_6({}, i6, { type = 128, rest = id }, p.data),
      tcp6_options = frame.eth({ type = 0x86dd, vlan = tag.vlan }, frame.ipv6({ src = p.src6, dst = p.dst6, next = 60 },
         "\6\0\0\0\0\0\0\0" .. frame.tcp(i6, ports, p.data))),
   }
end

local A = { src4 = "10.0.0.1", dst4 = "192.0.2.9", src6 = "2001:db8::1", dst6 = "fe80::7", sport = 1234, dport = 53,
   data = "" }

local function with(change)
   local p = {}
   for k, v in pairs(A) do p[k] = v end
   for k, v in pairs(change) do p[k] = v end
   return p
end

describe("transport checksums", function()
   it("are recognized and computed for every length of the payload", function()
      for length = 0, 70 do
         for name, bytes in pairs(kinds(with { data = packets.noise(length, length) })) do
            local pkt = packets.new(bytes)
            assert.is_true(pkt:valid_l4_checksum(), name)
            assert.is_true(pkt:update_l4_checksum(), name)
            assert.equal(frame.hex(bytes), frame.hex(packets.bytes(pkt)), name)
            local header = pkt:tcp() or pkt:udp() or pkt:icmp() or pkt:icmp6()
            local sum = header.checksum
            header.checksum = sum == 1 and 2 or 1
            assert.is_false(pkt:valid_l4_checksum(), name)
            pkt:update_l4_checksum()
            assert.equal(frame.hex(bytes), frame.hex(packets.bytes(pkt)), name)
         end
      end
   end)

   it("cover what the packet has, not the padding of the frame", function()
      for name, bytes in pairs(kinds(with { data = "odd" })) do
         assert.is_true(packets.new(bytes .. "padding"):valid_l4_checksum(), name)
      end
   end)

   it("of UDP: zero means none over IPv4 and is wrong over IPv6", function()
      local none = { sport = 1, dport = 2, no_checksum = true }
      local four = packets.new(frame.udp4({}, { src = A.src4, dst = A.dst4 }, none))
      assert.is_true(four:valid_l4_checksum())
      local six = packets.new(frame.udp6({}, { src = A.src6, dst = A.dst6 }, none))
      assert.is_false(six:valid_l4_checksum())
      assert.is_true(six:update_l4_checksum())
      assert.is_true(six:valid_l4_checksum())
   end)

   it("of UDP: a sum of zero is sent as 0xffff", function()
      local i = { src = "10.0.0.1", dst = "10.0.0.2" }
      local bytes = frame.udp(i, { sport = 0, dport = 0 })
      local word = bytes:byte(7) * 256 + bytes:byte(8)
      local pkt = packets.new(frame.udp4({}, i, { sport = word, dport = 0 })) -- makes the sum 0xffff
      assert.equal(0xffff, pkt:udp().checksum)
      pkt:udp().checksum = 5
      pkt:update_l4_checksum()
      assert.equal(0xffff, pkt:udp().checksum)
      -- The same by rewriting.
      pkt = packets.new(frame.udp4({}, i, { sport = 9, dport = 0 }))
      pkt:set_src_port(word)
      assert.equal(0xffff, pkt:udp().checksum)
      pkt:set_src_port(9)
      assert.equal(frame.udp4({}, i, { sport = 9, dport = 0 }), packets.bytes(pkt))
   end)

   it("are left alone in fragments, unknown protocols and where lengths lie", function()
      local function refuses(bytes)
         local pkt = packets.new(bytes)
         assert.is_nil(pkt:valid_l4_checksum())
         assert.is_false(pkt:update_l4_checksum())
         assert.equal(bytes, packets.bytes(pkt))
      end
      local i = { src = A.src4, dst = A.dst4, frag = 0x2000 }
      refuses(frame.udp4({}, i, { sport = 1, dport = 2 }))
      i.frag = 4
      refuses(frame.udp4({}, i, { sport = 1, dport = 2 }))
      refuses(frame.eth({}, frame.ipv4({ src = A.src4, dst = A.dst4, proto = 89 }, "12345678")))
      for _, length in ipairs { 0, 7, 9, 65535 } do
         refuses(frame.eth({}, frame.ipv4({ src = A.src4, dst = A.dst4, proto = 17 }, u32(0) .. u16(length) .. u16(1))))
      end
      refuses(frame.eth({ type = 0x86dd }, frame.ipv6({ src = A.src6, dst = A.dst6, next = 44 },
         "\17\0\0\1" .. u32(1) .. u32(0) .. u16(8) .. u16(1))))
      refuses(frame.eth({ type = 0x88b5 }, "hello"))
   end)

   -- Compiled, with values kept in registers where the compiler thinks that it may.
   local function churn(pkt, rounds)
      local wrong = 0
      for i = 1, rounds do
         if not pkt:valid_l4_checksum() then wrong = wrong + 1 end
         local udp, old = pkt:udp(), pkt:udp().src_port
         udp.src_port = i % 50000 + 2000
         if old ~= udp.src_port and pkt:valid_l4_checksum() then wrong = wrong + 1 end
         pkt:update_l4_checksum()
         local ip = pkt:ipv4()
         ip.id = i % 65536
         ip:update_checksum()
         if not ip:valid_checksum() then wrong = wrong + 1 end
         pkt:set_src_port(i % 1000)
         pkt:set_ipv4_src(i)
      end
      return wrong
   end

   it("see what views wrote before them, in compiled code", function()
      for _, name in ipairs { "udp4", "udp4_options" } do
         for length = 0, 40 do
            local pkt = packets.new(kinds(with { data = packets.noise(length, 1) })[name])
            assert.equal(0, churn(pkt, 500), name)
            assert.is_true(pkt:valid_l4_checksum())
            assert.is_true(pkt:ipv4():valid_checksum())
         end
      end
   end)
end)

describe("rewriting", function()
   -- name of the setter, its argument, and the change it stands for
   local SETTERS = {
      { "set_ipv4_src", tw.ip4 "203.0.113.77", { src4 = "203.0.113.77" }, "4" },
      { "set_ipv4_dst", tw.ip4 "0.0.0.0", { dst4 = "0.0.0.0" }, "4" },
      { "set_ipv4_src", tw.ip4 "255.255.255.255", { src4 = "255.255.255.255" }, "4" },
      { "set_ipv6_src", tw.ip6 "2001:db8:1:2:3:4:5:6", { src6 = "2001:db8:1:2:3:4:5:6" }, "6" },
      { "set_ipv6_dst", tw.ip6 "::1", { dst6 = "::1" }, "6" },
      { "set_src_port", 65535, { sport = 65535 }, "" },
      { "set_src_port", 0, { sport = 0 }, "" },
      { "set_dst_port", 40000, { dport = 40000 }, "" },
   }

   for _, setter in ipairs(SETTERS) do
      local method, value, change, family = unpack(setter)
      it(("%s(%s) gives the packet that was built so"):format(method, tostring(value)), function()
         for length = 0, 40 do
            local data = packets.noise(length, length)
            change.data = data
            local before, after = kinds(with { data = data }), kinds(with(change))
            for name, bytes in pairs(before) do
               local pkt = packets.new(bytes)
               local applies = name:find(family, 1, true) ~= nil
               assert.equal(applies, pkt[method](pkt, value), name)
               local want = applies and after[name] or bytes
               if method == "set_dst_port" and name:find "icmp" then -- the identifier, whichever port is meant
                  want = kinds(with { data = data, sport = value })[name]
               end
               assert.equal(frame.hex(want), frame.hex(packets.bytes(pkt)), name)
            end
         end
      end)
   end

   it("keeps a UDP checksum of zero", function()
      local i = { src = A.src4, dst = A.dst4 }
      local pkt = packets.new(frame.udp4({}, i, { sport = 1, dport = 2, no_checksum = true }))
      pkt:set_ipv4_src(1)
      pkt:set_src_port(7)
      pkt:set_dst_port(8)
      assert.equal(0, pkt:udp().checksum)
      assert.equal(7, pkt:udp().src_port)
      assert.is_true(pkt:ipv4():valid_checksum())
   end)

   it("changes only the IP header of later fragments, the transport checksum of the first", function()
      local i = { src = A.src4, dst = A.dst4, frag = 100 }
      local bytes = frame.udp4({}, i, { sport = 1, dport = 2 })
      local pkt = packets.new(bytes)
      assert.is_true(pkt:set_ipv4_src(tw.ip4 "1.1.1.1"))
      assert.is_true(pkt:ipv4():valid_checksum())
      assert.equal(bytes:sub(35), packets.bytes(pkt):sub(35))
      assert.is_false(pkt:set_src_port(5))
      assert.is_false(pkt:set_dst_port(5))
      i.frag = 0x2000
      pkt = packets.new(frame.udp4({}, i, { sport = 1, dport = 2 }, "data"))
      assert.is_true(pkt:set_ipv4_src(tw.ip4 "1.1.1.1"))
      i.src = "1.1.1.1"
      assert.equal(frame.hex(frame.udp4({}, i, { sport = 1, dport = 2 }, "data")), frame.hex(packets.bytes(pkt)))
   end)

   it("takes protocol 58 over IPv4 for no ICMPv6", function()
      local payload = "\128\0\1\2\3\4\5\6"
      local pkt = packets.new(frame.eth({}, frame.ipv4({ src = A.src4, dst = A.dst4, proto = 58 }, payload)))
      assert.is_true(pkt:set_ipv4_src(tw.ip4 "1.1.1.1"))
      assert.is_true(pkt:ipv4():valid_checksum())
      assert.is_false(pkt:set_src_port(9))
      assert.equal(payload, packets.bytes(pkt):sub(35))
   end)

   it("has no identifier to change in ICMP errors", function()
      local bytes = frame.icmp4({}, { src = A.src4, dst = A.dst4 }, { type = 3 }, ("x"):rep(28))
      local pkt = packets.new(bytes)
      assert.is_false(pkt:set_src_port(5))
      assert.equal(bytes, packets.bytes(pkt))
   end)

   it("refuses values of the wrong kind and leaves the frame as it is", function()
      local bytes = kinds(A).udp6
      local pkt = packets.new(bytes)
      assert.is_false(pcall(pkt.set_ipv6_src, pkt, 5))
      assert.is_false(pcall(pkt.set_ipv6_src, pkt, nil))
      assert.is_false(pcall(pkt.set_src_port, pkt, "x"))
      assert.equal(bytes, packets.bytes(pkt))
   end)
end)
