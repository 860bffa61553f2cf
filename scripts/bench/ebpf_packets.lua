-- SPDX-License-Identifier: BSD-3-Clause
-- The packets that the NFs of examples/nf are measured with: what each of them is for.

local frame = require "test.support.frame"

local INSIDE, VIP, CLIENT = "10.0.0.2", "192.0.2.1", "203.0.113.1"

local function udp(src, dst, sport, dport, data) return frame.udp4({}, { src = src, dst = dst },
   { sport = sport, dport = dport }, data or ("\0"):rep(18)) end

local function tcp(src, dst, sport, dport, more)
   local t = { sport = sport, dport = dport, flags = 0x10 }
   for k, v in pairs(more or {}) do t[k] = v end
   return frame.tcp4({}, { src = src, dst = dst }, t, "\0\0\0\0\0\0")
end

local function tagged(vid, payload)
   return frame.eth({ vlan = { { 0x8100, vid } } }, payload or frame.ipv4({ src = "10.1.0.1", dst = "10.1.0.2" },
      frame.udp({ src = "10.1.0.1", dst = "10.1.0.2" }, { sport = 1, dport = 2 }, ("\0"):rep(18))))
end

local function ip(src, dst, proto, payload) return frame.eth({}, frame.ipv4({ src = src, dst = dst, proto = proto },
   payload)) end

local inner = frame.ipv4({ src = "10.1.0.1", dst = "10.1.0.2" },
   frame.udp({ src = "10.1.0.1", dst = "10.1.0.2" }, { sport = 1, dport = 2 }, ("\0"):rep(18)))

local function query(name)
   local labels = name:gsub("([^.]+)%.?", function(label) return string.char(#label) .. label end)
   return udp("10.0.0.1", "10.0.0.53", 1024, 53,
      "\18\52\1\0\0\1\0\0\0\0\0\0" .. labels .. "\0\0\1\0\1")
end

--- By name of the twin: { name, frame }, and how it is resized, if it is.
return {
   ttl = { { "IPv4", udp("10.0.0.1", INSIDE, 1, 2) } },
   ttl_router = {
      { "IPv4", udp("10.9.9.9", "10.1.2.4", 1, 2) },
      { "IPv6", frame.udp6({}, { src = "2001:db8::99", dst = "2001:db8:1::9" }, { sport = 1, dport = 2 }, "12345678") },
   },
   acl = {
      { "rule of a port", tcp("10.0.0.1", INSIDE, 1024, 80) },
      { "no rule", udp("10.0.0.1", "10.0.0.4", 1024, 81) },
   },
   nat44 = {
      { "port, outwards", tcp(INSIDE, "203.0.113.9", 80, 1024) },
      { "host, outwards", udp("10.0.0.6", "203.0.113.9", 1000, 53) },
      { "port, inwards", tcp("203.0.113.9", VIP, 1024, 8080) },
   },
   lb_ipip = { { "to a server", tcp(CLIENT, VIP, 1024, 80), resizes = "head" } },
   lb_gue = { { "to a server", tcp(CLIENT, VIP, 1024, 80), resizes = "head" } },
   decap = {
      { "IPIP", ip("10.9.0.1", INSIDE, 4, inner), resizes = "head" },
      { "GUE", udp("10.9.0.1", INSIDE, 50000, 6080, inner), resizes = "head" },
   },
   rate_limit = { { "known source", udp("10.0.0.1", "10.0.1.1", 1, 2) } },
   vlan = {
      { "push", tagged(40), resizes = "head" },
      { "pop", tagged(20), resizes = "head" },
      { "translate", tagged(30) },
   },
   vxlan = {
      { "encapsulate", tagged(10), resizes = "head" },
      { "decapsulate", udp("172.16.0.2", "172.16.0.1", 50000, 4789,
         "\8\0\0\0" .. frame.u32(7001 * 256) .. frame.eth({}, inner)), resizes = "head" },
   },
   syn_cookie = {
      { "SYN", frame.tcp4({}, { src = CLIENT, dst = VIP }, { sport = 1024, dport = 80, flags = 2,
         options = "\2\4\5\180\4\2\8\10\0\0\0\1\0\0\0\0\1\3\3\7" }), resizes = "tail" },
      { "unknown ACK", tcp(CLIENT, VIP, 1025, 80) },
   },
   dns = { { "blocked", query "ads.example.com" }, { "other", query "www.example.com" } },
   sampler = { { "IPv4", udp("10.0.0.1", INSIDE, 1, 2) } },
   knock = {
      { "closed port", tcp("10.0.0.1", "10.0.0.3", 1024, 22, { flags = 2 }) },
      { "other port", tcp("10.0.0.1", "10.0.0.3", 1024, 80, { flags = 2 }) },
   },
   ddos = {
      { "counted", tcp("192.0.2.1", "192.0.2.2", 1024, 80) },
      { "blocked", udp("198.51.100.3", VIP, 1, 2) },
   },
}
