-- SPDX-License-Identifier: BSD-3-Clause
-- bench.pcap: capture files of other programs as traffic: bytes, order, rewriting, stamps, and files that are bad.

local bench = require "tideway.bench"
local decode = require "test.support.decode"
local frame = require "test.support.frame"
local log = require "tideway.log"

local FOLDER = os.tmpname()

describe("bench.pcap", function()
   local said
   local function listen(_, text)
      said[#said + 1] = text
      return true
   end

   setup(function()
      os.remove(FOLDER)
      assert(os.execute("mkdir " .. FOLDER))
   end)
   teardown(function() os.execute("rm -r " .. FOLDER) end)
   before_each(function()
      said = {}
      log.listeners[listen] = true
   end)
   after_each(function() log.listeners[listen] = nil end)

   local function path(name) return FOLDER .. "/" .. name end

   local function udp(n, size)
      return frame.udp4({}, { src = "10.0.0." .. n, dst = "192.0.2.1" }, { sport = 1000 + n, dport = 9 },
         ("x"):rep((size or 60) - 42))
   end

   local function many(n, size)
      local list = {}
      for i = 1, n do list[i] = udp(i % 250, size) end
      return list
   end

   local function written(name, frames, options)
      decode.write_pcap(path(name), frames, options)
      return path(name)
   end

   local function bytes_of(name) return assert(io.open(path(name), "rb")):read "*a" end
   local function put(name, bytes)
      local file = assert(io.open(path(name), "wb"))
      file:write(bytes)
      file:close()
      return path(name)
   end

   local function refused(text, ...)
      local arguments = { ... }
      local ok, err = pcall(function() bench.pcap(unpack(arguments)) end)
      assert.is_false(ok)
      assert.is_truthy(err:find(text), err)
      assert.is_truthy(err:find "^test/bench_pcap_spec.lua:%d+: bench.pcap", err)
   end

   it("replays every frame, in order, again and again", function()
      local frames = { udp(1), udp(2, 1514), frame.eth({ type = 0x88b5 }, ("e"):rep(46)), udp(3, 100) }
      local traffic = bench.pcap(written("a.pcap", frames))
      local got = decode.frames(traffic, 10)
      for i = 1, 10 do assert.equal(frame.hex(frames[(i - 1) % 4 + 1]), frame.hex(got[i])) end
      assert.same({}, said)
      assert.equal(2, #bench.pcap(path "a.pcap", { limit = 2 }).frames)
   end)

   it("ends with the file when it is not to loop", function()
      local traffic = bench.pcap(written("b.pcap", many(7)), { loop = false })
      assert.is_true(traffic.once)
      assert.equal(7, #decode.all_frames(traffic))
   end)

   it("reads pcapng, and nanosecond pcap", function()
      local frames = many(50, 90)
      written("c.pcap", frames)
      for _, kind in ipairs { "pcapng", "nsecpcap" } do
         assert(os.execute(("editcap -F %s %s %s 2>/dev/null"):format(kind, path "c.pcap", path "c.other")) == 0)
         assert.same(frames, bench.pcap(path "c.other").frames)
      end
   end)

   it("pads short frames as a device does, and fills up what a capture cut off, saying so", function()
      local short = frame.eth({ type = 0x88b5 }, "short")
      local traffic = bench.pcap(written("d.pcap", { udp(1), short, udp(1, 200) }, { snaplen = 68 }))
      assert.equal(short .. ("\0"):rep(60 - #short), traffic.frames[2])
      assert.equal(udp(1, 200):sub(1, 68) .. ("\0"):rep(132), traffic.frames[3])
      assert.is_truthy(said[1]:find "1 of 3 packets were cut", said[1])
      assert.same(said, traffic.notes)
   end)

   it("puts a stamp behind the packet, which stays as it is", function()
      local traffic = bench.pcap(written("e.pcap", { udp(1), udp(2, 300) }), { stamp = true })
      local got = decode.frames(traffic, 4)
      assert.equal(76, #got[1])
      assert.equal(udp(1), got[1]:sub(1, 60))
      assert.equal(udp(2, 300), got[2]:sub(1, 300))
      assert.equal("\87\84", got[1]:sub(61, 62))
      local rows, complaints = decode.decode(got, { "ip.len", "udp.checksum.status" })
      assert.same({}, complaints)
      assert.equal("46", rows[1]["ip.len"])
      assert.equal("1", rows[1]["udp.checksum.status"])
   end)

   it("rewrites addresses and ports with right checksums", function()
      local frames = many(6, 90)
      frames[7] = frame.udp6({}, { src = "2001:db8::5", dst = "2001:db8::6" }, { sport = 1, dport = 2 }, "six")
      frames[8] = frame.tcp4({ vlan = { { 0x8100, 5 } } }, { src = "10.9.9.9", dst = "10.0.0.7" }, { sport = 9, dport = 80 },
         "data that is long enough")
      local traffic = bench.pcap(written("f.pcap", frames), { rewrite = {
         eth = { src = "02:00:00:00:00:aa", dst = bench.list { "02:00:00:00:00:01", "02:00:00:00:00:02" } }, vlan = { id = 77 },
         ipv4 = { src = "198.18.0.0/16", dst = bench.count("203.0.113.1", "203.0.113.3"), ttl = 3 },
         ipv6 = { src = "fd00::/64", hop_limit = 9 }, udp = { dst = 7777 }, tcp = { src = bench.random(5000, 5001) },
      } })
      local rows, complaints = decode.decode(decode.frames(traffic, 8), { "eth.src", "eth.dst", "ip.src", "ip.dst", "ip.ttl",
         "ipv6.src", "ipv6.hlim", "udp.dstport", "tcp.srcport", "vlan.id", "udp.checksum.status", "tcp.checksum.status" })
      assert.same({}, complaints)
      for i = 1, 6 do
         assert.equal("198.18.0." .. i, rows[i]["ip.src"])
         assert.equal("203.0.113." .. (i - 1) % 3 + 1, rows[i]["ip.dst"])
         assert.equal("1", rows[i]["udp.checksum.status"])
         assert.equal("02:00:00:00:00:0" .. (i - 1) % 2 + 1, rows[i]["eth.dst"])
      end
      assert.equal("3", rows[8]["ip.ttl"])
      assert.equal("198.18.9.9", rows[8]["ip.src"])
      assert.equal("77", rows[8]["vlan.id"])
      assert.is_truthy(rows[8]["tcp.srcport"]:find "^500[01]$")
      assert.equal("1", rows[8]["tcp.checksum.status"])
      assert.equal("fd00::5", rows[7]["ipv6.src"])
      assert.equal("9", rows[7]["ipv6.hlim"])
      assert.equal("7777", rows[7]["udp.dstport"])
      assert.equal("02:00:00:00:00:aa", rows[7]["eth.src"])
   end)

   it("rewrites with a function", function()
      local traffic = bench.pcap(written("g.pcap", many(3)), { rewrite = function(pkt, number)
         pkt:set_dst_port(7000 + number)
      end })
      local rows, complaints = decode.decode(traffic.frames, { "udp.dstport" })
      assert.same({}, complaints)
      assert.equal("7003", rows[3]["udp.dstport"])
   end)

   it("uses what comes before the end of a file that is cut off, and says where", function()
      written("h.pcap", many(10, 100))
      local whole = bytes_of "h.pcap"
      local traffic = bench.pcap(put("cut.pcap", whole:sub(1, -50)))
      assert.equal(9, #traffic.frames)
      assert.is_truthy(said[1]:find "truncated.*9 packets", said[1])
      refused("truncated", put("cut.pcap", whole:sub(1, 24 + 16 + 20)))
      -- A length in the middle that cannot be.
      put("damaged.pcap", whole:sub(1, 24 + 116 * 4) .. ("\255"):rep(16) .. whole:sub(24 + 116 * 4 + 17))
      said = {}
      traffic = bench.pcap(path "damaged.pcap")
      assert.equal(4, #traffic.frames)
      assert.is_truthy(said[1]:find "what came before is used: 4 packets", said[1])
   end)

   it("refuses files that are none, empty, or of another link type", function()
      refused("No such file", path "none.pcap")
      refused("it is empty", put("empty.pcap", ""))
      refused("not a regular file", FOLDER)
      refused("not a regular file", "/dev/zero")
      refused("must be pcap or pcapng", put("text.pcap", ("this is no capture\n"):rep(10)))
      refused("there is no packet in it", written("header.pcap", {}))
      refused("link type LINUX_SLL %(113%), not Ethernet", written("sll.pcap", many(1), { link = 113 }))
      refused("link type RAW", written("raw.pcap", many(1), { link = 101 }))
      refused("packet 2 has 13 bytes, fewer than an Ethernet header", written("runt.pcap", { udp(1), ("x"):rep(13) }))
      refused("packet 1 has 20000 bytes", written("long.pcap", { udp(1, 20000) }))
   end)

   it("refuses more than the memory that was allowed, and says at which packet", function()
      written("big.pcap", many(2000, 1000))
      refused("more than 1 MB at packet 969; read fewer of them, limit = 968", path "big.pcap", { memory_mb = 1 })
      assert.equal(968, #bench.pcap(path "big.pcap", { memory_mb = 1, limit = 968 }).frames)
   end)

   it("refuses options that it does not know", function()
      written("i.pcap", many(1))
      refused('there is no "lop"; did you mean loop', path "i.pcap", { lop = true })
      refused("limit is 0", path "i.pcap", { limit = 0 })
      refused("takes the name of a file", 7)
      local name = path "i.pcap"
      for text, rewrite in pairs {
         ['rewrite: there is no "ip"'] = { ip = {} }, ['rewrite.ipv4: there is no "sorc"'] = { ipv4 = { sorc = 1 } },
         ["300 is more than 255"] = { ipv4 = { src = "10.0.0.300" } }, ["values can be bench.count"] = { udp = { src = bench.zipf(9, 1) } },
         ["IPv6 prefix, which this cannot take"] = { ipv4 = { src = "fd00::/64" } },
      } do
         local ok, err = pcall(bench.pcap, name, { rewrite = rewrite })
         assert.is_false(ok)
         assert.is_truthy(err:find(text, 1, true), err)
      end
      refused("rewrite: .*nope", name, { rewrite = function(pkt) return pkt.nope end })
   end)

   it("reads a hundred thousand packets that are much alike in seconds", function()
      local traffic = bench.pcap(written("alike.pcap", many(100000, 64)))
      assert.equal(100000, #traffic.frames)
      assert.equal(1000, #decode.frames(traffic, 1000))
   end)
end)
