-- SPDX-License-Identifier: BSD-3-Clause
-- The optimiser: equal values, memory, bounds checks.
local support = require "test.support.optimised"

local optimised, trimmed = support.optimised, support.trimmed

local function becomes(source, expected, passes, target)
   assert.equal(trimmed(expected), optimised(source, passes, target))
end

describe("optimiser: values and memory", function()
   local function frame(body, size)
      return ("b1():\n  v1:ptr pkt = pktdata\n  v2:ptr pkt = pktend\n  check v1 + %d <= v2 -> b2(), b9()\n"):format(
         size or 34) .. "b9():\n  ret 0\nb2():\n" .. body
   end

   local function body_becomes(body, expected, passes)
      local got = optimised(frame(body), passes)
      local head = "b1():\nv1:ptr pkt = pktdata\nv2:ptr pkt = pktend\ncheck v1 + 34 <= v2 -> b2(), b3()\nb2():\n"
      assert.equal(head, got:sub(1, #head))
      assert.equal(trimmed(expected), (got:sub(#head + 1):gsub("\nb3%(%):\nret 0$", "")))
   end

   it("computes and loads a thing once", function()
      body_becomes([[
         v3:num 0..65535 = load16 v1 +12
         v4:num 0..65536 = add v3, 1
         v5:num 0..65535 = load16 v1 +12
         v6:num 0..65536 = add 1, v5
         v7:num 0..131072 = add v4, v6
         ret v7
      ]], [[
         v3:num 0..65535 = load16 v1 +12
         v4:num 1..65536 = add v3, 1
         v5:num 2..131072 = add v4, v4
         ret v5
      ]])
   end)

   it("loads anew after a store that may hit, and only then", function()
      body_becomes([[
         v3:num 0..65535 = load16 v1 +12
         v4:num 0..65535 = load16 v1 +20
         store16 v1 +13, 7
         v5:num 0..65535 = load16 v1 +12
         v6:num 0..65535 = load16 v1 +20
         v7:num = add v3, v4
         v8:num = add v5, v6
         v9:num = xor v7, v8
         ret v9
      ]], [[
         v3:num 0..65535 = load16 v1 +12
         v4:num 0..65535 = load16 v1 +20
         store16 v1 +13, 7
         v5:num 0..65535 = load16 v1 +12
         v6:num 0..131070 = add v3, v4
         v7:num 0..131070 = add v4, v5
         v8:num 0..131071 = xor v6, v7
         ret v8
      ]])
   end)

   it("loads anew where one way to the place has a store", function()
      local got = optimised(frame [[
         v3:num 0..255 = load8 v1 +12
         br eq v3, 5 -> b3(), b4()
      b3():
         store8 v1 +12, 9
         jmp b4()
      b4():
         v4:num 0..255 = load8 v1 +12
         ret v4
      ]])
      assert.truthy(got:find("v4:num 0..255 = load8 v1 +12\nret v4", 1, true), got)
   end)

   it("takes a loaded value from the store before", function()
      body_becomes([[
         v3:num 0..300 = ctxload x
         store8 v1 +12, v3
         v4:num 0..255 = load8 v1 +12
         store16 v1 +14, v3
         v5:num 0..65535 = load16 v1 +14
         v6:num 0..555 = add v4, v5
         ret v6
      ]], [[
         v3:num 0..300 = ctxload x
         store8 v1 +12, v3
         v4:num 0..255 = zext8 v3
         store16 v1 +14, v3
         v5:num 0..555 = add v3, v4
         ret v5
      ]])
   end)

   it("drops stores of what is there, and stores that are overwritten", function()
      body_becomes([[
         v3:num 0..255 = load8 v1 +0
         store8 v1 +0, v3
         store8 v1 +1, 4
         store16 v1 +0, 9
         ret 1
      ]], "store16 v1 +0, 9\nret 1")
   end)

   it("keeps a store that somebody may read before the next", function()
      body_becomes([[
         v3:ptr pkt = ptradd v1, 20
         store8 v1 +20, 4
         v4:num 0..255 = load8 v3 +0
         call look() reads pkt
         store8 v1 +20, 5
         ret v4
      ]], "store8 v1 +20, 4\ncall look() reads pkt\nstore8 v1 +20, 5\nret 4")
   end)

   it("drops stack objects that nobody reads", function()
      becomes([[
         b1():
           v1:ptr stack = alloca 8 align 8
           v2:ptr stack = alloca 8 align 8
           store64 v1 +0, 3
           store64 v2 +0, 3
           v3:ptr stack = ptradd v1, 4
           store8 v3 +0, 3
           call look(v2) reads stack
           ret 1
      ]], [[
         b1():
           v1:ptr stack = alloca 8 align 8
           store64 v1 +0, 3
           call look(v1) reads stack
           ret 1
      ]])
   end)

   it("copies neighbouring fields at once", function()
      body_becomes([[
         v3:num 0..65535 = load16 v1 +6
         store16 v1 +0, v3
         v4:num 0..65535 = load16 v1 +8
         store16 v1 +2, v4
         v5:num 0..65535 = load16 v1 +10
         store16 v1 +4, v5
         ret 1
      ]], [[
         v3:num 0..4294967295 = load32 v1 +6
         store32 v1 +0, v3
         v4:num 0..65535 = load16 v1 +10
         store16 v1 +4, v4
         ret 1
      ]])
   end)

   it("does not copy at once what overlaps", function()
      local copy = [[
         v3:num 0..65535 = load16 v1 +6
         store16 v1 +8, v3
         v4:num 0..65535 = load16 v1 +8
         store16 v1 +10, v4
         ret 1
      ]]
      body_becomes(copy, (copy:gsub("v4:num[^\n]*\n", ""):gsub("v4", "v3")))
      body_becomes(copy, copy, "cfg dce widen")
   end)

   it("stores neighbouring constants at once where the stack is aligned", function()
      local function stack(off)
         return ([[
         b1():
           v1:ptr stack = alloca 16 align 8
           store8 v1 +%d, 1
           store8 v1 +%d, 2
           call look(v1) reads stack
           ret 0
         ]]):format(off, off + 1)
      end
      assert.truthy(optimised(stack(4)):find("store16 v1 +4, 513", 1, true))
      assert.truthy(optimised(stack(5)):find("store8 v1 +5, 1\nstore8 v1 +6, 2", 1, true))
   end)

   it("puts the constant parts of pointers into the access", function()
      body_becomes([[
         v3:ptr pkt = ptradd v1, 14
         v4:ptr pkt = ptradd v3, 8
         v5:num 0..255 = load8 v4 +1
         v6:num 0..60 = ctxload x
         v7:num 14..74 = add v6, 14
         v8:ptr pkt = ptradd v1, v7
         check v8 + 4 <= v2 -> b3(), b9()
      b3():
         v9:num 0..255 = load8 v8 +1
         v10:num 0..510 = add v5, v9
         ret v10
      ]], [[
         v3:num 0..255 = load8 v1 +23
         v4:num 0..60 = ctxload x
         v5:ptr pkt = ptradd v1, v4
         check v5 + 18 <= v2 -> b4(), b3()
         b4():
         v6:num 0..255 = load8 v5 +15
         v7:num 0..510 = add v3, v6
         ret v7
      ]])
   end)
end)

describe("optimiser: checks", function()
   it("makes checks of comparisons of the length", function()
      local source = [[
         b1():
           v1:num 0..65535 = pktlen
           br lt v1, 34 -> b2(), b3()
         b2():
           ret 0
         b3():
           v2:num 0..60 = ctxload x
           v3:num 20..80 = add v2, 20
           br gt v3, v1 -> b2(), b4()
         b4():
           ret 1
      ]]
      local expected = [[
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           check v1 + 34 <= v2 -> b2(), b3()
         b2():
           v3:num 0..60 = ctxload x
           v4:ptr pkt = ptradd v1, v3
           check v4 + 20 <= v2 -> b4(), b3()
         b4():
           ret 1
         b3():
           ret 0
      ]]
      becomes(source, expected)
      becomes(source, expected, nil, "lcore")
      assert.is_nil(optimised(source, nil, "tc"):find "check")
   end)

   local function checks(first, between, second)
      return ([[
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           check v1 + %d <= v2 -> b2(), b9()
         b9():
           ret 0
         b2():
           v3:num 0..255 = load8 v1 +0
           %s
           check v1 + %d <= v2 -> b3(), b9()
         b3():
           v4:num 0..255 = load8 v1 +1
           v5:num 0..510 = add v3, v4
           ret v5
      ]]):format(first, between, second)
   end

   it("drops a check that a larger one dominates", function()
      local got = optimised(checks(34, "", 20))
      assert.truthy(got:find("check v1 + 34", 1, true))
      assert.is_nil(got:find("+ 20", 1, true))
   end)

   it("raises a check to the later one, when a short frame comes to the same end", function()
      local got = optimised(checks(14, "", 34))
      assert.truthy(got:find("check v1 + 34", 1, true))
      assert.is_nil(got:find("+ 14", 1, true))
      assert.truthy(optimised(checks(14, "", 34), "cfg decide available"):find("+ 14", 1, true))
   end)

   it("does not raise a check past what can be seen", function()
      for _, effect in ipairs { "store8 v1 +3, 5", "call f()", "ctxstore mark, 4" } do
         assert.truthy(optimised(checks(14, effect, 34)):find("+ 14", 1, true), effect)
      end
      assert.truthy(optimised(checks(14, "", 34):gsub("b3%(%), b9%(%)", "b3(), b8()") .. "b8():\n  ret 7\n")
         :find("+ 14", 1, true))
   end)

   it("raises a check whose failing exit does something, to one that fails by the same exit", function()
      local source = checks(14, "", 34):gsub("ret 0", "call count()\n ret 0")
      assert.is_nil(optimised(source):find("+ 14", 1, true))
      source = source:gsub("%+ 34 <= v2 %-> b3%(%), b9%(%)", "+ 34 <= v2 -> b3(), b8()")
      assert.truthy(optimised(source .. "b8():\n call other()\n ret 0\n"):find("+ 14", 1, true))
   end)

   it("takes what the edges have proved of different pointers for the one they become", function()
      local source = [[
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           check v1 + 34 <= v2 -> b2(), b9()
         b2():
           v3:num 0..65535 = load16 v1 +12
           br eq v3, 8 -> b4(14), b3()
         b3():
           v4:num 14..22 = ctxload x
           v5:ptr pkt = ptradd v1, v4
           check v5 + 20 <= v2 -> b4(v4), b9()
         b4(v6:num 14..22):
           v7:ptr pkt = ptradd v1, v6
           check v7 + %d <= v2 -> b5(), b9()
         b5():
           v8:num 0..255 = load8 v7 +9
           v9:ptr pkt = ptradd v1, v6
           check v9 + 9 <= v2 -> b6(), b9()
         b6():
           v10:num 0..255 = load8 v9 +8
           v11:num 0..510 = add v8, v10
           ret v11
         b9():
           ret 0
      ]]
      local _, n = optimised(source:format(20)):gsub("check", "")
      assert.equal(2, n)
      _, n = optimised(source:format(21)):gsub("check", "")
      assert.equal(3, n)
   end)

   it("does not raise a check to one that fails by the same block with another argument", function()
      local source = [[
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           check v1 + 34 <= v2 -> b2(), b5(0)
         b2():
           v3:num 0..255 = load8 v1 +12
           br eq v3, 8 -> b5(2), b3()
         b3():
           check v1 + 54 <= v2 -> b4(), b5(0)
         b4():
           ret 9
         b5(v4:num 0..2):
           v5:num 0..7 = and v4, 7
           jmp b6(v5)
         b6(v6:num 0..8) loop 1:
           br le v6, 0 -> b7(), b8()
         b7():
           ctxstore mark, 7
           jmp b6(1)
         b8():
           ret 0
      ]]
      assert.truthy(optimised(source, "raise"):find("v1 + 34", 1, true))
      assert.truthy(optimised(source:gsub("and v4, 7", "and v3, 7"):gsub("b5%(2%)", "b5(0)"):gsub("and v3", "and 5"),
         "raise"):find("v1 + 54", 1, true))
   end)

   it("keeps a check on a path on which only the length is known", function()
      local got = optimised [[
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           v3:num 0..65535 = pktlen
           br eq v3, 255 -> b4(), b3()
         b3():
           ctxstore mark, 7
           jmp b4()
         b4():
           br lt v3, 34 -> b9(), b5()
         b5():
           check v1 + 14 <= v2 -> b6(), b9()
         b6():
           v5:num 0..255 = load8 v1 +7
           ret v5
         b9():
           ret 0
      ]] -- which looks for accesses that nothing has proved
      assert.truthy(got:find("check v1 + 14", 1, true) or got:find("check v1 + 34", 1, true))
   end)

   it("drops a check that each path has made", function()
      local source = [[
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           v3:num 0..255 = ctxload x
           br eq v3, 5 -> b2(), b3()
         b2():
           check v1 + 20 <= v2 -> b4(), b9()
         b4():
           ctxstore mark, 7
           jmp b6()
         b3():
           check v1 + 34 <= v2 -> b5(), b9()
         b5():
           ctxstore mark, 8
           jmp b6()
         b6():
           v5:num 0..255 = load8 v1 +7
           store8 v1 +8, v5
           store8 v1 +7, 2
           ctxstore other, 8
           v6:num 0..255 = load8 v1 +9
           store8 v1 +10, v6
           store8 v1 +1, 2
           check v1 + %d <= v2 -> b7(), b9()
         b7():
           ret 1
         b9():
           ret 0
      ]]
      assert.is_nil(optimised(source:format(18)):find("+ 18", 1, true))
      assert.truthy(optimised(source:format(21)):find("+ 21", 1, true))
   end)
end)
