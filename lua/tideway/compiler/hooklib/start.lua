-- SPDX-License-Identifier: BSD-3-Clause
-- Where headers are on hooks whose packets do not start with an Ethernet header: at the IP header (cgroup_skb, lwt) or
-- at the payload of a socket (sk_msg, sk_skb, sk_reuseport). In NF Lua, in place of tideway.packet.parse and view.

local ffi = require "ffi"
local bit = require "bit"
local parse = require "tideway.packet.parse"
local ipv4 = require("tideway.packet.ipv4").ipv4
local ipv6 = require("tideway.packet.ipv6").ipv6

local M = {}

local cast, band, bswap, lshift, rshift = ffi.cast, bit.band, bit.bswap, bit.lshift, bit.rshift
local ipv4_p, ipv6_p = ipv4.pointer, ipv6.pointer
local RAW_IPV4, RAW_IPV6 = 0x0008, 0xdd86

local function nothing() return nil end

local function ethertype(d, len)
   if len < 20 then return nil end
   local version = rshift(d[0], 4)
   if version == 4 then return RAW_IPV4, 0 end
   if version == 6 then return RAW_IPV6, 0 end
   return nil
end

local function v4(d, len)
   if len < 20 then return nil end
   local ip = cast(ipv4_p, d)
   local first = ip.raw_version
   if first < 0x45 or first > 0x4f then return nil end
   local size = lshift(band(first, 15), 2)
   local total = rshift(bswap(ip.raw_total_length), 16)
   if total < size or total > len then return nil end
   return 0, size, total
end

local function v6(d, len)
   if len < 40 then return nil end
   local ip = cast(ipv6_p, d)
   if band(ip.raw_vtc_flow, 0xf0) ~= 0x60 then return nil end
   local stop = 40 + rshift(bswap(ip.raw_payload_length), 16)
   if stop > len then return nil end
   return 0, stop
end

local LINK = { "eth", "vlan", "arp", "mpls", "push_vlan", "pop_vlan" }

local function without(names)
   local methods = {}
   for _, name in ipairs(names) do methods[name] = nothing end
   return methods
end

--- By what lies at the start of the data: functions in place of others, and methods of packets.
---@type table<string, { replaced: table<function, function>, methods: table<string, function> }>
M.by_start = {
   l3 = { replaced = { [parse.ethertype] = ethertype, [parse.v4] = v4, [parse.v6] = v6 }, methods = without(LINK) },
   payload = {
      replaced = { [parse.ethertype] = nothing, [parse.v4] = nothing, [parse.v6] = nothing }, methods = without(LINK),
   },
}
M.by_start.l4 = M.by_start.payload

return M
