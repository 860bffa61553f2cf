-- SPDX-License-Identifier: BSD-3-Clause
local ffi = require "ffi"
local support = require "test.support.tables"

local band = require("bit").band -- a local: in a spec, globals are reached by functions of busted

local make = support.make

local function mask4(address, length)
   local size = 2 ^ (32 - length)
   return address - address % size
end

-- The longest of the prefixes that covers the address, by trying every length.
local function longest4(model, address)
   for length = 32, 0, -1 do
      local v = model[length] and model[length][mask4(address, length)]
      if v then return v end
   end
end

local function mask6(bytes, length)
   local out = {}
   for i = 1, 16 do
      local bits = math.max(0, math.min(8, length - (i - 1) * 8))
      local b = bytes:byte(i)
      out[i] = string.char(b - b % 2 ^ (8 - bits))
   end
   return table.concat(out)
end

local function longest6(model, bytes)
   for length = 128, 0, -1 do
      local v = model[length] and model[length][mask6(bytes, length)]
      if v then return v end
   end
end

local function insert(model, prefix, length, value)
   model[length] = model[length] or {}
   model[length][prefix] = value
end

-- 2001:db8::/32 with few values per byte, so that prefixes nest and share.
local function random6()
   local t = { "\32\1\13\184" }
   for i = 2, 13 do
      t[i] = string.char(math.random(0, i < 6 and 7 or 255))
   end
   return table.concat(t)
end

describe("lpm table, IPv4", function()
   after_each(support.free)

   local function longest(type)
      local t = make.lpm { value = type, entries = 16 }
      assert.is_nil(t:get(0x0a000001))
      t:set("0.0.0.0/0", 1)
      t:set("10.0.0.0/8", 2)
      t:set("10.1.0.0/16", 3)
      t:set("10.1.2.128/25", 4)
      t:set("10.1.2.200", 5)
      assert.same({ 1, 2, 3, 3, 4, 5 }, { t:get(0xc0000001), t:get(0x0a020304), t:get(0x0a010001),
         t:get(0x0a010201), t:get(0x0a010281), t:get(0x0a0102c8) })
      assert.same({ 1, 3 }, { t:get(0xffffffff), t:get(0x0a0102ff) == 4 and 3 })
      t:del("10.1.2.128/25")
      t:del(0x0a010000, 16)
      assert.same({ 2, 5 }, { t:get(0x0a010281), t:get(0x0a0102c8) })
      assert.is_true(t:del("0.0.0.0/0"))
      assert.is_false(t:del("0.0.0.0/0"))
      assert.is_nil(t:get(0xc0000001))
   end

   it("finds the longest prefix, down to /32 and up to /0", function() longest "u32" end)

   -- The trie itself holds these.
   it("does so with values of two bytes", function()
      longest "u16"
      local t = make.lpm { value = "u16", entries = 8 }
      t:set("10.0.0.0/8", 0)
      t:set("10.1.0.0/16", 65535)
      t:set("10.1.2.0/25", 0)
      assert.same({ 0, 65535, 0 }, { t:get(0x0a000001), t:get(0x0a010001), t:get(0x0a010203) })
      t:set("10.0.0.0/8", 65535)
      t:set("10.1.0.0/16", 1)
      assert.same({ 65535, 1 }, { t:get(0x0a000001), t:get(0x0a010001) })
      assert.equal(1, t:find "10.1.0.0/16")
      assert.is_nil(t:get(0x0b000001))
      t:set("0.0.0.0/0", 0)
      assert.equal(0, t:get(0x0b000001))
   end)

   it("keeps structs of two bytes apart", function()
      local t = make.lpm { value = "u16 hop", entries = 8 }
      t:set("10.0.0.0/8", 7)
      t:set("11.0.0.0/8", 7)
      t:get(0x0a000001).hop = 8
      assert.same({ 8, 7 }, { t:get(0x0a000001).hop, t:get(0x0b000001).hop })
   end)

   it("ignores the bits behind the length", function()
      local t = make.lpm { value = "u32", entries = 16 }
      t:set("10.9.8.7/8", 1)
      assert.equal(1, t:find("10.0.0.0/8"))
      assert.equal(1, t:find(0x0affffff, 8))
      assert.is_nil(t:find("10.0.0.0/9"))
      assert.equal("10.0.0.0/8", tostring((t:pairs()())))
   end)

   it("agrees with a brute-force search over 10,000 prefixes and their removal", function()
      math.randomseed(1)
      local t = make.lpm { value = "u32", entries = 10001 }
      local model, list = {}, {}
      insert(model, 0, 0, 4000000000)
      t:set(0, 0, 4000000000)
      for i = 1, 10000 do
         local length = math.random(1, 32)
         local address = mask4(support.random32(), length)
         assert.is_true(t:set(address, length, i))
         insert(model, address, length, i)
         list[i] = { address, length }
      end
      local function check()
         for i = 1, 20000 do
            local p = list[i % #list + 1]
            local address = i % 2 == 0 and support.random32() or p[1] + math.random(0, 2 ^ (32 - p[2]) - 1)
            local got, want = t:get(address), longest4(model, address)
            if got ~= want then
               error(("0x%08x: got %s, want %s"):format(address, tostring(got), tostring(want)))
            end
         end
      end
      check()
      for i = 1, 10000, 2 do
         local p = list[i]
         assert.equal(model[p[2]][p[1]] ~= nil, t:del(p[1], p[2]))
         model[p[2]][p[1]] = nil
      end
      t:del(0, 0)
      model[0] = nil
      check()
      local count = 0
      for prefix, v in t:pairs() do
         assert.equal(model[prefix.length][prefix.address], v)
         count = count + 1
      end
      assert.equal(count, t:count())
      t:clear()
      assert.is_nil(t:get(list[2][1]))
   end)

   it("replaces values, and hands out references to structs", function()
      local t = make.lpm { value = "u32 hop; u16 port; u64 packets", entries = 8 }
      t:set("10.0.0.0/8", 1, 2, 3)
      t:get(0x0a000001).packets = 4
      assert.is_true(t:find("10.0.0.0/8").packets == 4)
      t:set("10.0.0.0/8", 5, 6, 7)
      local v = t:get(0x0a000001)
      assert.same({ 5, 6 }, { v.hop, v.port })
      assert.equal(1, t:count())
      t:put("11.0.0.0/8").hop = 9
      assert.equal(9, t:get(0x0b000001).hop)
      t:put("11.0.0.0/8").port = 10
      assert.same({ 9, 10 }, { t:get(0x0b000001).hop, t:get(0x0b000001).port })
   end)

   it("is full at its entries, and takes more after a removal", function()
      local t = make.lpm { value = "u32", entries = 10 }
      for i = 1, 10 do
         assert.is_true(t:set(i * 65536, 30, i))
      end
      assert.is_false(t:set(0x0b000000, 30, 1))
      assert.is_nil(t:get(0x0b000000))
      assert.is_true(t:del(65536, 30))
      assert.is_true(t:set(0x0b000000, 30, 1))
      assert.equal(1, t:stats().full)
   end)

   it("refuses what is no prefix at the caller's line", function()
      local t = make.lpm { value = "u32", entries = 10 }
      for text, why in pairs {
         ["10.0.0.0/33"] = "the length after", ["10.0.0/8"] = "not an IPv4 prefix", ["2001:db8::/32"] = "such as 10.0",
         ["10.0.0.0/"] = "the length after", [""] = "not an IPv4 prefix", ["10.0.0.0/8x"] = "the length after",
      } do
         local ok, err = pcall(function() t:set(text, 1) end)
         assert.is_false(ok)
         assert.is_truthy(err:find(why, 1, true) and err:find "table_lpm_spec.lua:%d+: ", err)
      end
      assert.has_error(function() t:set(1, 33, 1) end)
      assert.has_error(function() t:set(1, nil, 1) end)
      assert.equal(0, t:count())
   end)

   it("compiles get() to a loop without garbage", function()
      local t = make.lpm { value = "u32 hop; u32 port", entries = 8 }
      t:set("0.0.0.0/0", 1, 0)
      t:set("10.0.0.0/8", 2, 0)
      t:set("10.1.2.128/25", 3, 0)
      local function loop()
         local sum = 0
         for i = 1, 5000 do
            local v = t:get(0x0a010200 + band(i, 1023))
            if v then sum = sum + v.hop end
         end
         return sum
      end
      local traces, aborts = support.compile(loop)
      assert.is_true(traces > 0)
      assert.same({}, aborts)
      assert.is_near(0, support.garbage(loop), 1024)
   end)
end)

describe("lpm table, IPv6", function()
   after_each(support.free)

   it("finds the longest prefix, down to /128 and up to /0", function()
      local t = make.lpm { family = 6, value = "u32", entries = 16 }
      local a = support.in6("\32\1\13\184" .. ("\0"):rep(11) .. "\1")
      assert.is_nil(t:get(a))
      for i, text in ipairs { "::/0", "2001:db8::/32", "2001:db8::/64", "2001:db8::1" } do
         t:set(text, i)
         assert.equal(i, t:get(a))
      end
      assert.is_true(t:del("2001:db8::/64"))
      assert.is_true(t:del(a, 128))
      assert.equal(2, t:get(a))
      assert.equal("2001:db8::/32", tostring((function()
         for k, v in t:pairs() do
            if v == 2 then return k end
         end
      end)()))
   end)

   it("agrees with a brute-force search over 10,000 prefixes and their removal", function()
      math.randomseed(2)
      local t = make.lpm { family = 6, value = "u32", entries = 10000, groups = 60000 }
      local model, list = {}, {}
      for i = 1, 10000 do
         local length = i == 1 and 0 or math.random(8, i % 10 == 0 and 128 or 64)
         local prefix = mask6(random6(), length)
         assert.is_true(t:set(support.in6(prefix), length, i))
         insert(model, prefix, length, i)
         list[i] = { prefix, length }
      end
      local function check()
         for i = 1, 1000 do
            local p = list[math.random(#list)]
            local tail = random6()
            local whole = math.floor(p[2] / 8)
            local bytes = i % 2 == 0 and random6() or p[1]:sub(1, whole + 1) .. tail:sub(whole + 2)
            local got, want = t:get(support.in6(bytes)), longest6(model, bytes)
            if got ~= want then
               error(("address %d: got %s, want %s"):format(i, tostring(got), tostring(want)))
            end
         end
      end
      check()
      for i = 1, 10000, 2 do
         local p = list[i]
         assert.equal(model[p[2]][p[1]] ~= nil, t:del(support.in6(p[1]), p[2]))
         model[p[2]][p[1]] = nil
      end
      check()
      for prefix, v in t:pairs() do
         assert.equal(model[prefix.length][ffi.string(prefix.address, 16)], v)
      end
   end)

   it("ignores the bits behind the length", function()
      local t = make.lpm { family = 6, value = "u32", entries = 16 }
      t:set("2001:dbf:ffff::1/29", 1)
      assert.equal(1, t:find("2001:db8::/29"))
      assert.equal("2001:db8::/29", tostring((t:pairs()())))
   end)

   it("says so when it runs out of groups, and stays consistent", function()
      local t = make.lpm { family = 6, value = "u32", entries = 1000, groups = 256 }
      local refused
      for i = 0, 99 do
         local prefix = "\32\1\13" .. string.char(i) .. ("\1"):rep(12)
         if not t:set(support.in6(prefix), 128, i) then
            refused = i
            break
         end
      end
      assert.is_truthy(refused)
      assert.equal(refused, t:count())
      assert.is_nil(t:get(support.in6("\32\1\13" .. string.char(refused) .. ("\1"):rep(12))))
      assert.equal(0, t:get(support.in6("\32\1\13\0" .. ("\1"):rep(12))))
   end)

   it("compiles get() to a loop without garbage", function()
      local t = make.lpm { family = 6, value = "u32", entries = 8 }
      t:set("2001:db8::/32", 5)
      local a = support.in6("\32\1\13\184" .. ("\0"):rep(12))
      local function loop()
         local sum = 0
         for _ = 1, 5000 do
            local v = t:get(a)
            if v then sum = sum + v end
         end
         return sum
      end
      local traces, aborts = support.compile(loop)
      assert.is_true(traces > 0)
      assert.same({}, aborts)
      assert.equal(25000, loop())
      assert.is_near(0, support.garbage(loop), 1024)
   end)
end)
