-- SPDX-License-Identifier: BSD-3-Clause
-- tw.acl: the first rule that matches, for every kind of field, against trying one after the other.

local tw = require "tideway"

describe("acl table", function()
   local random = math.random

   after_each(function() require("tideway.table").free_all() end)

   it("gives the number of the first rule that matches, or nil", function()
      local acl = tw.acl {
         name = "first", key = "u8 proto bits; u16 port range; u32 src prefix",
         rules = { { proto = 6, port = { 80, 90 } }, { src = "10.0.0.0/8" }, { proto = { 0x10, 0x10 } }, { port = 7 } },
      }
      assert.equal(1, acl:get(6, 80, 0))
      assert.equal(1, acl:get(6, 90, tw.ip4 "10.1.2.3"))
      assert.equal(2, acl:get(6, 91, tw.ip4 "10.1.2.3"))
      assert.equal(3, acl:get(0x11, 0, 0))
      assert.equal(4, acl:get(6, 7, 0))
      assert.is_nil(acl:get(6, 8, 0))
      assert.equal(4, acl:count())
      assert.equal("first", acl.name)
      assert.equal("acl", tw.tables()[1].kind)
   end)

   it("without rules matches nothing", function()
      assert.is_nil(tw.acl { key = "u16 port range", rules = {} }:get(1))
   end)

   it("gives results of the rules' own; the lowest wins", function()
      local rules = { { x = { 0, 9 }, result = 50 }, { x = { 5, 20 }, result = 7 } }
      local acl = tw.acl { key = "u32 x range", rules = rules }
      assert.equal(50, acl:get(4))
      assert.equal(7, acl:get(5))
      assert.is_nil(acl:get(21))
   end)

   it("moves to another VM by its address", function()
      local acl = tw.acl { key = "u8 a bits; ip6 b prefix", rules = { { b = "2001:db8::/32" } } }
      local module, name, arguments = getmetatable(acl).__transfer(acl)
      local other = require(module)[name](unpack(arguments))
      assert.equal(1, other:get(0, tw.ip6 "2001:db8::1"))
      assert.is_nil(other:get(0, tw.ip6 "2001:db9::1"))
   end)

   it("decides as trying one after the other would, with all kinds of fields", function()
      math.randomseed(5)
      local function words() return random(0, 1), random(0, 3), random(0, 1) * 2 ^ 31, random(0, 3) end
      local function text(a, b, c, d)
         return ("%x:%x:0:%x:%x:%x:0:%x"):format(a, b, a, c / 65536, b, d)
      end
      local rules = {}
      for i = 1, 400 do
         local rule = {}
         if random(2) == 1 then rule.flags = { random(0, 255), random(0, 255) } end
         if random(2) == 1 then rule.src = tw.prefix(tostring(tw.ip6(text(words()))) .. "/128") end
         if random(2) == 1 then
            local length = random(0, 128)
            rule.dst = tw.prefix(tostring(tw.ip6(text(words())):masked(length)) .. "/" .. length)
         end
         if random(2) == 1 then
            local first = random(0, 2 ^ 32 - 1)
            rule.id = { first, random(first, 2 ^ 32 - 1) }
         end
         if random(2) == 1 then rule.port = { random(0, 30), random(30, 60) } end
         if random(2) == 1 then rule.word = { random(0, 65535), random(0, 3) } end
         rules[i] = rule
      end
      local acl = tw.acl {
         key = "u32 id range; u8 flags bits; ip6 src prefix; u16 port range; ip6 dst prefix; u16 word bits",
         rules = rules,
      }
      local function same(value, match)
         return not match or bit.band(bit.bxor(value, match[1]), match[2]) == 0
      end
      local function inside(value, range) return not range or (value >= range[1] and value <= range[2]) end
      local found = 0
      for _ = 1, 20000 do
         local id, flags, port, word = random(0, 2 ^ 32 - 1), random(0, 255), random(0, 65), random(0, 65535)
         local src, dst = tw.ip6(text(words())), tw.ip6(text(words()))
         local expected
         for i, r in ipairs(rules) do
            if same(flags, r.flags) and same(word, r.word) and inside(id, r.id) and inside(port, r.port) and
               (not r.src or r.src:contains(src)) and (not r.dst or r.dst:contains(dst)) then
               expected = i
               break
            end
         end
         found = found + (expected and 1 or 0)
         assert.equal(expected, acl:get(id, flags, src, port, dst, word))
      end
      assert.is_true(found > 5000)
   end)

   describe("refuses", function()
      for what, options in pairs {
         ["rules is not a list"] = { key = "u8 a bits" },
         ["key is a nil"] = { rules = {} },
         ["write type, name and bits, range or prefix"] = { key = "u8 a", rules = {} },
         ["a u8 cannot match by prefix"] = { key = "u8 a prefix", rules = {} },
         ["rules[2]: a: not a number of 8 bits"] = { key = "u8 a bits", rules = { {}, { a = 256 } } },
         ["rules[1]: a: not a number of 16 bits, or two in order"] = {
            key = "u16 a range", rules = { { a = { 2, 1 } } },
         },
         ["2001:db8::/32 is no IPv4 prefix"] = { key = "u32 a prefix", rules = { { a = "2001:db8::/32" } } },
         ["rule is not an option"] = { key = "u8 a bits", rule = {} },
      } do
         it(what, function()
            local ok, err = pcall(tw.acl, options)
            assert.is_false(ok)
            assert.truthy(err:find(what, 1, true), err)
         end)
      end
   end)
end)
