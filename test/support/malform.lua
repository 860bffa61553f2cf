-- SPDX-License-Identifier: BSD-3-Clause
-- Malformed frames, systematically made of the valid ones: cut at every length, lengths that lie, fields that
-- contradict each other. The same ones in the same order in every run.

local corpus = require "test.support.corpus"
local frame = require "test.support.frame"

local M = {}
local u8, u16, u32 = frame.u8, frame.u16, frame.u32

-- ---- edits of a string, offsets from 0 ----

local function put(s, at, bytes)
   if at + #bytes > #s then return s end
   return s:sub(1, at) .. bytes .. s:sub(at + #bytes + 1)
end
M.put = put

local function get16(s, at) return s:byte(at + 1) * 256 + s:byte(at + 2) end

--- The IPv4 header checksum made right for whatever the header says; unchanged where that is impossible.
---@param s string
---@param at integer offset of the header
---@return string
function M.mend(s, at)
   if at + 20 > #s then return s end
   local size = s:byte(at + 1) % 16 * 4
   if size < 20 or at + size > #s then return s end
   s = put(s, at + 10, "\0\0")
   return put(s, at + 10, u16(frame.checksum(s:sub(at + 1, at + size))))
end

--- The checksum of an ICMP or ICMPv6 message made right again, so that receivers that look at it go on.
---@param s string
---@param entry tideway.spec.entry
---@return string
function M.mend_icmp(s, entry)
   local at, pseudo = entry.l4, ""
   if #s < (entry.v4 or entry.v6) + 6 then return s end
   local stop = entry.v4 and entry.v4 + get16(s, entry.v4 + 2) or entry.v6 + 40 + get16(s, entry.v6 + 4)
   if at + 4 > #s or stop > #s or stop < at + 4 then return s end
   if entry.v6 then pseudo = s:sub(entry.v6 + 9, entry.v6 + 40) .. u32(stop - at) .. "\0\0\0\58" end
   s = put(s, at + 2, "\0\0")
   return put(s, at + 2, u16(frame.checksum(pseudo .. s:sub(at + 1, stop))))
end

-- ---- which bytes lie, by header: each calls emit(what, frame) ----

local function bytes_at(emit, s, at, what, values)
   if at >= #s then return end
   for _, value in ipairs(values) do emit(("%s %d"):format(what, value), put(s, at, u8(value))) end
end

local function words_at(emit, s, at, what, values)
   if at + 2 > #s then return end
   for _, value in ipairs(values) do emit(("%s %d"):format(what, value), put(s, at, u16(value))) end
end

local function around(n) return { 0, 1, math.max(n - 1, 0), n + 1, n + 8, 0x7fff, 0x8000, 0xffff } end

local function ethernet(entry, emit)
   local s = entry.frame
   words_at(emit, s, 12, "ethertype",
      { 0, 46, 0x05dc, 0x0600, 0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x8847, 0x9100, 0xffff })
   emit("padded to 60 bytes and more", s .. ("\0"):rep(math.max(60 - #s, 7)))
   emit("followed by itself", s .. s)
   for _, at in ipairs(entry.vlan or {}) do
      words_at(emit, s, at, "tag", { 0, 0x0fff, 0xe000, 0xffff })
      words_at(emit, s, at + 2, "type behind the tag", { 0x8100, 0x88a8, 0x86dd, 0x0806, 0, 0xffff })
   end
   emit("40 tags in front", s:sub(1, 12) .. ("\129\0\0\1"):rep(40) .. s:sub(13))
end

local function arp(entry, emit)
   local s, at = entry.frame, entry.arp
   words_at(emit, s, at, "hardware type", { 0, 2, 6, 0xffff })
   words_at(emit, s, at + 2, "protocol type", { 0, 0x86dd, 0xffff })
   bytes_at(emit, s, at + 4, "hardware length", { 0, 1, 5, 7, 8, 255 })
   bytes_at(emit, s, at + 5, "protocol length", { 0, 1, 3, 5, 16, 255 })
   words_at(emit, s, at + 6, "operation", { 0, 2, 3, 8, 0xffff })
   emit("sender is a group", put(s, at + 8, "\255\255\255\255\255\255"))
   emit("sender address multicast", put(s, at + 14, "\224\0\0\1"))
   emit("sender is the router", put(s, at + 8, frame.mac(corpus.LAN_MAC)))
end

local function ipv4(entry, emit_raw)
   local s, at = entry.frame, entry.v4
   local function emit(what, bytes)
      emit_raw(what, M.mend(bytes, at))
   end
   for version = 0, 15 do
      if version ~= 4 then emit("version " .. version, put(s, at, u8(version * 16 + 5))) end
   end
   for ihl = 0, 15 do emit("ihl " .. ihl, put(s, at, u8(0x40 + ihl))) end
   words_at(emit, s, at + 2, "total length", around(#s - at))
   words_at(emit, s, at + 2, "total length", { 19, 20, 21, 24, 27, 28, 60 })
   words_at(emit, s, at + 6, "flags and offset", { 1, 0x1fff, 0x2000, 0x2001, 0x3fff, 0x4000, 0x8000, 0xffff })
   bytes_at(emit, s, at + 8, "TTL", { 0, 1, 2, 255 })
   bytes_at(emit, s, at + 9, "protocol", { 0, 1, 2, 4, 6, 17, 41, 47, 50, 51, 58, 132, 255 })
   for _, address in ipairs { "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.1", "198.51.100.1",
      "10.0.0.0", "240.0.0.1" } do
      emit("from " .. address, put(s, at + 12, frame.ip4(address)))
      emit("to " .. address, put(s, at + 16, frame.ip4(address)))
   end
   emit_raw("wrong header checksum", put(s, at + 10, "\18\52"))
   local options = entry.l4 and entry.l4 - at - 20 or 0
   if options > 0 then
      for _, kind in ipairs { 2, 7, 131, 148 } do
         emit(("ends after the type of option %d"):format(kind),
            put(s:sub(1, at + 20), at + 2, u16(20 + options)) .. ("\1"):rep(options - 1) .. u8(kind))
      end
      for _, kind in ipairs { 7, 68, 130, 131, 137, 148, 222 } do
         for _, length in ipairs { 0, 1, 2, 3, options, options + 1, 255 } do
            emit(("option %d of length %d"):format(kind, length), put(s, at + 20, u8(kind) .. u8(length)))
            emit(("last byte an option %d"):format(kind), put(s, at + 20 + options - 1, u8(kind)))
         end
         for _, pointer in ipairs { 0, 1, 3, 4, 5, 40, 255 } do
            local option = u8(kind) .. u8(options) .. u8(pointer)
            emit(("option %d, pointer %d"):format(kind, pointer), put(s, at + 20, option))
         end
      end
   end
end

local NEXT_HEADERS = { 0, 1, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 132, 135, 139, 140, 255 }

local function ipv6(entry, emit)
   local s, at = entry.frame, entry.v6
   for version = 0, 15 do
      if version ~= 6 then emit("version " .. version, put(s, at, u8(version * 16))) end
   end
   words_at(emit, s, at + 4, "payload length", around(#s - at - 40))
   bytes_at(emit, s, at + 6, "next header", NEXT_HEADERS)
   bytes_at(emit, s, at + 7, "hop limit", { 0, 1, 2, 255 })
   for _, address in ipairs { "::", "::1", "ff02::1", "fe80::1", "::ffff:0:0", "2001:db8:1::1", "2001:db8:2::1" } do
      emit("from " .. address, put(s, at + 8, frame.ip6(address)))
      emit("to " .. address, put(s, at + 24, frame.ip6(address)))
   end
   for n, ext in ipairs(entry.ext) do
      bytes_at(emit, s, ext, ("extension %d, next header"):format(n), NEXT_HEADERS)
      bytes_at(emit, s, ext + 1, ("extension %d, length"):format(n), { 0, 1, 2, 3, 6, 7, 31, 127, 128, 255 })
      words_at(emit, s, ext + 2, ("extension %d, fragment"):format(n), { 0, 1, 6, 8, 9, 0xfff8, 0xffff })
      bytes_at(emit, s, ext + 2, ("extension %d, option"):format(n), { 0, 1, 5, 0x3f, 0x40, 0x80, 0xc2, 0xff })
      bytes_at(emit, s, ext + 3, ("extension %d, option length"):format(n), { 0, 1, 4, 5, 255 })
   end
end

local function tcp(entry, emit)
   local s, at = entry.frame, entry.l4
   for offset = 0, 15 do emit("data offset " .. offset, put(s, at + 12, u8(offset * 16))) end
   bytes_at(emit, s, at + 13, "flags", { 0, 1, 2, 3, 4, 6, 0x10, 0x12, 0x14, 0x29, 0x3f, 0xff })
   emit("ports 0", put(s, at, u32(0)))
   if #s > at + 24 then
      for _, kind in ipairs { 2, 3, 4, 5, 8, 254 } do
         for _, length in ipairs { 0, 1, 2, 4, 20, 21, 255 } do
            emit(("option %d of length %d"):format(kind, length), put(s, at + 20, u8(kind) .. u8(length)))
         end
      end
   end
   words_at(emit, s, at + 16, "checksum", { 0, 0xffff })
   if entry.v4 then
      for _, kind in ipairs { 2, 3, 8 } do
         local short = put(s:sub(1, at + 12), entry.v4 + 2, u16(at + 24 - entry.v4)) .. "\96" .. s:sub(at + 14, at + 20)
         emit(("ends after the kind of option %d"):format(kind), M.mend(short .. "\1\1\1" .. u8(kind), entry.v4))
      end
   end
end

local function udp(entry, emit)
   local s, at = entry.frame, entry.l4
   words_at(emit, s, at + 4, "UDP length", around(#s - at))
   words_at(emit, s, at + 4, "UDP length", { 7, 8, 9 })
   words_at(emit, s, at + 6, "checksum", { 0, 0xffff })
   emit("ports 0", put(s, at, u32(0)))
   words_at(emit, s, at + 2, "destination port", { 4789, 4790, 0xffff })
   bytes_at(emit, s, at + 8, "first byte above", { 0, 8, 255 })
end

local ICMP_TYPES = { 0, 1, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 40, 127, 128, 255 }
local ICMP6_TYPES = { 0, 1, 2, 3, 4, 100, 127, 128, 129, 130, 133, 134, 135, 136, 137, 143, 255 }

local function icmp(entry, emit_raw)
   local s, at = entry.frame, entry.l4
   local function emit(what, bytes) emit_raw(what, M.mend_icmp(bytes, entry)) end
   bytes_at(emit, s, at, "type", entry.proto == 58 and ICMP6_TYPES or ICMP_TYPES)
   bytes_at(emit, s, at + 1, "code", { 1, 2, 4, 13, 16, 255 })
   words_at(emit, s, at + 6, "low half of the second word", { 0, 1, 67, 68, 1279, 1280, 0xffff })
   if entry.proto == 58 then
      bytes_at(emit, s, at + 24, "option", { 0, 1, 2, 5, 255 })
      bytes_at(emit, s, at + 25, "option length", { 0, 2, 3, 31, 255 })
      if at + 24 <= #s then
         emit("target multicast", put(s, at + 8, frame.ip6 "ff02::1"))
         emit("target unspecified", put(s, at + 8, frame.ip6 "::"))
      end
   end
end

-- The header inside an error or a tunnel; an IPv4 header gets a right checksum, so that it is believed.
local function inner(entry, emit_raw)
   local s, at = entry.frame, entry.inner
   if at + 20 > #s then return end
   local six = math.floor(s:byte(at + 1) / 16) == 6
   local in_icmp = entry.proto == 1 or entry.proto == 58
   local function emit(what, bytes)
      bytes = six and bytes or M.mend(bytes, at)
      emit_raw("inner " .. what, in_icmp and M.mend_icmp(bytes, entry) or bytes)
   end
   for _, first in ipairs { 0, 0x40, 0x44, 0x46, 0x4f, 0x50, 0x55, 0x60, 0x6f, 0xf5 } do
      emit("first byte " .. first, put(s, at, u8(first)))
   end
   words_at(emit, s, at + (six and 4 or 2), "length", around(#s - at))
   bytes_at(emit, s, at + (six and 6 or 9), "protocol", NEXT_HEADERS)
   if not six then
      words_at(emit, s, at + 6, "flags and offset", { 1, 0x2000, 0x1fff, 0xffff })
      emit("addresses exchanged", put(s, at + 12, s:sub(at + 17, at + 20) .. s:sub(at + 13, at + 16)))
   end
end

local function gre(entry, emit)
   local s, at = entry.frame, entry.l4
   for flags = 0, 15 do emit("GRE flags " .. flags, put(s, at, u8(flags * 16))) end
   bytes_at(emit, s, at + 1, "GRE version", { 1, 2, 7, 0x80 })
   words_at(emit, s, at + 2, "GRE protocol", { 0, 0x6558, 0x86dd, 0x880b, 0xffff })
end

local function mpls(entry, emit)
   local s, at = entry.frame, entry.mpls
   bytes_at(emit, s, at + 2, "bottom of stack", { 0, 1 })
   bytes_at(emit, s, at + 3, "MPLS TTL", { 0, 1 })
   emit("label 0", put(s, at, u32(0x00000140)))
end

local TRANSPORT = { [1] = icmp, [6] = tcp, [17] = udp, [47] = gre, [58] = icmp }

-- Lengths to cut a frame to: each one up to 160 bytes and the last ones; of long frames, steps between.
local function cuts(length, emit)
   for n = 0, length - 1 do
      if n <= 160 or n > length - 12 or n % 101 == 0 then emit(n) end
   end
end

--- Everything that is made of one valid frame, that frame excluded. Cut frames come twice where there is an
--- IP header: as they are, and with an IP length that fits again, so that the layer above is the one cut short.
---@param entry tideway.spec.entry
---@param emit fun(name: string, frame: string)
function M.of(entry, emit)
   local s, name = entry.frame, entry.name
   local function lie(what, bytes)
      if bytes ~= s then emit(name .. ": " .. what, bytes) end
   end
   cuts(#s, function(n)
      local cut = s:sub(1, n)
      emit(("%s: cut to %d bytes"):format(name, n), cut)
      if entry.v4 and n >= entry.v4 + 20 and n < entry.v4 + get16(s, entry.v4 + 2) then
         emit(("%s: cut to %d bytes, total length fits"):format(name, n),
            M.mend(put(cut, entry.v4 + 2, u16(n - entry.v4)), entry.v4))
      elseif entry.v6 and n >= entry.v6 + 40 then
         cut = put(cut, entry.v6 + 4, u16(n - entry.v6 - 40))
         emit(("%s: cut to %d bytes, payload length fits"):format(name, n), cut)
      end
   end)
   ethernet(entry, lie)
   if entry.arp then arp(entry, lie) end
   if entry.v4 then ipv4(entry, lie) end
   if entry.v6 then ipv6(entry, lie) end
   if entry.mpls then mpls(entry, lie) end
   if entry.l4 and TRANSPORT[entry.proto] then TRANSPORT[entry.proto](entry, lie) end
   if entry.inner then inner(entry, lie) end
end

local whole

--- The whole corpus: valid frames and what is made of them, without repetitions.
---@return { name: string, frame: string, port: string, valid: boolean }[]
function M.all()
   if whole then return whole end
   local seen = {}
   whole = {}
   for _, entry in ipairs(corpus.valid()) do
      local function add(name, bytes, valid)
         if not seen[bytes] then
            seen[bytes] = true
            whole[#whole + 1] = { name = name, frame = bytes, port = entry.port, valid = valid }
         end
      end
      add(entry.name, entry.frame, true)
      M.of(entry, function(name, bytes) add(name, bytes, false) end)
   end
   return whole
end

return M
