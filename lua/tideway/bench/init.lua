-- SPDX-License-Identifier: BSD-3-Clause
-- tw.bench: what benchmark scripts are written with. Each name is loaded from its module on first use.

local M = {}

local FROM = {
   ["tideway.bench.packets"] = {
      "packets", "count", "random", "list", "zipf", "flow", "imix", "pcap", "tcp_server", "tcp_client",
   },
   ["tideway.bench.source"] = { "source" },
   ["tideway.bench.sink"] = { "sink", "probe" },
   ["tideway.bench.histogram"] = { "histogram" },
   ["tideway.bench.chain"] = { "chain", "alone" },
   ["tideway.bench.runner"] = { "experiment", "sleep", "now" },
   ["tideway.bench.group"] = { "group", "contender" },
   ["tideway.bench.curve"] = { "curve" },
   ["tideway.bench.path"] = { "path" },
   ["tideway.bench.search"] = { "search" },
   ["tideway.bench.search.latency"] = { "latency" },
   ["tideway.bench.process"] = { "process" },
   ["tideway.bench.http"] = { "http" },
   ["tideway.bench.hook"] = { "hook" },
   ["tideway.bench.live"] = { "live" },
}
-- Names that stand for a whole module.
local WHOLE = { presets = "tideway.bench.traffic.presets" }

local source = {}
for module, names in pairs(FROM) do
   for _, name in ipairs(names) do source[name] = module end
end

--- The names this module offers, in order.
---@return string[]
function M.names()
   local list = { "names" }
   for name in pairs(source) do list[#list + 1] = name end
   for name in pairs(WHOLE) do list[#list + 1] = name end
   table.sort(list)
   return list
end

return setmetatable(M, {
   __index = function(_, name)
      local value
      if WHOLE[name] then
         value = require(WHOLE[name])
      elseif source[name] then
         value = require(source[name])[name]
      else
         error(("tw.bench has no %q; there are: %s"):format(tostring(name), table.concat(M.names(), ", ")), 2)
      end
      rawset(M, name, value)
      return value
   end,
   __source = source, -- where the comments of each are
   __tostring = function() return "tw.bench" end,
})
