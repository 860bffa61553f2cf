-- SPDX-License-Identifier: BSD-3-Clause
-- The optimiser: arithmetic, control flow, and random programs before and after.
local text = require "tideway.compiler.ir.text"
local verify = require "tideway.compiler.ir.verify"
local opt = require "tideway.compiler.opt"
local proof = require "tideway.compiler.ir.proof"
local programs = require "test.support.ir_programs"
local support = require "test.support.optimised"

local optimised, trimmed = support.optimised, support.trimmed

local function becomes(source, expected, passes, target)
   assert.equal(trimmed(expected), optimised(source, passes, target))
end

-- What a return of a computation on `x`, a num in the given range, becomes.
local function folds(computation, range, expected)
   local source = ("b1():\n  v1:num %s = ctxload x\n  %s\n"):format(range, computation:gsub(";", "\n"))
   local got = optimised(source, "fold gvn dce cfg")
   got = got:gsub("^b1%(%):\nv1:num [%d%.-]+ = ctxload x\n", "")
   assert.equal(expected, (got:gsub("\n", "; ")))
end

describe("optimiser: arithmetic", function()
   it("computes constants as the machine does", function()
      folds("v2:num = add 2, 3; ret v2", "0..9", "b1():; ret 5")
      folds("v2:num = sub.32 2, 3; ret v2", "0..9", "b1():; ret 4294967295")
      folds("v2:num 0..65535 = bswap16 2048; ret v2", "0..9", "b1():; ret 8")
      folds("v2:u64 = sub 2ULL, 3ULL; ret v2", "0..9", "b1():; ret 0xffffffffffffffffULL")
      folds("v2:num = xor 6, 6; ret v2", "0..9", "b1():; ret 0")
      folds("v2:num = sar.32 4294967280, 2; ret v2", "0..9", "b1():; ret 4294967292")
      folds("v2:num = sext8 200; ret v2", "0..9", "b1():; ret -56")
   end)

   it("drops what does nothing within the range", function()
      folds("v2:num 0..255 = and v1, 255; ret v2", "0..255", "ret v1")
      folds("v2:num 0..255 = and v1, 127; ret v2", "0..255", "v2:num 0..127 = and v1, 127; ret v2")
      folds("v2:num = sext32 v1; ret v2", "0..2147483647", "ret v1")
      folds("v2:num = sext32 v1; ret v2", "0..2147483648",
         "v2:num -2147483648..2147483647 = sext32 v1; ret v2")
      folds("v2:num = zext16 v1; ret v2", "0..65535", "ret v1")
      folds("v2:num = mod v1, 20; ret v2", "0..19", "ret v1")
      folds("v2:num 0..15 = and v1, 15; v3:num 0..60 = shl v2, 2; v4:num 0..60 = and v3, 60; ret v4", "0..255",
         "v2:num 0..15 = and v1, 15; v3:num 0..60 = shl v2, 2; ret v3")
      folds("v2:num 0..255 = zext8 v1; v3:num 0..65535 = zext16 v2; ret v3", "0..70000",
         "v2:num 0..255 = zext8 v1; ret v2")
      folds("v2:num = sext8 v1; v3:num 0..65535 = zext16 v2; ret v3", "0..255",
         "v2:num -128..127 = sext8 v1; v3:num 0..65535 = zext16 v2; ret v3")
      folds("v2:num = sext16 v1; v3:num 0..255 = zext8 v2; ret v3", "0..70000", "v2:num 0..255 = zext8 v1; ret v2")
   end)

   it("takes the cheaper operation", function()
      folds("v2:num 0..80 = mul v1, 8; ret v2", "0..10", "v2:num 0..80 = shl v1, 3; ret v2")
      folds("v2:num 0..80 = mod v1, 8; ret v2", "0..100", "v2:num 0..7 = and v1, 7; ret v2")
      folds("v2:num 0..80 = div v1, 8; ret v2", "0..100", "v2:num 0..12 = shr v1, 3; ret v2")
      folds("v2:num 0..80 = add.32 v1, 8; ret v2", "0..10", "v2:num 8..18 = add v1, 8; ret v2")
      folds("v2:num = add v1, 8; v3:num = sub v2, 9; ret v3", "0..10", "v2:num -1..9 = sub v1, 1; ret v2")
   end)

   it("takes the first byte of a swap without the swap", function()
      folds("v2:num 0..4294967295 = bswap32 v1; v3:num 0..255 = shr v2, 24; ret v3", "0..4294967295",
         "v2:num 0..255 = zext8 v1; ret v2")
      folds("v2:num 0..65535 = bswap16 v1; v3:num 0..255 = shr v2, 8; ret v3", "0..65535",
         "v2:num 0..255 = zext8 v1; ret v2")
   end)

   it("undoes two swaps of byte order", function()
      folds("v2:num 0..65535 = bswap16 v1; v3:num 0..65535 = bswap16 v2; ret v3", "0..65535", "ret v1")
      folds("v2:num 0..65535 = bswap16 v1; v3:num 0..65535 = bswap16 v2; ret v3", "0..65536",
         "v2:num 0..65535 = zext16 v1; ret v2")
   end)

   local function condition(computation, range, expected)
      folds(computation .. " -> b2(), b3(); b2():; ret 1; b3():; ret 0", range,
         expected .. " -> b2(), b3(); b2():; ret 1; b3():; ret 0")
   end

   it("folds byte order into conditions", function()
      condition("v2:num 0..65535 = bswap16 v1; br eq v2, 2048", "0..65535", "br eq v1, 8")
      condition("v2:num 0..65535 = bswap16 v1; br lt v2, 2048", "0..65535",
         "v2:num 0..65535 = bswap16 v1; br lt v2, 2048")
      condition("v2:num 0..65535 = bswap16 v1; v3:num 0..8191 = and v2, 8191; br ne v3, 0", "0..65535",
         "v2:num 0..65311 = and v1, 65311; br ne v2, 0")
      condition("v2:num 0..65535 = bswap16 v1; v3:num 0..7 = shr v2, 13; br eq v3, 2", "0..65535",
         "v2:num 0..224 = and v1, 224; br eq v2, 64")
      condition("v2:num 0..4294967295 = bswap32 v1; br ne v2, 167772161", "0..4294967295", "br ne v1, 16777226")
   end)

   it("puts conditions on the plain value", function()
      condition("v2:num -5..5 = sub v1, 5; br eq v2, 1", "0..10", "br eq v1, 6")
      condition("v2:num = sext32 v1; br eq v2, -1", "0..4294967295", "br eq v1, 4294967295")
      condition("v2:num 0..4 = and v1, 4; br eq v2, 4", "0..10", "v2:num 0..4 = and v1, 4; br ne v2, 0")
      condition("br gt 5, v1", "0..10", "br lt v1, 5")
      condition("br uge v1, 5", "0..10", "br ge v1, 5")
      condition("br ult v1, 5", "-1..10", "br ult v1, 5")
   end)
end)

describe("optimiser: control flow", function()
   it("decides branches by range, and by what earlier branches said", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           br lt v1, 10 -> b2(), b5()
         b2():
           br gt v1, 20 -> b5(), b3()
         b3():
           br le v1, 9 -> b4(), b5()
         b4():
           ret 1
         b5():
           ret 0
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           br lt v1, 10 -> b2(), b3()
         b2():
           ret 1
         b3():
           ret 0
      ]])
   end)

   it("uses a value's only possible number", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           br eq v1, 6 -> b2(), b3()
         b2():
           v2:num 0..510 = add v1, v1
           ret v2
         b3():
           ret 0
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           br eq v1, 6 -> b2(), b3()
         b2():
           ret 12
         b3():
           ret 0
      ]])
   end)

   it("knows that a condition between two values still holds", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 0..255 = ctxload y
           br lt v1, v2 -> b2(), b4()
         b2():
           br ge v2, v1 -> b3(), b4()
         b3():
           br eq v2, v1 -> b4(), b5()
         b4():
           ret 0
         b5():
           ret 1
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 0..255 = ctxload y
           br lt v1, v2 -> b2(), b3()
         b2():
           ret 1
         b3():
           ret 0
      ]])
   end)

   it("knows what holds on all ways to a place", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           br eq v1, 69 -> b3(), b2()
         b2():
           br lt v1, 70 -> b9(), b4()
         b4():
           br gt v1, 79 -> b9(), b3()
         b3():
           ctxstore mark, 3
           v2:num 0..15 = and v1, 15
           br lt v2, 5 -> b9(), b5()
         b5():
           ret v2
         b9():
           ret 0
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           br eq v1, 69 -> b2(), b3()
         b3():
           br lt v1, 70 -> b4(), b5()
         b5():
           br gt v1, 79 -> b4(), b2()
         b4():
           ret 0
         b2():
           ctxstore mark, 3
           v2:num 5..15 = and v1, 15
           ret v2
      ]])
   end)

   -- a function gives nil in two places and a pointer in a third; its caller asks at once
   local INLINED = [[
      b1():
        v1:ptr stack = alloca 8 align 8
        store64 v1 +0, 0
        v2:ptr value = call find(v1) reads stack table "t"
        br eq v2, nil -> b4(nil), b2()
      b2():
        v3:num 0..255 = load8 v2 +0
        br eq v3, 7 -> b4(nil), b3()
      b3():
        jmp b4(v2)
      b4(v4:ptr value):
        v5:num 0..255 = ctxload x
        br eq v4, nil -> b5(), b6()
      b5():
        ret v5
      b6():
        v6:num 0..255 = load8 v4 +1
        ret v6
   ]]

   it("takes edges past the branches they decide", function()
      becomes(INLINED, [[
         b1():
           v1:ptr stack = alloca 8 align 8
           store64 v1 +0, 0
           v2:ptr value = call find(v1) reads stack table "t"
           br eq v2, nil -> b2(), b3()
         b3():
           v3:num 0..255 = load8 v2 +0
           br eq v3, 7 -> b2(), b4()
         b2():
           v4:num 0..255 = ctxload x
           ret v4
         b4():
           v5:num 0..255 = load8 v2 +1
           ret v5
      ]])
      assert.truthy(optimised(INLINED, "cfg fold gvn dce params decide"):find("br eq v%d, nil.*br eq v%d, nil"))
   end)

   it("threads a tag through two joins, and repairs values that are used afterwards", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 0..255 = ctxload y
           br eq v1, 6 -> b4(1, v2), b2()
         b2():
           br eq v1, 17 -> b4(2, 5), b3()
         b3():
           jmp b4(0, 0)
         b4(v3:num 0..2, v4:num 0..255):
           v5:num 0..256 = add v4, 1
           br eq v3, 1 -> b5(), b6()
         b5():
           ret v5
         b6():
           br eq v3, 2 -> b7(), b8()
         b7():
           ctxstore mark, v5
           ret 3
         b8():
           ret 4
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 0..255 = ctxload y
           br eq v1, 6 -> b2(), b3()
         b2():
           v3:num 1..256 = add v2, 1
           ret v3
         b3():
           br eq v1, 17 -> b4(), b5()
         b4():
           ctxstore mark, 6
           ret 3
         b5():
           ret 4
      ]])
   end)

   -- What lies between is too long for jump threading; on hooks it stays one.
   it("keeps paths apart that a later branch tells apart again, on lcores", function()
      local source = [[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 0..255 = ctxload y
           br eq v1, 6 -> b2(1), b2(0)
         b2(v3:num 0..1):
           br eq v2, 9 -> b3(), b4()
         b3():
           ret 9
         b4():
           ctxstore mark, v2
           br eq v3, 1 -> b5(), b6()
         b5():
           ret 1
         b6():
           ret v2
      ]]
      becomes(source, [[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 0..255 = ctxload y
           br eq v1, 6 -> b2(), b3()
         b2():
           br eq v2, 9 -> b4(), b5()
         b5():
           ctxstore mark, v2
           ret 1
         b3():
           br eq v2, 9 -> b4(), b6()
         b4():
           ret 9
         b6():
           ctxstore mark, v2
           ret v2
      ]], nil, "lcore")
      assert.truthy(optimised(source):find("v3:num 0..1", 1, true))
   end)

   it("threads on a condition that an earlier branch decided", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           br lt v1, 10 -> b2(), b3()
         b2():
           ctxstore mark, 1
           jmp b4()
         b3():
           ctxstore mark, 2
           jmp b4()
         b4():
           br lt v1, 10 -> b5(), b6()
         b5():
           ret 1
         b6():
           ret 0
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           br lt v1, 10 -> b2(), b3()
         b2():
           ctxstore mark, 1
           ret 1
         b3():
           ctxstore mark, 2
           ret 0
      ]])
   end)

   it("leaves loops loops", function()
      local source = [[
         b1():
           v9:num 0..255 = ctxload x
           jmp b2(0)
         b2(v1:num 0..10) loop 10:
           br lt v1, 10 -> b3(), b4()
         b3():
           v3:num 0..257 = add v9, 2
           ctxstore mark, v3
           v2:num 1..10 = add v1, 1
           jmp b2(v2)
         b4():
           ret v1
      ]]
      becomes(source, [[
         b1():
           v1:num 0..255 = ctxload x
           v2:num 2..257 = add v1, 2
           jmp b2(0)
         b2(v3:num 0..10) loop 10:
           br lt v3, 10 -> b3(), b4()
         b3():
           ctxstore mark, v2
           v4:num 1..10 = add v3, 1
           jmp b2(v4)
         b4():
           ret 10
      ]])
   end)

   it("does not move out of a loop what a branch inside makes possible", function()
      local got = optimised [[
         b1():
           v9:num 0..255 = ctxload x
           jmp b2(0)
         b2(v1:num 0..10) loop 10:
           br lt v1, 10 -> b3(), b6()
         b3():
           br eq v9, 0 -> b5(), b4()
         b4():
           v4:num 0..254 = sub v9, 1
           ctxstore mark, v4
           jmp b5()
         b5():
           v2:num 1..10 = add v1, 1
           jmp b2(v2)
         b6():
           ret v1
      ]]
      assert.truthy(got:find("b%d%(%):\nv%d:num 0..254 = sub v1, 1\nctxstore mark, v%d\njmp"), got)
   end)

   it("makes equal ends one, whatever they do", function()
      becomes([[
         b1():
           v1:ptr stack = alloca 4 align 4
           v2:ptr stack = alloca 4 align 4
           v3:num 0..255 = ctxload x
           br eq v3, 5 -> b2(), b5()
         b2():
           store32 v1 +0, 7
           v4:ptr value = call find(v1) reads stack table "exits"
           br ne v4, nil -> b3(), b4()
         b3():
           atomic add64 v4 +0, 1
           jmp b4()
         b4():
           ret 1
         b5():
           br eq v3, 6 -> b9(), b6()
         b6():
           store32 v2 +0, 7
           v5:ptr value = call find(v2) reads stack table "exits"
           br ne v5, nil -> b7(), b8()
         b7():
           atomic add64 v5 +0, 1
           jmp b8()
         b8():
           ret 1
         b9():
           ret 2
      ]], [[
         b1():
           v1:ptr stack = alloca 4 align 4
           v2:num 0..255 = ctxload x
           br eq v2, 5 -> b2(), b3()
         b3():
           br eq v2, 6 -> b4(), b2()
         b4():
           ret 2
         b2():
           store32 v1 +0, 7
           v3:ptr value = call find(v1) reads stack table "exits"
           br ne v3, nil -> b5(), b6()
         b5():
           atomic add64 v3 +0, 1
           jmp b6()
         b6():
           ret 1
      ]])
   end)

   it("lets a stack object have a place of its own where others can see it", function()
      local function two(last)
         local got = optimised(([[
            b1():
              v1:ptr stack = alloca 8 align 8
              v2:ptr stack = alloca 8 align 8
              v3:num 0..255 = ctxload x
              store64 v1 +0, v3
              call look(v1) reads stack
              br eq v3, 5 -> b2(), b3()
            b2():
              store64 v2 +0, 4
              call look(v2) reads stack
              %s
              ret 1
            b3():
              ret 0
         ]]):format(last))
         return select(2, got:gsub("alloca", ""))
      end
      assert.equal(1, two "")
      assert.equal(2, two "call look(v1) reads stack")
   end)

   it("makes equal exits one", function()
      becomes([[
         b1():
           v1:num 0..255 = ctxload x
           br eq v1, 5 -> b2(), b3()
         b2():
           ret 1
         b3():
           br eq v1, 6 -> b4(), b5()
         b4():
           ret 1
         b5():
           ret 2
      ]], [[
         b1():
           v1:num 0..255 = ctxload x
           br eq v1, 5 -> b2(), b3()
         b3():
           br eq v1, 6 -> b2(), b4()
         b2():
           ret 1
         b4():
           ret 2
      ]])
   end)
end)

describe("optimiser", function()
   it("refuses a pass it does not have", function()
      local program = text.parse 'program "x" target xdp\nb1():\n  ret 1\n'
      assert.has_error(function() opt.optimise(program, { magic = false }) end, "there is no pass 'magic'")
   end)

   -- SEED=n tries other programs; a failure names the seed
   it("does not change what can be seen of a program", function()
      local first = tonumber(os.getenv "SEED") or 1
      local names = {}
      for name in pairs(opt.PASSES) do names[#names + 1] = name end
      table.sort(names)
      for seed = first, first + 119 do
         local original = programs.make(seed)
         local program = assert(text.parse(text.print(original)))
         local options = {}
         if seed % 3 == 0 then options[names[seed / 3 % #names + 1]] = false end
         opt.optimise(program, options)
         local ok, why = verify(program)
         if ok then ok, why = proof(program) end
         assert(ok, ("seed %d: %s"):format(seed, tostring(why)))
         math.randomseed(seed)
         for _ = 1, 8 do
            local data = programs.frame()
            assert.equal(programs.observe(original, data), programs.observe(program, data), "seed " .. seed)
         end
      end
   end)
end)
