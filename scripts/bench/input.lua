-- SPDX-License-Identifier: BSD-3-Clause
-- The input of the benchmarks: UDP flows, the routes that they hit, files of both. Always the same bytes.

local bit = require "bit"
local lfs = require "lfs"
local bxor, lshift, rshift = bit.bxor, bit.lshift, bit.rshift

local M = {}

local FLOWS, SIZE, SEED = 1024, 64, 1

-- The address that the pcap driver gives to its first port: what a router there must be sent.
local DST_MAC = "\2\112\99\97\112\0"
local SRC_MAC = "\2\0\0\0\1\2"

-- Prefix lengths in per mille, about as in the Internet's IPv4 table; 1 % longer than /24 so
-- that the second level of a 24-8 table is in use too.
local LENGTHS = {
   { 8, 1 }, { 12, 2 }, { 14, 4 }, { 15, 5 }, { 16, 17 }, { 17, 10 }, { 18, 17 }, { 19, 28 }, { 20, 47 },
   { 21, 50 }, { 22, 111 }, { 23, 100 }, { 24, 598 }, { 26, 3 }, { 28, 3 }, { 32, 4 },
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

local function udp_frame(flow, dst, src)
   local payload = ("\0"):rep(SIZE - 14 - 20 - 8)
   local addresses = u32(flow.src) .. u32(flow.dst)
   local udp_len = 8 + #payload
   local ports = u16(flow.sport) .. u16(flow.dport) .. u16(udp_len)
   local sum = checksum(addresses .. "\0\17" .. u16(udp_len) .. ports .. "\0\0" .. payload)
   if sum == 0 then sum = 0xffff end
   local before = "\69\0" .. u16(20 + udp_len) .. "\0\0\64\0\64\17"
   local ip = before .. u16(checksum(before .. "\0\0" .. addresses)) .. addresses
   return dst .. src .. "\8\0" .. ip .. ports .. u16(sum) .. payload
end

local function draw_length(random)
   local left = random(1000)
   for _, entry in ipairs(LENGTHS) do
      left = left - entry[2]
      if left < 0 then return entry[1] end
   end
end

---@return { ip: integer, length: integer }[] distinct prefixes within 1.0.0.0 - 223.255.255.255
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
         prefixes[#prefixes + 1] = { ip = ip, length = length }
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

-- ---- files ----

local here = arg[0]:match "^(.*)/[^/]*$" or "."
if here:sub(1, 1) ~= "/" then here = (lfs.currentdir() .. "/" .. here):gsub("/%./", "/"):gsub("/%.$", "") end

--- The repository.
M.root = here:gsub("/scripts/bench$", "")
--- Where the files and the logs are.
M.dir = M.root .. "/build/bench"

local function write(path, text)
   local file = assert(io.open(path, "wb"))
   file:write(text)
   file:close()
end

local function write_routes(path, prefixes)
   local lines = {}
   for i, prefix in ipairs(prefixes) do lines[i] = ("R%s/%d 1\n"):format(dotted(prefix.ip), prefix.length) end
   write(path, table.concat(lines))
end

-- Little-endian, microseconds, Ethernet.
local function write_pcap(path, flows)
   local out = { "\212\195\178\161\2\0\4\0" .. le32(0) .. le32(0) .. le32(65535) .. le32(1) }
   for _, flow in ipairs(flows) do
      local frame = udp_frame(flow, DST_MAC, SRC_MAC)
      out[#out + 1] = le32(0) .. le32(0) .. le32(#frame) .. le32(#frame) .. frame
   end
   write(path, table.concat(out))
end

local function draw(count)
   local random = generator(SEED)
   local prefixes = draw_prefixes(random, count)
   return prefixes, draw_flows(random, FLOWS, prefixes)
end

--- Files for so many prefixes, written when they are not there.
---@param count? integer default 10000
---@return { pcap: string, routes4: string, routes6: string }
function M.files(count)
   count = count or 10000
   lfs.mkdir(M.root .. "/build")
   lfs.mkdir(M.dir)
   local files = {
      pcap = ("%s/flows-%d.pcap"):format(M.dir, count), routes4 = ("%s/routes4-%d.txt"):format(M.dir, count),
      routes6 = M.dir .. "/routes6.txt", -- l3fwd wants both
   }
   local made, since = lfs.attributes(files.pcap, "modification"), lfs.attributes(here .. "/input.lua", "modification")
   if made and made > since then return files end
   local prefixes, flows = draw(count)
   write_routes(files.routes4, prefixes)
   write(files.routes6, "R2001:db8:2::/64 1\n")
   write_pcap(files.pcap, flows)
   return files
end

--- The same flows as frames between other stations.
---@param dst string six bytes
---@param src string
---@return string[]
function M.frames(dst, src)
   local _, flows = draw(10000)
   local frames = {}
   for i, flow in ipairs(flows) do frames[i] = udp_frame(flow, dst, src) end
   return frames
end

return M
