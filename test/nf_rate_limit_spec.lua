-- SPDX-License-Identifier: BSD-3-Clause
-- rate_limit on messages: bursts, spacing, keys, and one count for several instances.

local abi = require "tideway.abi"
local rigs = require "test.support.message"
local tw = require "tideway"

local C = abi.C

describe("rate_limit", function()
   local list, now, n
   local real_now

   before_each(function()
      list, now, n = {}, 1e12, (n or 0) + 1
      real_now = tw.now
      rawset(tw, "now", function() return now end)
   end)
   after_each(function()
      for _, rig in ipairs(list) do rig:close() end
      rawset(tw, "now", real_now)
   end)

   local function use(cfg)
      cfg.name = cfg.name or "spec_rate_" .. n
      cfg.entries = cfg.entries or 1024
      local rig = rigs.rig(tw.nf.rate_limit(cfg))
      list[#list + 1] = rig
      return rig
   end

   local function ask(rig, spec)
      local out = rig:run(spec or {})
      assert.is_nil(out.why)
      local status, after = out.verdict == "respond" and out.status or out.exit, nil
      if out.verdict == "respond" then after = out.header "retry-after" end
      rig:free(out)
      return status, after
   end

   local function count(rig, times, spec)
      local passed = 0
      for _ = 1, times do
         if ask(rig, spec) == "next" then passed = passed + 1 end
      end
      return passed
   end

   it("lets a burst pass, then as many as the rate says", function()
      local rig = use { rate = 10, burst = 5 }
      assert.equals(5, count(rig, 20))
      assert.same({ 429, "1" }, { ask(rig) })
      now = now + 0.35e9
      assert.equals(3, count(rig, 20))
      now = now + 100e9
      assert.equals(5, count(rig, 20))
   end)

   it("holds the rate over a long time, not more and not less", function()
      local rig = use { rate = 100, burst = 3 }
      local passed = 0
      for _ = 1, 2000 do
         if ask(rig) == "next" then passed = passed + 1 end
         now = now + 1e6 -- 1000 a second for two seconds
      end
      assert.is_true(passed >= 200 and passed <= 204, "passed: " .. passed)
   end)

   it("says how long to wait", function()
      local rig = use { rate = 1 / 60 }
      assert.equals("next", (ask(rig)))
      assert.same({ 429, "60" }, { ask(rig) })
      now = now + 45e9
      assert.same({ 429, "15" }, { ask(rig) })
   end)

   it("counts clients apart", function()
      local rig = use { rate = 1, burst = 2 }
      assert.equals(2, count(rig, 5, { peer = { 192, 0, 2, 1 } }))
      assert.equals(2, count(rig, 5, { peer = { 192, 0, 2, 2 } }))
   end)

   it("counts by header, path, host, all, or what a function says", function()
      local function two(key, a, b)
         local rig = use { rate = 1, burst = 1, key = key, name = "spec_rate_" .. n .. "_" .. #list }
         return count(rig, 2, a), count(rig, 2, b)
      end
      assert.same({ 1, 1 }, { two("header:X-Key", { headers = { { "x-key", "a" } } }, { headers = { { "x-key", "b" } } }) })
      assert.same({ 1, 0 }, { two("header:X-Key", { headers = { { "x-key", "a" } } }, { headers = { { "X-KEY", "a" } } }) })
      assert.same({ 1, 1 }, { two("path", { target = "/a" }, { target = "/b?x" }) })
      assert.same({ 1, 0 }, { two("path", { target = "/a" }, { target = "/%61?x" }) })
      assert.same({ 1, 0 }, { two("host", { host = "A.test" }, { host = "a.test" }) })
      assert.same({ 1, 0 }, { two("all", { target = "/a" }, { peer = { 1, 1, 1, 1 } }) })
      assert.same({ 2, 1 }, { two(function(msg) return msg.method == "POST" and "p" or nil end, {}, { method = "POST" }) })
   end)

   it("has one count for all instances, and for all functions of the same name", function()
      local name = "spec_rate_shared_" .. n
      local a, b = use { rate = 1, burst = 4, name = name }, use { rate = 1, burst = 4, name = name }
      assert.equals(4, count(a, 1) + count(b, 2) + count(a, 3) + count(b, 4))
   end)

   it("drops datagrams that are too many", function()
      local rig = use { rate = 1, burst = 1 }
      local spec = { kind = C.TW_MSG_DATAGRAM, bytes = "x" }
      assert.equals("next", rig:run(spec).exit)
      local out = rig:run(spec)
      assert.same({ "gate", "drop" }, { out.exit, out.verdict })
   end)

   it("has another status when it is told", function()
      local rig = use { rate = 1, burst = 1, status = 503 }
      ask(rig)
      assert.equals(503, (ask(rig)))
   end)

   for what, case in pairs {
      ["no rate"] = { {}, "rate is missing" },
      ["keys that do not exist"] = { { rate = 1, key = "cookie" }, "key is cookie" },
      ["a burst below one"] = { { rate = 1, burst = 0 }, "burst is 0" },
   } do
      it("refuses " .. what, function()
         local ok, err = pcall(tw.nf.rate_limit, case[1])
         assert.is_false(ok)
         assert.matches(case[2], err, 1, true)
      end)
   end
end)
