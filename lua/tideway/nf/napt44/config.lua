-- SPDX-License-Identifier: BSD-3-Clause
-- Configuration of napt44: checks what the user wrote and turns it into numbers.

local tw = require "tideway"

local M = {}

local NAME = "napt44"
local ADDRESSES_MAX = 64
local CLASS = { tcp = 0, udp = 1 } -- ICMP is class 2 and cannot be forwarded by port

-- Seconds. RFC 4787 REQ-5 (5 min recommended), RFC 5382 REQ-5 (2 h 4 min, 4 min), RFC 5508 REQ-2 (60 s).
local TIMEOUTS = { udp = 300, tcp = 7440, tcp_transitory = 240, icmp = 60, fragment = 30 }

local FILTERING = { "endpoint_independent", "address_dependent", "address_and_port_dependent" }

local PARAMS = {
   outside = { type = "any", required = true, doc = "the port towards the outside, as tw.port returned it" },
   address = { type = "any", required = true, doc = 'external address, "198.51.100.1", or a list of them' },
   inside = {
      type = "any", default = { "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10" },
      doc = "prefix, or list of prefixes, whose packets are translated (default RFC 1918 and RFC 6598)",
   },
   ports = { type = "string", default = "1024-65535", doc = "external ports and ICMP identifiers to allocate from" },
   timeouts = { type = "table", default = {}, doc = "seconds: udp, tcp, tcp_transitory, icmp, fragment" },
   forward = { type = "table", default = {}, doc = 'list of { proto = "tcp", port = 8080, to = "10.0.0.2:80" }' },
   mappings = { type = "number", default = 65536, min = 1, max = 2 ^ 24, doc = "mappings at one time" },
   filtering = { type = "string", default = FILTERING[1], one_of = FILTERING, doc = "RFC 4787 section 5" },
   place = {
      type = "string", default = "around_router", one_of = { "around_router", "inline" },
      doc = "stands before and after a router, or alone between two ports",
   },
   max_ports_per_host = { type = "number", min = 1, max = 65536 * 3, doc = "limit per host (RFC 6888 REQ-4)" },
   preserve_port = { type = "boolean", default = true, doc = "keep the inside port when it is free" },
   preserve_parity = { type = "boolean", default = false, doc = "even ports map to even ones (RFC 4787 4.2.2)" },
   refresh_inbound = { type = "boolean", default = false, doc = "packets from outside refresh too (RFC 4787 REQ-6)" },
   sessions = { type = "number", default = 65536, min = 1, max = 2 ^ 24, doc = "size of the filter table" },
   fragments = { type = "number", default = 4096, min = 1, max = 2 ^ 20, doc = "datagrams in fragments at one time" },
   mark_bit = { type = "number", default = 30, min = 0, max = 30, doc = "bit of pkt.mark that hairpin packets carry" },
   name = { type = "string", doc = "prefix of the table names, to tell two NATs apart" },
}

local function refuse(...) error(NAME .. ": " .. string.format(...), 0) end

local function as_list(value) return type(value) == "table" and value or { value } end

local function show(value) return type(value) == "string" and ("%q"):format(value) or tostring(value) end

local function integer(what, value, min, max)
   if type(value) ~= "number" or value % 1 ~= 0 or value < min or value > max then
      refuse("%s is %s; write a whole number from %d to %d", what, show(value), min, max)
   end
   return value
end

local function address_of(what, value)
   local ok, address = pcall(tw.ip4, value)
   if not ok or type(value) ~= "string" then
      refuse('%s is %s; write an IPv4 address such as "198.51.100.1"', what, show(value))
   end
   return address
end

local function addresses_of(value)
   local list, seen = {}, {}
   for i, text in ipairs(as_list(value)) do
      local address = address_of(("address[%d]"):format(i), text)
      if seen[address] then refuse("address[%d]: %s stands twice", i, show(text)) end
      seen[address] = i - 1
      list[i] = address
   end
   if #list == 0 or #list > ADDRESSES_MAX then
      refuse("address has %d entries; write 1 to %d addresses", #list, ADDRESSES_MAX)
   end
   return list, seen
end

-- First and last address of each prefix, as two lists of numbers.
local function prefixes_of(value)
   local first, last = {}, {}
   for i, text in ipairs(as_list(value)) do
      local ok, prefix = pcall(tw.prefix, text)
      if not ok or type(text) ~= "string" or prefix.family ~= 4 then
         refuse('inside[%d] is %s: %s; write an IPv4 prefix such as "10.0.0.0/8"', i, show(text),
            ok and "not IPv4" or tostring(prefix):gsub("^%S+:%d+: ", ""))
      end
      first[i], last[i] = prefix.first, prefix.last
   end
   if #first == 0 then refuse('inside is empty; write a prefix such as "10.0.0.0/8"') end
   return first, last
end

local function range_of(what, value)
   local low, high
   if type(value) == "number" then
      low, high = value, value
   elseif type(value) == "string" then
      low, high = value:match "^(%d+)%-(%d+)$"
      if not low then low = value:match "^(%d+)$" high = low end
      low, high = tonumber(low), tonumber(high)
   end
   if not low or low % 1 ~= 0 or low < 1 or high > 65535 or low > high then
      refuse('%s is %s; write a range from 1 to 65535 such as "1024-65535"', what, show(value))
   end
   return low, high
end

local function timeouts_of(given)
   local out = {}
   for name, value in pairs(given) do
      if not TIMEOUTS[name] then
         refuse("timeouts has no %s; there are: fragment, icmp, tcp, tcp_transitory, udp", show(name))
      end
      if type(value) ~= "number" or not (value > 0 and value <= 1e7) then
         refuse("timeouts.%s is %s; write seconds, more than 0", name, show(value))
      end
   end
   for name, default in pairs(TIMEOUTS) do out[name] = (given[name] or default) * 1e9 end
   return out
end

-- One entry of forward, spread to one per port.
local function add_forward(list, i, f, index_of)
   local what = ("forward[%d]"):format(i)
   if type(f) ~= "table" then
      refuse('%s is %s; write { proto = "tcp", port = 8080, to = "10.0.0.2:80" }', what, show(f))
   end
   for key in pairs(f) do
      if key ~= "proto" and key ~= "port" and key ~= "to" and key ~= "address" then
         refuse("%s has no %s; there are: address, port, proto, to", what, show(key))
      end
   end
   local class = CLASS[f.proto]
   if not class then refuse('%s.proto is %s; write "tcp" or "udp"', what, show(f.proto)) end
   local low, high = range_of(what .. ".port", f.port)
   local host, port = tostring(f.to):match "^([%d.]+):(%d+)$"
   port = tonumber(port)
   if not host or port < 1 or port + high - low > 65535 then
      refuse('%s.to is %s; write address and first port such as "10.0.0.2:80"', what, show(f.to))
   end
   local inside = address_of(what .. ".to", host)
   local pool = 0
   if f.address ~= nil then
      pool = index_of[address_of(what .. ".address", f.address)]
      if not pool then refuse("%s.address is %s, which is not in address", what, show(f.address)) end
   end
   for n = 0, high - low do
      list[#list + 1] = {
         what = what, class = class, pool = pool, outside_port = low + n, inside = inside, inside_port = port + n,
      }
   end
end

-- A mapping has one endpoint on either side, so nothing may stand twice on one.
local function forwards_of(given, index_of)
   local list, outer, inner = {}, {}, {}
   for i, f in ipairs(given) do add_forward(list, i, f, index_of) end
   for _, f in ipairs(list) do
      local o = ("%d/%d/%d"):format(f.class, f.pool, f.outside_port)
      local n = ("%d/%d/%d"):format(f.class, f.inside, f.inside_port)
      if outer[o] then refuse("%s: port %d is forwarded by %s already", f.what, f.outside_port, outer[o]) end
      if inner[n] then
         refuse("%s: %s:%d is the target of %s already, and its answers can have one external port only", f.what,
            tw.ip4_string(f.inside), f.inside_port, inner[n])
      end
      outer[o], inner[n] = f.what, f.what
   end
   return list
end

--- Checks the user's configuration; raises an error that names parameter, value and what to write.
---@param cfg table as the user wrote it
---@return table c numbers: outside (port index), address (list), first and last (inside prefixes), low and high
---  (ports), timeout (ns by name), forward (list), filter (0 none, 1 address, 2 address and port), inline, ...
function M.check(cfg)
   local c = tw.args(NAME, cfg, PARAMS)
   local outside = type(c.outside) == "table" and c.outside.index or c.outside
   if type(outside) ~= "number" then
      refuse("outside is %s; write the port as tw.port returned it", show(c.outside))
   end
   c.outside = outside
   local index_of
   c.address, index_of = addresses_of(c.address)
   c.first, c.last = prefixes_of(c.inside)
   c.low, c.high = range_of("ports", c.ports)
   c.timeout = timeouts_of(c.timeouts)
   c.forward = forwards_of(c.forward, index_of)
   for i, mode in ipairs(FILTERING) do
      if c.filtering == mode then c.filter = i - 1 end
   end
   c.inline = c.place == "inline"
   integer("mappings", c.mappings, 1, 2 ^ 24)
   integer("sessions", c.sessions, 1, 2 ^ 24)
   integer("fragments", c.fragments, 1, 2 ^ 20)
   integer("mark_bit", c.mark_bit, 0, 30)
   if c.max_ports_per_host then integer("max_ports_per_host", c.max_ports_per_host, 1, 65536 * 3) end
   if #c.forward > c.mappings then
      refuse("forward has %d ports, and mappings is %d; write a larger mappings", #c.forward, c.mappings)
   end
   return c
end

return M
