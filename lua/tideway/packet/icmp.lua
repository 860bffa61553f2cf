-- SPDX-License-Identifier: BSD-3-Clause
-- ICMP (RFC 792, RFC 1191), ICMPv6 (RFC 4443) and neighbor discovery (RFC 4861).

local header = require "tideway.packet.header"

local M = {}

---@class tideway.icmp
---@field type number 0 echo reply, 3 unreachable, 8 echo request, 11 time exceeded, ...
---@field code number
---@field checksum number
---@field rest number the second word as a whole
---@field id number echo: identifier
---@field seq number echo: sequence number
---@field mtu number unreachable, code 4: next-hop MTU
---@field pointer number parameter problem
local icmp = {}

--- Does this message carry the header of the packet it is about (RFC 1122 3.2.2)?
---@return boolean
function icmp:is_error()
   local type = self.type
   return type == 3 or type == 11 or type == 12 or type == 5 or type == 4
end

M.icmp = header.define_builtin("icmp", [[
   u8 type, code; be16 checksum; be32 rest { u16 id; u16 seq } { u16 _; u16 mtu } { u8 pointer; u24 _ }]], icmp)

---@class tideway.icmp6
---@field type number 1 unreachable, 2 packet too big, 3 time exceeded, 128 echo request, 129 reply, 135 NS, 136 NA
---@field code number
---@field checksum number
---@field rest number the second word as a whole; packet too big: the MTU; parameter problem: the pointer
---@field id number echo: identifier
---@field seq number echo: sequence number
local icmp6 = {}

--- Is this an error message (types below 128, RFC 4443 2.1)?
---@return boolean
function icmp6:is_error() return self.type < 128 end

M.icmp6 = header.define_builtin("icmp6", "u8 type, code; be16 checksum; be32 rest { u16 id; u16 seq }", icmp6)

---@class tideway.nd
---@field type number 135 neighbor solicitation, 136 neighbor advertisement
---@field code number 0
---@field checksum number
---@field rest number
---@field router number 0 or 1 (advertisement)
---@field solicited number 0 or 1 (advertisement)
---@field override number 0 or 1 (advertisement)
---@field target tideway.in6
M.nd = header.define_builtin("nd", [[
   u8 type, code; be16 checksum; be32 rest { u1 router; u1 solicited; u1 override; u29 _ }; ip6 target]])

return M
