-- SPDX-License-Identifier: BSD-3-Clause
-- The receiving side: sinks, ports where packets end, and probes on what other ports receive. Both count, and read the
-- stamps that sources put at the end of frames: loss, duplicates, reordering, latency, per stream.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local histogram = require "tideway.bench.histogram"
local model = require "tideway.model"
local ports = require "tideway.port"

local C = abi.C
local M = {}

---@class tideway.bench.probe
---@field port tideway.port
---@field side integer enum tw_probe_side
---@field stamps boolean it reads stamps
local Probe = {}
Probe.__index = Probe

---@class tideway.bench.stream
---@field epoch integer start of the source that is counted, modulo 256
---@field received integer packets: unique + duplicated + old
---@field unique integer packets that were the first with their number; loss is what was sent less these
---@field duplicated integer copies of packets that were received
---@field reordered integer unique packets behind one with a higher number (RFC 4737, 3.3: Type-P-Reordered)
---@field extent integer largest reordering extent (RFC 4737, 4.2), in packets that are no copies
---@field old integer 65,472 numbers or more behind the highest: first or copy, that is not remembered
---@field highest integer highest number so far; counts on where numbers wrap at 2^32
---@field stale integer packets of an earlier start of the source, not received
---@field ahead integer packets whose latency was below 0, by less than 1 ms: taken for 0
---@field ipdv { pairs: integer, mean: number?, max: number? } ns; differences, without sign, of the latencies of
--- packets one behind the other in number and arrival (IPDV: RFC 5481, 4.1)

---@class tideway.bench.received
---@field packets integer received by the port (sink: sent to it)
---@field bytes integer without FCS
---@field foreign integer packets without a stamp that can be one
---@field streams table<integer, tideway.bench.stream>
---@field received integer ... and `unique`, `duplicated`, `reordered`, `old`, `stale`: sums over the streams

-- Words of struct tw_probe_stream as they are; those that are summed.
local WORDS = {
   "epoch", "received", "unique", "duplicated", "reordered", "extent", "old", "highest", "stale", "ahead",
}
local SUMS = { "received", "unique", "duplicated", "reordered", "old", "stale" }

-- Packets and bytes that lcores counted for the port, from its start on.
local function port_counts(self)
   local stats, rx = C.tw_stats(), self.side == C.TW_PROBE_RX
   local packets, bytes = 0ULL, 0ULL
   for i = 0, C.TW_LCORES_MAX - 1 do
      local p = stats.lcore[i].port[self.port.index]
      packets, bytes = packets + (rx and p.rx_packets or p.tx_packets), bytes + (rx and p.rx_bytes or p.tx_bytes)
   end
   return tonumber(packets), tonumber(bytes)
end

local function read_stream(self, number)
   local c = ffi.new "struct tw_probe_stream"
   if C.tw_probe_stream(self.port.index, self.side, number, c) < 0 then error(abi.error(), 3) end
   local pairs_seen = tonumber(c.ipdv_pairs)
   local out = { ipdv = { pairs = pairs_seen } }
   if pairs_seen > 0 then
      out.ipdv.mean, out.ipdv.max = tonumber(c.ipdv_sum) / pairs_seen, tonumber(c.ipdv_max)
   end
   for _, key in ipairs(WORDS) do out[key] = tonumber(c[key]) end
   return out
end

-- The state of the probe in C, or nil and why there is none.
local function info_of(self)
   if not self.port.opened or model.find(model.running.ports, "index", self.port.index) ~= self.port then
      return nil, ("%s is not open: no chain of an engine that runs has it"):format(tostring(self.port))
   end
   local info = ffi.new "struct tw_probe_info"
   if self.stamps and C.tw_probe_info(self.port.index, self.side, info) < 0 then return nil, abi.error() end
   return info
end

--- What came since the last reset. While packets come the figures of a stream fit each other, those of several streams
--- nearly so; when they have stopped all are exact.
---@return tideway.bench.received? counts
---@return string? err the port is not open
function Probe:counters()
   local info, err = info_of(self)
   if not info then return nil, err end
   local out = { streams = {}, foreign = tonumber(info.foreign) }
   for _, key in ipairs(SUMS) do out[key] = 0 end
   for number = 0, C.TW_STREAMS_MAX - 1 do
      if bit.band(info.streams, bit.lshift(1ULL, number)) ~= 0 then
         local stream = read_stream(self, number)
         out.streams[number] = stream
         for _, key in ipairs(SUMS) do out[key] = out[key] + stream[key] end
      end
   end
   local packets, bytes = port_counts(self)
   out.packets, out.bytes = packets - self.packets, bytes - self.bytes
   return out
end

--- Count from 0. Lcores are not stopped for it.
---@return boolean? ok
---@return string? err the port is not open
function Probe:reset()
   local info, err = info_of(self)
   if not info then return nil, err end
   self.packets, self.bytes = port_counts(self)
   if self.stamps and C.tw_probe_reset(self.port.index, self.side) < 0 then return nil, abi.error() end
   return true
end

--- Latencies since the last reset, from the stamp to here: of packets with a number for the first time. `clock` of the
--- histogram is "tsc": the CPU's counter, read once per burst; "device": receive times of the device, converted by its
--- clock; "mixed": some of each.
---@param stream? integer (all)
---@return tideway.bench.histogram? histogram ns
---@return string? err the port is not open; it reads no stamps
function Probe:latency(stream)
   local info, err = info_of(self)
   if not info then return nil, err end
   if not self.stamps then
      return nil, ("%s was made with stamps = false, so it knows no latency"):format(tostring(self.port))
   end
   local device, received = tonumber(info.device_clocked), 0
   for number = 0, C.TW_STREAMS_MAX - 1 do
      if bit.band(info.streams, bit.lshift(1ULL, number)) ~= 0 then
         received = received + read_stream(self, number).received
      end
   end
   local h = histogram.histogram { clock = device == 0 and "tsc" or device >= received and "device" or "mixed" }
   if C.tw_probe_latency(self.port.index, self.side, stream or -1, h.data) < 0 then return nil, abi.error() end
   return h
end

--- Look no more. Of a sink: with its port.
function Probe:close()
   if self.stamps and self.port.opened then C.tw_probe_close(self.port.index, self.side) end
end

local function new(port, side, stamps)
   return setmetatable({ port = port, side = side, stamps = stamps, packets = 0, bytes = 0 }, Probe)
end

-- The devargs of a device with a free number; those of the running port of this name, so that a reload goes on with it.
local function numbered(form, name)
   local same = name and model.find(model.running.ports, "name", name)
   if same and same.devargs:match("^" .. form:gsub("%%d", "%%d+"):gsub("%-", "%%-") .. "$") then return same.devargs end
   for number = 0, C.TW_PORTS_MAX - 1 do
      local devargs = form:format(number)
      local device = devargs:match "^[^,]+"
      if not model.find(model.ports, "device", device) and not model.find(model.running.ports, "device", device) then
         return devargs, number
      end
   end
   error(("bench.sink: %d ports are the limit"):format(C.TW_PORTS_MAX), 3)
end

--- A port that swallows what is sent to it and reads the stamps: `sink:reset()`, `sink:counters()`,
--- `sink:latency([stream])`, as those of a probe. Its driver is DPDK's net_null.
---@param name? string ("sink0", "sink1", ...)
---@param options? { stamps: boolean } stamps = false: it counts packets only, which costs nothing
---@return tideway.port
---@overload fun(options: table): tideway.port
function M.sink(name, options)
   if type(name) == "table" then name, options = name.name, name end
   local stamps = not options or options.stamps ~= false
   for key in pairs(options or {}) do
      if key ~= "stamps" and key ~= "name" then
         error(("bench.sink: there is no option %q; there are: name, stamps"):format(tostring(key)), 2)
      end
   end
   local devargs, number = numbered(stamps and "sink%d" or "net_null_count%d,no-rx=1", name)
   local ok, port = pcall(ports.port, name or (stamps and "sink%d" or "count%d"):format(number), devargs)
   if not ok then error("bench.sink: " .. tostring(port):gsub("^tw.port: ", ""), 2) end
   port.where = model.where(2)
   local probe = new(port, C.TW_PROBE_TX, stamps)
   function port.reset() return probe:reset() end
   function port.counters() return probe:counters() end
   function port.latency(_, stream) return probe:latency(stream) end
   return port
end

--- Reads the stamps in what a port receives, from now or from its start on, until it is closed.
---@param port tideway.port
---@return tideway.bench.probe
function M.probe(port)
   if not ports.is_port(port) then error("bench.probe: its argument is a port, not " .. tostring(port), 2) end
   if not model.dry then
      local ok, err = port:open()
      if not ok or C.tw_probe_open(port.index, C.TW_PROBE_RX) < 0 then
         error(("bench.probe: %s: %s"):format(tostring(port), err or abi.error()), 2)
      end
   end
   return new(port, C.TW_PROBE_RX, true)
end

return M
