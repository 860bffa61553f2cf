-- SPDX-License-Identifier: BSD-3-Clause
-- Frames as strings for specs, written byte by byte and independent of tideway.packet, so that one checks the other.

local M = {}

local floor = math.floor

--- Big-endian integers.
function M.u8(n) return string.char(n % 256) end
function M.u16(n) return string.char(floor(n / 256) % 256, n % 256) end
function M.u32(n) return M.u16(floor(n / 65536)) .. M.u16(n % 65536) end

--- "02:00:00:00:00:01" -> 6 bytes.
function M.mac(text)
   return (text:gsub("(%x%x):?", function(h) return string.char(tonumber(h, 16)) end))
end

--- "10.0.0.1" -> 4 bytes.
function M.ip4(text)
   local a, b, c, d = text:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$"
   return string.char(a, b, c, d)
end

--- "2001:db8::1" -> 16 bytes.
function M.ip6(text)
   local head, tail = text:match "^(.-)::(.*)$"
   local function groups(part)
      local list = {}
      for g in (part or ""):gmatch "%x+" do list[#list + 1] = M.u16(tonumber(g, 16)) end
      return list
   end
   if not head then return table.concat(groups(text)) end
   local a, b = groups(head), groups(tail)
   return table.concat(a) .. ("\0\0"):rep(8 - #a - #b) .. table.concat(b)
end

--- Internet checksum (RFC 1071) of a string.
function M.checksum(s)
   local sum = 0
   if #s % 2 == 1 then s = s .. "\0" end
   for i = 1, #s, 2 do sum = sum + s:byte(i) * 256 + s:byte(i + 1) end
   while sum > 65535 do sum = sum % 65536 + floor(sum / 65536) end
   return 65535 - sum
end

--- Ethernet header and payload. e = { dst, src, type, vlan = { {tpid, tci}... } }
function M.eth(e, payload)
   local tags = {}
   for i, tag in ipairs(e.vlan or {}) do tags[i] = M.u16(tag[1]) .. M.u16(tag[2]) end
   return M.mac(e.dst or "02:00:00:00:00:02") .. M.mac(e.src or "02:00:00:00:00:01") .. table.concat(tags)
      .. M.u16(e.type or 0x0800) .. payload
end

--- IPv4 header and payload. i = { src, dst, proto, ttl, id, df, frag, tos, options, total_length }
function M.ipv4(i, payload)
   local options = i.options or ""
   local flags = (i.df and 0x4000 or 0) + (i.frag or 0) -- frag: MF bit 0x2000 and offset in 8-byte units
   local head = M.u8(0x40 + 5 + #options / 4) .. M.u8(i.tos or 0) .. M.u16(i.total_length or 20 + #options + #payload)
      .. M.u16(i.id or 0) .. M.u16(flags) .. M.u8(i.ttl or 64) .. M.u8(i.proto or 17)
   local rest = M.ip4(i.src) .. M.ip4(i.dst) .. options
   return head .. M.u16(M.checksum(head .. "\0\0" .. rest)) .. rest .. payload
end

--- IPv6 header and payload. i = { src, dst, next, hops }
function M.ipv6(i, payload)
   return M.u32(0x60000000) .. M.u16(i.length or #payload) .. M.u8(i.next or 17) .. M.u8(i.hops or 64)
      .. M.ip6(i.src) .. M.ip6(i.dst) .. payload
end

local function pseudo4(i, proto, len) return M.ip4(i.src) .. M.ip4(i.dst) .. "\0" .. M.u8(proto) .. M.u16(len) end
local function pseudo6(i, proto, len) return M.ip6(i.src) .. M.ip6(i.dst) .. M.u32(len) .. "\0\0\0" .. M.u8(proto) end
local function pseudo(i, proto, len) return (i.src:find ":" and pseudo6 or pseudo4)(i, proto, len) end

--- UDP datagram with checksum; i = { src, dst } addresses. u = { sport, dport, no_checksum }
function M.udp(i, u, data)
   data = data or ""
   local len = 8 + #data
   local ports = M.u16(u.sport) .. M.u16(u.dport) .. M.u16(len)
   local sum = M.checksum(pseudo(i, 17, len) .. ports .. "\0\0" .. data)
   if sum == 0 then sum = 0xffff end
   if u.no_checksum then sum = 0 end
   return ports .. M.u16(sum) .. data
end

--- TCP segment with checksum. t = { sport, dport, seq, ack, flags, window, options }
function M.tcp(i, t, data)
   data = data or ""
   local options = t.options or ""
   local head = M.u16(t.sport) .. M.u16(t.dport) .. M.u32(t.seq or 1) .. M.u32(t.ack or 0)
      .. M.u8((5 + #options / 4) * 16) .. M.u8(t.flags or 0x02) .. M.u16(t.window or 65535)
   local tail = "\0\0" .. options .. data
   local sum = M.checksum(pseudo(i, 6, 20 + #options + #data) .. head .. "\0\0" .. tail)
   return head .. M.u16(sum) .. tail
end

--- ICMP message with checksum. c = { type, code, rest = 4 bytes | id, seq }
function M.icmp(c, data)
   local rest = c.rest or M.u16(c.id or 0) .. M.u16(c.seq or 0)
   local head = M.u8(c.type) .. M.u8(c.code or 0)
   return head .. M.u16(M.checksum(head .. "\0\0" .. rest .. (data or ""))) .. rest .. (data or "")
end

--- ICMPv6 message with checksum (RFC 4443). c = { type, code, rest }
function M.icmp6(i, c, data)
   local rest = c.rest or M.u16(c.id or 0) .. M.u16(c.seq or 0)
   local head, body = M.u8(c.type) .. M.u8(c.code or 0), rest .. (data or "")
   return head .. M.u16(M.checksum(pseudo6(i, 58, 4 + #body) .. head .. "\0\0" .. body)) .. body
end

--- Whole frames: eth(e) + ip(i) + transport.
function M.udp4(e, i, u, data) i.proto = 17 return M.eth(e, M.ipv4(i, M.udp(i, u, data))) end
function M.tcp4(e, i, t, data) i.proto = 6 return M.eth(e, M.ipv4(i, M.tcp(i, t, data))) end
function M.icmp4(e, i, c, data) i.proto = 1 return M.eth(e, M.ipv4(i, M.icmp(c, data))) end
function M.udp6(e, i, u, data) i.next = 17 e.type = 0x86dd return M.eth(e, M.ipv6(i, M.udp(i, u, data))) end
function M.icmp6_6(e, i, c, data) i.next = 58 e.type = 0x86dd return M.eth(e, M.ipv6(i, M.icmp6(i, c, data))) end

--- ARP packet. a = { oper, sha, spa, tha, tpa }
function M.arp(e, a)
   e.type = 0x0806
   return M.eth(e, M.u16(1) .. M.u16(0x0800) .. "\6\4" .. M.u16(a.oper) .. M.mac(a.sha) .. M.ip4(a.spa) .. M.mac(a.tha)
      .. M.ip4(a.tpa))
end

--- Hex dump for messages.
function M.hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

return M
