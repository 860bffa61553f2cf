-- SPDX-License-Identifier: BSD-3-Clause
-- Meters on hooks: the same colours as the meters of lcores for the same packets at the same times.

local abi = require "tideway.abi"
local ffi = require "ffi"
local frame = require "test.support.frame"
local lab = require "test.support.lab"
local language = require "test.support.language"
local library = require "tideway.compiler.hooklib.meter"
local tw = require "tideway"
local types = require "tideway.table.type"

local C = abi.C
local SEED = tonumber(os.getenv "TIDEWAY_SEED") or os.time() % 2 ^ 31

local RATES = {
   srtcm = { cir = 1000000, cbs = 3000, ebs = 5000 },
   ["srtcm without committed burst"] = { cir = 123456789, cbs = 0, ebs = 20000 },
   ["srtcm, slow"] = { cir = 7, cbs = 100, ebs = 1 },
   trtcm = { cir = 500000, cbs = 4000, pir = 2000000, pbs = 6000 },
   ["trtcm, fast"] = { cir = 2 ^ 36, cbs = 2 ^ 30, pir = 2 ^ 38, pbs = 2 ^ 31 },
}

local function struct_of(rate)
   return ffi.new("struct tw_meter_rate", rate.cir, rate.cbs or 0, rate.pir or 0, rate.pbs or rate.ebs or 0)
end

-- Earlier specs have put the engine's clock ahead; the kernel's is where it was.
setup(function()
   local ahead = tonumber(C.tw_now()) - require("tideway.posix").now()
   C.tw_clock_advance(ffi.cast("uint64_t", ffi.cast("int64_t", -math.floor(ahead / 1e6) * 1e6)))
end)

describe(("the library's marker (TIDEWAY_SEED=%d)"):format(SEED), function()
   for name, rate in pairs(RATES) do
      it("gives the colours of rte_meter: " .. name, function()
         math.randomseed(SEED)
         local t = tw.meter(rate)
         finally(function() t:free() end)
         local now = 5000000000
         assert.equal(0, C.tw_meter_config(t.table, 0, 0, struct_of(rate), now))
         local entry = types.parse(library.value).ctype()
         for field, v in pairs(library.entry(struct_of(rate), now)) do entry[field] = v end
         local seen = {}
         for i = 1, 20000 do
            now = now + math.random(0, i % 500 == 0 and 5000000 or 3000)
            if i % 97 == 0 then now = now - 2000 end
            local length, color = math.random(40, 1600), i % 5 == 0 and math.random(0, 2) or 0
            local want = C.tw_meter_mark(t.table, 0, length, color, now)
            local got = library.mark(entry, length, color, now)
            if want ~= got then
               error(("packet %d of %d bytes at %.0f: %d, rte_meter: %d"):format(i, length, now, got, want), 0)
            end
            seen[got] = true
         end
         assert.is_true(seen[0] or seen[1])
      end)
   end

   it("is compiled", function()
      local frames = {}
      for n = 1, 60 do
         frames[n] = frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2", id = n * 977 % 65536 },
            { sport = n * 7919 % 65536, dport = n % 7 == 0 and n % 3 or 0 }, ("x"):rep(20 + n * 13 % 200))
      end
      for _, rate in pairs { RATES.srtcm, RATES.trtcm } do
         local text = ([[
            local library = require "tideway.compiler.hooklib.meter"
            local cells = tw.array { name = "lang_cells", value = library.value, entries = 1, lock = true }
            local ns = tw.array { name = "lang_clock", value = "u64", entries = 1 }
            local function fill()
               local e, rate = cells:get(0), require("ffi").new("struct tw_meter_rate", %.0f, %.0f, %.0f, %.0f)
               local list, all = {}, library.entry(rate, 1000)
               for i, field in ipairs(cells.value_type.fields) do list[i] = all[field.name] end
               cells:set(0, unpack(list))
               ns:set(0, 1000)
               return e
            end
            return { tables = { cells, ns }, fill = fill, packet = function(pkt)
               local ip, udp, e, now = pkt:ipv4(), pkt:udp(), cells:get(0), ns:get(0)
               if not ip or not udp or not e or not now then return end
               now = now + ip.id * 4
               ns:set(0, now)
               e:lock()
               local color = library.mark(e, pkt.len, udp.dst_port, now)
               e:unlock()
               udp.checksum = color
            end }]]):format(rate.cir, rate.cbs, rate.pir or 0, rate.pbs or rate.ebs)
         language.same(text, frames)
      end
   end)
end)

describe("a meter on a hook", function()
   local missing = lab.missing()
   local function live(name, f) it(name, missing and function() pending(missing) end or f) end

   local function udp(bytes, index)
      return frame.udp4({}, { src = "10.0.0.1", dst = "10.0.0.2" }, { sport = 1, dport = index }, ("x"):rep(bytes - 42))
   end

   live("colours by its buckets", function()
      local m = tw.meter { name = "lang_meter", entries = 3, cir = 1, cbs = 300, ebs = 200 }
      m:rate(1, { cir = 1, cbs = 100, pir = 1, pbs = 250 })
      local program = language.load(function(pkt)
         local u = pkt:udp()
         if not u then return end
         u.checksum = m:mark(u.dst_port, pkt.len)
      end)
      finally(function()
         program:close()
         m.map:free()
         m:free()
      end)
      local function color(bytes, index)
         local _, data = program:test(udp(bytes, index))
         return data:byte(41) * 256 + data:byte(42)
      end
      assert.same({ 0, 0, 0, 1, 1, 2 }, { color(100, 0), color(100, 0), color(100, 0), color(100, 0), color(100, 0),
         color(100, 0) })
      assert.same({ 0, 1, 2 }, { color(100, 1), color(100, 1), color(100, 1) })
      assert.equal(2, color(100, 3)) -- there is none
      -- from user space
      local colors = {}
      for i = 1, 6 do colors[i] = m:mark(2, 100) end
      assert.same({ 0, 0, 0, 1, 1, 2 }, colors)
      assert.equal(2, m:mark(9, 1))
      assert.equal(2, color(100, 2))
      m:rate(2, { cir = 1, cbs = 100, ebs = 0 })
      assert.same({ 0, 2 }, { color(100, 2), color(100, 2) })
      assert.error_matches(function() m:rate(2, { cir = 0, cbs = 100 }) end, "rates are 1 to 2^40")
   end)

   live("lets through what its rate says", function()
      local m = tw.meter { name = "lang_fast", cir = 200000, cbs = 10000, ebs = 0 }
      local program = language.load(function(pkt)
         if m:mark(0, pkt.len) ~= 0 then return pkt:drop "lang_red" end
      end)
      finally(function()
         program:close()
         m.map:free()
         m:free()
      end)
      local start, green, lost = tw.now(), 0, 0
      local last, now = start, start
      while now - start < 200e6 do
         if program:test(udp(1000, 0)) == 2 then green = green + 1 end
         now = tw.now()
         -- A bucket that is full takes no more: so much may be lost while this process does not run.
         lost, last = lost + math.max(0, 200000 * (now - last) / 1e9 - 9000) / 1000, now
      end
      local filled = 200000 * (now - start) / 1e9 / 1000
      assert.is_true(green > (filled - lost) * 0.8 + 10 and green < filled + 12,
         ("%d packets, %.1f + 10, at most %.1f lost"):format(green, filled, lost))
   end)
end)
