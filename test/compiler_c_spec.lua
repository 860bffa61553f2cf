-- SPDX-License-Identifier: BSD-3-Clause
-- IR programs printed as C and compiled by the system's compiler: every operation gives what the IR's interpreter says.

local bulk = require "tideway.compiler.back.c.bulk"
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
   -- Small tables are not worth a second pass; here they get one.
   local cached = bulk.CACHED
   setup(function() bulk.CACHED = 0 end)
   teardown(function() bulk.CACHED = cached end)

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

   -- A look-up behind a parse with two ways out, and effects of all kinds behind it.
   local FLOWS = [[
      program "flows" target lcore
      b1():
        v1:ptr stack = alloca 8 align 8
        v2:ptr stack = alloca 8 align 8
        v3:ptr pkt = pktdata
        v4:num 0..255 = load8 v3 +0
        store64 v2 +0, v4
        v5:ptr mem = call counters_row() table "seen"
        v6:u64 = load64 v5 +0
        v7:u64 = add v6, 1ULL
        store64 v5 +0, v7
        br lt v4, 10 -> b2(), b3(v4)
      b2():
        store8 v3 +1, 1
        jmp b9(v4)
      b3(v8:num 0..255):
        store8 v3 +2, 2
        br gt v8, 250 -> b4(), b5()
      b4():
        ctxstore verdict, 257
        ret 0
      b5():
        v9:num 0..63 = and v8, 63
        store64 v1 +0, v9
        v10:num 0..1000 = add v8, 3
        v11:ptr value = call tw_hash_get(&"flows", v1, 0) reads stack table "flows"
        br eq v11, nil -> b6(), b7(v11)
      b6():
        store16 v3 +4, v10
        jmp b9(v9)
      b7(v12:ptr value):
        v13:u64 = load64 v12 +0
        v14:u64 = add v13, 1ULL
        store64 v12 +0, v14
        ctxstore key, v14
        v15:u64 = load64 v2 +0
        store64 v3 +8, v15
        v16:num 0..1 = call tw_hash_add(&"other", v1, 1LL, 0) reads stack writes value table "other"
        jmp b9(v10)
      b9(v17:num 0..1000):
        store16 v3 +16, v17
        ctxstore mark, v4
        ret 0
   ]]

   it("looks up all packets at once, with the same result as one by one", function()
      local made = {}
      for i = 1, 2 do
         made[i] = {
            flows = tw.hash { name = "spec_flows" .. i, key = "u32", value = "u64", entries = 64 },
            other = tw.hash { name = "spec_other" .. i, key = "u32", value = "u64", entries = 64 },
            seen = tw.counters { name = "spec_seen" .. i, size = 1 },
         }
         for k = 0, 63, 2 do made[i].flows:set(k, 1000 + k) end
      end
      local programs, options = {}, { { bulk = false }, {} }
      for i = 1, 2 do programs[i] = lcore_ir.program(FLOWS, made[i]) end
      assert.falsy(c.emit(programs[1], options[1]):find("tw_hash_get_bulk(", 1, true))
      assert.truthy(c.emit(programs[2], options[2]):find("tw_hash_get_bulk(", 1, true))
      local functions = lcore_ir.c(programs, options)
      math.randomseed(3)
      for _ = 1, 50 do
         local frames, states = random.frames(math.random(1, 64)), {}
         for i = 1, 2 do
            local b = lcore_ir.burst(frames)
            lcore_ir.fill(b)
            functions[i](b.burst, #frames)
            states[i] = lcore_ir.state(b)
         end
         assert.same(states[1], states[2])
      end
      assert.equal(made[1].seen:sum(0), made[2].seen:sum(0))
      for k = 0, 63 do
         assert.equal(made[1].flows:get(k), made[2].flows:get(k))
         assert.equal(made[1].other:get(k), made[2].other:get(k))
      end
      assert.is_true(made[1].flows:get(2) > 1002ULL)
      for i = 1, 2 do
         for _, t in pairs(made[i]) do t:free() end
      end
   end)

   it("looks up one by one where the order of packets could be seen", function()
      local flows = tw.hash { name = "spec_order", key = "u32", value = "u64", entries = 64 }
      local tables = {
         flows = flows, seen = tw.counters { name = "spec_seen", size = 1 },
         other = tw.hash { key = "u32", value = "u64", entries = 8 },
      }
      local function in_bulk(text) return c.emit(lcore_ir.program(text, tables)):find("tw_hash_get_bulk(", 1, true) end
      assert.truthy(in_bulk(FLOWS))
      assert.falsy(in_bulk((FLOWS:gsub('&"other", v1, 1LL, 0%) reads stack writes value table "other"',
         '&"flows", v1, 1LL, 0) reads stack writes value table "flows"'))), "the table is written")
      assert.falsy(in_bulk((FLOWS:gsub("store16 v3 %+16, v17", "store64 v5 +0, v17"))), "what is counted is read")
      assert.falsy(in_bulk((FLOWS:gsub("store8 v3 %+2, 2",
         'v99:num 0..1 = call tw_hash_add(&"other", v2, 1LL, 0) reads stack writes value table "other"'))),
         "a table is written in front")
      for _, t in pairs(tables) do t:free() end
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
