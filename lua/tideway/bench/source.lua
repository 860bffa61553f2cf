-- SPDX-License-Identifier: BSD-3-Clause
-- The sending side: sources, ports whose packets are made by the lcore that polls them (core/source.c), at a rate or as
-- fast as they are asked.

local ffi = require "ffi"
local abi = require "tideway.abi"
local histogram = require "tideway.bench.histogram"
local model = require "tideway.model"
local ports = require "tideway.port"
local program = require "tideway.bench.traffic.program"
local rates = require "tideway.bench.rate"

local C = abi.C
local M = {}

local MEMORY_MB, MBUFS, CATCH_UP = 256, 8192, 0.01
local SPACING = { cbr = C.TW_SPACING_CBR, poisson = C.TW_SPACING_POISSON, burst = C.TW_SPACING_BURST }

---@class tideway.bench.source : tideway.port
---@field number integer of the source, and of its device: "source0"
---@field queues integer most lcores that can poll it
---@field stream integer number of its first queue in stamps; the others follow
---@field stamp boolean its packets are stamped
---@field once? integer packets after which its traffic is over (a pcap that is not looped)

---@class tideway.bench.source_counters
---@field packets integer made since the last start
---@field bytes integer of their frames, without FCS
---@field skipped integer left out, because the lcore was away for more than catch_up or is too slow for the rate
---@field no_buffer integer packets that were to be made while no packet buffer was free; those of a rate come later
---@field running boolean
---@field epoch integer starts so far, modulo 256
---@field started? number when it was first polled after the start: seconds of the monotonic clock
---@field seconds number from then to the end, or to now; of a rate as far as it was kept up with
---@field reached? number packets per second, over these seconds
---@field streams table<integer, { packets: integer, bytes: integer }> by number in stamps

local Source = {}

local function check(rc, level)
   if rc < 0 then error("bench.source: " .. abi.error(), (level or 1) + 1) end
   return rc
end

local function whole(value, name, least, most, level)
   if type(value) ~= "number" or value % 1 ~= 0 or value < least or value > most then
      error(("bench.source: %s is %s, and must be a whole number from %d to %.0f"):format(name, tostring(value), least,
         most), level + 1)
   end
   return value
end

local function known(options, names, what, level)
   if type(options) ~= "table" then
      error(("%s takes a table of options, not %s"):format(what, tostring(options)), level + 1)
   end
   for key in pairs(options) do
      if not (" " .. names .. " "):find(" " .. tostring(key) .. " ", 1, true) then
         error(("%s: there is no option %q; there are: %s"):format(what, tostring(key), names:gsub(" ", ", ")),
            level + 1)
      end
   end
end

-- The traffic, or nil and why not.
local function load_traffic(self, traffic)
   local spec, anchor = program.spec(traffic)
   if not spec then return nil, anchor end
   local rc = C.tw_source_traffic(self.number, spec, self.memory_mb * 2 ^ 20)
   if rc < 0 then return nil, abi.error() end
   self.stamp, self.once = traffic.stamp == true, traffic.once and (#(traffic.order or traffic.frames)) or nil
   return anchor ~= nil
end

--- A port whose packets are made here: first argument of tw.chain(). It is idle until start().
---@param name? string of the port
---@param traffic tideway.bench.traffic made by bench.packets and the like
---@param options? { queues: integer, memory_mb: integer, mbufs: integer } queues: lcores that may poll it (1);
--- memory_mb: for frames and tables (256); mbufs: packet buffers per queue: as many can be on their way (8192)
---@return tideway.bench.source
---@overload fun(traffic: tideway.bench.traffic, options?: table): tideway.bench.source
function M.source(name, traffic, options)
   if type(name) ~= "string" and name ~= nil then name, traffic, options = nil, name, traffic end
   options = options or {}
   known(options, "queues memory_mb mbufs", "bench.source", 2)
   local queues = whole(options.queues or 1, "queues", 1, 16, 2)
   local mbufs = whole(options.mbufs or MBUFS, "mbufs", 64, 2 ^ 22, 2)
   local memory_mb = whole(options.memory_mb or MEMORY_MB, "memory_mb", 1, 2 ^ 20, 2)
   local number = C.tw_source_new(queues, mbufs)
   if number < 0 then
      collectgarbage() -- those that nobody has any more
      number = check(C.tw_source_new(queues, mbufs), 2)
   end
   local anchor = ffi.gc(ffi.new("uint32_t[1]", number), function(a) C.tw_source_free(a[0]) end)
   local extra = {
      number = number, queues = queues, stream = C.tw_source_stream(number), memory_mb = memory_mb, anchor = anchor,
   }
   local ok, err = load_traffic(extra, traffic)
   if not ok then error("bench.source: " .. err, 2) end
   local declared, port = pcall(ports.port, name or "source" .. number, "source" .. number)
   if not declared then error("bench.source: " .. port, 2) end
   port.where = model.where(2)
   for key, value in pairs(extra) do port[key] = value end
   for key, value in pairs(Source) do port[key] = value end
   return port
end

--- Other packets from the next start on.
---@param traffic tideway.bench.traffic
---@return boolean? ok
---@return string? err it runs, or the traffic is refused
function Source:use(traffic)
   local ok, err = load_traffic(self, traffic)
   if not ok then return nil, err end
   return true
end

--- Packets per second that a rate comes to with this traffic.
---@param rate number|string packets per second; or "5Mpps", "10Gbit/s", "1Gbit/s L2" (see start)
---@param l2? boolean
---@return number pps
function Source:pps(rate, l2) return rates.pps(rate, C.tw_source_frame_bytes(self.number), l2, 2) end

--- Let it send. Lcores take it up when they poll next.
---@param options? { rate: number|string, l2: boolean, spacing: "cbr"|"poisson"|"burst", burst: integer,
--- count: integer, catch_up: number } rate: of all queues together, packets per second as a number or "5Mpps", or
--- "10Gbit/s" on the wire (layer 1: 24 bytes more than the frame has, for FCS, preamble and gap; l2 = true: 4 bytes
--- more, for FCS); left out: as fast as it is asked. spacing: even (the default), with gaps of a Poisson process, or
--- bursts of `burst` packets with even gaps. count: stop by itself after so many. catch_up: seconds; what has been due
--- for longer is left out and counted as skipped (0.01)
---@return boolean? ok
---@return string? err it runs already
function Source:start(options)
   options = options or {}
   known(options, "rate l2 spacing burst count catch_up", "source:start", 2)
   local spacing = SPACING[options.spacing or "cbr"]
   if not spacing then
      error(("source:start: spacing is %q; there are cbr, poisson and burst"):format(tostring(options.spacing)), 2)
   end
   local catch_up = options.catch_up or CATCH_UP
   if type(catch_up) ~= "number" or not (catch_up >= 0 and catch_up <= 3600) then
      error(("source:start: catch_up is %s, and must be 0 to 3600 seconds"):format(tostring(catch_up)), 2)
   end
   if spacing ~= C.TW_SPACING_CBR and not options.rate then
      error(("source:start: spacing = %q needs a rate"):format(options.spacing), 2)
   end
   if spacing == C.TW_SPACING_BURST and not options.burst then
      error("source:start: spacing = \"burst\" needs burst =, the packets of one", 2)
   end
   local run = ffi.new "struct tw_source_run"
   run.rate = options.rate and rates.pps(options.rate, C.tw_source_frame_bytes(self.number), options.l2, 2) or 0
   run.spacing, run.burst = spacing, options.burst and whole(options.burst, "burst", 1, 2 ^ 31, 2) or 0
   run.count = options.count and whole(options.count, "count", 1, 2 ^ 53, 2) or self.once or 0
   run.catch_up = catch_up * 1e9
   if C.tw_source_start(self.number, run) < 0 then return nil, abi.error() end
   self.stream = C.tw_source_stream(self.number) -- another one when its port was closed meanwhile
   return true
end

--- Let it send no more. The lcores hear of it when they poll next: running() says when.
function Source:stop() check(C.tw_source_stop(self.number), 2) end

local function read(self, queue)
   local c = ffi.new "struct tw_source_counters"
   check(C.tw_source_counters(self.number, queue, c), 3)
   return c
end

--- Does an lcore make packets, or is it about to?
---@return boolean
function Source:running() return read(self, -1).running end

--- What it made since the last start: exact when it does not run.
---@return tideway.bench.source_counters
function Source:counters()
   local c, hz = read(self, -1), tonumber(C.tw_tsc_hz())
   local out = {
      packets = tonumber(c.packets), bytes = tonumber(c.bytes), skipped = tonumber(c.skipped),
      no_buffer = tonumber(c.no_buffer), running = c.running, epoch = c.epoch, streams = {},
      seconds = c.begin == 0 and 0 or tonumber(c["end"] - c.begin) / hz,
   }
   if c.begin ~= 0 then out.started = tonumber(C.tw_now()) / 1e9 - tonumber(C.tw_tsc() - c.begin) / hz end
   if out.seconds > 0 then out.reached = out.packets / out.seconds end
   for queue = 0, c.queues - 1 do
      local q = read(self, queue)
      out.streams[self.stream + queue] = { packets = tonumber(q.packets), bytes = tonumber(q.bytes) }
   end
   return out
end

--- How exact the pacing of the last start was: ns from the time a packet was due until it was handed over. Empty when
--- there was no rate.
---@return tideway.bench.histogram
---@return number? reached packets per second
function Source:precision()
   local h = histogram.histogram { clock = "tsc" }
   check(C.tw_source_precision(self.number, h.data), 2)
   return h, self:counters().reached
end

return M
