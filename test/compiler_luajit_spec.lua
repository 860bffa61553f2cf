-- SPDX-License-Identifier: BSD-3-Clause
-- IR programs printed for LuaJIT: every operation gives what the IR's interpreter says, interpreted and in traces, and
-- the loop over the packets is compiled.

local ffi = require "ffi"
local util = require "jit.util"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local lcore_ir = require "test.support.lcore_ir"
local luajit = require "tideway.compiler.back.luajit"
local native = require "tideway.native"
local settings = require "tideway.options"
local random = require "test.support.lcore_random"
local rigs = require "test.support.rig"
local tw = require "tideway"

local ROUNDS = 12 -- of 8 packets: the loop becomes a trace after 56

local function compare(program, frames, options)
   options = options or {}
   local b = lcore_ir.burst(frames, options.contexts)
   local want = options.want or lcore_ir.expected(b, program, options.call)
   lcore_ir.fill(b)
   local run, anchor, source = lcore_ir.lua(program, options.emit, b.burst)
   for round = 1, ROUNDS do
      lcore_ir.fill(b)
      run(#frames)
      local got = lcore_ir.state(b)
      for i = 1, #frames do
         assert(got[i] == want[i], ("%s, round %d, packet %d:\nwant %s\ngot  %s\n%s"):format(program.name, round, i,
            want[i], got[i], source))
      end
   end
   return run, anchor, source
end

-- Calls from here are not recorded: what is recorded is the function's own loop.
local function drive(run, times)
   for _ = 1, times do run(8) end
end
jit.off(drive)

local function check(text, options)
   math.randomseed(7)
   return compare(lcore_ir.program(text, options and options.tables), random.frames(8), options)
end

describe("LuaJIT printer", function()
   it("prints random programs that do what the IR says", function()
      for seed = 1, 120 do
         local program = random.program(seed)
         compare(program, random.frames(8))
      end
   end)

   it("has atomic operations", function()
      for seed = 1, 40 do
         local program = random.program(seed, true)
         compare(program, random.frames(8))
      end
   end)

   it("keeps memory right where accesses of different width overlap", function()
      local _, _, source = check [[
         program "alias" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:num 0..255 = load8 v1 +60
           v3:num 0..3 = and v2, 3
           v4:ptr pkt = ptradd v1, v3
           v5:num 0..4294967295 = load32 v1 +20
           store16 v4 +20, 4660
           v6:num 0..4294967295 = load32 v1 +20
           v7:num 0..4294967295 = xor v5, v6
           store32 v1 +40, v7
           store8 v4 +41, 255
           v8:num 0..4294967295 = load32 v1 +40
           store32 v1 +48, v8
           ret 0
      ]]
      assert.truthy(source:find("barrier()", 1, true))
      _, _, source = check [[
         program "apart" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:num 0..255 = load8 v1 +60
           v3:num 0..3 = and v2, 3
           v4:ptr pkt = ptradd v1, v3
           store32 v1 +20, v2
           v5:num 0..65535 = load16 v4 +24
           store16 v1 +40, v5
           ret 0
      ]]
      assert.falsy(source:find("barrier()", 1, true), "what cannot overlap needs none")
   end)

   it("keeps 64 bits where LuaJIT's traces lose some", function()
      check [[
         program "lost" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:num 0..4294967295 = load32 v1 +0
           v3:num 0..1 = and v2, 1
           br eq v3, 0 -> b2(29439, 0), b2(v2, v2)
         b2(v4:num 0..4294967295, v18:num 0..4294967295):
           v5:u64 = convert v4
           v6:u64 = shr v5, 33
           store64 v1 +8, v6
           v7:num 0..4294967295 = load32 v1 +24
           v8:u64 = convert v7
           v9:u64 = shl v8, 31
           v10:u64 = or v9, v8
           v11:u64 = and v10, 16777215ULL
           v12:u64 = shr v11, 35
           store64 v1 +16, v12
           v13:num 0..65535 = load16 v1 +32
           v14:num -65535..4294967295 = sub v18, v13
           v15:num 0..7 = and v14, 7
           store8 v1 +40, v15
           v16:i64 = convert v14
           v17:i64 = shl v16, 5
           store64 v1 +48, v17
           ret 0
      ]]
   end)

   it("takes paths by nil, by length and around loops", function()
      check [[
         program "paths" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:ptr pkt = pktend
           v3:num 0..65535 = pktlen
           v4:num 0..255 = load8 v1 +0
           br lt v4, 100 -> b2(), b3(nil)
         b2():
           v5:num 0..127 = and v4, 127
           v6:ptr pkt = ptradd v1, v5
           check v6 + 20 <= v2 -> b3(v6), b3(nil)
         b3(v7:ptr pkt):
           br eq v7, nil -> b4(), b5()
         b4():
           store8 v1 +1, v3
           ret 0
         b5():
           store32 v7 +4, 305419896
           jmp b6(0, 0)
         b6(v8:num 0..4, v9:num 0..4294967295) loop 4:
           br lt v8, 4 -> b7(), b8()
         b7():
           v10:ptr pkt = ptradd v7, v8
           v11:num 0..255 = load8 v10 +0
           v12:num 0..4294967295 = mul.32 v9, 31
           v13:num 0..4294967295 = add.32 v12, v11
           v14:num 1..5 = add v8, 1
           jmp b6(v14, v13)
         b8():
           ctxstore mark, v9
           ret 0
      ]]
   end)

   it("calls the engine: tables, counters, atomics", function()
      local hash = tw.hash { name = "spec_ir_hash", key = "u32", value = "u64", entries = 64 }
      local counters = tw.counters { name = "spec_ir_counters", size = 4 }
      local text = [[
         program "tables" target lcore
         b1():
           v1:ptr stack = alloca 8 align 8
           v2:ptr pkt = pktdata
           v3:num 0..255 = load8 v2 +0
           v4:num 0..3 = and v3, 3
           store64 v1 +0, v4
           v5:ptr value = call tw_hash_get(&"hash", v1, 0) reads stack table "hash"
           br eq v5, nil -> b2(), b3(v5)
         b2():
           v6:ptr stack = call spec_nothing() table "hash"
           jmp b4()
         b3(v7:ptr value):
           v8:u64 = load64 v7 +0
           v9:u64 = add v8, 1ULL
           store64 v7 +0, v9
           jmp b4()
         b4():
           v10:num 0..1 = call tw_hash_add(&"hash", v1, 100LL, 0) reads stack writes value table "hash"
           br ne v10, 0 -> b5(), b6()
         b5():
           v11:ptr mem = call counters_row() table "counters"
           v12:u64 = load64 v11 +8
           v13:u64 = add v12, 1ULL
           store64 v11 +8, v13
           ret 0
         b6():
           ret 0
      ]]
      text = text:gsub("[^\n]*spec_nothing[^\n]*\n", "")
      local program = lcore_ir.program(text, { hash = hash, counters = counters })
      local frames = {}
      for i = 1, 8 do frames[i] = string.char(i):rep(64) end
      local b = lcore_ir.burst(frames)
      lcore_ir.fill(b)
      local run, anchor = lcore_ir.lua(program, {}, b.burst)
      for _ = 1, 20 do run(8) end
      assert.truthy(anchor)
      for k = 0, 3 do assert.equal(40 * 101 - 1, tonumber(hash:get(k))) end
      assert.equal(160, counters:sum(1))
      hash:free()
      counters:free()
   end)

   it("has more constants than a Lua function has upvalues", function()
      local memory = ffi.new("uint32_t[?]", 100)
      local lines = { 'program "constants" target lcore', "b1():" }
      for i = 0, 99 do
         memory[i] = i
         local address = tonumber(ffi.cast("uintptr_t", memory + i))
         lines[#lines + 1] = ("v%d:num 0..4294967295 = load32 &0x%x +0"):format(2 * i + 1, address)
         lines[#lines + 1] = ("v%d:num 0..4294967295 = add.32 v%d, 1"):format(2 * i + 2, 2 * i + 1)
         lines[#lines + 1] = ("store32 &0x%x +0, v%d"):format(address, 2 * i + 2)
      end
      lines[#lines + 1] = "ret 0"
      local b = lcore_ir.burst { ("x"):rep(64) }
      lcore_ir.fill(b)
      local run = lcore_ir.lua(lcore_ir.program(table.concat(lines, "\n")), {}, b.burst)
      for _ = 1, 100 do run(1) end
      for i = 0, 99 do assert.equal(i + 100, memory[i]) end
   end)

   it("leaves out packets that have a verdict, and notes how far the others are", function()
      local program = lcore_ir.program [[
         program "middle" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:num 0..255 = load8 v1 +0
           store8 v1 +1, 77
           br lt v2, 128 -> b2(), b3()
         b2():
           ctxstore verdict, 257
           ctxstore stage, 3
           ret 0
         b3():
           ret 0
      ]]
      local b = lcore_ir.burst({ ("\1"):rep(64), ("\200"):rep(64), ("\3"):rep(64) }, { {}, {}, { verdict = 2 } })
      lcore_ir.fill(b)
      local run = lcore_ir.lua(program, { guard = true, resume = 4 }, b.burst)
      run(3)
      local pkts = b.burst.pkts
      assert.same({ 257, 0, 2 }, { pkts[0].verdict, pkts[1].verdict, pkts[2].verdict })
      assert.same({ 0, 4, 0 }, { pkts[0].resume, pkts[1].resume, pkts[2].resume })
      assert.same({ 77, 77, 3 }, { pkts[0].data[1], pkts[1].data[1], pkts[2].data[1] })
   end)

   it("makes loops that compile on an lcore, with nothing to abort, and allocate nothing", function()
      local segments_of = native.segments_of
      for _, seed in ipairs { 4, 6, 12, 17 } do
         local program = random.program(seed)
         native.segments_of = function() return { { first = 1, last = 1, ir = program } } end
         settings.compile = "luajit"
         local rig = rigs.new { ports = { "a" } }
         rig:chain("c", rig.a, tw.nf("any", function() return { packet = function() end } end) {})
         rig:start()
         native.segments_of, settings.compile = segments_of, "native"
         local frames = random.frames(32)
         local function load()
            for _ = 1, 10 do
               for i = 1, #frames do rig.a:inject(frames[i]) end
               rig:run()
            end
         end
         local _, aborts, where = rig:steady(load)
         assert.equal(0, aborts, where)
         local slot = engine.lcores[1].slot
         local least = math.huge -- a late trace or the collector may come in between
         for _ = 1, 5 do
            local heap = tonumber(abi.C.tw_lcore_heap(slot))
            for _ = 1, 20 do load() end
            least = math.min(least, tonumber(abi.C.tw_lcore_heap(slot)) - heap)
         end
         assert.is_true(least <= 1024, least .. " bytes for 6400 packets")
         rig:close()
      end
   end)

   it("makes functions that LuaJIT never gives up", function()
      for seed = 1, 40 do
         local b = lcore_ir.burst(random.frames(8))
         lcore_ir.fill(b)
         local run, anchor = lcore_ir.lua(random.program(seed), {}, b.burst)
         drive(run, 100)
         assert.truthy(anchor)
         for pc = 0, util.funcinfo(run).bytecodes - 1 do
            local op = bit.band(util.funcbc(run, pc), 0xff) * 6
            local name = require("jit.vmdef").bcnames:sub(op + 1, op + 6):match "%S+"
            assert(name ~= "IFORL" and name ~= "ILOOP" and name ~= "IFUNCF", ("program %d has %s"):format(seed, name))
         end
      end
   end)

   it("allocates nothing once its traces are there", function()
      local program = lcore_ir.program [[
         program "wide" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:u64 = load64 v1 +0
           v3:u64 = load64 v1 +8
           v4:u64 = mul v2, v3
           v5:u64 = xor v4, v2
           br ult v5, v3 -> b2(v5), b2(v4)
         b2(v6:u64):
           store64 v1 +16, v6
           ret 0
      ]]
      local b = lcore_ir.burst(random.frames(8))
      lcore_ir.fill(b)
      local run = lcore_ir.lua(program, {}, b.burst)
      local function grown_by(runs)
         collectgarbage()
         collectgarbage "stop"
         local before = collectgarbage "count"
         for _ = 1, runs do run(8) end
         local grown = collectgarbage "count" - before
         collectgarbage "restart"
         return grown
      end
      -- After what came before, LuaJIT may put a trace off, at random, and longer each time.
      local tries = 0
      repeat
         tries = tries + 1
      until grown_by(500) < 1 or tries == 200
      local grown = grown_by(1000)
      assert.is_true(grown < 20, grown .. " kB for 8000 packets")
   end)

   it("says when a program is too large", function()
      local lines = { 'program "large" target lcore', "b1():", "v1:ptr pkt = pktdata" }
      for i = 2, 202 do lines[#lines + 1] = ("v%d:num 0..65535 = load16 v1 +%d"):format(i, i) end
      for i = 2, 202 do
         lines[#lines + 1] = ("store16 v1 +%d, v%d"):format(i + 300, i)
         lines[#lines + 1] = ("store16 v1 +%d, v%d"):format(i + 600, i)
      end
      lines[#lines + 1] = "ret 0"
      local out, why = luajit.emit(lcore_ir.program(table.concat(lines, "\n")))
      assert.is_nil(out)
      assert.truthy(why:find("too large for LuaJIT", 1, true), why)
   end)

   it("reads and writes the fields of packet and burst", function()
      local program = lcore_ir.program [[
         program "fields" target lcore
         b1():
           v1:num 0..4294967295 = ctxload hash
           v2:num 0..4294967295 = ctxload mark
           v3:num 0..9007199254740992 = ctxload now
           v4:u64 = ctxload key
           v5:num 0..65535 = ctxload port
           v6:num 0..4294967295 = add.32 v1, v2
           ctxstore mark, v6
           v7:u64 = convert v3
           v8:u64 = add v7, v4
           ctxstore key, v8
           ctxstore out, v5
           ctxstore burst_stage, 5
           ctxstore odd, 1
           ret 0
      ]]
      local b = lcore_ir.burst({ ("x"):rep(64) }, { { hash = 4294967295, mark = 7, port = 9, key = 2ULL ^ 40 } })
      lcore_ir.fill(b)
      lcore_ir.lua(program, {}, b.burst)(1)
      local pkt = b.burst.pkts[0]
      assert.same({ 6, 9, 5, 1 }, { pkt.mark, pkt.out, b.burst.stage, b.burst.odd })
      assert.equal(ffi.cast("uint64_t", 123456789) + 2ULL ^ 40, pkt.key)
   end)
end)
