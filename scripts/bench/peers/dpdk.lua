-- SPDX-License-Identifier: BSD-3-Clause
-- DPDK's own programs as contenders: testpmd of the package, l2fwd and l3fwd of its examples. All get the same devices
-- and the same packets, and one CPU.

local lfs = require "lfs"
local bench = require "tideway".bench
local input = require "input"

local M = {}

M.SINK = "net_null1,no-rx=1"

--- Where packets come from: a pcap, looped from memory.
---@param files table of input.files()
---@return string devargs
function M.source(files) return ("net_pcap0,rx_pcap=%s,infinite_rx=1"):format(files.pcap) end

--- One list after the other.
---@param ... string[]
---@return string[]
function M.join(...)
   local all = {}
   for _, list in ipairs { ... } do
      for _, word in ipairs(list) do all[#all + 1] = word end
   end
   return all
end

-- EAL options that all share. 384 MB: two processes fit into 1 GB of hugepages.
local function eal(ctx, files)
   return { "--in-memory", "--file-prefix=" .. ctx.prefix, "-m", "384", "--no-pci",
      "--vdev", M.source(files), "--vdev", M.SINK }
end

--- A program on these devices.
---@param spec table as for bench.process; `device`: what counts when it is another one
---@return tideway.bench.process
function M.contender(spec)
   spec.count, spec.from = { device = spec.device or "net_null1" }, not spec.device and "net_pcap0" or nil
   spec.log = ("%s/%s.log"):format(input.dir, spec.name)
   return bench.process(spec)
end

--- Why there is no testpmd here.
---@return string?
function M.no_testpmd()
   if os.execute "command -v dpdk-testpmd >/dev/null" ~= 0 then
      return "dpdk-testpmd is not installed; try: apt-get install dpdk"
   end
end

--- testpmd in one of its modes.
---@param name string
---@param mode string
---@param note? string
---@return tideway.bench.process
function M.testpmd(name, mode, note)
   local files = input.files()
   return M.contender {
      name = name,
      note = "Debian's dpdk-testpmd, its defaults (bursts of 32, 512 descriptors), the main lcore on another CPU"
         .. (note and ", " .. note or ""),
      missing = M.no_testpmd,
      command = function(ctx)
         return M.join({ "dpdk-testpmd", "--lcores", ("0@%d,1@%d"):format(ctx.other, ctx.cpu) }, eal(ctx, files), {
            "--", "--forward-mode=" .. mode, "--auto-start", "--nb-cores=1", "--total-num-mbufs=16384",
            "--stats-period=3600",
         })
      end,
   }
end

local function example(name, program, note, files, arguments)
   local path = input.root .. "/build/peers/" .. program
   return M.contender {
      name = name, note = "DPDK example, -O3 -march=native, " .. note,
      missing = function()
         if not lfs.attributes(path) then return ("build/peers/%s is not built; try: scripts/bench/build-peers"):format(
            program) end
      end,
      command = function(ctx)
         return M.join({ path, "-l", tostring(ctx.cpu) }, eal(ctx, files), { "--" }, arguments(ctx))
      end,
   }
end

--- l2fwd; with MAC addresses rewritten or not.
---@param name string
---@param mac boolean
---@return tideway.bench.process
function M.l2fwd(name, mac)
   return example(name, "l2fwd", mac and "bursts of 32" or "bursts of 32, --no-mac-updating", input.files(), function()
      return M.join({ "-p", "0x3", "-q", "2", "-T", "0" }, mac and {} or { "--no-mac-updating" })
   end)
end

--- l3fwd in LPM mode.
---@param name string
---@param prefixes? integer default 10000
---@return tideway.bench.process
function M.l3fwd(name, prefixes)
   local files = input.files(prefixes)
   return example(name, "l3fwd", "LPM, packet types by software (net_pcap gives none)", files, function(ctx)
      return {
         "-p", "0x3", ("--config=(0,0,%d),(1,0,%d)"):format(ctx.cpu, ctx.cpu), "--lookup=lpm",
         "--rule_ipv4=" .. files.routes4, "--rule_ipv6=" .. files.routes6, "--parse-ptype",
      }
   end)
end

return M
