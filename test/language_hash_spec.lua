-- SPDX-License-Identifier: BSD-3-Clause
-- tw.jhash and tw.random in packet functions.

local compiler = require "tideway.compiler"
local frame = require "test.support.frame"
local language = require "test.support.language"
local tw = require "tideway"

local function frames(count)
   local list = {}
   for n = 1, count do
      list[n] = frame.udp4({},
         { src = ("10.%d.0.1"):format(n), dst = ("203.0.113.%d"):format(255 - n), id = n * 977 % 65536 },
         { sport = n * 7919 % 65536, dport = n * 104729 % 65536 }, "payload")
   end
   return list
end

local function instructions(packet)
   local compiled = assert(compiler.for_hook("hash", { { name = "nf", packet = packet } }, "xdp", { counted = false }))
   return compiled.object.count
end

describe("tw.jhash", function()
   it("is the same everywhere", function()
      language.same([[
         local jhash, band, rshift = tw.jhash, require("bit").band, require("bit").rshift
         return { packet = function(pkt)
            local ip, udp = pkt:ipv4(), pkt:udp()
            if not ip or not udp then return end
            local h = jhash(ip.src, ip.dst, udp.src_port * 65536 + udp.dst_port)
            ip.id = band(h, 0xffff)
            udp.checksum = rshift(h, 16)
            if jhash(h, 1, 2) < 0 then return pkt:drop "lang_negative" end
         end }]], frames(40))
   end)

   it("costs seven instructions a step", function()
      local jhash, band = tw.jhash, require("bit").band
      local function without(pkt)
         local ip = pkt:ipv4()
         if ip then ip.id = band(ip.src + ip.dst + ip.ttl, 0xffff) end
      end
      local function with(pkt)
         local ip = pkt:ipv4()
         if ip then ip.id = band(jhash(ip.src, ip.dst, ip.ttl), 0xffff) end
      end
      assert.is_true(instructions(with) - instructions(without) <= 7 * 7)
   end)
end)

describe("tw.random", function()
   it("is a number of 32 bits on a hook", function()
      local seen = tw.array { name = "lang_random", value = "u32", entries = 2 }
      local program = language.load(function(pkt)
         local n = tw.random()
         seen:set(0, n)
         if n % 2 == 0 then return pkt:drop "lang_even" end
      end)
      finally(function()
         program:close()
         seen.map:free()
         seen:free()
      end)
      local ways, values = {}, {}
      for _ = 1, 64 do
         ways[program:test(frames(1)[1])] = true
         values[seen:get(0)] = true
      end
      assert.is_true(ways[1] and ways[2])
      assert.is_truthy(next(values, next(values)))
   end)
end)
