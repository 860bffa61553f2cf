-- SPDX-License-Identifier: BSD-3-Clause
-- bench.tcp_client and bench.tcp_server through the library's firewall and NAT: whole connections as tshark sees them,
-- counters on both sides, and what the NFs in between know of them; as Lua and as machine code.

local ffi = require "ffi"
local tw = require "tideway"
local bench = require "tideway.bench"
local abi = require "tideway.abi"
local frame = require "test.support.frame"
local native = require "tideway.native"
local options = require "tideway.options"
local rigs = require "test.support.rig"
local decode = require "test.support.decode"

local OUTSIDE, SERVER = "198.51.100.1", "203.0.113.9"
local FULL = "31" -- tcp.completeness: SYN, SYN-ACK, ACK, data, FIN

describe("TCP connections", function()
   local rig, client, server, on_lan, on_wan

   before_each(function() on_lan, on_wan = {}, {} end)
   after_each(function()
      options.compile = "native"
      if rig then rig:close() end
      rig = nil
   end)

   -- client - lan [firewall, NAT] wan - server
   local function start(cfg)
      rig = rigs.new { ports = { "client", "lan", "wan", "server" } }
      client, server = bench.tcp_client(cfg.client), bench.tcp_server(cfg.server)
      local nat = tw.nf.napt44 { outside = rig.wan, address = OUTSIDE, inside = "198.18.0.0/15", place = "inline" }
      local firewall = tw.nf.firewall {
         ports = { lan = rig.lan, wan = rig.wan }, rules = "allow established\nallow in lan tcp to any port 80 flags S/SA",
      }
      rig:chain("client", rig.client, client, rig.client)
      rig:chain("up", rig.lan, firewall, nat, rig.wan)
      rig:chain("down", rig.wan, nat, firewall, rig.lan)
      rig:chain("server", rig.server, server, rig.server)
      rig:start()
      if options.compile == "native" and native.compiler() then native.finish(120) end
   end

   -- Carries frames on the two wires until nothing moves.
   local function carry(from, to, seen)
      local list = rig:collect(from)
      for _, bytes in ipairs(list) do
         table.insert(seen, bytes)
         assert(to:inject(bytes))
      end
      return #list
   end

   local function run(syns)
      for first = 1, #syns, 32 do
         for i = first, math.min(first + 31, #syns) do assert(rig.client:inject(syns[i])) end
         local rounds = 0
         repeat
            rounds = rounds + 1
            assert(rounds < 1000, "the connections come to no end")
            rig:run()
            local moved = carry(rig.client, rig.lan, on_lan) + carry(rig.lan, rig.client, on_lan)
               + carry(rig.wan, rig.server, on_wan) + carry(rig.server, rig.wan, on_wan)
         until moved == 0
      end
   end

   local function syns(n, cfg)
      local list = {}
      for i = 1, n do
         list[i] = frame.tcp4({}, { src = "198.18.0." .. i % 200 + 1, dst = SERVER }, {
            sport = 1024 + i, dport = 80, seq = cfg.seq, options = "\2\4\5\180\4\2\8\10\0\0\0\1\0\0\0\0\1\3\3\7",
         })
      end
      return list
   end

   -- No complaint of tshark's about sequence numbers, checksums or lengths.
   local function check_wire(frames, streams)
      local seen = {}
      local rows, complaints = decode.decode(frames, { "tcp.stream", "tcp.analysis.flags", "tcp.completeness" })
      assert.same({}, complaints)
      for i, values in ipairs(rows) do
         assert.equal("", values["tcp.analysis.flags"], "frame " .. i)
         seen[values["tcp.stream"]] = values["tcp.completeness"]
      end
      local n = 0
      for stream, completeness in pairs(seen) do
         n = n + 1
         assert.equal(FULL, completeness, "connection " .. stream)
      end
      assert.equal(streams, n)
   end

   local cases = {
      ["one request, one answer"] = { client = {}, server = {}, segments = 1 },
      ["several requests"] = { client = { requests = 5, request = 700 }, server = { response = 1460 }, segments = 1 },
      ["long answers"] = { client = { requests = 2 }, server = { response = 10000, mss = 1400 }, segments = 8 },
      ["answers of a byte, from a sequence number that wraps"] = {
         client = { isn = 2 ^ 32 - 3 }, server = { response = 1, isn = 2 ^ 32 - 1 }, segments = 1, seq = 2 ^ 32 - 3,
      },
   }
   -- Frames of a connection: SYN, SYN-ACK, 2 for each request, FIN, FIN-ACK, ACK; 2 more for each further segment.
   local function frames_of(requests, segments) return 5 + 2 * requests + 2 * (segments - 1) * requests end

   local function check(case)
      local each = case.client.requests or 1
      local requests = 100 * each
      assert.same({
         started = 100, established = 100, requests = requests, responses = requests, closed = 100, resets = 0,
      }, client.counts())
      assert.same({ started = 100, requests = requests, responses = requests, closed = 100, resets = 0 }, server.counts())
      check_wire(on_lan, 100)
      check_wire(on_wan, 100)
      assert.equal(100 * frames_of(each, case.segments), #on_lan)
   end

   for name, case in pairs(cases) do
      it("are complete: " .. name, function()
         options.compile = "off"
         start(case)
         run(syns(100, case))
         check(case)
      end)
   end

   it("are machine code on both sides, and complete", function()
      if not native.compiler() then return pending "no C compiler (cc) here" end
      local case = { client = { requests = 2 }, server = { response = 5000 }, segments = 4 }
      options.compile = "native"
      start(case)
      local tiers, stats = {}, abi.C.tw_stats()
      for i = 0, stats.chains - 1 do tiers[ffi.string(stats.chain[i].name)] = stats.chain[i].tier end
      assert.equal(abi.C.TW_TIER_NATIVE, tiers.client)
      assert.equal(abi.C.TW_TIER_NATIVE, tiers.server)
      run(syns(100, case))
      check(case)
   end)

   it("are answered with VLAN tags, and without the IP options of the SYN", function()
      options.compile = "off"
      start { client = {}, server = { response = 10 } }
      local tagged = frame.tcp4({ vlan = { { 0x8100, 7 } } }, { src = "10.0.0.1", dst = SERVER }, { sport = 1024, dport = 80 })
      local with_options = frame.tcp4({}, { src = "10.0.0.1", dst = SERVER, options = "\148\4\0\0" },
         { sport = 1025, dport = 80, seq = 77 })
      local got = { rig:through(rig.server, tagged, rig.server), rig:through(rig.server, with_options, rig.server) }
      local rows, complaints = decode.decode(got, { "vlan.id", "ip.src", "ip.hdr_len", "tcp.srcport", "tcp.dstport", "tcp.flags",
         "tcp.ack_raw", "tcp.options.mss_val" })
      assert.same({}, complaints)
      local same = { ["ip.src"] = SERVER, ["ip.hdr_len"] = "20", ["tcp.srcport"] = "80", ["tcp.flags"] = "0x0012",
         ["tcp.options.mss_val"] = "1460" }
      for _, row in ipairs(rows) do
         for name, value in pairs(same) do assert.equal(value, row[name], name) end
      end
      assert.equal("7", rows[1]["vlan.id"])
      assert.equal("1024", rows[1]["tcp.dstport"])
      assert.equal("1025", rows[2]["tcp.dstport"])
      assert.equal("78", rows[2]["tcp.ack_raw"])
   end)

   it("count resets and leave what is no TCP of theirs alone", function()
      start { client = { port = 80 }, server = { port = 80 } }
      local reset = frame.tcp4({}, { src = SERVER, dst = "198.18.0.1" }, { sport = 80, dport = 1024, flags = 4 })
      rig:send(rig.client, reset)
      rig:send(rig.server, frame.tcp4({}, { src = "198.18.0.1", dst = SERVER }, { sport = 1024, dport = 80, flags = 4 }))
      assert.equal(1, client.counts().resets)
      assert.equal(1, server.counts().resets)
      assert.equal(2, rig:drops().tcp_reset)
      local other = frame.tcp4({}, { src = "198.18.0.1", dst = SERVER }, { sport = 1024, dport = 81 })
      local udp = frame.udp4({}, { src = "198.18.0.1", dst = SERVER }, { sport = 1024, dport = 80 }, "x")
      for _, bytes in ipairs { other, udp } do
         assert.equal(frame.hex(bytes), frame.hex(rig:through(rig.server, bytes, rig.server)))
      end
   end)

   it("refuse what they do not know", function()
      assert.has_error(function() bench.tcp_server { responses = 1 } end)
      assert.has_error(function() bench.tcp_client { request = 0 } end)
      rig = nil
   end)
end)
