-- SPDX-License-Identifier: BSD-3-Clause
-- Arrays of fixed size and structs inside headers and tables: as plain Lua, and the same on hooks and lcores.

local ffi = require "ffi"
local array = require "tideway.packet.array"
local frame = require "test.support.frame"
local language = require "test.support.language"
local layout = require "tideway.packet.layout"
local tw = require "tideway"

local DECLARATION = [[
   u8 op; u8 chaddr[16]; be16 port[4]; be32 word[2]; struct q { u8 kind; be16 class; u8 name[5] }; be32 last ]]

-- UDP frames whose payload are the bytes of the header, and some behind.
local function frames(count)
   local list = {}
   for n = 1, count do
      local bytes = {}
      for i = 1, 49 + n % 7 * 8 do bytes[i] = string.char((i * 37 + n * 59) % 256) end
      list[n] = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1000 + n, dport = 67 },
         table.concat(bytes))
   end
   list[#list + 1] = list[1]:sub(1, 60)
   return list
end

local HEAD = ([[
   local band = require("bit").band
   local h = tw.header("lang", %q)
]]):format(DECLARATION)

local function nf(body, declarations)
   return HEAD .. (declarations or "") .. [[
      return { tables = tables, fill = fill, packet = function(pkt)
         local v = pkt:header(h, pkt:payload_offset() or 60000)
         if not v then return pkt:drop "lang_short" end
   ]] .. body .. "\nend }"
end

local function same(body, declarations) language.same(nf(body, declarations), frames(20)) end
local function refused(body, declarations) return language.refused(nf(body, declarations)) end

describe("arrays in plain Lua", function()
   local h = tw.header("lang", DECLARATION)

   it("lie where the header says", function()
      local v = h.ctype()
      v.chaddr[15], v.port[3], v.word[1], v.q.class, v.q.name[4], v.last = 0x1ab, 0x12345, -2, 0x1122, 7, 0xdeadbeef
      local bytes = ffi.string(v, h.size)
      assert.equal(45, h.size)
      assert.equal("\171", bytes:sub(17, 17))
      assert.equal("\x23\x45", bytes:sub(24, 25))
      assert.equal("\xff\xff\xff\xfe", bytes:sub(30, 33))
      assert.equal("\x11\x22", bytes:sub(35, 36))
      assert.equal("\7\xde\xad\xbe\xef", bytes:sub(41, 45))
      assert.same({ 171, 0x2345, 4294967294, 0x1122, 7 },
         { v.chaddr[15], v.port[3], v.word[1], v.q.class, v.q.name[4] })
      assert.equal(16, #v.chaddr)
   end)

   it("know their bounds", function()
      local v = h.ctype()
      for _, i in ipairs { -1, 16, 1e9, 0 / 0, "x" } do
         assert.error_matches(function() return v.chaddr[i] end, "u8%[16%]: indexes are 0 to 15")
         assert.error_matches(function() v.chaddr[i] = 1 end, "u8%[16%]: indexes are 0 to 15")
      end
   end)

   it("are copied and compared whole", function()
      local v, w = h.ctype(), h.ctype()
      v.chaddr[9] = 1
      assert.is_false(v.chaddr == w.chaddr)
      w.chaddr = v.chaddr
      assert.is_true(v.chaddr == w.chaddr)
      assert.equal(1, w.chaddr[9])
      assert.error_matches(function() w.chaddr = v.port end, "cannot convert")
      w.q.name[0], w.q.name[1] = 0x61, 0x62
      assert.same({ true, true, false, false, false }, { w.q.name == "ab", "ab\0" == w.q.name, w.q.name == "a",
         w.q.name == "ab    ", w.port == "ab" })
      w.q.kind, w.q.name[0] = 5, 6
      v.q = w.q
      assert.same({ 5, 6 }, { v.q.kind, v.q.name[0] })
   end)

   it("stand in the layout", function()
      local fields = layout.parse("lang", DECLARATION).fields
      assert.same({ 16, "u8", 1, 128 }, { fields.chaddr.count, fields.chaddr.element.element, fields.chaddr.offset,
         fields.chaddr.width })
      assert.equal(2, fields.port.element.element_size)
      assert.same({ "struct", 33, 3 }, { fields.q.type, fields.q.offset, fields.q.fields.name.offset })
   end)

   it("are refused when they are wrong", function()
      for text, why in pairs {
         ["u8 a[0]"] = "a%[0%]: an array has 1 to 4096 elements", ["be64 a[2]"] = "elements of u8, u16, u32, be16",
         ["u8 a[2"] = '"%]" expected', ["struct a { u8 b"] = '";" expected',
         ["struct a { u3 b }"] = "do not fill a byte",
         ["struct { u8 a }"] = "a field name expected", ["struct a { u8 int }"] = "word of C",
      } do
         assert.error_matches(function() tw.header("wrong", text) end, why)
      end
      for text, why in pairs {
         ["u32 a[0]"] = "1 to 4096", ["u64 a[2]"] = "not u64", ["u32[4]"] = "write a type, a name",
      } do
         assert.error_matches(function() tw.hash { key = "u32", value = text, entries = 1 } end, why)
      end
   end)

   it("are keys and values of tables", function()
      local t = tw.hash { key = "u8 name[5]; u16 x", value = "u32 id; u8 name[16]; u16 p[3]", entries = 8 }
      finally(function() t:free() end)
      local v = h.ctype()
      v.chaddr[1] = 9
      local ports = array.of("u16", 3).ctype()
      ports[2] = 70000
      assert.is_true(t:set("abc", 1, 77, v.chaddr, ports))
      assert.is_true(t:set("abcde", 1, 78, "eth0", ports))
      assert.equal(2, t:count())
      local e = t:get("abc\0\0", 1)
      assert.is_true(e.name == v.chaddr)
      assert.equal(4464, e.p[2])
      e.name[15] = 3
      assert.equal(3, t:get("abc", 1).name[15])
      assert.is_nil(t:get("abc", 2))
      assert.error_matches(function() t:get("abcdef", 1) end, "6 bytes for u8%[5%]")
      assert.error_matches(function() t:set("a", 1, 2, 3, ports) end, "u8%[16%] is needed")
   end)
end)

describe("arrays everywhere", function()
   it("are read and written", function()
      same [[
         v.chaddr[3] = v.chaddr[0] + v.op
         v.port[1] = v.port[0] + 1
         v.word[0] = v.word[1] - v.port[3]
         v.q.name[4] = v.q.kind
         v.q.class = v.q.class + v.q.name[1]
         v.last = #v.chaddr * 256 + #v.q.name ]]
   end)

   it("take an index that is proved", function()
      same [[
         local i = band(v.op, 15)
         v.chaddr[i] = v.chaddr[15 - i] + 1
         local sum = 0
         for k = 0, #v.chaddr - 1 do sum = sum + v.chaddr[k] end
         v.last = sum
         local n = v.q.kind
         if n < 4 then v.port[n] = sum elseif n > 250 then v.word[n % 2] = sum end ]]
   end)

   it("are copied and compared", function()
      same([[
         local e = t:put(v.op)
         if not e then return end
         if e.name == v.chaddr then v.last = 1 end
         e.name = v.chaddr
         e.id = e.id + 1
         e.p[band(v.op, 3)] = v.port[2]
         if e.name ~= v.chaddr then return pkt:drop "lang_wrong" end
         local one = list:get(band(v.op, 1))
         if one then
            v.chaddr = one.name
            one.name = e.name
         end
         if v.chaddr == e.name then v.last = 2 end
         local text = list:get(1)
         if text and text.name == "eth0" then text.x = text.x + 1 end
         if text and "lo" ~= text.name then v.op = text.x end ]], [[
         local t = tw.hash { name = "lang_names", key = "u32", value = "u32 id; u8 name[16]; u16 p[4]", entries = 64 }
         local list = tw.array { name = "lang_list", value = "u8 x; u8 name[16]", entries = 2 }
         local tables = { t, list }
         local function fill() list:set(1, 3, "eth0") end ]])
   end)

   it("are keys and values", function()
      same([[
         seen:set(v.q.name, v.op, v.q.name)
         local e = seen:get(v.q.name, v.op)
         if e then v.q.class = e.name[2] end
         local named = seen:get("eth0", 7)
         if named then v.chaddr[0] = named.name[4] end
         if v.op > 128 then seen:del(v.q.name, v.op) end ]], [[
         local seen = tw.hash { name = "lang_seen", key = "u8 name[5]; u8 op", value = "u8 name[5]", entries = 64 }
         local tables = { seen } ]])
   end)

   it("copy structs", function()
      same([[
         local at = pkt:payload_offset()
         local w = pkt:header(h, at and at + 46 or 60000)
         if not w then return end
         local q = v.q
         if q.kind > 99 then v.last = q.class end
         q.name[0] = 1
         w.q = q ]])
   end)
end)

describe("arrays are refused", function()
   it("with an index that may be outside", function()
      local text = refused "\n v.last = v.chaddr[v.op]"
      assert.matches("index 0%.%.255 of u8%[16%]: indexes are 0 to 15", text)
      assert.matches("bit.band", text)
      assert.matches("v.last = v.chaddr%[v.op%]\n%s+%^", text)
      assert.matches("index 4 of be16%[4%]", (refused "v.port[4] = 1"))
      assert.matches("index %-1 of", (refused "v.port[-1] = 1"))
   end)

   it("with another type", function()
      assert.matches("u8%[16%] is needed, this is be16%[4%]", (refused "v.chaddr = v.port"))
      assert.matches("u8%[16%] is needed, this is 5", (refused "v.chaddr = 5"))
      assert.matches("lang.q has no field \"nothing\"", (refused "v.q.nothing = 5"))
   end)

   it("where the entry may be nil", function()
      assert.matches("may be nil", (refused("v.op = t:get(1).name[2]",
         [[local t = tw.hash { key = "u32", value = "u8 name[16]", entries = 64 }]])))
   end)
end)
