#!/usr/bin/env luajit
-- SPDX-License-Identifier: BSD-3-Clause
-- Writes the input of the benchmarks: a pcap of UDP flows and the routes that they hit.

local USAGE = [[
usage: make-input.lua DIR [--flows N] [--size BYTES] [--prefixes N] [--seed N]

Writes to DIR, the same bytes for the same arguments:
   flows.pcap   one UDP packet per flow (default 1024 flows of 64 bytes, checksums valid),
                each to an address of its own inside one of the prefixes
   routes4.txt  IPv4 prefixes in the format of DPDK's l3fwd: "R10.0.0.0/8 1" (default 10000)
   routes6.txt  one IPv6 prefix, because l3fwd wants both files
exit status: 0 done, 1 failed, 2 wrong use]]

local bit = require "bit"
local bxor, lshift, rshift = bit.bxor, bit.lshift, bit.rshift

-- The address that the pcap driver gives to its first port: what a router there must be sent.
local DST_MAC = "\2\112\99\97\112\0"
local SRC_MAC = "\2\0\0\0\1\2"

-- Prefix lengths in per mille, about as in the Internet's IPv4 table; 1 % longer than /24 so
-- that the second level of a 24-8 table is in use too.
local LENGTHS = {
   {8, 1}, {12, 2}, {14, 4}, {15, 5}, {16, 17}, {17, 10}, {18, 17}, {19, 28}, {20, 47},
   {21, 50}, {22, 111}, {23, 100}, {24, 598}, {26, 3}, {28, 3}, {32, 4},
}

---@return fun(n: integer): integer draws an integer of 0 .. n-1
local function generator(seed)
   -- xorshift32: the same numbers everywhere, which math.random does not promise.
   local x = seed == 0 and 1 or seed
   return function(n)
      x = bxor(x, lshift(x, 13))
      x = bxor(x, rshift(x, 17))
      x = bxor(x, lshift(x, 5))
      return (x % 2 ^ 32) % n
   end
end

local function u16(n) return string.char(math.floor(n / 256) % 256, n % 256) end
local function u32(n) return u16(math.floor(n / 65536)) .. u16(n % 65536) end

local function le32(n)
   return string.char(n % 256, math.floor(n / 256) % 256, math.floor(n / 65536) % 256,
      math.floor(n / 16777216) % 256)
end

local function dotted(ip)
   return ("%d.%d.%d.%d"):format(math.floor(ip / 16777216), math.floor(ip / 65536) % 256,
      math.floor(ip / 256) % 256, ip % 256)
end

-- RFC 1071, over a string of bytes.
local function checksum(s)
   local sum = 0
   for i = 1, #s, 2 do sum = sum + s:byte(i) * 256 + (s:byte(i + 1) or 0) end
   while sum > 0xffff do sum = sum % 65536 + math.floor(sum / 65536) end
   return 0xffff - sum
end

local function udp_frame(flow, size)
   local payload = ("\0"):rep(size - 14 - 20 - 8)
   local addresses = u32(flow.src) .. u32(flow.dst)
   local udp_len = 8 + #payload
   local ports = u16(flow.sport) .. u16(flow.dport) .. u16(udp_len)
   local sum = checksum(addresses .. "\0\17" .. u16(udp_len) .. ports .. "\0\0" .. payload)
   if sum == 0 then sum = 0xffff end
   local before = "\69\0" .. u16(20 + udp_len) .. "\0\0\64\0\64\17"
   local ip = before .. u16(checksum(before .. "\0\0" .. addresses)) .. addresses
   return DST_MAC .. SRC_MAC .. "\8\0" .. ip .. ports .. u16(sum) .. payload
end

local function draw_length(random)
   local left = random(1000)
   for _, entry in ipairs(LENGTHS) do
      left = left - entry[2]
      if left < 0 then return entry[1] end
   end
end

---@return {ip: integer, length: integer}[] distinct prefixes within 1.0.0.0 - 223.255.255.255
local function draw_prefixes(random, count)
   local prefixes, seen = {}, {}
   while #prefixes < count do
      local length = draw_length(random)
      local size = 2 ^ (32 - length)
      local ip = (1 + random(223)) * 2 ^ 24 + random(2 ^ 24)
      ip = ip - ip % size
      local key = dotted(ip) .. "/" .. length
      if not seen[key] and math.floor(ip / 2 ^ 24) ~= 127 then
         seen[key] = true
         prefixes[#prefixes + 1] = {ip = ip, length = length}
      end
   end
   return prefixes
end

local function draw_flows(random, count, prefixes)
   local flows = {}
   for i = 1, count do
      local prefix = prefixes[random(#prefixes) + 1]
      flows[i] = {
         src = 198 * 2 ^ 24 + 18 * 2 ^ 16 + i, -- RFC 2544: 198.18.0.0/15
         dst = prefix.ip + random(2 ^ (32 - prefix.length)),
         sport = 1024 + random(60000), dport = 1024 + random(60000),
      }
   end
   return flows
end

local function write(path, text)
   local file, err = io.open(path, "wb")
   if not file then
      io.stderr:write("make-input: cannot write: ", err, "\n")
      os.exit(1)
   end
   file:write(text)
   file:close()
end

local function parse(args)
   local options = {flows = 1024, size = 64, prefixes = 10000, seed = 1}
   local i = 1
   while args[i] do
      local key = args[i]:match "^%-%-(%a+)$"
      local value = tonumber(args[i + 1])
      if args[i] == "--help" or args[i] == "-h" then
         print(USAGE)
         os.exit(0)
      elseif key and options[key] and value then
         options[key], i = value, i + 1
      elseif key or options.dir then
         io.stderr:write("make-input: cannot use '", args[i], "'; see: make-input.lua --help\n")
         os.exit(2)
      else
         options.dir = args[i]
      end
      i = i + 1
   end
   if not options.dir or options.size < 60 or options.size > 1514 then
      io.stderr:write(USAGE, "\n")
      os.exit(2)
   end
   return options
end

local options = parse(arg)
local random = generator(options.seed)
local prefixes = draw_prefixes(random, options.prefixes)

local lines = {}
for i, prefix in ipairs(prefixes) do
   lines[i] = ("R%s/%d 1\n"):format(dotted(prefix.ip), prefix.length)
end
write(options.dir .. "/routes4.txt", table.concat(lines))
write(options.dir .. "/routes6.txt", "R2001:db8:2::/64 1\n")

-- pcap, little-endian, microseconds, Ethernet.
local out = {"\212\195\178\161\2\0\4\0" .. le32(0) .. le32(0) .. le32(65535) .. le32(1)}
for _, flow in ipairs(draw_flows(random, options.flows, prefixes)) do
   local frame = udp_frame(flow, options.size)
   out[#out + 1] = le32(0) .. le32(0) .. le32(#frame) .. le32(#frame) .. frame
end
write(options.dir .. "/flows.pcap", table.concat(out))
