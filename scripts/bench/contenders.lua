-- SPDX-License-Identifier: BSD-3-Clause
-- Who takes part in the benchmarks: command line, reference, goal, and why one is left out.

local M = {}

-- The peers' name under /run/dpdk; Tideway chooses its own.
M.file_prefix = "tideway-bench"

---@class bench.Context
---@field root string folder of the repository
---@field input string folder that make-input.lua wrote
---@field cpu integer CPU that moves the packets; everything else of a contender is on another
---@field tideway string the binary

---@class bench.Contender
---@field name string
---@field note string its settings, for the report
---@field warm_up number? seconds before it is measured, when it needs more than others
---@field missing fun(ctx: bench.Context): string? why it cannot run here
---@field command fun(ctx: bench.Context): string[]

local SINK = "net_null1,no-rx=1"

local function source(ctx)
   return ("net_pcap0,rx_pcap=%s/flows.pcap,infinite_rx=1"):format(ctx.input)
end

local function exists(path)
   local file = io.open(path)
   if file then file:close() end
   return file ~= nil
end

local function join(...)
   local all = {}
   for _, list in ipairs {...} do
      for _, word in ipairs(list) do all[#all + 1] = word end
   end
   return all
end

-- EAL options that all DPDK peers share. 384 MB: two processes fit into 1 GB of hugepages.
local function eal(ctx)
   return {
      "--in-memory", "--file-prefix=" .. M.file_prefix, "-m", "384", "--no-pci",
      "--vdev", source(ctx), "--vdev", SINK,
   }
end

local function testpmd(name, mode)
   return {
      name = name,
      note = "Debian's dpdk-testpmd, main lcore on another CPU, defaults (burst 32, 512 descriptors)",
      missing = function()
         if os.execute "command -v dpdk-testpmd >/dev/null" ~= 0 then
            return "dpdk-testpmd is not installed; try: apt-get install dpdk"
         end
      end,
      command = function(ctx)
         local other = ctx.cpu == 0 and 1 or 0
         return join({"dpdk-testpmd", "--lcores", ("0@%d,1@%d"):format(other, ctx.cpu)}, eal(ctx), {
            "--", "--forward-mode=" .. mode, "--auto-start", "--nb-cores=1",
            "--total-num-mbufs=16384", "--stats-period=3600",
         })
      end,
   }
end

local function example(name, program, note, arguments)
   return {
      name = name, note = note,
      missing = function(ctx)
         if not exists(ctx.root .. "/build/peers/" .. program) then
            return "build/peers/" .. program .. " is not built; try: scripts/bench/build-peers"
         end
      end,
      command = function(ctx)
         return join({ctx.root .. "/build/peers/" .. program, "-l", tostring(ctx.cpu)}, eal(ctx),
            {"--"}, arguments(ctx))
      end,
   }
end

local function l2fwd(name, more)
   return example(name, "l2fwd",
      "DPDK example, -O3 -march=native, burst 32" .. (more[1] and ", " .. more[1] or ""),
      function() return join({"-p", "0x3", "-q", "2", "-T", "0"}, more) end)
end

local function tideway(name, script, more, burst)
   local path = "scripts/bench/" .. script .. ".lua"
   burst = tostring(burst or 32)
   return {
      name = name, note = path .. ", bursts of " .. burst
         .. (script == "forward" and "" or ", machine code (tier 2) where there is a C compiler"),
      -- Tier 2 comes in the background while tier 1 runs; the edge chain takes a second or two.
      warm_up = script == "edge" and 3 or script ~= "forward" and 1.2 or nil,
      missing = function(ctx)
         if not exists(ctx.tideway) then return ctx.tideway .. " is not built; try: make" end
      end,
      command = function(ctx)
         return join({ctx.tideway, "run", "--json", "--burst", burst, ctx.root .. "/" .. path, source(ctx),
            SINK, tostring(ctx.cpu)}, more and more(ctx) or {})
      end,
   }
end

---@type table<string, bench.Contender>
M.all = {}
for _, contender in ipairs {
   testpmd("testpmd-io", "io"),
   testpmd("testpmd-macswap", "macswap"),
   l2fwd("l2fwd", {"--no-mac-updating"}),
   l2fwd("l2fwd-mac", {}),
   example("l3fwd-lpm", "l3fwd",
      "DPDK example, -O3 -march=native, LPM, software packet types (the vdev has none)",
      function(ctx)
         return {
            "-p", "0x3", ("--config=(0,0,%d),(1,0,%d)"):format(ctx.cpu, ctx.cpu), "--lookup=lpm",
            "--rule_ipv4=" .. ctx.input .. "/routes4.txt",
            "--rule_ipv6=" .. ctx.input .. "/routes6.txt", "--parse-ptype",
         }
      end),
   tideway("tideway-forward", "forward"),
   tideway("tideway-macswap", "macswap"),
   tideway("tideway-route", "route",
      function(ctx) return {ctx.input .. "/routes4.txt"} end),
   tideway("tideway-entry", "entry"),
   tideway("tideway-firewall", "edge", function() return {"firewall"} end),
   tideway("tideway-router", "edge", function() return {"router"} end),
   tideway("tideway-napt44", "edge", function() return {"napt44"} end),
   tideway("tideway-edge", "edge", function() return {"edge"} end),
   tideway("forward-16", "forward", nil, 16),
   tideway("entry-16", "entry", nil, 16),
} do
   M.all[contender.name] = contender
end

---@class bench.Group contenders that do the same job; the first is the reference
---@field name string
---@field members string[]
---@field goals table<string, number> least ratio to the reference
---@field extra_ns table<string, number>? most ns a packet above the reference
---@field derived { name: string, most: number, ns: fun(rate: fun(name: string): number): number }? a row computed
--- from the rates of one round

---@type bench.Group[]
M.groups = {
   {
      name = "forward", title = "port to port, packets untouched",
      members = {"testpmd-io", "l2fwd", "tideway-forward"}, goals = {["tideway-forward"] = 0.95},
   },
   {
      name = "macswap", title = "MAC addresses exchanged or rewritten",
      members = {"testpmd-macswap", "l2fwd-mac", "tideway-macswap"},
      goals = {["tideway-macswap"] = 0.9},
   },
   {
      name = "route", title = "longest prefix match over 10,000 prefixes, TTL, checksum, MACs",
      members = {"l3fwd-lpm", "tideway-route"}, goals = {["tideway-route"] = 0.9},
   },
   {
      name = "edge", title = "library NFs alone and as the edge chain (NAT, firewall, router, NAT), established flows",
      members = {
         "tideway-forward", "tideway-firewall", "tideway-router", "tideway-napt44", "tideway-edge",
      },
      goals = {},
   },
   {
      name = "entry", title = "a chain of one empty NF: filling the burst, entering Lua, loop, verdicts",
      members = {"tideway-forward", "tideway-entry", "forward-16", "entry-16"},
      goals = {},
      -- Under load an entry takes two bursts: 64 packets, or 32 at bursts of 16. What is done per packet costs the
      -- same in both, so the difference is half of an entry's share of 32 packets.
      derived = {
         name = "entry alone, for 32 packets", most = 1.0,
         ns = function(rate)
            local at32 = 1000 / rate "entry-16" - 1000 / rate "forward-16"
            local at64 = 1000 / rate "tideway-entry" - 1000 / rate "tideway-forward"
            return 2 * (at32 - at64)
         end,
      },
   },
}

return M
