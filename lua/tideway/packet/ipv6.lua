-- SPDX-License-Identifier: BSD-3-Clause
-- The IPv6 header and its extension headers (RFC 8200).

local header = require "tideway.packet.header"

local M = {}

---@class tideway.ipv6
---@field vtc_flow number version, traffic class and flow label together
---@field version number 6
---@field traffic_class number
---@field dscp number
---@field ecn number
---@field flow_label number
---@field payload_length number bytes after this header, extension headers included
---@field next_header number
---@field hop_limit number
---@field src tideway.in6 reference into the frame; assignment copies
---@field dst tideway.in6
M.ipv6 = header.define_builtin("ipv6", [[
   be32 vtc_flow { u4 version; u8 traffic_class; u20 flow_label } { u4 _; u6 dscp; u2 ecn; u20 _ };
   be16 payload_length; u8 next_header, hop_limit; ip6 src, dst]])

---@class tideway.ipv6_fragment
---@field next_header number
---@field frag number offset, reserved bits and M together
---@field frag_offset number in units of 8 bytes
---@field mf number more fragments, 0 or 1
---@field id number
M.fragment = header.define_builtin("ipv6_fragment",
   "u8 next_header; u8 _; be16 frag { u13 frag_offset; u2 _; u1 mf }; be32 id")

-- What all extension headers begin with; frag is that of the fragment header.
M.extension = header.define_builtin("ipv6_extension", "u8 next_header; u8 length; be16 frag")

return M
