-- SPDX-License-Identifier: BSD-3-Clause
-- The eBPF back-end: IR in, and the kernel's verifier and BPF_PROG_TEST_RUN say whether what comes out is right.
local bit = require "bit"
local ffi = require "ffi"
local bpf = require "tideway.bpf"
local diagnostic = require "tideway.compiler.diagnostic"
local ebpf = require "tideway.compiler.back.ebpf"
local disasm = require "tideway.compiler.back.ebpf.disasm"
local ir = require "tideway.compiler.ir"
local kernel = require "tideway.compiler.target.kernel"
local run = require "tideway.compiler.ir.run"
local text = require "tideway.compiler.ir.text"
local verify = require "tideway.compiler.ir.verify"
local random = require "test.support.ir_random"
local posix = require "tideway.posix"

local root = posix.geteuid() == 0
local live = root and it or function(name) it(name, function() pending "needs root for bpf(2)" end) end

-- ---- tools ----

-- Traces of a compiler that runs once cost more than they give.
local function without_traces(f, ...)
   local on = jit.status()
   jit.off()
   local results = { pcall(f, ...) }
   if on then jit.on() end
   if not results[1] then error(results[2], 0) end
   return unpack(results, 2)
end

local function compile(source)
   return without_traces(function()
      local program = text.parse(source)
      assert(verify.verify(program))
      return ebpf.compile(program, program.target), program
   end)
end

-- Loads a compiled program, with the maps of its tables by name.
local function load(object, type, maps, options)
   local relocs = {}
   for i, r in ipairs(object.relocs) do
      relocs[i] = { insn = r.insn, map = assert(maps[r.table.name], "no map " .. r.table.name), value = r.value }
   end
   local loaded, err = bpf.program.load { name = "spec", type = type, insns = object.insns, count = object.count,
      relocs = relocs, lines = object.lines, license = "GPL", attach_type = options and options.attach }
   if not loaded then error(disasm.listing(object) .. tostring(err) .. "\n" .. err.log:sub(-2000), 0) end
   return loaded
end

-- Result and frame of one run in the kernel, of a program's text.
local function execute(source, data, maps, options)
   local object, program = compile(source)
   local loaded = load(object, program.target, maps or {}, options)
   local result, out = loaded:test(data, options)
   loaded:close()
   return result, out, object
end

local function frame(size, seed)
   local bytes = {}
   for i = 1, size do
      seed = (seed * 1103515245 + 12345) % 2147483648
      bytes[i] = string.char(math.floor(seed / 65536) % 256)
   end
   return table.concat(bytes)
end

-- Runs in the kernel and in the interpreter: same result, same bytes.
local function same(source, data, note)
   local got, out = execute(source, data)
   local want, expected = run.run(text.parse(source), { data = data, call = function() return 0 end })
   if got ~= tonumber(want) or out ~= expected then
      local at = {}
      for i = 1, #data do if out:byte(i) ~= expected:byte(i) then at[#at + 1] = i - 1 end end
      error(("%s: kernel returns %s, should be %s; bytes that differ: %s\n%s"):format(note or "", got, tostring(want),
         table.concat(at, " "), source), 2)
   end
end

-- A program around lines that may use v1 (frame, `size` bytes) and v2 (its end).
local function around(lines, size, target)
   local objects = {}
   lines = ("\n" .. lines):gsub("\n( *v%d+:ptr stack = alloca[^\n]*)", function(line)
      objects[#objects + 1] = line .. "\n"
      return ""
   end)
   return ([[
program "spec" target %s
b1():
  v1:ptr pkt = pktdata
  v2:ptr pkt = pktend
%s  check v1 + %d <= v2 -> b2(), b3()
b3():
  ret 0
b2():]]):format(target or "xdp", table.concat(objects), size or 64) .. lines .. "\n"
end

local function u64(n) return ffi.string(ffi.new("uint64_t[1]", n), 8) end

local function read64(s, off) return ffi.cast("uint64_t *", ffi.cast("const char *", s) + off)[0] end

local WIDE = { 0ULL, 1ULL, 2ULL, 127ULL, 128ULL, 255ULL, 65536ULL, 0x7fffffffULL, 0x80000000ULL, 0xffffffffULL,
   0x100000000ULL, 0x7fffffffffffffffULL, 0x8000000000000000ULL, 0xffffffff80000000ULL, 0xffffffff7fffffffULL,
   0xffffffffffffffffULL, 0x123456789abcdef0ULL }

local FEW = { 1ULL, 8ULL, 0x7fffffffULL, 0x80000000ULL, 0xffffffffULL, 0xffffffff80000000ULL, 0xffffffffffffffffULL }

local function wide(n) return ("0x%sULL"):format(bit.tohex(n, 16)) end

-- ---- arithmetic ----

local TRUTH = {
   add = function(a, b) return a + b end, sub = function(a, b) return a - b end,
   mul = function(a, b) return a * b end, div = function(a, b) return a / b end, mod = function(a, b) return a % b end,
   ["and"] = bit.band, ["or"] = bit.bor, xor = bit.bxor,
   shl = function(a, b) return bit.lshift(a, tonumber(b)) end,
   shr = function(a, b) return bit.rshift(a, tonumber(b)) end,
   sar = function(a, b) return bit.arshift(a, tonumber(b)) end,
}

local function low(n) return bit.band(n, 0xffffffffULL) end

-- Lines that compute `op` in all four ways (both operands in registers, either or both constants), stored at 16..
local function four_ways(op, w, a, b)
   local suffix = w == 32 and ".32" or ""
   local type = w == 32 and "num 0..4294967295" or "u64"
   local lines = { "  v10:u64 = load64 v1 +0", "  v11:u64 = load64 v1 +8" }
   for i, operands in ipairs { "v10, v11", ("v10, %s"):format(wide(b)), ("%s, v11"):format(wide(a)),
      ("%s, %s"):format(wide(a), wide(b)) } do
      lines[#lines + 1] = ("  v%d:%s = %s%s %s"):format(20 + i, type, op, suffix, operands)
      lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(8 + 8 * i, 20 + i)
   end
   lines[#lines + 1] = "  ret 0"
   return around(table.concat(lines, "\n"))
end

local function expected(op, w, a, b)
   if w == 64 then return TRUTH[op](a, b) end
   if op == "sar" then
      local signed = ffi.cast("int64_t", ffi.cast("int32_t", a))
      return low(ffi.cast("uint64_t", bit.arshift(signed, tonumber(b))))
   end
   return low(TRUTH[op](low(a), low(b)))
end

local function check_op(op, w)
   for _, a in ipairs(WIDE) do
      for _, b in ipairs(FEW) do
         if op:find "^s[ha]" then b = b % w elseif op == "div" or op == "mod" then b = bit.bor(b, 1ULL) end
         local _, out = execute(four_ways(op, w, a, b), u64(a) .. u64(b) .. ("\0"):rep(48))
         for way = 1, 4 do
            local got = read64(out, 8 + 8 * way)
            if got ~= expected(op, w, a, b) then
               error(("%s%d %s, %s, way %d: got %s, want %s"):format(op, w, wide(a), wide(b), way, wide(got),
                  wide(expected(op, w, a, b))))
            end
         end
      end
   end
end

describe("eBPF back-end: operations", function()
   for op in pairs(TRUTH) do
      for _, w in ipairs { 64, 32 } do
         live(("%s on %d bits, of registers and constants"):format(op, w), function() check_op(op, w) end)
      end
   end

   live("sext, zext, bswap of every width", function()
      for _, a in ipairs(WIDE) do
         for _, bits in ipairs { 8, 16, 32 } do
            same(around(([[
  v10:u64 = load64 v1 +0
  v11:num %d..%d = sext%d v10
  store64 v1 +16, v11
  v12:num 0..%d = zext%d v10
  store64 v1 +24, v12
  v13:num 0..4294967295 = load32 v1 +0
  v14:num %d..%d = sext%d v13
  store64 v1 +32, v14
  ret 1]]):format(-2 ^ (bits - 1), 2 ^ (bits - 1) - 1, bits, 2 ^ bits - 1, bits, -2 ^ (bits - 1),
               2 ^ (bits - 1) - 1, bits)), u64(a) .. ("\0"):rep(56))
         end
         same(around [[
  v10:u64 = load64 v1 +0
  v11:u64 = bswap64 v10
  store64 v1 +16, v11
  v12:num 0..65535 = bswap16 v10
  store64 v1 +24, v12
  v13:num 0..4294967295 = bswap32 v10
  store64 v1 +32, v13
  ret 1]], u64(a) .. ("\0"):rep(56))
      end
   end)

   live("extensions of which only the low half is looked at, and what looks at all of them", function()
      for _, a in ipairs(WIDE) do
         same(around [[
  v10:u64 = load64 v1 +0
  v11:num 0..4294967295 = zext32 v10
  v12:num 0..4294967295 = zext32 v11
  store64 v1 +8, v12
  v13:num 0..268435455 = shr v11, 4
  store64 v1 +16, v13
  v14:num 0..613566756 = div v11, 7
  store64 v1 +24, v14
  v15:num -2147483648..2147483647 = sext32 v10
  v16:num -2147483648..2147483647 = sext32 v15
  store64 v1 +32, v16
  v17:num -2147483648..6442450942 = add v11, v15
  v18:num 0..4294967295 = or v11, 2147483649
  store32 v1 +40, v17
  v19:num 0..4294967295 = zext32 v17
  store64 v1 +44, v19
  v20:num 0..4294967295 = xor.32 v18, 5
  store64 v1 +52, v20
  ret 1]], u64(a) .. ("\0"):rep(56))
         same(around [[
  v10:u64 = load64 v1 +0
  v11:num 0..4294967295 = zext32 v10
  jmp b4(0, v11)
b4(v20:num 0..3, v21:num 0..4294967295) loop 3:
  br lt v20, 3 -> b5(), b6()
b5():
  v22:num 1..3 = add v20, 1
  v23:num -2147483648..2147483647 = sext32 v21
  v24:num -2147483648..2147483652 = add v23, 5
  v25:num 0..4294967295 = zext32 v24
  jmp b4(v22, v25)
b6():
  v26:num 0..134217727 = shr v21, 5
  store64 v1 +8, v26
  ret 1]], u64(a) .. ("\0"):rep(56))
      end
   end)

   live("loads and stores of every width, of values and constants", function()
      local lines, at = {}, 32
      for i, bits in ipairs { 8, 16, 32 } do
         lines[#lines + 1] = ("  v%d:num 0..%.0f = load%d v1 +%d"):format(10 + i, 2 ^ bits - 1, bits, i)
         for _, value in ipairs { "v" .. 10 + i, "v20", "-1", "-2", "4294967295", "0x123456789abcdef0ULL" } do
            lines[#lines + 1] = ("  store%d v1 +%d, %s"):format(bits, at, value)
            at = at + bits / 8
         end
      end
      for _, value in ipairs { "v20", "-1", "2147483648", "0x123456789abcdef0ULL" } do
         lines[#lines + 1] = ("  store64 v1 +%d, %s"):format(at, value)
         at = at + 8
      end
      same(around("  v20:u64 = load64 v1 +7\n" .. table.concat(lines, "\n") .. "\n  ret 5", at), frame(at, 7))
   end)

   live("the stack at any offset, through any width", function()
      local lines = { "  v5:ptr stack = alloca 32 align 8" }
      for off = 0, 24, 8 do lines[#lines + 1] = ("  store64 v5 +%d, %d"):format(off, off) end
      local id = 10
      for _, bits in ipairs { 16, 32, 64 } do
         for off = 0, 9 do
            lines[#lines + 1] = ("  v%d:u64 = load64 v1 +%d"):format(id, off)
            lines[#lines + 1] = ("  store%d v5 +%d, v%d"):format(bits, off, id)
            lines[#lines + 1] = ("  store%d v5 +%d, 0x8899aabbccddeeffULL"):format(bits, off + 13)
            lines[#lines + 1] = ("  v%d:%s = load%d v5 +%d"):format(id + 1,
               bits == 64 and "u64" or ("num 0..%.0f"):format(2 ^ bits - 1), bits, off + 9)
            lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(32 + off * 8, id + 1)
            id = id + 2
         end
      end
      same(around(table.concat(lines, "\n") .. "\n  ret 5", 128), frame(128, 3))
   end)
end)

-- ---- control ----

local CONDITIONS = { "eq", "ne", "lt", "le", "gt", "ge", "ult", "ule", "ugt", "uge" }

-- A chain of branches; each that is taken sets a bit of the result.
local function branches(list, before)
   local lines, b, v = { before, "  jmp b10(0)" }, 10, 100
   for i, condition in ipairs(list) do
      lines[#lines + 1] = ("b%d(v%d:num 0..%.0f):"):format(b, v, 2 ^ 40)
      lines[#lines + 1] = ("  %s -> b%d(), b%d(v%d)"):format(condition, b + 1, b + 2, v)
      lines[#lines + 1] = ("b%d():"):format(b + 1)
      lines[#lines + 1] = ("  v%d:num 0..%.0f = add v%d, %.0f"):format(v + 1, 2 ^ 40, v, 2 ^ (i - 1))
      lines[#lines + 1] = ("  jmp b%d(v%d)"):format(b + 2, v + 1)
      b, v = b + 2, v + 2
   end
   lines[#lines + 1] = ("b%d(v%d:num 0..%.0f):"):format(b, v, 2 ^ 40)
   lines[#lines + 1] = ("  store64 v1 +16, v%d"):format(v)
   lines[#lines + 1] = "  ret 7"
   return around(table.concat(lines, "\n"))
end

describe("eBPF back-end: control", function()
   live("every comparison, of registers and constants, on 64 and 32 bits", function()
      for _, a in ipairs(WIDE) do
         for _, b in ipairs(FEW) do
            for _, w in ipairs { "", ".32" } do
               local list = {}
               for _, cc in ipairs(CONDITIONS) do
                  list[#list + 1] = ("br%s %s v10, v11"):format(w, cc)
                  list[#list + 1] = ("br%s %s v10, %s"):format(w, cc, wide(b))
                  list[#list + 1] = ("br%s %s %s, v11"):format(w, cc, wide(a))
               end
               same(branches(list, "  v10:u64 = load64 v1 +0\n  v11:u64 = load64 v1 +8"),
                  u64(a) .. u64(b) .. ("\0"):rep(48), wide(a) .. " " .. wide(b))
            end
         end
      end
   end)

   live("comparisons of nums: unsigned where both are, signed else", function()
      local list = {}
      for _, cc in ipairs { "eq", "ne", "lt", "le", "gt", "ge" } do
         for _, pair in ipairs { "v10, v11", "v10, 2147483648", "v10, 4294967295", "v10, -1", "v12, v10", "v12, -5",
            "v12, 3000000000", "4294967296, v10" } do
            list[#list + 1] = ("br %s %s"):format(cc, pair)
         end
      end
      for _, first in ipairs { list, { unpack(list, 25) } } do
         for _, data in ipairs { u64(0x80000000ULL), u64(0xffffffffULL), u64(0ULL), u64(0x80000000ffffffffULL) } do
            same(branches({ unpack(first, 1, 24) }, [[
  v10:num 0..4294967295 = load32 v1 +0
  v11:num 0..4294967295 = load32 v1 +4
  v12:num -2147483648..2147483647 = sext32 v10]]), data .. ("\0"):rep(56))
         end
      end
   end)

   live("bit tests in a branch, of every mask", function()
      local list = {}
      for _, mask in ipairs { "1", "128", "2147483648", "4294967295", "0x8000000000000000ULL",
         "0xffffffff80000000ULL" } do
         for _, cc in ipairs { "eq", "ne" } do
            list[#list + 1] = { mask, cc, #list % 2 == 0 }
         end
      end
      for i, t in ipairs(list) do
         for _, a in ipairs(WIDE) do
            same(around(([[
  v10:u64 = load64 v1 +0
  v11:u64 = and v10, %s
  br %s v11, 0ULL -> b4(), b5()
b4():
  %s
  ret 1
b5():
  ret 2]]):format(t[1]:gsub("^%d+$", "%0ULL"), t[2], t[3] and "store64 v1 +8, v10" or "store64 v1 +8, v11")),
               u64(a) .. ("\0"):rep(56), "test " .. i)
         end
      end
   end)

   live("comparisons and bit tests of extensions", function()
      local list = {}
      for _, cc in ipairs(CONDITIONS) do
         for _, pair in ipairs { "v12, 5", "v12, -5", "v12, v13", "7, v13", "v14, 5", "v14, 4294967290", "v14, v15",
            "v12, v14", "v16, 0", "v17, 0" } do
            list[#list + 1] = ("br %s %s"):format(cc, pair)
         end
      end
      for first = 1, #list, 20 do
         for _, a in ipairs { 5ULL, 0x800000005ULL, 0xfffffffbULL, 0x1fffffffaULL, 0x80000000ULL } do
            for _, b in ipairs { 0x700000005ULL, 0xffffffffULL } do
               same(branches({ unpack(list, first, first + 19) }, [[
  v10:u64 = load64 v1 +0
  v11:u64 = load64 v1 +8
  v12:num -2147483648..2147483647 = sext32 v10
  v13:num -2147483648..2147483647 = sext32 v11
  v14:num 0..4294967295 = zext32 v10
  v15:num 0..4294967295 = zext32 v11
  v18:num -2147483648..2147483647 = sext32 v10
  v16:num -2147483648..2147483647 = and v18, -16711681
  v19:num -2147483648..2147483647 = sext32 v11
  v17:num 0..2147483647 = and v19, 2147418112]]), u64(a) .. u64(b) .. ("\0"):rep(48))
            end
         end
      end
      for _, a in ipairs(WIDE) do
         for _, mask in ipairs { "-16711681", "-2147483648", "2147483647", "65535" } do
            same(around(([[
  v10:u64 = load64 v1 +0
  v18:num -2147483648..2147483647 = sext32 v10
  v16:num -2147483648..2147483647 = and v18, %s
  br eq v16, 0 -> b4(), b5()
b4():
  ret 1
b5():
  ret 2]]):format(mask), 16), u64(a) .. ("\0"):rep(8))
         end
      end
   end)

   live("values change places round a loop", function()
      local source = around [[
  v10:u64 = load64 v1 +0
  v11:u64 = load64 v1 +8
  v12:u64 = load64 v1 +16
  jmp b4(0, v10, v11, v12, 5ULL)
b4(v20:num 0..7, v21:u64, v22:u64, v23:u64, v24:u64) loop 7:
  br lt v20, 7 -> b5(), b6()
b5():
  v25:num 1..7 = add v20, 1
  v26:u64 = add v24, v21
  jmp b4(v25, v22, v21, v26, v23)
b6():
  store64 v1 +24, v21
  store64 v1 +32, v22
  store64 v1 +40, v23
  store64 v1 +48, v24
  ret 4]]
      same(source, frame(64, 11))
   end)

   live("arguments that are constants and addresses on the stack", function()
      same(around [[
  v5:ptr stack = alloca 8 align 8
  v6:ptr stack = alloca 8 align 8
  v10:num 0..255 = load8 v1 +0
  store64 v5 +0, 11
  store64 v6 +0, 22
  br gt v10, 100 -> b4(v5, 3, v10), b4(v6, v10, 3)
b4(v20:ptr stack, v21:num 0..255, v22:num 0..255):
  v23:u64 = load64 v20 +0
  store64 v1 +8, v23
  store64 v1 +16, v21
  store64 v1 +24, v22
  ret 4]], "\200" .. frame(63, 1))
      same(around [[
  v10:num 0..255 = load8 v1 +0
  br gt v10, 100 -> b4(v1, 0), b4(v1, v10)
b4(v20:ptr pkt, v21:num 0..255):
  store64 v1 +16, v21
  ret 4]], "\50" .. frame(63, 1))
   end)
end)

-- ---- registers and the stack ----

describe("eBPF back-end: registers", function()
   live("thirty values alive across a call", function()
      local lines = {}
      for i = 0, 29 do lines[#lines + 1] = ("  v%d:u64 = load64 v1 +%d"):format(10 + i, i) end
      lines[#lines + 1] = "  call ktime_get_ns()"
      for i = 0, 29 do lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(64 + 8 * i, 39 - i) end
      local source = around(table.concat(lines, "\n") .. "\n  ret 5", 320)
      same(source, frame(320, 5))
      local object = compile(source)
      assert.is_true(object.spills > 0 and object.stack > 0 and object.stack <= 512)
   end)

   live("what is made anew needs no stack", function()
      local lines = {}
      for i = 0, 15 do
         lines[#lines + 1] = ("  v%d:u64 = load64 v1 +%d"):format(10 + i, i * 8)
         lines[#lines + 1] = ("  v%d:u64 = xor v%d, 0x123456789abcdef0ULL"):format(40 + i, 10 + i)
         lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(i * 8, 40 + i)
      end
      local source = around(table.concat(lines, "\n") .. "\n  ret 5", 128)
      same(source, frame(128, 5))
      assert.equal(0, compile(source).spills)
   end)

   live("objects that are not in use together lie at the same place", function()
      local function half(b, v)
         local lines = { ("b%d():"):format(b) }
         for off = 0, 296, 8 do lines[#lines + 1] = ("  store64 v%d +%d, %d"):format(v, off, off + b) end
         lines[#lines + 1] = ("  v%d:u64 = load64 v%d +160"):format(20 + b, v)
         lines[#lines + 1] = ("  store64 v1 +8, v%d"):format(20 + b)
         lines[#lines + 1] = "  jmp b9()"
         return table.concat(lines, "\n")
      end
      local source = around([[
  v5:ptr stack = alloca 304 align 8
  v6:ptr stack = alloca 304 align 8
  v10:num 0..255 = load8 v1 +0
  br gt v10, 100 -> b4(), b5()
]] .. half(4, 5) .. "\n" .. half(5, 6) .. "\nb9():\n  ret 4")
      same(source, frame(64, 1))
      assert.equal(304, compile(source).stack)
   end)

   it("says how much stack there is when it is not enough", function()
      local lines = {}
      for i = 5, 6 do
         lines[#lines + 1] = ("  v%d:ptr stack = alloca 304 align 8"):format(i)
         lines[#lines + 1] = ("  store64 v%d +0, 0"):format(i)
      end
      for i = 5, 6 do lines[#lines + 1] = ("  v%d:u64 = load64 v%d +0"):format(i + 10, i) end
      local ok, err = pcall(compile, around(table.concat(lines, "\n") .. [[

  store64 v1 +0, v15
  store64 v1 +8, v16
  ret 0]]))
      assert.is_false(ok)
      assert.is_true(diagnostic.is(err))
      assert.match("needs 608 bytes of stack, a program in the kernel has 512", tostring(err))
   end)
end)

describe("eBPF back-end: shape", function()
   local function count(source) return compile(source).count end

   live("a copy goes before its branch, an end that is there twice is shared", function()
      local source = around [[
  v10:num 0..255 = load8 v1 +0
  br eq v10, 5 -> b4(7), b4(9)
b4(v20:num 7..9):
  store8 v1 +1, v20
  br eq v10, 6 -> b5(), b6()
b5():
  store32 v1 +4, 1
  store32 v1 +8, 2
  store32 v1 +12, 3
  store32 v1 +16, 4
  ret 1
b6():
  store32 v1 +4, 5
  store32 v1 +8, 2
  store32 v1 +12, 3
  store32 v1 +16, 4
  ret 1]]
      for _, first in ipairs { "\5", "\6", "\7" } do same(source, first .. frame(63, 4)) end
      local listing = disasm.listing(compile(source))
      assert.equal(1, select(2, listing:gsub("r%d %+16%) = 4", "")))
      assert.equal(21, count(source))
   end)

   live("the register that dies is the one that is overwritten", function()
      assert.equal(count(around "  v10:u64 = load64 v1 +0\n  v11:u64 = load64 v1 +8\n  v12:u64 = add v10, v11\n" ..
         "  store64 v1 +0, v12\n  store64 v1 +8, v10\n  ret 0"), count(around
         "  v10:u64 = load64 v1 +0\n  v11:u64 = load64 v1 +8\n  v12:u64 = add v11, v10\n" ..
         "  store64 v1 +0, v12\n  store64 v1 +8, v10\n  ret 0"))
   end)

   live("a value needed behind a call is loaded once there, and stored only on the way to the call", function()
      local lines = {}
      for i = 0, 5 do lines[#lines + 1] = ("  v%d:u64 = load64 v1 +%d"):format(10 + i, i * 8) end
      lines[#lines + 1] = "  br eq v10, 0ULL -> b5(), b4()\nb4():\n  call ktime_get_ns()"
      for i = 0, 5 do
         lines[#lines + 1] = ("  v%d:u64 = add v%d, %dULL\n  v%d:u64 = xor v%d, v%d"):format(20 + i, 10 + i, i + 3,
            30 + i, 20 + i, 10 + i)
         lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(i * 8, 30 + i)
      end
      local source = around(table.concat(lines, "\n") .. "\n  ret 1\nb5():\n  ret 2")
      same(source, frame(64, 3))
      same(source, ("\0"):rep(64))
      local object = compile(source)
      assert.equal(6, object.spills)
      local listing = disasm.listing(object)
      assert.is_true(listing:find("if r%d+ == 0") < listing:find("r10 %-%d+%) = "))
   end)
end)

-- ---- atomics, calls, tables ----

describe("eBPF back-end: memory that is shared", function()
   live("atomics with and without the old value, 32 and 64 bits", function()
      for _, bits in ipairs { 32, 64 } do
         local lines = { "  v5:ptr stack = alloca 8 align 8", "  v10:u64 = load64 v1 +0", "  v11:u64 = load64 v1 +8",
            "  store64 v5 +0, v10" }
         local id, at, type = 20, 16, bits == 64 and "u64" or "num 0..4294967295"
         for _, kind in ipairs { "add", "or", "and", "xor" } do
            lines[#lines + 1] = ("  atomic %s%d v5 +0, v11"):format(kind, bits)
            lines[#lines + 1] = ("  v%d:u64 = load64 v5 +0"):format(id)
            lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(at, id)
            lines[#lines + 1] = ("  v%d:%s = atomic %s%d v5 +0, 4097"):format(id + 1, type, kind, bits)
            lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(at + 8, id + 1)
            id, at = id + 2, at + 16
         end
         for _, args in ipairs { "xchg%d v5 +0, v11", "cmpxchg%d v5 +0, v11, 77", "cmpxchg%d v5 +0, v11, v10" } do
            lines[#lines + 1] = ("  v%d:%s = atomic " .. args):format(id, type, bits)
            lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(at, id)
            lines[#lines + 1] = ("  v%d:u64 = load64 v5 +0"):format(id + 1)
            lines[#lines + 1] = ("  store64 v1 +%d, v%d"):format(at + 8, id + 1)
            id, at = id + 2, at + 16
         end
         for _, b in ipairs { 0ULL, 0xffffffffULL, 0x123456789abcdef0ULL } do
            same(around(table.concat(lines, "\n") .. "\n  ret 5", 128),
               u64(0x8877665544332211ULL) .. u64(b) .. ("\0"):rep(112))
         end
      end
   end)

   live("a table: look up, test for nil, change in place, insert", function()
      local map = assert(bpf.map.new { kind = "hash", name = "spec", key = "u32 a; u32 b", value = "u64 n; u64 m",
         entries = 8 })
      local source = around [[
  v5:ptr stack = alloca 8 align 8
  v10:num 0..4294967295 = load32 v1 +0
  store32 v5 +0, v10
  store32 v5 +4, 7
  v11:ptr value = call map_lookup_elem(&"flows", v5) reads stack table "flows"
  br eq v11, nil -> b4(), b5()
b4():
  v6:ptr stack = alloca 16 align 8
  store64 v6 +0, 1
  store64 v6 +8, 0x1122334455667788ULL
  call map_update_elem(&"flows", v5, v6, 0) reads stack writes value table "flows"
  ret 1
b5():
  atomic add64 v11 +0, 1
  v12:u64 = load64 v11 +0
  v13:u64 = mul v12, 3ULL
  store64 v11 +8, v13
  ret 2]]
      local object = compile(source)
      assert.equal(2, #object.relocs)
      assert.equal("flows", object.relocs[1].table.name)
      local loaded = load(object, "xdp", { flows = map })
      local data = "\1\2\3\4" .. ("\0"):rep(60)
      assert.equal(1, (loaded:test(data)))
      assert.equal(2, (loaded:test(data)))
      assert.equal(2, (loaded:test(data)))
      local value = map:get(0x04030201, 7)
      assert.equal("3ULL", tostring(value.n))
      assert.equal("9ULL", tostring(value.m))
      loaded:close()
      map:free()
   end)

   live("a table's only value, without a look-up", function()
      local map = assert(bpf.map.new { kind = "array", name = "spec", value = "u64 n; u64 m", entries = 1 })
      local program = ir.program("direct", "xdp")
      local block = ir.block(program)
      local at = ir.const(0, "ptr", { object = { name = "state" }, direct = 8, space = "value" })
      local before = ir.value(program, "load", "u64", { at }, { bits = 64, off = 0 })
      local after = ir.value(program, "add", "u64", { before, ir.const(3, "u64") })
      block.insts = { before, after, ir.value(program, "store", "void", { at, after }, { bits = 64, off = 0 }) }
      block.term = { op = "ret", args = { ir.const(2) } }
      local object = ebpf.compile(program, "xdp")
      assert.equal("value", object.relocs[1].kind)
      local loaded = load(object, "xdp", { state = map })
      for _ = 1, 2 do assert.equal(2, (loaded:test(("\0"):rep(14)))) end
      assert.equal("6ULL", tostring(map:get(0).m))
      assert.equal("0ULL", tostring(map:get(0).n))
      loaded:close()
      map:free()
   end)

   live("the frame grows: new data and end, old values stay", function()
      local result, out = execute([[
program "grow" target xdp
b1():
  v1:ptr pkt = pktdata
  v2:ptr pkt = pktend
  v3:num 0..65535 = pktlen
  v30:ptr ctx = ctxload ctx
  check v1 + 14 <= v2 -> b2(), b3()
b2():
  v4:num 0..65535 = load16 v1 +12
  v5:num -2147483648..2147483647 = call xdp_adjust_head(v30, -8) writes pkt resizes
  br ne v5, 0 -> b3(), b4()
b4():
  v6:ptr pkt = pktdata
  v7:ptr pkt = pktend
  check v6 + 22 <= v7 -> b5(), b3()
b5():
  v8:num 0..65535 = pktlen
  store16 v6 +0, v4
  store16 v6 +2, v3
  store16 v6 +4, v8
  ret 2
b3():
  ret 1]], ("\0"):rep(12) .. "\8\6" .. ("\0"):rep(50))
      assert.equal(2, result)
      assert.equal(72, #out)
      assert.equal("\8\6\64\0\72\0", out:sub(1, 6))
   end)
end)

-- ---- what the verifier has to be shown ----

describe("eBPF back-end: bounds that the verifier does not see", function()
   local function at(lines)
      return around(lines .. [[

  v20:ptr pkt = ptradd v1, v19
  check v20 + 4 <= v2 -> b4(), b5()
b4():
  v21:num 0..4294967295 = load32 v20 +0
  store32 v1 +0, v21
  ret 1
b5():
  ret 2]])
   end

   local INDEX = {
      ["behind a byte swap"] = "  v18:num 0..65535 = load16 v1 +16\n  v19:num 0..65535 = bswap16 v18",
      ["behind a byte swap and a sum"] = [[
  v18:num 0..65535 = load16 v1 +16
  v17:num 0..65535 = bswap16 v18
  v16:num 0..1023 = and v17, 1023
  v19:num 14..1037 = add v16, 14]],
      ["behind a remainder"] = "  v18:num 0..255 = load8 v1 +16\n  v19:num 0..42 = mod v18, 43",
      ["behind a division"] = "  v18:num 0..65535 = load16 v1 +16\n  v19:num 0..6553 = div v18, 10",
      ["behind a long range"] = "  v18:num 0..65535 = load16 v1 +16\n  v19:num 0..65535 = zext16 v18",
      ["from the frame's length"] = "  v18:num 0..65535 = pktlen\n  v19:num 0..65535 = zext16 v18",
      ["from 64 bits of memory"] = "  v19:num 0..40 = load64 v1 +40",
      ["from a helper"] = "  v18:num 0..1023 = call get_smp_processor_id()\n  v19:num 0..63 = shr v18, 4",
   }
   for what, lines in pairs(INDEX) do
      live("an index " .. what, function()
         for _, value in ipairs { "\0\0", "\0\10", "\10\0", "\0\60", "\61\0", "\255\255", "\255\0" } do
            local data = frame(16, 3) .. value .. frame(22, 9) .. "\7\0\0\0\0\0\0\0" .. frame(32, 8)
            same(at(lines), data, what)
         end
      end)
   end

   live("an index into a table's value, to its last byte", function()
      local map = assert(bpf.map.new { kind = "array", name = "spec", value = "u64 a; u64 b; u64 c; u64 d; u64 e",
         entries = 1 })
      local object = compile(around [[
  v5:ptr stack = alloca 4 align 4
  v10:num 0..255 = load8 v1 +0
  store32 v5 +0, 0
  v11:ptr value = call map_lookup_elem(&"cells", v5) reads stack table "cells"
  br eq v11, nil -> b4(), b5()
b4():
  ret 1
b5():
  v12:num 0..9 = mod v10, 10
  v13:num 0..36 = mul v12, 4
  v14:ptr value = ptradd v11, v13
  store32 v14 +0, 4294967295
  ret 2]])
      local loaded = load(object, "xdp", { cells = map })
      for _, n in ipairs { 0, 9, 255 } do assert.equal(2, (loaded:test(string.char(n) .. ("\0"):rep(63)))) end
      local value = map:get(0)
      assert.equal("4294967295ULL", tostring(value.a))
      assert.equal(tostring(0xffffffff00000000ULL), tostring(value.c))
      assert.equal(tostring(0xffffffff00000000ULL), tostring(value.e))
      loaded:close()
      map:free()
   end)

   live("offsets that no load can hold", function()
      local data = frame(64, 9)
      same(around [[
  v10:ptr pkt = ptradd v1, 40000
  check v10 + 8 <= v2 -> b4(), b5()
b4():
  v11:num 0..255 = load8 v10 +7
  ret v11
b5():
  v12:ptr pkt = ptradd v1, 20
  v13:ptr pkt = ptradd v12, 30
  check v13 + 4 <= v2 -> b6(), b7()
b6():
  v14:num 0..255 = load8 v13 +3
  store8 v12 +1, v14
  ret v14
b7():
  ret 3]], data)
   end)

   live("an index that a branch has bounded, round a loop too", function()
      same(around([[
  jmp b6(34)
b6(v10:num 0..65535) loop 4:
  v11:ptr pkt = ptradd v1, v10
  check v11 + 2 <= v2 -> b4(), b5()
b4():
  v12:num 0..255 = load8 v11 +1
  br gt v12, 20 -> b7(), b8()
b8():
  br lt v12, 1 -> b7(), b9()
b9():
  v13:num 0..65790 = add v10, v12
  br ge v13, 60 -> b7(), b10(v13)
b10(v14:num 0..59):
  jmp b6(v14)
b5():
  ret 2
b7():
  store8 v1 +0, v12
  ret 1]], 34), frame(34, 3) .. "\4\8\6\7\9\20\4\10\3\9\1\11\5\9\7\2\4\17\21\8\9\10\30\1\12\9\8\7\2\11")
   end)
end)

-- ---- hooks ----

describe("eBPF back-end: hooks", function()
   live("every field of every context can be read, and written where it says so", function()
      for name, target in pairs(kernel.hooks) do
         for field, f in pairs(target.fields) do
            if not f.attach and f.type ~= "ptr" then
               local object = compile(([[
program "fields" target %s
b1():
  v1:%s = ctxload %s
%s  ret 0]]):format(name, f.bits == 64 and "u64" or ("num 0..%.0f"):format(2 ^ f.bits - 1), field,
                  f.write and ("  ctxstore %s, v1\n"):format(field) or ""))
               load(object, name, {}):close()
            end
         end
      end
   end)

   live("packet bytes are read, and written where a hook has them", function()
      for name, target in pairs(kernel.hooks) do
         if target.packet then
            local write = target.writable and "  store8 v1 +1, v10\n" or ""
            load(compile(around("  v10:num 0..255 = load8 v1 +0\n" .. write .. "  v11:num 0..1 = and v10, 1\n  ret v11",
               16, name)), name, {}):close()
         end
      end
   end)

   live("tc: length, mark, and the frame", function()
      local object = compile(around([[
  v10:num 0..65535 = pktlen
  v11:num 0..4294967295 = ctxload mark
  store16 v1 +0, v10
  v12:num 0..4294967295 = add.32 v11, 1
  ctxstore mark, v12
  ret 0]], 16, "tc"))
      local loaded = load(object, "tc", {})
      local result, out, _, ctx = loaded:test(("\0"):rep(80), { ctx = { mark = 41 } })
      loaded:close()
      assert.equal(0, result)
      assert.equal("\80\0", out:sub(1, 2))
      assert.equal(42, ctx.mark)
   end)

   it("refuses helpers and fields that are not there, and says where they are", function()
      local ok, err = pcall(compile, "program \"x\" target tc\nb1():\n  call xdp_adjust_head(5)\n  ret 0")
      assert.is_false(ok)
      assert.match("tc: the kernel has no helper xdp_adjust_head here", tostring(err))
      assert.match("xdp_adjust_head is there on xdp", tostring(err))
      ok, err = pcall(compile, "program \"x\" target xdp\nb1():\n  v1:num 0..9 = ctxload mark\n  ret v1")
      assert.is_false(ok)
      assert.match("xdp has no context field mark", tostring(err))
      assert.match("rx_queue_index", tostring(err))
      ok, err = pcall(compile, "program \"x\" target tc\nb1():\n  ctxstore len, 1\n  ret 0")
      assert.is_false(ok)
      assert.match("the context field len is read%-only", tostring(err))
   end)
end)

-- ---- what it tells about the program ----

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

describe("eBPF back-end: the object", function()
   live("is as short as it can be", function()
      local data = ("\0"):rep(12) .. "\8\0" .. ("\0"):rep(8) .. "\64" .. ("\0"):rep(41)
      local result, out, object = execute(TTL, data)
      assert.equal(2, result)
      assert.equal(63, out:byte(23))
      assert.equal(1, (execute(TTL, (data:gsub("\64", "\1")))))
      assert.equal(15, object.count)
      assert.equal(0, object.stack)
   end)

   it("lists as the verifier does, with the lines of the source", function()
      local program = text.parse(TTL)
      for _, block in ipairs(program.blocks) do
         for i, v in ipairs(block.insts) do v.pos = { file = "ttl.lua", line = block.id * 10 + i, col = 1 } end
      end
      local listing = disasm.listing(ebpf.compile(program, "xdp"), function(file, line) return file .. line end)
      assert.match("; ttl.lua:41  ttl.lua41\n +7: r1 = %*%(u8 %*%)%(r2 %+22%)\n", listing)
      assert.match("4: if r1 > r3 goto pc%+%d+ <%d+>\n", listing)
      assert.match("r0 = 2\n +%d+: exit\n", listing)
   end)

   it("knows the variables in the registers before each instruction, and where each line begins", function()
      local program = text.parse(TTL)
      for _, block in ipairs(program.blocks) do
         for _, v in ipairs(block.insts) do
            v.name = ({ "data", "last", "ether", "ttl", nil, "less" })[v.id]
            v.pos = { file = "ttl.lua", line = v.id, col = 4 }
         end
      end
      local object = ebpf.compile(program, "xdp")
      assert.same({ [1] = "ctx" }, object.names(0))
      assert.same({ [1] = "ctx", [2] = "data" }, object.names(1))
      assert.same({ [1] = "ether", [2] = "data" }, object.names(6))
      assert.same({ [1] = "less", [2] = "data" }, object.names(10))
      assert.same({ insn = 0, pos = { file = "ttl.lua", line = 1, col = 4 } }, object.lines[1])
      assert.equal(1, object.blocks[1].id)
   end)
end)

-- ---- random programs ----

describe("eBPF back-end: random programs", function()
   live("compute what the interpreter does", function()
      for seed = 1, 200 do
         local source = random.program(seed, { size = 7, loops = 1 })
         same(source, frame(random.FRAME, seed), "seed " .. seed)
      end
   end)
end)
