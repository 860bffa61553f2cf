-- SPDX-License-Identifier: BSD-3-Clause
-- IR programs printed as C and compiled by the system's compiler: every operation gives what the IR's interpreter says.

local c = require "tideway.compiler.back.c"
local lcore = require "tideway.compiler.back.lcore"
local lcore_ir = require "test.support.lcore_ir"
local native = require "tideway.native"
local random = require "test.support.lcore_random"
local tw = require "tideway"

local function compare(program, run, frames)
   local b = lcore_ir.burst(frames)
   local want = lcore_ir.expected(b, program)
   lcore_ir.fill(b)
   run(b.burst, #frames)
   local got = lcore_ir.state(b)
   for i = 1, #frames do
      assert(got[i] == want[i], ("%s, packet %d:\nwant %s\ngot  %s\n%s"):format(program.name, i, want[i], got[i],
         c.emit(program)))
   end
end

describe("C printer", function()
   if not native.compiler() then
      pending "no C compiler (cc) here"
      return
   end

   it("prints random programs that do what the IR says", function()
      local programs = {}
      for seed = 1, 150 do programs[seed] = random.program(seed, seed % 2 == 0) end
      local functions = lcore_ir.c(programs)
      for i, program in ipairs(programs) do
         math.randomseed(i)
         compare(program, functions[i], random.frames(8))
      end
   end)

   it("calls the engine: tables, counters", function()
      local hash = tw.hash { name = "spec_c_hash", key = "u32", value = "u64", entries = 64 }
      local counters = tw.counters { name = "spec_c_counters", size = 4 }
      local program = lcore_ir.program([[
         program "tables" target lcore
         b1():
           v1:ptr stack = alloca 8 align 8
           v2:ptr pkt = pktdata
           v3:num 0..255 = load8 v2 +0
           v4:num 0..3 = and v3, 3
           store64 v1 +0, v4
           v10:num 0..1 = call tw_hash_add(&"hash", v1, 100LL, 0) reads stack writes value table "hash"
           br ne v10, 0 -> b5(), b6()
         b5():
           v11:ptr mem = call counters_row() table "counters"
           v12:u64 = load64 v11 +8
           v13:u64 = add v12, 1ULL
           store64 v11 +8, v13
           v5:ptr value = call tw_hash_get(&"hash", v1, 0) reads stack table "hash"
           br eq v5, nil -> b6(), b7()
         b6():
           ret 0
         b7():
           v8:u64 = load64 v5 +0
           ctxstore key, v8
           ret 0
      ]], { hash = hash, counters = counters })
      local frames = {}
      for i = 1, 8 do frames[i] = string.char(i):rep(64) end
      local b = lcore_ir.burst(frames)
      lcore_ir.fill(b)
      local run = lcore_ir.c({ program })[1]
      for _ = 1, 20 do run(b.burst, 8) end
      for k = 0, 3 do assert.equal(4000, tonumber(hash:get(k))) end
      assert.equal(4000ULL, b.burst.pkts[7].key)
      assert.equal(160, counters:sum(1))
      hash:free()
      counters:free()
   end)

   it("leaves out packets that have a verdict, and notes how far the others are", function()
      local program = lcore_ir.program [[
         program "middle" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:num 0..255 = load8 v1 +0
           br lt v2, 128 -> b2(), b3()
         b2():
           ctxstore verdict, 257
           ret 0
         b3():
           ret 0
      ]]
      local b = lcore_ir.burst({ ("\1"):rep(64), ("\200"):rep(64), ("\3"):rep(64) }, { {}, {}, { verdict = 2 } })
      lcore_ir.fill(b)
      lcore_ir.c({ program }, { { guard = true, resume = 4 } })[1](b.burst, 3)
      local pkts = b.burst.pkts
      assert.same({ 257, 0, 2 }, { pkts[0].verdict, pkts[1].verdict, pkts[2].verdict })
      assert.same({ 0, 4, 0 }, { pkts[0].resume, pkts[1].resume, pkts[2].resume })
   end)

   it("names the lines of the source", function()
      local program = lcore_ir.program [[
         program "lines" target lcore
         b1():
           v1:ptr pkt = pktdata
           store8 v1 +0, 1
           ret 0
      ]]
      program.blocks[1].insts[2].pos = { file = 'my "nf".lua', line = 12, col = 3 }
      assert.truthy(c.emit(program):find('#line 12 "my \\"nf\\".lua"', 1, true))
   end)

   it("puts several segments into one text", function()
      local program = lcore_ir.program [[
         program "one" target lcore
         b1():
           ctxstore mark, 1
           ret 0
      ]]
      local text = lcore.c_text { { c = c.emit(program) }, { c = c.emit(program) } }
      assert.truthy(text:find("#define chain segment_0", 1, true))
      assert.truthy(text:find("#define chain segment_1", 1, true))
   end)
end)
