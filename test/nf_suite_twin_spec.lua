-- SPDX-License-Identifier: BSD-3-Clause
-- The NFs of examples/nf on an lcore against their C twins in the kernel: the same packets, and verdicts, bytes and
-- tables must be equal. Each was written for itself, one in Lua and one in C.

local frame = require "test.support.frame"
local kernel_twin = require "test.support.kernel_twin"
local rigs = require "test.support.rig"
local twins = require "test.support.twins"

local SEED, PACKETS = tonumber(os.getenv "SUITE_SEED" or 7), tonumber(os.getenv "SUITE_PACKETS" or 1000)
local DROP, PASS, TX = 1, 2, 3

local function unless_missing()
   local why = kernel_twin.missing()
   if why then pending(why) end
   return why
end

-- What differs between a table and the map of its name; nil when nothing does.
local function difference(k, t, timed)
   if t.kind == "counters" then
      for i = 0, t.entries - 1 do
         local mine, its = t:sum(i), k:sum(t.name, i)
         if mine ~= its then return ("%s[%d]: %d, in C %d"):format(t.name, i, mine, its) end
      end
      return nil
   end
   local count = 0
   for key, value in twins.entries(t) do
      count = count + 1
      local its = k:get(t.name, key, #value)
      if not its then return ("%s: C has no entry %s"):format(t.name, frame.hex(key)) end
      if its ~= value and not timed then
         return ("%s[%s]: %s, in C %s"):format(t.name, frame.hex(key), frame.hex(value), frame.hex(its))
      end
   end
   if t.kind == "array" then return nil end
   local its = k:count(t.name)
   if its ~= count then return ("%s: %d entries, in C %d"):format(t.name, count, its) end
end

local function compare(t)
   local rig = rigs.new { ports = { "near", "far" } }
   local nf = twins.make(t)
   rig:chain("twin", rig.near, nf, rig.far)
   rig:start()
   local k = kernel_twin.load(t)
   k:fill(nf.tables)
   local seen = { [DROP] = 0, [PASS] = 0, [TX] = 0 }
   for i, f in ipairs(twins.packets(t, SEED, PACKETS)) do
      rig:send(rig.near, f)
      local back, on = rig:collect(rig.near)[1], rig:collect(rig.far)[1]
      local mine = back and TX or on and PASS or DROP
      local its, out = k:run(f)
      local at = ("seed %d, packet %d: %s"):format(SEED, i, frame.hex(f))
      assert.equal(its, mine, at)
      if mine ~= DROP then assert.equal(frame.hex(out), frame.hex(back or on), at) end
      seen[mine] = seen[mine] + 1
   end
   for _, table in pairs(nf.tables or {}) do
      local timed = false
      for _, name in ipairs(t.timed or {}) do timed = timed or name == table.name end
      assert.is_nil(difference(k, table, timed))
   end
   k:close()
   rig:close()
   return seen
end

describe("C twins", function()
   for _, t in ipairs(twins.list) do
      if not t.hook_only then
         it(t.name .. " does the same", function()
            if unless_missing() then return end
            local seen = compare(t)
            local ways = (seen[DROP] > 0 and 1 or 0) + (seen[PASS] > 0 and 1 or 0) + (seen[TX] > 0 and 1 or 0)
            assert.is_true(ways >= 2 or t.name == "nat44", "the packets reach one verdict only")
         end)
      end
   end

   it("syn_cookie makes connections, and only with its own cookies", function()
      if unless_missing() then return end
      local k = kernel_twin.load(twins.list.syn_cookie)
      k:set("syn_services", frame.ip4("192.0.2.1"):reverse() .. "\80\0\0\0", "\1\0\0\0")
      local there, back = { src = "203.0.113.1", dst = "192.0.2.1" }, { src = "192.0.2.1", dst = "203.0.113.1" }
      local A = { src = "02:00:00:00:00:01", dst = "02:00:00:00:00:02" }
      local B = { src = A.dst, dst = A.src }
      local function segment(t)
         t.sport, t.dport = 5000, 80
         return frame.tcp4(A, there, t)
      end

      local code, out = k:run(segment { flags = 2, seq = 1000, options = "\1\1\2\4\4\0\1\1" })
      assert.equal(TX, code)
      local cookie = 0
      for i = 39, 42 do cookie = cookie * 256 + out:byte(i) end
      back.df = true
      assert.equal(frame.hex(frame.tcp4(B, back, {
         sport = 80, dport = 5000, seq = cookie, ack = 1001, flags = 0x12, options = "\2\4\4\0",
      })), frame.hex(out))

      -- The last bits of a cookie hold the MSS: a neighbour may be good, too.
      assert.equal(DROP, (k:run(segment { flags = 0x10, seq = 1001, ack = cookie + 1000 })))
      assert.equal(DROP, (k:run(segment { flags = 0x18, seq = 1001, ack = cookie + 1000 })))
      assert.equal(PASS, (k:run(segment { flags = 0x10, seq = 1001, ack = cookie + 1 })))
      assert.equal(PASS, (k:run(segment { flags = 0x11, seq = 1001, ack = cookie + 1000 })))
      assert.equal(DROP, (k:run(segment { flags = 2, seq = 1, options = "\2\9\1\1" })))
      k:close()
   end)

   it("sampler writes as many records as it says", function()
      if unless_missing() then return end
      local k = kernel_twin.load(twins.list.sampler)
      for _, f in ipairs(twins.packets(twins.list.sampler, SEED, 2000)) do assert.equal(PASS, (k:run(f))) end
      local sampled = k:sum("sampler_stats", 0)
      assert.is_true(sampled > 300 and sampled < 700, sampled)
      k:close()
   end)
end)
