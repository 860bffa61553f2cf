-- SPDX-License-Identifier: BSD-3-Clause
-- Header declarations and fields: every field of every header against bits picked out of the bytes by hand.

local ffi = require "ffi"
local frame = require "test.support.frame"
local tw = require "tideway.packet"
local header = require "tideway.packet.header"
local packets = require "test.support.packets"

-- Where the RFCs put the fields: name = { first bit, bits } counted from the start of the header,
-- the most significant bit of a byte first.
local RFC = {
   eth = { size = 14, dst = { 0, 48 }, src = { 48, 48 }, type = { 96, 16 } },
   vlan = { size = 4, tci = { 0, 16 }, pcp = { 0, 3 }, dei = { 3, 1 }, vid = { 4, 12 }, type = { 16, 16 } },
   arp = {
      size = 28, htype = { 0, 16 }, ptype = { 16, 16 }, hlen = { 32, 8 }, plen = { 40, 8 }, op = { 48, 16 },
      sha = { 64, 48 }, spa = { 112, 32 }, tha = { 144, 48 }, tpa = { 192, 32 },
   },
   ipv4 = {
      size = 20, version = { 0, 4 }, ihl = { 4, 4 }, tos = { 8, 8 }, dscp = { 8, 6 }, ecn = { 14, 2 },
      total_length = { 16, 16 }, id = { 32, 16 }, frag = { 48, 16 }, df = { 49, 1 }, mf = { 50, 1 },
      frag_offset = { 51, 13 }, ttl = { 64, 8 }, protocol = { 72, 8 }, checksum = { 80, 16 }, src = { 96, 32 },
      dst = { 128, 32 },
   },
   ipv6 = {
      size = 40, vtc_flow = { 0, 32 }, version = { 0, 4 }, traffic_class = { 4, 8 }, dscp = { 4, 6 }, ecn = { 10, 2 },
      flow_label = { 12, 20 }, payload_length = { 32, 16 }, next_header = { 48, 8 }, hop_limit = { 56, 8 },
      src = { 64, 128 }, dst = { 192, 128 },
   },
   ipv6_extension = { size = 4, next_header = { 0, 8 }, length = { 8, 8 }, frag = { 16, 16 } },
   ipv6_fragment = {
      size = 8, next_header = { 0, 8 }, frag = { 16, 16 }, frag_offset = { 16, 13 }, mf = { 31, 1 }, id = { 32, 32 },
   },
   icmp = {
      size = 8, type = { 0, 8 }, code = { 8, 8 }, checksum = { 16, 16 }, rest = { 32, 32 }, id = { 32, 16 },
      seq = { 48, 16 }, mtu = { 48, 16 }, pointer = { 32, 8 },
   },
   icmp6 = {
      size = 8, type = { 0, 8 }, code = { 8, 8 }, checksum = { 16, 16 }, rest = { 32, 32 }, id = { 32, 16 },
      seq = { 48, 16 },
   },
   nd = {
      size = 24, type = { 0, 8 }, code = { 8, 8 }, checksum = { 16, 16 }, rest = { 32, 32 }, router = { 32, 1 },
      solicited = { 33, 1 }, override = { 34, 1 }, target = { 64, 128 },
   },
   tcp = {
      size = 20, src_port = { 0, 16 }, dst_port = { 16, 16 }, seq = { 32, 32 }, ack = { 64, 32 },
      data_offset = { 96, 4 }, reserved = { 100, 4 }, flags = { 104, 8 }, cwr = { 104, 1 }, ece = { 105, 1 },
      urg = { 106, 1 }, ack_flag = { 107, 1 }, psh = { 108, 1 }, rst = { 109, 1 }, syn = { 110, 1 }, fin = { 111, 1 },
      window = { 112, 16 }, checksum = { 128, 16 }, urgent = { 144, 16 },
   },
   udp = { size = 8, src_port = { 0, 16 }, dst_port = { 16, 16 }, length = { 32, 16 }, checksum = { 48, 16 } },
   sctp = {
      size = 12, src_port = { 0, 16 }, dst_port = { 16, 16 }, verification_tag = { 32, 32 },
      checksum = { 64, 32, "le" },
   },
   gre = {
      size = 4, flags = { 0, 16 }, has_checksum = { 0, 1 }, has_routing = { 1, 1 }, has_key = { 2, 1 },
      has_seq = { 3, 1 }, version = { 13, 3 }, protocol = { 16, 16 },
   },
   vxlan = { size = 8, flags = { 0, 8 }, has_vni = { 4, 1 }, vni = { 32, 24 } },
   mpls = { size = 4, entry = { 0, 32 }, label = { 0, 20 }, tc = { 20, 3 }, bos = { 23, 1 }, ttl = { 24, 8 } },
}

-- A list of bits, so that no arithmetic of the code under test is repeated here.
local function to_bits(bytes)
   local bits = {}
   for i = 1, #bytes do
      local byte = bytes:byte(i)
      for k = 7, 0, -1 do bits[#bits + 1] = math.floor(byte / 2 ^ k) % 2 end
   end
   return bits
end

local function to_bytes(bits)
   local bytes = {}
   for i = 1, #bits, 8 do
      local byte = 0
      for k = 0, 7 do byte = byte * 2 + bits[i + k] end
      bytes[#bytes + 1] = string.char(byte)
   end
   return table.concat(bytes)
end

local function swap_if(little, bytes) return little and bytes:reverse() or bytes end

local function pick(bytes, at)
   if at[3] then bytes = bytes:sub(at[1] / 8 + 1, (at[1] + at[2]) / 8):reverse() end
   local bits, value = to_bits(bytes), 0
   local first = at[3] and 0 or at[1]
   for i = first + 1, first + at[2] do value = value * 2 + bits[i] end
   return value
end

local function put(bytes, at, value)
   local bits, field = to_bits(bytes), {}
   for i = at[2], 1, -1 do
      field[i] = value % 2
      value = math.floor(value / 2)
   end
   if at[3] then field = to_bits(swap_if(true, to_bytes(field))) end
   for i = 1, at[2] do bits[at[1] + i] = field[i] end
   return to_bytes(bits)
end

describe("headers", function()
   it("are all covered here", function()
      for name in pairs(tw.headers) do assert.truthy(RFC[name], name) end
      for name, fields in pairs(RFC) do
         local known = tw.headers[name]
         assert.equal(fields.size, known.size, name)
         for _, field in ipairs(known.fields) do assert.truthy(fields[field.name], name .. "." .. field.name) end
      end
   end)

   it("stand in the README with all their fields", function()
      local file = assert(io.open(require("tideway.abi").root .. "/tideway/packet/README.md"))
      local text = file:read "*a"
      file:close()
      for name, known in pairs(tw.headers) do
         local names = {}
         for i, field in ipairs(known.fields) do names[i] = field.name end
         local row = ("| `%s` | %d | %s |"):format(name, known.size, table.concat(names, " "))
         assert.truthy(text:find(row, 1, true), row)
      end
   end)

   for name, fields in pairs(RFC) do
      local type = tw.headers[name]

      it(name .. ": every field reads what the bits say", function()
         for seed = 1, 20 do
            local bytes = packets.noise(type.size, seed * 77)
            local view = packets.new(bytes):header(type, 0)
            for field, at in pairs(fields) do
               if field ~= "size" and at[2] <= 48 then assert.equal(pick(bytes, at), view[field], field) end
            end
         end
         for _, bytes in ipairs { ("\0"):rep(type.size), ("\255"):rep(type.size) } do
            local view = packets.new(bytes):header(type, 0)
            for field, at in pairs(fields) do
               if field ~= "size" and at[2] <= 48 then assert.equal(pick(bytes, at), view[field], field) end
            end
         end
      end)

      it(name .. ": writing a field changes its bits only, and truncates", function()
         for field, at in pairs(fields) do
            if field ~= "size" and at[2] <= 48 then
               for seed = 1, 4 do
                  local bytes = packets.noise(type.size, seed * 13)
                  local value = pick(packets.noise(8, seed), { 0, at[2] })
                  local pkt = packets.new(bytes)
                  pkt:header(type, 0)[field] = value
                  assert.equal(put(bytes, at, value), packets.bytes(pkt), field)
                  pkt:header(type, 0)[field] = value + 2 ^ at[2] -- one bit too many
                  assert.equal(put(bytes, at, value), packets.bytes(pkt), field .. " truncated")
               end
            end
         end
      end)
   end

   it("have IPv6 addresses as references that copy on assignment", function()
      local bytes = packets.noise(40, 3)
      local pkt = packets.new(bytes)
      local ip = pkt:header(tw.headers.ipv6, 0)
      for i = 0, 15 do
         assert.equal(bytes:byte(9 + i), ip.src:u8(i))
         assert.equal(bytes:byte(25 + i), ip.dst:u8(i))
      end
      local a = tw.ip6 "2001:db8::abcd"
      ip.src = a
      assert.is_true(ip.src == a)
      assert.equal(bytes:sub(1, 8), packets.bytes(pkt):sub(1, 8))
      assert.equal(bytes:sub(25), packets.bytes(pkt):sub(25))
      ip.dst = ip.src
      assert.is_true(ip.dst == a)
   end)

   it("print themselves", function()
      local pkt = packets.new("\2\0\0\0\0\1\2\0\0\0\0\2\8\0")
      assert.equal("eth{dst=02:00:00:00:00:01 src=02:00:00:00:00:02 type=2048}", tostring(pkt:eth()))
   end)

   it("refuse unknown fields by name, at the caller's line", function()
      local view = packets.new(("\0"):rep(20)):header(tw.headers.ipv4, 0)
      for _, attempt in ipairs {
         function() return view.tttl end, function() view.tttl = 1 end, function() return view[1] end,
      } do
         local ok, err = pcall(attempt)
         assert.is_false(ok)
         assert.truthy(err:find("packet_header_spec.lua:%d+: ipv4 has no field"), err)
      end
   end)
end)

describe("tw.header", function()
   it("lays out fields in the order of the bytes", function()
      local h = tw.header("mine", [[
         u8 a; be16 b; be32 c; u4 hi; u4 lo; mac x; ip6 addr; u20 label; u3 tc; u1 bos; u8 ttl;
         u24 vni; pad 2; le16 l16; le32 l32; be64 q; le64 lq; ip4 s, d; be16 tci { u3 pcp; u1 dei; u12 vid };
         u7 _; u9 k]])
      local at = {
         a = { 0, 8 }, b = { 8, 16 }, c = { 24, 32 }, hi = { 56, 4 }, lo = { 60, 4 }, x = { 64, 48 },
         label = { 240, 20 }, tc = { 260, 3 }, bos = { 263, 1 }, ttl = { 264, 8 }, vni = { 272, 24 },
         l16 = { 312, 16, "le" }, l32 = { 328, 32, "le" }, s = { 488, 32 }, d = { 520, 32 }, tci = { 552, 16 },
         pcp = { 552, 3 }, dei = { 555, 1 }, vid = { 556, 12 }, k = { 575, 9 },
      }
      assert.equal(73, h.size)
      local bytes = packets.noise(h.size, 5)
      local pkt = packets.new(bytes)
      for field, where in pairs(at) do
         assert.equal(pick(bytes, where), pkt:header(h, 0)[field], field)
         packets.put(pkt, bytes)
         pkt:header(h, 0)[field] = 5
         assert.equal(put(bytes, where, 5), packets.bytes(pkt), field)
         packets.put(pkt, bytes)
      end
   end)

   it("reads 64-bit fields as exact integers", function()
      local h = tw.header("wide", "be64 b; le64 l")
      local pkt = packets.new("\1\2\3\4\5\6\7\8\1\2\3\4\5\6\7\8")
      local view = pkt:header(h, 0)
      assert.is_true(view.b == 0x0102030405060708ULL)
      assert.is_true(view.l == 0x0807060504030201ULL)
      view.b, view.l = 0xfffefdfcfbfaf9f8ULL, 1
      assert.equal("\255\254\253\252\251\250\249\248\1\0\0\0\0\0\0\0", packets.bytes(pkt))
   end)

   it("describes its fields as data", function()
      local h = tw.header("data", "u8 a; u4 hi; u4 lo; be16 t { u3 p; u13 q }; le32 l; mac m; ip6 s")
      local want = {
         a = { "u8", 0, 0, 8, "be" }, hi = { "u4", 1, 0, 4, "be" }, lo = { "u4", 1, 4, 4, "be" },
         t = { "be16", 2, 0, 16, "be" }, p = { "u3", 2, 0, 3, "be", "t" }, q = { "u13", 2, 3, 13, "be", "t" },
         l = { "le32", 4, 0, 32, "le" }, m = { "mac", 8, 0, 48, "be" }, s = { "ip6", 14, 0, 128, "be" },
      }
      local names = {}
      for i, field in ipairs(h.fields) do
         names[i] = field.name
         local w = want[field.name]
         assert.same(w, { field.type, field.offset, field.bit, field.width, field.order, field.of }, field.name)
         assert.equal(field, h.fields[field.name])
      end
      assert.same({ "a", "hi", "lo", "t", "p", "q", "l", "m", "s" }, names)
      assert.equal(30, h.size)
   end)

   it("refuses wrong declarations with what is wrong, at the caller's line", function()
      local wrong = {
         ["u16 x"] = "write be16 or le16", ["u32 x"] = "write be32 or le32", ["u4 a"] = "do not fill a byte",
         ["u4 a; be16 b"] = "must start at a byte", ["u8 a; u8 a"] = "stands twice", ["foo x"] = "is not a type",
         ["u8"] = "a field name expected", ["u8 end"] = "a word of Lua", ["u8 raw_a"] = "raw_", ["pad x"] = "pad takes",
         ["pad 0"] = "pad takes", [""] = "no fields", ["u33 x"] = "1 to 31", ["u8 a b"] = "\";\" expected",
         ["be16 t { u3 a; u12 b }"] = "have 15 bits", ["be16 t { be16 a }"] = "a part is declared",
         ["mac m { u8 a }"] = "cannot have parts", ["u7 a; u31 b; u2 c"] = "at most 4", ["u8 1x"] = "a field name",
         ["be16 t { u8 a; u8 b"] = "", ["u0 a"] = "1 to 31",
      }
      for text, why in pairs(wrong) do
         local ok, err = pcall(function() tw.header("bad", text) end)
         assert.is_false(ok, text)
         assert.truthy(err:find("packet_header_spec.lua:%d+: header bad: "), err)
         assert.truthy(err:find(why, 1, true), err)
      end
      assert.is_false(pcall(tw.header, "x"))
      assert.is_false(pcall(tw.header, "x", "u8 a", { a = function() end }))
   end)

   it("takes methods", function()
      local h = tw.header("with", "be16 a", { double = function(self) return self.a * 2 end })
      assert.equal(6, packets.new("\0\3"):header(h, 0):double())
   end)

   it("can be made again elsewhere", function()
      local h = tw.header("moved", "be16 a; u8 b", { sum = function(self) return self.a + self.b end })
      local module, name, args = getmetatable(h).__transfer(h)
      local copy = require(module)[name](unpack(args))
      assert.equal(h.size, copy.size)
      assert.equal(5, packets.new("\0\3\2"):header(copy, 0):sum())
      module, name, args = getmetatable(tw.headers.tcp).__transfer(tw.headers.tcp)
      assert.equal(tw.headers.tcp, require(module)[name](unpack(args)))
   end)

   it("gives a view only where it fits", function()
      local h = tw.header("three", "u8 a, b, c")
      local pkt = packets.new("abcd")
      assert.truthy(pkt:header(h, 0))
      assert.truthy(pkt:header(h, 1))
      for _, offset in ipairs { 2, 3, 4, -1, -2 ^ 31, 2 ^ 31, 2 ^ 32, 2 ^ 53, 1 / 0, -1 / 0, 0 / 0 } do
         assert.is_nil(pkt:header(h, offset), offset)
      end
      assert.is_nil(pkt:header(h, nil))
   end)
end)

describe("alias analysis", function()
   -- A field written through one view and read in full through another in the same trace.
   it("does not carry stale values over a write to a part of a word", function()
      local pkt = packets.new(("\0"):rep(20))
      for i = 1, 2000 do
         local ip = pkt:header(tw.headers.ipv4, 0)
         ip.ttl, ip.protocol, ip.frag_offset, ip.mf = i % 256, 0, i % 8192, i % 2
         assert(ip.frag == i % 8192 + (i % 2) * 0x2000)
         local raw = pkt:u32(8)
         assert(raw == (i % 256) * 2 ^ 24, raw)
         pkt:set_u32(8, i * 65536)
         assert(ip.ttl == bit.band(bit.rshift(i, 8), 255) and ip.protocol == i % 256)
      end
      assert.equal(20, ffi.sizeof(header.builtin("ipv4").ctype))
   end)

   -- The offset is not known to the compiler, so view and number have different bases to it.
   local function churn(pkt, rounds)
      local wrong = 0
      for i = 1, rounds do
         local at = pkt:l4_offset()
         local udp = pkt:udp_at(at)
         udp.length, udp.checksum = 0, 0
         local before = pkt:u32(at + 4)
         udp.length = i
         local after = pkt:u32(at + 4)
         if before ~= 0 or after ~= i * 65536 then wrong = wrong + 1 end
         pkt:set_u32(at + 4, i)
         if udp.checksum ~= i or udp.length ~= 0 then wrong = wrong + 1 end
      end
      return wrong
   end

   it("does not carry stale values between views and numbers at offsets", function()
      local pkt = packets.new(frame.eth({}, frame.ipv4({
         src = "1.2.3.4", dst = "5.6.7.8", options = "\1\1\1\0",
      }, "12345678")))
      assert.equal(0, churn(pkt, 1000))
   end)
end)
