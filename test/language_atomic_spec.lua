-- SPDX-License-Identifier: BSD-3-Clause
-- exchange() and compare_exchange() of tables: as plain Lua, on maps of the kernel, and the same on hooks and lcores.

local frame = require "test.support.frame"
local language = require "test.support.language"
local tw = require "tideway"

local TYPES = { "u32", "i32", "u64", "i64", "ns" }

local function frames(count)
   local list = {}
   for n = 1, count do
      list[n] = frame.udp4({}, { src = "10.0.0." .. n % 5, dst = "10.0.0.2", ttl = n % 3 + 1 },
         { sport = n * 7919 % 65536, dport = n * 104729 % 65536 }, "payload")
   end
   return list
end

local refused = language.refused

describe("exchange in plain Lua", function()
   for _, type in ipairs(TYPES) do
      for _, kind in ipairs { "hash", "lru", "array" } do
         it(("%s of %s"):format(kind, type), function()
            local t = tw[kind] { key = kind ~= "array" and "u32" or nil, value = type, entries = 4 }
            finally(function() t:free() end)
            assert.is_nil(t:exchange(9, 5))
            assert.is_nil(t:compare_exchange(9, 0, 5))
            t:set(1, 3)
            assert.is_true(t:exchange(1, 7) == 3)
            assert.is_true(t:compare_exchange(1, 3, 8) == 7)
            assert.is_true(t:get(1) == 7)
            assert.is_true(t:compare_exchange(1, 7, -1) == 7)
            local all_ones = { u32 = 2 ^ 32 - 1, u64 = 0xffffffffffffffffULL }
            assert.is_true(t:exchange(1, 0) == (all_ones[type] or -1))
            assert.is_true(t:get(1) == 0)
         end)
      end
   end

   it("is for integers only", function()
      for _, value in ipairs { "u8", "u16", "mac", "u32 a; u32 b" } do
         local t = tw.hash { key = "u32", value = value, entries = 4 }
         assert.error_matches(function() t:exchange(1, 2) end, "values that are one integer of 4 or 8 bytes")
         t:free()
      end
   end)

   it("works on maps of the kernel", function()
      local t = tw.hash { key = "u32", value = "i32", entries = 4 }
      t:set(1, 3)
      local map, err = require("tideway.bpf.backing").of(t)
      if not map then return pending(err) end
      finally(function()
         map:free()
         t:free()
      end)
      assert.is_nil(t:exchange(2, 1))
      assert.equal(3, t:exchange(1, -5))
      assert.equal(-5, t:compare_exchange(1, 3, 4))
      assert.equal(-5, t:compare_exchange(1, -5, 6))
      assert.equal(6, t:get(1))
   end)
end)

describe("exchange everywhere", function()
   for _, type in ipairs(TYPES) do
      it("of " .. type, function()
         language.same(([[
            local band = require("bit").band
            local h = tw.hash { name = "lang_h", key = "u32 src; u8 proto", value = "T", entries = 64 }
            local a = tw.array { name = "lang_a", value = "T", entries = 8 }
            local function n(x) return LOW end
            return { tables = { h, a }, packet = function(pkt)
               local ip, udp = pkt:ipv4(), pkt:udp()
               if not ip or not udp then return end
               local old = h:exchange(ip.src, ip.protocol, udp.src_port)
               if not old then h:set(ip.src, ip.protocol, 1) else ip.id = n(old) end
               if h:compare_exchange(ip.src, ip.protocol, 1, 77) == 1 then udp.checksum = 0x1234 end
               local i = band(udp.dst_port, 7)
               local was = a:compare_exchange(i, 0, udp.dst_port)
               if was ~= nil and was == 0 then ip.ttl = 9 end
               local last = a:exchange(ip.ttl, 5)
               if not last then return pkt:drop "lang_none" end
               udp.length = n(last)
            end }]]):gsub("LOW", type:find "64" and "tonumber(band(x, 0xffffULL))" or "x %% 65536")
            :gsub("T", type), frames(40))
      end)
   end

   it("is refused for other values", function()
      local text = [[
         local t = tw.hash { key = "u32", value = "%s", entries = 4 }
         return { packet = function(pkt) t:exchange(%s) end }]]
      assert.matches("one integer of 4 or 8 bytes", (refused(text:format("u16", "1, 2"))))
      assert.matches("one integer of 4 or 8 bytes", (refused(text:format("u32 a; u32 b", "1, 2"))))
      assert.matches(":exchange, value: a number is needed, this is nil", (refused(text:format("u32", "1"))))
      assert.matches("every CPU has a value of its own", (refused([[
         local t = tw.percpu_array { value = "u64", entries = 4 }
         return { packet = function(pkt) t:exchange(1, 2) end }]])))
   end)
end)
