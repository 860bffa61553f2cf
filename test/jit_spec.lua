-- SPDX-License-Identifier: BSD-3-Clause
-- What LuaJIT does with chains: traces by NF, aborts with line and reason, what it gives up, and how that is mended.

local tw = require "tideway"
local abi = require "tideway.abi"
local engine = require "tideway.engine"
local frame = require "test.support.frame"
local jit_report = require "tideway.live.jit"
local options = require "tideway.options"
local Rig = require "test.support.rig"
local stats = require "tideway.stats"
local view = require "tideway.live.view"

local PACKET = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 9, dport = 1 }, "x")

-- LuaJIT cannot compile the making of a closure; with the switch on it is not reached any more.
local HERE = debug.getinfo(1, "S").short_src:match "[^/]*$"
local function stubborn(switch)
   return tw.nf("stubborn", function()
      return { burst = function(batch)
         for i = 0, batch.count - 1 do
            if switch:get(0) == 0 then
               local function add(n) return n + 1 end
               batch.pkts[i].mark = add(1)
            end
         end
      end }
   end) {}
end

describe("jit report", function()
   local rig, switch, slot
   setup(function()
      options.compile = "off"
      rig = Rig.new { ports = { "a", "b" } }
      switch = tw.array { value = "u32", entries = 1 }
      rig:chain("c", rig.a, stubborn(switch), rig.b)
      rig:start()
      slot = engine.lcores[1].slot
   end)
   teardown(function()
      options.compile = "native"
      if rig then rig:close() end
   end)

   local frames = {}
   for i = 1, 64 do frames[i] = PACKET end

   local function turn(times)
      for _ = 1, times do
         rig:send(rig.a, unpack(frames))
         rig:collect(rig.b)
      end
      rig:advance(0.11) -- a tick
   end

   -- LuaJIT waits longer after each recording that failed; after some ten it gives up.
   local function until_given_up()
      if jit_report.of(slot).interpreted > 0 then return end
      for _ = 1, 200 do
         turn(50)
         if jit_report.of(slot).interpreted > 0 then return end
      end
      error("LuaJIT has not given up: " .. require("tideway.json").encode(jit_report.of(slot)))
   end

   it("names the line and the reason of what LuaJIT cannot compile, and the NF", function()
      until_given_up()
      local r = jit_report.of(slot)
      local found
      for _, abort in ipairs(r.last_aborts) do
         if abort.owner == "stubborn of chain c" and abort.why:find "NYI: bytecode FNEW" then found = abort end
      end
      assert.is_table(found, require("tideway.json").encode(r))
      assert.is_truthy(found.at:find("^" .. HERE:gsub("%p", "%%%0") .. ":%d+$"), found.at)
      assert.is_true(r.aborts >= 1 and #r.last_aborts <= 32)
   end)

   it("says what runs interpreted, in the counters and the log too", function()
      until_given_up()
      local r = jit_report.of(slot)
      assert.is_true(#r.given_up >= 1)
      assert.is_truthy(r.given_up[1].at:find ":%d+$")
      rig:advance(0.11)
      local health = stats.snapshot(abi.C.tw_stats()).lcores[1].jit
      assert.equal(r.interpreted, health.interpreted)
      assert.equal(r.given_up[1].at, health.interpreted_at)
      local text = require("tideway.metrics.families").text(engine.snapshot())
      assert.is_truthy(text:find("tideway_jit_interpreted_functions{cpu=\"0\"} " .. r.interpreted, 1, true))
      assert.is_truthy(table.concat(rig:log(), "\n"):find("the first at " .. r.given_up[1].at, 1, true))
      local _, warnings = require("tideway.cli.top_pages").head { snap = engine.snapshot() }
      assert.is_truthy(warnings[1]:find("run interpreted, at " .. r.given_up[1].at, 1, true))
   end)

   it("is shown as text", function()
      until_given_up()
      local text = table.concat(view.lines(jit_report.jit(), 200), "\n")
      for _, part in ipairs { "INTERPRETED", "aborted recordings", "stubborn of chain c", "NYI" } do
         assert.is_truthy(text:find(part, 1, true), part .. " is not in\n" .. text)
      end
   end)

   it("can be had again: rewarm() lets LuaJIT try what it gave up", function()
      until_given_up()
      switch:set(0, 1)
      for _ = 1, 10 do turn(20) end
      assert.is_true(jit_report.of(slot).interpreted > 0, "it came back by itself")
      local said = jit_report.rewarm()
      assert.is_truthy(said:find "recorded anew")
      for _ = 1, 10 do turn(20) end
      local r = jit_report.of(slot)
      assert.equal(0, r.interpreted)
      assert.equal(1, r.rewarmed)
      local own = 0
      for _, t in ipairs(r.where) do
         if t.owner == "stubborn of chain c" and t.bytes > 0 then own = own + t.traces end
      end
      assert.is_true(own > 0, require("tideway.json").encode(r))
   end)

   it("adds up: the machine code is that of the traces", function()
      switch:set(0, 1)
      for _ = 1, 5 do turn(30) end
      local r = jit_report.of(slot)
      local traces, bytes = 0, 0
      for _, t in ipairs(r.where) do traces, bytes = traces + t.traces, bytes + t.bytes end
      assert.is_true(traces > 0)
      assert.equal(r.traces, traces)
      assert.equal(r.machine_code, bytes)
      assert.is_true(r.heap > 100000)
   end)

   it("of an lcore that is not there is refused", function()
      local ok, err = pcall(jit_report.jit, 77)
      assert.is_false(ok)
      assert.equal("jit: there is no lcore on CPU 77; there are: step", err)
   end)
end)
