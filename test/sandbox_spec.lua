-- SPDX-License-Identifier: BSD-3-Clause
-- NFs in sandboxes: what they can reach, what they cannot, that they run, and only compiled.

local tw = require "tideway"
local abi = require "tideway.abi"
local api = require "tideway.sandbox.api"
local compiler = require "tideway.compiler"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local native = require "tideway.native"
local nfs = require "tideway.nf"
local options = require "tideway.options"
local Rig = require "test.support.rig"
local sandbox = require "tideway.sandbox"
local shell = require "test.shell"

local C = abi.C

local function words(text)
   local set = {}
   for word in text:gmatch "%S+" do set[word] = true end
   return set
end

-- Everything that a file finds, by hand: a name that is not here fails, and so does one that is gone.
local NAMES = words [[
   assert error ipairs next pairs pcall select tonumber type unpack tostring require
   math.abs math.acos math.asin math.atan math.atan2 math.ceil math.cos math.cosh math.deg math.exp math.floor math.fmod
   math.frexp math.huge math.ldexp math.log math.log10 math.max math.min math.modf math.pi math.pow math.rad math.sin
   math.sinh math.sqrt math.tan math.tanh
   bit.arshift bit.band bit.bnot bit.bor bit.bswap bit.bxor bit.lshift bit.rol bit.ror bit.rshift bit.tobit bit.tohex
   table.concat table.insert table.maxn table.remove table.sort
   string.byte string.char string.find string.format string.len string.lower string.rep string.reverse string.sub
   string.upper
   tw.acl tw.args tw.array tw.counters tw.csum.apply tw.csum.change16 tw.csum.change32 tw.csum.replace16
   tw.csum.replace32 tw.hash tw.header tw.ip4 tw.ip4_string tw.ip6 tw.ip6_string tw.jhash tw.lpm tw.lru tw.lru_percpu
   tw.mac tw.mac_string tw.maglev tw.meter tw.nf tw.now tw.percpu_array tw.percpu_hash tw.prefix tw.random tw.version
]]

-- What gives away more than it looks, under whatever name.
local FORBIDDEN = {}
for _, library in ipairs { io, os, debug, package, jit, coroutine, require "ffi", require "jit.util" } do
   for name, value in pairs(library) do
      if type(value) == "function" or type(value) == "table" then FORBIDDEN[value] = name end
   end
end
for name in pairs(words [[load loadstring loadfile dofile require getfenv setfenv getmetatable setmetatable rawget rawset
   rawequal newproxy collectgarbage gcinfo print module xpcall tostring _G]]) do
   FORBIDDEN[_G[name] or 0] = name
end
for name in pairs(words "dump gsub gmatch match find format") do FORBIDDEN[string[name]] = "string." .. name end
FORBIDDEN[string], FORBIDDEN[table], FORBIDDEN[math], FORBIDDEN[bit], FORBIDDEN[tw] = "s", "t", "m", "b", "tw"

-- Walks all that Lua code can get at from a value without a library's help: fields, and those of metatables that
-- indexing goes to. Of functions the environments, which only getfenv would give; their upvalues are the engine's.
local function walk(value, path, found, seen)
   assert(not FORBIDDEN[value], ("%s is %s"):format(path, tostring(FORBIDDEN[value])))
   local kind = type(value)
   assert(kind ~= "cdata" and kind ~= "userdata" and kind ~= "thread", path .. " is a " .. kind)
   if kind == "table" and not seen[value] then
      seen[value] = true
      local meta = debug.getmetatable(value)
      if meta then
         assert(meta.__metatable == false, path .. ": its metatable can be had")
         assert(meta.__newindex, path .. " can be changed")
         assert(next(value) == nil, path .. " has fields of its own")
         for event, handler in pairs(meta) do
            if event == "__index" then walk(handler, path, found, seen) end
         end
      else
         for k, v in pairs(value) do
            assert(type(k) == "string", path .. " has a key that is no name")
            walk(v, path == "" and k or path .. "." .. k, found, seen)
         end
      end
   elseif kind ~= "table" then
      found[path] = true
   end
end

describe("tw.sandbox", function()
   local dir, count

   before_each(function()
      dir, count = shell.directory(), 0
   end)
   after_each(function()
      options.compile = "native"
      engine.close()
      shell.remove(dir)
      -- Whatever the file did, the rest of the program is as before.
      assert.is_nil((debug.gethook()))
      assert.equal(string, debug.getmetatable("").__index)
      assert.equal(0, tonumber(C.tw_control_memory(0)))
   end)

   local function file(text)
      count = count + 1
      local path = ("%s/nf%d.lua"):format(dir, count)
      shell.write(path, text)
      return path
   end

   local function nf(body, before)
      return ('local tw = require "tideway"\n%s\nreturn tw.nf("box", function(cfg) %s end)'):format(before or "", body)
   end

   -- What an expression is in a sandbox, as text.
   local function value_of(expression)
      local ok, err = pcall(tw.sandbox, file(('local tw = require "tideway"\nerror("<" .. tostring(%s) .. ">", 0)')
         :format(expression)))
      assert.is_false(ok)
      return tostring(err):match "^<(.*)>$" or tostring(err)
   end

   local function refused(text, limits)
      local ok, err = pcall(function() return tw.sandbox(file(text), limits) {} end)
      assert.is_false(ok, "it was taken")
      assert.equal("string", type(err))
      return err
   end

   -- Why the compiler does not take a packet function of these lines.
   local function not_compiled(lines, before)
      local instance = tw.sandbox(file(nf(("return { packet = function(pkt) %s end }"):format(lines), before))) {}
      local segment = compiler.for_lcore { name = "c", stages = { instance } }[1]
      assert.truthy(segment.raw, "it was compiled")
      return tostring(segment.raw)
   end

   -- ---- what there is ----

   it("shows the names of the list and no others", function()
      local box = {
         path = "x", limits = { entries = 1e6 }, real = {}, handle = {}, order = {}, made = 0, entries = 0, enter = function() end,
         leave = function() end,
      }
      local env, strings = api.environment(box, function() end)
      local found = {}
      walk(env, "", found, {})
      for name in pairs(found) do assert.is_true(NAMES[name], name .. " is not on the list") end
      for name in pairs(NAMES) do assert.is_true(found[name], name .. " is gone") end
      -- Methods of strings are the same library, and nothing behind it.
      for name in pairs(strings) do assert.is_true(NAMES["string." .. name], name) end
      assert.is_nil(getmetatable(strings))
      -- Objects show methods and nothing else; what there is to see of their results is plain.
      local api_of = debug.getmetatable(debug.getmetatable(env).__index.tw).__index
      local made = {
         api_of.hash { key = "u32", value = "u64", entries = 10 }, api_of.lpm { value = "u32", entries = 10 },
         api_of.array { value = "u32 a; u32 b", entries = 4 }, api_of.counters { names = { "a" } },
         api_of.header("mine", "u8 a; be16 b"), api_of.ip6 "::1", api_of.meter { cir = 1, cbs = 1000 },
      }
      local methods = {}
      for _, object in ipairs(made) do walk(object, "", methods, {}) end
      for name in pairs(methods) do assert.is_true(words("set get add del count rate")[name], name) end
      for object in pairs(box.handle) do
         if type(object) == "table" and object.free then object:free() end
      end
   end)

   it("has nothing that leads out", function()
      for name in ([[ffi io os debug package jit coroutine load loadstring loadfile dofile getfenv setfenv getmetatable
         setmetatable rawget rawset rawequal newproxy collectgarbage print module xpcall _G arg string.dump string.gsub
         string.gmatch string.match ("").dump ("").gsub ("").match ("").gmatch ("").format.x math.random
         math.randomseed tw.port tw.chain tw.options tw.bpf tw.ring tw.tables tw.sandbox tw.emit tw.hold_queue tw.headers
         tw.csum.raw_sum tw.csum.compute tw.nf.router]]):gmatch "%S+" do
         local got = value_of(name)
         assert.is_true(got == "nil" or got:find "attempt to index" ~= nil, name .. " is " .. got)
      end
      for _, module in ipairs { "ffi", "io", "os", "debug", "jit.util", "tideway.abi", "string.buffer", "nf.ttl" } do
         assert.truthy(value_of(('require "%s"'):format(module)):find("a sandbox has the modules tideway and bit", 1, true))
      end
   end)

   it("gives no addresses away", function()
      for _, expression in ipairs { "{}", "function() end", "tw.hash", "tw", "string.rep",
         'tw.hash { key = "u32", value = "u64", entries = 10 }', 'tw.ip6 "::1"', 'string.format("%s", {})' } do
         local got = value_of(expression)
         assert.is_true(got == "table" or got == "function", expression .. " shows as " .. got)
      end
      assert.truthy(value_of('string.format("%p", {})'):find("not for a sandbox", 1, true))
      assert.truthy(value_of('("%5p"):format({})'):find("not for a sandbox", 1, true))
   end)

   it("cannot be changed", function()
      for _, statement in ipairs { "x = 1", "tw.hash = 1", "string.rep = nil", "math.pi = 3", "bit.band = error",
         "tw.csum.apply = 1", 'local t = tw.hash { key = "u32", value = "u64", entries = 9 } t.get = 1', "require = 1" } do
         assert.truthy(refused('local tw = require "tideway"\n' .. statement):find("cannot be set in a sandbox", 1, true),
            statement)
      end
      -- Raw writes by table.insert change the sandbox's own copy of a library, and nobody else's.
      refused 'table.insert(string, "x") table.insert(math, "x") error "done"'
      assert.same({ 0, 0 }, { #string, #math })
   end)

   it("takes no bytecode", function()
      local path = file ""
      shell.write(path, string.dump(loadstring 'return require("tideway").nf("x", function() end)'))
      local ok, err = pcall(tw.sandbox, path)
      assert.is_false(ok)
      assert.truthy(tostring(err):find("attempt to load chunk with wrong mode", 1, true), tostring(err))
   end)

   -- ---- limits ----

   local function hog(body) return nf(body .. " return { packet = function() end }") end

   it("bounds memory", function()
      for _, body in ipairs {
         'local s = "x" while true do s = s .. s end', 'local s = ("x"):rep(2 ^ 30)', 'string.rep("ab", 1e9)',
         'local t = {} while true do t[#t + 1] = {} end', 'local t = {} for i = 1, 1e7 do t[i] = i .. "" end',
         'local t = {} for i = 1, 1000 do t[i] = ("y"):rep(1e5) end table.concat(t)',
         'local t = {} local s = ("y"):rep(1e5) for i = 1, 1e5 do t[i] = s end table.concat(t)',
         'local s = ("z"):rep(1e6) local t = {} for i = 1, 1000 do t[i] = s:upper() .. i end',
      } do
         local before = collectgarbage "count"
         local err = refused(hog(body), { seconds = 20, instructions = 1e9 })
         assert.truthy(err:find("more than 32 MB, the limit of its sandbox", 1, true), body .. ": " .. err)
         for _ = 1, 8 do collectgarbage() end -- LuaJIT's buffer for texts becomes smaller by and by
         assert.is_true(collectgarbage "count" - before < 4096, body .. (collectgarbage "count" - before))
      end
      assert.truthy(refused(hog 'local s = ("x"):rep(3e6)', { memory_mb = 2 }):find("more than 2 MB", 1, true))
      local big = tw.sandbox(file(hog 'local s = ("x"):rep(3e6)')) -- and what fits is taken
      assert.is_true(nfs.is_instance(big {}))
   end)

   it("does not count what is garbage", function()
      local constructor = tw.sandbox(file(hog [[
         local t = tw.lpm { value = "u32", entries = 30000 }
         for i = 0, 20000 do t:set(("10.%d.%d.0/24"):format(i / 256, i % 256), i) end
         for i = 1, 2000 do local s = ("x"):rep(1e5) .. i end]]), { seconds = 20 })
      assert.is_true(nfs.is_instance(constructor {}))
   end)

   it("bounds instructions and time", function()
      for _, body in ipairs {
         "while true do end", "while true do pcall(function() while true do end end) end",
         "local function f() return f() end f()", "while true do pcall(error, 1) end", "repeat until false",
         "local function f() pcall(f) while true do end end f()",
         "table.sort({ 3, 1, 2, 5, 4 }, function(a, b) while true do end end)", "for _ = 1, 1 / 0 do end",
         'while true do tw.ip4 "1.2.3.4" end',
      } do
         local err = refused(hog(body), { instructions = 1e5 })
         assert.truthy(err:find("more than 100000 instructions, the limit", 1, true), body .. ": " .. err)
      end
      local clock = os.clock()
      local err = refused(hog 'local t = {} for i = 1, 3e5 do table.insert(t, 1, i) end', { seconds = 0.1 })
      assert.truthy(err:find("more than 0.1 s of CPU time", 1, true), err)
      assert.is_true(os.clock() - clock < 3)
      assert.truthy(refused("while true do end", { instructions = 1e5 }):find("instructions", 1, true), "the file itself")
   end)

   it("survives deep recursion and errors of any kind", function()
      assert.truthy(refused(hog "local function f(n) return 1 + f(n + 1) end f(1)"):find("stack overflow", 1, true))
      for _, body in ipairs { "error({})", "error()", "error(nil)", "error(error)", "error(tw)", "error(cfg)" } do
         assert.truthy(refused(hog(body)):find("raises an error that is not a string", 1, true), body)
      end
      assert.truthy(refused(hog 'error(("x"):rep(1e6))'):find("xxx", 1, true))
   end)

   it("is shut again when a call of the engine fails for want of stack", function()
      -- With more and more arguments the stack ends at every point of the call once.
      for n = 0, 40 do
         local body = ([[local function f(...)
            pcall(f, ...)
            pcall(tw.ip4, "1.2.3.4")
            if ("").gsub then error("it is out", 0) end
         end
         f(%s)]]):format(("1, "):rep(n) .. "1")
         local ok, err = pcall(function() return tw.sandbox(file(hog(body))) {} end)
         assert.is_true(ok or err:find("limit of its sandbox", 1, true) ~= nil, tostring(err))
         err = refused(hog(body .. " while true do end"), { instructions = 1e6 })
         assert.truthy(err:find("1000000 instructions", 1, true), err)
      end
   end)

   it("has no pattern that could take for ever", function()
      assert.equal("nil", value_of '("a"):rep(2000):find(("a?"):rep(1000) .. ("a"):rep(1000))')
      assert.equal("3", value_of '(("a.b"):find "b")')
      assert.truthy(value_of '("a"):rep(1e5):find(("a"):rep(1e5) .. "b")':find("too long", 1, true))
   end)

   it("bounds its tables", function()
      local err = refused(hog 'tw.hash { key = "u32", value = "u64", entries = 2e6 }')
      assert.truthy(err:find("more than 1000000 entries", 1, true), err)
      err = refused(hog 'for i = 1, 100 do tw.array { value = "u32", entries = 1000 } end', { entries = 50000 })
      assert.truthy(err:find("more than 50000 entries", 1, true), err)
   end)

   it("keeps declarations from becoming code", function()
      for _, body in ipairs {
         'tw.hash { key = "u32", value = "u32 a; } x; int system(const char *); struct { u32 b", entries = 1 }',
         [[tw.hash { key = "u32 a) end os.exit(3) do local function f(b", value = "u64", entries = 1 }]],
         [[tw.header("x", "u8 a) end os.exit(3) do local function f(b")]],
         [[tw.header("x\nos.exit(3)", "u8 a")]], [[tw.header("x", "u8 a", { f = function() end })]],
         [[tw.nf("x\"\nos.exit(3)--", function() end)]], [[tw.maglev({ "a" }, 1e9 + 7)]],
         [[tw.args("x", cfg, { a = { default = function() end } })]],
      } do
         assert.is_string(refused(hog(body)))
      end
   end)

   it("gets copies of the configuration, and tables of the engine as handles", function()
      local cfg = { names = { "a" } }
      local constructor = tw.sandbox(file(nf [[
         cfg.names[1], cfg.more = "changed", true
         return { packet = function() end }]]))
      constructor(cfg)
      assert.same({ names = { "a" } }, cfg)
      local ok, err = pcall(constructor, { f = function() end })
      assert.is_false(ok)
      assert.truthy(tostring(err):find("a function cannot be given to a sandbox", 1, true), tostring(err))
   end)

   -- ---- what runs ----

   it("offers packet and on_fault only", function()
      for _, name in ipairs { "burst", "punt", "tick", "stop", "export", "import", "message", "sandboxed", "where" } do
         local err = refused(nf(("return { packet = function() end, %s = function() end }"):format(name)))
         assert.truthy(err:find(name .. " would run as Lua", 1, true), err)
      end
      assert.truthy(refused(nf "return { packet = tonumber }"):find("not a function of the file", 1, true))
      assert.truthy(refused(nf "return tw"):find("not a table with packet", 1, true))
      assert.truthy(refused "return 1":find("returns tw.nf", 1, true))
      assert.truthy(refused "return":find("returns tw.nf", 1, true))
   end)

   it("has no pointers", function()
      for lines, why in pairs {
         ["pkt.data[5000] = 1"] = "pkt.data is an address", ["local d = pkt.data"] = "pkt.data is an address",
         ["pkt.verdict = 77"] = "pkt.verdict is the engine's own", ["pkt.stage = 5"] = "pkt.stage is the engine's own",
         ["local m = pkt.mbuf"] = "pkt.mbuf is the engine's own", ["local b = pkt.burst"] = "the engine's own",
         ["local e = pkt:eth() if e then local x = e + 100 end"] = "pointers can't be computed with",
         ["local e = pkt:eth() if e then local x = e[100] end"] = "a pointer can't be indexed",
         ["local e = pkt:eth() if e then e[100] = 1 end"] = "a pointer can't be indexed",
         ["local f = pkt.ipv4"] = "the engine's own", ["pkt:hold(false_header, 1)"] = "cannot be held",
         ["local ip = pkt:ipv4() if ip then local f = ip.update_checksum end"] = "can only be called",
         ["local h = pkt:header(false_header, 0)"] = "a table or function of the sandbox",
         ["pkt:set_u8(0, function() end)"] = "a table or function of the sandbox",
      } do
         local err = not_compiled(lines, "local false_header = { ctype = 95, size = 0, fields = {} }")
         assert.truthy(err:find(why, 1, true), lines .. ": " .. err)
      end
   end)

   it("cannot pass off a table as the engine's, nor look inside one", function()
      local fake = [[local t = { kind = "array", name = "t", entries = 1000000, table = 4096, value_type = { size = 4 },
         key_type = {} }]]
      for _, lines in ipairs { "t:set(0, 1)", "local v = t:get(5)", "t:add(0, 1)" } do
         assert.truthy(not_compiled(lines, fake):find("no table of the engine", 1, true), lines)
      end
      local real = 'local t = tw.array { value = "u32", entries = 8 }'
      for _, lines in ipairs { "local x = t.table", "local x = t.generated", "local x = t.anchor", "t.set(t, 1, 2)",
         "local x = t.value_type", "local f = t.get" } do
         assert.truthy(not_compiled(lines, real):find("the engine's own", 1, true), lines)
      end
   end)

   local GUARD = nf([[
      local blocked, seen = tw.ip4(cfg.block), 0
      return {
         packet = function(pkt)
            local ip = pkt:ipv4()
            if not ip then return end
            if ip.src == blocked then return pkt:drop "blocked" end
            local e = flows:put(ip.src)
            if e then e.packets = e.packets + 1 end
            local h = pkt:header(head, 0)
            if h then pkt.mark = bit.band(h.last, 15) + math.min(tw.csum.replace16(0, 1, 1), 0) end
            if not wanted[1] then return pkt:drop "never" end
         end,
         on_fault = "bypass",
      }]], [[
      local bit = require "bit"
      local flows = tw.hash { name = "flows", key = "u32", value = "u64 packets", entries = 100 }
      local head, wanted = tw.header("head", "mac dst; mac src; be16 last"), { true }
      flows:set(tw.ip4 "10.0.0.77", 5ULL)]])

   local function udp(src) return frame.udp4({}, { src = src, dst = "10.0.0.2" }, { sport = 1, dport = 2 }, "payload") end

   local function table_called(name)
      for _, t in ipairs(tw.tables()) do
         if t.name == name then return t end
      end
   end

   for _, compile in ipairs { "luajit", "native" } do
      it("runs between others, as " .. compile .. " code", function()
         if compile == "native" and not native.compiler() then return pending "no C compiler (cc) here" end
         options.compile = compile
         local rig = Rig.new { ports = { "a", "b" } }
         rig:chain("c", rig.a, tw.nf.count {}, tw.sandbox(file(GUARD)) { block = "10.0.0.1" }, tw.nf.count {}, rig.b)
         rig:start()
         if compile == "native" then native.finish(120) end
         assert.equal(compile == "native" and C.TW_TIER_NATIVE or C.TW_TIER_LUAJIT, C.tw_stats().chain[0].tier)
         rig:send(rig.a, udp "10.0.0.1", udp "10.0.0.3", udp "10.0.0.4")
         assert.equal(2, #rig:collect(rig.b))
         assert.same({ blocked = 1 }, rig:drops())
         assert.equal(3, table_called("flows").count)
         rig:close()
      end)
   end

   it("stays compiled when a neighbour is taken out, and takes up the rest of the burst so", function()
      options.compile = "luajit"
      local bad = tw.nf("bad", function()
         return {
            packet = function(pkt)
               if pkt.len == 60 then error "bad" end
            end,
            on_fault = "bypass",
         }
      end)
      local rig = Rig.new { ports = { "a", "b" } }
      rig:chain("c", rig.a, bad {}, tw.sandbox(file(GUARD)) { block = "10.0.0.1" }, rig.b)
      rig:start()
      local short = udp("10.0.0.3"):sub(1, 60) .. ("\0"):rep(math.max(0, 60 - #udp "10.0.0.3"))
      rig:send(rig.a, udp "10.0.0.4", short, udp "10.0.0.1", udp "10.0.0.5")
      assert.equal(3, #rig:collect(rig.b))
      assert.equal(1, rig:drops().blocked)
      rig:send(rig.a, udp "10.0.0.1", udp "10.0.0.6")
      assert.equal(1, #rig:collect(rig.b))
      assert.equal(2, rig:drops().blocked)
      assert.is_nil(rig:drops().sandbox)
      local nf_stats = rig:snapshot().chains[1].nfs
      assert.same({ true, false }, { nf_stats[1].quarantined, nf_stats[2].quarantined })
      rig:close()
   end)

   it("runs on hooks, but not behind an NF that punts", function()
      local guard = tw.sandbox(file(GUARD)) { block = "10.0.0.1" }
      local compiled, err = compiler.for_hook("c", { guard }, "xdp", {})
      assert.truthy(compiled, tostring(err))
      local punting = tw.nf("punting", function()
         return { packet = function(pkt) return pkt:punt() end, punt = function() end }
      end)
      local ok, why = pcall(sandbox.check_hook, { punting {}, guard })
      assert.is_false(ok)
      assert.truthy(tostring(why):find("stands behind punting", 1, true), tostring(why))
      sandbox.check_hook { guard, punting {} }
   end)

   it("shares what the file made among its instances", function()
      local rig = Rig.new { ports = { "a", "b" } }
      local guard = tw.sandbox(file(GUARD))
      rig:chain("c", rig.a, guard { block = "10.0.0.1" }, guard { block = "10.0.0.2" }, rig.b)
      rig:start()
      rig:send(rig.a, udp "10.0.0.1", udp "10.0.0.2", udp "10.0.0.3")
      assert.equal(1, #rig:collect(rig.b))
      assert.equal(2, rig:drops().blocked)
      assert.equal(3, table_called("flows").count)
      rig:close()
   end)

   it("is another NF when its file or configuration is another", function()
      local fingerprint = require("tideway.change.fingerprint").of
      local text = GUARD:gsub('name = "flows", ', "")
      local path = file((text:gsub('blocked"', 'stopped"')))
      local a, b = tw.sandbox(file(text)) { block = "10.0.0.1" }, tw.sandbox(path) { block = "10.0.0.1" }
      local c, d = tw.sandbox(path) { block = "10.0.0.2" }, tw.sandbox(path) { block = "10.0.0.1" }
      assert.are_not.equal(fingerprint(a).text, fingerprint(b).text)
      assert.are_not.equal(fingerprint(b).text, fingerprint(c).text)
      assert.equal(fingerprint(b).text, fingerprint(d).text)
   end)

   it("is refused where it would run as Lua", function()
      local rig = Rig.new { ports = { "a", "b" } }
      local raw = tw.sandbox(file(nf "return { packet = function(pkt) pkt.data[0] = 1 end }"))
      rig:chain("c", rig.a, raw {}, rig.b)
      local ok, err = pcall(rig.start, rig)
      assert.is_false(ok)
      assert.truthy(tostring(err):find("in a sandbox and cannot be compiled", 1, true), tostring(err))
      assert.truthy(tostring(err):find("pkt.data is an address", 1, true), tostring(err))
      rig = Rig.new { ports = { "a", "b" } }
      options.compile = "off"
      rig:chain("c", rig.a, tw.sandbox(file(GUARD)) { block = "10.0.0.1" }, rig.b)
      ok, err = pcall(rig.start, rig)
      assert.is_false(ok)
      assert.truthy(tostring(err):find('compile = "off"', 1, true), tostring(err))
      rig:close()
   end)

   it("takes limits it knows, and a file that is there", function()
      for limits, why in pairs { [{ memory = 1 }] = "memory = 1", [{ seconds = 0 }] = "seconds = 0" } do
         local ok, err = pcall(tw.sandbox, file(GUARD), limits)
         assert.is_false(ok)
         assert.truthy(tostring(err):find(why .. " is no limit", 1, true), tostring(err))
      end
      assert.is_false((pcall(tw.sandbox, dir .. "/none.lua")))
   end)
end)
