-- SPDX-License-Identifier: BSD-3-Clause
-- Finds the headers of a frame: offsets that are known to lie inside it, or nil. All bounds checks
-- of the network and transport layer are here.
--
-- Nothing is cached between calls. A trace has the untagged, option-less frame as constants (offset
-- 14, header 20 bytes), and checks made twice in a trace are merged, so `pkt:tcp()` after
-- `pkt:ipv4()` costs its own three checks. What every packet passes through has no loop: an inner
-- loop would end the recording of the packet loop around it. Only the option walks, which few
-- packets need, loop.

local ffi = require "ffi"
local bit = require "bit"
local eth = require("tideway.packet.eth").eth
local vlan = require("tideway.packet.eth").vlan
local ipv4 = require("tideway.packet.ipv4").ipv4
local ipv6 = require("tideway.packet.ipv6").ipv6
local extension = require("tideway.packet.ipv6").extension

local M = {}
local cast = ffi.cast
local band, bswap, lshift, rshift, tobit = bit.band, bit.bswap, bit.lshift, bit.rshift, bit.tobit

local eth_p, vlan_p, ipv4_p, ipv6_p = eth.pointer, vlan.pointer, ipv4.pointer, ipv6.pointer
local extension_p = extension.pointer

-- Values as they lie in the frame, read little-endian.
local RAW_IPV4, RAW_IPV6, RAW_8021Q, RAW_8021AD = 0x0008, 0xdd86, 0x0081, 0xa888
local RAW_V4_OFFSET, RAW_V4_FRAGMENT = 0xff1f, 0xff3f
local RAW_V6_OFFSET, RAW_V6_FRAGMENT = 0xf8ff, 0xf9ff

--- EtherType (raw) and offset of what follows it, behind at most two VLAN tags.
---@param d ffi.cdata* frame
---@param len integer
---@return integer? ethertype as it lies in the frame
---@return integer? offset
local function ethertype(d, len)
   if len < 14 then return nil end
   local type = cast(eth_p, d).raw_type
   if type ~= RAW_8021Q and type ~= RAW_8021AD then return type, 14 end
   if len < 18 then return nil end
   type = cast(vlan_p, d + 14).raw_type
   if type ~= RAW_8021Q and type ~= RAW_8021AD then return type, 18 end
   if len < 22 then return nil end
   return cast(vlan_p, d + 18).raw_type, 22
end
M.ethertype = ethertype

--- Validated IPv4 header: version, header and total length agree with each other and the frame.
---@param d ffi.cdata*
---@param len integer
---@return integer? offset
---@return integer? header_length bytes
---@return integer? stop offset of the end of the IPv4 packet
local function v4(d, len)
   if len < 34 then return nil end
   local off = 14
   if cast(eth_p, d).raw_type ~= RAW_IPV4 then
      local type, at = ethertype(d, len)
      if type ~= RAW_IPV4 or at + 20 > len then return nil end
      off = at
   end
   local ip = cast(ipv4_p, d + off)
   local first, size = ip.raw_version, 20
   if first ~= 0x45 then
      if first < 0x46 or first > 0x4f then return nil end
      size = lshift(band(first, 15), 2)
   end
   local total = rshift(bswap(ip.raw_total_length), 16)
   if total < size or off + total > len then return nil end
   return off, size, off + total
end
M.v4 = v4

--- Validated IPv6 header.
---@param d ffi.cdata*
---@param len integer
---@return integer? offset
---@return integer? stop offset of the end of the IPv6 packet
local function v6(d, len)
   if len < 54 then return nil end
   local off = 14
   if cast(eth_p, d).raw_type ~= RAW_IPV6 then
      local type, at = ethertype(d, len)
      if type ~= RAW_IPV6 or at + 40 > len then return nil end
      off = at
   end
   local ip = cast(ipv6_p, d + off)
   if band(ip.raw_vtc_flow, 0xf0) ~= 0x60 then return nil end
   local stop = off + 40 + rshift(bswap(ip.raw_payload_length), 16)
   if stop > len then return nil end
   return off, stop
end
M.v6 = v6

-- Extension headers that have one after them (RFC 8200, RFC 4302, RFC 6275, RFC 7401, RFC 5533).
local function is_extension(next_header)
   if next_header == 6 or next_header == 17 or next_header == 58 then return false end
   return next_header == 0 or next_header == 60 or next_header == 43 or next_header == 44 or
      next_header == 51 or next_header == 135 or next_header == 139 or next_header == 140
end

-- Over one extension header; nil behind a truncated one and inside a fragment that is not the first.
local function skip(d, next_header, off, stop)
   if off + 8 > stop then return nil end
   local ext = cast(extension_p, d + off)
   local size = 8
   if next_header == 44 then
      if band(ext.raw_frag, RAW_V6_OFFSET) ~= 0 then return nil end
   elseif next_header == 51 then
      size = lshift(ext.length + 2, 2)
   else
      size = lshift(ext.length + 1, 3)
   end
   if off + size > stop then return nil end
   return ext.next_header, off + size
end

--- Walk IPv6 extension headers, at most 8, up to the header `wanted` or to the first that is none.
---@param d ffi.cdata*
---@param h integer? next header number
---@param o integer its offset
---@param stop integer end of the IPv6 packet
---@param wanted integer header to stop at, -1 for none
---@return integer? next_header nil when the chain is broken, too long or starts inside a later fragment
---@return integer? offset
local function walk(d, h, o, stop, wanted)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   h, o = skip(d, h, o, stop)
   if h == nil or h == wanted or not is_extension(h) then return h, o end
   return nil
end
M.walk = walk

--- Is the packet a part of a larger one, the first part included? An IPv6 fragment header with
--- offset 0 and nothing to follow is none (RFC 6946).
---@param p tideway.pkt
---@return boolean
function M.is_fragment(p)
   local d, len = p.data, tobit(p.len)
   local at_v4 = v4(d, len)
   if at_v4 then return band(cast(ipv4_p, d + at_v4).raw_frag, RAW_V4_FRAGMENT) ~= 0 end
   local off, stop = v6(d, len)
   if not off then return false end
   local h, at = walk(d, cast(ipv6_p, d + off).next_header, off + 40, stop, 44)
   if h ~= 44 or at + 8 > stop then return false end
   return band(cast(extension_p, d + at).raw_frag, RAW_V6_FRAGMENT) ~= 0
end

--- Upper-layer protocol and the offset of its header. Nil for a frame that is no valid IP packet
--- and for fragments other than the first. The header itself may still not fit before `stop`.
---@param p tideway.pkt
---@return integer? protocol
---@return integer? offset
---@return integer? stop end of the IP packet
---@return integer? family 4 or 6
---@return integer? l3 offset of the IP header
function M.l4(p)
   local d, len = p.data, tobit(p.len)
   local off, size, stop = v4(d, len)
   if off then
      local ip = cast(ipv4_p, d + off)
      if band(ip.raw_frag, RAW_V4_OFFSET) ~= 0 then return nil end
      return ip.protocol, off + size, stop, 4, off
   end
   off, stop = v6(d, len)
   if off then
      local next_header, at = walk(d, cast(ipv6_p, d + off).next_header, off + 40, stop, -1)
      return next_header, at, stop, 6, off
   end
   return nil
end

--- Find an option among type-length-value options with one-byte types 0 (end) and 1 (no-op).
---@param d ffi.cdata*
---@param at integer first option
---@param stop integer end of the options, inside the frame
---@param kind integer
---@return integer? offset
---@return integer? length
function M.option(d, at, stop, kind)
   while at < stop do
      local type = d[at]
      if type == 0 then return nil end
      local length = 1
      if type ~= 1 then
         if at + 2 > stop then return nil end
         length = d[at + 1]
         if length < 2 or at + length > stop then return nil end
      end
      if type == kind then return at, length end
      at = at + length
   end
   return nil
end

--- Find a neighbor discovery option (RFC 4861 4.6: lengths in units of 8 bytes).
---@param d ffi.cdata*
---@param at integer first option
---@param stop integer end of the options, inside the frame
---@param kind integer
---@return integer? offset
---@return integer? length bytes
function M.nd_option(d, at, stop, kind)
   while at + 8 <= stop do
      local length = lshift(d[at + 1], 3)
      if length == 0 or at + length > stop then return nil end
      if d[at] == kind then return at, length end
      at = at + length
   end
   return nil
end

return M
