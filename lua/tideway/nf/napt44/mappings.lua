-- SPDX-License-Identifier: BSD-3-Clause
-- The mappings of napt44: which external endpoint stands for which inside endpoint, and for how long.
--
-- A mapping is a record of the array `outer`; its place there *is* its external endpoint:
-- (address index * 3 + class) * 65536 + port. The way in is thus one indexed load. The way out is one
-- look-up in `inner`, from inside endpoint to place. What changes is in the record only, so the two
-- ways cannot disagree about it.
--
-- Several lcores work on the same tables. A place is owned by whoever made its word in `claims` 1: a
-- claimant adds 1 atomically and looks; more than 1 means that somebody else is at it, so it takes
-- back its 1 and goes elsewhere. To free a place one adds 1 and must see 2. Both sides may back off
-- from each other, never can both win.

local tw = require "tideway"
local bit = require "bit"
local random = require "tideway.nf.napt44.random"

local M = {}

local band, bnot, rshift = bit.band, bit.bnot, bit.rshift

local TCP, UDP, ICMP = 0, 1, 2
local STATIC = 64          -- bit of state: a forwarded port, never ends
local FOREVER = 2 ^ 62     -- deadline of those, ns
local EXHAUSTED, TABLE_FULL, HOST_LIMIT = -1, -2, -3
local SWEEP_BLOCKS = 32    -- blocks of 256 ports a tick looks into
local PARITY_BLOCKS = 4    -- blocks searched for a port of the right parity before any will do

M.TCP, M.UDP, M.ICMP = TCP, UDP, ICMP
M.STATIC, M.FOREVER = STATIC, FOREVER
M.EXHAUSTED, M.TABLE_FULL, M.HOST_LIMIT = EXHAUSTED, TABLE_FULL, HOST_LIMIT

-- expires stands first and is written last: a record is live only with a deadline ahead.
-- shift_ip and shift_l4 are what the checksums of an outgoing packet change by (one's complement).
local RECORD = "ns expires; u32 addr; u32 ext; u16 port; u16 ext_port; u16 shift_ip; u16 shift_l4; "
   .. "u32 remote; u16 remote_port; u8 state; u8 class"

-- Sum of at most 18 bits, folded to 16 in one's complement.
local function fold(sum)
   sum = band(sum, 0xffff) + rshift(sum, 16)
   return band(sum, 0xffff) + rshift(sum, 16)
end

-- What a one's complement sum changes by when a word goes from old to new (RFC 1624: ~m + m').
local function shift16(old, new) return band(bnot(old), 0xffff) + new end
local function shift32(old, new)
   return fold(shift16(rshift(old, 16), rshift(new, 16)) + shift16(band(old, 0xffff), band(new, 0xffff)))
end

-- An inside endpoint as a number below 2^50: one word, so that the key is written and hashed at once.
local function endpoint(addr, port, class) return addr * 262144 + port * 4 + class end
M.endpoint = endpoint

local function make_tables(c, name)
   local places = #c.address * 3 * 65536
   return {
      outer = tw.array { name = name .. ".outer", value = RECORD, entries = places },
      claims = tw.array { name = name .. ".claims", value = "u8", entries = places },
      used = tw.array { name = name .. ".used", value = "u32", entries = places / 256 }, -- claims per 256 ports
      -- Of those, forwarded ports outside of `ports`: they take no room from the others.
      reserved = tw.array { name = name .. ".reserved", value = "u32", entries = places / 256 },
      inner = tw.hash { name = name .. ".inner", key = "i64", value = "u32", entries = c.mappings },
      hosts = c.max_ports_per_host and
         tw.hash { name = name .. ".hosts", key = "u32", value = "i32", entries = c.mappings } or nil,
      events = tw.counters { name = name .. ".events", names = {
         "created", "removed", "renewed", "ports_exhausted", "table_full", "host_limit",
      } },
   }
end

-- Looking up, and taking and freeing places.
local function make_core(c, t)
   local outer, claims, used, inner, hosts, events = t.outer, t.claims, t.used, t.inner, t.hosts, t.events
   local max_per_host = c.max_ports_per_host
   local core = {}

   --- The live mapping of an inside endpoint, or nil.
   function core.find(addr, port, class, now)
      local place = inner:get(endpoint(addr, port, class))
      if not place then return nil end
      local r = outer:get(place)
      if r and r.expires > now and r.addr == addr and r.port == port then return r end
      return nil
   end

   --- The live mapping of an external endpoint, by the address's index in `address`, or nil.
   function core.find_outside(pool, port, class, now)
      local r = outer:get((pool * 3 + class) * 65536 + port)
      if r and r.expires > now then return r end
      return nil
   end

   -- Makes a free place this lcore's own.
   function core.claim(place)
      claims:add(place, 1)
      if claims:get(place) == 1 then
         used:add(rshift(place, 8), 1)
         return true
      end
      claims:add(place, -1)
      return false
   end

   -- Gives back a place that this lcore claimed.
   local function give_back(place, claimed)
      used:add(rshift(place, 8), -1)
      claims:add(place, -claimed)
   end
   core.give_back = give_back

   -- Frees a mapping whose time is over. False when it is not, or somebody else is at it.
   function core.remove(place, now)
      claims:add(place, 1)
      local r = outer:get(place)
      if claims:get(place) ~= 2 or r.expires == 0 or r.expires > now then
         claims:add(place, -1)
         return false
      end
      local addr = r.addr
      local key = endpoint(addr, r.port, r.class)
      r.expires = 0
      r.addr = 0
      if inner:get(key) == place then inner:del(key) end
      if max_per_host then
         hosts:add(addr, -1)
         if hosts:get(addr) == 0 then hosts:del(addr) end
      end
      give_back(place, 2)
      events:add(1, 1)
      return true
   end

   -- Makes the record of a claimed place; the deadline, which makes it valid, comes last.
   function core.fill(place, addr, port, class, ext, remote, remote_port, state, expires)
      local r = outer:get(place)
      local ext_port = band(place, 0xffff)
      local shift_ip = shift32(addr, ext)
      r.expires = 0
      r.addr, r.port, r.ext, r.ext_port, r.class = addr, port, ext, ext_port, class
      r.shift_ip = shift_ip
      if class == ICMP then -- no pseudo-header
         r.shift_l4 = fold(shift16(port, ext_port))
      else
         r.shift_l4 = fold(shift_ip + shift16(port, ext_port))
      end
      r.remote, r.remote_port, r.state = remote, remote_port, state
      r.expires = expires
   end

   return core
end

-- Search for a free port: the same one, then from a random one on (RFC 6056 3.3.1) through blocks
-- of 256 ports that have room, then one whose mapping is over but was not swept yet.
local function make_search(c, t, core)
   local outer, claims, used, reserved = t.outer, t.claims, t.used, t.reserved
   local claim, remove = core.claim, core.remove
   local low, high, preserve, parity = c.low, c.high, c.preserve_port, c.preserve_parity
   local first_block, blocks = rshift(low, 8), rshift(high, 8) - rshift(low, 8) + 1
   local ports = high - low + 1
   local draw = random.new()

   local function has_room(base, block)
      local from, to, at = block * 256, block * 256 + 255, rshift(base, 8) + block
      if from < low then from = low end
      if to > high then to = high end
      return used:get(at) < to - from + 1 + reserved:get(at)
   end

   -- Claims a port of a block; step 2 keeps to one parity.
   local function in_block(base, block, offset, step, now, over)
      for i = 0, 255, step do
         local port = block * 256 + band(offset + i, 255)
         if port >= low and port <= high then
            local place = base + port
            if over and claims:get(place) == 1 and outer:get(place).expires <= now then remove(place, now) end
            if claims:get(place) == 0 and claim(place) then return place end
         end
      end
      return EXHAUSTED
   end

   local function same_port(base, port, now)
      if port < low or port > high then return EXHAUSTED end
      local place = base + port
      if claims:get(place) == 1 and outer:get(place).expires <= now then remove(place, now) end
      if claims:get(place) == 0 and claim(place) then return place end
      return EXHAUSTED
   end

   return function(pool, class, addr, port, now)
      local base = (pool * 3 + class) * 65536
      if preserve then
         local place = same_port(base, port, now)
         if place >= 0 then return place end
      end
      local start = low + draw(addr, port * 4 + class, now) % ports
      if parity then
         start = start - band(start, 1) + band(port, 1)
         for i = 0, PARITY_BLOCKS - 1 do
            local block = first_block + (rshift(start, 8) - first_block + i) % blocks
            local place = in_block(base, block, start, 2, now, false)
            if place >= 0 then return place end
         end
      end
      for i = 0, blocks - 1 do
         local block = first_block + (rshift(start, 8) - first_block + i) % blocks
         if has_room(base, block) then
            local place = in_block(base, block, start, 1, now, false)
            if place >= 0 then return place end
         end
      end
      return in_block(base, rshift(start, 8), start, 1, now, true)
   end
end

-- New mappings.
local function make_create(c, t, core, search)
   local outer, claims, inner, hosts, events = t.outer, t.claims, t.inner, t.hosts, t.events
   local address, pool_size, max_per_host = c.address, #c.address, c.max_ports_per_host
   local claim_fill, give_back = core.fill, core.give_back

   -- A mapping that is over but still has its port lives on with it.
   local function renew(place, addr, port, remote, remote_port, expires)
      claims:add(place, 1)
      local r = outer:get(place)
      local mine = claims:get(place) == 2 and r.addr == addr and r.port == port and r.expires ~= 0
      if mine then
         r.remote, r.remote_port, r.state = remote, remote_port, 0
         r.expires = expires
         events:add(2, 1)
      end
      claims:add(place, -1)
      return mine
   end

   --- A mapping for an inside endpoint that has none (find() gave nil): its place, or a negative
   --- number, EXHAUSTED, TABLE_FULL or HOST_LIMIT. Hosts keep to one external address (RFC 4787 REQ-2).
   return function(addr, port, class, remote, remote_port, now, lifetime)
      local key = endpoint(addr, port, class)
      local place = inner:get(key)
      if place and renew(place, addr, port, remote, remote_port, now + lifetime) then return place end
      if max_per_host and (hosts:get(addr) or 0) >= max_per_host then
         events:add(5, 1)
         return HOST_LIMIT
      end
      local pool = addr % pool_size
      place = search(pool, class, addr, port, now)
      if place < 0 then
         events:add(3, 1)
         return EXHAUSTED
      end
      claims:add(place, 1) -- another lcore must not end it before `inner` leads to it
      claim_fill(place, addr, port, class, address[pool + 1], remote, remote_port, 0, now + lifetime)
      if not inner:set(key, place) then
         local r = outer:get(place)
         r.expires = 0
         r.addr = 0
         give_back(place, 2)
         events:add(4, 1)
         return TABLE_FULL
      end
      if max_per_host then hosts:add(addr, 1) end
      claims:add(place, -1)
      events:add(0, 1)
      return place
   end
end

local function add_forwards(c, t, core)
   for _, f in ipairs(c.forward) do
      local place = (f.pool * 3 + f.class) * 65536 + f.outside_port
      assert(core.claim(place))
      t.reserved:add(rshift(place, 8), (f.outside_port < c.low or f.outside_port > c.high) and 1 or 0)
      core.fill(place, f.inside, f.inside_port, f.class, c.address[f.pool + 1], 0, 0, STATIC, FOREVER)
      if not t.inner:set(endpoint(f.inside, f.inside_port, f.class), place) then
         error(("napt44: %s: the table of %d mappings is full; write a larger mappings"):format(f.what, c.mappings), 0)
      end
   end
end

-- Frees what is over, some blocks at each tick; blocks without a mapping cost next to nothing.
local function make_sweep(c, t, core)
   local outer, claims, used, remove = t.outer, t.claims, t.used, core.remove
   local blocks = #c.address * 3 * 256
   local cursor = 0
   return function(now)
      local looked = 0
      for _ = 1, blocks do
         cursor = (cursor + 1) % blocks
         if used:get(cursor) > 0 then
            for place = cursor * 256, cursor * 256 + 255 do
               if claims:get(place) ~= 0 and outer:get(place).expires <= now then remove(place, now) end
            end
            looked = looked + 1
            if looked == SWEEP_BLOCKS then return end
         end
      end
   end
end

-- The live mappings as plain tables, for people.
local function make_export(t)
   local names = { [TCP] = "tcp", [UDP] = "udp", [ICMP] = "icmp" }
   return function(now)
      local list = {}
      for _, place in t.inner:pairs() do
         local r = t.outer:get(place)
         if r.expires > now then
            local static = band(r.state, STATIC) ~= 0
            list[#list + 1] = {
               proto = names[r.class], inside = ("%s:%d"):format(tw.ip4_string(r.addr), r.port),
               outside = ("%s:%d"):format(tw.ip4_string(r.ext), r.ext_port), static = static,
               expires_in = not static and (r.expires - now) / 1e9 or nil,
            }
         end
      end
      table.sort(list, function(a, b) return a.proto .. a.outside < b.proto .. b.outside end)
      return list
   end
end

--- The mapping table of one NAT.
---@param c table configuration from config.check
---@param name string prefix of the tables' names
---@return table m tables, find, create, sweep, export
function M.new(c, name)
   local t = make_tables(c, name)
   local core = make_core(c, t)
   add_forwards(c, t, core)
   return {
      tables = t, find = core.find, find_outside = core.find_outside,
      create = make_create(c, t, core, make_search(c, t, core)),
      sweep = make_sweep(c, t, core), export = make_export(t),
   }
end

return M
