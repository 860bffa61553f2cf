-- SPDX-License-Identifier: BSD-3-Clause
-- Encapsulation headers: GRE (RFC 2784, RFC 2890), VXLAN (RFC 7348), MPLS (RFC 3032).

local header = require "tideway.packet.header"

local M = {}

---@class tideway.gre
---@field flags number first 16 bits as a whole
---@field has_checksum number 0 or 1: checksum and reserved words follow
---@field has_routing number 0 or 1 (RFC 1701 only)
---@field has_key number 0 or 1
---@field has_seq number 0 or 1
---@field version number 0
---@field protocol number EtherType of the payload
M.gre = header.define_builtin("gre", [[
   be16 flags { u1 has_checksum; u1 has_routing; u1 has_key; u1 has_seq; u9 _; u3 version }; be16 protocol]])

---@class tideway.vxlan
---@field flags number
---@field has_vni number 0 or 1
---@field vni number VXLAN network identifier, 24 bits
M.vxlan = header.define_builtin("vxlan", "u8 flags { u4 _; u1 has_vni; u3 _ }; u24 _; u24 vni; u8 _")

---@class tideway.mpls
---@field entry number label stack entry as a whole
---@field label number 20 bits
---@field tc number traffic class, 0..7
---@field bos number bottom of stack, 0 or 1
---@field ttl number
M.mpls = header.define_builtin("mpls", "be32 entry { u20 label; u3 tc; u1 bos; u8 ttl }")

return M
