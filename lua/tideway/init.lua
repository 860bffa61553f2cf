-- SPDX-License-Identifier: BSD-3-Clause
-- tideway: the module scripts and NFs require. Everything public is reached from here.

local M = { version = require "tideway.version" }

-- Loaded on first use, so that an lcore's VM holds only what its NFs need.
local FROM = {
   ["tideway.nf"] = { "nf", "args" },
   ["tideway.port"] = { "port", "ring" },
   ["tideway.chain"] = { "chain" },
   ["tideway.gate.listen"] = { "listen" },
   ["tideway.gate.upstream"] = { "upstream" },
   ["tideway.message.lines"] = { "lines" },
   ["tideway.options"] = { "options" },
   ["tideway.sandbox"] = { "sandbox" },
   ["tideway.control.roles"] = { "control" },
   ["tideway.hold"] = { "hold_queue", "emit" },
   ["tideway.table"] = { "hash", "lru", "lpm", "array", "counters", "meter", "tables" },
   ["tideway.table.acl"] = { "acl" },
   ["tideway.store"] = { "store" },
   ["tideway.table.hook"] = {
      "percpu_hash", "lru_percpu", "percpu_array", "ringbuf", "queue", "stack", "bloom", "devmap", "devmap_hash",
      "cpumap", "xskmap", "sockmap", "sockhash", "prog_array",
   },
   ["tideway.hashing"] = { "jhash", "maglev" },
   ["tideway.packet"] = {
      "ip4", "ip6", "mac", "prefix", "ip4_string", "ip6_string", "mac_string", "header", "csum", "headers",
      "interface",
   },
}
local source = {}
for module, names in pairs(FROM) do
   for _, name in ipairs(names) do source[name] = module end
end

--- Time of the monotonic clock, ns (exact up to 2^53).
---@return number
function M.now() return tonumber(require("tideway.abi").C.tw_now()) end

--- A random number, 0 to 2^32 - 1. Not for secrets.
---@return number
function M.random() return require("tideway.abi").C.tw_random() end

--- The names this module offers, in order.
---@return string[]
function M.names()
   local list = { "bench", "bpf", "names", "now", "random", "version" }
   for name in pairs(source) do list[#list + 1] = name end
   table.sort(list)
   return list
end

return setmetatable(M, {
   __index = function(_, name)
      if name == "bpf" or name == "bench" then
         rawset(M, name, require("tideway." .. name))
         return M[name]
      end
      local module = source[name]
      if not module then
         error(("tideway has no %q; there are: %s"):format(tostring(name), table.concat(M.names(), ", ")), 2)
      end
      local value = require(module)[name]
      rawset(M, name, value)
      return value
   end,
   __source = source, -- where the comments of each are
   __tostring = function() return "tideway " .. M.version end,
})
