-- SPDX-License-Identifier: BSD-3-Clause
-- Open vSwitch with DPDK as a contender, started by the script beside this file.

local lfs = require "lfs"
local dpdk = require "peers.dpdk"
local input = require "input"

local DAEMON = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"

--- A bridge of two ports with one rule.
---@param name string
---@param actions string as in ovs-ofctl, the sink is port 2
---@param note string
---@return tideway.bench.process
return function(name, actions, note)
   local files = input.files()
   return dpdk.contender {
      name = name, signal = 15, -- SIGTERM
      note = "Debian's openvswitch-switch-dpdk, its defaults (bursts of 32, exact match cache), one PMD thread, "
         .. note,
      missing = function()
         if not lfs.attributes(DAEMON) then
            return "openvswitch-switch-dpdk is not installed; try: apt-get install openvswitch-switch-dpdk"
         end
      end,
      command = function(ctx)
         return { input.root .. "/scripts/bench/peers/ovs", dpdk.source(files), dpdk.SINK, tostring(ctx.cpu),
            tostring(ctx.other), ctx.prefix, actions }
      end,
   }
end
