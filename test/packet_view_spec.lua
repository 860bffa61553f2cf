-- SPDX-License-Identifier: BSD-3-Clause
-- Views are valid or nil: truncation at every length, tags, options, extension headers, fragments, lies.
-- Frames end at a page that may not be touched (test.support.packets), so that reading beyond one crashes.

local frame = require "test.support.frame"
local packets = require "test.support.packets"
local tw = require "tideway.packet"

local u8, u16, u32 = frame.u8, frame.u16, frame.u32
local V4 = { src = "10.0.0.1", dst = "192.0.2.9" }
local V6 = { src = "2001:db8::1", dst = "2001:db8::2" }

local function v4(fields, payload)
   fields.src, fields.dst = V4.src, V4.dst
   return frame.ipv4(fields, payload)
end
local function v6(fields, payload)
   fields.src, fields.dst = V6.src, V6.dst
   return frame.ipv6(fields, payload)
end
local function eth(type, payload, vlan) return frame.eth({ type = type, vlan = vlan }, payload) end

local TCP = u16(80) .. u16(1024) .. u32(7) .. u32(8) .. "\x50\x12" .. u16(100) .. u16(0) .. u16(0)
local UDP = u16(53) .. u16(4000) .. u16(8) .. u16(0)
local SCTP = u16(5000) .. u16(5001) .. u32(0x01020304) .. u32(0)
local ECHO = "\8\0\0\0" .. u16(77) .. u16(3)
local ECHO6 = "\128\0\0\0" .. u16(77) .. u16(3)
local GRE = u16(0) .. u16(0x0800)
local VXLAN = u16(1234) .. u16(4789) .. u16(16) .. u16(0) .. "\8\0\0\0\0\1\2\0"
local NS = "\135\0\0\0\0\0\0\0" .. frame.ip6 "fe80::1"
local ARP = u16(1) .. u16(0x0800) .. "\6\4" .. u16(1) .. ("\2"):rep(6) .. ("\3"):rep(4) .. ("\4"):rep(6)
   .. ("\5"):rep(4)
local MPLS = u32(16 * 4096 + 256 + 64)
local Q1, QQ = { { 0x8100, 5 } }, { { 0x88a8, 7 }, { 0x8100, 5 } }

local METHODS = { "eth", "vlan", "arp", "ipv4", "ipv6", "icmp", "icmp6", "tcp", "udp", "sctp", "gre", "vxlan", "mpls",
   "nd", "ipv6_fragment" }

local function views(pkt)
   local got = {}
   for _, name in ipairs(METHODS) do
      if pkt[name](pkt) then got[#got + 1] = name end
   end
   return table.concat(got, " ")
end

-- Frame, the views it has, and l3, l4 and payload offset.
local CASES = {
   { "TCP over IPv4", eth(0x0800, v4({ proto = 6 }, TCP)), "eth ipv4 tcp", 14, 34, 54 },
   { "TCP with options",
      eth(0x0800, v4({ proto = 6 }, TCP:sub(1, 12) .. "\x70" .. TCP:sub(14) .. "\2\4\5\xb4\1\1\1\0")),
      "eth ipv4 tcp", 14, 34, 62 },
   { "UDP over IPv4", eth(0x0800, v4({ proto = 17 }, UDP)), "eth ipv4 udp", 14, 34, 42 },
   { "SCTP over IPv4", eth(0x0800, v4({ proto = 132 }, SCTP)), "eth ipv4 sctp", 14, 34, 46 },
   { "ICMP", eth(0x0800, v4({ proto = 1 }, ECHO)), "eth ipv4 icmp", 14, 34, 42 },
   { "GRE", eth(0x0800, v4({ proto = 47 }, GRE)), "eth ipv4 gre", 14, 34, 38 },
   { "VXLAN", eth(0x0800, v4({ proto = 17 }, VXLAN)), "eth ipv4 udp vxlan", 14, 34, 42 },
   { "another protocol", eth(0x0800, v4({ proto = 89 }, "abcd")), "eth ipv4", 14, 34, 34 },
   { "UDP behind IPv4 options", eth(0x0800, v4({ proto = 17, options = "\148\4\0\0\1\1\1\0" }, UDP)),
      "eth ipv4 udp", 14, 42, 50 },
   { "UDP behind 40 bytes of IPv4 options", eth(0x0800, v4({ proto = 17, options = ("\1"):rep(40) }, UDP)),
      "eth ipv4 udp", 14, 74, 82 },
   { "802.1Q", eth(0x0800, v4({ proto = 6 }, TCP), Q1), "eth vlan ipv4 tcp", 18, 38, 58 },
   { "QinQ", eth(0x0800, v4({ proto = 17 }, UDP), QQ), "eth vlan ipv4 udp", 22, 42, 50 },
   { "QinQ IPv6", eth(0x86dd, v6({ next = 17 }, UDP), QQ), "eth vlan ipv6 udp", 22, 62, 70 },
   { "TCP over IPv6", eth(0x86dd, v6({ next = 6 }, TCP)), "eth ipv6 tcp", 14, 54, 74 },
   { "UDP over IPv6", eth(0x86dd, v6({ next = 17 }, UDP)), "eth ipv6 udp", 14, 54, 62 },
   { "ICMPv6", eth(0x86dd, v6({ next = 58 }, ECHO6)), "eth ipv6 icmp6", 14, 54, 62 },
   { "neighbor solicitation", eth(0x86dd, v6({ next = 58, hops = 255 }, NS)), "eth ipv6 icmp6 nd", 14, 54, 62 },
   { "ICMPv6 number over IPv4", eth(0x0800, v4({ proto = 58 }, ECHO6)), "eth ipv4", 14, 34, 42 },
   { "ICMP number over IPv6", eth(0x86dd, v6({ next = 1 }, ECHO)), "eth ipv6", 14, 54, 62 },
   { "hop-by-hop, routing, destination options, AH, fragment",
      eth(0x86dd, v6({ next = 0 }, "\43\0"
      .. ("\0"):rep(6) .. "\60\1" .. ("\0"):rep(14) .. "\51\0" .. ("\0"):rep(6) .. "\44\1" .. ("\0"):rep(10)
      .. "\17\0\0\1" .. u32(9) .. UDP)),
      "eth ipv6 udp ipv6_fragment", 14, 54 + 8 + 16 + 8 + 12 + 8, 54 + 8 + 16 + 8 + 12 + 8 + 8 },
   { "ARP", eth(0x0806, ARP), "eth arp", 14 },
   { "ARP in a VLAN", eth(0x0806, ARP, Q1), "eth vlan arp", 18 },
   { "MPLS", eth(0x8847, MPLS), "eth mpls", 14 },
   { "unknown EtherType", eth(0x88b5, "hello"), "eth", 14 },
}

describe("views", function()
   for _, case in ipairs(CASES) do
      local name, bytes, want, l3, l4, payload = unpack(case)

      it("of " .. name, function()
         local pkt = packets.new(bytes)
         assert.equal(want, views(pkt))
         assert.equal(l3, pkt:l3_offset())
         assert.equal(l4, pkt:l4_offset())
         assert.equal(payload, (pkt:payload_offset()))
      end)

      it("of " .. name .. ", cut at every length, are nil or inside", function()
         for len = 0, #bytes - 1 do
            local pkt = packets.new(bytes:sub(1, len))
            local got = views(pkt)
            local left = len < 14 and "" or len < l3 and "eth" or
               want:find "vlan" and len >= 18 and "eth vlan" or "eth"
            if want:find "vlan" and len >= 18 then left = "eth vlan" end
            assert.equal(left, got, len)
            -- None of these may touch what is not there.
            for _, method in ipairs { "l3_offset", "l4_offset", "l4_protocol", "payload_offset", "icmp_inner_offset",
               "is_fragment", "ethertype", "gre_key", "valid_l4_checksum", "update_l4_checksum" } do
               pkt[method](pkt)
            end
            for kind = 0, 60 do
               pkt:ipv4_option(kind)
               pkt:tcp_option(kind)
               pkt:nd_option(kind)
               pkt:ipv6_extension(kind)
            end
            pkt:set_ipv4_src(1) pkt:set_ipv4_dst(1) pkt:set_src_port(1) pkt:set_dst_port(1)
            pkt:set_ipv6_src(tw.ip6 "::1") pkt:set_ipv6_dst(tw.ip6 "::1")
            pkt:vlan(2) pkt:mpls(2)
         end
      end)

      it("of " .. name .. " do not mind bytes after the packet", function()
         if want:find "ip" then assert.equal(want, views(packets.new(bytes .. ("\0"):rep(18)))) end
      end)
   end

   it("point at the right header", function()
      local pkt = packets.new(eth(0x0800, v4({ proto = 6, options = "\1\1\1\0" }, TCP), QQ))
      assert.equal(0x88a8, pkt:eth().type)
      assert.equal(7, pkt:vlan().vid)
      assert.equal(7, pkt:vlan(1).vid)
      assert.equal(5, pkt:vlan(2).vid)
      assert.equal(0x8100, pkt:vlan(1).type)
      assert.equal(0x0800, pkt:vlan(2).type)
      assert.is_nil(pkt:vlan(3))
      assert.equal(0x0800, pkt:ethertype())
      assert.equal(tw.ip4 "192.0.2.9", pkt:ipv4().dst)
      assert.equal(1024, pkt:tcp().dst_port)
      pkt:tcp().dst_port = 99
      assert.equal(99, pkt:u16(pkt:l4_offset() + 2))
   end)
end)

describe("VLAN", function()
   it("a third tag hides what is in it", function()
      local pkt = packets.new(eth(0x0800, v4({ proto = 17 }, UDP), { { 0x88a8, 1 }, { 0x8100, 2 }, { 0x8100, 3 } }))
      assert.equal("eth vlan", views(pkt))
      assert.equal(0x8100, pkt:ethertype())
   end)

   it("a single tag has no second", function()
      assert.is_nil(packets.new(eth(0x0800, v4({ proto = 17 }, UDP), Q1)):vlan(2))
   end)
end)

describe("IPv4", function()
   local good = eth(0x0800, v4({ proto = 17, options = "\1\1\1\0" }, UDP))

   local function patched(at, bytes) return good:sub(1, at) .. bytes .. good:sub(at + #bytes + 1) end

   it("needs version 4, a header of 20 bytes or more, and lengths that agree", function()
      assert.truthy(packets.new(good):ipv4())
      for first = 0, 255 do
         local ok = first >= 0x45 and first <= 0x48 -- 20 to 32 bytes; the packet has 32
         assert.equal(ok, packets.new(patched(14, u8(first))):ipv4() ~= nil, first)
      end
      for total = 0, 40 do
         local ok = total >= 24 and total <= 32
         assert.equal(ok, packets.new(patched(16, u16(total))):ipv4() ~= nil, total)
      end
      assert.is_nil(packets.new(patched(16, u16(65535))):ipv4())
   end)

   it("hides the transport header of later fragments, shows that of the first", function()
      local first = packets.new(eth(0x0800, v4({ proto = 17, frag = 0x2000 }, UDP)))
      assert.equal("eth ipv4 udp", views(first))
      assert.is_true(first:is_fragment())
      local later = packets.new(eth(0x0800, v4({ proto = 17, frag = 1 }, UDP)))
      assert.equal("eth ipv4", views(later))
      assert.is_true(later:is_fragment())
      assert.is_nil(later:l4_offset())
      assert.is_nil(later:l4_protocol())
      assert.is_nil((later:payload_offset()))
      local whole = packets.new(eth(0x0800, v4({ proto = 17, df = true }, UDP)))
      assert.equal("eth ipv4 udp", views(whole))
      assert.is_false(whole:is_fragment())
      assert.is_true(whole:ipv4():is_fragment() == false)
   end)

   it("takes no transport header beyond total_length", function()
      local bytes = eth(0x0800, v4({ proto = 17, total_length = 27 }, UDP))
      assert.equal("eth ipv4", views(packets.new(bytes)))
   end)

   it("finds options", function()
      local function with(options) return packets.new(eth(0x0800, v4({ proto = 17, options = options }, UDP))) end
      local pkt = with "\1\148\4\0\0\1\131\4\0\0\0\0"
      local at, length = pkt:ipv4_option(148)
      assert.equal(35, at)
      assert.equal(4, length)
      assert.equal(40, (pkt:ipv4_option(131)))
      assert.is_nil(pkt:ipv4_option(68))
      assert.is_nil(with("\148\0\0\0"):ipv4_option(148)) -- length 0
      assert.is_nil(with("\148\1\0\0"):ipv4_option(148)) -- length 1
      assert.is_nil(with("\148\5\0\0"):ipv4_option(148)) -- longer than the header
      assert.is_nil(with("\1\1\1\148"):ipv4_option(148)) -- no length
      assert.is_nil(with("\0\148\3\0"):ipv4_option(148)) -- behind the end
      assert.is_nil(with(""):ipv4_option(148))
   end)
end)

describe("IPv6", function()
   it("needs version 6 and a payload inside the frame", function()
      local good = eth(0x86dd, v6({ next = 17 }, UDP))
      for first = 0, 255 do
         local pkt = packets.new(good:sub(1, 14) .. u8(first) .. good:sub(16))
         assert.equal(first >= 0x60 and first <= 0x6f, pkt:ipv6() ~= nil)
      end
      for length = 0, 20 do
         local pkt = packets.new(eth(0x86dd, v6({ next = 17, length = length }, UDP)))
         assert.equal(length <= 8, pkt:ipv6() ~= nil)
         assert.equal(length == 8, pkt:udp() ~= nil)
      end
   end)

   local function chain(count, kind, last)
      local body = last or UDP
      local next_header = 17
      for _ = 1, count do
         body = u8(next_header) .. "\0" .. ("\0"):rep(6) .. body
         next_header = kind
      end
      return packets.new(eth(0x86dd, v6({ next = next_header }, body)))
   end

   it("walks at most 8 extension headers", function()
      for count = 0, 8 do assert.equal(54 + 8 * count, chain(count, 60):l4_offset()) end
      for count = 9, 12 do
         assert.is_nil(chain(count, 60):l4_offset())
         assert.equal("eth ipv6", views(chain(count, 60)))
      end
      for _, kind in ipairs { 0, 43, 44, 60, 135, 139, 140 } do assert.truthy(chain(1, kind):udp(), kind) end
      for _, kind in ipairs { 50, 59, 41, 4 } do assert.is_nil(chain(1, kind):udp(), kind) end
   end)

   it("takes no extension header that reaches beyond the packet", function()
      local pkt = packets.new(eth(0x86dd, v6({ next = 0 }, "\17\1" .. ("\0"):rep(6) .. UDP)))
      assert.equal(54 + 16, pkt:l4_offset()) -- the extension header eats the UDP header
      assert.is_nil(pkt:udp())
      pkt = packets.new(eth(0x86dd, v6({ next = 0 }, "\17\2" .. ("\0"):rep(6) .. UDP)))
      assert.is_nil(pkt:l4_offset())
      for left = 0, 7 do
         pkt = packets.new(eth(0x86dd, v6({ next = 60 }, ("\0"):rep(left))))
         assert.truthy(pkt:ipv6())
         assert.is_nil(pkt:l4_offset())
         assert.is_nil(pkt:ipv6_extension(60))
      end
      pkt = packets.new(eth(0x86dd, v6({ next = 0 }, "\17\255" .. ("\0"):rep(6) .. UDP)))
      assert.is_nil(pkt:l4_offset())
   end)

   local function fragment(frag)
      return packets.new(eth(0x86dd, v6({ next = 44 }, "\17\0" .. u16(frag) .. u32(9) .. UDP)))
   end

   it("knows fragments", function()
      assert.equal("eth ipv6 udp ipv6_fragment", views(fragment(1))) -- the first
      assert.equal("eth ipv6 ipv6_fragment", views(fragment(8 + 1))) -- a later one
      assert.equal("eth ipv6 ipv6_fragment", views(fragment(16))) -- the last
      assert.equal("eth ipv6 udp ipv6_fragment", views(fragment(0))) -- an atomic one
      assert.equal("eth ipv6 udp ipv6_fragment", views(fragment(6))) -- reserved bits
      assert.is_true(fragment(1):is_fragment())
      assert.is_true(fragment(9):is_fragment())
      assert.is_true(fragment(16):is_fragment())
      assert.is_false(fragment(0):is_fragment())
      assert.equal(1, fragment(8 + 1):ipv6_fragment().frag_offset)
      assert.equal(9, fragment(8 + 1):ipv6_fragment().id)
      assert.is_nil(fragment(16):l4_offset())
   end)

   it("finds extension headers", function()
      local pkt = packets.new(eth(0x86dd, v6({ next = 0 }, "\43\0\0\0\0\0\0\0" .. "\17\0\4\0\0\0\0\0" .. UDP)))
      assert.equal(54, pkt:ipv6_extension(0))
      assert.equal(62, pkt:ipv6_extension(43))
      assert.is_nil(pkt:ipv6_extension(44))
      assert.equal(17, pkt:l4_protocol())
   end)
end)

describe("transport", function()
   it("TCP needs a data offset inside the packet", function()
      for words = 0, 15 do
         local tcp = TCP:sub(1, 12) .. u8(words * 16) .. TCP:sub(14) .. ("\0"):rep(8)
         local pkt = packets.new(eth(0x0800, v4({ proto = 6 }, tcp)))
         assert.equal(words >= 5 and words <= 7, pkt:tcp() ~= nil, words)
         assert.equal(words >= 5 and words <= 7 and 34 + words * 4 or nil, (pkt:payload_offset()))
      end
   end)

   it("TCP options are found, malformed ones are not followed", function()
      local function with(options)
         local tcp = TCP:sub(1, 12) .. u8((5 + #options / 4) * 16) .. TCP:sub(14) .. options
         return packets.new(eth(0x0800, v4({ proto = 6 }, tcp)))
      end
      local pkt = with "\1\3\3\7\2\4\5\xb4"
      local at, length = pkt:tcp_option(2)
      assert.equal(58, at)
      assert.equal(4, length)
      assert.equal(1460, pkt:u16(at + 2))
      assert.equal(55, (pkt:tcp_option(3)))
      assert.is_nil(pkt:tcp_option(8))
      assert.is_nil(with("\2\0\5\xb4"):tcp_option(3))
      assert.is_nil(with("\2\9\5\xb4"):tcp_option(2))
      assert.is_nil(with("\1\1\1\2"):tcp_option(2))
      assert.is_nil(with("\0\2\2\0"):tcp_option(2))
   end)

   it("neighbor discovery needs hop limit 255 and code 0, and has options", function()
      local function nd(hops, message) return packets.new(eth(0x86dd, v6({ next = 58, hops = hops }, message))) end
      local option = "\1\1\2\0\0\0\0\7"
      local pkt = nd(255, NS .. "\5\2" .. ("\0"):rep(14) .. option)
      assert.is_true(pkt:nd().target == tw.ip6 "fe80::1")
      local at, length = pkt:nd_option(1)
      assert.equal(54 + 24 + 16, at)
      assert.equal(8, length)
      assert.equal(tw.mac "02:00:00:00:00:07", pkt:u48(at + 2))
      assert.is_nil(pkt:nd_option(2))
      assert.is_nil(nd(255, NS .. "\1\0\0\0\0\0\0\0"):nd_option(1))
      assert.is_nil(nd(255, NS .. "\1\2\0\0\0\0\0\0"):nd_option(1))
      assert.is_nil(nd(254, NS):nd())
      assert.is_nil(nd(255, "\135\1" .. NS:sub(3)):nd())
      assert.is_nil(nd(255, "\133\0" .. NS:sub(3)):nd())
   end)
end)

describe("tunnels", function()
   it("GRE has its options before the payload", function()
      for bits = 0, 7 do
         local c, k, s = bits % 2, math.floor(bits / 2) % 2, math.floor(bits / 4)
         local gre = u16(c * 0x8000 + k * 0x2000 + s * 0x1000) .. u16(0x0800) .. (c == 1 and u32(1) or "")
            .. (k == 1 and u32(0xfffffffe) or "") .. (s == 1 and u32(3) or "")
         local pkt = packets.new(eth(0x0800, v4({ proto = 47 }, gre .. "inner")))
         assert.equal(34 + #gre, (pkt:payload_offset()))
         assert.equal(5, (select(2, pkt:payload_offset())))
         assert.equal(k == 1 and 0xfffffffe or nil, pkt:gre_key())
      end
      assert.is_nil(packets.new(eth(0x0800, v4({ proto = 47 }, u16(1) .. u16(0x880b) .. u32(0)))):gre()) -- version 1
      local routed = packets.new(eth(0x0800, v4({ proto = 47 }, u16(0x4000) .. u16(0x0800) .. u32(0))))
      assert.is_nil((routed:payload_offset()))
   end)

   it("VXLAN is known by port and flag, and its frame can be viewed", function()
      local inner = eth(0x0800, v4({ proto = 17 }, UDP))
      local pkt = packets.new(eth(0x0800, v4({ proto = 17 }, VXLAN .. inner)))
      assert.equal(0x000102, pkt:vxlan().vni)
      assert.is_nil(pkt:vxlan(8472))
      local at = pkt:payload_offset() + 8
      assert.equal(0x0800, pkt:eth_at(at).type)
      assert.equal(tw.ip4 "10.0.0.1", pkt:ipv4_at(at + 14).src)
      local no_vni = VXLAN:sub(1, 8) .. "\0" .. VXLAN:sub(10)
      assert.is_nil(packets.new(eth(0x0800, v4({ proto = 17 }, no_vni))):vxlan())
   end)

   it("MPLS labels are counted from the top to the bottom of the stack", function()
      local stack = u32(16 * 4096 + 64) .. u32(17 * 4096 + 64) .. u32(18 * 4096 + 256 + 64)
      local pkt = packets.new(eth(0x8848, stack .. u32(0)))
      assert.equal(16, pkt:mpls().label)
      assert.equal(17, pkt:mpls(2).label)
      assert.equal(18, pkt:mpls(3).label)
      assert.is_nil(pkt:mpls(4))
      assert.is_nil(pkt:mpls(0))
      assert.is_nil(pkt:mpls(17))
   end)
end)

describe("at an offset", function()
   local SIZES = { eth_at = 14, ipv4_at = 20, ipv6_at = 40, tcp_at = 20, udp_at = 8, icmp_at = 8, icmp6_at = 8 }

   it("a view lies inside the frame or is nil", function()
      local pkt = packets.new(packets.noise(64, 1))
      for method, size in pairs(SIZES) do
         for offset = -2, 70 do
            assert.equal(offset >= 0 and offset + size <= 64, pkt[method](pkt, offset) ~= nil, method)
         end
         for _, offset in ipairs { 2 ^ 31, 2 ^ 32, 2 ^ 53, 1 / 0, -1 / 0, 0 / 0 } do
            assert.is_nil(pkt[method](pkt, offset))
         end
         assert.is_nil(pkt[method](pkt, nil))
      end
   end)

   it("numbers read and write inside the frame only", function()
      local bytes = packets.noise(20, 9)
      local pkt = packets.new(bytes)
      local get = { u8 = 1, u16 = 2, u32 = 4, u48 = 6 }
      for name, size in pairs(get) do
         for offset = -2, 24 do
            local inside = offset >= 0 and offset + size <= 20
            local want
            if inside then
               want = 0
               for i = 1, size do want = want * 256 + bytes:byte(offset + i) end
            end
            assert.equal(want, pkt[name](pkt, offset), name)
            assert.equal(inside, pkt["set_" .. name](pkt, offset, want or 0))
         end
         assert.equal(bytes, packets.bytes(pkt))
         assert.is_nil(pkt[name](pkt, nil))
         assert.is_false(pkt["set_" .. name](pkt, nil, 1))
         assert.is_nil(pkt[name](pkt, 0 / 0))
      end
      pkt:set_u16(3, 0x1a2b3)
      assert.equal(0xa2b3, pkt:u16(3))
      pkt:set_u48(7, 0xfedcba987654)
      assert.equal(0xfedcba987654, pkt:u48(7))
   end)

   it("the packet inside an ICMP error is found", function()
      local inner = v4({ proto = 17 }, UDP)
      local pkt = packets.new(eth(0x0800, v4({ proto = 1 }, "\3\1\0\0\0\0\0\0" .. inner)))
      assert.is_true(pkt:icmp():is_error())
      local at = pkt:icmp_inner_offset()
      assert.equal(42, at)
      assert.equal(17, pkt:ipv4_at(at).protocol)
      assert.equal(53, pkt:udp_at(at + 20).src_port)
      assert.is_nil(packets.new(eth(0x0800, v4({ proto = 1 }, ECHO .. inner))):icmp_inner_offset())
      local cut = v4({ proto = 1 }, "\3\1\0\0\0\0\0\0" .. inner:sub(1, 19))
      assert.is_nil(packets.new(eth(0x0800, cut)):icmp_inner_offset())
      local inner6 = v6({ next = 17 }, UDP)
      local six = packets.new(eth(0x86dd, v6({ next = 58 }, "\3\0\0\0\0\0\0\0" .. inner6)))
      assert.is_true(six:icmp6():is_error())
      assert.equal(62, six:icmp_inner_offset())
      assert.equal(53, six:udp_at(six:icmp_inner_offset() + 40).src_port)
      assert.is_nil(packets.new(eth(0x86dd, v6({ next = 58 }, ECHO6 .. inner6))):icmp_inner_offset())
   end)
end)

describe("ARP", function()
   it("is for IPv4 over Ethernet only", function()
      local good = eth(0x0806, ARP)
      local pkt = packets.new(good)
      assert.equal(1, pkt:arp().op)
      assert.equal(tw.ip4 "3.3.3.3", pkt:arp().spa)
      assert.equal(tw.mac "04:04:04:04:04:04", pkt:arp().tha)
      for at = 14, 19 do
         local bad = good:sub(1, at) .. u8(good:byte(at + 1) + 1) .. good:sub(at + 2)
         assert.is_nil(packets.new(bad):arp(), at)
      end
   end)
end)

describe("Ethernet", function()
   it("swaps addresses and knows group addresses", function()
      local pkt = packets.new("\1\2\3\4\5\6\7\8\9\10\11\12\8\0")
      assert.is_true(pkt:eth():is_multicast())
      pkt:eth():swap()
      assert.equal("\7\8\9\10\11\12\1\2\3\4\5\6\8\0", packets.bytes(pkt))
      assert.is_true(pkt:eth():is_multicast())
      pkt:eth().dst = tw.mac "02:00:00:00:00:01"
      assert.is_false(pkt:eth():is_multicast())
      assert.is_false(pkt:eth():is_broadcast())
      pkt:eth().dst = tw.mac "ff:ff:ff:ff:ff:ff"
      assert.is_true(pkt:eth():is_broadcast())
      pkt:eth().dst = tw.mac "ff:ff:ff:ff:ff:fe"
      assert.is_false(pkt:eth():is_broadcast())
   end)
end)

describe("noise", function()
   -- Frames of random bytes with plausible starts: nothing may raise, nothing may read beyond the frame.
   it("raises nothing and reads nothing beyond the frame", function()
      local starts = {}
      for i, case in ipairs(CASES) do starts[i] = case[2] end
      local pkt = packets.new ""
      for seed = 1, 3000 do
         local bytes = starts[seed % #starts + 1] .. packets.noise(seed % 40, seed)
         local noise = packets.noise(8, seed * 31)
         for k = 1, 4 do -- four bytes anywhere behind the addresses become something else
            local at = 12 + noise:byte(k) % (#bytes - 12)
            bytes = bytes:sub(1, at) .. noise:sub(k + 4, k + 4) .. bytes:sub(at + 2)
         end
         packets.put(pkt, bytes:sub(1, #bytes - noise:byte(1) % 8))
         views(pkt)
         pkt:payload_offset() pkt:icmp_inner_offset() pkt:is_fragment() pkt:gre_key()
         for _, kind in ipairs { 0, 2, 44, 60, 148 } do
            pkt:ipv4_option(kind) pkt:tcp_option(kind) pkt:nd_option(kind) pkt:ipv6_extension(kind)
         end
         local ip = pkt:ipv4()
         if ip then
            ip:valid_checksum()
            ip:update_checksum()
            assert(ip:valid_checksum())
         end
         pkt:set_ipv4_src(seed) pkt:set_ipv4_dst(seed) pkt:set_src_port(seed) pkt:set_dst_port(seed)
         pkt:set_ipv6_src(tw.ip6 "::1") pkt:set_ipv6_dst(tw.ip6 "ff02::1")
         if pkt:update_l4_checksum() then assert(pkt:valid_l4_checksum()) end
         if ip then assert(ip:valid_checksum()) end
      end
   end)
end)
