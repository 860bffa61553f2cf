-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway run` as a contender among programs: counted from outside as they are.

local dpdk = require "peers.dpdk"
local input = require "input"

--- A script of chains/, with the peers' devices as its arguments.
---@param name string
---@param script string name in chains/ without .lua
---@param more? { arguments: string[]?, burst: integer?, prefixes: integer?, warm_up: number? }  more arguments; size of
---  bursts; routes, whose file is the last argument; seconds before it is measured, default 1.2: machine code comes in
---  the background
---@return tideway.bench.process
return function(name, script, more)
   more = more or {}
   local files, burst = input.files(more.prefixes), tostring(more.burst or 32)
   local path = ("scripts/bench/chains/%s.lua"):format(script)
   return dpdk.contender {
      name = name, warm_up = more.warm_up or script ~= "forward" and 1.2 or nil,
      note = ("%s, bursts of %s%s"):format(path, burst,
         script == "forward" and "" or ", machine code (tier 2) where there is a C compiler"),
      command = function(ctx)
         return dpdk.join({ ctx.tideway, "run", "--json", "--burst", burst, input.root .. "/" .. path,
            dpdk.source(files), dpdk.SINK, tostring(ctx.cpu) }, more.arguments or {},
            more.prefixes and { files.routes4 } or {})
      end,
      -- Which tier ran the chain is in what it prints at its end.
      after = function(sample, said) sample.tier = said:match '"tier":%s*"([^"]+)"' end,
   }
end
