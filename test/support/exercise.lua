-- SPDX-License-Identifier: BSD-3-Clause
-- Calls everything that lua/tideway/packet offers on a packet, and checks what must always hold: nothing is
-- raised, a view is nil or entirely inside the frame, reading changes nothing, and writing back what was read
-- changes nothing either.

local ffi = require "ffi"
local in6 = require "tideway.packet.in6"
local packet = require "tideway.packet"
local checksum = require "tideway.packet.checksum"

local M = {}
local bytes_p = ffi.typeof "uint8_t *"

-- Offsets at every edge there is, as expressions of p (the packet) and T (header types by name).
local OFFSETS = {
   "nil", "0", "1", "13", "14", "18", "34", "-1", "-2^31", "2^31", "2^32", "2^53", "0/0", "1/0", "-1/0", "0.5",
   "p.len", "p.len - 1", "p.len - 2", "p.len - 4", "p.len - 6", "p.len - 8", "p.len - 14", "p.len - 20", "p.len - 40",
   "p.len + 1",
}

local NONE = { "" }
local A6 = "in6.from_words(0x20010db8, 0, 0, 1)"

-- Arguments to call each method with. A method that does not stand here makes the module fail: teach it.
local READ = {
   eth = NONE, vlan = { "", "1", "2", "3", "0" }, ethertype = NONE, arp = NONE, ipv4 = NONE, ipv6 = NONE,
   mpls = { "", "1", "2", "3", "16", "17", "0", "-1", "1.5", "0/0" },
   ipv4_option = { "0", "1", "7", "68", "131", "148" },
   ipv6_extension = { "0", "43", "44", "51", "60", "135", "6", "-1" },
   ipv6_fragment = NONE, is_fragment = NONE, tcp = NONE, tcp_option = { "0", "1", "2", "3", "8" },
   udp = NONE, sctp = NONE,
   icmp = NONE, icmp6 = NONE, nd = NONE, nd_option = { "1", "2", "5" }, gre = NONE, gre_key = NONE,
   vxlan = { "", "4789", "53" }, eth_at = OFFSETS, ipv4_at = OFFSETS, ipv6_at = OFFSETS, tcp_at = OFFSETS,
   udp_at = OFFSETS, icmp_at = OFFSETS, icmp6_at = OFFSETS, l3_offset = NONE, l4_offset = NONE, l4_protocol = NONE,
   payload_offset = NONE, icmp_inner_offset = NONE, u8 = OFFSETS, u16 = OFFSETS, u32 = OFFSETS, u48 = OFFSETS,
   valid_l4_checksum = NONE, header = {},
}
for name in pairs(packet.headers) do
   local room = "p.len - T.%s.size"
   for _, offset in ipairs { "nil", "0", "14", "-1", "2^32", "0/0", room, room .. " + 1", "p.len" } do
      table.insert(READ.header, ("T.%s, "):format(name) .. offset:format(name))
   end
end
table.sort(READ.header)

local WRITE = {
   set_u8 = { "%s, 255" }, set_u16 = { "%s, 0xfffe" }, set_u32 = { "%s, 0xfffefdfc" },
   set_u48 = { "%s, 0xfffefdfcfbfa" },
   update_l4_checksum = NONE, complete_l4_checksum = NONE,
   set_ipv4_src = { "0", "0xffffffff", "0x0a000001" }, set_ipv4_dst = { "0x0a000001" },
   set_ipv6_src = { A6 }, set_ipv6_dst = { A6 }, set_src_port = { "0", "65535", "1234" },
   set_dst_port = { "0", "65535", "80" },
}
-- These move the frame in its buffer: only where the packet has a real one.
local RESIZE = {
   adjust_head = {
      "0", "1", "-4", "14", "p.len", "p.len - 1", "p.len + 1", "-100000", "100000", "2^30", "-2^30", "-65540", "65540",
      "-2^31",
   },
   adjust_tail = {
      "0", "1", "-1", "p.len", "-p.len", "1 - p.len", "100000", "-100000", "2^30", "-2^30", "-65540", "65540", "-2^31",
   },
   push_vlan = { "1", "0xffff, 0x88a8" }, pop_vlan = NONE,
}

local METHODS = {}
for _, module in ipairs { "view", "raw", "rewrite" } do
   for name in pairs(require("tideway.packet." .. module)) do METHODS[#METHODS + 1] = name end
end
table.sort(METHODS)

local function call(method, arguments, by_offset)
   local code = ("local T, in6 = ... return function(p) return p:%s(%s) end"):format(method, arguments)
   return {
      name = ("pkt:%s(%s)"):format(method, arguments), by_offset = by_offset,
      run = loadstring(code, "=exercise")(packet.headers, in6),
   }
end

local function calls_of(set)
   local list = {}
   for _, method in ipairs(METHODS) do
      for _, arguments in ipairs(set[method] or {}) do
         if arguments:find("%s", 1, true) then
            for _, offset in ipairs(OFFSETS) do list[#list + 1] = call(method, arguments:format(offset), true) end
         else
            list[#list + 1] = call(method, arguments, set[method] == OFFSETS or method == "header")
         end
      end
   end
   return list
end

for _, method in ipairs(METHODS) do
   assert(READ[method] or WRITE[method] or RESIZE[method],
      "test/support/exercise.lua does not know how to call pkt:" .. method .. "()")
end

--- Calls that read, that write inside the frame, and that move its ends.
--- by_offset: the answer depends on an offset and the length, hardly on what is in the frame.
---@type { name: string, by_offset: boolean, run: fun(p: tideway.pkt): any }[]
M.read, M.write, M.resize = calls_of(READ), calls_of(WRITE), calls_of(RESIZE)

-- By how many bytes the frame is longer when it was done.
for _, entry in ipairs(M.resize) do
   local method, arguments = entry.name:match "^pkt:([%w_]+)%((.*)%)$"
   local code = ({ adjust_head = "-(%s)", adjust_tail = "%s", push_vlan = "4", pop_vlan = "-4" })[method]
   entry.grows = loadstring("local p = { len = ... } return " .. code:format(arguments))
end

-- ---- views ----

local function in6_code(field)
   return ([[
      local a = v.%s
      a:is_multicast() a:is_link_local() a:is_unspecified() a:is_loopback() a:is_unique_local() a:is_v4_mapped()
      a:matches(a, 64) a:u8(15) a:u32(3) a:solicited_node() a:multicast_mac()
      v.%s = a:copy()]]):format(field, field)
end

-- One function for each header type that reads every field and writes it back; one that calls what computes.
local function compile(header)
   local code = { "local v = ..." }
   for _, field in ipairs(header.fields) do
      code[#code + 1] = field.type == "ip6" and in6_code(field.name) or ("v.%s = v.%s"):format(field.name, field.name)
   end
   local ask, change = { "local v = ..." }, { "local v = ..." }
   local names = {}
   for name in pairs(header.methods) do names[#names + 1] = name end
   table.sort(names)
   for _, name in ipairs(names) do
      local reads = name:find "^is_" or name:find "^valid_"
      local list = reads and ask or change
      list[#list + 1] = ("v:%s(%s)"):format(name, name:find "^set_" and "0x0a0b0c0d" or "")
   end
   if header.name == "ipv4" then
      -- A header that says after the view was made that it is longer: the sum must stay inside the frame.
      change[#change + 1] = "for ihl = 0, 15 do v.ihl = ihl v:valid_checksum() v:update_checksum() end"
   end
   local function chunk(lines) return loadstring(table.concat(lines, "\n"), "=exercise " .. header.name) end
   return { header = header, same = chunk(code), ask = chunk(ask), change = chunk(change) }
end

local VIEWS = {}
for _, header in pairs(packet.headers) do VIEWS[#VIEWS + 1] = compile(header) end
table.sort(VIEWS, function(a, b) return a.header.name < b.header.name end)

local function view_of(value)
   if type(value) ~= "cdata" then return nil end
   for _, view in ipairs(VIEWS) do
      if ffi.istype(view.header.ctype, value) then return view end
   end
   error "a cdata that is no header view"
end

local function check_view(p, value)
   local view = view_of(value)
   if not view then return nil end
   local at = ffi.cast(bytes_p, value) - p.data
   if at < 0 or at + view.header.size > p.len then
      error(("a %s view at %d, in a frame of %d bytes"):format(view.header.name, at, p.len), 0)
   end
   view.ask(value)
   view.same(value)
   return view
end

-- Offsets that methods return must be where a byte of the frame is, or its end.
local IS_OFFSET = { l3_offset = true, l4_offset = true, payload_offset = true, icmp_inner_offset = true,
   ipv4_option = true, ipv6_extension = true, tcp_option = true, nd_option = true }

local function check_offset(p, name, offset, length)
   if offset == nil or not IS_OFFSET[name:match "^pkt:([%w_]+)"] then return end
   if offset < 0 or offset + (length or 0) > p.len then
      error(("offset %s, length %s in a frame of %d bytes"):format(offset, tostring(length), p.len), 0)
   end
end

--- Run one reading call on a packet and check what it gives; raises what is wrong.
---@param p tideway.pkt
---@param entry { name: string, run: function }
function M.check(p, entry)
   local value, extra = entry.run(p)
   if type(value) == "cdata" then
      check_view(p, value)
      entry.gives_view = true
   else
      check_offset(p, entry.name, value, extra)
   end
end

--- Take the view of a reading call and call the helpers that change what it shows.
---@param p tideway.pkt
---@param entry { name: string, run: function }
function M.change(p, entry)
   local value = entry.run(p)
   local view = view_of(value)
   if view then view.change(value) end
end

local SHARES = 16

--- A share of everything on one packet, in the order read, change, write, move the ends; the frame is destroyed.
---@param p tideway.pkt
---@param n integer counts packets: each takes another share of the calls
function M.share(p, n)
   local first = n % SHARES + 1
   for i = first, #M.read, SHARES do M.check(p, M.read[i]) end
   checksum.compute(p.data, p.len)
   if first == 1 then tostring(p) end
   for i = first, #M.read, SHARES do M.change(p, M.read[i]) end
   for i = first, #M.write, SHARES do M.write[i].run(p) end
   for i = first, #M.resize, SHARES do
      local entry, before = M.resize[i], p.len
      local done = entry.run(p)
      if p.len < 0 or p.len > 65535 then error(("%s: length %d"):format(entry.name, p.len), 0) end
      local grown = done and entry.grows(before) or 0
      if p.len ~= before + grown then
         error(("%s gave %s: %d bytes became %d"):format(entry.name, tostring(done), before, p.len), 0)
      end
   end
end

return M
