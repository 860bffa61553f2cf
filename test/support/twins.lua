-- SPDX-License-Identifier: BSD-3-Clause
-- The NF suite: every NF of examples/nf with a configuration, packets that reach all of its branches, and the C
-- program of bpf/twin that does the same. What compares back-ends with each other, or with clang, starts here.
--
--    for _, twin in ipairs(twins.list) do
--       local nf = twins.make(twin)                      -- an instance; its tables are filled from the configuration
--       for _, t in pairs(nf.tables) do
--          for key, value in twins.entries(t) do ... end -- the same entries as a kernel map of that name holds them
--       end
--       for _, frame in ipairs(twins.packets(twin, seed, 1000)) do ... end
--    end

local ffi = require "ffi"
local frame = require "test.support.frame"
local traffic = require "test.support.traffic"

local M = {}

---@class twins.twin
---@field name string  bpf/twin/NAME.bpf.c
---@field nf string?  examples/nf/NF.lua, when it has another name
---@field config table  what the C program has as constants
---@field traffic fun(r: traffic.random): string  one frame
---@field hook_only boolean?  uses what lcores do not have
---@field timed string[]?  names of tables that hold time stamps or what follows from them
---@field grows boolean?  adds and removes entries of its tables itself

---@type twins.twin[]
M.list = {}

local function twin(t)
   M.list[#M.list + 1] = t
   M.list[t.name] = t
end

--- The constructor of the twin's NF.
---@param t twins.twin
---@return tideway.nf.constructor
function M.constructor(t)
   if not package.path:find("examples/?.lua", 1, true) then package.path = "examples/?.lua;" .. package.path end
   return require("nf." .. (t.nf or t.name))
end

--- A new instance with the twin's configuration. Its tables are new and filled.
---@param t twins.twin
---@return tideway.nf.instance
function M.make(t) return M.constructor(t)(t.config) end

--- Frames of one seed, always the same ones; each has 14 bytes or more.
---@param t twins.twin
---@param seed integer
---@param count integer
---@return string[]
function M.packets(t, seed, count)
   local r, list = traffic.random(seed), {}
   for i = 1, count do list[i] = t.traffic(r) end
   return list
end

-- ---- tables as kernel maps ----

local function bytes_of(type, value)
   local object = ffi.new(ffi.typeof("$[1]", type.ctype))
   object[0] = value
   return ffi.string(object, type.size)
end

-- struct bpf_lpm_trie_key: length, then the address in network order.
local function prefix_bytes(family, key)
   local address = ffi.string(key, family == 6 and 16 or 4)
   if family == 4 then address = address:reverse() end
   return ffi.string(ffi.new("uint32_t[1]", key.length), 4) .. address
end

--- Iterates over the entries of a table as key and value bytes of the kernel map that holds the same. Entries of
--- arrays that are all zero, as at the start, are left out; so are counters.
---@param t tideway.Table
---@return fun(): string?, string?
function M.entries(t)
   if t.kind == "counters" or t.kind == "ringbuf" then return function() end end
   local next_entry = t:pairs()
   return function()
      while true do
         local key, value = next_entry()
         if key == nil then return nil end
         value = bytes_of(t.value_type, value)
         if t.kind == "lpm" then return prefix_bytes(t.family, key), value end
         if t.kind ~= "array" or value:find "[^%z]" then return bytes_of(t.key_type, key), value end
      end
   end
end

-- ---- the suite ----

twin {
   name = "ttl",
   config = {},
   traffic = function(r) return traffic.ip(r, { src = { "10.0.0.1" }, dst = { "10.0.0.2" } }) end,
}

twin {
   name = "ttl_router",
   config = {
      entries = 1024,
      one_armed = true,
      hops = {
         { dst = "02:00:00:00:01:01", src = "02:00:00:00:00:01" },
         { dst = "02:00:00:00:02:02", src = "02:00:00:00:00:02" },
         { dst = "fe:dc:ba:98:76:54", src = "02:00:00:00:00:03" },
      },
      routes = {
         ["10.0.0.0/8"] = 1, ["10.1.0.0/16"] = 2, ["10.1.2.0/24"] = 3, ["10.1.2.3/32"] = 1, ["192.0.2.128/25"] = 2,
         ["2001:db8::/32"] = 1, ["2001:db8:1::/48"] = 2, ["2001:db8::1/128"] = 3,
      },
   },
   traffic = function(r)
      if r:one_in(3) then
         return traffic.ip6(r, { "2001:db8::1", "2001:db8::2", "2001:db8:1::9", "2001:db9::1", "fe80::1" })
      end
      return traffic.ip(r, {
         src = { "10.9.9.9" },
         dst = { "10.0.0.1", "10.1.0.1", "10.1.2.4", "10.1.2.3", "192.0.2.127", "192.0.2.128", "203.0.113.1" },
      })
   end,
}

twin {
   name = "acl",
   config = {
      entries = 1024,
      sources = { ["10.0.0.0/8"] = 1, ["10.66.0.0/16"] = 2, ["192.0.2.7/32"] = 3 },
      rules = {
         { group = 1, dst = "10.0.0.2", port = 80, proto = 6, allow = true },
         { group = 1, dst = "10.0.0.2", port = 53, proto = 17, allow = false },
         { group = 2, dst = "10.0.0.2", proto = 6, allow = false },
         { group = 2, dst = "10.0.0.2", port = 443, proto = 6, allow = true },
         { group = 0, dst = "10.0.0.3", proto = 17, allow = false },
         { group = 3, dst = "10.0.0.3", port = 22, proto = 6, allow = false },
         { group = 1, dst = "10.0.0.2", proto = 1, allow = false },
      },
   },
   traffic = function(r)
      return traffic.ip(r, {
         src = { "10.0.0.1", "10.66.1.1", "192.0.2.7", "192.0.2.8" }, dst = { "10.0.0.2", "10.0.0.3", "10.0.0.4" },
         dport = { 80, 53, 443, 22, 0, 81 }, proto = { 6, 17, 1, 6, 17, 132 },
      })
   end,
}

twin {
   name = "nat44",
   config = {
      hosts = { ["10.0.0.5"] = "192.0.2.5", ["10.0.0.6"] = "192.0.2.6" },
      ports = {
         { proto = 6, inside = "10.0.0.2", inside_port = 80, outside = "192.0.2.1", outside_port = 8080 },
         { proto = 17, inside = "10.0.0.2", inside_port = 53, outside = "192.0.2.1", outside_port = 53 },
         { proto = 17, inside = "10.0.0.5", inside_port = 123, outside = "192.0.2.9", outside_port = 1123 },
      },
   },
   traffic = function(r)
      local inside = { "10.0.0.2", "10.0.0.5", "10.0.0.6", "10.0.0.7" }
      local outside = { "192.0.2.1", "192.0.2.5", "192.0.2.6", "192.0.2.9", "203.0.113.9" }
      local back = r:one_in(2)
      if r:one_in(20) then -- the checksum comes out as 0, which UDP writes as 0xffff
         local to = frame.udp({ src = "192.0.2.1", dst = outside[1] }, { sport = 53, dport = 7 }, "\0\0")
         return frame.udp4({}, { src = inside[1], dst = outside[1] }, { sport = 53, dport = 7 }, to:sub(7, 8))
      end
      return traffic.ip(r, {
         src = back and { "203.0.113.9" } or inside, dst = outside, proto = { 6, 17, 17, 1 },
         sport = { 80, 53, 123, 1000 }, dport = { 8080, 53, 1123, 80 },
      })
   end,
}

local vips = {
   { address = "192.0.2.1", port = 80, proto = 6, reals = { "10.0.0.2", "10.0.0.3", "10.0.0.4" } },
   { address = "192.0.2.1", port = 443, proto = 17, reals = { "10.0.0.3", "10.0.0.5" } },
}

local function to_vips(r)
   return traffic.ip(r, {
      src = { "203.0.113.1", "203.0.113.2", "198.51.100.77" }, dst = { "192.0.2.1", "192.0.2.1", "192.0.2.2" },
      dport = { 80, 443, 443, 81 }, proto = { 6, 17, 17, 6, 1 },
   })
end

twin {
   name = "lb_ipip", nf = "lb", config = { vips = vips, gateway = "02:00:00:00:00:fe", tunnel = "ipip" },
   traffic = to_vips,
}

twin {
   name = "lb_gue", nf = "lb", config = { vips = vips, gateway = "02:00:00:00:00:fe", tunnel = "gue" },
   traffic = to_vips,
}

-- A packet as it stands in a tunnel; now and then one that is none.
local function tunnelled(r, six)
   local n = r:range(1, 12)
   if n == 1 then return r:bytes(r:range(0, 60)) end
   if n == 2 then six = not six end
   if six then
      local i = { src = "2001:db8::1", dst = "2001:db8::2", next = 17, length = r:one_in(12) and 2000 or nil }
      return frame.ipv6(i, traffic.transport(r, i, 17, {}))
   end
   local i = { src = "10.1.0.1", dst = "10.1.0.2", proto = 17, total_length = r:one_in(12) and 900 or nil }
   local packet = frame.ipv4(i, traffic.transport(r, i, 17, {}))
   if n > 4 then return packet end
   return r:pick { "\68", "\70", "\79" } .. packet:sub(2)
end

local function gue(r)
   local head = r:pick { "", "", "\0\4\0\0", "\0\41\0\0", "\0\4\0\1", "\1\4\0\0", "\32\4\0\0" }
   return head .. tunnelled(r, r:one_in(3))
end

twin {
   name = "decap",
   config = { addresses = { "10.0.0.2", "10.0.0.3" } },
   traffic = function(r)
      return traffic.ip(r, {
         src = { "10.9.0.1" }, dst = { "10.0.0.2", "10.0.0.3", "10.0.0.4" }, proto = { 4, 41, 17, 17, 6 },
         inner = function(_, i)
            if i.proto == 17 then return traffic.transport(r, i, 17, { dport = { 6080, 6080, 53 }, data = gue }) end
            if i.proto == 6 then return traffic.transport(r, i, 6, {}) end
            return tunnelled(r, i.proto == 41)
         end,
      })
   end,
}

local stations = {
   { mac = "02:00:00:00:00:02", vni = 7001, at = "172.16.0.2" },
   { mac = "02:00:00:00:00:02", vni = 0xabcdef, at = "172.16.0.3" },
   { mac = "02:00:00:00:00:ff", vni = 7001, at = "192.168.77.9" },
}

-- Payload of a packet to UDP port 4789: VXLAN header and a frame.
local function vxlan(r)
   local head = r:pick { "\8", "\8", "\8", "\8", "\0", "\12" } .. r:pick { "\0\0\0", "\0\0\0", "\1\2\3" }
   local vni = r:pick { 7001, 7001, 0xabcdef, 7002 }
   if r:one_in(16) then return r:bytes(r:range(0, 20)) end
   return head .. frame.u32(vni * 256) .. traffic.ip(r, { src = { "10.1.0.1" }, dst = { "10.1.0.2" }, tagged = 100 })
end

twin {
   name = "vxlan",
   config = {
      address = "172.16.0.1", mac = "02:00:00:00:00:01", gateway = "02:00:00:00:00:fe",
      vlans = { [10] = 7001, [20] = 0xabcdef }, stations = stations,
   },
   traffic = function(r)
      if r:one_in(2) then
         return traffic.ip(r, { src = { "10.1.0.1" }, dst = { "10.1.0.2" }, vids = { 10, 10, 20, 30 }, tagged = 1 })
      end
      return traffic.ip(r, {
         src = { "172.16.0.2" }, dst = { "172.16.0.1", "172.16.0.1", "172.16.0.9" }, proto = { 17 },
         dport = { 4789, 4789, 4789, 4790 }, data = vxlan, tagged = 30,
      })
   end,
}

-- TCP options: right ones in any order, wrong lengths, noise; in whole words.
local function tcp_options(r)
   local list = {}
   for i = 1, r:range(1, 5) do
      list[i] = r:pick {
         "\2\4\5\180", "\2\4\2\24", "\2\4\35\40", "\1", "\3\3\7", "\4\2", "\8\10\0\0\0\1\0\0\0\0",
         "\0", "\2\3\1", "\9\0", "\30\41",
      }
   end
   local text = table.concat(list):sub(1, 40)
   return text .. ("\1"):rep(-#text % 4)
end

twin {
   name = "syn_cookie",
   config = { services = { { address = "192.0.2.1", port = 80 }, { address = "192.0.2.2", port = 443 } } },
   hook_only = true,
   grows = true,
   traffic = function(r)
      return traffic.ip(r, {
         src = { "203.0.113.1", "203.0.113.2" }, dst = { "192.0.2.1", "192.0.2.2" }, proto = { 6, 6, 6, 17 },
         dport = { 80, 443, 80, 22 }, flags = { 2, 2, 2, 2, 0xc2, 0x10, 0x18, 0x12, 4, 0x11, 3 }, options = tcp_options,
      })
   end,
}

local names = { "ads.example.com", "Tracker.Example.NET", "a.very.long.name." .. ("x"):rep(63) .. ".test" }
local asked = { "ads.example.com", "ADS.eXample.com", "tracker.example.net", names[3], "example.com", "adsexample.com" }

local function query(r)
   local labels = {}
   for label in r:pick(asked):gmatch "[^.]+" do labels[#labels + 1] = string.char(#label) .. label end
   local qname = table.concat(labels) .. "\0"
   if r:one_in(12) then qname = "\192\12" end
   if r:one_in(12) then qname = r:bytes(r:range(1, 30)) end
   if r:one_in(25) then qname = ("\63" .. ("y"):rep(63)):rep(r:range(3, 5)) .. "\0" end
   local flags, count = r:pick { 0x0100, 0x0100, 0x0000, 0x0120, 0x8180, 0x2800 }, r:pick { 1, 1, 1, 1, 1, 0, 2 }
   return frame.u16(r:range(0, 65535)) .. frame.u16(flags) .. frame.u16(count) .. ("\0"):rep(6) .. qname .. "\0\1\0\1"
end

twin {
   name = "dns",
   config = { names = names },
   traffic = function(r)
      return traffic.ip(r, {
         src = { "10.0.0.1", "10.0.0.9" }, dst = { "10.0.0.53" }, proto = { 17, 17, 17, 17, 6 },
         dport = { 53, 53, 53, 53, 54 }, data = query,
      })
   end,
}

twin {
   name = "sampler",
   config = { one_in = 4 },
   hook_only = true,
   timed = { "sampler_stats" },
   traffic = function(r) return traffic.ip(r, { src = { "10.0.0.1" }, dst = { "10.0.0.2" } }) end,
}

twin {
   name = "knock",
   config = { port = 22, sequence = { 7000, 8000, 9000 }, window = 3600 },
   timed = { "knock_states" },
   grows = true,
   traffic = function(r)
      return traffic.ip(r, {
         src = { "10.0.0.1", "10.0.0.2" }, dst = { "10.0.0.3" }, proto = { 6, 17, 6, 1 },
         dport = { 7000, 8000, 9000, 7000, 8000, 9000, 22, 22, 80 },
      })
   end,
}

twin {
   name = "ddos",
   config = { entries = 1024, blocked = { "198.51.100.0/24", "203.0.113.7/32" }, limit = 100, window = 3600 },
   timed = { "ddos_cells" },
   traffic = function(r)
      return traffic.ip(r, {
         src = { "198.51.100.3", "203.0.113.7", "203.0.113.8", "10.0.0.1", "10.0.0.200", "10.0.1.1", "192.0.2.1" },
         dst = { "192.0.2.1", "192.0.2.2" }, flags = { 2, 0x10, 0x18, 3, 6, 0, 0x10 },
      })
   end,
}

twin {
   name = "rate_limit",
   -- Three bytes a second, and frames of whole hundreds of bytes: how long a test takes changes no verdict.
   config = { rate = 3, burst = 15000 },
   timed = { "buckets" },
   grows = true,
   traffic = function(r)
      local f = traffic.ip(r, { src = { "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4" }, dst = { "10.0.1.1" } })
      return f .. ("\0"):rep(-#f % 100)
   end,
}

twin {
   name = "vlan",
   config = { map = { [0] = { push = 10 }, [20] = { pop = true }, [30] = { to = 31 }, [40] = { push = 7 }, [5] = {} } },
   traffic = function(r)
      return traffic.ip(r, { src = { "10.0.0.1" }, dst = { "10.0.0.2" }, vids = { 20, 30, 40, 5, 6, 0 }, tagged = 2 })
   end,
}

return M
