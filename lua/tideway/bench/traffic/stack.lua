-- SPDX-License-Identifier: BSD-3-Clause
-- The headers of a template in their order, with their places: what a script says about protocols becomes a list of
-- layers, tunnels included.

local dns = require "tideway.bench.traffic.dns"
local protocols = require "tideway.bench.traffic.protocols"
local variation = require "tideway.bench.traffic.variation"
require "tideway.packet"

local M = {}

---@class tideway.bench.layer
---@field protocol string name
---@field label string for messages: "ipv4", "inner.ipv4"
---@field at integer offset in the frame
---@field size integer bytes
---@field header? tideway.header nil: bytes
---@field bytes? string
---@field values table<string, any>
---@field said table<string, any> what the script says, under the names it uses
---@field ip? tideway.bench.layer of a transport header: what it is in

---@class tideway.bench.stack
---@field layers tideway.bench.layer[]
---@field size integer bytes of all headers
---@field closed boolean nothing may follow in the last header's payload: the message ends with it
---@field prefix string for labels

local Stack = {}
Stack.__index = Stack

function Stack:add(protocol, given, name)
   local label = self.prefix .. (name or protocol)
   local values, extra = protocols.values(protocol, given, label)
   local type = protocols.by_name[protocol].header
   local layer = {
      protocol = protocol, label = label, at = self.size, size = type.size, header = type, values = values,
      said = given == true and {} or given,
   }
   self.layers[#self.layers + 1] = layer
   self.size = self.size + type.size
   return layer, extra
end

function Stack:bytes(label, bytes)
   self.layers[#self.layers + 1] = {
      protocol = "bytes", label = self.prefix .. label, at = self.size, size = #bytes, bytes = bytes, values = {},
      said = {},
   }
   self.size = self.size + #bytes
end

-- Tells the layer in front what follows, unless the script said so.
local function announce(layer, value)
   local field = layer.protocol == "ipv4" and "protocol" or layer.protocol == "ipv6" and "next_header"
      or layer.protocol == "gre" and "protocol" or "type"
   if layer.protocol ~= "mpls" and layer.values[field] == nil then layer.values[field] = value end
end

-- { {}, {} } is a list, {} and { id = 5 } are one of it.
local function list_of(given)
   return type(given) == "table" and given[1] ~= nil and given or { given }
end

function Stack:tags(spec, last)
   if spec.vlan ~= nil and spec.vlan ~= false then
      local tags = list_of(spec.vlan)
      for i, tag in ipairs(tags) do
         if type(tag) == "number" or variation.is(tag) then tag = { id = tag } end
         -- IEEE 802.1ad: the outer one of two is the provider's.
         announce(last, (i == 1 and #tags > 1) and 0x88a8 or 0x8100)
         last = self:add("vlan", tag)
      end
   end
   if spec.mpls ~= nil and spec.mpls ~= false then
      local labels = list_of(spec.mpls)
      announce(last, 0x8847)
      for i, label in ipairs(labels) do
         if type(label) == "number" or variation.is(label) then label = { label = label } end
         last = self:add("mpls", label)
         last.values.bos = i == #labels and 1 or 0
      end
   end
   return last
end

local TRANSPORTS = { "tcp", "udp", "icmp", "icmp6", "gre" }
local NUMBER = { tcp = 6, udp = 17, icmp = 1, icmp6 = 58, gre = 47 }

-- Which header stands above IP; nil: none.
function Stack:transport(spec, ip)
   local found
   for _, name in ipairs(TRANSPORTS) do
      if spec[name] then
         if found then
            error(("%s%s and %s%s: a packet has one of them; a tunnel takes the other as its inner packet"):format(
               self.prefix, found, self.prefix, name), 0)
         end
         found = name
      end
   end
   for _, above in ipairs { "dns", "vxlan" } do
      if spec[above] then
         if found and found ~= "udp" then
            error(("%s%s is carried by udp, not by %s"):format(self.prefix, above, found), 0)
         end
         found = "udp"
      end
   end
   if found == "icmp" and ip.protocol == "ipv6" or found == "icmp6" and ip.protocol == "ipv4" then
      error(("%s%s is not carried by %s; write %s = { ... }"):format(self.prefix, found, ip.protocol,
         found == "icmp" and "icmp6" or "icmp"), 0)
   end
   if not found and not (ip.said.protocol or ip.said.next_header) then found = "udp" end
   return found
end

local function inner_of(self, label, inner)
   if inner == nil then inner = {} end
   if type(inner) ~= "table" then
      error(("%s%s.inner must be a table that says what the packet in the tunnel is, not %s"):format(self.prefix, label,
         tostring(inner)), 0)
   end
   protocols.check_words(inner, self.prefix .. label .. ".inner", true)
   return inner
end

function Stack:inside(inner)
   self.prefix = self.prefix .. "inner."
   return inner
end

function Stack:gre(layer, extra)
   if extra.key ~= nil then
      layer.values.has_key = 1
      self:add("key", { key = extra.key }, "gre")
   end
   if extra.inner == nil then return end
   local inner = self:inside(inner_of(self, "gre", extra.inner))
   if inner.eth or inner.vlan or inner.mpls then
      announce(layer, 0x6558)
      return self:frame(inner)
   end
   announce(layer, inner.ipv6 and 0x86dd or 0x0800)
   return self:packet(inner, layer)
end

function Stack:udp(spec, layer)
   if spec.vxlan then
      if layer.said.dst == nil and layer.said.dst_port == nil then layer.values.dst_port = 4789 end
      layer.values.no_checksum = true -- RFC 7348 5: should be zero
      local vxlan, extra = self:add("vxlan", spec.vxlan)
      vxlan.values.has_vni = 1
      return self:frame(self:inside(inner_of(self, "vxlan", extra.inner)))
   end
   if spec.dns then
      if layer.said.dst == nil and layer.said.dst_port == nil then layer.values.dst_port = 53 end
      local query, extra = self:add("dns", spec.dns)
      query.values.questions = 1
      self:bytes("dns", dns.question(self.prefix .. "dns", extra.name, extra.type))
      self.closed = true
   end
end

function Stack:tcp(layer, extra)
   layer.values.data_offset = 5
   if extra.mss == nil then return end
   layer.values.data_offset = 6
   self:add("mss", { kind = 2, length = 4, mss = extra.mss }, "tcp")
end

-- IP and what it carries.
function Stack:packet(spec, last)
   if spec.ipv4 and spec.ipv6 then
      error(("%sipv4 and %sipv6: a packet has one of them; vxlan and gre take the other as inner packet"):format(
         self.prefix, self.prefix), 0)
   end
   local name = spec.ipv6 and "ipv6" or "ipv4"
   announce(last, name == "ipv6" and 0x86dd or 0x0800)
   local ip = self:add(name, spec[name] or {})
   ip.values.version = name == "ipv6" and 6 or 4
   if name == "ipv4" then ip.values.ihl = 5 end
   local transport = self:transport(spec, ip)
   if not transport then return end
   announce(ip, NUMBER[transport])
   local layer, extra = self:add(transport, spec[transport] or {})
   layer.ip = ip
   if transport == "tcp" then
      self:tcp(layer, extra)
   elseif transport == "udp" then
      self:udp(spec, layer)
   elseif transport == "gre" then
      self:gre(layer, extra)
   end
end

local ABOVE = { "ipv4", "ipv6", "udp", "tcp", "icmp", "icmp6", "gre", "vxlan", "dns" }

-- Ethernet and what it carries.
function Stack:frame(spec)
   local eth = self:add("eth", spec.eth or {})
   local last = self:tags(spec, eth)
   local above = false
   for _, name in ipairs(ABOVE) do above = above or spec[name] end
   -- An EtherType of one's own, and nothing said about what it carries.
   if not above and eth.said.type ~= nil then return end
   self:packet(spec, last)
end

--- The headers that a script describes.
---@param spec table what bench.packets was given
---@return tideway.bench.stack
function M.read(spec)
   protocols.check_words(spec, "packets", false)
   local stack = setmetatable({ layers = {}, size = 0, closed = false, prefix = "" }, Stack)
   stack:frame(spec)
   return stack
end

--- Names of the layers, for messages.
---@param stack tideway.bench.stack
---@return string
function M.names(stack)
   local list = {}
   for _, layer in ipairs(stack.layers) do
      if layer.protocol ~= "bytes" then list[#list + 1] = layer.protocol end
   end
   return table.concat(list, ", ")
end

return M
