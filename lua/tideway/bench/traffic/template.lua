-- SPDX-License-Identifier: BSD-3-Clause
-- A template becomes a traffic: headers, frames of each size, checksums, what varies.

local fields = require "tideway.bench.traffic.fields"
local frames = require "tideway.bench.traffic.frames"
local stacks = require "tideway.bench.traffic.stack"
local variation = require "tideway.bench.traffic.variation"

local M = {}

local FLOWS = {
   ipv4 = { src = "198.18.0.0/16", dst = "198.19.0.0/16" },
   ipv6 = { src = "2001:2::/112", dst = "2001:2:0:1::/112" },
}

-- Fields of the innermost packet that tell flows apart when the script names none.
local function default_flows(stack)
   for _, layer in ipairs(stack.layers) do
      local prefixes = layer.label == stack.prefix .. layer.protocol and FLOWS[layer.protocol]
      for name, prefix in pairs(prefixes or {}) do
         if layer.said[name] == nil then layer.values[name] = variation.flow(prefix) end
      end
      if layer.label == stack.prefix .. "udp" or layer.label == stack.prefix .. "tcp" then
         local said = layer.said.src or layer.said.src_port
         if said == nil then layer.values.src_port = variation.flow(49152, 65535) end
      end
   end
end

local function has_flow(stack)
   for _, layer in ipairs(stack.layers) do
      for _, value in pairs(layer.values) do
         if variation.is(value) and value.how == "flow" then return true end
      end
   end
   return false
end

local function boolean(name, value)
   if value ~= nil and type(value) ~= "boolean" then
      error(("%s is true or false, not %s"):format(name, tostring(value)), 0)
   end
   return value or false
end

local function check_settings(spec)
   if spec.fill ~= nil and type(spec.fill) ~= "function" then
      error(("fill is a function(pkt), not %s"):format(tostring(spec.fill)), 0)
   end
   local seed = spec.seed or 1
   if type(seed) ~= "number" or seed % 1 ~= 0 or seed < 0 or seed >= 2 ^ 32 then
      error(("seed: %s is not a whole number from 0 to 2^32 - 1"):format(tostring(seed)), 0)
   end
   return boolean("stamp", spec.stamp), seed
end

--- What bench.packets makes of its argument; errors have no position.
---@param spec any
---@return tideway.bench.traffic
function M.build(spec)
   if type(spec) ~= "table" then
      error(("bench.packets takes a table such as { size = 64, udp = { dst = 53 } }, not %s"):format(tostring(spec)), 0)
   end
   local stamp, seed = check_settings(spec)
   local stack = stacks.read(spec)
   if spec.flows ~= nil and not has_flow(stack) then default_flows(stack) end
   local shape = frames.shape(stack, spec.payload, stamp)
   local lengths, order = frames.lengths(shape, spec.size)
   local traffic = { frames = {}, order = order, stamp = stamp, sums = frames.sums(shape) }
   for i, length in ipairs(lengths) do traffic.frames[i] = frames.build(shape, length, spec.fill, i) end
   fields.plan(traffic, stack, spec.flows, seed)
   return traffic
end

return M
