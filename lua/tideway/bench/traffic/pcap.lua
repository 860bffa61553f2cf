-- SPDX-License-Identifier: BSD-3-Clause
-- Packets from capture files: every frame of a pcap or pcapng file as traffic, rewritten on the way if asked for.

local ffi = require "ffi"
local abi = require "tideway.abi"
local log = require "tideway.log"
local frames = require "tideway.bench.traffic.frames"
local rewrite = require "tideway.bench.traffic.rewrite"
local script = require "tideway.bench.traffic.script"
local sizes = require "tideway.bench.traffic.sizes"

local C = abi.C

local M = {}

local OPTIONS = {
   loop = "boolean", limit = "number", rewrite = "table|function", stamp = "boolean", memory_mb = "number",
}
local MEMORY_MB = 256
local ETHERNET = 14
local SHORTEST, LONGEST = sizes.LEAST - sizes.FCS, sizes.MOST - sizes.FCS
-- What Lua needs for a string beside its bytes.
local OVERHEAD = 32

---@class tideway.bench.pcap.reader
---@field path string
---@field list string[] frames
---@field bytes integer
---@field cut integer packets that were not captured whole
---@field buffer ffi.cdata*
local Reader = {}
Reader.__index = Reader

function Reader:fail(text, ...) error(("bench.pcap: %s: " .. text):format(self.path, ...), 0) end

function Reader:note(text, ...)
   local note = ("%s: " .. text):format(self.path, ...)
   self.notes[#self.notes + 1] = note
   log.print("warning", note)
end

-- One packet as a frame: filled up where it was cut when it was captured, padded as a device does.
function Reader:frame(packet, number)
   local length = math.max(packet.len, packet.caplen)
   if length > LONGEST then
      self:fail("packet %d has %d bytes, a frame has %d at most; capture where no device or kernel puts segments "
         .. "together (ethtool -K IFACE gro off tso off)", number, length, LONGEST)
   elseif packet.caplen < ETHERNET then
      self:fail("packet %d has %d bytes, fewer than an Ethernet header", number, packet.caplen)
   end
   if packet.caplen < packet.len then self.cut = self.cut + 1 end
   length = math.max(length, SHORTEST)
   local buffer = self.buffer
   ffi.copy(buffer, packet.bytes, packet.caplen)
   ffi.fill(buffer + packet.caplen, length - packet.caplen)
   if self.rewrite then
      local pkt = frames.packet(buffer, length)
      frames.run_fill(pkt, self.rewrite, number, "bench.pcap: rewrite")
      ffi.copy(buffer, pkt.data, length)
   end
   if not self.stamp then return ffi.string(buffer, length) end
   ffi.fill(buffer + length, frames.STAMP)
   return ffi.string(buffer, length + frames.STAMP)
end

function Reader:add(packet, number)
   local frame = self:frame(packet, number)
   self.bytes = self.bytes + #frame + OVERHEAD
   if self.bytes > self.memory_mb * 1e6 then
      self:fail("more than %d MB at packet %d; read fewer of them, limit = %d, or allow more, memory_mb = %d",
         self.memory_mb, number, number - 1, self.memory_mb * 4)
   end
   self.list[number] = frame
end

function Reader:read(capture, limit)
   local packet = ffi.new "struct tw_capture_packet"
   for number = 1, limit do
      local result = C.tw_capture_next(capture, packet)
      if result == 0 then return end
      if result < 0 then
         if number == 1 then self:fail("%s", abi.error()) end
         return self:note("%s; what came before is used: %d packets", abi.error(), number - 1)
      end
      self:add(packet, number)
   end
end

local function read(path, given)
   if type(path) ~= "string" or path == "" then
      error(("bench.pcap takes the name of a file, not %s"):format(tostring(path)), 0)
   end
   local options = script.options("bench.pcap", given, OPTIONS)
   local limit = script.whole("bench.pcap: limit", options.limit or 2 ^ 31, 1, 2 ^ 31)
   local reader = setmetatable({
      path = path, list = {}, bytes = 0, cut = 0, notes = {}, stamp = options.stamp or false,
      rewrite = rewrite.new(options.rewrite), buffer = ffi.new("uint8_t[?]", sizes.MOST + frames.STAMP),
      memory_mb = script.whole("bench.pcap: memory_mb", options.memory_mb or MEMORY_MB, 1, 65536),
   }, Reader)
   local capture = C.tw_capture_open(path)
   if capture == nil then error("bench.pcap: " .. abi.error(), 0) end
   local ok, err = pcall(reader.read, reader, capture, limit)
   C.tw_capture_close(capture)
   if not ok then error(err, 0) end
   if #reader.list == 0 then reader:fail "there is no packet in it" end
   if reader.cut > 0 then
      reader:note("%d of %d packets were cut when they were captured; zeros stand for what is missing", reader.cut,
         #reader.list)
   end
   return {
      frames = reader.list, indexes = {}, fields = {}, sums = {}, stamp = reader.stamp, once = options.loop == false,
      notes = reader.notes, bytes = reader.bytes,
   }
end

--- Packets from a capture file (pcap or pcapng of Ethernet frames), in its order and as fast as the source is told.
---
--- `loop`: from the start again behind the last (default true); `limit`: so many packets of the file at most;
--- `memory_mb`: refused when they need more (default 256); `stamp`: a trailer of 16 bytes behind each frame, which
--- belongs to no header, so that nothing in the packet changes; `rewrite`: { eth = { src, dst }, vlan = { id, pcp },
--- ipv4 = { src, dst, ttl, dscp, id }, ipv6 = { src, dst, hop_limit, dscp }, udp = { src, dst }, tcp = { src, dst } }
--- for packets that have such a header, with values, bench.count, random, list, or for addresses a prefix, which keeps
--- the host's part; or a function(pkt, number) as an NF. Checksums of what a table rewrites follow.
---@param path string
---@param options? { loop?: boolean, limit?: integer, memory_mb?: integer, stamp?: boolean, rewrite?: table|function }
---@return tideway.bench.traffic traffic `bytes` is the memory that its frames take, `notes` says what was wrong with
--- the file, a sentence each
function M.pcap(path, options) return (script.at_caller(read, path, options)) end

return M
