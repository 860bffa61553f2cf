-- SPDX-License-Identifier: BSD-3-Clause
-- Look-ups in tw.lpm tables in packet functions; values that the trie itself holds, and others.

local frame = require "test.support.frame"
local language = require "test.support.language"

local ADDRESSES = {
   "10.0.0.1", "10.1.0.1", "10.1.2.3", "10.1.2.129", "10.1.2.200", "11.0.0.1", "12.0.0.0", "255.255.255.255", "0.0.0.0",
}

local function frames()
   local list = {}
   for i, dst in ipairs(ADDRESSES) do list[i] = frame.udp4({}, { src = "1.2.3.4", dst = dst }, { sport = 1, dport = 2 }, "x") end
   return list
end

local NF = [[
   local t = tw.lpm { name = "lang_lpm", value = "%s", entries = 16 }
   %s
   t:set("10.0.0.0/8", 0)
   t:set("10.1.0.0/16", %s)
   t:set("10.1.2.0/24", 2)
   t:set("10.1.2.128/25", 3)
   t:set("10.1.2.200/32", 4)
   t:set("12.0.0.0/32", 5)
   return { packet = function(pkt)
      local ip = pkt:ipv4()
      if not ip then return end
      local v = t:get(ip.dst)
      if not v then return pkt:drop "lang_lpm_none" end
      ip.id = v
      if v == 0 then return pkt:drop "lang_lpm_zero" end
   end, tables = { t } }
]]

describe("tw.lpm in packet functions", function()
   for _, case in ipairs { { "u16", 65535 }, { "u32", 65535 }, { "u8", 255 } } do
      for _, default in ipairs { "", [[t:set("0.0.0.0/0", 9)]] } do
         it(("gives the same everywhere: %s, %s"):format(case[1], default == "" and "no default" or "a default"), function()
            language.same(NF:format(case[1], default, case[2]), frames())
         end)
      end
   end
end)
