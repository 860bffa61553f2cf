-- SPDX-License-Identifier: BSD-3-Clause
-- The NFs of examples/nf that leave the packet's headers where they are: routing, access, translation, filters.

local bit = require "bit"
local frame = require "test.support.frame"
local suite = require "test.support.suite"
local tables = require "tideway.table"
local tw = require "tideway"

local hex = frame.hex
local A, B = "02:00:00:00:00:01", "02:00:00:00:00:02"

local s
local function start(name, config) s = suite.start(name, config) end
local function stop() s:close() end

local function udp(src, dst, dport, i, sport)
   i = i or {}
   i.src, i.dst = src, dst
   return frame.udp4({}, i, { sport = sport or 1000, dport = dport or 53 }, "data")
end

local function tcp(src, dst, dport, flags, i)
   i = i or {}
   i.src, i.dst = src, dst
   return frame.tcp4({}, i, { sport = 1000, dport = dport or 80, flags = flags })
end

local function same(want, got) assert.equal(hex(want), got and hex(got)) end

describe("ttl", function()
   before_each(function() start("ttl", { least = 3 }) end)
   after_each(stop)

   it("takes one from the TTL and mends the checksum", function()
      local verdict, out = s:run(udp("10.0.0.1", "10.0.0.2", 53, { ttl = 64 }))
      assert.equal("next", verdict)
      same(udp("10.0.0.1", "10.0.0.2", 53, { ttl = 63 }), out)
   end)

   it("drops what has no hops left", function()
      assert.equal("ttl_expired", (s:run(udp("10.0.0.1", "10.0.0.2", 53, { ttl = 3 }))))
      assert.equal("next", (s:run(udp("10.0.0.1", "10.0.0.2", 53, { ttl = 4 }))))
   end)

   it("counts options into the checksum", function()
      local _, out = s:run(udp("10.0.0.1", "10.0.0.2", 53, { ttl = 9, options = "\148\4\1\2" }))
      same(udp("10.0.0.1", "10.0.0.2", 53, { ttl = 8, options = "\148\4\1\2" }), out)
   end)

   it("leaves other frames alone", function()
      local six = frame.udp6({}, { src = "::1", dst = "::2", hops = 1 }, { sport = 1, dport = 2 })
      for _, f in ipairs { six, "short" } do
         local verdict, out = s:run(f)
         assert.equal("next", verdict)
         same(f, out)
      end
   end)
end)

describe("ttl_router", function()
   local HOPS = { { dst = "02:00:00:00:01:01", src = A }, { dst = "02:00:00:00:02:02", src = B } }
   before_each(function()
      start("ttl_router", { hops = HOPS, one_armed = true, routes = {
         ["10.0.0.0/8"] = 1, ["10.1.0.0/16"] = 2, ["2001:db8::/32"] = 2,
      } })
   end)
   after_each(stop)

   it("sends to the next hop of the longest prefix, TTL one less", function()
      for dst, hop in pairs { ["10.2.0.1"] = HOPS[1], ["10.1.0.1"] = HOPS[2] } do
         local verdict, out = s:run(udp("10.9.9.9", dst, 53, { ttl = 64 }))
         assert.equal("send", verdict)
         same(frame.eth(hop, udp("10.9.9.9", dst, 53, { ttl = 63 }):sub(15)), out)
      end
   end)

   it("routes IPv6", function()
      local before = frame.udp6({}, { src = "::1", dst = "2001:db8::5", hops = 7 }, { sport = 1, dport = 2 })
      local verdict, out = s:run(before)
      assert.equal("send", verdict)
      same(frame.udp6({ dst = HOPS[2].dst, src = HOPS[2].src }, { src = "::1", dst = "2001:db8::5", hops = 6 },
         { sport = 1, dport = 2 }), out)
   end)

   it("drops what has no route or no hops left", function()
      assert.equal("no_route", (s:run(udp("10.9.9.9", "192.0.2.1"))))
      assert.equal("ttl_expired", (s:run(udp("10.9.9.9", "10.0.0.1", 53, { ttl = 1 }))))
      assert.equal("no_route", (s:run(frame.udp6({}, { src = "::1", dst = "::2" }, { sport = 1, dport = 2 }))))
   end)

   it("follows changes of its tables", function()
      s.tables.routes4:set("192.0.2.0/24", 0)
      assert.equal("send", (s:run(udp("10.9.9.9", "192.0.2.1"))))
      s.tables.routes4:set("192.0.2.0/24", 99)
      assert.equal("no_hop", (s:run(udp("10.9.9.9", "192.0.2.1"))))
   end)

   it("has the checksum right for every TTL and sum", function()
      for id = 0, 65535, 251 do
         local _, out = s:run(udp("10.9.9.9", "10.0.0.1", 53, { ttl = 2 + id % 254, id = id }))
         assert.equal(0, frame.checksum(out:sub(15, 34)))
      end
   end)

   it("refuses routes to hops that are not there", function()
      stop()
      local ok, err = pcall(require "nf.ttl_router", { hops = HOPS, routes = { ["10.0.0.0/8"] = 3 } })
      tables.free_all()
      start("ttl_router", { hops = HOPS })
      assert.is_false(ok)
      assert.truthy(err:find("route 10.0.0.0/8 wants hop 3; hops has 2", 1, true), err)
   end)
end)

describe("acl", function()
   local RULES = {
      { group = 1, dst = "10.0.0.2", port = 80, proto = 6, allow = true },
      { group = 1, dst = "10.0.0.2", proto = 6, allow = false },
      { group = 0, dst = "10.0.0.3", port = 53, proto = 17, allow = false },
      { group = 2, dst = "10.0.0.3", proto = 1, allow = true },
   }
   local SOURCES = { ["10.1.0.0/16"] = 1, ["10.1.2.0/24"] = 2 }
   before_each(function() start("acl", { sources = SOURCES, rules = RULES }) end)
   after_each(stop)

   it("puts the rule with a port before that for all ports", function()
      assert.equal("next", (s:run(tcp("10.1.0.1", "10.0.0.2", 80))))
      assert.equal("acl_denied", (s:run(tcp("10.1.0.1", "10.0.0.2", 81))))
   end)

   it("finds the group by the longest source prefix", function()
      assert.equal("next", (s:run(tcp("10.1.2.1", "10.0.0.2", 81))))
      assert.equal("acl_denied", (s:run(udp("192.0.2.1", "10.0.0.3", 53))))
      assert.equal("next", (s:run(udp("10.1.0.1", "10.0.0.3", 53))))
   end)

   it("meets later fragments with the rules without a port only", function()
      assert.equal("acl_denied", (s:run(tcp("10.1.0.1", "10.0.0.2", 80, 2, { frag = 5 }))))
      assert.equal("next", (s:run(udp("192.0.2.1", "10.0.0.3", 53, { frag = 5 }))))
   end)

   it("counts each rule, and packets without one", function()
      s:run(tcp("10.1.0.1", "10.0.0.2", 80))
      s:run(tcp("10.1.0.1", "10.0.0.2", 81))
      s:run(tcp("10.1.0.1", "10.0.0.2", 82))
      s:run(udp("10.9.0.1", "10.0.0.9"))
      local hits = s.tables.hits
      assert.same({ 1, 1, 2, 0, 0 }, { hits:sum(0), hits:sum(1), hits:sum(2), hits:sum(3), hits:sum(4) })
   end)

   it("can deny what no rule names", function()
      stop()
      start("acl", { sources = SOURCES, rules = RULES, default = "deny" })
      assert.equal("acl_default", (s:run(udp("10.9.0.1", "10.0.0.9"))))
      assert.equal("next", (s:run(frame.icmp4({}, { src = "10.1.2.1", dst = "10.0.0.3" }, { type = 8 }))))
      assert.equal("next", (s:run(frame.eth({ type = 0x0806 }, ("\0"):rep(28)))))
   end)
end)

describe("nat44", function()
   local CONFIG = {
      hosts = { ["10.0.0.5"] = "192.0.2.5" },
      ports = {
         { proto = 6, inside = "10.0.0.2", inside_port = 80, outside = "192.0.2.1", outside_port = 8080 },
         { proto = 17, inside = "10.0.0.2", inside_port = 53, outside = "192.0.2.1", outside_port = 5353 },
      },
   }
   before_each(function() start("nat44", CONFIG) end)
   after_each(stop)

   local function ports(kind, i, sport, dport, more)
      local t = { sport = sport, dport = dport }
      for k, v in pairs(more or {}) do t[k] = v end
      return frame[kind]({}, i, t, "some data")
   end

   it("translates single ports both ways, all checksums right", function()
      for kind, p in pairs { tcp4 = { 80, 8080 }, udp4 = { 53, 5353 } } do
         local verdict, out = s:run(ports(kind, { src = "10.0.0.2", dst = "203.0.113.1" }, p[1], 7))
         assert.equal("next", verdict)
         same(ports(kind, { src = "192.0.2.1", dst = "203.0.113.1" }, p[2], 7), out)
         verdict, out = s:run(ports(kind, { src = "203.0.113.1", dst = "192.0.2.1" }, 7, p[2]))
         assert.equal("next", verdict)
         same(ports(kind, { src = "203.0.113.1", dst = "10.0.0.2" }, 7, p[1]), out)
      end
   end)

   it("translates whole addresses whatever the protocol", function()
      local _, out = s:run(ports("tcp4", { src = "10.0.0.5", dst = "203.0.113.1" }, 80, 7))
      same(ports("tcp4", { src = "192.0.2.5", dst = "203.0.113.1" }, 80, 7), out)
      _, out = s:run(frame.icmp4({}, { src = "203.0.113.1", dst = "192.0.2.5" }, { type = 8 }))
      same(frame.icmp4({}, { src = "203.0.113.1", dst = "10.0.0.5" }, { type = 8 }), out)
   end)

   it("leaves UDP without a checksum without one", function()
      local _, out = s:run(ports("udp4", { src = "10.0.0.2", dst = "203.0.113.1" }, 53, 7, { no_checksum = true }))
      same(ports("udp4", { src = "192.0.2.1", dst = "203.0.113.1" }, 5353, 7, { no_checksum = true }), out)
   end)

   it("writes a UDP checksum that comes out as 0 as 0xffff", function()
      local data = frame.udp({ src = "192.0.2.1", dst = "203.0.113.1" }, { sport = 5353, dport = 7 }, "\0\0"):sub(7, 8)
      local _, out = s:run(frame.udp4({}, { src = "10.0.0.2", dst = "203.0.113.1" }, { sport = 53, dport = 7 }, data))
      assert.equal("ffff", hex(out:sub(41, 42)))
   end)

   it("translates later fragments of whole addresses, their bytes untouched", function()
      local _, out = s:run(ports("udp4", { src = "10.0.0.5", dst = "203.0.113.1", frag = 9 }, 53, 7))
      assert.equal(hex(frame.ip4 "192.0.2.5"), hex(out:sub(27, 30)))
      same(ports("udp4", { src = "10.0.0.5", dst = "203.0.113.1", frag = 9 }, 53, 7):sub(35), out:sub(35))
   end)

   it("lets packets without a mapping pass, or drops them", function()
      local f = ports("udp4", { src = "10.0.0.2", dst = "203.0.113.1" }, 54, 7)
      local verdict, out = s:run(f)
      assert.equal("next", verdict)
      same(f, out)
      stop()
      start("nat44", { hosts = CONFIG.hosts, unmapped = "drop" })
      assert.equal("unmapped", (s:run(f)))
   end)

   it("counts the packets of each mapping", function()
      for _ = 1, 3 do s:run(ports("tcp4", { src = "10.0.0.2", dst = "203.0.113.1" }, 80, 7)) end
      assert.equal(3, tonumber(s.tables.out:get(tw.ip4 "10.0.0.2", 80, 6).packets))
   end)
end)

describe("rate_limit", function()
   local BYTES = 46 -- what udp() gives
   before_each(function() start("rate_limit", { rate = 1000, burst = 10 * BYTES }) end)
   after_each(stop)

   local function passes(src, n)
      local passed = 0
      for _ = 1, n do
         if s:run(udp(src, "10.0.0.2")) == "next" then passed = passed + 1 end
      end
      return passed
   end

   it("lets a burst through, then drops", function()
      assert.equal(BYTES, #udp("10.0.0.1", "10.0.0.2"))
      assert.equal(10, passes("10.0.0.1", 20))
      assert.equal("rate_limit", (s:run(udp("10.0.0.1", "10.0.0.2"))))
   end)

   it("has a bucket per source", function()
      assert.equal(10, passes("10.0.0.1", 20))
      assert.equal(10, passes("10.0.0.2", 20))
   end)

   it("fills at the rate, up to the burst", function()
      passes("10.0.0.1", 20)
      s:advance(0.1) -- 100 bytes
      assert.equal(2, passes("10.0.0.1", 20))
      s:advance(3600)
      assert.equal(10, passes("10.0.0.1", 20))
   end)

   it("never has more than the burst", function()
      passes("10.0.0.1", 5)
      s:advance(0.4) -- 400 bytes, and half of the burst is still there
      assert.equal(10, passes("10.0.0.1", 20))
   end)

   it("drops a first packet longer than the burst", function()
      local long = frame.udp4({}, { src = "10.0.0.7", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, ("x"):rep(500))
      assert.equal("rate_limit", (s:run(long)))
      assert.is_nil(s.tables.buckets:get(tw.ip4 "10.0.0.7"))
   end)

   it("loses no fraction of a byte", function()
      passes("10.0.0.1", 20)
      local bucket = s.tables.buckets:get(tw.ip4 "10.0.0.1")
      local before, last = bucket.tokens, bucket.last
      local passed = 0 -- none, where this takes no time to speak of
      for _ = 1, 5 do
         s:advance(0.0001)
         passed = passed + passes("10.0.0.1", 1)
      end
      bucket = s.tables.buckets:get(tw.ip4 "10.0.0.1")
      assert.equal(tostring((bucket.last - last) * 1000), tostring(bucket.tokens - before + passed * BYTES * 1000000000ULL))
   end)
end)

describe("dns", function()
   local function query(name, flags, data)
      local labels = {}
      for label in name:gmatch "[^.]+" do labels[#labels + 1] = string.char(#label) .. label end
      return "\18\52" .. frame.u16(flags or 0x0100) .. "\0\1\0\0\0\0\0\0" .. table.concat(labels)
         .. (data or "\0\0\1\0\1")
   end
   local function ask(name, flags, data, no_checksum)
      return frame.udp4({ dst = B, src = A }, { src = "10.0.0.1", dst = "10.0.0.53" },
         { sport = 4000, dport = 53, no_checksum = no_checksum }, query(name, flags, data))
   end

   before_each(function() start("dns", { names = { "ads.example.com", "Example.NET." } }) end)
   after_each(stop)

   it("answers REFUSED, checksum right", function()
      local verdict, out = s:run(ask "ads.example.com")
      assert.equal("send", verdict)
      same(frame.udp4({ dst = A, src = B }, { src = "10.0.0.53", dst = "10.0.0.1" }, { sport = 53, dport = 4000 },
         query("ads.example.com", 0x8105)), out)
   end)

   it("does not look at case", function()
      assert.equal("send", (s:run(ask "ADS.eXample.COM")))
      assert.equal("send", (s:run(ask "example.net")))
   end)

   it("lets other names, and parts of names, pass", function()
      for _, name in ipairs { "example.com", "x.ads.example.com", "adsexample.com", "ads.example.co", "" } do
         local verdict, out = s:run(ask(name))
         assert.equal("next", verdict, name)
         same(ask(name), out)
      end
   end)

   it("lets answers and other ports pass", function()
      assert.equal("next", (s:run(ask("ads.example.com", 0x8180))))
      assert.equal("next", (s:run(frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.53" }, { sport = 1, dport = 54 },
         query "ads.example.com"))))
   end)

   it("drops names that do not end, are too long or compressed", function()
      assert.equal("dns_malformed", (s:run(ask("ads.example.com", nil, ""))))
      assert.equal("dns_malformed", (s:run(ask("ads", nil, "\192\12\0\1\0\1"))))
      assert.equal("dns_malformed", (s:run(ask("ads", nil, "\64" .. ("x"):rep(64) .. "\0\0\1\0\1"))))
      local three = (("y"):rep(63) .. "."):rep(3)
      assert.equal("next", (s:run(ask(three .. ("z"):rep(61)))))
      assert.equal("dns_malformed", (s:run(ask(three .. ("z"):rep(62)))))
   end)

   it("keeps UDP without a checksum, counts, and can drop instead", function()
      local _, out = s:run(ask("ads.example.com", nil, nil, true))
      assert.equal("0000", hex(out:sub(41, 42)))
      local counts = {}
      for _, value in s.tables.blocked:pairs() do counts[#counts + 1] = tonumber(value.queries) end
      table.sort(counts)
      assert.same({ 0, 1 }, counts)
      stop()
      start("dns", { names = { "ads.example.com" }, answer = false })
      assert.equal("dns_blocked", (s:run(ask "ads.example.com")))
   end)
end)

describe("knock", function()
   before_each(function() start("knock", { port = 22, sequence = { 7000, 8000, 9000 }, window = 30 }) end)
   after_each(stop)

   local function knock(...)
      for _, port in ipairs { ... } do
         assert.equal("knock", (s:run(tcp("10.0.0.1", "10.0.0.2", port))))
      end
   end
   local function ssh(src) return (s:run(tcp(src or "10.0.0.1", "10.0.0.2", 22))) end

   it("opens the port to who knocks in order, and to nobody else", function()
      assert.equal("knock_closed", ssh())
      knock(7000, 8000, 9000)
      assert.equal("next", ssh())
      assert.equal("knock_closed", ssh "10.0.0.9")
   end)

   it("starts anew after a wrong knock, not after a repeated one", function()
      knock(7000, 9000, 8000, 9000)
      assert.equal("knock_closed", ssh())
      knock(7000, 7000, 8000, 8000, 9000)
      assert.equal("next", ssh())
      knock(8000)
      assert.equal("knock_closed", ssh())
   end)

   it("forgets knocks and openings after the window", function()
      knock(7000, 8000)
      s:advance(31)
      knock(9000)
      assert.equal("knock_closed", ssh())
      knock(7000, 8000, 9000)
      s:advance(29)
      assert.equal("next", ssh())
      s:advance(29)
      assert.equal("next", ssh())
      s:advance(31)
      assert.equal("knock_closed", ssh())
   end)

   it("leaves other ports and protocols alone", function()
      assert.equal("next", (s:run(tcp("10.0.0.1", "10.0.0.2", 80))))
      assert.equal("next", (s:run(frame.icmp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { type = 8 }))))
      assert.equal("next", (s:run(tcp("10.0.0.1", "10.0.0.2", 22, 2, { frag = 5 }))))
   end)

   it("refuses a port that stands twice", function()
      stop()
      local ok, err = pcall(require "nf.knock", { port = 22, sequence = { 7000, 22 } })
      tables.free_all()
      start("knock", { port = 22, sequence = { 7000 } })
      assert.is_false(ok)
      assert.truthy(err:find("port 22 stands twice", 1, true), err)
   end)
end)

describe("ddos", function()
   before_each(function() start("ddos", { blocked = { "198.51.100.0/24" }, limit = 5, window = 10 }) end)
   after_each(stop)

   it("drops blocked prefixes", function()
      assert.equal("ddos_blocked", (s:run(udp("198.51.100.9", "10.0.0.2"))))
      assert.equal("next", (s:run(udp("198.51.101.9", "10.0.0.2"))))
   end)

   it("drops packets that no honest stack sends", function()
      for _, flags in ipairs { 0, 3, 6, 7, 0x2b } do
         assert.equal("ddos_bogus", (s:run(tcp("10.0.0.1", "10.0.0.2", 80, flags))))
      end
      assert.equal("ddos_bogus", (s:run(udp("10.0.0.2", "10.0.0.2"))))
      local tiny = { src = "10.0.0.1", dst = "10.0.0.2", proto = 6, frag = 0x2000 }
      assert.equal("ddos_bogus", (s:run(frame.eth({}, frame.ipv4(tiny, "\0\80\0\80")))))
      for _, flags in ipairs { 2, 0x10, 0x18, 0x11, 0x14, 0xc2 } do
         local src = ("10.%d.0.1"):format(flags)
         assert.equal("next", (s:run(tcp(src, "10.0.0.2", 80, flags))))
      end
   end)

   it("counts a /24 together and drops what is too much, until the window is over", function()
      for i = 1, 5 do assert.equal("next", (s:run(udp("10.0.0." .. i, "10.0.9.2")))) end
      assert.equal("ddos_flood", (s:run(udp("10.0.0.77", "10.0.9.2"))))
      assert.equal("next", (s:run(udp("10.0.1.77", "10.0.9.2"))))
      s:advance(11)
      assert.equal("next", (s:run(udp("10.0.0.77", "10.0.9.2"))))
   end)

   it("counts by what it did", function()
      s:run(udp("198.51.100.9", "10.0.0.2"))
      s:run(tcp("10.0.0.1", "10.0.0.2", 80, 0))
      for _ = 1, 7 do s:run(udp("10.0.0.1", "10.0.0.2")) end
      local stats = {}
      for name, n in s.tables.stats:pairs() do stats[name] = n end
      assert.same({ passed = 5, blocked = 1, bogus = 1, flood = 2 }, stats)
   end)
end)

describe("jhash", function()
   it("is Linux' jhash_3words before its constants are added", function()
      -- jhash_3words(1, 2, 3, 0) of include/linux/jhash.h adds 0xdeadbeef + 12 to each word.
      local jhash = tw.jhash
      local seed = bit.tobit(0xdeadbeef + 12)
      assert.equal(jhash(seed + 1, seed + 2, seed + 3), jhash(seed + 1 + 2 ^ 32, seed + 2, seed + 3 - 2 ^ 32))
      assert.equal(bit.tobit(0xa46158f5), jhash(bit.tobit(1 + seed), bit.tobit(2 + seed), bit.tobit(3 + seed)))
   end)
end)
