-- SPDX-License-Identifier: BSD-3-Clause
local ir = require "tideway.compiler.ir"
local proof = require "tideway.compiler.ir.proof"
local run = require "tideway.compiler.ir.run"
local text = require "tideway.compiler.ir.text"
local verify = require "tideway.compiler.ir.verify"

local TTL = [[
program "ttl" target xdp
b1():
  v1:ptr pkt = pktdata
  v2:ptr pkt = pktend
  check v1 + 34 <= v2 -> b2(), b3()
b2():
  v3:num 0..65535 = load16 v1 +12
  br eq v3, 8 -> b4(), b3()
b4():
  v4:num 0..255 = load8 v1 +22
  br le v4, 1 -> b5(), b6(v4)
b5():
  ret 1
b6(v5:num 2..255):
  v6:num 1..254 = sub v5, 1
  store8 v1 +22, v6
  jmp b3()
b3():
  ret 2
]]

local EVERYTHING = [[
program "all" target tc
b1():
  v1:ptr stack = alloca 16 align 8
  store64 v1 +8, 0xffffffffffffffffULL
  v2:num 0..65535 = pktlen
  v3:num 0..4294967295 = shl.32 v2, 2
  v4:num -2147483648..2147483647 = sext32 v3
  v5:u64 = convert v4
  v6:u64 = add v5, -5ULL
  v7:ptr value = call tw_hash_get(v1, &"cfg") reads stack table "flows"
  br ne v7, nil -> b2(0, v6), b3(v4)
b2(v8:num 0..16, v9:u64) loop 16:
  v10:u64 = atomic add64 v7 +8, 1ULL
  atomic cmpxchg32 v7 -4, 1, 2
  v11:i64 = load64 v7 +0
  v12:ptr pkt = pktdata
  v13:ptr pkt = ptradd v12, 14
  call tw_adjust(v13, 4) pure reads pkt
  call tw_adjust(4) writes stack,value resizes
  v17:ptr ctx = ctx
  ctxstore mark, v2
  v14:num 0..5 = ctxload queue
  v15:num 1..16 = add v8, 1
  br.32 ult v15, v14 -> b2(v15, v10), b3(v15)
b3(v16:num -2147483648..2147483647):
  ret v16
]]

local function parse(source)
   local program, why = text.parse(source)
   assert(program, why)
   return program
end

local function changed(source, from, to)
   local start, stop = source:find(from, 1, true)
   assert(start, from)
   return source:sub(1, start - 1) .. to .. source:sub(stop + 1)
end

describe("IR as text", function()
   it("is read as it was printed", function()
      assert.equal(TTL, text.print(parse(TTL)))
      assert.equal((EVERYTHING:gsub("%-5ULL", "0xfffffffffffffffbULL")), text.print(parse(EVERYTHING)))
   end)

   it("may have comments, and shows names and positions in them", function()
      local program = parse((TTL:gsub("\n", "  ; remark\n\n")))
      assert.equal(TTL, text.print(program))
      local v = program.blocks[1].insts[1]
      v.name, v.pos = "pkt", { file = "a.lua", line = 3, col = 5 }
      assert.truthy(text.print(program, { remarks = true }):find("v1:ptr pkt = pktdata  ; pkt a.lua:3:5\n", 1, true))
   end)

   it("takes the tables that are given by name", function()
      local flows, cfg = { name = "flows" }, { name = "cfg" }
      local program = assert(text.parse(EVERYTHING, { flows = flows, cfg = cfg }))
      local call = program.blocks[1].insts[8]
      assert.equal(flows, call.table)
      assert.equal(cfg, call.args[2].object)
   end)

   it("keeps the constants of 64 bits exact", function()
      local args = parse(EVERYTHING).blocks[1].insts[2].args
      assert.equal("18446744073709551615ULL", tostring(args[2].value))
      assert.equal(1, parse(EVERYTHING).blocks[2].insts[1].args[2].value)
   end)

   for what, case in pairs {
      ["an operation it does not know"] = { "sub v5", "minus v5", "line 15: no operation 'minus'" },
      ["a value that is not defined"] = { "sub v5", "sub v50", "line 15: v50 is not defined" },
      ["a value that is defined twice"] = { "v4:num", "v3:num", "line 10: v3 has been defined" },
      ["a block that is not there"] = { "jmp b3", "jmp b9", "line 17: b9 is not defined" },
      ["a condition it does not know"] = { "br le", "br less", "line 11: no condition 'less'" },
      ["a type it does not know"] = { "v4:num", "v4:int", "line 10: no type 'int'" },
      ["a pointer without a space"] = { "v1:ptr pkt", "v1:ptr", "line 3: a space" },
      ["a rest at the end of a line"] = { "ret 1", "ret 1 1", "line 13: end of the line expected" },
      ["a line outside of a block"] = { "b1():\n", "", "line 2: a block" },
   } do
      it("refuses " .. what, function()
         local program, why = text.parse(changed(TTL, case[1], case[2]))
         assert.is_nil(program)
         assert.equal(case[3], why:sub(1, #case[3]))
      end)
   end
end)

describe("IR verifier", function()
   it("passes what is well formed", function()
      assert.is_true(verify(parse(TTL)))
      assert.is_true(verify.verify(parse(EVERYTHING)))
   end)

   for what, case in pairs {
      ["a use that is not dominated"] = { "jmp b3()\nb3():\n", "jmp b3()\nb3():\n  store8 v1 +22, v6\n",
         "v6, defined in b6, does not dominate" },
      ["a use before its definition"] = { "b1():\n", "b1():\n  v9:num 0..255 = load8 v1 +0\n",
         "v1, defined in b1, does not dominate" },
      ["operands of two types"] = { "br eq v3, 8", "br eq v3, 8ULL", "v3 and a constant are of types num and u64" },
      ["a comparison of pointers"] = { "br eq v3, 8", "br lt v1, nil", "a pointer can only be compared with nil" },
      ["an argument too many"] = { "b6(v4)", "b6(v4, v4)", "2 arguments to b6, 1 needed" },
      ["an argument of another type"] = { "b6(v4)", "b6(v1)", "v1 is ptr, v5 is num" },
      ["a way back to no loop"] = { "jmp b3()", "jmp b2()", "which is no loop" },
      ["a way back to the entry"] = { "jmp b3()", "jmp b1()", "goes to the entry block" },
      ["a range beyond 2^53"] = { "num 1..254", "num 1..9007199254740994", "has range" },
      ["a range upside down"] = { "num 1..254", "num 9..2", "has range" },
      ["a load of odd width"] = { "load8", "load24", "bits is 24" },
      ["a check against no end"] = { "<= v2", "<= v1", "v1 is no pktend" },
      ["an offset beyond 16 bits"] = { "load8 v1 +22", "load8 v1 +70000", "off is 70000" },
      ["arithmetic on pointers"] = { "sub v5, 1", "sub v1, 1", "operand 1 is ptr, no integer" },
   } do
      it("finds " .. what, function()
         local ok, why = verify(parse(changed(TTL, case[1], case[2])))
         assert.is_nil(ok)
         assert.truthy(why:find(case[3], 1, true), why)
      end)
   end

   it("finds a check of a pointer that may be far behind the frame", function()
      local source = changed(TTL, "  check v1",
         "  v7:num -4..70000 = ctxload x\n  v8:ptr pkt = ptradd v1, v7\n  check v8")
      local _, why = verify(parse(source))
      assert.truthy(why:find("v8 adds -4..70000 to the pointer", 1, true), why)
   end)

   it("finds a num without a range and an alloca outside of the entry", function()
      local program = parse(TTL)
      program.blocks[2].insts[1].hi = nil
      local _, why = verify(program)
      assert.truthy(why:find("v3 is num without a range", 1, true), why)
      _, why = verify(parse(changed(TTL, "  v3:num", "  v9:ptr stack = alloca 8 align 8\n  v3:num")))
      assert.truthy(why:find("stands outside of the entry block", 1, true), why)
   end)
end)

describe("IR proof", function()
   it("passes accesses behind checks, and finds others", function()
      assert.is_true(proof(parse(TTL)))
      local _, why = proof(parse(changed(TTL, "+ 34", "+ 22")))
      assert.equal("b4: v4:num 0..255 = load8 v1 +22: only 22 bytes are proved", why)
      assert.is_true(proof(parse(changed(TTL, "+ 34", "+ 22"):gsub("xdp", "lcore"))))
   end)

   local JOINED = [[
program "x" target xdp
b1():
  v1:ptr pkt = pktdata
  v2:ptr pkt = pktend
  v3:num 0..9 = ctxload x
  check v1 + 34 <= v2 -> b2(), b5()
b2():
  v4:ptr pkt = ptradd v1, 14
  br eq v3, 0 -> b4(v4), b3()
b3():
  v5:ptr pkt = ptradd v1, v3
  check v5 + 20 <= v2 -> b4(v5), b5()
b4(v6:ptr pkt):
  v7:num 0..255 = load8 v6 +19
  ret v7
b5():
  ret 0
]]
   it("follows pointers through parameters", function()
      assert.is_true(proof(parse(JOINED)))
      local _, why = proof(parse(changed(JOINED, "+ 20", "+ 19")))
      assert.truthy(why:find("only 19 bytes", 1, true), why)
      _, why = proof(parse(changed(JOINED, "ptradd v1, 14", "ptradd v1, 15")))
      assert.truthy(why:find("only 19 bytes", 1, true), why)
      _, why = proof(parse(changed(JOINED, "load8 v6 +19", "load8 v6 -1")))
      assert.truthy(why:find("v6 -1", 1, true), why)
   end)
end)

describe("IR interpreter", function()
   local FRAME = ("\0"):rep(12) .. "\8\0" .. ("\0"):rep(8) .. "\5" .. ("\0"):rep(20)

   local function fails(source, options, what)
      local ok, why = pcall(run.run, parse(source), options)
      assert.is_false(ok)
      assert.truthy(tostring(why):find(what, 1, true), tostring(why))
   end

   it("runs a program on a frame", function()
      local ret, frame = run.run(parse(TTL), { data = FRAME })
      assert.equal(2, ret)
      assert.equal(4, frame:byte(23))
      assert.equal(2, (run.run(parse(TTL), { data = FRAME:sub(1, 33) })))
      assert.equal(1, (run.run(parse(TTL), { data = FRAME:sub(1, 22) .. "\1" .. FRAME:sub(24) })))
   end)

   it("refuses bytes that no check has proved", function()
      fails(changed(TTL, "+ 34", "+ 22"), { data = FRAME }, "packet bytes 22..22")
      fails(changed(TTL, "load8 v1 +22", "load8 v1 -1"), { data = FRAME }, "packet bytes -1..-1")
      assert.equal(2, (run.run(parse(changed(TTL, "+ 34", "+ 22")), { data = FRAME, checked = false })))
   end)

   it("refuses a value outside of its range", function()
      fails(changed(TTL, "num 2..255", "num 2..4"), { data = FRAME }, "v5 is 5, its range is 2..4")
   end)

   it("refuses packet pointers from before a resize", function()
      local source = changed(TTL, "  v4:num", "  call grow() resizes\n  v4:num")
      fails(source, { data = FRAME, call = function() end }, "a dead packet pointer is used")
   end)

   local function one(body) return 'program "x" target xdp\nb1():\n' .. body .. "\n  ret 0\n" end

   it("refuses stack bytes that were never written", function()
      local source = one "  v1:ptr stack = alloca 8 align 8\n  store8 v1 +0, 1\n  v2:num 0..65535 = load16 v1 +0"
      fails(source, {}, "stack byte 1 has never been written")
      fails(one "  v1:ptr stack = alloca 8 align 8\n  call f(v1) reads stack", {
         call = function(_, args) args[1]:read(0, 8) end,
      }, "has never been written")
   end)

   it("refuses nil, division by 0 and shifts too far", function()
      fails(one "  v1:ptr value = call f()\n  v2:num 0..255 = load8 v1 +0", { call = function() end }, "nil is used")
      fails(one "  v1:num 0..9 = ctxload x\n  v2:num 0..9 = div 5, v1", { ctx = { x = 0 } }, "division by 0")
      fails(one "  v1:num 0..99 = ctxload x\n  v2:num = shl 5, v1", { ctx = { x = 64 } }, "shift by 64")
   end)

   it("counts the rounds of a loop", function()
      local source = [[
program "loop" target xdp
b1():
  jmp b2(0)
b2(v1:num 0..10) loop 10:
  v2:num 1..11 = add v1, 1
  br lt v2, 11 -> b2(v2), b3()
b3():
  ret v1
]]
      assert.equal(10, (run.run(parse(source), {})))
      fails(changed(source, "loop 10", "loop 9"), {}, "goes round more than 9 times")
   end)

   it("computes as the machine does", function()
      local function value(op, x)
         local body = ("b1():\n  v1:i64 = ctxload x\n  v2:i64 = %s\n  ret v2\n"):format(op)
         local program = parse('program "x" target xdp\n' .. body)
         assert(verify(program))
         return tostring((run.run(program, { ctx = { x = x } })))
      end
      assert.equal("-1", value("sext8 v1", 0x1ff))
      assert.equal("255", value("zext8 v1", 0x1ff))
      assert.equal("513", value("bswap16 v1", 0x30102))
      assert.equal("67305985", value("bswap32 v1", 0x01020304))
      assert.equal("4294967295", value("sub.32 v1, 2LL", 1))
      assert.equal("-1", value("sub v1, 2LL", 1))
      assert.equal("4294967280", value("sar.32 v1, 4", 0xffffff00))
      assert.equal("72057594037927935LL", value("shr v1, 8", -1))
      assert.equal("1", value("mod v1, 2LL", -1)) -- unsigned
   end)
end)

describe("IR value", function()
   it("has a range when it is a constant num", function()
      local c = ir.const(7)
      assert.same({ 7, 7, "num" }, { c.lo, c.hi, c.type })
   end)
end)
