-- SPDX-License-Identifier: BSD-3-Clause
-- Random NFs on all back-ends; `make fuzz` runs this for longer. TIDEWAY_SEED gives the same programs again.

local backends = require "test.support.backends"
local compiler_fuzz = require "test.support.compiler_fuzz"

local SECONDS = 30
local SEED = tonumber(os.getenv "TIDEWAY_SEED") or os.time() % 100000 * 1000

local function run(names)
   local counts, failure = compiler_fuzz.run { seed = SEED, seconds = SECONDS / 3, least = 21, backends = names }
   assert.is_nil(failure and compiler_fuzz.report(failure, 150), ("seed %d"):format(SEED))
   for where, n in pairs(counts.refused) do
      local most = where == "tc" and 0.25 or 0.15 -- tc can't move the start of a frame inwards
      assert.is_true(n <= most * counts.programs + 5,
         ("seed %d: %d of %d programs refused on %s"):format(SEED, n, counts.programs, where))
   end
end

describe("random NFs, seed " .. SEED .. ":", function()
   it("XDP does what LuaJIT does", function() run { "xdp" } end)
   it("tc does what LuaJIT does", function() run { "tc" } end)
   it("lcores do what LuaJIT does, as LuaJIT source and as C", function() run { "luajit", "c" } end)
end)

describe("the comparison", function()
   local frames = { ("\2\0\0\0\0\2\2\0\0\0\0\1\8\0"):rep(5) }

   -- `other` is compiled in the place of what LuaJIT ran.
   local function differs(first, second)
      local text = ([[
         local counts = tw.counters { name = "counts", size = 2 }
         return { tables = { counts }, packet = function(pkt) %s end, other = function(pkt) %s end }]]):format(first, second)
      return backends.differs(text, frames)
   end

   it("sees a verdict, bytes and tables that differ", function()
      local function seen_by_all(first, second)
         local by = differs(first, second)
         for _, name in ipairs(backends.all) do assert.truthy(by[name], name .. ": " .. second) end
      end
      assert.same({}, differs("return pkt:drop 'a'", "return pkt:drop 'a'"))
      seen_by_all("return pkt:drop 'a'", "return pkt:drop 'b'")
      seen_by_all("pkt:set_u8(3, 4)", "pkt:set_u8(3, 5)")
      seen_by_all("counts:add(0, 1)", "counts:add(1, 1)")
      seen_by_all("pkt:route(1)", "pkt:route(2)")
   end)
end)
