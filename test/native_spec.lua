-- SPDX-License-Identifier: BSD-3-Clause
-- Compiled chains on lcores: the Lua of tier 1 at once, machine code when the C compiler is done, swapped in between
-- two bursts with nothing lost, and given back.

local ffi = require "ffi"
local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local native = require "tideway.native"
local options = require "tideway.options"
local Rig = require "test.support.rig"
local text = require "tideway.compiler.ir.text"

ffi.cdef "int setenv(const char *name, const char *value, int overwrite);"

local C = abi.C
local have_cc = native.compiler() ~= nil
local udp = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, "payload")

local function ttl_nf(policy)
   return tw.nf("ttl", function()
      return {
         packet = function(pkt)
            local ip = pkt:ipv4()
            if not ip then return end
            if ip.ttl <= 1 then return pkt:drop "spec_ttl" end
            ip.ttl = ip.ttl - 1
         end,
         on_fault = policy,
      }
   end) {}
end

local burst_nf = tw.nf("mark", function()
   return { burst = function(batch)
      for i = 0, batch.count - 1 do batch.pkts[i].mark = batch.pkts[i].mark + 1 end
   end }
end)

-- What the compiler makes of a stage by itself, given as IR.
local function program(source) return assert(text.parse(source)) end

local function decrement(stage, last)
   return program(([[
      program "ttl%d" target lcore
      b1():
        v1:ptr pkt = pktdata
        ctxstore burst_stage, %d
        v2:num 0..255 = load8 v1 +22
        br le v2, 1 -> b2(), b3()
      b2():
        ctxstore verdict, %d
        ctxstore stage, %d
        ctxstore odd, 1
        ret 0
      b3():
        v3:num 1..254 = sub v2, 1
        store8 v1 +22, v3
        %s
        ret 0
   ]]):format(stage, stage, C.TW_DROP + bit.lshift(C.tw_reason_id "spec_ttl", 8), stage,
      last and "ctxstore verdict, 7" or ""))
end

local function tier() return C.tw_stats().chain[0].tier end
local function ttl_of(f) return f:byte(23) end
local function leftovers()
   local pipe = io.popen(("ls -d /tmp/tideway-%d-?????? 2>/dev/null | wc -l"):format(C.tw_stats().pid))
   local n = tonumber(pipe:read "*l")
   pipe:close()
   return n
end

describe("compiled chains", function()
   local rig, segments_of, path

   before_each(function()
      rig = Rig.new { ports = { "a", "b" } }
      segments_of, path = native.segments_of, os.getenv "PATH"
   end)

   after_each(function()
      native.segments_of = segments_of
      ffi.C.setenv("PATH", path, 1)
      options.compile = "native"
      if rig then rig:close() end
      rig = nil
   end)

   local function all_ttl(chain)
      local list = {}
      for i in ipairs(chain.stages) do
         list[i] = { first = i, last = i, ir = decrement(i - 1, i == #chain.stages) }
      end
      return list
   end

   local function whole(chain) return { { first = 1, last = #chain.stages, ir = decrement(0, true) } } end

   it("run as Lua at once", function()
      native.segments_of = whole
      rig:chain("c", rig.a, ttl_nf(), rig.b)
      rig:start()
      assert.equal(C.TW_TIER_LUAJIT, tier())
      rig:send(rig.a, udp, (udp:gsub("^(" .. ("."):rep(22) .. ").", "%1\1")), udp)
      local out = rig:collect(rig.b)
      assert.equal(2, #out)
      assert.equal(ttl_of(udp) - 1, ttl_of(out[1]))
      assert.equal(1, rig:drops().spec_ttl)
      assert.equal(1, rig:snapshot().chains[1].nfs[1].dropped)
   end)

   it("are left alone when told so", function()
      native.segments_of = function() error "is not asked" end
      tw.options { compile = "off" }
      rig:chain("c", rig.a, ttl_nf(), rig.b)
      rig:start()
      assert.equal(C.TW_TIER_LUA, tier())
      assert.equal(ttl_of(udp) - 1, ttl_of(rig:through(rig.a, udp, rig.b)))
   end)

   it("run as they are when the compiler fails, and it is said", function()
      native.segments_of = function() error "something is missing" end
      rig:chain("c", rig.a, ttl_nf(), rig.b)
      rig:start()
      assert.equal(ttl_of(udp) - 1, ttl_of(rig:through(rig.a, udp, rig.b)))
      assert.truthy(table.concat(rig:log(), "\n"):find("something is missing", 1, true))
   end)

   it("stand between NFs that are not compiled", function()
      native.segments_of = function()
         return {
            { first = 1, last = 1, ir = decrement(0) }, { first = 2, last = 2, raw = "burst" },
            { first = 3, last = 3, raw = "no" }, { first = 4, last = 4, ir = decrement(3, true) },
         }
      end
      rig:chain("c", rig.a, ttl_nf(), burst_nf {}, ttl_nf(), ttl_nf(), rig.b)
      rig:start()
      assert.equal(C.TW_TIER_LUA, tier(), "the lowest counts")
      for round = 1, 2 do
         local low = udp:sub(1, 22) .. "\2" .. udp:sub(24)
         rig:send(rig.a, udp, low, udp)
         local out = rig:collect(rig.b)
         assert.equal(2, #out)
         assert.equal(ttl_of(udp) - 3, ttl_of(out[1]))
         assert.equal(round, rig:snapshot().chains[1].nfs[3].dropped)
         if round == 1 and have_cc then native.finish(120) end
      end
   end)

   it("become machine code under load, with nothing lost", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      local before = leftovers()
      for _, how in ipairs { whole, all_ttl } do
         native.segments_of = how
         rig:chain("c", rig.a, ttl_nf(), rig.b)
         rig:start()
         local sent, got, polls = 0, 0, 0
         native.due = 0
         repeat
            for _ = 1, 20 do
               assert(rig.a:inject(udp))
               sent = sent + 1
            end
            engine.step()
            for _, f in ipairs(rig:collect(rig.b)) do
               assert.equal(ttl_of(udp) - 1, ttl_of(f))
               got = got + 1
            end
            polls = polls + 1
         until tier() == C.TW_TIER_NATIVE or polls > 1e6
         assert.equal(C.TW_TIER_NATIVE, tier())
         for _ = 1, 50 do
            for _ = 1, 20 do rig.a:inject(udp) end
            rig:run()
            sent, got = sent + 20, got + #rig:collect(rig.b)
         end
         assert.equal(sent, got)
         local snapshot = rig:close()
         assert.equal(sent, snapshot.totals.received)
         rig = Rig.new { ports = { "a", "b" } }
      end
      assert.equal(before, leftovers())
      for line in io.lines "/proc/self/maps" do assert.falsy(line:find("memfd:tideway-chain", 1, true)) end
   end)

   it("is swapped while a thread of its own polls", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      native.segments_of = whole
      local cpus = require("tideway.plan").cpus()
      tw.chain("c", rig.a, ttl_nf(), rig.b):pin { lcore = cpus[#cpus] }
      rig:start()
      local sent, got, stop = 0, 0, os.time() + 120
      local function some()
         for _ = 1, 32 do
            if rig.a:inject(udp) then sent = sent + 1 end
         end
         for _, f in ipairs(rig:collect(rig.b)) do
            got = got + 1
            assert.equal(ttl_of(udp) - 1, ttl_of(f))
         end
         C.tw_sleep_ms(1)
      end
      native.due = 0
      while tier() ~= C.TW_TIER_NATIVE and os.time() < stop do
         some()
         native.poll()
      end
      assert.equal(C.TW_TIER_NATIVE, tier())
      for _ = 1, 100 do some() end
      stop = os.time() + 60
      while got < sent and os.time() < stop do
         got = got + #rig:collect(rig.b)
         C.tw_sleep_ms(1)
      end
      assert.equal(sent, got)
   end)

   it("stays with the Lua when there is no C compiler, and says so once", function()
      ffi.C.setenv("PATH", "/nonexistent", 1)
      native.segments_of = whole
      rig:chain("c", rig.a, ttl_nf(), rig.b)
      rig:start()
      native.finish(5)
      assert.equal(C.TW_TIER_LUAJIT, tier())
      assert.truthy(table.concat(rig:log(), "\n"):find("C compiler (cc) cannot be started", 1, true))
      assert.equal(ttl_of(udp) - 1, ttl_of(rig:through(rig.a, udp, rig.b)))
   end)

   it("gives up a compilation when the engine stops", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      local before = leftovers()
      native.segments_of = whole
      rig:chain("c", rig.a, ttl_nf(), rig.b)
      rig:start()
      native.due = 0
      assert.is_true(native.poll())
      local stop = os.time() + 60
      while leftovers() == before and os.time() < stop do C.tw_sleep_ms(1) end -- the helper has begun
      assert.equal(before + 1, leftovers())
      rig:close()
      rig = nil
      assert.equal(before, leftovers())
   end)

   -- Machine code that writes to address 8, as if the compiler had a bug.
   local function wild()
      return { { first = 1, last = 1, ir = program [[
         program "wild" target lcore
         b1():
           v1:ptr pkt = pktdata
           v2:num 0..255 = load8 v1 +22
           br eq v2, 66 -> b2(), b3()
         b2():
           store64 &0x8 +0, 1
           jmp b3()
         b3():
           ctxstore verdict, 7
           ret 0
      ]] } }
   end

   local poison = udp:sub(1, 22) .. "\66" .. udp:sub(24)

   for _, how in ipairs { "LuaJIT", "machine code" } do
      it("are fenced as " .. how .. ": the NF is taken out, the chain falls back", function()
         if how ~= "LuaJIT" and not have_cc then return pending "no C compiler (cc) here" end
         native.segments_of = wild
         rig:chain("c", rig.a, ttl_nf "bypass", rig.b)
         rig:start()
         if how ~= "LuaJIT" then
            native.finish(120)
            assert.equal(C.TW_TIER_NATIVE, tier())
         end
         rig:send(rig.a, udp, poison, udp)
         assert.equal(3, #rig:collect(rig.b))
         assert.truthy(table.concat(rig:log(), "\n"):find("memory fault", 1, true))
         assert.equal(C.TW_TIER_LUA, tier())
         rig:send(rig.a, poison, poison)
         assert.equal(2, #rig:collect(rig.b))
         assert.equal(0, #rig:log())
         assert.is_true(rig:snapshot().chains[1].nfs[1].quarantined)
      end)
   end

   for _, how in ipairs { "LuaJIT", "machine code" } do
      it("are fenced as " .. how .. " between others: nobody in front runs twice", function()
         if how ~= "LuaJIT" and not have_cc then return pending "no C compiler (cc) here" end
         native.segments_of = function()
            local bad = wild()[1].ir
            return { { first = 1, last = 1, ir = decrement(0) }, { first = 2, last = 2, raw = "burst" },
               { first = 3, last = 3, ir = bad } }
         end
         rig:chain("c", rig.a, ttl_nf(), burst_nf {}, ttl_nf "bypass", rig.b)
         rig:start()
         if how ~= "LuaJIT" then native.finish(120) end
         rig:send(rig.a, udp, udp:sub(1, 22) .. "\67" .. udp:sub(24), udp)
         local out = rig:collect(rig.b)
         assert.equal(3, #out)
         assert.same({ ttl_of(udp) - 1, 66, ttl_of(udp) - 1 }, { ttl_of(out[1]), ttl_of(out[2]), ttl_of(out[3]) })
         local nfs = rig:snapshot().chains[1].nfs
         assert.same({ false, false, true }, { nfs[1].quarantined, nfs[2].quarantined, nfs[3].quarantined })
      end)
   end

   it("are fenced when machine code does not end", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      native.segments_of = function()
         return { { first = 1, last = 1, ir = program [[
            program "long" target lcore
            b1():
              v1:ptr pkt = pktdata
              v2:num 0..255 = load8 v1 +22
              br eq v2, 66 -> b2(0, 1), b4()
            b2(v3:num 0..9007199254740991, v4:num 0..4294967295) loop 9007199254740991:
              br lt v3, 9007199254740990 -> b3(), b5()
            b3():
              v5:num 1..9007199254740991 = add v3, 1
              v6:num 0..4294967295 = xor.32 v4, v3
              v7:num 0..4294967295 = mul.32 v6, 48271
              jmp b2(v5, v7)
            b4():
              ctxstore verdict, 7
              ret 0
            b5():
              ctxstore mark, v4
              jmp b4()
         ]] } }
      end
      rig:chain("c", rig.a, ttl_nf "drop", rig.b)
      rig:start()
      native.finish(120)
      rig:send(rig.a, udp, poison, udp)
      assert.equal(1, #rig:collect(rig.b))
      local drops = rig:drops()
      assert.same({ 1, 1 }, { drops.nf_fault, drops.nf_quarantined })
      assert.truthy(table.concat(rig:log(), "\n"):find("ran for more than", 1, true))
   end)

   it("punt and come back through the functions as they are", function()
      if not have_cc then return pending "no C compiler (cc) here" end
      local punter = tw.nf("punter", function()
         return {
            packet = function(pkt) return pkt:punt() end,
            punt = function(pkt) pkt.mark = 9 end,
         }
      end) {}
      native.segments_of = function()
         return { { first = 1, last = 2, ir = program(([[
            program "punt" target lcore
            b1():
              ctxstore verdict, %d
              ctxstore stage, 0
              ctxstore odd, 1
              ret 0
         ]]):format(C.TW_PUNT)) } }
      end
      rig:chain("c", rig.a, punter, ttl_nf(), rig.b)
      rig:start()
      native.finish(120)
      assert.equal(ttl_of(udp) - 1, ttl_of(rig:through(rig.a, udp, rig.b)))
   end)
end)
