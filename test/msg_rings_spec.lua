-- SPDX-License-Identifier: BSD-3-Clause
-- Rings of descriptors that many processes can write: overwritten, out of reach, out of date.
local abi = require "tideway.abi"
local support = require "test.support.fabric"

local ffi = require "ffi"
local C = abi.C

describe("rings", function()
   local f

   after_each(function() f:free() end)

   it("of which somebody has overwritten everything serve the others again", function()
      f = support.new { transport = "rings", functions = { {}, {}, {} } }
      local gate, a, b, c = f.gate, f:open(0), f:open(1), f:open(2)
      math.randomseed(11)
      assert.equal(6, a.join.n_fds) -- pool, routes, and the rings of the gate threads, its own and function 1
      for _, what in ipairs { "junk", "zeroes", "ones", "counters", "places" } do
         for i = 3, a.join.n_fds - 1 do
            local at = a:memory(i, true)
            local words = ffi.cast("uint64_t *", at)
            -- the first ring of a function's, a page ahead of its places
            local from, to = 0, 8 + 8 + 2 * 4096
            if what == "counters" then to = 16 elseif what == "places" then from = 16 end
            for w = from, to - 1 do
               words[w] = what == "zeroes" and 0ULL or what == "ones" and 0xffffffffffffffffULL or
                  math.random(0, 2 ^ 31) * 2ULL ^ 33 + math.random(0, 2 ^ 33)
            end
         end
         for _ = 1, 70 do
            gate:receive()
            a:receive()
            b:receive()
         end
         for i = 1, 100 do
            local m = gate:new()
            assert.equal(1, gate:enter(1, { m }), what .. i)
            assert.equal(1, b:send(b:drain()))
            assert.equal(1, c:send(c:drain()))
            local got = gate:drain()
            assert.equal(1, #got, what .. i)
            assert.is_true(got[1][1] == m)
            gate:free(got)
         end
      end
      assert.equal(0, f:used())
   end)

   it("routes can only be read by members", function()
      f = support.new { transport = "rings", functions = { {}, {} } }
      local a = f:open(0)
      assert.is_true(a:memory(2) ~= nil)
      local at, err = a:memory(2, true)
      assert.same({ nil, 13 }, { at, err })
   end)

   it("of a function that a route leads to since then are had by who joins afterwards", function()
      f = support.new { transport = "rings", functions = { {}, { aside = true } } }
      local gate, a, b = f.gate, f:open(0), f:open(1)
      assert.is_false(C.tw_fabric_outdated(f.fabric, a.number))
      assert.equal(0, f:route { transport = "rings", functions = { { routes = { 1 } }, { aside = true } } })
      assert.is_true(C.tw_fabric_outdated(f.fabric, a.number))
      assert.equal(1, gate:enter(0, { gate:new() }))
      local got = a:receive()
      assert.equal("ENOTCONN", a:send { { got[1][1], exit = C.TW_EXIT_ROUTE } })
      assert.equal(1, a:send { { got[1][1], exit = C.TW_EXIT_GATE } })
      gate:receive()
      a:remove()
      a = f:open(0)
      assert.is_false(C.tw_fabric_outdated(f.fabric, a.number))
      assert.equal(1, gate:enter(0, got))
      assert.equal(1, #a:receive())
      assert.equal(1, a:send { { got[1][1], exit = C.TW_EXIT_ROUTE } })
      assert.equal(1, #b:receive())
   end)
end)
