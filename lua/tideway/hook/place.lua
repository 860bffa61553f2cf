-- SPDX-License-Identifier: BSD-3-Clause
-- What pin { ... } says of a hook: checked, and turned into the targets that programs are attached to.

local ports = require "tideway.port"

local M = {}

---@class tideway.hook.place
---@field kind string as pin names it: "xdp", "tc", "cgroup", ...
---@field hook string what the compiler calls it: "xdp", "tc", "cgroup_skb", ...
---@field targets tideway.hook.target[]
---@field persist string?
---@field split boolean? a program per NF, with tail calls between them

---@class tideway.hook.target
---@field link table what tideway.bpf.link attaches to
---@field interface string? whose packets it sees; then it stands for the port of this interface
---@field label string for messages

local function one_of(what, value, choices)
   for _, choice in ipairs(choices) do
      if value == choice then return value end
   end
   return nil, ("%s is %s; it can be %s"):format(what, type(value) == "string" and ('"%s"'):format(value)
      or tostring(value), table.concat(choices, ", "))
end

-- ---- interfaces ----

local function interface_of_port(port, key)
   if port.iface then return port.iface end
   return nil, ("%s = %s: it has no network interface; hooks need one, as in tw.port(\"lan\", \"eth0\")"):format(key,
      tostring(port))
end

local function of_sources(chain, key)
   local list = {}
   if #chain.sources == 0 then
      return nil, ("%s = true stands for the interfaces of the chain's sources, and it has none"):format(key)
   end
   for _, source in ipairs(chain.sources) do
      if not ports.is_port(source) then
         return nil, ("%s = true stands for the interfaces of the chain's sources, and %s is none; name the interface")
            :format(key, tostring(source))
      end
      local iface, err = interface_of_port(source, key)
      if not iface then return nil, err end
      list[#list + 1] = iface
   end
   return list
end

-- The interfaces of a value: true, a port, a name, or a list of ports and names.
local function interfaces(chain, key, value)
   if value == true then return of_sources(chain, key) end
   local list = {}
   for _, item in ipairs((type(value) == "table" and not ports.is_port(value)) and value or { value }) do
      if ports.is_port(item) then
         local iface, err = interface_of_port(item, key)
         if not iface then return nil, err end
         item = iface
      elseif type(item) ~= "string" or item == "" then
         return nil, ("%s = %s: it is the name of an interface, a port, or true for those of the chain's sources")
            :format(key, tostring(item))
      end
      list[#list + 1] = item
   end
   if #list == 0 then return nil, ("%s = {}: it names no interface"):format(key) end
   return list
end

-- ---- the kinds ----

local kinds = {}

-- kind -> the other keys that pin takes with it
local options = {}

local MODES, DIRECTIONS = { "auto", "native", "generic" }, { "ingress", "egress" }

options.xdp = { "mode" }
function kinds.xdp(chain, pin)
   local mode, err = one_of("mode", pin.mode or "auto", MODES)
   if not mode then return nil, err end
   local list
   list, err = interfaces(chain, "xdp", pin.xdp)
   if not list then return nil, err end
   local targets = {}
   for i, iface in ipairs(list) do
      targets[i] = {
         link = { hook = "xdp", interface = iface, mode = mode }, interface = iface, label = "xdp on " .. iface,
      }
   end
   return "xdp", targets
end

options.tc = { "direction", "priority" }
function kinds.tc(chain, pin)
   local list, err = interfaces(chain, "tc", pin.tc)
   if not list then return nil, err end
   local targets = {}
   for i, item in ipairs(list) do
      local iface, side = item:match "^([^:]+):([^:]+)$"
      local direction
      direction, err = one_of(("the direction of tc = %q"):format(item), side or pin.direction or "ingress", DIRECTIONS)
      if not direction then return nil, err end
      iface = iface or item
      targets[i] = {
         link = { hook = "tc_" .. direction, interface = iface, priority = pin.priority }, interface = iface,
         label = ("tc %s of %s"):format(direction, iface),
      }
   end
   return "tc", targets
end

options.cgroup = { "direction" }
function kinds.cgroup(_, pin)
   local direction, err = one_of("direction", pin.direction or "ingress", DIRECTIONS)
   if not direction then return nil, err end
   if type(pin.cgroup) ~= "string" then
      return nil, ("cgroup = %s: it is the path of a directory below /sys/fs/cgroup"):format(tostring(pin.cgroup))
   end
   return "cgroup_skb", { {
      link = { hook = "cgroup_" .. direction, cgroup = pin.cgroup },
      label = ("%s of cgroup %s"):format(direction, pin.cgroup),
   } }
end

local function socket(kind)
   return function(_, pin)
      local given = pin[kind]
      local fd = type(given) == "table" and given.fd or given
      if type(fd) ~= "number" or fd < 0 or fd % 1 ~= 0 then
         return nil, ("%s = %s: it is a socket, tw.bpf.socket { udp = 53 }, or its descriptor, a number"):format(kind,
            tostring(given))
      end
      local label = type(given) == "table" and tostring(given) or ("descriptor %d"):format(fd)
      return kind, { { link = { hook = kind, socket = fd }, label = ("%s of %s"):format(kind, label) } }
   end
end
kinds.socket_filter, kinds.sk_reuseport = socket "socket_filter", socket "sk_reuseport"
options.socket_filter, options.sk_reuseport = {}, {}

-- A table of sockets: the map is made when the program is loaded.
local function socket_map(key, t)
   local kind = type(t) == "table" and t.kind
   if kind ~= "sockmap" and kind ~= "sockhash" then
      return nil, ("%s = %s: it is a map of sockets, made by tw.sockmap or tw.sockhash"):format(key, tostring(t))
   end
   return t
end

options.sk_msg = {}
function kinds.sk_msg(_, pin)
   local t, err = socket_map("sk_msg", pin.sk_msg)
   if not t then return nil, err end
   return "sk_msg", { { link = { hook = "sk_msg" }, table = t, label = ("sk_msg of %s"):format(t.name) } }
end

local SK_SKB = { verdict = "sk_skb_verdict", stream_verdict = "stream_verdict", stream_parser = "stream_parser" }

options.sk_skb = { "at" }
function kinds.sk_skb(_, pin)
   local at, err = one_of("at", pin.at or "verdict", { "verdict", "stream_verdict", "stream_parser" })
   if not at then return nil, err end
   local t
   t, err = socket_map("sk_skb", pin.sk_skb)
   if not t then return nil, err end
   return "sk_skb", { { link = { hook = SK_SKB[at] }, table = t, label = ("sk_skb %s of %s"):format(at, t.name) } }
end

options.sk_lookup = {}
function kinds.sk_lookup(_, pin)
   local netns = pin.sk_lookup
   if netns ~= true and type(netns) ~= "string" then
      return nil, ("sk_lookup = %s: it is the path of a network namespace, as /run/netns/NAME, or true for our own")
         :format(tostring(netns))
   end
   return "sk_lookup", { {
      link = { hook = "sk_lookup", netns = netns ~= true and netns or nil },
      label = "sk_lookup of " .. (netns == true and "this network namespace" or netns),
   } }
end

local ROUTE_WORDS = { via = "via", dev = "interface", table = "table", metric = "metric", headroom = "headroom" }

local function parse_route(text)
   local words = {}
   for word in text:gmatch "%S+" do words[#words + 1] = word end
   local route = { to = words[1] }
   for i = 2, #words, 2 do
      local key = ROUTE_WORDS[words[i]]
      if not key or not words[i + 1] then return nil end
      local number = key ~= "via" and key ~= "interface"
      route[key] = number and tonumber(words[i + 1]) or words[i + 1]
      if number and type(route[key]) ~= "number" then return nil end
   end
   return route.to and (route.via or route.interface) and route
end

options.lwt = { "at" }
function kinds.lwt(_, pin)
   local at, err = one_of("at", pin.at or "xmit", { "in", "out", "xmit" })
   if not at then return nil, err end
   local route = type(pin.lwt) == "string" and parse_route(pin.lwt)
   if not route then
      return nil, ("lwt = %s: it is a route, \"PREFIX [via ADDRESS] [dev NAME] [table N] [metric N] [headroom N]\"")
         :format(type(pin.lwt) == "string" and ('"%s"'):format(pin.lwt) or tostring(pin.lwt))
   end
   route.hook = "lwt_" .. at
   return "lwt_" .. at, { { link = route, label = ("lwt %s of route %s"):format(at, route.to) } }
end

--- The kinds of hooks that pin knows, in order.
---@type string[]
M.kinds = { "xdp", "tc", "cgroup", "socket_filter", "sk_msg", "sk_skb", "sk_lookup", "sk_reuseport", "lwt" }

-- ---- pin ----

local function kind_of(pin)
   local found
   for _, kind in ipairs(M.kinds) do
      if pin[kind] ~= nil then
         if found then return nil, ("it names two places, %s and %s"):format(found, kind) end
         found = kind
      end
   end
   return found
end

local function check_keys(kind, pin)
   local known = { kind, "persist", "split", unpack(options[kind]) }
   for key in pairs(pin) do
      local ok, err = one_of("the key of pin { " .. kind .. " = ... }", key, known)
      if not ok then return err end
   end
   if pin.persist ~= nil and (type(pin.persist) ~= "string" or pin.persist == "") then
      return ("persist = %s: it is the name under which a later run finds the program"):format(tostring(pin.persist))
   end
   if pin.split ~= nil and type(pin.split) ~= "boolean" then
      return ("split is %s, not true or false"):format(tostring(pin.split))
   end
end

--- The place of a chain, from what pin was given.
---@param chain tideway.chain
---@param pin table
---@return tideway.hook.place? place nil without err: it names no hook
---@return string? err
function M.parse(chain, pin)
   local kind, err = kind_of(pin)
   if not kind then return nil, err end
   err = check_keys(kind, pin)
   if err then return nil, err end
   local hook, targets = kinds[kind](chain, pin)
   if not hook then return nil, targets end
   return { kind = kind, hook = hook, targets = targets, persist = pin.persist, split = pin.split }
end

return M
