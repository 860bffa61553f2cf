-- SPDX-License-Identifier: BSD-3-Clause
-- What the compiler refuses: where, in which words, and what it says to write instead. In the texts "!" stands before
-- the place that a message must point to.

local backends = require "test.support.backends"
local abi = require "tideway.abi"
local compiler = require "tideway.compiler"
local diagnostic = require "tideway.compiler.diagnostic"

local C = abi.C

-- Text without the mark, and "line:column" of it.
local function unmarked(text)
   local at = text:find("!", 1, true)
   if not at then return text end
   local before = text:sub(1, at - 1)
   local line = select(2, before:gsub("\n", "")) + 1
   return before .. text:sub(at + 1), ("%d:%d"):format(line, #before:match "[^\n]*$" + 1)
end

local function compile(place, text)
   assert(C.tw_stats() ~= nil or C.tw_stats_open(nil, "spec", "spec") == 0)
   local instance = backends.instance(text)
   local result, err
   if place == "lcore" then
      local segment = compiler.for_lcore { name = "nf", stages = { instance } } [1]
      result, err = segment.ir, segment.raw
   else
      result, err = compiler.for_hook("nf", { instance }, place, { ports = { [0] = 1 } })
   end
   for _, t in ipairs(instance.tables or {}) do t:free() end
   return result, err
end

-- case: { name, message, hint, body, head = what stands before the function, places = { "xdp", ... } }; message and hint
-- are patterns.
local function refused(case)
   local name, message, hint, body = case[1], case[2], case[3], case[4]
   it(name, function()
      for _, place in ipairs(case.places or { "xdp", "lcore" }) do
         local text, position = unmarked(("%s\nreturn { tables = TABLES, packet = function(pkt)\n%s\nend }")
            :format(case.head or "", body))
         local result, err = compile(place, text)
         assert.is_nil(result, place .. " compiles it")
         assert.is_true(diagnostic.is(err), tostring(err))
         assert.truthy(err.message:find(message), ("%s: %s"):format(place, tostring(err)))
         if hint then
            assert.truthy((err.hint or ""):find(hint), ("%s: %s"):format(place, tostring(err)))
         else
            assert.is_nil(err.hint, tostring(err))
         end
         -- In functions of Tideway the last note has the line of the NF.
         local pos = err.pos
         if not pos.file:find "^%[string" then pos = err.notes[#err.notes].pos end
         if position then assert.equal(position, ("%d:%d"):format(pos.line, pos.col), tostring(err)) end
      end
   end)
end

describe("refused, what needs memory:", function()
   refused { "a table", "tables are not made at run time", "local variables, or a table of the engine",
      "local t = !{ 1, 2 }" }
   refused { "a string made of pieces", "strings are not made at run time", "constant strings for drop reasons",
      "local s = 'a' !.. pkt.len" }
   refused { "tostring", "tostring is not part of NF Lua", "bit%.%*, math%.floor", "local s = !tostring(pkt.len)" }
   refused { "a method of a string", "string%.rep is not part of NF Lua", "bit%.%*", "local s = ('x'):!rep(3)" }
   refused { "coroutines", "coroutine%.create is not part of NF Lua", "bit%.%*",
      "local co = coroutine.!create(function() end)" }
   refused { "pcall", "pcall is not part of NF Lua", "bit%.%*", "!pcall(function() end)" }
   refused { "metatables", "setmetatable is not part of NF Lua", "bit%.%*", "!setmetatable(nil, nil)" }
   refused { "select", "select is not part of NF Lua", "bit%.%*", "local n = !select('#', pkt.len)" }
   refused { "pairs", "for %.%.%. in: NF Lua knows ipairs", "for i = 1, n", "!for k, v in pairs(T) do end",
      head = "local T = {}" }
   refused { "an element of a Lua table by a number", "a Lua table can't be indexed at run time", "tw%.array",
      "local x = list![pkt.len]", head = "local list = { 1, 2, 3 }" }
   refused { "an element that is written", "Lua tables can't be written", "table of the engine", "list![1] = 4",
      head = "local list = { 1, 2, 3 }" }
   refused { "a field that is written", "Lua tables can't be written", "table of the engine", "list.!a = pkt.len",
      head = "local list = { a = 1 }" }
   refused { "a variable of the constructor that the NF assigns", "'count' changes while the chain runs", "tw%.array",
      "count = !count + 1", head = "local count = 0" }
   refused { "a variable that another function assigns", "'count' changes while the chain runs %(it is assigned in line 2%)",
      "tw%.array", "if !count > 3 then return end", head = "local count = 0\nlocal function bump() count = count + 1 end\nbump()" }
   refused { "a global that is assigned", "'y' is a variable outside", "table of the engine", "!y = 5" }
end)

describe("refused, what is no integer:", function()
   refused { "a fraction", "'>': what '/' gives may have a fraction", "math%.floor%(a / b%)",
      "local x = pkt.len / 3\nif x !> 1 then return end" }
   refused { "a power", "'%^' is floating point", "bit%.lshift", "local x = pkt.len !^ 2" }
   refused { "a constant with a fraction", "'%*': 1%.5 is not a whole number", "integers only", "local x = pkt.len !* 1.5" }
   refused { "infinity", "'%*': inf is not a whole number", "integers only", "local x = pkt.len !* math.huge" }
   refused { "math.random", "math%.random is not part", "bit%.%*", "local x = math.!random()" }
   refused { "a product beyond 2^53", "'%*': the result may be as large as %d+, beyond the 2%^53", "bit%.band or math%.min",
      "local e = pkt:eth()\nif e then local x = e.dst !* e.src end" }
   refused { "a sum that grows in a loop", "'%*': the result may be as large as %d+, beyond the 2%^53", "bit%.band or math%.min",
      "local x = 0\nfor i = 1, 1000 do x = x !* 3 + 1 end\nif x == 1 then return end" }
   refused { "the low bits of a number beyond 2^51", "bit%.band: the number may be as large as %d+", "x %% 2%^32",
      "local x = bit.!band(2^52 + pkt.len, 255)" }
   refused { "a 64-bit integer of unknown size as a number", "tonumber: this 64%-bit integer may be beyond the 2%^53",
      "bit%.band", "local x = !tonumber((pkt.len + 0ULL) * 0x123456789abcdefULL)" }
   refused { "a negative number as an unsigned integer", "a number that may be negative %(%-5%) meets an unsigned",
      "0LL %+ x", "local x = (pkt.len - 5) !+ 0ULL" }
   refused { "an int in a field of 8 bits that it does not fit as C sees it", "a value of type u8: the number may be",
      "bit%.band", "local e = T:put(1)\nif e then e.!b = pkt.len * 65536 end",
      head = "local T = tw.hash { name = 't', key = 'u32', value = 'u32 a; u8 b', entries = 4 }\nlocal TABLES = { T }" }
   refused { "math.min of a 64-bit integer", "math%.min, argument 1: a number is needed, this is a 64%-bit integer",
      "compare with <", "local x = math.!min(pkt.len + 0ULL, 3)" }
   refused { "rotation of a 64-bit integer", "bit%.rol on 64%-bit integers", "two shifts", "local x = bit.!rol(pkt.len + 0ULL, 3)" }
   refused { "a divisor that may be 0", "'%%': the divisor may be 0", "if d == 0", "local x = 100 !% pkt.len" }
   refused { "a divisor of floor that may be 0", "math%.floor%(a / b%): the divisor may be 0", "if d == 0",
      "local x = math.!floor(100 / pkt.len)" }
   refused { "a 64-bit divisor that may be 0", "'/': the divisor may be 0", "if d == 0",
      "local x = 100 !/ (pkt.len + 0ULL)" }
   refused { "floor of a quotient that may be negative", "math%.floor%(a / b%): an operand may be negative", "power of two",
      "local x = math.!floor((5 - pkt.len) / 3)" }
   refused { "a divisor of % that may be negative", "'%%': the divisor may be ", nil or "%S",
      "local x = 5 !% (3 - math.min(pkt.len, 2) * 4)" }
   refused { "division of signed 64-bit integers", "'/' of a signed 64%-bit integer that may be negative", "0ULL %+ x",
      "local x = (0LL - pkt.len) !/ 3" }
   refused { "a number on one path and a 64-bit integer on the other", "'x' can't be used here: it is a number on one path",
      nil, "local x\nif pkt.len > 100 then x = 5 else x = 5ULL end\nif !x > 3 then return end" }
end)

describe("refused, loops and calls:", function()
   refused { "a loop without an end", "how often this loop runs can't be known", "for i = 1, 64",
      "local n = 0\n!while true do n = n + 1 end" }
   refused { "a loop whose end depends on more than a count", "how often this loop runs can't be known", "for i = 1, 64",
      "local n = pkt.len\n!while n ~= 1 do n = n % 7 + 1 end" }
   refused { "repeat without a count", "how often this loop runs can't be known", "for i = 1, 64",
      "local n = pkt.len\n!repeat n = n % 7 + 1 until n == 1" }
   refused { "a loop that may be long", "this loop may run %d+ times; at most %d+", "math%.min",
      "local n = 0\n!for i = 1, pkt.len * 65536 do n = n + 1 end" }
   refused { "a step that is not constant", "the step of a loop must be a constant", nil, "!for i = 1, 10, pkt.len do end" }
   refused { "a step of 0", "the step of a loop must be a constant", nil, "!for i = 1, 10, 0 do end" }
   refused { "goto backwards", "goto again goes backwards", "for, while or repeat",
      "::again::\npkt:set_u8(0, 1)\nif pkt.len > 3 then goto !again end" }
   refused { "recursion", "f calls itself", "write a loop", "f(pkt.len)",
      head = "local function f(x) if x > 0 then return f(x - 1) end return 0 end" }
   refused { "recursion of two functions", "f calls itself", "write a loop", "f(pkt.len)",
      head = "local g\nlocal function f(x) if x > 0 then return g(x - 1) end return 0 end\ng = function(x) return f(x) end" }
   refused { "a function that is not there", "there is no 'nosuch'", "stands before", "!nosuch(pkt.len)" }
   refused { "one of two functions", "a value that depends on the path can't be called", nil,
      "local f = pkt.len > 5 and math.max or math.min\nlocal x = !f(1, pkt.len)" }
   refused { "error", "error: a packet function can't raise", "pkt:drop", "!error 'x'" }
   refused { "assert of what may be false", "assert: a packet function can't raise", "pkt:drop", "!assert(pkt.len > 3)" }
   refused { "a resize in a loop", "the packet is resized in a loop", "before or after",
      "!for i = 1, bit.band(pkt.len, 7) do pkt:adjust_tail(1) end" }
   refused { "a view that a loop makes for after it", "'v' is nil or a boolean before the loop", nil,
      "local v\n!for i = 1, bit.band(pkt.len, 15) do v = pkt:eth() end\nif v then v.dst = 1 end" }
end)

describe("refused, views and packets:", function()
   refused { "a field of a view that may be nil", "this is a view of ipv4 or nil", "if x then",
      "local ip = pkt:ipv4()\nlocal x = ip.!ttl" }
   refused { "writing a view that may be nil", "this is a view of ipv4 or nil", "if x then",
      "local ip = pkt:ipv4()\nip.!ttl = 3" }
   refused { "a view that was taken on one path", "this is a view of ipv4 or nil", "if x then",
      "local ip\nif pkt.len > 60 then ip = pkt:ipv4() end\nip.!ttl = 3" }
   refused { "a number that may be nil", "'%+': the value may be nil here", "if x then", "local v = pkt:u8(3)\nlocal x = v !+ 1" }
   refused { "a view from before a resize", "taken before the packet was resized", "take it again",
      "local ip = pkt:ipv4()\nif not ip then return end\npkt:adjust_tail(-4)\nip.!ttl = 3" }
   refused { "a view from before a resize on one path", "taken before the packet was resized", "take it again",
      "local e = pkt:eth()\nif not e then return end\nif pkt.len > 60 then pkt:adjust_tail(-4) end\ne.!dst = 5" }
   refused { "a field that is not there", 'ipv4 has no field "tttl"', "it has .* ttl", "local ip = pkt:ipv4()\nif ip then ip.!tttl = 3 end" }
   refused { "a method of a view that is not there", 'ipv4 has no field "foo"', "it has", "local ip = pkt:ipv4()\nif ip then ip:!foo() end" }
   refused { "a field of the packet that is not there", 'a packet has no field or method "foo"', "len, port", "local x = pkt.!foo" }
   refused { "a method of the packet that is not there", 'a packet has no field or method "foo"', "len, port", "pkt:!foo()" }
   refused { "a field of the packet that can't be written", "pkt%.len can't be written", "pkt:adjust_tail", "pkt.!len = 3" }
   refused { "arithmetic of the packet", "'%+': a number is needed, this is the packet", nil, "local x = pkt !+ 1" }
   refused { "views that are compared", "two references can't be compared", "compare their fields",
      "local a, b = pkt:eth(), pkt:ipv4()\nif a and b and a !== b then return end" }
   refused { "a pointer in front of the frame", "this reaches in front of the frame", nil, "local p = pkt.data\nlocal x = p - 5\nx![0] = 1",
      places = { "xdp" } }
   refused { "a drop without a reason", "the reason must be a constant string, this is nil", "in quotes", "pkt:!drop()" }
   refused { "a drop with a number", "the reason must be a constant string, this is a number", "in quotes", "pkt:!drop(pkt.len)" }
   refused { "a port that is nil", "a number is needed, this is nil", nil, "pkt:!send(nil)" }
end)

local function with_hash(case)
   case.head = "local T = tw.hash { name = 't', key = 'u32 a; u32 b', value = 'u32 x; u32 y', entries = 4 }\nlocal TABLES = { T }"
   refused(case)
end

describe("refused, tables:", function()
   with_hash { "a key with too few fields", "get: 2 values are needed %(u32 a, u32 b%), there are 1", nil, "T:!get(1)" }
   with_hash { "a value with too few fields", "set: 2 values are needed %(u32 x, u32 y%), there are 1", nil, "T:!set(1, 2, 3)" }
   with_hash { "a key that is a string", "a number is needed, this is the string \"x\"", nil, "T:!get('x', 1)" }
   with_hash { "a key that is nil", "a number is needed, this is nil", nil, "T:!get(nil, 1)" }
   with_hash { "an entry that may not be there", "what the table gave may be nil", "if x then", "T:get(1, 2).!x = 3" }
   with_hash { "a field that the value has not", 'has no field "z"', "it has x, y", "local e = T:get(1, 2)\nif e then e.!z = 3 end" }
   with_hash { "a method for scripts", "count%(%) can't be used here", "get", "T:!count()" }
   with_hash { "a method that is not there", "nosuch%(%) can't be used here", "get", "T:!nosuch()" }
end)

describe("refused, what a place lacks:", function()
   refused { "a ring buffer on an lcore", "ringbuf .* can't be used here", "do not run on lcore", "R:!output(pkt.len)",
      head = "local R = tw.ringbuf { name = 'r', value = 'u32', size = 4096 }", places = { "lcore" } }
   refused { "a kernel helper on an lcore", "runs on hooks of the kernel only", nil, "local x = tw.bpf.!get_smp_processor_id()",
      places = { "lcore" } }
   refused { "hold on a hook", "pkt:hold keeps packets, which hooks can't", "lcore", "pkt:hold(queue, 3)",
      head = "local queue = { id = 1 }", places = { "xdp", "tc" } }
   refused { "moving the start of a frame inwards on tc", "on tc the start of a packet can't be moved inwards", "lcore",
      "pkt:!adjust_head(4)", places = { "tc" } }
   refused { "resizing where the hook can't", "packets can't be resized on hook socket_filter", nil, "pkt:!adjust_tail(4)",
      places = { "socket_filter" } }
end)
