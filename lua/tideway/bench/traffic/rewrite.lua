-- SPDX-License-Identifier: BSD-3-Clause
-- Rewrites frames of a capture while it is read: addresses, ports and the like, with the checksums kept right.

local bit = require "bit"
local address = require "tideway.packet.address"
local header = require "tideway.packet.header"
local nearest = require "tideway.live.nearest"
local range = require "tideway.bench.traffic.range"
local variation = require "tideway.bench.traffic.variation"
require "tideway.packet"

local M = {}

-- ---- what can be rewritten ----

local function ip4_field(name)
   return function(pkt, value)
      local ip = pkt:ipv4()
      ip[name] = value
      ip:update_checksum()
   end
end

local function ip6_field(name) return function(pkt, value) pkt:ipv6()[name] = value end end

local PORTS = {
   src = { "src_port", function(pkt, value) pkt:set_src_port(value) end },
   dst = { "dst_port", function(pkt, value) pkt:set_dst_port(value) end },
}

-- By protocol and name: the field of the header, how it is written.
local WRITE = {
   eth = {
      src = { "src", function(pkt, value) pkt:eth().src = value end },
      dst = { "dst", function(pkt, value) pkt:eth().dst = value end },
   },
   vlan = {
      id = { "vid", function(pkt, value) pkt:vlan().vid = value end },
      pcp = { "pcp", function(pkt, value) pkt:vlan().pcp = value end },
   },
   ipv4 = {
      src = { "src", function(pkt, value) pkt:set_ipv4_src(value) end },
      dst = { "dst", function(pkt, value) pkt:set_ipv4_dst(value) end },
      ttl = { "ttl", ip4_field "ttl" }, dscp = { "dscp", ip4_field "dscp" }, id = { "id", ip4_field "id" },
   },
   ipv6 = {
      src = { "src", function(pkt, value) pkt:set_ipv6_src(value) end },
      dst = { "dst", function(pkt, value) pkt:set_ipv6_dst(value) end },
      hop_limit = { "hop_limit", ip6_field "hop_limit" }, dscp = { "dscp", ip6_field "dscp" },
   },
   udp = PORTS, tcp = PORTS,
}

local function names(set)
   local list = {}
   for name in pairs(set) do list[#list + 1] = name end
   table.sort(list)
   return list
end

-- ---- the new value ----

-- Keeps the host part and exchanges the network: "10.0.0.0/8".
local function mapped(what, text)
   local prefix, err = address.parse_prefix(text)
   local family = prefix and prefix.family
   if not prefix then error(("%s: %s"):format(what.label, err), 0) end
   if family ~= (what.kind == "ip6" and 6 or what.kind == "ip4" and 4) then
      error(("%s: %q is an IPv%d prefix, which this cannot take"):format(what.label, text, family), 0)
   end
   local network = prefix.address
   if family == 4 then
      local hosts = 2 ^ (32 - prefix.length)
      return function(_, old) return network + old % hosts end
   end
   return function(_, old)
      local upper = old:masked(prefix.length)
      return address.in6(bit.bor(network.q0, bit.bxor(old.q0, upper.q0)),
         bit.bor(network.q1, bit.bxor(old.q1, upper.q1)))
   end
end

-- Numbers from 0 to n - 1, the same ones in each run (Park and Miller).
local function chance(n)
   local state = 20070101
   local function draw()
      state = state * 16807 % 2147483647
      return state / 2147483647
   end
   return function() return math.floor((draw() + draw() / 2147483647) % 1 * n) end
end

local function varied(what, given)
   if given.how == "zipf" or given.how == "flow" or given.order == "zipf" then
      error(("%s: while a capture is read, values can be bench.count, random or list"):format(what.label), 0)
   end
   if what.kind == "ip6" and given.how ~= "list" then
      error(("%s: while a capture is read, IPv6 addresses can be one, a prefix or bench.list"):format(what.label), 0)
   end
   local resolved = variation.resolve(given, what)
   local n, every = resolved.n, resolved.index.every
   local at_random = resolved.index.kind == "random" and chance(n)
   local function position(k) return at_random and at_random() or math.floor(k / every) % n end
   if resolved.list then
      local values = {}
      for i, value in ipairs(given.values) do values[i] = range.value(what, value) end
      return function(k) return values[1 + position(k)] end
   end
   return function(k) return resolved.first + resolved.step * position(k) end
end

local function value_of(what, given)
   if variation.is(given) then return varied(what, given) end
   if type(given) == "string" and given:find("/", 1, true) then return mapped(what, given) end
   local value = range.value(what, given)
   return function() return value end
end

-- ---- a step for each field ----

local function step(protocol, name, given)
   local known = WRITE[protocol][name]
   if not known then
      error(("rewrite.%s: there is no %q%s"):format(protocol, tostring(name),
         nearest.hint(tostring(name), names(WRITE[protocol]))), 0)
   end
   local field, write = known[1], known[2]
   local what = range.what(("rewrite.%s.%s"):format(protocol, name), header.all[protocol].fields[field])
   local value, count = value_of(what, given), 0
   return function(pkt)
      local view = pkt[protocol](pkt)
      if not view then return end
      write(pkt, value(count, view[field]))
      count = count + 1
   end
end

--- A function that rewrites a packet, from what a script says.
---@param given table<string, table>|fun(pkt: tideway.pkt, number: integer)|nil
---@return fun(pkt: tideway.pkt, number: integer)?
function M.new(given)
   if given == nil or type(given) == "function" then return given end
   if type(given) ~= "table" then
      error(("rewrite: a table such as { eth = { dst = \"02:00:00:00:00:02\" } } or a function(pkt), not %s"):format(
         tostring(given)), 0)
   end
   local steps = {}
   for protocol, values in pairs(given) do
      if not WRITE[protocol] then
         error(("rewrite: there is no %q%s"):format(tostring(protocol),
            nearest.hint(tostring(protocol), names(WRITE))), 0)
      end
      if type(values) ~= "table" then
         error(("rewrite.%s must be a table of fields, not %s"):format(protocol, tostring(values)), 0)
      end
      for name, value in pairs(values) do steps[#steps + 1] = step(protocol, name, value) end
   end
   return function(pkt)
      for _, one in ipairs(steps) do one(pkt) end
   end
end

return M
