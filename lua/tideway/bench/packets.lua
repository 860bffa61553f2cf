-- SPDX-License-Identifier: BSD-3-Clause
-- What packets of a benchmark look like: `bench.packets { ... }` makes of it a *traffic*, which a source runs: finished
-- frames, and which of their fields change from packet to packet.

local script = require "tideway.bench.traffic.script"
local sizes = require "tideway.bench.traffic.sizes"
local template = require "tideway.bench.traffic.template"
local variation = require "tideway.bench.traffic.variation"

local M = {
   count = variation.count, random = variation.random, list = variation.list, zipf = variation.zipf,
   flow = variation.flow, imix = sizes.imix,
}

---@class tideway.bench.traffic
---@field frames string[] without FCS; checksums are made by the source
---@field order? integer[] which frame the i-th packet is, again from the start behind the last; nil: in turn
---@field indexes tideway.bench.index[] at most 16
---@field fields tideway.bench.field[] at most 32
---@field sums tideway.bench.sum[] at most 4
---@field stamp boolean the last 16 bytes of each frame are a stamp
---@field once? boolean it ends with its last frame
---@field notes? string[] what was wrong with the file that it comes from

--- Yields a number from 0 to n - 1 for each packet.
---@class tideway.bench.index
---@field kind "count"|"random"|"zipf"
---@field n integer
---@field every? integer of count: goes on after so many packets
---@field skew? number of zipf
---@field seed integer

--- What an index's number i writes. Values are numbers below 2^53, or uint64_t.
---@class tideway.bench.field
---@field at integer offset in the frame
---@field bytes integer 1 to 8, big-endian
---@field index integer position in indexes
---@field mask? number bits that are written; the others stay
---@field base? number the value is base + (step * i >> right),
---@field step? number
---@field right? integer
---@field list? number[] or list[1 + i % #list],
---@field scatter? number or base + a number below scatter that looks random and is always the same for i
---@field sums integer[] positions in sums: those that it counts for

--- An Internet checksum (RFC 1071) that is kept right.
---@class tideway.bench.sum
---@field at integer offset of the checksum
---@field from integer offset of the first byte that counts
---@field length? integer bytes; nil: to the end of the IP packet
---@field pseudo? integer[][] offset and bytes of what the pseudo header has from elsewhere
---@field protocol? integer of the pseudo header, which has the length too
---@field udp? boolean 0 is sent as 0xffff (RFC 768)

--- Packets from a template. All sizes are those on the wire, with the 4 bytes of FCS, as everyone in the field counts:
--- 64 is the least. What is not said has a default; `{}` is UDP over IPv4 between the addresses for benchmarks.
---
--- `size`: a number, `bench.imix()`, or `{ { 64, 7 }, { 1518, 1 } }` with weights. Headers: `eth` { src, dst, type },
--- `vlan` (an id, { id, pcp, dei } or a list), `mpls`, `ipv4` { src, dst, ttl, dscp, ... } or `ipv6`; above them one of
--- `udp` { src, dst }, `tcp` { src, dst, seq, ack, flags = "syn", window, mss }, `icmp` { type = "echo", id, seq },
--- `icmp6`, `gre` { key, inner = { ... } }; above UDP `vxlan` { vni, inner = { ... } } or `dns` { name, type, id }.
--- `payload`: bytes, { pattern = bytes } or { random = seed }. A field is a value or varies: bench.count, random, list,
--- zipf, flow. `flows`: how many there are, a number or { n, order = "count"|"random"|"zipf", skew, scatter }. `stamp`:
--- a sequence number and the time in the last 16 bytes. `fill`: a function that gets each frame, once, as an NF would.
--- `seed`: another one gives other random values.
---@param spec table
---@return tideway.bench.traffic
function M.packets(spec) return (script.at_caller(template.build, spec)) end

local FROM = {
   pcap = { "tideway.bench.traffic.pcap", "pcap" },
   tcp_server = { "tideway.bench.traffic.tcp", "server" }, tcp_client = { "tideway.bench.traffic.tcp", "client" },
}

return setmetatable(M, {
   __index = function(_, name)
      local from = FROM[name]
      return from and require(from[1])[from[2]]
   end,
})
