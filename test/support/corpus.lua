-- SPDX-License-Identifier: BSD-3-Clause
-- Frames of every kind the packet library knows, each valid, with the offsets of the headers in it;
-- test/support/malform.lua makes the malformed ones of them. The same list in every run.
--
-- Addresses are those of examples/04-edge.lua, so that frames get through filters, NAT and routes:
-- a host 10.0.0.5 on "lan", a gateway 198.51.100.2 on "wan", and hosts behind the gateway.

local frame = require "test.support.frame"

local M = {
   LAN_MAC = "02:00:00:00:01:01", WAN_MAC = "02:00:00:00:01:02",
   HOST_MAC = "02:00:00:00:03:05", GATE_MAC = "02:00:00:00:03:02",
   LAN = "10.0.0.1", WAN = "198.51.100.1", HOST = "10.0.0.5", GATE = "198.51.100.2", FAR = "192.0.2.9",
   LAN6 = "2001:db8:1::1", WAN6 = "2001:db8:2::1", HOST6 = "2001:db8:1::5", GATE6 = "2001:db8:2::2",
   FAR6 = "2001:db8:9::9",
}
local u8, u16, u32 = frame.u8, frame.u16, frame.u32

---@class tideway.spec.entry
---@field name string
---@field frame string
---@field port "lan"|"wan" where it would arrive
---@field v4? integer offset of the IPv4 header
---@field v6? integer offset of the IPv6 header
---@field ext? integer[] offsets of IPv6 extension headers
---@field proto? integer transport protocol
---@field l4? integer offset of the transport header
---@field inner? integer offset of an IP header inside an ICMP error or a tunnel
---@field arp? integer offset of an ARP header
---@field vlan? integer[] offsets of VLAN tags
---@field mpls? integer offset of the first label

local list

local function add(entry) list[#list + 1] = entry end

-- ---- links: what stands in front of the network layer ----

local function link(port, more)
   local e = port == "wan" and { dst = M.WAN_MAC, src = M.GATE_MAC } or { dst = M.LAN_MAC, src = M.HOST_MAC }
   for key, value in pairs(more or {}) do e[key] = value end
   return e
end

local TAGS = {
   ["no tag"] = {}, ["a VLAN tag"] = { { 0x8100, 0x6064 } }, ["QinQ"] = { { 0x88a8, 100 }, { 0x8100, 200 } },
   ["two 802.1Q tags"] = { { 0x8100, 0 }, { 0x8100, 0xfff } },
   ["three tags"] = { { 0x88a8, 1 }, { 0x88a8, 2 }, { 0x8100, 3 } },
}
local TAG_ORDER = { "no tag", "a VLAN tag", "QinQ", "two 802.1Q tags", "three tags" }

local function tag_offsets(tags)
   local offsets = {}
   for i = 1, #tags do offsets[i] = 10 + 4 * i end
   return offsets
end

-- ---- one packet of a protocol, over IPv4 or IPv6 ----

local function payload4(proto, ip, data)
   if proto == 6 then return frame.tcp(ip, { sport = 4000, dport = 80, flags = 0x18 }, data) end
   if proto == 17 then return frame.udp(ip, { sport = 4000, dport = 53 }, data) end
   if proto == 1 then return frame.icmp({ type = 8, id = 7, seq = 1 }, data) end
   if proto == 58 then return frame.icmp6(ip, { type = 128, id = 7, seq = 1 }, data) end
   return data
end

-- i: fields of the IPv4 header; more: port, tags, payload.
local function v4(name, proto, i, more)
   more = more or {}
   local port, tags = more.port or "lan", more.tags or {}
   local ip = port == "wan" and { src = M.FAR, dst = M.WAN } or { src = M.HOST, dst = M.FAR }
   for key, value in pairs(i or {}) do ip[key] = value end
   ip.proto = proto
   local off = 14 + 4 * #tags
   add {
      name = name, port = port, v4 = off, proto = proto, l4 = off + 20 + #(ip.options or ""), vlan = tag_offsets(tags),
      inner = more.inner and off + 20 + more.inner,
      frame = frame.eth(link(port, { vlan = tags, dst = more.dst }),
         frame.ipv4(ip, more.payload or payload4(proto, ip, more.data or "payload."))),
   }
end

-- headers: list of { kind, bytes after the next-header byte }.
local function v6(name, proto, i, more)
   more = more or {}
   local port, tags, headers = more.port or "lan", more.tags or {}, more.headers or {}
   local ip = port == "wan" and { src = M.FAR6, dst = M.HOST6 } or { src = M.HOST6, dst = M.FAR6 }
   for key, value in pairs(i or {}) do ip[key] = value end
   local off, at = 14 + 4 * #tags, 54 + 4 * #tags
   local ext, chain = {}, {}
   for n, header in ipairs(headers) do
      ext[n] = at
      chain[n] = u8(headers[n + 1] and headers[n + 1][1] or proto) .. header[2]
      at = at + #chain[n]
   end
   ip.next = headers[1] and headers[1][1] or proto
   local body = more.payload or payload4(proto, ip, more.data or "payload.")
   add {
      name = name, port = port, v6 = off, ext = ext, proto = proto, l4 = at, vlan = tag_offsets(tags),
      inner = more.inner and at + more.inner,
      frame = frame.eth(link(port, { vlan = tags, dst = more.dst, type = 0x86dd }),
         frame.ipv6(ip, table.concat(chain) .. body)),
   }
end

-- ---- the kinds ----

local NO_OPTIONS = "\1\1\1\0"                                  -- no-ops and an end
local RECORD_ROUTE = "\7\11\4" .. ("\0"):rep(8) .. "\0"
local ROUTER_ALERT = "\148\4\0\0"
local SOURCE_ROUTE = "\131\7\4\198\51\100\2\0"
local TCP_OPTIONS = "\2\4\5\180\4\2\8\10\0\0\0\1\0\0\0\0\1\3\3\7"

local function link_layer()
   local stop = { dst = "01:80:c2:00:00:00", src = M.HOST_MAC }
   add { name = "spanning tree", port = "lan", frame = frame.eth({ dst = stop.dst, src = stop.src, type = 0x0027 },
      "\66\66\3" .. ("\0"):rep(35)) }
   add { name = "LLDP", port = "lan", frame = frame.eth({ dst = "01:80:c2:00:00:0e", src = M.HOST_MAC, type = 0x88cc },
      "\2\7\4" .. frame.mac(M.HOST_MAC) .. "\4\2\7\49\6\2\0\120\0\0") }
   add { name = "pause frame", port = "lan", frame = frame.eth({ dst = "01:80:c2:00:00:01", src = M.HOST_MAC,
      type = 0x8808 }, "\0\1\0\0" .. ("\0"):rep(42)) }
   add { name = "unknown ethertype", port = "lan", frame = frame.eth(link("lan", { type = 0x88b5 }), "experimental") }
   add { name = "broadcast", port = "lan", frame = frame.eth(link("lan", { dst = "ff:ff:ff:ff:ff:ff", type = 0x88b5 }),
      ("\0"):rep(46)) }
   add { name = "group address as source", port = "lan",
      frame = frame.eth(link("lan", { src = "03:00:00:00:00:01", type = 0x88b5 }), ("\0"):rep(46)) }
   add { name = "zero addresses", port = "lan",
      frame = frame.eth({ dst = "00:00:00:00:00:00", src = "00:00:00:00:00:00", type = 0x88b5 }, ("\0"):rep(46)) }
   local labels = { u32(0x00010140), u32(0x00020040), u32(0x00030140) }
   local ends = { src = M.HOST, dst = M.FAR }
   local ip = frame.ipv4(ends, frame.udp(ends, { sport = 1, dport = 2 }))
   add { name = "MPLS, one label", port = "lan", mpls = 14, inner = 18,
      frame = frame.eth(link("lan", { type = 0x8847 }), labels[1] .. ip) }
   add { name = "MPLS, three labels", port = "lan", mpls = 14,
      frame = frame.eth(link("lan", { type = 0x8848 }), labels[2] .. u32(0x00014040) .. labels[3] .. ip) }
   add { name = "MPLS without a bottom", port = "lan", mpls = 14,
      frame = frame.eth(link("lan", { type = 0x8847 }), labels[2]:rep(20)) }
end

local function arp()
   local function one(name, port, e, a)
      add { name = name, port = port, arp = 14, frame = frame.arp(link(port, e), a) }
   end
   local broadcast = { dst = "ff:ff:ff:ff:ff:ff" }
   one("ARP request", "lan", broadcast,
      { oper = 1, sha = M.HOST_MAC, spa = M.HOST, tha = "00:00:00:00:00:00", tpa = M.LAN })
   one("ARP reply", "wan", nil, { oper = 2, sha = M.GATE_MAC, spa = M.GATE, tha = M.WAN_MAC, tpa = M.WAN })
   one("ARP announcement", "lan", broadcast,
      { oper = 1, sha = M.HOST_MAC, spa = "10.0.0.77", tha = "00:00:00:00:00:00", tpa = "10.0.0.77" })
   one("ARP probe", "lan", broadcast,
      { oper = 1, sha = M.HOST_MAC, spa = "0.0.0.0", tha = "00:00:00:00:00:00", tpa = "10.0.0.78" })
   one("ARP for our address, from another", "lan", broadcast,
      { oper = 2, sha = "02:00:00:00:06:66", spa = M.LAN, tha = "ff:ff:ff:ff:ff:ff", tpa = M.LAN })
end

local function ipv4()
   for _, tags in ipairs(TAG_ORDER) do v4("UDP behind " .. tags, 17, nil, { tags = TAGS[tags] }) end
   v4("TCP", 6)
   v4("ICMP echo", 1)
   v4("ICMP echo to the router", 1, { dst = M.LAN })
   v4("UDP to the router", 17, { dst = M.LAN })
   v4("UDP from outside", 17, nil, { port = "wan" })
   v4("TCP SYN from outside", 6, nil, { port = "wan", payload = frame.tcp({ src = M.FAR, dst = M.WAN },
      { sport = 80, dport = 40000, flags = 2 }) })
   v4("options: no-ops", 17, { options = NO_OPTIONS })
   v4("options: record route", 17, { options = RECORD_ROUTE })
   v4("options: router alert", 6, { options = ROUTER_ALERT })
   v4("options: source route", 1, { options = SOURCE_ROUTE })
   v4("options: 40 bytes", 17, { options = ("\1"):rep(40) })
   v4("fragment, first", 17, { frag = 0x2000, id = 9 }, { data = ("x"):rep(64) })
   v4("fragment, middle", 17, { frag = 0x2009, id = 9 }, { payload = ("x"):rep(72) })
   v4("fragment, last", 17, { frag = 0x0012, id = 9 }, { payload = ("x"):rep(11) })
   v4("fragment, at the very end", 1, { frag = 0x1fff, id = 10 }, { payload = ("x"):rep(24) })
   v4("TCP with options", 6, nil, { payload = frame.tcp({ src = M.HOST, dst = M.FAR },
      { sport = 4001, dport = 443, options = TCP_OPTIONS }) })
   v4("UDP without checksum", 17, nil, { payload = frame.udp({ src = M.HOST, dst = M.FAR },
      { sport = 4002, dport = 53, no_checksum = true }, "abc") })
   v4("SCTP", 132, nil, {
      payload = u16(5000) .. u16(5001) .. u32(1) .. u32(0x12345678) .. "\1\0\0\20" .. ("\0"):rep(16),
   })
   v4("TTL 1", 17, { ttl = 1 })
   v4("TTL 0", 17, { ttl = 0 })
   v4("multicast", 17, { dst = "224.0.0.5" }, { dst = "01:00:5e:00:00:05" })
   v4("limited broadcast", 17, { dst = "255.255.255.255" }, { dst = "ff:ff:ff:ff:ff:ff" })
   v4("subnet broadcast", 17, { dst = "10.0.0.255" }, { dst = "ff:ff:ff:ff:ff:ff" })
   v4("from loopback", 17, { src = "127.0.0.1" })
   v4("from and to the same", 6, { src = M.FAR, dst = M.FAR })
   v4("to an unknown neighbour", 17, { dst = "10.0.0.99" }, { port = "wan" })
   v4("full size", 17, { df = true }, { data = ("x"):rep(1472) })
   v4("unknown protocol", 253)
   v4("IGMP", 2, { dst = "224.0.0.1", options = ROUTER_ALERT, ttl = 1 }, { dst = "01:00:5e:00:00:01",
      payload = "\17\100\238\155\0\0\0\0" })
end

local function ipv4_errors()
   local function about(proto, options)
      local ip = { src = M.WAN, dst = M.FAR, proto = proto, options = options }
      return frame.ipv4(ip, payload4(proto, ip, "payload."))
   end
   local function error_about(name, icmp, inner)
      v4(name, 1, nil, { port = "wan", inner = 8, payload = frame.icmp(icmp, inner) })
   end
   error_about("ICMP unreachable about UDP", { type = 3, code = 3 }, about(17))
   error_about("ICMP time exceeded about TCP", { type = 11 }, about(6):sub(1, 28))
   error_about("ICMP too big about TCP", { type = 3, code = 4, rest = u32(1400) }, about(6))
   error_about("ICMP parameter problem about an echo", { type = 12, rest = u32(0) }, about(1))
   error_about("ICMP error about a packet with options", { type = 3, code = 1 }, about(17, RECORD_ROUTE))
   error_about("ICMP error about an ICMP error", { type = 3, code = 1 },
      frame.ipv4({ src = M.WAN, dst = M.FAR, proto = 1 }, frame.icmp({ type = 3, code = 1 }, about(17))))
   error_about("ICMP error about a fragment", { type = 11, code = 1 },
      frame.ipv4({ src = M.WAN, dst = M.FAR, proto = 17, frag = 0x0010 }, ("x"):rep(16)))
   error_about("ICMP redirect", { type = 5, rest = frame.ip4(M.GATE) }, about(17))
   v4("ICMP error from inside", 1, nil, { inner = 8, payload = frame.icmp({ type = 3, code = 3 }, frame.ipv4(
      { src = M.FAR, dst = M.HOST }, frame.udp({ src = M.FAR, dst = M.HOST }, { sport = 53, dport = 4000 }))) })
   v4("ICMP timestamp", 1, nil, { payload = frame.icmp({ type = 13, id = 1 }, ("\0"):rep(12)) })
end

local function tunnels()
   local inner = frame.udp4({}, { src = "10.1.0.1", dst = "10.1.0.2" }, { sport = 1, dport = 2 }, "inner")
   local inner_ip = inner:sub(15)
   local gre = { ["GRE"] = "\0\0\8\0", ["GRE with a key"] = "\32\0\8\0" .. u32(7),
      ["GRE with checksum, key and sequence"] = "\176\0\8\0" .. u32(0) .. u32(7) .. u32(1) }
   for _, name in ipairs { "GRE", "GRE with a key", "GRE with checksum, key and sequence" } do
      v4(name, 47, nil, { inner = #gre[name], payload = gre[name] .. inner_ip })
   end
   v4("GRE with routing", 47, nil, { payload = "\64\0\8\0" .. u32(0) .. inner_ip })
   v4("PPTP", 47, nil, { payload = "\48\1\136\11" .. u16(4) .. u16(7) .. u32(1) .. "\255\3\0\33" })
   local ip = { src = M.HOST, dst = M.FAR }
   v4("VXLAN", 17, nil, { inner = 30, payload = frame.udp(ip, { sport = 5555, dport = 4789 },
      "\8\0\0\0" .. u32(77 * 256) .. inner) })
   v4("VXLAN without a VNI", 17, nil, {
      payload = frame.udp(ip, { sport = 5555, dport = 4789 }, ("\0"):rep(8) .. inner),
   })
   v4("IP in IP", 4, nil, { inner = 0, payload = inner_ip })
   v6("IPv4 in IPv6", 4, nil, { inner = 0, payload = inner_ip })
end

local EXTENSIONS = {
   { 0, "\0\5\2\0\0\1\0", "hop-by-hop" }, { 60, "\0\1\4\0\0\0\0", "destination options" },
   { 43, "\2\0\1" .. ("\0"):rep(4) .. frame.ip6 "2001:db8::7", "routing" },
   { 44, "\0\0\0" .. u32(5), "atomic fragment" },
   { 51, "\4\0\0" .. u32(1) .. u32(2) .. ("\0"):rep(12), "authentication" }, { 135, "\0\5\0\0\0\0\0", "mobility" },
   { 139, "\0\1\1\0\0\0\0", "HIP" }, { 140, "\0\0\0\0\0\0\0", "shim6" },
}

local function ipv6()
   for _, tags in ipairs(TAG_ORDER) do v6("UDP over IPv6 behind " .. tags, 17, nil, { tags = TAGS[tags] }) end
   v6("TCP over IPv6", 6)
   v6("ICMPv6 echo", 58)
   v6("ICMPv6 echo to the router", 58, { dst = M.LAN6 })
   v6("ICMPv6 echo from outside", 58, nil, { port = "wan" })
   for _, ext in ipairs(EXTENSIONS) do v6("IPv6 with " .. ext[3], 17, nil, { headers = { ext } }) end
   local chain = {}
   for i = 1, 8 do chain[i] = EXTENSIONS[i] end
   v6("IPv6 with 8 extension headers", 6, nil, { headers = chain })
   chain = {}
   for i = 1, 9 do chain[i] = EXTENSIONS[2] end
   v6("IPv6 with 9 extension headers", 6, nil, { headers = chain })
   local big = { 60, "\2\1\20" .. ("\0"):rep(20), "options" }
   v6("IPv6 with padding options", 17, nil, { headers = { EXTENSIONS[1], big } })
   v6("IPv6 fragment, first", 17, nil, { headers = { { 44, "\0\0\1" .. u32(6) } }, data = ("x"):rep(56) })
   v6("IPv6 fragment, last", 17, nil, { headers = { { 44, "\0\0\64" .. u32(6) } }, payload = ("x"):rep(17) })
   v6("IPv6 without a next header", 59)
   v6("IPv6, no payload", 59, nil, { payload = "" })
   v6("IPv6 hop limit 1", 17, { hops = 1 })
   v6("IPv6 multicast", 17, { dst = "ff02::fb" }, { dst = "33:33:00:00:00:fb" })
   v6("IPv6 from the unspecified address", 58, { src = "::" })
   v6("IPv6 to an unknown neighbour", 17, { dst = "2001:db8:1::99" }, { port = "wan" })
   v6("IPv6, full size", 17, nil, { data = ("x"):rep(1452) })
end

local function icmp6()
   local group = "ff02::1:ff00:1"
   local function nd(name, i, type, rest, data, dst)
      i.hops = i.hops or 255
      v6(name, 58, i, { dst = dst, payload = frame.icmp6(i, { type = type, rest = rest }, data) })
   end
   local sll, tll = "\1\1" .. frame.mac(M.HOST_MAC), "\2\1" .. frame.mac(M.HOST_MAC)
   local group_mac = "33:33:ff:00:00:01"
   nd("neighbor solicitation", { src = M.HOST6, dst = group }, 135, u32(0), frame.ip6(M.LAN6) .. sll, group_mac)
   nd("neighbor advertisement", { src = M.HOST6, dst = M.LAN6 }, 136, u32(0x60000000), frame.ip6(M.HOST6) .. tll)
   nd("address probe", { src = "::", dst = group }, 135, u32(0), frame.ip6(M.LAN6), group_mac)
   nd("router solicitation", { src = M.HOST6, dst = "ff02::2" }, 133, u32(0), sll, "33:33:00:00:00:02")
   nd("router advertisement", { src = "fe80::1", dst = "ff02::1" }, 134, u32(0x40000708),
      ("\0"):rep(8) .. tll, "33:33:00:00:00:01")
   nd("redirect", { src = "fe80::1", dst = M.HOST6 }, 137, u32(0), frame.ip6(M.GATE6) .. frame.ip6(M.FAR6))
   nd("listener report", { src = "fe80::5", dst = "ff02::16", hops = 1 }, 143, u32(1),
      "\4\0\0\0" .. frame.ip6 "ff02::fb", "33:33:00:00:00:16")
   local about = { src = M.HOST6, dst = M.FAR6, next = 17 }
   local inner = frame.ipv6(about, frame.udp(about, { sport = 4000, dport = 53 }, "payload."))
   local i = { src = M.FAR6, dst = M.HOST6 }
   for _, kind in ipairs { { 1, "unreachable", 0 }, { 2, "packet too big", 1280 }, { 3, "time exceeded", 0 },
      { 4, "parameter problem", 6 } } do
      v6("ICMPv6 " .. kind[2], 58, i, { port = "wan", inner = 8,
         payload = frame.icmp6(i, { type = kind[1], rest = u32(kind[3]) }, inner) })
   end
end

--- All valid frames.
---@return tideway.spec.entry[]
function M.valid()
   if list then return list end
   list = {}
   link_layer()
   arp()
   ipv4()
   ipv4_errors()
   tunnels()
   ipv6()
   icmp6()
   return list
end

return M
