-- SPDX-License-Identifier: BSD-3-Clause
-- The headers of a packet as fields with values, and what differs between two sights of it.

local ffi = require "ffi"
local address = require "tideway.packet.address"
local header = require "tideway.packet.header"
require "tideway.packet"

local M = {}

---@class tideway.live.header
---@field name string "eth", "vlan", "vlan2", "ipv4", ...
---@field offset integer
---@field size integer
---@field fields { name: string, value: string }[]

-- Headers in the order in which they stand, by the method of a packet that finds them.
local VIEWS = {
   { "eth" }, { "vlan", 1 }, { "vlan", 2, as = "vlan2" }, { "arp" }, { "mpls", 1 }, { "ipv4" }, { "ipv6" },
   { "ipv6_fragment" }, { "icmp" }, { "icmp6" }, { "nd" }, { "tcp" }, { "udp" }, { "sctp" }, { "gre" },
}

local HEX = { checksum = true, type = "eth", tci = true, flags = true, entry = true, verification_tag = true }

-- The fields to show of a header: parts instead of the whole they are part of, of overlapping parts the first.
local shown = {}

local function overlaps(a, b)
   local from_a, from_b = a.offset * 8 + a.bit, b.offset * 8 + b.bit
   return from_a < from_b + b.width and from_b < from_a + a.width
end

local function shown_of(name, layout)
   if shown[name] then return shown[name] end
   local whole, list = {}, {}
   for _, field in ipairs(layout.fields) do
      if field.of then whole[field.of] = true end
   end
   for _, field in ipairs(layout.fields) do
      local fresh = field.name ~= "_" and not whole[field.name]
      for _, known in ipairs(list) do fresh = fresh and not overlaps(known, field) end
      if fresh then list[#list + 1] = field end
   end
   shown[name] = list
   return list
end

local function value_of(name, view, field)
   local value = view[field.name]
   if field.type == "mac" then return address.mac_string(value) end
   if field.type == "ip4" then return address.ip4_string(value) end
   if field.type == "ip6" then return tostring(value) end
   if type(value) == "cdata" then return (tostring(value):gsub("U?LL$", "")) end
   local hex = HEX[field.name]
   if hex == true or hex == name then return ("0x%04x"):format(value) end
   return ("%.0f"):format(value)
end

local function decode(pkt, entry, into)
   local method, n = entry[1], entry[2]
   local view = pkt[method](pkt, n)
   if view == nil then return end
   local offset = tonumber(ffi.cast("uint8_t *", view) - pkt.data)
   for _, known in ipairs(into) do -- nd is also icmp6
      if known.offset == offset then return end
   end
   local name, fields = entry.as or method, {}
   local layout = header.all[method]
   for i, field in ipairs(shown_of(method, layout)) do
      fields[i] = { name = field.name, value = value_of(method, view, field) }
   end
   into[#into + 1] = { name = name, offset = offset, size = ffi.sizeof(view), fields = fields }
end

--- The headers of a packet.
---@param pkt tideway.pkt
---@return tideway.live.header[]
function M.headers(pkt)
   local list = {}
   for _, entry in ipairs(VIEWS) do decode(pkt, entry, list) end
   return list
end

local function ends_of(headers)
   local seen = {}
   for _, h in ipairs(headers) do seen[h.name] = h end
   local ip = seen.ipv4 or seen.ipv6
   return seen, ip
end

local function values(h)
   local out = {}
   for _, field in ipairs(h.fields) do out[field.name] = field.value end
   return out
end

--- A packet in a few words: "10.0.0.2:4242 > 10.0.0.3:80 tcp".
---@param headers tideway.live.header[]
---@return string
function M.summary(headers)
   local seen, ip = ends_of(headers)
   if seen.arp then
      local arp = values(seen.arp)
      return ("arp %s, %s asks for %s"):format(arp.op == "1" and "request" or "reply", arp.spa, arp.tpa)
   end
   if not ip then
      local eth = seen.eth and values(seen.eth)
      return eth and ("%s > %s type %s"):format(eth.src, eth.dst, eth.type) or "no Ethernet frame"
   end
   ip = values(ip)
   local l4 = seen.tcp or seen.udp or seen.sctp
   if l4 then
      local ports = values(l4)
      local shape = seen.ipv6 and "[%s]:%s > [%s]:%s %s" or "%s:%s > %s:%s %s"
      return shape:format(ip.src, ports.src_port, ip.dst, ports.dst_port, l4.name)
   end
   local other = seen.icmp or seen.icmp6 or seen.gre
   local text = other and other.name or "protocol " .. (ip.protocol or ip.next_header)
   if seen.icmp or seen.icmp6 then text = ("%s type %s"):format(text, values(other).type) end
   return ("%s > %s %s"):format(ip.src, ip.dst, text)
end

---@class tideway.live.change
---@field field string "ipv4.ttl", "length", "payload"
---@field before? string nil: there was none
---@field after? string nil: there is none any more

local function compare(before, after, changes)
   local old = before and values(before) or {}
   for _, field in ipairs((after or before).fields) do
      local was = old[field.name]
      local is = after and field.value or nil
      if was ~= is then
         changes[#changes + 1] = { field = ("%s.%s"):format((after or before).name, field.name), before = was,
            after = is }
      end
   end
end

--- Header fields that differ between two sights of a packet.
---@param before tideway.live.header[]
---@param after tideway.live.header[]
---@return tideway.live.change[]
function M.changes(before, after)
   local changes, old, new = {}, {}, {}
   for _, h in ipairs(before) do old[h.name] = h end
   for _, h in ipairs(after) do
      new[h.name] = h
      compare(old[h.name], h, changes)
   end
   for _, h in ipairs(before) do
      if not new[h.name] then compare(h, nil, changes) end
   end
   return changes
end

--- Bytes behind the headers.
---@param headers tideway.live.header[]
---@return integer offset
function M.payload_offset(headers)
   local stop = 0
   for _, h in ipairs(headers) do stop = math.max(stop, h.offset + h.size) end
   return stop
end

return M
