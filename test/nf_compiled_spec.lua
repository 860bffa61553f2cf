-- SPDX-License-Identifier: BSD-3-Clause
-- Every NF of the library, called as it is, as LuaJIT compiles its chain (tier 1) and as machine code (tier 2): the
-- same packets must give the same bytes out, the same counters and the same tables.

local ffi = require "ffi"
local tw = require "tideway"
local abi = require "tideway.abi"
local backends = require "test.support.backends"
local corpus = require "test.support.corpus"
local frame = require "test.support.frame"
local malform = require "test.support.malform"
local mutate = require "test.support.mutate"
local native = require "tideway.native"
local options = require "tideway.options"
local posix = require "tideway.posix"
local random = require "tideway.nf.napt44.random"
local rigs = require "test.support.rig"

local C = abi.C
local MODES = { off = C.TW_TIER_LUA, luajit = C.TW_TIER_LUAJIT, native = C.TW_TIER_NATIVE }
local STEP = 1e6 -- ns from one burst to the next
local START = 2e9 -- of the time, in its window
local FOREVER = 2 ^ 60
local WINDOW = 10e9 -- times in tables are compared in windows: all timeouts are multiples of it

-- ---- chains: what stands between the ports lan and wan, and the sink of those that need one ----

local RULES = [[
   allow established
   drop count bogus tcp flags SF/SF
   reject tcp port 23
   allow in lan
   allow icmp6 neighbor-solicitation, neighbor-advertisement
   allow icmp echo to 198.51.100.1
   allow icmp related
   reject udp port 53
   drop count unasked
]]

local STATELESS = [[
   allow icmp echo,13
   allow icmp unreachable code 4
   allow icmp6 1 code 0-1
   allow tcp from 10.0.0.0/24 to any port 80-90
   allow tcp flags S/SA
   allow udp from any port 4000
   allow ip6 udp to 2001:db8::/32
   reject in wan
]]

local function router(lan, wan, more)
   local cfg = {
      name = "rt", icmp_rate = 1e6,
      ports = {
         { port = lan, addresses = { corpus.LAN .. "/24", corpus.LAN6 .. "/64" }, mac = corpus.LAN_MAC },
         { port = wan, addresses = { corpus.WAN .. "/24", corpus.WAN6 .. "/64" }, mac = corpus.WAN_MAC },
      },
      routes = { { "0.0.0.0/0", via = corpus.GATE }, { "::/0", via = corpus.GATE6 } },
      neighbours = {
         [corpus.GATE] = corpus.GATE_MAC, [corpus.HOST] = corpus.HOST_MAC, [corpus.GATE6] = corpus.GATE_MAC,
         [corpus.HOST6] = corpus.HOST_MAC,
      },
   }
   for k, v in pairs(more or {}) do cfg[k] = v end
   return tw.nf.router(cfg)
end

local function firewall(lan, wan, more)
   local cfg = { name = "fw", ports = { lan = lan, wan = wan }, rules = RULES, connections = 4096, reject_rate = 1e6 }
   for k, v in pairs(more or {}) do cfg[k] = v end
   return tw.nf.firewall(cfg)
end

local function napt44(wan, place, more)
   local cfg = { name = "nat", outside = wan, address = corpus.WAN, inside = "10.0.0.0/24", place = place }
   for k, v in pairs(more or {}) do cfg[k] = v end
   return tw.nf.napt44(cfg)
end

local CHAINS = {
   { "reflect", function() return { tw.nf.reflect {} } end },
   { "reflect of MAC addresses only", function() return { tw.nf.reflect { ip = false } } end },
   { "count", function() return { tw.nf.count { name = "count" } } end, true },
   { "count of flows", function() return { tw.nf.count { name = "count", per = "flow" } } end, true },
   { "count of stations", function() return { tw.nf.count { name = "count", per = "mac" } } end, true },
   { "l2_bridge", function() return { tw.nf.l2_bridge {} } end },
   { "l2_bridge with VLANs", function(_, wan)
      return { tw.nf.l2_bridge { vlan_aware = true, static = { { mac = corpus.GATE_MAC, port = wan, vlan = 1 } } } }
   end },
   { "router", function(lan, wan) return { router(lan, wan) } end },
   { "router that looks at sources", function(lan, wan) return { router(lan, wan, { strict_source = true }) } end },
   { "firewall", function(lan, wan) return { firewall(lan, wan, { fragments = "follow" }) } end, true },
   { "firewall without states", function(lan, wan)
      return { firewall(lan, wan, { rules = STATELESS, fragments = "allow", default = "reject" }) }
   end, true },
   { "firewall that takes up connections", function(lan, wan)
      return { firewall(lan, wan, { rules = "allow new in lan\nallow established in wan", loose = true,
         non_ip = "drop" }) }
   end, true },
   { "napt44", function(_, wan) return { napt44(wan, "inline") } end, true },
   { "napt44 with a filter", function(_, wan)
      return { napt44(wan, "inline", { filtering = "address_and_port_dependent",
         address = { corpus.WAN, "198.51.100.77" } }) }
   end, true },
   { "edge", function(lan, wan)
      local nat = napt44(wan, "around_router")
      return { nat, firewall(lan, wan), router(lan, wan), nat }
   end },
}

-- ---- packets ----

local packets

-- From inside to what another inside host is from outside, and answers to what went out.
local function add_hairpins(add)
   local link = { dst = corpus.LAN_MAC, src = corpus.HOST_MAC }
   for _, port in ipairs { 53, 80, 4000, 5000, 5555 } do
      local ip = { src = "10.0.0.6", dst = corpus.WAN }
      local back = { dst = corpus.WAN_MAC, src = corpus.GATE_MAC }
      add { port = "lan", frame = frame.udp4(link, ip, { sport = 6000, dport = port }, "around") }
      add { port = "lan", frame = frame.tcp4(link, ip, { sport = 6000, dport = port, flags = 2 }) }
      ip = { src = corpus.FAR, dst = corpus.WAN }
      add { port = "wan", frame = frame.udp4(back, ip, { sport = 53, dport = port }, "answer") }
      for _, flags in ipairs { 0x12, 0x10, 0x11, 0x04 } do
         add { port = "wan", frame = frame.tcp4(back, ip, { sport = 80, dport = port, flags = flags }) }
      end
   end
end

-- Valid ones first: mappings, connections and neighbours that others may hit; the answers to them at the end.
local function all_packets()
   if packets then return packets end
   packets = {}
   local function add(entry)
      if #entry.frame > 0 and #entry.frame <= 1514 then packets[#packets + 1] = entry end
   end
   for _, entry in ipairs(corpus.valid()) do add(entry) end
   add_hairpins(add)
   local all = malform.all()
   for i = 1, #all, 17 do add(all[i]) end
   local r = mutate.random(7)
   for _ = 1, 1000 do
      local bytes, port = mutate.frame(r)
      add { frame = bytes, port = port }
   end
   for _, entry in ipairs(corpus.valid()) do
      add { frame = entry.frame, port = entry.port == "lan" and "wan" or "lan" }
      add(entry)
   end
   return packets
end

-- ---- what can be seen ----

local function value_text(t, object, base)
   if t.scalar then return tostring(object) end
   local list = {}
   for i, field in ipairs(t.fields) do
      local v = object[field.name]
      if field.type == "ns" and v ~= 0 and v < FOREVER then v = math.floor((v - base) / WINDOW) end
      list[i] = field.name .. "=" .. tostring(v)
   end
   return table.concat(list, " ")
end

local function table_text(t, base)
   local list = {}
   if t.kind == "counters" then
      for name, n in t:pairs() do list[#list + 1] = name .. ": " .. tostring(n) end
      return table.concat(list, "\n")
   end
   local zero = t.kind == "array" and not t.value_type.scalar and ("\0"):rep(t.value_type.size)
   for key, value in t:pairs() do
      local empty = zero and ffi.string(value, t.value_type.size) == zero or t.kind == "array" and value == 0
      if not empty then
         local name = t.kind == "lpm" and tostring(key) or t.key_type and value_text(t.key_type, key, base) or key
         list[#list + 1] = name .. ": " .. value_text(t.value_type, value, base)
      end
   end
   table.sort(list)
   return table.concat(list, "\n")
end

-- Builds the NFs and notes the tables that they make.
local function built(build, lan, wan)
   local tables, makers = {}, {}
   for _, kind in ipairs { "hash", "lru", "lpm", "array", "counters" } do
      local make = tw[kind]
      makers[kind] = make
      rawset(tw, kind, function(o)
         tables[#tables + 1] = make(o)
         return tables[#tables]
      end)
   end
   local ok, chain = pcall(build, lan, wan)
   for kind, make in pairs(makers) do rawset(tw, kind, make) end
   assert(ok, chain)
   return chain, tables
end

local function chain_counters(rig)
   local list = {}
   local function note(name, nf)
      for _, d in ipairs(nf.drops) do list[#list + 1] = ("%s drops %s: %d"):format(name, d.reason, d.count) end
   end
   local chain = rig:snapshot().chains[1]
   for i, nf in ipairs(chain.nfs) do
      note(("%d %s"):format(i, nf.name), nf)
      list[#list + 1] = ("%d %s received %d"):format(i, nf.name, nf.received)
   end
   note("engine", chain.engine)
   for _, key in ipairs { "rx", "sent", "originated", "dropped", "held", "punted", "faults" } do
      list[#list + 1] = ("%s %d"):format(key, chain[key])
   end
   table.sort(list)
   return table.concat(list, "\n")
end

-- The engine's clock, set: what depends on the time is the same in every run.
local function at(time) C.tw_clock_advance(ffi.cast("uint64_t", ffi.cast("int64_t", time - tonumber(C.tw_now())))) end

local function burst_text(rig, list)
   for _, entry in ipairs(list) do assert(rig[entry.port]:inject(entry.frame)) end
   rig:run()
   local parts = {}
   for _, name in ipairs { "lan", "wan" } do
      for _, out in ipairs(rig:collect(rig[name])) do parts[#parts + 1] = name .. " " .. frame.hex(out) end
   end
   return table.concat(parts, "\n")
end

-- What differs between two texts of many lines: the first lines that are not the same.
local function assert_same(expected, found, what)
   if expected == found then return end
   local list, i = {}, 0
   for line in (found .. "\n"):gmatch "([^\n]*)\n" do list[#list + 1] = line end
   for line in (expected .. "\n"):gmatch "([^\n]*)\n" do
      i = i + 1
      if line ~= list[i] then
         error(("%s, line %d:\nas it is  %s\ncompiled  %s"):format(what, i, line, list[i] or "(nothing)"), 0)
      end
   end
   error(("%s: %d lines too many, %s ..."):format(what, #list - i, list[i + 1]), 0)
end

---@return table seen what came out of each burst, counters, tables; all texts
local function run(build, sink, mode)
   options.compile = mode
   local rig = rigs.new { ports = { "lan", "wan" } }
   local chain, tables = built(build, rig.lan, rig.wan)
   if sink then chain[#chain + 1] = rig.wan end
   rig:chain("c", { rig.lan, rig.wan }, unpack(chain))
   rig:start()
   if mode == "native" then native.finish(120) end
   assert.equal("", table.concat(native.log(), "\n"))
   assert.equal(MODES[mode], C.tw_stats().chain[0].tier)

   local base = math.ceil(tonumber(C.tw_now()) / WINDOW) * WINDOW
   local seen, list, time = { bursts = {} }, {}, base + START
   for i, entry in ipairs(all_packets()) do
      list[#list + 1] = entry
      if #list == (i % 3 == 0 and 1 or 31) then
         time = time + STEP
         at(time)
         seen.bursts[#seen.bursts + 1] = burst_text(rig, list)
         list = {}
      end
   end
   seen.tables = {}
   for _, t in ipairs(tables) do seen.tables[t.name] = table_text(t, base) end
   at(base + 8e9)
   seen.late = burst_text(rig, {})
   seen.counters = chain_counters(rig)
   assert.equal("", table.concat(rig:log(), "\n"))
   rig:close()
   return seen
end

describe("compiled NFs", function()
   local secret = random.new

   teardown(function()
      random.new = secret
      options.compile = "native"
   end)

   for _, entry in ipairs(CHAINS) do
      it("do the same: " .. entry[1], function()
         -- The ports that a NAT draws are the same in every run.
         random.new = function() return function(a, b) return (a * 31 + b * 17) % 2 ^ 31 end end
         local expected = run(entry[2], entry[3], "off")
         for _, mode in ipairs { "luajit", native.compiler() and "native" } do
            local seen = run(entry[2], entry[3], mode)
            for i, text in ipairs(expected.bursts) do
               assert_same(text, seen.bursts[i], ("%s, burst %d"):format(mode, i))
            end
            for name, text in pairs(expected.tables) do
               assert_same(text, seen.tables[name], ("%s, table %s"):format(mode, name))
            end
            assert_same(expected.late, seen.late, mode .. ", what came later")
            assert_same(expected.counters, seen.counters, mode .. ", counters")
         end
      end)
   end

   for _, text in ipairs { "reflect {}", "reflect { ip = false }", "count {}", "count { per = 'flow' }" } do
      it("do the same on XDP and TC: " .. text, function()
         if posix.geteuid() ~= 0 then pending "needs root for bpf(2)" end
         local frames = {}
         for _, entry in ipairs(all_packets()) do
            if #entry.frame >= 54 and #frames < 600 then frames[#frames + 1] = entry.frame end
         end
         local job = { text = ([[
            local nf = tw.nf.%s
            return { packet = nf.packet }
         ]]):format(text), frames = frames }
         local outcome = backends.run({ job }, { "xdp", "tc" })[1]
         assert.is_nil(outcome.failure and outcome.failure.text)
         assert.same({ xdp = true, tc = true }, outcome.ran)
      end)
   end

   it("are refused on hooks where they use what only lcores have", function()
      local rig = rigs.new { ports = { "lan", "wan" } }
      local nf = firewall(rig.lan, rig.wan)
      local compiled, why = require("tideway.compiler").for_hook("fw", { nf }, "xdp", { counted = false })
      rig:close()
      assert.is_nil(compiled)
      assert.truthy(tostring(why):find("fw.acl4:get: tw.acl runs on lcores only", 1, true), tostring(why))
   end)
end)
