-- SPDX-License-Identifier: BSD-3-Clause
-- XDP programs as contenders of a benchmark, in the kernel's test run.

local bench = require "tideway".bench
local frame = require "test.support.frame"
local posix = require "tideway.posix"
local shell = require "test.shell"
local tw = require "tideway"
local validate = require "test.support.validate"

local why
if posix.geteuid() ~= 0 then why = "needs root to load programs" end

local UDP = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = 2 }, ("\0"):rep(18))

local function nf(name, packet, tables)
   return tw.nf(name, function() return { packet = packet, tables = tables } end) {}
end

local function ttl() return nf("spec_ttl", function(pkt)
   local ip = pkt:ipv4()
   if not ip then return end
   ip:decrement_ttl()
end) end

describe("bench.hook", function()
   if why then
      pending(why)
      return
   end

   local function measured(contender)
      assert.is_nil(contender:missing())
      assert(contender:start())
      local sample = assert(contender:measure(0.001))
      contender:stop()
      return sample
   end

   it("gives ns a packet and what the program is", function()
      local s = measured(bench.hook { name = "ttl", nf = ttl(), packets = UDP })
      assert.equal("ns", s.unit)
      assert.is_true(s.value > 0 and s.value < 1e5)
      assert.equal(s.value, s.ns)
      assert.is_true(s.extras.instructions > 5 and s.extras.verified > 5 and s.extras.x86_bytes > 5)
   end)

   it("gives more for a program that does more, and nearly nothing for one that does nothing", function()
      local nothing = measured(bench.hook { name = "nothing", nf = nf("spec_nothing", function() end), packets = UDP })
      local much = measured(bench.hook {
         name = "much", packets = UDP, nf = nf("spec_much", function(pkt)
            local sum = 0
            for i = 0, 31 do
               local byte = pkt:u8(i)
               if not byte then return end
               sum = sum + byte * 7
            end
            if sum == 1 then return pkt:drop "never" end
         end),
      })
      assert.is_true(much.ns > 2 * nothing.ns + 2, ("%g ns against %g ns"):format(much.ns, nothing.ns))
   end)

   it("takes frames of several kinds, and those of bench.packets", function()
      local s = measured(bench.hook { name = "two", nf = ttl(), packets = { UDP, UDP .. ("\0"):rep(40) } })
      assert.is_true(s.ns > 0)
      local traffic = bench.packets { size = 64, flows = 4 }
      local contender = bench.hook { name = "traffic", nf = ttl(), packets = traffic }
      assert.is_true(measured(contender).ns > 0)
      local seen = {}
      for _, f in ipairs(contender.frames) do
         assert.same({ true, true }, { validate.look(f) }) -- checksums
         seen[f] = true
      end
      assert.equal(4, #contender.frames)
      assert.is_not_nil(next(seen, next(seen)), "all frames are alike")
   end)

   it("makes the frames of all kinds of traffic, with checksums that are right", function()
      local expand = require "tideway.bench.expand"
      for _, spec in ipairs {
         { flows = 100 }, { ipv6 = {}, size = 90, flows = 7 }, { icmp = {}, flows = 3 }, { tcp = { flags = "syn" }, flows = 64 },
         { vlan = 9, flows = 5 }, { flows = { n = 10, order = "random" } }, { ipv4 = { ttl = bench.count(1, 64) } },
      } do
         local frames = assert(expand.frames(bench.packets(spec), 128))
         local seen, kinds = {}, 0
         for _, f in ipairs(frames) do
            assert.same({ true, true }, { validate.look(f) })
            if not seen[f] then kinds = kinds + 1 end
            seen[f] = true
         end
         assert.is_true(kinds >= 3, kinds .. " kinds")
      end
      local none, err = expand.frames(bench.packets { flows = { n = 10, order = "zipf" } }, 128)
      assert.is_nil(none)
      assert.matches("varies by Zipf's law, which only a source makes", err)
   end)

   it("takes an object of another compiler", function()
      local dir = shell.directory()
      finally(function() shell.remove(dir) end)
      shell.write(dir .. "/nf.lua", [[
         local tw = require "tideway"
local validate = require "test.support.validate"
         return tw.nf("plain", function() return { packet = function(pkt) return pkt:drop "all" end } end) ]])
      local r = shell.run(("%s compile -o %s/nf.o %s/nf.lua"):format(shell.binary, dir, dir))
      assert.equal(0, r.code, r.err)
      assert.is_true(measured(bench.hook { name = "object", object = dir .. "/nf.o", packets = UDP }).ns > 0)
   end)

   it("takes a program that is loaded already", function()
      local first = bench.hook { name = "first", nf = ttl(), packets = UDP }
      assert(first:start())
      local again = bench.hook { name = "again", packets = UDP, program = function() return first.program end }
      assert.is_true(measured(again).ns > 0)
   end)

   describe("the frame", function()
      local function fitting(packet)
         local contender = bench.hook { name = "fitting", nf = nf("spec_fitting", packet), packets = UDP }
         local ok, err = contender:start()
         return ok and contender.replays[1], err, contender
      end

      it("is brought back when the program changes it", function()
         local replay = assert(fitting(function(pkt)
            local ip = pkt:ipv4()
            if not ip then return end
            ip:decrement_ttl()
         end))
         local _, once = replay:run(1)
         local _, often = replay:run(1000) -- of a TTL of 64 nothing would be left
         assert.equal(63, once:byte(23))
         assert.equal(once, often)
      end)

      it("is brought back when the program puts something before it", function()
         local replay = assert(fitting(function(pkt) if not pkt:push_vlan(7) then return pkt:drop "no_room" end end))
         local _, often = replay:run(1000)
         assert.equal(#UDP + 4, #often)
         assert.equal(UDP:sub(13), often:sub(17))
      end)

      it("is brought back when the program adds to its end", function()
         local replay = assert(fitting(function(pkt) if not pkt:adjust_tail(6) then return pkt:drop "no_room" end end))
         local _, often = replay:run(1000)
         assert.equal(#UDP + 6, #often)
         assert.equal(UDP, often:sub(1, #UDP))
      end)
   end)

   it("refuses a program that does something else each time", function()
      local seen = tw.array { name = "spec_seen", value = "u64", entries = 1 }
      finally(function() seen:free() end)
      local contender = bench.hook { name = "fickle", packets = UDP, nf = nf("spec_fickle", function(pkt)
         local ip = pkt:ipv4()
         if not ip then return end
         seen:add(0, 1)
         local n = seen:get(0)
         if n then ip.ttl = n end
      end, { seen = seen }) }
      local ok, err = contender:start()
      assert.is_nil(ok)
      assert.matches("^fickle: frame 1: it does not do the same with the same 60 bytes each time", err)
   end)

   it("says what is wrong with what it is given", function()
      assert.error_matches(function() bench.hook { name = "x", packets = UDP } end,
         "one of nf, nfs, object, and program = a function is needed")
      assert.error_matches(function() bench.hook { name = "x", nf = ttl() } end, "packets are frames, at least one")
      assert.error_matches(function() bench.hook { name = "x", nf = ttl(), packets = { UDP, "short" } } end,
         "frame 2 is no string of 14 bytes")
      assert.matches("there is no object /none.o",
         bench.hook { name = "x", object = "/none.o", packets = UDP }:missing())
      local contender = bench.hook { name = "raw", packets = UDP, nf = nf("spec_raw", function() return {} end) }
      local ok, err = contender:start()
      assert.is_nil(ok)
      assert.matches("^raw: .*bench_hook_spec.lua:%d+", err)
   end)
end)
