-- SPDX-License-Identifier: BSD-3-Clause
-- The packets of sources: every kind of field, checksums by independent code, orders of frames.

local bit = require "bit"
local ffi = require "ffi"
local C = require("tideway.abi").C
local support = require "test.support.source"

local be, bytes, close, finish, made, plain, sum = support.be, support.bytes, support.close, support.finish,
   support.made, support.plain, support.sum
local udp, udp6, assert_sums, ETHER = support.udp, support.udp6, support.assert_sums, support.ETHER

local function packets()
   after_each(close)

   it("are what its counts say, with both checksums right", function()
      local frames = made(plain({
         { at = 26, bytes = 4, index = 1, base = 0x0afffe00, step = 3, sums = { 1, 2 } },
         { at = 30, bytes = 4, index = 2, base = 0x0b000000, step = 0x10001, sums = { 1, 2 } },
         { at = 34, bytes = 2, index = 1, base = 65000, sums = { 2 } },
         { at = 36, bytes = 2, index = 3, base = 5000, step = -1, sums = { 2 } },
      }, { { kind = "count", n = 1000 }, { kind = "count", n = 7, every = 5 }, { kind = "count", n = 3 } }), 2500)
      for i, frame in ipairs(frames) do
         local k = i - 1
         assert.equal(60, #frame)
         assert.equal(0x0afffe00 + 3 * (k % 1000), be(frame, 26, 4))
         assert.equal(0x0b000000 + 0x10001 * (math.floor(k / 5) % 7), be(frame, 30, 4))
         assert.equal((65000 + k % 1000) % 65536, be(frame, 34, 2))
         assert.equal(5000 - k % 3, be(frame, 36, 2))
         assert.equal(frames[1]:sub(1, 24) .. ("x"):rep(18), frame:sub(1, 24) .. frame:sub(43))
         assert_sums(frame)
      end
   end)

   it("have fields of every width, and leave bits outside of a mask alone", function()
      local widths, fields = { 1, 3, 5, 6, 7, 8, 2 }, {}
      local at = 43
      for i, n in ipairs(widths) do
         fields[i] = { at = at, bytes = n, index = 1, base = i == 6 and 0xfffffffffffffff0ULL or 250, step = 7,
            sums = { 1 } }
         at = at + n
      end
      fields[#fields + 1] = { at = at, bytes = 2, index = 1, base = 0xf0f0, mask = 0x0ff0, sums = { 1 } }
      fields[#fields + 1] = { at = at, bytes = 2, index = 2, base = 0x9009, step = 0, mask = 0xf00f, sums = { 1 } }
      local traffic = plain(fields, { { kind = "count", n = 600 }, { kind = "count", n = 1 } }, ("\165"):rep(60))
      table.remove(traffic.sums, 1)
      for i, frame in ipairs(made(traffic, 1300)) do
         local k = (i - 1) % 600
         local place = 43
         for f, n in ipairs(widths) do
            local want = f == 6 and 0xfffffffffffffff0ULL + 7 * k or ffi.cast("uint64_t", 250 + 7 * k)
            for b = n - 1, 0, -1 do
               local byte = tonumber(bit.band(bit.rshift(want, 8 * (n - 1 - b)), 0xff))
               assert.equal(byte, frame:byte(place + b + 1), ("packet %d, field %d"):format(i, f))
            end
            place = place + n
         end
         local both = bit.bor(bit.band(0xf0f0 + k, 0x0ff0), 0x9009)
         assert.equal(bit.band(both, 0xffff), be(frame, place, 2))
         assert.equal("\165", frame:sub(place + 3, place + 3))
         assert.equal(0xffff, sum(frame, 34, 102, sum(frame, 26, 34, 17 + 68)))
      end
   end)

   it("are random: in the range, all of it, the same at each start", function()
      local traffic = plain({
         { at = 26, bytes = 4, index = 1, base = 0x0a000000, sums = { 1, 2 } },
         { at = 30, bytes = 4, index = 1, base = 0x0b000000, scatter = 5000, sums = { 1, 2 } },
         { at = 34, bytes = 2, index = 2, list = { 7, 9, 11 }, sums = { 2 } },
      }, { { kind = "random", n = 50 }, { kind = "random", n = 3, seed = 5 } })
      local frames, source = made(traffic, 3000)
      local seen, values, of = {}, 0, {}
      for _, frame in ipairs(frames) do
         assert_sums(frame)
         local i, scattered = be(frame, 26, 4) - 0x0a000000, be(frame, 30, 4) - 0x0b000000
         assert.is_true(i >= 0 and i < 50 and scattered >= 0 and scattered < 5000)
         seen[i], of[i] = (seen[i] or 0) + 1, of[i] or scattered
         assert.equal(of[i], scattered, "the same i is scattered elsewhere")
         local port = be(frame, 34, 2)
         assert.is_true(port == 7 or port == 9 or port == 11)
      end
      for _, n in pairs(seen) do
         values = values + 1
         assert.is_true(n > 25 and n < 110, "one of 50 came " .. n .. " of 3000 times")
      end
      assert.equal(50, values)
      assert(source:start { count = 3000 })
      assert.same(frames, finish())
   end)

   it("are Zipf distributed", function()
      local harmonic, N = 0, 8000
      for i = 1, 100 do harmonic = harmonic + i ^ -1.2 end
      local frames = made(plain({ { at = 34, bytes = 2, index = 1, base = 0, sums = { 2 } } },
         { { kind = "zipf", n = 100, skew = 1.2 } }), N)
      local seen = {}
      for _, frame in ipairs(frames) do
         local i = be(frame, 34, 2)
         assert.is_true(i < 100)
         seen[i] = (seen[i] or 0) + 1
      end
      for _, i in ipairs { 0, 1, 4, 20, 60 } do
         local expected = N * (i + 1) ^ -1.2 / harmonic
         local off = math.abs((seen[i] or 0) - expected) / math.sqrt(expected)
         assert.is_true(off < 5, ("%d came %d times, not %.0f"):format(i, seen[i] or 0, expected))
      end
   end)

   it("have right checksums in IPv6, at odd offsets, in tunnels, and never a UDP checksum of 0", function()
      local all = { { kind = "count", n = 65536 } }
      local six = { frames = { udp6 "odd" }, indexes = all, fields = {
         { at = 30, bytes = 8, index = 1, base = 1, step = 0x123456789, sums = { 1 } },
         { at = 54, bytes = 2, index = 1, base = 0, sums = { 1 } },
      }, sums = { { at = 60, from = 54, udp = true, pseudo = { { 22, 32 } }, protocol = 17 } } }
      for _, frame in ipairs(made(six, 500)) do
         assert.equal(0xffff, sum(frame, 54, #frame, sum(frame, 22, 54, 17 + 11)))
      end
      close()
      local traffic = plain({ { at = 36, bytes = 2, index = 1, base = 0, sums = { 2 } } }, all)
      local zero = be(made(traffic, 1)[1], 40, 2) -- the port that makes the sum 0
      close()
      traffic.fields[1].base = zero - 20
      local ffff = 0
      for _, frame in ipairs(made(traffic, 40)) do
         assert_sums(frame)
         if be(frame, 40, 2) == 0xffff then ffff = ffff + 1 end
      end
      assert.equal(1, ffff)
      close()
      -- ICMP behind a label of one byte: all of it lies at odd offsets; and an inner checksum in an outer one
      local odd = { frames = { bytes(ETHER .. "88b5 00 0800 0000 0001") .. ("y"):rep(40) }, indexes = all, fields = {
         { at = 20, bytes = 3, index = 1, base = 0xfffff0, sums = { 1, 2 } },
      }, sums = { { at = 17, from = 15, length = 20 }, { at = 48, from = 14, length = 40 } } }
      for _, frame in ipairs(made(odd, 300)) do
         assert.equal(0xffff, sum(frame, 15, 35))
         assert.equal(0xffff, sum(frame, 14, 54))
      end
   end)

   it("are frames in order, of all lengths, each with its own sums", function()
      local lengths, list, order = { 18, 19, 100, 470, 1472 }, {}, { 5, 1, 1, 3, 2, 4, 1 }
      for i, n in ipairs(lengths) do list[i] = udp(string.char(i):rep(n)) end
      list[1] = list[1] .. "\170\187\204" -- behind the IP packet: does not count
      local traffic = plain({ { at = 26, bytes = 4, index = 1, base = 0x0a000000, sums = { 1, 2 } } },
         { { kind = "count", n = 100000 } })
      traffic.frames, traffic.order = list, order
      local frames = made(traffic, 700)
      for i, frame in ipairs(frames) do
         local like = list[order[(i - 1) % #order + 1]]
         assert.equal(#like, #frame)
         assert.equal(like:sub(43), frame:sub(43))
         assert.equal(0x0a000000 + i - 1, be(frame, 26, 4))
         assert_sums(frame)
      end
   end)
end

-- What is compiled for each width of vectors makes the same.
for _, bits in ipairs { 128, 256, 512 } do
   describe(("the packets of a source with vectors of %d bits"):format(bits), function()
      setup(function() C.tw_source_vectors(bits) end)
      teardown(function() C.tw_source_vectors(512) end)
      packets()
   end)
end
