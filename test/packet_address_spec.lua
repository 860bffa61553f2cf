-- SPDX-License-Identifier: BSD-3-Clause
-- Addresses and prefixes: strict parsing with clear messages, formatting, IPv6 address methods.

local tw = require "tideway.packet"
local address = require "tideway.packet.address"

describe("IPv4 addresses", function()
   it("are numbers in host order", function()
      assert.equal(0x0a000001, tw.ip4 "10.0.0.1")
      assert.equal(0xffffffff, tw.ip4 "255.255.255.255")
      assert.equal(0, tw.ip4 "0.0.0.0")
      assert.equal(7, tw.ip4(7))
   end)

   it("format back", function()
      for _, text in ipairs { "10.0.0.1", "255.255.255.255", "0.0.0.0", "192.168.1.254" } do
         assert.equal(text, tw.ip4_string(tw.ip4(text)))
      end
   end)

   it("are refused with the value and what is wrong", function()
      local wrong = {
         ["1.2.3"] = "3 numbers", ["1.2.3.4.5"] = "5 numbers", ["1.2.3.256"] = "256 is more than 255",
         ["01.2.3.4"] = "leading zero", ["1.2.3.x"] = "not a decimal", ["1..2.3"] = "not a decimal",
         [" 1.2.3.4"] = "not a decimal", ["1.2.3.4 "] = "not a decimal", [""] = "not a decimal",
         ["1.2.3.99999999999"] = "more than 255",
      }
      for text, why in pairs(wrong) do
         local value, err = address.parse_ip4(text)
         assert.is_nil(value)
         assert.truthy(err:find(why, 1, true), err)
         assert.truthy(err:find(("%q"):format(text), 1, true), err)
      end
      assert.is_nil((address.parse_ip4(nil)))
      assert.is_nil((address.parse_ip4 {}))
   end)

   it("raise at the caller's line", function()
      local ok, err = pcall(function() return tw.ip4 "10.0.0" end)
      assert.is_false(ok)
      assert.truthy(err:find("packet_address_spec.lua:%d+:"), err)
      assert.is_false(pcall(tw.ip4, -1))
      assert.is_false(pcall(tw.ip4, 2 ^ 32))
      assert.is_false(pcall(tw.ip4, 1.5))
   end)
end)

describe("MAC addresses", function()
   it("are 48-bit numbers", function()
      assert.equal(0x02abcdef0001, tw.mac "02:ab:cd:ef:00:01")
      assert.equal(0x02abcdef0001, tw.mac "02-AB-CD-EF-00-01")
      assert.equal(2 ^ 48 - 1, tw.mac "ff:ff:ff:ff:ff:ff")
   end)

   it("format back", function()
      for _, text in ipairs { "02:ab:cd:ef:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00" } do
         assert.equal(text, tw.mac_string(tw.mac(text)))
      end
   end)

   it("are refused when malformed", function()
      for _, text in ipairs { "", "02:ab:cd:ef:00", "02:ab:cd:ef:00:1", "02:ab:cd:ef:00:01:02", "02:ab-cd:ef:00:01",
         "0g:00:00:00:00:00", "020000000001", "02:ab:cd:ef:00:01 " } do
         local value, err = address.parse_mac(text)
         assert.is_nil(value, text)
         assert.truthy(err:find("MAC", 1, true))
      end
   end)
end)

describe("IPv6 addresses", function()
   -- RFC 5952 text on the right.
   local canonical = {
      ["::"] = "::", ["::1"] = "::1", ["2001:DB8::1"] = "2001:db8::1", ["1:0:0:2:0:0:0:3"] = "1:0:0:2::3",
      ["2001:db8:0:0:1:0:0:1"] = "2001:db8::1:0:0:1", ["2001:db8:0:1:1:1:1:1"] = "2001:db8:0:1:1:1:1:1",
      ["1::"] = "1::", ["::ffff:192.0.2.1"] = "::ffff:192.0.2.1", ["::ffff:c000:0201"] = "::ffff:192.0.2.1",
      ["64:ff9b::192.0.2.33"] = "64:ff9b::c000:221", ["fe80:0000:0000:0000:0001:0002:0003:0004"] = "fe80::1:2:3:4",
      ["1:2:3:4:5:6:7::"] = "1:2:3:4:5:6:7:0", ["::2:3:4:5:6:7:8"] = "0:2:3:4:5:6:7:8",
      ["1:2:3:4:5:6:1.2.3.4"] = "1:2:3:4:5:6:102:304",
   }

   it("parse and format canonically", function()
      for text, want in pairs(canonical) do
         assert.equal(want, tostring(tw.ip6(text)))
         assert.equal(want, tw.ip6_string(tw.ip6(want)))
         assert.is_true(tw.ip6(text) == tw.ip6(want))
      end
   end)

   it("lie in memory in network order", function()
      local a = tw.ip6 "102:304:506:708:90a:b0c:d0e:f10"
      for i = 0, 15 do assert.equal(i + 1, a:u8(i)) end
      assert.equal(0x05060708, a:u32(1))
      assert.equal(0x0d0e0f10, a:u32(3))
      assert.is_nil(a:u8(16))
      assert.is_nil(a:u8(-1))
      assert.is_nil(a:u32(4))
   end)

   it("are refused with the value and what is wrong", function()
      for _, text in ipairs { "", ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8",
         "12345::", ":1:2:3:4:5:6:7", "1:2:3:4:5:6:7:", "1.2.3.4::", "::1.2.3", "::1.2.3.256", "g::", "fe80::1%eth0",
         "::01.2.3.4", " ::1" } do
         local value, err = address.parse_ip6(text)
         assert.is_nil(value, text)
         assert.truthy(err:find(("%q"):format(text), 1, true), err)
      end
   end)

   it("compare by value", function()
      local a, b = tw.ip6 "2001:db8::1", tw.ip6 "2001:db8::1"
      assert.is_true(a == b)
      assert.is_false(a == tw.ip6 "2001:db8::2")
      assert.is_false(a == tw.ip6 "2001:db9::1")
      assert.is_false(a == nil)
      assert.is_false(a == 5)
   end)

   it("know what kind they are", function()
      local kinds = {
         ["::"] = "is_unspecified", ["::1"] = "is_loopback", ["fe80::1"] = "is_link_local",
         ["febf::1"] = "is_link_local", ["ff02::1"] = "is_multicast", ["fd00::1"] = "is_unique_local",
         ["fc00::1"] = "is_unique_local", ["::ffff:1.2.3.4"] = "is_v4_mapped", ["2001:db8::1"] = "none",
         ["fec0::1"] = "none", ["::2"] = "none",
      }
      local tests = { "is_unspecified", "is_loopback", "is_link_local", "is_multicast", "is_unique_local",
         "is_v4_mapped" }
      for text, kind in pairs(kinds) do
         local a = tw.ip6(text)
         for _, test in ipairs(tests) do assert.equal(test == kind, a[test](a), text .. " " .. test) end
      end
   end)

   it("make solicited-node, multicast MAC and link-local addresses", function()
      -- The example of RFC 4291 2.7.1.
      assert.equal("ff02::1:ff0e:8c6c", tostring(tw.ip6("4037::01:800:200e:8c6c"):solicited_node()))
      assert.equal("33:33:ff:0e:8c:6c", tw.mac_string(tw.ip6("ff02::1:ff0e:8c6c"):multicast_mac()))
      -- The example of RFC 4291 appendix A.
      assert.equal("fe80::3656:78ff:fe9a:bcde", tostring(address.link_local(tw.mac "34:56:78:9a:bc:de")))
      assert.equal("fe80::36:56ff:fe78:9abc", tostring(address.link_local(tw.mac "02:36:56:78:9a:bc")))
   end)

   it("refuse unknown names", function()
      local ok, err = pcall(function() return tw.ip6("::").nothing end)
      assert.is_false(ok)
      assert.truthy(err:find("nothing", 1, true))
   end)
end)

describe("prefixes", function()
   it("parse, format and compare", function()
      for _, text in ipairs { "10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0", "::1/128",
         "2001:db8:8000::/33" } do
         local p = tw.prefix(text)
         assert.equal(text, tostring(p))
         assert.is_true(p == tw.prefix(text))
         assert.equal(p, tw.prefix(p))
      end
      assert.equal("192.0.2.1/32", tostring(tw.prefix "192.0.2.1"))
      assert.equal("::1/128", tostring(tw.prefix "::1"))
      assert.is_false(tw.prefix "10.0.0.0/8" == tw.prefix "10.0.0.0/9")
   end)

   it("are refused with a remedy", function()
      local _, err = address.parse_prefix "10.1.0.1/8"
      assert.truthy(err:find("did you mean 10.0.0.0/8", 1, true), err)
      _, err = address.parse_prefix "2001:db8::1/32"
      assert.truthy(err:find("did you mean 2001:db8::/32", 1, true), err)
      for _, text in ipairs { "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/-1", "/8", "10.0.0.0/8/8",
         "10.0.0.0/ 8", "" } do
         assert.is_nil((address.parse_prefix(text)), text)
      end
   end)

   it("contain addresses up to both ends", function()
      local p = tw.prefix "10.1.0.0/16"
      assert.is_true(p:contains(tw.ip4 "10.1.0.0"))
      assert.is_true(p:contains(tw.ip4 "10.1.255.255"))
      assert.is_false(p:contains(tw.ip4 "10.0.255.255"))
      assert.is_false(p:contains(tw.ip4 "10.2.0.0"))
      assert.is_false(p:contains(tw.ip6 "::"))
      assert.is_true(tw.prefix("0.0.0.0/0"):contains(2 ^ 32 - 1))
      for length = 0, 128 do
         local net = tw.ip6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):masked(length)
         local six = tw.prefix(tostring(net) .. "/" .. length)
         assert.is_true(six:contains(tw.ip6 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
         assert.equal(length == 0, six:contains(tw.ip6 "::"))
         if length > 0 then
            local shorter = tw.ip6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"):masked(length - 1)
            assert.is_false(six:contains(shorter), length)
         end
      end
      assert.is_false(tw.prefix("::/0"):contains(5))
   end)

   it("split interface addresses", function()
      local host, net = tw.interface "10.0.0.5/24"
      assert.equal(tw.ip4 "10.0.0.5", host)
      assert.equal("10.0.0.0/24", tostring(net))
      local host6, net6 = tw.interface "2001:db8::5/64"
      assert.is_true(host6 == tw.ip6 "2001:db8::5")
      assert.equal("2001:db8::/64", tostring(net6))
   end)
end)
