-- SPDX-License-Identifier: BSD-3-Clause
-- bench.packets: packets of every kind as tshark decodes them, fields that vary, flows, sizes, and what is refused.

local bench = require "tideway.bench"
local traffic = require "test.support.decode"

-- Decoded packets of a template; none may be malformed or have a wrong checksum.
local function decoded(spec, n, names)
   local frames = traffic.frames(bench.packets(spec), n)
   local rows, complaints = traffic.decode(frames, names)
   assert.same({}, complaints)
   return rows, frames
end

local function column(rows, name)
   local list = {}
   for i, row in ipairs(rows) do list[i] = row[name] end
   return list
end

local function distinct(list)
   local seen, n = {}, 0
   for _, value in ipairs(list) do
      if not seen[value] then n = n + 1 end
      seen[value] = true
   end
   return n
end

describe("bench.packets", function()
   -- What a script says, the fields that tshark must see, one value for each.
   local kinds = {
      { "nothing said", {}, {
         ["frame.len"] = "60", ["eth.src"] = "02:00:00:00:00:01", ["eth.dst"] = "02:00:00:00:00:02", ["ip.src"] = "198.18.0.1",
         ["ip.dst"] = "198.19.0.1", ["ip.ttl"] = "64", ["udp.srcport"] = "49152", ["udp.dstport"] = "7",
      } },
      { "UDP over IPv4", {
         size = 128, eth = { src = "02:aa:00:00:00:01", dst = "02:bb:00:00:00:01" }, payload = "hello",
         ipv4 = { src = "10.1.2.3", dst = "10.3.2.1", ttl = 9, dscp = 46, ecn = 1, id = 4711, df = 1 },
         udp = { src = 1000, dst = 2000 },
      }, {
         ["frame.len"] = "124", ["eth.src"] = "02:aa:00:00:00:01", ["ip.src"] = "10.1.2.3", ["ip.dst"] = "10.3.2.1",
         ["ip.ttl"] = "9", ["ip.dsfield.dscp"] = "46", ["ip.dsfield.ecn"] = "1", ["ip.id"] = "0x1267", ["ip.flags.df"] = "1",
         ["udp.srcport"] = "1000", ["udp.dstport"] = "2000", ["udp.length"] = "90", ["udp.checksum.status"] = "1",
      } },
      { "UDP over IPv6", {
         ipv6 = { src = "2001:db8::1", dst = "2001:db8::2", hop_limit = 3, flow_label = 0x12345, dscp = 10 }, udp = { dst = 5353 },
      }, {
         ["frame.len"] = "62", ["ipv6.src"] = "2001:db8::1", ["ipv6.dst"] = "2001:db8::2", ["ipv6.hlim"] = "3",
         ["ipv6.flow"] = "0x012345", ["ipv6.tclass.dscp"] = "10", ["udp.dstport"] = "5353", ["udp.checksum.status"] = "1",
      } },
      { "TCP SYN", { tcp = { src = 1, dst = 22, seq = 4294967295, flags = "syn", window = 1024, mss = 1400 } }, {
         ["frame.len"] = "60", ["ip.len"] = "44", ["tcp.len"] = "0", ["tcp.flags"] = "0x0002", ["tcp.seq_raw"] = "4294967295",
         ["tcp.dstport"] = "22", ["tcp.window_size_value"] = "1024", ["tcp.options.mss_val"] = "1400",
         ["tcp.checksum.status"] = "1",
      } },
      { "TCP data over IPv6", {
         size = 200, ipv6 = true, tcp = { flags = "psh+ack", ack = 77 }, payload = { pattern = "ab" },
      }, {
         ["frame.len"] = "196", ["tcp.flags"] = "0x0018", ["tcp.len"] = "122", ["tcp.ack_raw"] = "77",
         ["tcp.checksum.status"] = "1", ["ipv6.plen"] = "142",
      } },
      { "ICMP", { size = 98, icmp = { type = "echo", id = 7, seq = 8 }, payload = { random = 1 } }, {
         ["icmp.type"] = "8", ["icmp.ident"] = "7", ["icmp.seq"] = "8", ["icmp.checksum.status"] = "1", ["ip.len"] = "80",
      } },
      { "ICMPv6", { size = 100, ipv6 = true, icmp6 = { type = "echo_reply", id = 7, seq = 8 } }, {
         ["icmpv6.type"] = "129", ["icmpv6.echo.identifier"] = "0x0007", ["icmpv6.checksum.status"] = "1",
      } },
      { "a VLAN tag", { vlan = 100, udp = {} }, { ["vlan.id"] = "100", ["vlan.priority"] = "0", ["ip.src"] = "198.18.0.1" } },
      { "two VLAN tags", { vlan = { { id = 5, pcp = 3 }, { id = 6 } }, size = 68 }, {
         ["vlan.id"] = "6", ["ieee8021ad.id"] = "5", ["ieee8021ad.priority"] = "3", ["udp.dstport"] = "7",
      } },
      { "MPLS labels", { mpls = { 16, { label = 1048575, tc = 5, ttl = 3 } }, size = 70 }, {
         ["mpls.label"] = "16,1048575", ["mpls.bottom"] = "0,1", ["mpls.exp"] = "0,5", ["mpls.ttl"] = "64,3", ["ip.dst"] = "198.19.0.1",
      } },
      { "VXLAN", {
         size = 200, ipv4 = { src = "192.0.2.1" }, vxlan = { vni = 70000, inner = {
            eth = { src = "02:00:00:00:00:99" }, vlan = 9, ipv4 = { src = "10.0.0.1", dst = "10.0.0.2" }, tcp = { dst = 443 },
         } },
      }, {
         ["ip.src"] = "192.0.2.1,10.0.0.1", ["udp.dstport"] = "4789", ["vxlan.vni"] = "70000", ["udp.checksum"] = "0x0000",
         ["eth.src"] = "02:00:00:00:00:01,02:00:00:00:00:99", ["vlan.id"] = "9", ["tcp.dstport"] = "443",
         ["ip.len"] = "182,128", ["tcp.checksum.status"] = "1",
      } },
      { "VXLAN with IPv6 in it", { size = 200, vxlan = { inner = { ipv6 = true, icmp6 = true } } }, {
         ["ipv6.plen"] = "92", ["icmpv6.type"] = "128", ["icmpv6.checksum.status"] = "1",
      } },
      { "GRE with IPv4", { size = 100, gre = { key = 7, inner = { ipv4 = { dst = "10.9.9.9" }, udp = { dst = 9 } } } }, {
         ["gre.key"] = "0x00000007", ["gre.proto"] = "0x0800", ["ip.dst"] = "198.19.0.1,10.9.9.9", ["udp.dstport"] = "9",
         ["udp.checksum.status"] = "1",
      } },
      { "GRE with Ethernet over IPv6", { size = 150, ipv6 = true, gre = { inner = { eth = {}, ipv4 = {} } } }, {
         ["gre.proto"] = "0x6558", ["ipv6.nxt"] = "47", ["udp.dstport"] = "7", ["ip.len"] = "74",
      } },
      { "DNS", { dns = { id = 99, name = "www.example.org", type = "AAAA" } }, {
         ["dns.id"] = "0x0063", ["dns.qry.name"] = "www.example.org", ["dns.qry.type"] = "28", ["dns.count.queries"] = "1",
         ["udp.dstport"] = "53", ["frame.len"] = "75", ["udp.length"] = "41",
      } },
      { "DNS in a frame with room for a stamp behind it", { dns = {}, size = 100, stamp = true }, {
         ["dns.qry.name"] = "example.com", ["udp.length"] = "37", ["frame.len"] = "96", ["ip.len"] = "57",
      } },
      { "another protocol over IP", { ipv4 = { protocol = 253 } }, { ["ip.proto"] = "253", ["ip.len"] = "46" } },
      { "another EtherType", { eth = { type = 0x88b5 } }, { ["eth.type"] = "0x88b5", ["frame.len"] = "60" } },
      { "a VLAN id that is numbered as a field", { vlan = { vid = 4095, dei = 1 } }, { ["vlan.id"] = "4095", ["vlan.dei"] = "1" } },
   }
   for _, kind in ipairs(kinds) do
      it("makes " .. kind[1], function()
         local names = { "frame.number" }
         for name in pairs(kind[3]) do names[#names + 1] = name end
         local rows = decoded(kind[2], 2, names)
         assert.equal(2, #rows)
         for _, row in ipairs(rows) do
            local got = {}
            for name in pairs(kind[3]) do got[name] = row[name] end
            assert.same(kind[3], got)
         end
      end)
   end

   it("puts the payload behind the last header", function()
      local _, frames = decoded({ size = 64, payload = "hello" }, 1, { "frame.len" })
      assert.equal("hello" .. ("\0"):rep(13), frames[1]:sub(43))
      _, frames = decoded({ size = 64, payload = { pattern = "abc" } }, 1, { "frame.len" })
      assert.equal("abcabcabcabcabcabc", frames[1]:sub(43))
      local _, one = decoded({ size = 1000, payload = { random = 1 } }, 1, { "frame.len" })
      local _, two = decoded({ size = 1000, payload = { random = 2 } }, 1, { "frame.len" })
      assert.not_equal(one[1]:sub(43), two[1]:sub(43))
      assert.is_true(distinct({ one[1]:byte(43, -1) }) > 200)
   end)

   it("runs a function over each frame, once, with the views that NFs have", function()
      local calls = {}
      local rows = decoded({
         size = { 64, 128 },
         fill = function(pkt, number)
            calls[#calls + 1] = number
            local ip, udp = pkt:ipv4(), pkt:udp()
            ip.ttl = 7
            udp.dst_port = 1000 + number
            pkt:set_u16(pkt:payload_offset(), 0xbeef)
         end,
      }, 4, { "ip.ttl", "udp.dstport", "udp.payload" })
      assert.same({ 1, 2 }, calls)
      assert.same({ "7", "7", "7", "7" }, column(rows, "ip.ttl"))
      assert.same({ "1001", "1002", "1001", "1002" }, column(rows, "udp.dstport"))
      assert.equal("beef", rows[1]["udp.payload"]:sub(1, 4))
   end)
end)

describe("fields that vary", function()
   it("count, wrap, and count down", function()
      local rows = decoded({
         ipv4 = { src = bench.count("10.0.0.254", "10.0.1.1"), dst = bench.count "192.0.2.0/30", ttl = bench.count(5, 3) },
         udp = { src = bench.count(10, 20, 4), dst = bench.count(65535, 65535) },
      }, 5, { "ip.src", "ip.dst", "ip.ttl", "udp.srcport", "udp.dstport" })
      assert.same({ "10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1", "10.0.0.254" }, column(rows, "ip.src"))
      assert.same({ "192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.0" }, column(rows, "ip.dst"))
      assert.same({ "5", "4", "3", "5", "4" }, column(rows, "ip.ttl"))
      assert.same({ "10", "14", "18", "10", "14" }, column(rows, "udp.srcport"))
      assert.same({ "65535", "65535", "65535", "65535", "65535" }, column(rows, "udp.dstport"))
   end)

   it("are odometers with every", function()
      local rows = decoded({ udp = { src = bench.count(1, 2), dst = bench.count(1, 3):every(2) } }, 12,
         { "udp.srcport", "udp.dstport" })
      local pairs_seen = {}
      for i, row in ipairs(rows) do pairs_seen[i] = row["udp.srcport"] .. row["udp.dstport"] end
      assert.same({ "11", "21", "12", "22", "13", "23", "11", "21", "12", "22", "13", "23" }, pairs_seen)
   end)

   it("come from lists in turn", function()
      local rows = decoded({
         vlan = { id = bench.list { 7, 9 }, pcp = bench.count(0, 7) }, ipv4 = { dscp = bench.list { 46, 0, 10 } },
         eth = { src = bench.list { "02:00:00:00:01:00", "02:00:00:00:02:00" } },
      }, 6, { "vlan.id", "ip.dsfield.dscp", "eth.src", "vlan.priority" })
      assert.same({ "7", "9", "7", "9", "7", "9" }, column(rows, "vlan.id"))
      assert.same({ "46", "0", "10", "46", "0", "10" }, column(rows, "ip.dsfield.dscp"))
      assert.equal("02:00:00:00:02:00", rows[2]["eth.src"])
      assert.same({ "0", "1", "2", "3", "4", "5" }, column(rows, "vlan.priority"))
   end)

   it("have values with names in lists", function()
      local rows = decoded({ tcp = { flags = bench.list { "syn", "rst+ack" } } }, 4, { "tcp.flags" })
      assert.same({ "0x0002", "0x0014", "0x0002", "0x0014" }, column(rows, "tcp.flags"))
      rows = decoded({ icmp = { type = bench.list { "echo", "echo_reply", 13 } } }, 3, { "icmp.type" })
      assert.same({ "8", "0", "13" }, column(rows, "icmp.type"))
   end)

   it("are IPv6 addresses and MACs too, and parts of headers", function()
      local rows = decoded({
         size = 128, eth = { dst = bench.count("02:00:00:00:ff:ff", "02:00:00:01:00:01") },
         ipv6 = {
            src = bench.count("2001:db8::ffff:ffff", "2001:db8::1:0:1"), dst = bench.count "2001:db8:1::/126",
            flow_label = bench.count(0xffffe, 0xfffff), dscp = bench.list { 1, 63 },
         },
         tcp = { seq = bench.count(2 ^ 32 - 2, 2 ^ 32 - 1), window = bench.list { 1, 65535 } },
      }, 4, { "eth.dst", "ipv6.src", "ipv6.dst", "ipv6.flow", "ipv6.tclass.dscp", "tcp.seq_raw", "tcp.window_size_value" })
      assert.same({ "02:00:00:00:ff:ff", "02:00:00:01:00:00", "02:00:00:01:00:01", "02:00:00:00:ff:ff" }, column(rows, "eth.dst"))
      assert.same({ "2001:db8::ffff:ffff", "2001:db8::1:0:0", "2001:db8::1:0:1", "2001:db8::ffff:ffff" },
         column(rows, "ipv6.src"))
      assert.equal("2001:db8:1::3", rows[4]["ipv6.dst"])
      assert.same({ "0x0ffffe", "0x0fffff", "0x0ffffe", "0x0fffff" }, column(rows, "ipv6.flow"))
      assert.same({ "1", "63", "1", "63" }, column(rows, "ipv6.tclass.dscp"))
      assert.same({ "4294967294", "4294967295", "4294967294", "4294967295" }, column(rows, "tcp.seq_raw"))
      assert.same({ "1", "65535", "1", "65535" }, column(rows, "tcp.window_size_value"))
   end)

   it("in tunnels keep the checksums of all headers right", function()
      local rows = decoded({
         size = { 96, 594, 1518 }, ipv4 = { src = bench.random "10.0.0.0/8" }, udp = { src = bench.random(49152, 65535) },
         vxlan = { vni = bench.count(1, 4), inner = { ipv4 = { src = bench.random "10.0.0.0/8", ttl = bench.count(1, 255) },
            udp = { dst = bench.random(60000, 65535) } } },
      }, 300, { "ip.src", "ip.checksum.status", "udp.checksum.status", "vxlan.vni" })
      for _, row in ipairs(rows) do
         assert.equal("1,1", row["ip.checksum.status"])
         assert.equal("3,1", row["udp.checksum.status"]) -- none outside
      end
      assert.equal(300, distinct(column(rows, "ip.src")))
      assert.equal(4, distinct(column(rows, "vxlan.vni")))
   end)

   it("used for two fields move together", function()
      local both = bench.random(0, 65535)
      local rows = decoded({ udp = { src = both, dst = both } }, 50, { "udp.srcport", "udp.dstport" })
      for _, row in ipairs(rows) do assert.equal(row["udp.srcport"], row["udp.dstport"]) end
      assert.is_true(distinct(column(rows, "udp.srcport")) > 45)
   end)
end)

-- ---- many packets: straight from the frames ----

local function u16(bytes, at) return bytes:byte(at + 1) * 256 + bytes:byte(at + 2) end
local function u32(bytes, at) return u16(bytes, at) * 65536 + u16(bytes, at + 2) end
local SRC, DST, PORT = 26, 30, 34

local function values(spec, n, read)
   local list = {}
   for i, bytes in ipairs(traffic.frames(bench.packets(spec), n)) do list[i] = read(bytes) end
   return list
end

-- Pearson's chi-square of how often each value came, against its share.
local function chi_square(list, share, n)
   local seen, sum = {}, 0
   for _, value in ipairs(list) do seen[value] = (seen[value] or 0) + 1 end
   for i = 0, n - 1 do
      local expected = share(i) * #list
      sum = sum + ((seen[i] or 0) - expected) ^ 2 / expected
   end
   return sum
end

describe("chance", function()
   -- 99.99 % of the chi-square distribution for k degrees of freedom (Wilson and Hilferty 1931).
   local function limit(k) return k * (1 - 2 / (9 * k) + 3.719 * math.sqrt(2 / (9 * k))) ^ 3 end

   it("gives all values of a range alike", function()
      local list = values({ udp = { src = bench.random(1000, 1099) } }, 20000, function(b) return u16(b, PORT) - 1000 end)
      local sum = chi_square(list, function() return 1 / 100 end, 100)
      assert.is_true(sum < limit(99), sum)
      assert.is_true(sum > 40, "more even than chance is: " .. sum)
   end)

   for _, skew in ipairs { 0.8, 1, 1.5 } do
      it("follows Zipf's law with skew " .. skew, function()
         local n, total = 100, 0
         for rank = 1, n do total = total + rank ^ -skew end
         local list = values({ ipv4 = { src = bench.zipf("10.0.0.0", "10.0.0.99", skew) } }, 20000,
            function(b) return u32(b, SRC) - 0x0a000000 end)
         local sum = chi_square(list, function(i) return (i + 1) ^ -skew / total end, n)
         assert.is_true(sum < limit(n - 1), sum)
      end)
   end

   it("is the same in each run, and another with another seed", function()
      local function run(seed)
         local spec = { seed = seed, udp = { src = bench.random(0, 65535), dst = bench.random(0, 65535) } }
         return table.concat(traffic.frames(bench.packets(spec), 100))
      end
      assert.equal(run(1), run(1))
      assert.not_equal(run(1), run(2))
   end)

   it("is independent in two fields", function()
      local spec = { udp = { src = bench.random(0, 9), dst = bench.random(0, 9) } }
      local list = values(spec, 20000, function(b) return u16(b, PORT) * 10 + u16(b, PORT + 2) end)
      local sum = chi_square(list, function() return 1 / 100 end, 100)
      assert.is_true(sum < limit(99), sum)
   end)

   it("takes values of a list, and its first ones most often with zipf", function()
      local list = values({ udp = { dst = bench.list { 5, 6, 7, order = "zipf", skew = 1 } } }, 11000,
         function(b) return u16(b, PORT + 2) - 5 end)
      local total = 1 + 1 / 2 + 1 / 3
      assert.is_true(chi_square(list, function(i) return 1 / (i + 1) / total end, 3) < limit(2))
      list = values({ udp = { dst = bench.list { 5, 6, 6, 6, order = "random" } } }, 10000,
         function(b) return u16(b, PORT + 2) - 5 end)
      assert.is_true(chi_square(list, function(i) return i == 0 and 1 / 4 or 3 / 4 end, 2) < limit(1))
   end)

   it("starts from the field's default with zipf(n, skew)", function()
      local list = values({ udp = { dst = bench.zipf(4, 1) } }, 500, function(b) return u16(b, PORT + 2) end)
      assert.equal(4, distinct(list))
      assert.equal(7, math.min(unpack(list)))
   end)
end)

describe("flows", function()
   local function tuples(spec, n) return values(spec, n, function(b) return b:sub(SRC + 1, PORT + 4) end) end

   it("are exactly as many as asked for, and each has all its packets", function()
      for _, n in ipairs { 1, 2, 1000, 4096, 30000 } do
         local list = tuples({ size = 64, flows = n }, 2 * n)
         assert.equal(n, distinct(list))
         for i = 1, n do assert.equal(list[i], list[n + i]) end
      end
   end)

   it("of several fields are as many as their ranges together", function()
      local spec = {
         flows = 4096, ipv4 = { src = bench.flow "10.0.0.0/28", dst = bench.flow "10.1.0.0/28" }, udp = { dst = bench.flow(16, 31) },
      }
      local list = tuples(spec, 4096)
      assert.equal(4096, distinct(list))
      local ports = values(spec, 4096, function(b) return u16(b, PORT + 2) end)
      assert.equal(16, distinct(ports))
      assert.equal(16, math.min(unpack(ports)))
      assert.equal(31, math.max(unpack(ports)))
      assert.equal(0x0a010000, math.min(unpack(values(spec, 4096, function(b) return u32(b, DST) end))))
      spec.flows = 4097
      assert.has_error(function() bench.packets(spec) end)
   end)

   it("with a range that is no power of two are counted when it alone tells them apart", function()
      local spec = { flows = 60000, udp = { src = bench.flow(1024, 65535) }, ipv4 = { src = bench.flow "10.0.0.0/30" } }
      local list = tuples(spec, 60000)
      assert.equal(60000, distinct(list))
      local first = values(spec, 3, function(b) return u16(b, PORT) end)
      assert.same({ 1024, 1025, 1026 }, first)
   end)

   it("are scattered, or in order", function()
      local list = values({ flows = 1000 }, 1000, function(b) return u32(b, SRC) end)
      local ups = 0
      for i = 2, #list do ups = ups + (list[i] > list[i - 1] and 1 or 0) end
      assert.is_true(ups > 300 and ups < 700, ups)
      list = values({ flows = { n = 1000, scatter = false } }, 1000, function(b) return u32(b, SRC) end)
      for i = 1, #list do assert.equal(0xc6120000 + i - 1, list[i]) end
   end)

   it("come by chance or by Zipf's law", function()
      local random = tuples({ flows = { n = 1000, order = "random" } }, 1000)
      assert.is_true(distinct(random) > 580 and distinct(random) < 690, distinct(random)) -- 1 - 1/e of them
      local zipf = tuples({ flows = { n = 1000, order = "zipf", skew = 1.2 } }, 5000)
      local often, most = {}, 0
      for _, one in ipairs(zipf) do
         often[one] = (often[one] or 0) + 1
         most = math.max(most, often[one])
      end
      local total = 0
      for rank = 1, 1000 do total = total + rank ^ -1.2 end
      assert.is_true(math.abs(most / 5000 - 1 / total) < 0.03)
   end)

   it("are told apart by parts of bytes too, where the rest stays", function()
      local spec = {
         flows = 512, vlan = { id = 0xabc, pcp = bench.flow(0, 7) }, ipv4 = { ecn = 1, dscp = bench.flow(0, 63) }, udp = {},
      }
      local frames = traffic.frames(bench.packets(spec), 512)
      assert.equal(512, distinct(frames))
      for _, bytes in ipairs(frames) do
         assert.equal(0xabc, u16(bytes, 14) % 4096)
         assert.equal(1, bytes:byte(20) % 4)
      end
   end)

   it("of IPv6, VLANs and tunnels are exact too", function()
      local frames = traffic.frames(bench.packets {
         size = 128, flows = 5000, vlan = { id = bench.flow(0, 7) }, ipv6 = { src = bench.flow "2001:2::/120", dst = bench.flow "2001:2::/125" },
      }, 5000)
      assert.equal(5000, distinct(frames))
      frames = traffic.frames(bench.packets { size = 128, flows = 5000, vxlan = {} }, 5000)
      local inner, outer = {}, {}
      for i, bytes in ipairs(frames) do outer[i], inner[i] = bytes:sub(27, 34), bytes:sub(51) end
      assert.equal(1, distinct(outer))
      assert.equal(5000, distinct(inner))
   end)
end)

describe("sizes", function()
   local function lengths(size, n)
      local list = {}
      for i, bytes in ipairs(traffic.frames(bench.packets { size = size }, n)) do list[i] = #bytes + 4 end
      return list
   end
   local function counts(list)
      local seen = {}
      for _, length in ipairs(list) do seen[length] = (seen[length] or 0) + 1 end
      return seen
   end

   it("are IMIX, 7 of 64, 4 of 594 and 1 of 1518 bytes, spread", function()
      local list = lengths(bench.imix(), 24)
      assert.same({ [64] = 14, [594] = 8, [1518] = 2 }, counts(list))
      assert.same({ [64] = 7, [594] = 4, [1518] = 1 }, counts { unpack(list, 1, 12) })
      assert.same({ 64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64 }, { unpack(list, 1, 12) })
   end)

   it("are jumbo frames where buffers are large enough", function()
      local bytes = bench.packets({ size = 9018 }).frames[1]
      assert.equal(9014, #bytes)
      assert.equal(9000, u16(bytes, 16))
   end)

   it("are lists, with weights or in turn", function()
      assert.same({ 64, 128, 256, 64 }, lengths({ 64, 128, 256 }, 4))
      assert.same({ [100] = 3, [1500] = 1 }, counts(lengths({ { 100, 3 }, { 1500, 1 } }, 4)))
   end)

   it("are IMIX genomes in their order", function()
      assert.same({ 64, 64, 1280, 1518, 64 }, lengths(bench.imix "aafg", 5))
      assert.same({ 64, 1020, 128 }, lengths(bench.imix("aAb", { A = 1020 }), 3))
   end)

   it("are the least there can be when nothing is said", function()
      assert.same({ 64 }, lengths(nil, 1))
      assert.equal(58 + 16, #bench.packets({ tcp = { mss = 1460 }, stamp = true }).frames[1])
   end)
end)

describe("presets", function()
   it("are traffic, and take settings of a script", function()
      local presets = bench.presets
      for name, make in pairs { udp = presets.udp_flows, syn = presets.syn_flood, dns = presets.dns_queries,
         icmp = presets.icmp_echo, vxlan = presets.vxlan } do
         local _, complaints = traffic.decode(traffic.frames(make(), 100), { "ip.src" })
         assert.same({}, complaints, name)
      end
      local frames = traffic.frames(presets.syn_flood { tcp = { dst = 443 }, size = 68 }, 200)
      local rows = traffic.decode(frames, { "tcp.dstport", "tcp.flags", "frame.len", "ip.src", "tcp.options.mss_val" })
      assert.equal("443", rows[1]["tcp.dstport"])
      assert.equal("0x0002", rows[1]["tcp.flags"])
      assert.equal("64", rows[1]["frame.len"])
      assert.is_true(distinct(column(rows, "ip.src")) > 190)
      assert.equal(5, distinct(traffic.frames(presets.udp_flows(5), 50)))
   end)
end)

describe("what is refused", function()
   local cases = {
      { { size = 63 }, "size: 63 is not a frame size from 64" },
      { { size = 64, ipv6 = {} }, "64 bytes %(FCS included%) are too few for eth, ipv6, udp: the least is 66" },
      { { size = 73, tcp = {}, stamp = true }, "eth, ipv4, tcp and a stamp of 16 bytes: the least is 74" },
      { { size = { 1518, 65 }, udp = {}, payload = ("x"):rep(100) }, "with 100 bytes of payload: the least is 146" },
      { { size = 20000 }, "size: 20000" },
      { { size = {} }, "the list is empty" },
      { { size = { { 64, 0 } } }, "the weight of 64 is 0" },
      { { upd = {} }, 'there is no "upd"; did you mean udp%?' },
      { { udp = { dest = 1 } }, 'udp: there is no field "dest"; did you mean dst' },
      { { udp = { dst = 65536 } }, "udp.dst_port: 65536 does not fit: the field has 16 bits" },
      { { udp = { dst = 1.5 } }, "1.5 does not fit" },
      { { udp = { dst = "http" } }, '"http" is not a number from 0 to 65535' },
      { { ipv4 = { ttl = bench.count(0, 256) } }, "ipv4.ttl: 256 does not fit: the field has 8 bits" },
      { { ipv4 = { dscp = bench.list { 1, 64 } } }, "ipv4.dscp: 64 does not fit" },
      { { ipv4 = { src = "10.0.0.300" } }, "300 is more than 255" },
      { { ipv4 = { src = bench.count "10.0.0.1/24" } }, "did you mean 10.0.0.0/24" },
      { { ipv4 = { src = bench.random("10.0.0.9", "10.0.0.1") } }, "must not be more than the last" },
      { { ipv6 = { src = bench.random "2001:2::/48" } }, "2%^80 addresses" },
      { { ipv6 = { src = bench.random "10.0.0.0/8" } }, "is an IPv4 prefix, this is no IPv4 address" },
      { { udp = { src = bench.count(1) } }, "a range is two values" },
      { { ipv4 = { checksum = 1 } }, "ipv4.checksum is made by the generator" },
      { { ipv4 = { protocol = bench.count(1, 5) } }, "cannot change from packet to packet" },
      { { icmp = { type = "ping" } }, 'icmp.type: there is no "ping"' },
      { { icmp6 = {} }, "icmp6 is not carried by ipv4; write icmp = " },
      { { tcp = { flags = "syn+akc" } }, '"akc" is no flag' },
      { { tcp = {}, udp = {} }, "a packet has one of them" },
      { { ipv4 = {}, ipv6 = {} }, "a packet has one of them" },
      { { dns = {}, tcp = {} }, "dns is carried by udp, not by tcp" },
      { { dns = { type = "AAAAA" } }, 'there is no "AAAAA"; did you mean AAAA' },
      { { dns = { name = ("x"):rep(64) } }, "a label has 1 to 63 characters" },
      { { dns = {}, payload = "x" }, "leave one of them out" },
      { { vxlan = { inner = { stamp = true } } }, "stamp belongs to the whole packet" },
      { { vxlan = { inner = { ipv4 = { src = bench.flow "10.0.0.0/8" } } } }, "flows = { n = 1000 }" },
      { { flows = { n = 10, order = "zip" } }, 'order is "zip"' },
      { { flows = 0 }, "n is 0" },
      { { flows = 300, ipv4 = { src = bench.flow "10.0.0.0/24" } }, "ipv4.src %(256%) tell 256 apart" },
      { { payload = 7 }, "payload: a text" },
      { { stamp = 1 }, "stamp is true or false" },
      { { fill = 1 }, "fill is a function" },
      { { fill = function(pkt) pkt:adjust_tail(-1) end }, "fill made the frame 59 bytes long instead of 60" },
      { { fill = function(pkt) return pkt.nonsense end }, "fill: .*nonsense" },
      { { seed = -1 }, "seed: %-1" },
      { 7, "bench.packets takes a table" },
   }
   for i, case in ipairs(cases) do
      it(("%d: %s"):format(i, case[2]), function()
         local ok, err = pcall(function() bench.packets(case[1]) end)
         assert.is_false(ok)
         assert.is_truthy(err:find(case[2]), err)
         assert.is_truthy(err:find("^test/bench_traffic_spec.lua:%d+: "), "not at the script's line: " .. err)
      end)
   end

   it("by the makers of variations", function()
      for text, make in pairs {
         ["bench.count needs a range"] = function() bench.count() end,
         ["the step is 0"] = function() bench.count(1, 2, 0) end,
         ["every%(0%)"] = function() bench.count(1, 2):every(0) end,
         ["every%(%) is for bench.count"] = function() bench.random(1, 2):every(2) end,
         ["at least one value"] = function() bench.list {} end,
         ['order is "sorted"'] = function() bench.list { 1, order = "sorted" } end,
         ["the skew is 0"] = function() bench.zipf(10, 0) end,
         ["is no size of RFC 6985"] = function() bench.imix "aX" end,
      } do
         local ok, err = pcall(make)
         assert.is_false(ok, text)
         assert.is_truthy(err:find(text), err)
         assert.is_truthy(err:find("^test/bench_traffic_spec.lua:%d+: "), err)
      end
   end)

   it("when it is more than a source can do", function()
      local list = { src = bench.random(0, 9), dst = bench.random(0, 9), seq = bench.random(0, 9), ack = bench.random(0, 9),
         window = bench.random(0, 9), urgent = bench.random(0, 9) }
      local ok, err = pcall(bench.packets, {
         tcp = list, eth = { src = bench.random(0, 9), dst = bench.random(0, 9) },
         vlan = { { id = bench.random(0, 9), pcp = bench.random(0, 7) }, { id = bench.random(0, 9), pcp = bench.random(0, 7) } },
         ipv4 = { src = bench.random(0, 9), dst = bench.random(0, 9), ttl = bench.random(0, 9), id = bench.random(0, 9),
            dscp = bench.random(0, 9) },
      })
      assert.is_false(ok)
      assert.is_truthy(err:find "17 independent variations, a source has 16")
   end)
end)
