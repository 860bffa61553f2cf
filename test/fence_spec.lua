-- SPDX-License-Identifier: BSD-3-Clause
-- The fence: what a bad NF does to its own packets, and that it does nothing to anybody else.


local tw = require "tideway"
local Rig = require "test.support.rig"
local frame = require "test.support.frame"

local good = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, "good")
local poison = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 666 }, "bad!")

-- Each is a way for an NF to go wrong on a packet to port 666.
local faults = {
   raises = {
      says = "attempt to index",
      act = function() local nothing = nil; return nothing.field end,
   },
   ["raises something that is no string"] = {
      says = "not a string",
      act = function() error {} end,
   },
   ["loops for ever, interpreted"] = {
      says = "ran for more than",
      act = function() while true do pcall(string.rep, "x", 10) end end,
   },
   ["loops for ever, compiled"] = {
      says = "ran for more than",
      act = function() local n = 0 while true do n = n + 1 end end,
   },
   ["recurses without end"] = {
      says = "stack overflow",
      act = function() local function f(x) return 1 + f(x + 1) end return f(1) end,
   },
   ["eats memory"] = {
      says = "", -- its time or its heap runs out first
      act = function()
         local hoard = {}
         for i = 1, 1e9 do hoard[i] = ("x"):rep(1000) .. i end
         return hoard
      end,
   },
   ["writes through a wild pointer"] = {
      says = "memory fault",
      act = function() require("ffi").cast("int *", 8)[0] = 1 end,
   },
}

local function bad_nf(act, policy)
   return tw.nf("bad", function()
      return {
         packet = function(pkt)
            local udp = pkt:udp()
            if udp and udp.dst_port == 666 then act() end
         end,
         on_fault = policy,
      }
   end) {}
end

describe("fence", function()
   local rig

   before_each(function() rig = Rig.new { ports = { "a", "b" }, stall_ms = 10 } end)
   after_each(function() if rig then rig:close() end end)

   for name, fault in pairs(faults) do
      it("drops the packet and then the NF's packets when it " .. name, function()
         rig:chain("c", rig.a, tw.nf.count {}, bad_nf(fault.act, "drop"), tw.nf.count {}, rig.b)
         rig:start()
         rig:send(rig.a, good, good, poison, good, good)
         assert.equal(2, #rig:collect(rig.b), "packets ahead of the bad one go through")
         local drops = rig:drops()
         assert.equal(1, drops.nf_fault)
         assert.equal(2, drops.nf_quarantined)
         local log = table.concat(rig:log(), "\n")
         assert.truthy(log:find("NF bad", 1, true), log)
         assert.truthy(log:find("fence_spec.lua:", 1, true), log)
         assert.truthy(log:find(fault.says, 1, true), log)
         assert.is_true(rig:snapshot().chains[1].nfs[2].quarantined)
      end)

      it("passes its packets by, with that policy, when it " .. name, function()
         rig:chain("c", rig.a, bad_nf(fault.act, "bypass"), rig.b)
         rig:start()
         rig:send(rig.a, good, poison, good)
         assert.same({ good, poison, good }, rig:collect(rig.b))
         rig:send(rig.a, poison)
         assert.same({ poison }, rig:collect(rig.b))
         assert.equal(1, #rig:log())
      end)
   end

   it("does not run NFs in front of a faulty one twice", function()
      local ttl = tw.nf("ttl", function()
         return { packet = function(pkt)
            local ip = pkt:ipv4()
            ip.ttl = ip.ttl - 1
         end }
      end) {}
      rig:chain("c", rig.a, ttl, bad_nf(faults.raises.act, "bypass"), rig.b)
      rig:start()
      rig:send(rig.a, good, poison, good)
      for _, out in ipairs(rig:collect(rig.b)) do assert.equal(63, out:byte(14 + 9)) end
   end)

   it("does not run packet NFs in front of a faulty burst NF twice", function()
      local ttl = tw.nf("ttl", function()
         return { packet = function(pkt)
            local ip = pkt:ipv4()
            ip.ttl = ip.ttl - 1
         end }
      end) {}
      local burst = tw.nf("burst", function()
         return { burst = function() error "no" end, on_fault = "bypass" }
      end) {}
      rig:chain("c", rig.a, ttl, burst, ttl, rig.b)
      rig:start()
      rig:send(rig.a, good, good, good)
      local out = rig:collect(rig.b)
      assert.equal(3, #out)
      for _, f in ipairs(out) do assert.equal(62, f:byte(14 + 9)) end
   end)

   it("contains faults of punt() and tick()", function()
      local nf = tw.nf("slow", function()
         return {
            packet = function(pkt) return pkt:punt() end,
            punt = function() error "punt is broken" end,
         }
      end) {}
      local ticker = tw.nf("ticker", function()
         return { packet = function() end, tick = function() error "tick is broken" end, on_fault = "bypass" }
      end) {}
      rig:chain("c", rig.a, ticker, nf, rig.b)
      rig:start()
      rig:send(rig.a, good, good)
      rig:advance(1)
      local log = table.concat(rig:log(), "\n")
      assert.truthy(log:find("punt is broken", 1, true), log)
      assert.truthy(log:find("tick is broken", 1, true), log)
      local drops = rig:drops()
      assert.equal(2, (drops.nf_fault or 0) + (drops.nf_quarantined or 0))
   end)

   it("blames the NF that holds the memory, not the one that asked last", function()
      local hoard = {}
      local eater = tw.nf("eater", function()
         return { packet = function(pkt)
            for i = 1, 2000 do hoard[#hoard + 1] = ("%d %d"):format(pkt.len, #hoard + i) end
         end }
      end) {}
      local innocent = tw.nf("innocent", function()
         return { packet = function(pkt) pkt.mark = #("x"):rep(100 + pkt.mark % 7) end }
      end) {}
      rig:chain("c", rig.a, eater, innocent, rig.b)
      rig:start()
      local log = ""
      for _ = 1, 200 do
         for _ = 1, 32 do rig.a:inject(good) end
         rig:run()
         rig:collect(rig.b)
         log = log .. table.concat(rig:log(), "\n")
         if log ~= "" then break end
      end
      assert.truthy(log:find("NF eater", 1, true), log)
   end)

   it("frees what an abandoned VM held", function()
      local function resident()
         collectgarbage() -- what the compiler left in this VM is not what is measured
         collectgarbage()
         for line in io.lines "/proc/self/status" do
            local kb = line:match "^VmRSS:%s*(%d+)"
            if kb then return tonumber(kb) / 1024 end
         end
      end
      local before
      for round = 1, 12 do
         if round > 1 then rig = Rig.new { ports = { "a", "b" }, stall_ms = 10 } end
         rig:chain("c", rig.a, bad_nf(faults["loops for ever, compiled"].act, "drop"), rig.b)
         rig:start()
         rig:send(rig.a, poison)
         rig:log()
         rig:close()
         if round == 4 then before = resident() end
      end
      rig = nil
      -- A VM is some MB; machine code of its traces (below 256 kB a VM) is not given back.
      assert.is_true(resident() - before < 16, ("%.1f MB more"):format(resident() - before))
   end)
end)

describe("fence, two lcores", function()
   it("keeps the other lcore's packets when one NF loops for ever", function()
      local abi = require "tideway.abi"
      local engine = require "tideway.engine"
      if #require("tideway.plan").cpus() < 2 then pending "needs two CPUs" return end
      abi.C.tw_stats_close()
      abi.C.tw_stats_open(nil, "spec", "spec")
      local a, b, c, d = tw.port("a", "wire1"), tw.port("b", "wire2"), tw.port("c", "wire3"), tw.port("d", "wire4")
      tw.chain("bad", a, bad_nf(faults["loops for ever, compiled"].act, "drop"), b):pin { lcore = 0 }
      tw.chain("good", c, tw.nf.count {}, d):pin { lcore = 1 }
      engine.start()
      a:inject(poison)
      local got, sent = 0, 2000
      for _ = 1, sent do
         assert(c:inject(good))
         if d:collect() then got = got + 1 end
      end
      local deadline = tw.now() + 60e9
      while got < sent and tw.now() < deadline do if d:collect() then got = got + 1 end end
      while #engine.log() == 0 and tw.now() < deadline do abi.C.tw_sleep_ms(1) end
      abi.C.tw_engine_stop()
      local snapshot = engine.snapshot()
      engine.close()
      assert.equal(sent, got)
      assert.is_true(require("tideway.stats").adds_up(snapshot))
      assert.equal(0, snapshot.chains[2].dropped)
   end)
end)


