-- SPDX-License-Identifier: BSD-3-Clause
-- Changes of a running engine: what is different, in which order it is done, what goes on untouched, what is taken
-- back and what is refused. On a step lcore, packet by packet, with exact accounting.

local tw = require "tideway"
local abi = require "tideway.abi"
local adopt = require "tideway.change.adopt"
local change = require "tideway.change"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local history = require "tideway.change.history"
local model = require "tideway.model"
local native = require "tideway.native"
local options = require "tideway.options"
local probation = require "tideway.change.probation"
local reload = require "tideway.change.reload"
local Rig = require "test.support.rig"
local script = require "tideway.script"

local C = abi.C

local function udp(dport, data)
   return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = dport or 1 }, data or "x")
end

local function ttl_of(f) return f:byte(23) end

local ttl = tw.nf("ttl", function(cfg)
   local least = cfg.least or 1
   return {
      packet = function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         if ip.ttl <= least then return pkt:drop "ttl_low" end
         ip.ttl = ip.ttl - 1
      end,
   }
end)

-- Remembers what it saw, in a table and in Lua.
local memory = tw.nf("memory", function(cfg)
   local seen = tw.hash { name = "seen", key = "u16", value = "u32", entries = 64, keep = cfg.keep }
   local wanted = tw.hash { name = "wanted", key = "u16", value = "u32", entries = 64 }
   local all = 0
   wanted:set(cfg.wanted or 7, 1)
   return {
      packet = function(pkt)
         all = all + 1
         local port = pkt:udp()
         if not port then return end
         seen:add(port.dst_port, 1)
         if wanted:get(port.dst_port) then return pkt:drop "wanted" end
      end,
      punt = function() end,
      export = function() return { all = all } end,
      import = function(state) all = state.all end,
      tick = function()
         if all > 0 then seen:set(0, all) end
      end,
   }
end)

local function texts(list)
   local out = {}
   for i, action in ipairs(list) do out[i] = action.text end
   return out
end

local function refused(text, fn)
   local ok, err = pcall(fn)
   assert.is_false(ok)
   assert.truthy(tostring(err):find(text, 1, true), tostring(err))
end

local function table_named(name)
   for t in pairs(model.running.tables) do
      if t.name == name then return t end
   end
end

describe("a change", function()
   local rig, up

   before_each(function()
      rig = Rig.new { ports = { "a", "b", "c" } }
      options.probation, options.compile = 0, "luajit"
   end)
   after_each(function()
      options.probation, options.compile = 1, "native"
      if rig then rig:close() end
      rig = nil
   end)

   local function start(...)
      up = rig:chain("up", rig.a, ...)
      rig:start()
   end

   local function apply(fn) return select(2, change.transaction(fn, "spec")) end

   local function counts()
      local list = {}
      for i, nf in ipairs(rig:snapshot().chains[1].nfs) do list[i] = nf.name .. "=" .. nf.received end
      return table.concat(list, " ")
   end

   it("puts an NF in, takes one out, replaces one; counters go with their NFs", function()
      start(ttl {}, tw.nf.count {}, rig.b)
      rig:send(rig.a, udp(), udp())
      assert.equal("ttl=2 count=2", counts())
      local report = apply(function() up:insert(ttl { least = 3 }, { before = "count" }) end)
      assert.truthy(report:find "^applied to 1/1 lcores in %d+%.%d ms, 0 packets lost$", report)
      rig:send(rig.a, udp())
      assert.equal("ttl=3 ttl#2=1 count=3", counts())
      local out = rig:collect(rig.b)
      assert.equal(ttl_of(udp()) - 2, ttl_of(out[3]))
      apply(function() up:remove "ttl" end)
      rig:send(rig.a, udp())
      assert.equal("ttl=2 count=4 (removed)=3", counts())
      apply(function() up:replace("ttl", ttl { least = 200 }) end)
      rig:send(rig.a, udp())
      assert.equal("ttl=3 count=4 (removed)=3", counts())
      assert.same({ ttl_low = 1 }, rig:drops())
   end)

   it("is warm: machine code goes with it, compiled before or then", function()
      if not native.compiler() then return pending "no C compiler (cc) here" end
      options.compile = "native"
      start(ttl {}, rig.b)
      local function tier() return rig:snapshot().chains[1].tier end
      native.finish(120)
      assert.equal("native", tier())
      local apply_change = require "tideway.change.apply"
      local patience = apply_change.compile_seconds
      finally(function() apply_change.compile_seconds = patience end)
      apply_change.compile_seconds = 120 -- the compiler is polite: on a busy machine it has little time
      for _, least in ipairs { 3, 4, 3, 4 } do
         reload.set("ttl", { least = least })
         assert.equal("native", tier())
      end
      rig:send(rig.a, udp())
      assert.equal("ttl=1", counts())
   end)

   it("lists its actions, and does nothing when it is dry", function()
      start(ttl {}, tw.nf.count {}, rig.b)
      local function fn()
         up:insert(tw.nf.reflect {}, { after = "ttl" })
         tw.chain("down", rig.b, rig.a):pin { step = true }
         tw.port("d", "wire4")
      end
      local planned = change.plan(fn)
      assert.same({
         "open port d (wire4)", "compile chain up", "swap lcore step: up, down",
         "swap chain up on lcore step: + reflect before count", "add chain down on lcore step: b -> a",
      }, texts(planned.actions))
      assert.equal("ttl", table.concat(up.stage_names, " ", 1, 1))
      assert.equal(2, #up.stages)
      assert.equal(1, #model.chains)
      assert.equal(3, #model.ports)
      apply(fn)
      assert.equal(3, #up.stages)
      assert.equal("down", model.chains[2].name)
      rig:send(rig.b, udp())
      assert.equal(1, #rig:collect(rig.a))
   end)

   it("takes ports, rings and chains away, and brings them back", function()
      start(ttl {}, rig.b)
      apply(function()
         local ring = tw.ring("between", { size = 64 })
         up.sink = ring
         tw.chain("second", ring, tw.nf.count {}, rig.b):pin { step = true }
      end)
      rig:send(rig.a, udp(), udp(), udp())
      assert.equal(3, #rig:collect(rig.b))
      local port
      apply(function()
         port = tw.port("d", "wire4")
         tw.chain("side", port, rig.c):pin { step = true }
      end)
      assert.truthy(port:inject(udp()))
      rig:run()
      assert.equal(1, #rig:collect(rig.c))
      apply(function()
         model.find(model.chains, "name", "second"):delete()
         model.find(model.chains, "name", "side"):delete()
         model.find(model.rings, "name", "between"):delete()
         port:delete()
         up.sink = rig.b
      end)
      rig:send(rig.a, udp())
      assert.equal(1, #rig:collect(rig.b))
      refused("is not there any more", function() apply(function() port:delete() end) end)
      apply(function() tw.chain("third", rig.b, rig.a):pin { step = true } end)
      assert.equal(3, model.find(model.chains, "name", "third").index, "1 and 2 can come back")
      reload.undo(4)
      rig:send(rig.a, udp())
      assert.equal(1, #rig:collect(rig.b))
      assert.equal(1, #model.chains)
   end)

   it("leaves everything as it was when something is wrong", function()
      start(ttl {}, tw.nf.count {}, rig.b)
      local generation = history.generation
      refused("no such thing", function()
         apply(function()
            up:insert(ttl {})
            error("no such thing", 0)
         end)
      end)
      refused("and so does chain up", function()
         apply(function()
            up:remove "ttl"
            tw.chain("other", rig.a, rig.c):pin { step = true }
         end)
      end)
      refused("no chain reads ring", function()
         apply(function()
            tw.ring "lonely"
            up:remove "ttl"
         end)
      end)
      refused("there is no network interface", function()
         apply(function() tw.chain("x", tw.port("x", "net_af_packet_none,iface=none-at-all"), rig.c):pin { step = true } end)
      end)
      assert.equal(2, #up.stages)
      assert.equal(generation, history.generation)
      rig:send(rig.a, udp())
      assert.equal("ttl=1 count=1", counts())
   end)

   it("is the only way when the engine runs", function()
      start(ttl {}, rig.b)
      for _, fn in ipairs {
         function() up:insert(ttl {}) end, function() up:pin { step = true } end, function() tw.port "wire9" end,
         function() tw.chain("x", rig.b, rig.c) end, function() tw.ring "r" end, function() rig.c:delete() end,
      } do refused("the engine runs", fn) end
   end)

   it("refuses NFs that are not there, places that cannot be", function()
      start(ttl {}, rig.b)
      for text, fn in pairs {
         ['chain up has no NF "nat"; there are: ttl'] = function() up:remove "nat" end,
         ["at is 5; it can be 1 to 2"] = function() up:insert(ttl {}, { at = 5 }) end,
         ["give one of before, after and at"] = function() up:insert(ttl {}, { at = 1, before = "ttl" }) end,
         ['there is no "behind"'] = function() up:insert(ttl {}, { behind = "ttl" }) end,
         ["expected an NF instance"] = function() up:insert "ttl" end,
      } do refused(text, function() apply(fn) end) end
   end)

   it("is undone, several levels deep, and done again", function()
      start(ttl {}, tw.nf.count {}, rig.b)
      apply(function() up:remove "ttl" end)
      apply(function() tw.chain("down", rig.b, ttl {}, rig.a):pin { step = true } end)
      apply(function() model.find(model.chains, "name", "down"):delete() end)
      assert.equal(1, #model.chains)
      assert.truthy(reload.undo():find "^applied")
      assert.equal(2, #model.chains)
      rig:send(rig.b, udp())
      assert.equal(ttl_of(udp()) - 1, ttl_of(rig:collect(rig.a)[1]))
      reload.undo(2)
      assert.equal(1, #model.chains)
      assert.same({ "ttl", "count" }, up.stage_names)
      rig:send(rig.a, udp())
      assert.equal("ttl=1 count=1", counts())
      refused("there is nothing to undo", reload.undo)
      local words = {}
      for i, entry in ipairs(history.entries()) do words[i] = entry.who .. ": " .. entry.what .. ": " .. entry.state end
      assert.same({
         "spec: swap chain up on lcore step: - ttl: undone",
         "spec: add chain down on lcore step: b -> ttl -> a: undone",
         "spec: remove chain down from lcore step: undone",
         "the engine: undo: add chain down on lcore step: b -> ttl -> a: settled",
         "the engine: undo 2 changes: swap chain up on lcore step: + ttl before count; "
            .. "remove chain down from lcore step: settled",
      }, words)
   end)

   it("is undone where only a port is left over", function()
      start(ttl {}, rig.b)
      apply(function() tw.chain("more", tw.port("d", "wire9"), ttl {}, rig.c):pin { step = true } end)
      apply(function() model.find(model.chains, "name", "more"):delete() end)
      assert.truthy(reload.undo(2):find "^applied")
      assert.is_nil(model.find(model.ports, "name", "d"))
      rig:send(rig.a, udp())
      assert.equal(ttl_of(udp()) - 1, ttl_of(rig:collect(rig.b)[1]))
   end)

   it("keeps state in tables and in Lua, not what the script wrote", function()
      start(memory { wanted = 7 }, rig.b)
      rig:send(rig.a, udp(1), udp(1), udp(7))
      rig:advance(0.2)
      local seen = table_named "seen"
      assert.equal(2, seen:get(1))
      assert.equal(3, seen:get(0))
      reload.set("memory", { wanted = 8 })
      assert.equal(2, table_named("seen"):get(1))
      assert.is_nil(table_named("wanted"):get(7))
      rig:send(rig.a, udp(1), udp(7), udp(8))
      assert.equal(3, table_named("seen"):get(1))
      assert.same({ wanted = 2 }, rig:drops())
      rig:advance(0.2)
      assert.equal(6, table_named("seen"):get(0), "export and import")
      reload.set("memory", { keep = false })
      assert.is_nil(table_named("seen"):get(1))
      local names = {}
      for _, t in ipairs(tw.tables()) do names[#names + 1] = t.name end
      table.sort(names)
      assert.same({ "seen", "wanted" }, names)
      reload.undo()
      assert.equal(3, table_named("seen"):get(1))
   end)

   it("forgets tables that nobody can come back to", function()
      start(memory {}, rig.b)
      local levels = history.levels
      history.levels = 1
      for i = 1, 5 do reload.set("memory", { wanted = 10 + i, keep = false }) end
      history.levels = levels
      local function tables_of_c()
         collectgarbage()
         collectgarbage()
         return C.tw_tables_count()
      end
      assert.is_true(tables_of_c() <= 6, "tables: " .. tables_of_c())
   end)

   it("goes on with an NF that is made anew just as it is", function()
      local function make() return tw.chain("up", rig.a, memory {}, ttl {}, rig.b):pin { step = true } end
      up = make()
      rig:start()
      local old = up.stages
      local report = apply(function()
         up:delete()
         make()
      end)
      assert.is_nil(report)
      assert.equal(old[1], up.stages[1])
      apply(function()
         up:delete()
         tw.chain("up", rig.a, memory {}, ttl { least = 4 }, rig.b):pin { step = true }
      end)
      assert.equal(old[1], up.stages[1])
      assert.are_not.equal(old[2], up.stages[2])
   end)

   it("is refused when somebody else changed something meanwhile", function()
      start(ttl {}, rig.b)
      local text = history.conflict({}, history.generation)
      assert.is_nil(text)
      local bob = {}
      history.meet(bob)
      apply(function() up:insert(tw.nf.count {}) end)
      text = history.conflict(bob, history.generation)
      assert.truthy(text:find("spec, 0 s ago: swap chain up on lcore step: + count at the end", 1, true), text)
      assert.is_nil(history.conflict(bob, history.generation))
   end)
end)

describe("a fingerprint", function()
   before_each(function() engine.close() end)
   after_each(function() engine.close() end)

   local function print_of(nf) return adopt.print_of(nf).text end

   it("is the same for the same code and configuration", function()
      assert.equal(print_of(ttl { least = 3 }), print_of(ttl { least = 3 }))
      assert.are_not.equal(print_of(ttl { least = 3 }), print_of(ttl { least = 4 }))
   end)

   it("does not depend on the line", function()
      local function load(text) return assert(loadstring(text, "@x.lua"))(tw) {} end
      local text = 'return (...).nf("x", function() local n = %s return { packet = function(pkt) pkt.mark = n end } end)'
      assert.equal(print_of(load(text:format "1")), print_of(load("\n\n" .. text:format "1")))
      assert.are_not.equal(print_of(load(text:format "1")), print_of(load(text:format "2")))
   end)

   it("has what the script wrote into tables", function()
      local function nf(n)
         local t = tw.array { value = "u32", entries = 4 }
         if n then t:set(1, n) end
         return tw.nf("x", function() return { packet = function() t:add(0, 1) end } end) {}
      end
      assert.equal(print_of(nf()), print_of(nf()))
      assert.equal(print_of(nf(5)), print_of(nf(5)))
      assert.are_not.equal(print_of(nf(5)), print_of(nf(6)))
   end)
end)

describe("a reload", function()
   local rig, dir, path

   local function write(name, text)
      local f = assert(io.open(dir .. "/" .. name, "w"))
      f:write(text)
      f:close()
   end

   local SCRIPT = [[
      local tw = require "tideway"
      local guard = require "guard_of_spec"
      local a, b = tw.port("a", "wire1"), tw.port("b", "wire2")
      tw.chain("up", a, guard { least = %d }, tw.nf.count {}, b):pin { step = true }
   ]]
   local GUARD = [[
      local tw = require "tideway"
      return tw.nf("guard", function(cfg)
         return { packet = function(pkt)
            local ip = pkt:ipv4()
            if ip and ip.ttl < cfg.least then return pkt:drop "%s" end
         end }
      end)
   ]]

   before_each(function()
      dir = os.tmpname()
      os.remove(dir)
      assert(require("lfs").mkdir(dir))
      path = dir .. "/script.lua"
      write("guard_of_spec.lua", GUARD:format "low")
      write("script.lua", SCRIPT:format(10))
      rig = Rig.new { ports = {} }
      assert(script.load(path, {}))
      options.probation, options.compile = 0, "luajit"
      rig:start()
      rig.a, rig.b = model.ports[1], model.ports[2]
      rig.ports = { rig.a, rig.b }
   end)
   after_each(function()
      rig:close()
      options.probation, options.compile = 1, "native"
      model.staged, script.loaded, package.loaded.guard_of_spec = false, nil, nil
      os.execute("rm -r " .. dir)
   end)

   local function nfs() return model.chains[1].stages end

   it("of an unchanged script changes nothing", function()
      local before = { unpack(nfs()) }
      write("script.lua", "\n\n" .. SCRIPT:format(10))
      assert.equal("nothing changed", reload.reload())
      assert.same(before, nfs())
      assert.equal(1, history.generation)
   end)

   it("changes what is different, and nothing else", function()
      local count = nfs()[2]
      rig:send(rig.a, udp())
      write("script.lua", SCRIPT:format(100))
      reload.reload()
      assert.equal("reload: swap chain up on lcore step: ~ guard", history.entries()[1].what)
      assert.equal(count, nfs()[2])
      rig:send(rig.a, udp())
      assert.same({ low = 1 }, rig:drops())
      assert.equal(1, rig:snapshot().chains[1].nfs[2].received)
   end)

   it("reads modules of the script again", function()
      write("guard_of_spec.lua", GUARD:format "very_low")
      write("script.lua", SCRIPT:format(100))
      reload.reload()
      rig:send(rig.a, udp())
      assert.same({ very_low = 1 }, rig:drops())
   end)

   it("of an NF reads its file again and keeps its configuration", function()
      reload.set("up.guard", { least = 100 })
      write("guard_of_spec.lua", "\n" .. GUARD:format "really_low")
      reload.reload "guard"
      rig:send(rig.a, udp())
      assert.same({ really_low = 1 }, rig:drops())
      assert.equal("reload guard: swap chain up on lcore step: ~ guard", history.entries()[2].what)
      assert.equal("nothing changed", reload.reload "guard")
   end)

   it("with an error leaves all as it was", function()
      local before, loaded = { unpack(nfs()) }, package.loaded.guard_of_spec
      write("script.lua", "this is no Lua")
      refused("script.lua:1:", reload.reload)
      write("script.lua", SCRIPT:format(100))
      write("guard_of_spec.lua", "error 'not today'")
      refused("not today", reload.reload)
      refused("not today", function() reload.reload "guard" end)
      write("script.lua", "local tw = require 'tideway' tw.chain('x', tw.port('a', 'wire1'), tw.port('q', 'net_none_'))")
      refused("does not open", reload.reload)
      assert.same(before, nfs())
      assert.equal(loaded, package.loaded.guard_of_spec)
      rig:send(rig.a, udp())
      assert.equal(1, #rig:collect(rig.b))
      refused("no chain has an NF \"nat\"; there are: up.guard, up.count", function() reload.reload "nat" end)
   end)
end)

describe("probation", function()
   local rig, up
   before_each(function()
      rig = Rig.new { ports = { "a", "b" } }
      options.compile = "luajit"
   end)
   after_each(function()
      options.probation, options.compile = 1, "native"
      if rig then rig:close() end
   end)

   local function bad(act)
      return tw.nf("bad", function()
         return { packet = function(pkt)
            local port = pkt:udp()
            if port and port.dst_port == 666 then act() end
         end }
      end) {}
   end

   it("takes a change back whose NF raises, and says why", function()
      up = rig:chain("up", rig.a, ttl {}, rig.b)
      rig:start()
      change.transaction(function() up:insert(bad(function() local t = nil return t.x end)) end, "spec")
      assert.equal(2, #up.stages)
      rig:send(rig.a, udp(1), udp(666), udp(2))
      assert.equal(1, #up.stages)
      local log = table.concat(rig:log(), "\n")
      assert.truthy(log:find("NF bad (", 1, true), log)
      assert.truthy(log:find("change_spec.lua:", 1, true), log)
      assert.truthy(log:find("rolled back", 1, true), log)
      rig:send(rig.a, udp(3), udp(666))
      assert.equal(4, #rig:collect(rig.b))
      assert.same({ nf_fault = 1 }, rig:drops())
      assert.equal("rolled back", history.entries()[1].state)
      local nfs = rig:snapshot().chains[1].nfs
      assert.is_false(nfs[1].quarantined)
      assert.same({ "ttl", 5, "(removed)", 2 }, { nfs[1].name, nfs[1].received, nfs[2].name, nfs[2].received })
   end)

   it("ends after its time, or with the next change", function()
      up = rig:chain("up", rig.a, ttl {}, rig.b)
      rig:start()
      change.transaction(function() up:insert(bad(function() error "no" end)) end, "spec")
      assert.is_true(probation.active())
      rig:advance(1.5)
      assert.is_false(probation.active())
      assert.equal("settled", history.entries()[1].state)
      change.transaction(function() up:insert(tw.nf.count {}) end, "spec")
      change.transaction(function() up:remove "count" end, "spec")
      assert.equal("settled", history.entries()[2].state)
      rig:send(rig.a, udp(666))
      assert.equal(2, #up.stages, "an NF that was good is taken out alone")
      assert.is_true(rig:snapshot().chains[1].nfs[2].quarantined)
   end)
end)
