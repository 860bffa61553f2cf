-- SPDX-License-Identifier: BSD-3-Clause
-- router: checks the configuration and turns it into plain tables of numbers; runs in the control VM only.

local bit = require "bit"
local tw = require "tideway"
local fib = require "tideway.nf.router.fib"

local floor = math.floor

local M = {}

M.PARAMS = {
   ports = { type = "table", required = true, doc = "a list of { port =, addresses = { \"10.0.0.1/24\" } }" },
   routes = { type = "table", default = {}, doc = "a list of { prefix, via = address } or { prefix, port = port }" },
   route_file = { type = "string", doc = "more routes, one \"PREFIX via ADDRESS\" a line" },
   neighbours = { type = "table", default = {}, doc = "link-layer addresses that are not asked for: { [ip] = mac }" },
   max_neighbours = {
      type = "number", default = 1024, min = 1, max = 65536, doc = "neighbours of all ports that are known at a time",
   },
   reachable = {
      type = "number", default = 60, min = 1, max = 86400, doc = "seconds until a neighbour is asked again",
   },
   icmp_rate = { type = "number", default = 100, min = 0, max = 1e6, doc = "ICMP errors a second, 0 for none" },
   strict_source = { type = "boolean", default = false, doc = "drop what comes in by another port than its source" },
   name = { type = "string", doc = "prefix of the table names" },
}

-- RFC 791 3.1, RFC 8200 5.
local MTU_MIN, MTU_MIN_6, MTU_MAX = 68, 1280, 65535
local PORTS_MAX = 64 -- of an engine

local function fail(...) error("router: " .. string.format(...), 0) end

--- A prefix or address from text.
---@param text any
---@param where string what it is, for the message
---@return { family: integer, address: any, length: integer, text: string } address is a number or a struct tw_in6
function M.prefix(text, where)
   if type(text) ~= "string" then
      fail("%s: not a prefix: %s (a %s); write it as a string such as \"10.0.0.0/8\"", where, tostring(text),
         type(text))
   end
   local host, slash, digits = text:match "^([^/]*)(/?)(.*)$"
   local family = host:find(":", 1, true) and 6 or 4
   local ok, address = pcall(family == 6 and tw.ip6 or tw.ip4, host)
   if not ok then fail("%s: not a prefix: %q: %s", where, text, (address:gsub("^[^\n]-:%d+: ", ""))) end
   local max = family == 6 and 128 or 32
   local length = slash == "" and max or tonumber(digits:match "^%d%d?%d?$")
   if not length or length > max then
      fail("%s: not a prefix: %q: the length must be a number from 0 to %d", where, text, max)
   end
   return { family = family, address = address, length = length, text = text }
end

local function key_of(p) return p.family == 6 and fib.key6(p.address) or p.address end

--- The prefix with the bits behind its length cleared.
---@return table prefix as M.prefix() gives it
function M.network(p, length)
   length = length or p.length
   local address
   if p.family == 6 then
      address = p.address:masked(length)
   else
      address = p.address - p.address % 2 ^ (32 - length)
   end
   return { family = p.family, address = address, length = length }
end

--- Does the prefix `net` contain the address of `p`?
function M.contains(net, p)
   if net.family ~= p.family then return false end
   return key_of(M.network(p, net.length)) == key_of(M.network(net))
end

local RESERVED = {
   { "0.0.0.0/8", "\"this network\"" }, { "127.0.0.0/8", "loopback" }, { "224.0.0.0/4", "multicast" },
   { "240.0.0.0/4", "reserved" }, { "::/128", "the unspecified address" }, { "::1/128", "loopback" },
   { "ff00::/8", "multicast" },
}

local function check_reserved(p, where)
   for _, entry in ipairs(RESERVED) do
      local net = M.prefix(entry[1], "reserved")
      if p.length >= net.length and M.contains(net, p) then
         fail("%s is %s: %s is %s and is not routed (RFC 1812 5.3.7, RFC 4291)", where, p.text, entry[1], entry[2])
      end
   end
end

-- ---- ports ----

local function port_of(value, where, known)
   local index = type(value) == "table" and value.index or value
   if type(index) ~= "number" or index % 1 ~= 0 or index < 0 or index >= PORTS_MAX then
      fail("%s is %s; give what tw.port returned", where, tostring(value))
   end
   if known and not known[index] then
      fail("%s is %s, which is not in ports; add { port = ..., addresses = { ... } } for it", where, tostring(value))
   end
   return index
end

-- A locally administered address for devices that have none (in-process ports).
local function mac_of(entry, index, where)
   if entry.mac ~= nil then
      local ok, mac = pcall(tw.mac, entry.mac)
      if not ok or type(mac) ~= "number" or mac == 0 or floor(mac / 2 ^ 40) % 2 == 1 then
         fail("%s.mac is %s; write the address of one station, such as \"02:00:00:00:00:01\"", where,
            tostring(entry.mac))
      end
      return mac
   end
   local mac = type(entry.port) == "table" and entry.port:mac() or 0
   return mac ~= 0 and mac or 0x027477000000 + index
end

local function check_keys(entry, allowed, where)
   for key in pairs(entry) do
      if not allowed[key] then
         local list = {}
         for name in pairs(allowed) do list[#list + 1] = tostring(name) end
         table.sort(list)
         fail("%s has no %q; it can have %s", where, tostring(key), table.concat(list, ", "))
      end
   end
end

local function add_address(out, port, text, where)
   local p = M.prefix(text, where)
   check_reserved(p, where)
   local key = key_of(p)
   local other = out.own[key]
   if other then fail("%s is %s, which port %s has already", where, text, other.name) end
   local net = M.network(p)
   if p.family == 4 and p.length < 31 and
      (p.address == net.address or p.address == net.address + 2 ^ (32 - p.length) - 1) then
      fail("%s is %s: that is the %s address of the network, not a host's", where, text,
         p.address == net.address and "network" or "broadcast")
   end
   out.own[key] = port
   port.own[key] = true
   local list = p.family == 6 and port.v6 or port.v4
   list[#list + 1] = { address = p.address, length = p.length, family = p.family, network = net.address }
end

local function check_mtu(port, mtu, where)
   local min = #port.v6 > 0 and MTU_MIN_6 or MTU_MIN
   if type(mtu) ~= "number" or mtu % 1 ~= 0 or mtu < min or mtu > MTU_MAX then
      fail("%s.mtu is %s; it must be from %d%s to %d bytes", where, tostring(mtu), min,
         min == MTU_MIN_6 and " (RFC 8200, because the port has IPv6 addresses)" or "", MTU_MAX)
   end
   return mtu
end

-- The link-local address made from a MAC with a modified EUI-64 (RFC 4291 appendix A).
local function link_local_of(mac)
   local hex = ("%06x%06x"):format(floor(mac / 2 ^ 24), mac % 2 ^ 24)
   local first = bit.bxor(tonumber(hex:sub(1, 2), 16), 2)
   return tw.ip6(("fe80::%02x%s:%sff:fe%s:%s"):format(first, hex:sub(3, 4), hex:sub(5, 6), hex:sub(7, 8), hex:sub(9)))
end

-- What the port answers for besides its addresses: those that RFC 4291 2.8 requires of a router.
local function add_groups(port)
   local function own(address) port.own[fib.key6(address)] = true end
   own(port.link_local)
   own(port.link_local:solicited_node())
   own(tw.ip6 "ff02::1")
   own(tw.ip6 "ff02::2")
   for _, a in ipairs(port.v6) do
      own(a.address:solicited_node())
      if a.length < 127 then -- subnet-router anycast, 2.6.1
         own(a.network)
         own(a.network:solicited_node())
      end
   end
end

local PORT_KEYS = { port = true, addresses = true, mac = true, mtu = true }

local function read_ports(out, list)
   if #list == 0 then fail("ports is empty; a router needs at least one { port =, addresses = { ... } }") end
   for i, entry in ipairs(list) do
      local where = ("ports[%d]"):format(i)
      if type(entry) ~= "table" then fail("%s is %s; write { port =, addresses = { ... } }", where, tostring(entry)) end
      check_keys(entry, PORT_KEYS, where)
      local index = port_of(entry.port, where .. ".port")
      if out.ports[index] then fail("%s.port: the port stands in ports twice; list all its addresses once", where) end
      local port = {
         index = index, name = type(entry.port) == "table" and entry.port.name or tostring(index), v4 = {}, v6 = {},
         own = {}, -- addresses that the port answers for
      }
      local list_of = entry.addresses
      if type(list_of) ~= "table" or #list_of == 0 then
         fail("%s.addresses is %s; write a list such as { \"10.0.0.1/24\" }", where,
            type(list_of) == "table" and "empty" or tostring(list_of))
      end
      for k, text in ipairs(list_of) do add_address(out, port, text, ("%s.addresses[%d]"):format(where, k)) end
      port.mac = mac_of(entry, index, where)
      port.mtu = check_mtu(port, entry.mtu == nil and 1500 or entry.mtu, where)
      if #port.v6 > 0 then
         port.link_local = link_local_of(port.mac)
         add_groups(port)
      end
      out.ports[index] = port
      out.order[i] = port
   end
end

-- ---- routes ----

--- The port whose network an address is on: the longest prefix that contains it.
---@return table? port
---@return integer? length
function M.on_link(ports_by_index, p)
   local best, length
   for _, port in pairs(ports_by_index) do
      for _, a in ipairs(p.family == 6 and port.v6 or port.v4) do
         if (not length or a.length > length) and M.contains(a, p) then best, length = port, a.length end
      end
   end
   return best, length
end

local function link_local(p)
   return p.family == 6 and M.contains(M.prefix("fe80::/10", "link-local"), p)
end

local function next_hop(out, r, p, where)
   local via = M.prefix(r.via, where .. ": via")
   if via.family ~= p.family then
      fail("%s: %s via %s: the prefix is IPv%d and the next hop IPv%d", where, p.text, r.via, p.family, via.family)
   end
   if r.via:find("/", 1, true) then fail("%s: via is %q; write an address without a length", where, r.via) end
   if out.own[key_of(via)] then fail("%s: via %s is an address of this router itself", where, r.via) end
   local index = r.port ~= nil and port_of(r.port, where .. ": port", out.ports) or nil
   if link_local(via) then
      if not index then fail("%s: via %s is link-local; say by which port: port = ...", where, r.via) end
      return via, index
   end
   local on = M.on_link(out.ports, via)
   if not on then
      fail("%s: via %s is on no connected network; next hops must be inside the prefix of one of the ports' addresses",
         where, r.via)
   end
   if index and index ~= on.index then
      fail("%s: via %s is on the network of port %s, not of port %s", where, r.via, on.name, out.ports[index].name)
   end
   return via, on.index
end

local ROUTE_KEYS = { [1] = true, via = true, port = true }

local function add_route(out, r, where)
   if type(r) ~= "table" then fail("%s is %s; write { \"10.0.0.0/8\", via = \"192.0.2.1\" }", where, tostring(r)) end
   check_keys(r, ROUTE_KEYS, where)
   local p = M.prefix(r[1], where)
   if p.length > 0 then check_reserved(p, where) end
   if link_local(p) and p.length >= 10 then fail("%s is %s: link-local addresses are not routed", where, p.text) end
   local net = M.network(p)
   if key_of(net) ~= key_of(p) then
      fail("%s: %q has bits set behind its length; the network is \"%s/%d\"", where, p.text,
         p.family == 6 and tw.ip6_string(net.address) or tw.ip4_string(net.address), p.length)
   end
   for _, port in pairs(out.ports) do
      for _, a in ipairs(p.family == 6 and port.v6 or port.v4) do
         if a.length == p.length and M.contains(a, p) then
            fail("%s: %s is a connected network, of port %s", where, p.text, port.name)
         end
      end
   end
   local route = { family = p.family, address = net.address, length = p.length, text = p.text }
   if r.via ~= nil then
      local via, index = next_hop(out, r, p, where)
      route.via, route.via_text, route.port = via.address, r.via, index
   elseif r.port ~= nil then
      route.port = port_of(r.port, where .. ": port", out.ports)
   else
      fail("%s: %s has neither via = \"address\" nor port = port", where, p.text)
   end
   local key = ("%d:%s/%d"):format(p.family, key_of(net), p.length)
   if out.seen[key] then fail("%s: %s is there already, at %s", where, p.text, out.seen[key]) end
   out.seen[key] = where
   local list = p.family == 6 and out.routes6 or out.routes4
   list[#list + 1] = route
end

local function by_name(out, name, where)
   for index, port in pairs(out.ports) do
      if port.name == name then return index end
   end
   fail("%s: there is no port %q in ports", where, name)
end

local function read_file(out, path)
   local file, err = io.open(path)
   if not file then fail("route_file: %s", err) end
   local n = 0
   for line in file:lines() do
      n = n + 1
      local where = ("route_file %s:%d"):format(path, n)
      line = line:gsub("#.*", ""):match "^%s*(.-)%s*$"
      if line ~= "" then
         local prefix, rest = line:match "^(%S+)%s+(.+)$"
         local via, port = (rest or ""):match "^via%s+(%S+)$", (rest or ""):match "^port%s+(%S+)$"
         if not via and not port then via, port = (rest or ""):match "^via%s+(%S+)%s+port%s+(%S+)$" end
         if not via and not port then
            file:close()
            fail("%s: %q; write \"PREFIX via ADDRESS\", \"PREFIX via ADDRESS port NAME\" or \"PREFIX port NAME\"",
               where, line)
         end
         add_route(out, { prefix, via = via, port = port and by_name(out, port, where) }, where)
      end
   end
   file:close()
end

-- ---- neighbours ----

local function read_neighbours(out, list)
   for text, value in pairs(list) do
      local where = ("neighbours[%q]"):format(tostring(text))
      local address, port_name = tostring(text):match "^([^%%]+)%%?(.*)$"
      local p = M.prefix(address, where)
      local ok, mac = pcall(tw.mac, value)
      if not ok or type(mac) ~= "number" or mac == 0 or floor(mac / 2 ^ 40) % 2 == 1 then
         fail("%s is %s; write the address of one station, such as \"02:00:00:00:00:01\"", where, tostring(value))
      end
      local index
      if link_local(p) then
         if port_name == "" then fail("%s is link-local; write the port's name behind it: \"%s%%wan\"", where, text) end
         index = by_name(out, port_name, where)
      else
         local on = M.on_link(out.ports, p)
         if not on then fail("%s is on no connected network", where) end
         index = on.index
      end
      if out.own[key_of(p)] then fail("%s is an address of this router itself", where) end
      out.static[#out.static + 1] = { family = p.family, address = p.address, port = index, mac = mac }
   end
end

--- Check a configuration; raises a sentence naming parameter and value.
---@param cfg table the checked result of tw.args
---@return table description { ports by index, order, own addresses, routes4, routes6, static, v6 }
function M.read(cfg)
   local out = { ports = {}, order = {}, own = {}, routes4 = {}, routes6 = {}, static = {}, seen = {} }
   read_ports(out, cfg.ports)
   for i, r in ipairs(cfg.routes) do add_route(out, r, ("routes[%d]"):format(i)) end
   if cfg.route_file then read_file(out, cfg.route_file) end
   read_neighbours(out, cfg.neighbours)
   for _, port in pairs(out.ports) do
      out.v6 = out.v6 or #port.v6 > 0
      if port.link_local then out.own[fib.key6(port.link_local)] = port end
   end
   return out
end

return M
