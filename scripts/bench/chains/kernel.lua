-- SPDX-License-Identifier: BSD-3-Clause
-- Benchmark: chains on XDP and TC between the interfaces lan and wan.
-- Arguments: hook ("xdp" or "tc"), what ("forward", "route", "filter"), and for "route" a rule file ("R10.0.0.0/8 1" a
-- line).

local tw = require "tideway"
local hook, what, rules = ...

local lan, wan = tw.port "lan", tw.port "wan"

local function routes()
   if what ~= "route" then return { { "0.0.0.0/0", via = "198.51.100.1" } } end
   local list = {}
   for line in io.lines(rules) do
      local prefix = line:match "^R(%S+)"
      if prefix then list[#list + 1] = { prefix, via = "198.51.100.1", port = wan } end
   end
   return list
end

local function router()
   return tw.nf.router {
      ports = {
         { port = lan, addresses = { "198.18.255.254/15" } },
         { port = wan, addresses = { "198.51.100.254/24" } },
      },
      routes = routes(),
      -- Nobody at the far end answers ARP.
      neighbours = { ["198.51.100.1"] = "02:00:00:00:02:02" },
   }
end

-- The same list as the set of nftables in ../kernel.lua.
local function acl()
   local here = arg[0]:match "^(.*)/[^/]*$" or "."
   package.path = here .. "/../../../examples/?.lua;" .. package.path
   local blocked = {}
   for i = 1, 100 do
      blocked[i] = { group = 1, dst = ("203.0.113.%d"):format(i), port = 80, proto = 6, allow = false }
   end
   return require "nf.acl" { sources = { ["198.18.0.0/15"] = 1 }, rules = blocked, entries = 1024 }
end

local stages = { forward = {}, route = { "router" }, filter = { "acl", "router" } }
local make, list = { router = router, acl = acl }, {}
for i, name in ipairs(stages[what]) do list[i] = make[name]() end
list[#list + 1] = wan
tw.chain("kernel", lan, unpack(list)):pin { [hook] = true }
