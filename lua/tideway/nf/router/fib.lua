-- SPDX-License-Identifier: BSD-3-Clause
-- router: the forwarding tables: prefixes -> next hop index -> what a packet to that next hop needs.
--
-- Everything that packet() asks about a destination is one entry of `hops`: own addresses, broadcast and
-- reserved prefixes are routes to hops that do not forward (limit 0), and a neighbour that is resolved is
-- a host route to its own hop. So a packet costs one longest-prefix match and one array entry.

local bit = require "bit"
local tw = require "tideway"

local bor, bswap, lshift, rshift, tobit = bit.bor, bit.bswap, bit.lshift, bit.rshift, bit.tobit
local min, max = math.min, math.max

local M = {}

-- hop.state
M.FREE = 0
M.REACHABLE = 1 -- forwards
M.PROBE = 2 -- forwards, and is being asked whether it is still there
M.INCOMPLETE = 3 -- being resolved: packets wait
M.FAILED = 4 -- did not answer: packets are refused until the deadline
M.IDLE = 5 -- a gateway that nobody needed yet
M.CONNECTED = 6 -- a network on a port: the destination is the neighbour
M.LOCAL = 7 -- own address
M.BROADCAST = 8
M.MULTICAST = 9
M.MARTIAN = 10 -- destinations that are never routed
M.LINK_LOCAL = 11

-- hop.kind, added up
M.STATIC = 1 -- configured: never asked, never forgotten
M.GATEWAY = 2 -- named by routes: never freed
M.HOST_ROUTE = 4 -- has a host route of its own

-- limit: longest IP packet that is forwarded without a second look, 0 for hops that do not forward.
-- head and tail: destination and source address as they lie in the frame (see set_macs).
local HOP = "i32 limit; u16 port; u8 state; u8 family; u64 head; i32 tail; u8 tries; u8 kind; "
   .. "ns deadline; ip6 address6; u32 address4; i32 mtu; mac mac"
local PORT = "u64" -- its address as it lies in the frame
local LOCAL, BROADCAST, MULTICAST, MARTIAN, LINK_LOCAL, FIRST_PORT = 1, 2, 3, 4, 5, 6

-- ---- addresses ----

--- A key for Lua tables that stands for an IPv6 address.
---@param address tideway.in6
---@return string
function M.key6(address)
   return ("%x %x %x %x"):format(address:u32(0), address:u32(1), address:u32(2), address:u32(3))
end

-- A MAC address as its six bytes lie in the frame, read little-endian: uint64_t.
local function as_in_frame(mac) return rshift(bswap(mac + 0ULL), 16) end

--- Give a hop its neighbour's address and let it forward. Another lcore may be reading: the limit, which
--- it reads first, is 0 meanwhile, so that it punts rather than sends to half an address.
---@param ctx table
---@param hop any reference to an entry of hops
---@param mac number
---@param state integer REACHABLE or PROBE
function M.set_macs(ctx, hop, mac, state)
   if hop.mac ~= mac or hop.limit == 0 then
      hop.limit = 0
      local source = as_in_frame(ctx.ports[hop.port].mac)
      hop.head = bor(as_in_frame(mac), lshift(source, 48))
      hop.tail = tobit(rshift(source, 16))
      hop.mac = mac
   end
   hop.state = state
   hop.limit = hop.mtu
end

--- Stop a hop from forwarding.
function M.unset(hop, state)
   hop.limit = 0
   hop.state = state
end

-- ---- neighbours: hops by (address, port) ----

--- Index of the hop of a neighbour, or nil.
---@param port integer
---@param family integer
---@param address any
---@return integer?
function M.find(ctx, port, family, address)
   if family == 6 then return ctx.neigh6 and ctx.neigh6:get(address, port) end
   return ctx.neigh4:get(address, port)
end

-- A free hop: deleting its token succeeds on one lcore only. The search goes on where the last one ended.
local function take(ctx)
   local count = ctx.last - ctx.first + 1
   local start = ctx.cursor or 0
   for n = 0, count - 1 do
      local i = ctx.first + (start + n) % count
      if ctx.hops:get(i).state == M.FREE and ctx.tokens:del(i) then
         ctx.cursor = start + n + 1
         return i
      end
   end
end

--- A new hop for a neighbour, in state IDLE; nil when there are max_neighbours.
---@return integer? index
function M.claim(ctx, port, family, address)
   local i = take(ctx)
   if not i then return nil end
   local hop = ctx.hops:get(i)
   hop.limit, hop.kind, hop.tries, hop.mac = 0, 0, 0, 0
   hop.port, hop.family, hop.mtu = port, family, ctx.ports[port].mtu
   local known
   if family == 6 then
      hop.address6 = address
      known = ctx.neigh6:set(address, port, i)
   else
      hop.address4 = address
      known = ctx.neigh4:set(address, port, i)
   end
   hop.state = known and M.IDLE or M.FREE
   if known then return i end
   ctx.tokens:set(i, 1)
end

local function lpm_of(ctx, family)
   if family == 6 then return ctx.lpm6, 128 end
   return ctx.lpm4, 32
end

local function address_of(hop)
   if hop.family == 6 then return hop.address6 end
   return hop.address4
end
M.address_of = address_of

--- A neighbour that was resolved gets a host route where its network is connected: not where a route to
--- elsewhere is more specific, and not for link-local addresses, which are many.
function M.add_host_route(ctx, i, hop)
   if bit.band(hop.kind, M.HOST_ROUTE) ~= 0 then return end
   local lpm, length = lpm_of(ctx, hop.family)
   local address = address_of(hop)
   local now = lpm:get(address)
   local on = now and ctx.hops:get(now)
   if not on or on.state ~= M.CONNECTED or on.port ~= hop.port then return end
   if lpm:set(address, length, i) then hop.kind = hop.kind + M.HOST_ROUTE end
end

--- Forget a neighbour.
function M.free(ctx, i, hop)
   M.unset(hop, M.FREE)
   local address = address_of(hop)
   if bit.band(hop.kind, M.HOST_ROUTE) ~= 0 then
      local lpm, length = lpm_of(ctx, hop.family)
      if lpm:find(address, length) == i then lpm:del(address, length) end
   end
   -- Two lcores may have claimed hops for one neighbour at once; the other one's stays.
   if M.find(ctx, hop.port, hop.family, address) == i then
      local neigh = hop.family == 6 and ctx.neigh6 or ctx.neigh4
      neigh:del(address, hop.port)
   end
   ctx.tokens:set(i, 1)
end

-- ---- set-up, in the control VM ----

-- Sources that no packet to forward has: our addresses, and the broadcast addresses of our networks.
local function bad_sources(d)
   local list = {}
   for _, port in ipairs(d.order) do
      for _, a in ipairs(port.v4) do
         list[bit.tobit(a.address)] = true
         if a.length < 31 then
            list[bit.tobit(a.network)] = true
            list[bit.tobit(a.network + 2 ^ (32 - a.length) - 1)] = true
         end
      end
   end
   return list
end

-- What is to be known of a source from its first byte: nothing, that it is no host's address (RFC 1812 5.3.7), or
-- that there are bad ones among its like.
M.MARTIAN_NET, M.BAD_IN_NET = 1, 2
local function net_table(name, d)
   local t = tw.array { name = name .. ".nets", value = "u8", entries = 256 }
   for a in pairs(bad_sources(d)) do t:set(rshift(a, 24), M.BAD_IN_NET) end
   for net = 224, 255 do t:set(net, M.MARTIAN_NET) end
   t:set(0, M.MARTIAN_NET)
   t:set(127, M.MARTIAN_NET)
   return t
end

local function slots_of(list, entries, shift)
   local slots = {}
   for a in pairs(list) do
      local slot = bit.band(bit.bxor(a, rshift(a, shift)), entries - 1)
      if slots[slot] then return nil end
      slots[slot] = a
   end
   return slots
end

-- A table that tells in one load whether a source is one of these: each stands alone at the slot
-- band(bxor(a, rshift(a, shift)), entries - 1), for a shift and a size that are looked for.
local function source_table(name, d)
   local list = bad_sources(d)
   for size = 8, 22 do
      for shift = 1, 24 do
         local slots = slots_of(list, 2 ^ size, shift)
         if slots then
            local t = tw.array { name = name .. ".sources", value = "i32", entries = 2 ^ size }
            for slot, a in pairs(slots) do t:set(slot, a) end
            return t, shift
         end
      end
   end
   error("router: the ports have too many IPv4 addresses", 0)
end

local function free_name(base)
   local taken = {}
   for _, t in ipairs(tw.tables()) do taken[t.name] = true end
   local n = 1
   while taken[base .. (n > 1 and n or "") .. ".routes4"] do n = n + 1 end
   return base .. (n > 1 and n or "")
end

-- Groups of 256 entries that rte_lpm needs: one per /24 in which there are longer prefixes.
local function groups4(d, pool)
   local n = 64
   for _, r in ipairs(d.routes4) do
      if r.length > 24 then
         n = n + 1
      elseif not r.via then
         n = n + min(2 ^ (24 - r.length), pool)
      end
   end
   for _, port in ipairs(d.order) do
      for _, a in ipairs(port.v4) do n = n + 2 + min(2 ^ max(0, 24 - a.length), pool) end
   end
   return n
end

-- rte_lpm6 needs at most one per byte behind the first three of each prefix.
local function groups6(d, pool)
   local n = 64 + 13 * pool
   for _, r in ipairs(d.routes6) do n = n + max(0, math.ceil((r.length - 24) / 8)) end
   for _, port in ipairs(d.order) do n = n + 39 * (#port.v6 + 1) end
   return n
end

local function make_tables(cfg, d, pool)
   local name = cfg.name or free_name "router"
   local hosts = 4 * pool + 64
   local hops = FIRST_PORT + #d.order + pool
   local index = hops <= 65536 and "u16" or "i32" -- look-ups of two bytes are faster
   local ctx = {
      name = name, ports = d.ports, own = d.own,
      hops = tw.array { name = name .. ".hops", value = HOP, entries = hops },
      ingress = tw.array { name = name .. ".ports", value = PORT, entries = 64 },
      lpm4 = tw.lpm {
         name = name .. ".routes4", family = 4, value = index, entries = #d.routes4 + hosts, groups = groups4(d, pool),
      },
      neigh4 = tw.hash { name = name .. ".neigh4", key = "u32 address; u16 port", value = "i32", entries = 2 * pool },
      tokens = tw.hash { name = name .. ".tokens", key = "u32", value = "u8", entries = 2 * pool },
      first = FIRST_PORT + #d.order, last = FIRST_PORT + #d.order + pool - 1,
   }
   ctx.nets = net_table(name, d)
   ctx.sources, ctx.shift = source_table(name, d)
   if d.v6 then
      ctx.lpm6 = tw.lpm {
         name = name .. ".routes6", family = 6, value = index, entries = #d.routes6 + hosts, groups = groups6(d, pool),
      }
      ctx.neigh6 = tw.hash {
         name = name .. ".neigh6", key = "ip6 address; u16 port", value = "i32", entries = 2 * pool,
      }
   end
   return ctx
end

local function set(ctx, family, address, length, hop)
   local lpm = lpm_of(ctx, family)
   if not lpm:set(address, length, hop) then
      error(("router: the table of IPv%d routes is full; this is a bug, please report it"):format(family), 0)
   end
end

local function add_reserved(ctx)
   local function reserve(list, hop)
      for text in list:gmatch "%S+" do
         local p = tw.prefix(text)
         if p.family == 4 or ctx.lpm6 then set(ctx, p.family, p.address, p.length, hop) end
      end
   end
   reserve("0.0.0.0/8 127.0.0.0/8 240.0.0.0/4 ::/128 ::1/128", MARTIAN)
   reserve("224.0.0.0/4 ff00::/8", MULTICAST)
   reserve("255.255.255.255/32", BROADCAST)
   reserve("fe80::/10", LINK_LOCAL)
end

-- Own addresses, and those that are own by definition: the subnet-router anycast address (RFC 4291 2.6.1).
local function add_own(ctx, a)
   set(ctx, a.family, a.address, a.family == 6 and 128 or 32, LOCAL)
   if a.family == 6 and a.length < 127 then
      set(ctx, 6, a.network, 128, LOCAL)
   elseif a.family == 4 and a.length < 31 then
      set(ctx, 4, a.network, 32, BROADCAST) -- {net, 0}, RFC 1812 4.2.3.1
      set(ctx, 4, a.network + 2 ^ (32 - a.length) - 1, 32, BROADCAST)
   end
end

local function add_ports(ctx, d)
   local connected = {}
   for i, port in ipairs(d.order) do
      local index = FIRST_PORT + i - 1
      local hop = ctx.hops:get(index)
      hop.state, hop.port, hop.mtu = M.CONNECTED, port.index, port.mtu
      ctx.ingress:set(port.index, as_in_frame(port.mac))
      connected[port.index] = index
      for _, list in ipairs { port.v4, port.v6 } do
         for _, a in ipairs(list) do set(ctx, a.family, a.network, a.length, index) end
      end
   end
   for _, port in ipairs(d.order) do
      for _, list in ipairs { port.v4, port.v6 } do
         for _, a in ipairs(list) do add_own(ctx, a) end
      end
      if #port.v6 > 0 then set(ctx, 6, port.link_local, 128, LOCAL) end
   end
   return connected
end

-- The hop of a gateway or configured neighbour, made when there is none.
local function neighbour(ctx, port, family, address, kind)
   local i = M.find(ctx, port, family, address) or M.claim(ctx, port, family, address)
   local hop = ctx.hops:get(i)
   hop.kind = bit.bor(hop.kind, kind)
   return i, hop
end

local function add_routes(ctx, list, connected)
   for _, r in ipairs(list) do
      local index = connected[r.port]
      if r.via then index = neighbour(ctx, r.port, r.family, r.via, M.GATEWAY) end
      set(ctx, r.family, r.address, r.length, index)
   end
end

local function gateways(d)
   local seen, n = {}, #d.static
   for _, list in ipairs { d.routes4, d.routes6 } do
      for _, r in ipairs(list) do
         local key = r.via and ("%d %s"):format(r.port, tostring(r.via))
         if key and not seen[key] then
            seen[key] = true
            n = n + 1
         end
      end
   end
   return n
end

--- Make the tables of a configuration.
---@param cfg table checked parameters
---@param d table what router.config's read() returned
---@return table ctx
function M.new(cfg, d)
   local ctx = make_tables(cfg, d, cfg.max_neighbours + gateways(d))
   for state, index in pairs { [M.LOCAL] = LOCAL, [M.BROADCAST] = BROADCAST, [M.MULTICAST] = MULTICAST,
      [M.MARTIAN] = MARTIAN, [M.LINK_LOCAL] = LINK_LOCAL } do
      ctx.hops:get(index).state = state
   end
   for i = ctx.first, ctx.last do ctx.tokens:set(i, 1) end
   add_reserved(ctx)
   local connected = add_ports(ctx, d)
   add_routes(ctx, d.routes4, connected)
   add_routes(ctx, d.routes6, connected)
   for _, s in ipairs(d.static) do
      local i, hop = neighbour(ctx, s.port, s.family, s.address, M.STATIC)
      M.set_macs(ctx, hop, s.mac, M.REACHABLE)
      M.add_host_route(ctx, i, hop)
   end
   return ctx
end

return M
