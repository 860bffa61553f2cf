-- SPDX-License-Identifier: BSD-3-Clause
-- Traffic that benchmarks often need, in a word each: `bench.presets.syn_flood()`. What they are given replaces their
-- own settings, so that `bench.presets.dns_queries { size = 128 }` is possible.

local packets = require "tideway.bench.packets"
local at_caller = require("tideway.bench.traffic.script").at_caller
local template = require "tideway.bench.traffic.template"

local M = {}

-- Settings of a script over those of a preset; of headers field by field.
local function over(own, given)
   if given == nil then return own end
   if type(given) ~= "table" then error(("settings as for bench.packets, not %s"):format(tostring(given)), 0) end
   for name, value in pairs(given) do
      local header = type(value) == "table" and getmetatable(value) == nil and value[1] == nil
      if header and type(own[name]) == "table" and getmetatable(own[name]) == nil then
         over(own[name], value)
      else
         own[name] = value
      end
   end
   return own
end

local function preset(own, given) return (template.build(over(own, given))) end

--- UDP flows over IPv4.
---@param n? integer flows, default 1024
---@param given? table as for bench.packets
---@return tideway.bench.traffic
function M.udp_flows(n, given)
   return (at_caller(preset, { size = 64, flows = n or 1024 }, given))
end

--- TCP SYNs from all over 198.18.0.0/16 and all dynamic ports to one service.
---@param given? table as for bench.packets
---@return tideway.bench.traffic
function M.syn_flood(given)
   return (at_caller(preset, {
      size = 64, ipv4 = { src = packets.random "198.18.0.0/16", dst = "198.19.0.1", ttl = 64 },
      tcp = { src = packets.random(1024, 65535), dst = 80, seq = packets.random(0, 2 ^ 32 - 1), flags = "syn",
         mss = 1460 },
   }, given))
end

--- DNS queries for the address of one name, each with an ID and a source port of its own.
---@param given? table as for bench.packets
---@return tideway.bench.traffic
function M.dns_queries(given)
   return (at_caller(preset, {
      ipv4 = { src = packets.random "198.18.0.0/16", dst = "198.19.0.1" },
      udp = { src = packets.random(1024, 65535) },
      dns = { id = packets.random(0, 65535), name = "www.example.com", type = "A" },
   }, given))
end

--- Pings: echo requests with a sequence number that counts.
---@param given? table as for bench.packets
---@return tideway.bench.traffic
function M.icmp_echo(given)
   return (at_caller(preset, {
      size = 98 + 4, icmp = { type = "echo", id = 1, seq = packets.count(0, 65535) },
      payload = { pattern = "tideway " },
   }, given))
end

--- VXLAN: UDP flows in a tunnel between two end points, with the flow's entropy in the outer source port (RFC 7348 5).
---@param n? integer flows, default 1024
---@param given? table as for bench.packets
---@return tideway.bench.traffic
function M.vxlan(n, given)
   return (at_caller(preset, {
      size = 128, flows = n or 1024, udp = { src = packets.flow(49152, 65535) },
      vxlan = { vni = 1, inner = {
         ipv4 = { src = packets.flow "10.1.0.0/16", dst = "10.2.0.1" }, udp = { src = packets.flow(49152, 65535) },
      } },
   }, given))
end

return M
