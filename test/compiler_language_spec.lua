-- SPDX-License-Identifier: BSD-3-Clause
-- The language, construct by construct: one small NF each, with answers that are known, on all back-ends.
--
-- A body gets `n`, the first four bytes of the frame, and leaves its result in `r`, which the NF writes over them
-- (modulo 2^32). answers: { [n] = r }.

local backends = require "test.support.backends"
local frame = require "test.support.frame"

-- 14 bytes of Ethernet, IPv4, UDP; `n` stands where the destination address begins.
local function packet_of(n)
   local i = { src = "10.1.2.3", dst = "192.0.2.9", ttl = 9, id = 0x1234, tos = 0x5a }
   local f = frame.udp4({ src = "02:aa:bb:cc:dd:ee" }, i, { sport = 0x0102, dport = 4500 }, "payload of 21 bytes..")
   return frame.u32(n) .. f:sub(5)
end

local TEXT = [[
%s
local tables = TABLES
return { tables = tables, fill = FILL, packet = function(pkt)
   local n = pkt:u32(0)
   if not n then return end
   local r = 0
   do
%s
   end
   pkt:set_u32(0, r %% 4294967296)
end }]]

local cases, outcomes = {}, {}

local function sorted_keys(t)
   local list = {}
   for k in pairs(t) do list[#list + 1] = k end
   table.sort(list)
   return list
end

-- All NFs that are known by now at once: one call of the C compiler for each block of tests.
local function run_all()
   local jobs, first = {}, #outcomes + 1
   for i = first, #cases do
      local frames = {}
      for k, n in ipairs(cases[i].inputs) do frames[k] = packet_of(n) end
      jobs[#jobs + 1] = { text = cases[i].text, frames = frames }
   end
   for i, outcome in ipairs(backends.run(jobs)) do outcomes[first + i - 1] = outcome end
end

local function check(case)
   if not outcomes[case.index] then run_all() end
   local outcome = outcomes[case.index]
   local failure = outcome.failure
   assert.is_nil(failure and ("%s on %s: %s\n%s"):format(failure.kind, failure.where, failure.text, case.text))
   for _, name in ipairs(case.places) do
      local why = outcome.refused[name] or outcome.refused.lcore
      assert.truthy(outcome.ran[name], ("%s: %s"):format(name, tostring(why)))
   end
   for i, n in ipairs(case.inputs) do
      local got = outcome.want.packets[i]
      if case.check then
         case.check(got, n)
      else
         local r = 0
         for k = 1, 4 do r = r * 256 + got.data:byte(k) end
         assert.equal(case.answers[n] % 2 ^ 32, r, ("n = %.0f\n%s"):format(n, case.text))
      end
   end
end

-- options: head (what stands before the function), inputs and check(result, n) in the place of answers, places
local function gives(name, body, answers, options)
   options = options or {}
   local case = {
      text = TEXT:format(options.head or "", body), answers = answers, index = #cases + 1, check = options.check,
      inputs = options.inputs or sorted_keys(answers), places = options.places or backends.all,
   }
   cases[case.index] = case
   it(name, function() check(case) end)
end

local BIG = 4294967295

describe("arithmetic:", function()
   gives("sums, differences, products", "r = (n + 3) * 2 - 1", { [0] = 5, [10] = 25 })
   gives("negative results", "r = 5 - n", { [3] = 2, [9] = -4 })
   gives("unary minus", "r = -n + 1", { [0] = 1, [5] = -4 })
   gives("numbers beyond 32 bits", "local x = n * 65536 r = math.floor(x / 65536)", { [BIG] = BIG, [7] = 7 })
   gives("floor of a quotient", "r = math.floor(n / 7)", { [0] = 0, [6] = 0, [7] = 1, [BIG] = 613566756 })
   gives("floor by a power of two, of negative numbers too", "r = math.floor((5 - n) / 4)", { [0] = 1, [6] = -1, [9] = -1, [10] = -2 })
   gives("floor of a product with a negative power of two", "r = math.floor(n * 2^-16)", { [65535] = 0, [65536] = 1 })
   gives("remainder", "r = n % 10", { [0] = 0, [19] = 9, [BIG] = 5 })
   gives("remainder of a negative number", "r = (5 - n) % 3", { [5] = 0, [6] = 2, [7] = 1, [4] = 1 })
   gives("remainder by a power of two of a negative number", "r = (0 - n) % 8", { [0] = 0, [1] = 7, [8] = 0 })
   gives("division by a number that was tested", "if n ~= 0 then r = math.floor(100 / n) end", { [0] = 0, [7] = 14 })
   gives("math.min and math.max", "r = math.max(10, math.min(n, 20))", { [0] = 10, [15] = 15, [99] = 20 })
   gives("math.min of three", "r = math.min(n, 7, 3)", { [2] = 2, [9] = 3 })
   gives("math.abs", "r = math.abs(5 - n)", { [2] = 3, [9] = 4 })
   gives("constants are folded", "r = 3 * 4 + 2^10 / 4 - 7 % 4", { [0] = 265 })
   gives("multiplication by 0 and 1", "r = n * 0 + n * 1", { [5] = 5 })
   gives("hexadecimal and exponents", "r = 0xff + 1e3", { [0] = 1255 })
end)

describe("bit operations:", function()
   gives("band, bor, bxor", "r = bit.bxor(bit.bor(bit.band(n, 0xff), 0x100), 1)", { [0x1234] = 0x135 })
   gives("results are signed", "r = bit.band(n, 0xffffffff) < 0 and 1 or 2", { [0x80000000] = 1, [1] = 2 })
   gives("more than two operands", "r = bit.bor(n, 1, 2, 4)", { [8] = 15 })
   gives("bnot", "r = bit.bnot(n)", { [0] = -1, [5] = -6 })
   gives("lshift into the sign", "r = bit.lshift(n, 31) < 0 and 1 or 0", { [1] = 1, [2] = 0 })
   gives("rshift of a number with the sign bit", "r = bit.rshift(n, 28)", { [0xf0000000] = 15 })
   gives("arshift of a negative number", "r = bit.arshift(bit.tobit(n), 4)", { [0xffffff00] = -16, [32] = 2 })
   gives("shift counts are taken modulo 32", "r = bit.lshift(1, n)", { [0] = 1, [33] = 2, [63] = -2147483648 })
   gives("rol and ror", "r = bit.ror(bit.rol(n, 9), 4)", { [1] = 32, [0x80000000] = 16 })
   gives("rotation by a variable", "r = bit.rol(0x12345678, n)", { [0] = 0x12345678, [8] = 0x34567812, [32] = 0x12345678 })
   gives("bswap", "r = bit.bswap(n)", { [0x11223344] = 0x44332211, [0xff] = 0xff000000 })
   gives("tobit", "r = bit.tobit(n) < 0 and 1 or 0", { [0x80000000] = 1, [0x7fffffff] = 0 })
   gives("short names of the functions", "r = band(n, 15)", { [31] = 15 }, { head = "local band = bit.band" })
end)

describe("64-bit integers:", function()
   gives("wrap around", "local x = n + 0xffffffffffffffffULL r = tonumber(bit.band(x, 0xffffffffULL))", { [0] = BIG, [5] = 4 })
   gives("multiplication", "local x = (n + 0ULL) * 0x100000001ULL r = tonumber(bit.rshift(x, 32))", { [9] = 9 })
   gives("division and remainder", "local x = n + 0ULL r = tonumber(bit.band(x / 7ULL * 10ULL + x % 7ULL, 0xffffffffULL))", { [23] = 32 })
   gives("division by one that was tested", "local x = n + 0ULL if x ~= 0 then r = tonumber(bit.band(100ULL / x, 255ULL)) end",
      { [0] = 0, [7] = 14 })
   gives("unsigned comparison", "local x = 0ULL - (n + 0ULL) r = x > 5ULL and 1 or 2", { [0] = 2, [1] = 1 })
   gives("signed comparison", "local x = 0LL - n r = x > 5LL and 1 or 2", { [0] = 2, [1] = 2 })
   gives("shifts", "r = tonumber(bit.rshift(bit.lshift(n + 0ULL, 40), 40))", { [255] = 255 })
   gives("arithmetic shift", "r = tonumber(bit.band(bit.arshift(0LL - n, 1), 0xffffLL))", { [4] = 65534 })
   gives("bnot and bswap", "r = tonumber(bit.rshift(bit.bswap(bit.bnot(n + 0ULL)), 56))", { [1] = 254 })
   gives("shift counts are taken modulo 64", "r = tonumber(bit.lshift(1ULL, n) % 0x10000ULL)", { [1] = 2, [65] = 2 })
   gives("equality with a number", "local x = n + 0ULL r = x == 5 and 1 or 0", { [5] = 1, [6] = 0 })
   gives("negation", "local x = -(n + 0ULL) r = tonumber(bit.band(x, 0xffULL))", { [1] = 255 })
end)

describe("conditions:", function()
   gives("all comparisons", [[
   if n < 5 then r = r + 1 end
   if n <= 5 then r = r + 10 end
   if n > 5 then r = r + 100 end
   if n >= 5 then r = r + 1000 end
   if n == 5 then r = r + 10000 end
   if n ~= 5 then r = r + 100000 end]], { [4] = 100011, [5] = 11010, [6] = 101100 })
   gives("elseif and else", "if n == 1 then r = 10 elseif n == 2 then r = 20 else r = 30 end", { [1] = 10, [2] = 20, [3] = 30 })
   gives("and, or, not", "if (n > 3 and n < 7) or not (n ~= 100) then r = 1 end", { [3] = 0, [5] = 1, [7] = 0, [100] = 1 })
   gives("comparisons are values", "local small = n < 10 local even = n % 2 == 0 if small == even then r = 1 end", { [2] = 1, [3] = 0, [11] = 1 })
   gives("and, or as values", "r = n > 5 and n or 7", { [3] = 7, [9] = 9 })
   gives("0 is true", "r = n and 1 or 2", { [0] = 1 })
   gives("a value or nil", "local x if n > 5 then x = n end r = x or 77", { [5] = 77, [6] = 6 })
   gives("false or nil or a number", "local x = n > 5 and (n > 10 and n or nil) if x == nil then r = 1 elseif x == false then r = 2 else r = x end",
      { [3] = 2, [8] = 1, [12] = 12 })
   gives("not of a value that may be nil", "local x if n > 5 then x = 0 end r = not x and 1 or 2", { [5] = 1, [6] = 2 })
   gives("nil is not equal to numbers", "local x if n > 5 then x = n end r = x == 6 and 1 or 2", { [5] = 2, [6] = 1, [7] = 2 })
   gives("short circuits", "local v = pkt:u8(n) r = v and v + 1 or 500", { [1000] = 500, [12] = 9 })
end)

describe("variables:", function()
   gives("several at once", "local a, b, c = n, 2 r = a * 10 + b + (c == nil and 100 or 0)", { [1] = 112 })
   gives("swap", "local a, b = n, 3 a, b = b, a r = a * 100 + b", { [7] = 307 })
   gives("shadowing", "local x = n do local x = x + 1 r = x end r = r * 100 + x", { [3] = 403 })
   gives("scopes of blocks", "local x = 1 if n > 0 then local x = 5 x = x + n else x = 9 end r = x", { [0] = 9, [3] = 1 })
   gives("constants of the constructor", "r = n + K + (ON and 1 or 0)", { [1] = 43 }, { head = "local K, ON = 41, true" })
   gives("fields of constant tables", "r = n * cfg.factor + cfg.sub.more", { [2] = 27 },
      { head = "local cfg = { factor = 10, sub = { more = 7 } }" })
   gives("the length of a constant table", "r = #list", { [0] = 3 }, { head = "local list = { 4, 5, 6 }" })
end)

describe("loops:", function()
   gives("for, unrolled", "for i = 1, 4 do r = r + i * n end", { [1] = 10, [3] = 30 })
   gives("for with a step", "for i = 1, 10, 3 do r = r * 10 + i end", { [0] = 1 * 1000 + 4 * 100 + 7 * 10 + 10 })
   gives("for downwards", "for i = 3, 1, -1 do r = r * 10 + i end", { [0] = 321 })
   gives("for that does not run", "r = 5 for i = 3, 1 do r = i end", { [0] = 5 })
   gives("for, long", "for i = 1, 200 do r = bit.band(r + i, 0xffff) end", { [0] = 20100 })
   gives("for up to a variable", "for i = 1, n % 16 do r = r + i end", { [0] = 0, [5] = 15, [31] = 120 })
   gives("for from a variable", "for i = n % 8, 10 do r = r + 1 end", { [0] = 11, [7] = 4 })
   gives("the variable of a loop is one's own in each round", "for i = 1, 3 do local k = i i = i + 5 r = r + i * 10 + k end", { [0] = 60 + 150 + 6 })
   gives("while", "local i = 0 while i < n % 20 do i = i + 3 end r = i", { [0] = 0, [7] = 9, [19] = 21 })
   gives("while downwards", "local i = n % 100 while i > 0 do i = i - 7 r = r + 1 end", { [0] = 0, [50] = 8 })
   gives("repeat", "local i = 0 repeat i = i + 2 until i >= n % 30 r = i", { [0] = 2, [7] = 8 })
   gives("repeat sees its variables at the end", "local i = 0 repeat i = i + 1 local done = i * i > n % 90 until done or i > 20 r = i", { [10] = 4 })
   gives("break", "for i = 1, 50 do if i * i > n % 1000 then break end r = i end", { [10] = 3, [99] = 9 })
   gives("goto continue", "for i = 1, 10 do if i % 2 == n % 2 then goto continue end r = r + i ::continue:: end", { [0] = 25, [1] = 30 })
   gives("goto forwards", "r = 1 if n > 5 then goto done end r = 2 ::done::", { [3] = 2, [9] = 1 })
   gives("loops in loops", "for i = 1, 3 do for j = 1, n % 5 do r = r + i * j end end", { [0] = 0, [3] = 36 })
   gives("return from a loop", "for i = 0, 13 do if pkt:u8(i) == 0xbb then pkt:set_u32(0, i) return end end r = 99", { [0] = 8 })
   gives("ipairs of a constant table", "for i, v in ipairs(list) do if n == v then r = i end end", { [20] = 2, [5] = 0 },
      { head = "local list = { 10, 20, 30 }" })
   gives("bytes of the frame", "for i = 14, 33 do r = bit.band(r + (pkt:u8(i) or 0), 0xffff) end", nil,
      { inputs = { 0 }, check = function(got)
         local sum = 0
         for i = 15, 34 do sum = sum + got.data:byte(i) end
         assert.equal(frame.hex(frame.u32(sum)), frame.hex(got.data:sub(1, 4)))
      end })
end)

describe("functions:", function()
   gives("a local function outside", "r = double(n) + double(1)", { [4] = 10 }, { head = "local function double(x) return x * 2 end" })
   gives("a local function inside", "local function add(x) return x + n end r = add(add(1))", { [5] = 11 })
   gives("an assignment to a variable outside of it", "local function more(x) r = r + x end more(n) more(1)", { [5] = 6 })
   gives("several results", "local a, b = both(n) r = a * 1000 + b", { [17] = 2003 },
      { head = "local function both(x) return math.floor(x / 7), x % 7 end" })
   gives("results that are nil", "local a, b = maybe(n) r = a and a + b or 1", { [3] = 1, [9] = 19 },
      { head = "local function maybe(x) if x > 5 then return x, 10 end end" })
   gives("only the first result in an expression", "r = (two(n)) + two(n)", { [3] = 6 }, { head = "local function two(x) return x, 9 end" })
   gives("all results as arguments", "r = sum(two(n))", { [3] = 12 },
      { head = "local function two(x) return x, 9 end\nlocal function sum(a, b) return a + b end" })
   gives("missing arguments are nil", "r = second(n)", { [0] = 5 }, { head = "local function second(a, b) if b == nil then return 5 end return b end" })
   gives("varargs", "r = pick(n, 20, 30)", { [1] = 51 }, { head = "local function pick(...) local a, b, c = ... return a + b + c end" })
   gives("early returns", "r = size(n)", { [5] = 1, [50] = 2, [500] = 3 },
      { head = "local function size(x)\n if x < 10 then return 1 end\n if x < 100 then return 2 end\n return 3\nend" })
   gives("functions as arguments", "r = twice(function(x) return x * 3 end, n)", { [2] = 18 },
      { head = "local function twice(f, x) return f(f(x)) end" })
   gives("functions in a constant table", "r = ops.add(n, 4)", { [3] = 7 }, { head = "local ops = { add = function(a, b) return a + b end }" })
   gives("the packet as an argument", "r = ttl_of(pkt)", { [0] = 9 },
      { head = "local function ttl_of(pkt) local ip = pkt:ipv4() return ip and ip.ttl or 0 end" })
   gives("views as arguments and results", "local ip = v4(pkt) if ip then r = ttl(ip) end", { [0] = 9 },
      { head = "local function v4(pkt) return pkt:ipv4() end\nlocal function ttl(ip) return ip.ttl end" })
   gives("methods of strings that are constant", "r = #NAME", { [0] = 4 }, { head = "local NAME = 'name'" })
end)

describe("headers:", function()
   gives("fields read as host numbers", "local ip = pkt:ipv4() r = ip and ip.id or 0", { [0] = 0x1234 })
   gives("parts of bytes", "local ip = pkt:ipv4() r = ip and ip.version * 100 + ip.ihl or 0", { [0] = 405 })
   gives("parts of a byte written", "local ip = pkt:ipv4() if ip then ip.ecn = n r = ip.tos end", { [1] = 0x59, [7] = 0x5b })
   gives("writing truncates", "local ip = pkt:ipv4() if ip then ip.id = n r = ip.id end", { [0x12345] = 0x2345 })
   gives("addresses", "local ip = pkt:ipv4() if ip then r = ip.src - A end", { [0] = 2 }, { head = "local A = tw.ip4 '10.1.2.1'" })
   gives("MAC addresses", "local e = pkt:eth() if e then r = e.src - M end", { [0] = 1 }, { head = "local M = tw.mac '02:aa:bb:cc:dd:ed'" })
   gives("a header of one's own", [[
   local h = pkt:header(own, 6)
   if h then r = h.a * 10000 + h.b * 100 + h.c end]], { [0] = 0x02 * 10000 + 10 * 100 + 0xa }, { head = "local own = tw.header('lang_own', 'u8 a; u4 b; u4 c')" })
   gives("bits over bytes", "local h = pkt:header(own, 6) if h then r = h.a * 16 + h.b end", { [0] = 0x02aabb },
      { head = "local own = tw.header('lang_odd', 'u20 a; u4 b')" })
   gives("u24 and little-endian", "local h = pkt:header(own, 6) if h then r = h.a - h.b end", { [0] = 0x02aabb - 0xddcc },
      { head = "local own = tw.header('lang_le', 'u24 a; le16 b')" })
   gives("64-bit fields", "local h = pkt:header(own, 6) if h then r = tonumber(bit.rshift(h.q, 48)) end", { [0] = 0x02aa },
      { head = "local own = tw.header('lang_wide', 'be64 q')" })
   gives("a header that does not fit is nil", "local h = pkt:header(own, n) r = h and 1 or 2", { [0] = 1, [60] = 2, [BIG] = 2 },
      { head = "local own = tw.header('lang_fit', 'be32 a; be32 b')" })
   gives("one of two views", "local h = pkt:tcp() or pkt:udp() if h then r = h.dst_port end", { [0] = 4500 })
   gives("methods of views", "local ip = pkt:ipv4() if ip then ip.ttl = n % 256 ip:update_checksum() r = ip:valid_checksum() and 1 or 2 end", { [3] = 1 })
   gives("a view that may be nil is there where another one is that reaches farther", [[
   local e = pkt:eth()
   r = e and e.type == 1 and 5 or 0
   local ip = pkt:ipv4()
   if ip then r = r + pkt:eth().type end]], { [0] = 0x0800 })
   gives("a view and an entry that may be nil are there where more of the frame is", [[
   local e, entry = pkt:eth(), nil
   if pkt.len >= 40 then
      entry = T:get(n)
      if not entry then return end
   end
   T:set(3, 1, 2)
   if e and e.type == 1 then return end
   T:set(2, 3, 4)
   if pkt:ipv4() then pkt:eth().type = 0x0801 end
   if pkt:u16(50) then
      entry.a = entry.a + n
      r = entry.a * 10 + pkt:eth().type % 10
   end]], { [1] = 89, [4] = 49 }, {
      head = "local T = tw.array { name = 't', value = 'u32 a; u32 b', entries = 5 } local TABLES = { T }\n"
         .. "local FILL = function() T:set(1, 7, 8) end" })
   gives("swap of addresses", "local e = pkt:eth() if e then e:swap() end r = pkt:u32(6) or 1", { [0x01020304] = 0x01020304 })
   gives("numbers at offsets", "r = pkt:u16(n) or 1", { [12] = 0x0800, [62] = 1, [61] = 0x2e2e, [BIG] = 1 })
   gives("numbers of 8 and 48 bits", "local a = pkt:u48(6) local b = pkt:u8(13) r = a and b and a % 65536 + b or 0", { [0] = 0xddee })
   gives("writes at offsets say whether they are inside", "r = pkt:set_u16(n, 5) and 1 or 2", { [20] = 1, [4000] = 2 })
   gives("the length", "r = pkt.len", { [0] = 63 })
end)

describe("resizing:", function()
   gives("the end grows with zeros", "if pkt:adjust_tail(4) then r = pkt.len + (pkt:u8(66) or 50) end", { [0] = 67 })
   gives("the end shrinks", "local old = pkt.len pkt:adjust_tail(-5) r = old * 100 + pkt.len", { [0] = 6358 })
   gives("the start grows", "if pkt:adjust_head(-4) then r = pkt:u32(4) or 1 end", { [77] = 77 })
   gives("the start moves inwards", "if pkt:adjust_head(6) then r = pkt:u16(6) or 1 end", { [0] = 0x0800 }, { places = { "xdp", "luajit", "c" } })
   gives("views are taken again", "local ip = pkt:ipv4() pkt:adjust_tail(3) ip = pkt:ipv4() r = ip and ip.ttl or 1", { [0] = 9 })
   gives("a tag is pushed", "if pkt:push_vlan(7) then local v = pkt:vlan() r = v and v.vid or 99 end", { [0] = 7 })
   gives("a tag is pushed and popped", "pkt:push_vlan(7) pkt:pop_vlan() r = pkt:u16(12) or 1", { [0] = 0x0800 }, { places = { "xdp", "luajit", "c" } })
end)

local TW_DROP, TW_PORT, TW_PASS, TW_SINK = 1, 2, 4, 7

local function verdict(name, body, kinds, options)
   options = options or {}
   options.inputs = sorted_keys(kinds)
   options.check = function(got, n)
      assert.equal(kinds[n], got.word % 256, ("n = %d"):format(n))
   end
   gives(name, body, nil, options)
end

describe("verdicts:", function()
   verdict("none", "r = 1", { [0] = TW_SINK })
   verdict("drop", "if n > 5 then return pkt:drop 'large' end", { [0] = TW_SINK, [6] = TW_DROP })
   verdict("one of several reasons", "if n == 1 then return pkt:drop 'a' elseif n == 2 then return pkt:drop 'b' end",
      { [0] = TW_SINK, [1] = TW_DROP, [2] = TW_DROP })
   verdict("a reason that is chosen", "local why = n > 5 and 'large' or 'small' return pkt:drop(why)", { [0] = TW_DROP, [6] = TW_DROP })
   verdict("send", "return pkt:send(1)", { [0] = TW_PORT })
   verdict("send to a port that is computed", "return pkt:send(n % 3)", { [0] = TW_PORT, [1] = TW_PORT, [2] = TW_PORT })
   verdict("pass", "return pkt:pass()", { [0] = TW_PASS })
   verdict("route is none", "pkt:route(n % 3)", { [0] = TW_SINK, [2] = TW_SINK })
   verdict("the last verdict counts", "pkt:drop 'a' if n > 5 then pkt:pass() end", { [0] = TW_DROP, [6] = TW_PASS })
   verdict("a verdict in a function", "deny(pkt, n)", { [0] = TW_SINK, [6] = TW_DROP },
      { head = "local function deny(pkt, n) if n > 5 then return pkt:drop 'large' end end" })
   gives("the mark", "pkt.mark = n r = pkt.mark + 1", { [5] = 6 })
end)

describe("tables:", function()
   local function on(declaration, fill)
      return { head = ("local T = %s\nlocal TABLES = { T }\nlocal FILL = function() %s end"):format(declaration, fill or "") }
   end
   local number = on("tw.hash { name = 't', key = 'u32', value = 'u32', entries = 4 }", "T:set(1, 100) T:set(2, 4294967295)")
   gives("hash: get", "r = T:get(n) or 7", { [1] = 100, [2] = BIG, [3] = 7 }, number)
   gives("hash: set, get, del", "T:set(n, 5) r = T:get(n) or 0 if T:del(n) then r = r + 10 end if not T:get(n) then r = r + 100 end", { [9] = 115 }, number)
   gives("hash: set in a full one", "for i = 1, 5 do if T:set(i * 10 + n, 1) then r = r + 1 end end", { [0] = 2 }, number)
   gives("hash: add", "T:add(n, 3) T:add(n, 4) r = T:get(n) or 0", { [1] = 107, [8] = 7 }, number)
   local struct = on("tw.hash { name = 't', key = 'u32 a; u16 b', value = 'u32 x; u16 y; u8 z; u64 w', entries = 4 }", "T:set(1, 2, 3, 4, 5, 6ULL)")
   gives("hash: fields of keys and values", "local e = T:get(n, 2) r = e and e.x * 1000 + e.y * 100 + e.z * 10 + tonumber(bit.band(e.w, 255ULL)) or 1",
      { [1] = 3456, [2] = 1 }, struct)
   gives("hash: an entry is a reference", "local e = T:get(1, 2) if e then e.x = e.x + n e.w = e.w + 1 end local f = T:get(1, 2) r = f and f.x or 0", { [7] = 10 }, struct)
   gives("hash: put makes an entry of zeros", "local e = T:put(n, 2) if e then r = e.x e.y = 9 end local f = T:get(n, 2) r = r * 10 + (f and f.y or 0)", { [1] = 39, [5] = 9 }, struct)
   local wide = on("tw.hash { name = 't', key = 'u64', value = 'u64', entries = 4 }", "T:set(5, 0x123456789abcdef0ULL)")
   gives("hash: 64-bit keys and values", "local v = T:get(n + 0ULL) r = v and tonumber(bit.rshift(v, 48)) or 2", { [5] = 0x1234, [6] = 2 }, wide)
   local array = on("tw.array { name = 't', value = 'u32', entries = 5 }", "T:set(3, 33)")
   gives("array: get", "r = T:get(n) or 9", { [3] = 33, [0] = 0, [5] = 9, [BIG] = 9 }, array)
   gives("array: set and add", "T:set(n, 4) T:add(n, 5) r = T:get(n) or 1", { [2] = 9, [7] = 1 }, array)
   gives("array: a negative index", "r = T:get(n - 10) or 9", { [9] = 9, [13] = 33 }, array)
   local counters = { head = "local T = tw.counters { name = 't', names = { 'a', 'b', 'c' } }\nlocal TABLES = { T }\nlocal FILL" }
   gives("counters by name and index", "T:add('a', 2) T:add(1, 5) T:add(n, 1) r = n", { [1] = 1, [2] = 2, [50] = 50 }, counters)
   local prefixes = on("tw.lpm { name = 't', value = 'u32', entries = 16, groups = 1 }", "T:set('10.0.0.0/8', 1) T:set('10.1.0.0/16', 2)")
   gives("lpm: the longest prefix", "r = T:get(n) or 9", { [0x0a010203] = 2, [0x0a020304] = 1, [0x0b000000] = 9 }, prefixes)
end)
