-- SPDX-License-Identifier: BSD-3-Clause
-- Transport headers: TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260).

local header = require "tideway.packet.header"

local M = {}

---@class tideway.tcp
---@field src_port number
---@field dst_port number
---@field seq number
---@field ack number acknowledgment number
---@field data_offset number header length in 32-bit words, 5..15
---@field flags number all eight: cwr 0x80, ece 0x40, urg 0x20, ack 0x10, psh 8, rst 4, syn 2, fin 1
---@field cwr number 0 or 1, like the other flags (0 is true in Lua: compare with 1)
---@field ece number
---@field urg number
---@field ack_flag number
---@field psh number
---@field rst number
---@field syn number
---@field fin number
---@field window number
---@field checksum number
---@field urgent number urgent pointer
M.tcp = header.define_builtin("tcp", [[
   be16 src_port, dst_port; be32 seq, ack;
   u4 data_offset; u4 reserved; u8 flags { u1 cwr; u1 ece; u1 urg; u1 ack_flag; u1 psh; u1 rst; u1 syn; u1 fin };
   be16 window, checksum, urgent]])

---@class tideway.udp
---@field src_port number
---@field dst_port number
---@field length number bytes, this header included
---@field checksum number 0 for none (IPv4)
M.udp = header.define_builtin("udp", "be16 src_port, dst_port, length, checksum")

---@class tideway.sctp
---@field src_port number
---@field dst_port number
---@field verification_tag number
---@field checksum number CRC32c; no helper computes it
M.sctp = header.define_builtin("sctp", "be16 src_port, dst_port; be32 verification_tag; le32 checksum")

return M
