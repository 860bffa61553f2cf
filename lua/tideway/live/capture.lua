-- SPDX-License-Identifier: BSD-3-Clause
-- capture(edge, filter): packets at an edge of a chain, as pcapng for the client's file or pipe, or as lines of text.

local buffer = require "string.buffer"
local ffi = require "ffi"
local abi = require "tideway.abi"
local bit = require "bit"
local decode = require "tideway.live.decode"
local edges = require "tideway.live.edge"
local filters = require "tideway.live.filter"
local nfs = require "tideway.nf"
local pcapng = require "tideway.pcapng"
local posix = require "tideway.posix"
local session = require "tideway.live.session"
local text = require "tideway.text"
local view = require "tideway.live.view"
local watch = require "tideway.live.watch"

local C = abi.C
local M = {}

local CHUNK = 64 * 1024
local RECORDS = 1000 -- at a time
local ROOM = 512 * 1024 -- what a client must be able to take before more is read

local OPTIONS = {
   file = { type = "string", doc = "pcapng file that the client writes" },
   records = { type = "boolean", doc = "stream pcapng, for clients that know what to do with it" },
   count = { type = "number", min = 1, doc = "packets" },
   seconds = { type = "number", min = 0.001, doc = "at most so long" },
   bytes = { type = "number", min = 1024, doc = "size of the capture, at most" },
   sample = { type = "number", min = 1, default = 1, doc = "one in so many that match" },
   snaplen = { type = "number", min = 1, max = 65535, doc = "bytes of a packet" },
   reason = { type = "string", doc = "only drops for it" },
}

-- ---- what is said of a packet ----

-- Comments by what they depend on: they are made for every packet.
local function comment_of(record, from, to)
   local chain, nf = watch.chain_name(record), watch.stage_name(record)
   local verdict, argument = watch.verdict(record)
   if record.edge == C.TW_EDGE_IN then
      return ("chain %s: in%s"):format(chain, from and " from " .. from or "")
   elseif record.edge == C.TW_EDGE_DROP then
      return ("chain %s: dropped by %s: %s"):format(chain, nf or "the engine", argument or "?")
   elseif record.edge == C.TW_EDGE_NF then
      return ("chain %s: behind %s, verdict %s%s"):format(chain, nf or "?", verdict,
         argument and " " .. argument or "")
   end
   local why = ""
   if bit.band(record.flags, C.TW_WATCH_MADE) ~= 0 then
      why = ", made by an NF"
   elseif nf and verdict ~= "sink" then
      why = (", verdict %s of %s"):format(verdict, nf)
   end
   return ("chain %s: out%s%s"):format(chain, to and " to " .. to or "", why)
end

local DIRECTIONS = { [tonumber(C.TW_EDGE_IN)] = pcapng.INBOUND, [tonumber(C.TW_EDGE_OUT)] = pcapng.OUTBOUND }

-- The interface of a packet: the port it is at, or the edge.
local function interface_name(record, from, to)
   if record.edge == C.TW_EDGE_IN and from then return from end
   if record.edge == C.TW_EDGE_OUT and to then return to end
   local way = ({ [1] = "in", [4] = "out", [8] = "drop" })[record.edge] or watch.stage_name(record) or "?"
   return ("%s:%s"):format(watch.chain_name(record), way)
end

-- All that the comment and the interface depend on, as a key.
local function key_of(record)
   return ("%d/%d/%d/%d/%d/%d/%d"):format(record.edge, record.chain, record.stage, record.verdict, record.port,
      record.out, record.flags)
end

-- ---- as pcapng ----

local function slurped(path, pattern)
   local content = posix.slurp(path)
   return content and content:match(pattern) or nil
end

local function section(edge, filter)
   return pcapng.section {
      hardware = slurped("/proc/cpuinfo", "model name%s*:%s*([^\n]+)"),
      os = ("%s %s"):format(slurped("/proc/sys/kernel/ostype", "%S+"), slurped("/proc/sys/kernel/osrelease", "%S+")),
      comment = ("tideway capture %s%s"):format(edge, filter and " " .. filter or ""),
   }
end

---@class tideway.live.capture.writer
local Writer = {}
Writer.__index = Writer

-- limit: bytes of the whole capture.
local function new_writer(edge, filter, limit, snaplen)
   local self = setmetatable({
      out = buffer.new(), written = 0, limit = limit or math.huge, interfaces = {}, names = {}, known = {}, ends = 0,
      filter = filter, snaplen = snaplen, epoch = watch.epoch(), start = posix.realtime(),
   }, Writer)
   self:put(section(edge, filter))
   return self
end

function Writer:put(bytes)
   self.written = self.written + #bytes
   self.out:put(bytes)
end

local ZERO = ffi.new "uint64_t"

local function statistics(interface, at, start, counts)
   return pcapng.statistics(interface.number, at, {
      start = start, received = counts and counts.looked or interface.packets, dropped = counts and counts.missed or 0,
      accepted = counts and counts.matched or interface.packets, delivered = interface.packets,
   })
end

local STATISTICS = #statistics({ number = 0, packets = 0 }, ZERO, ZERO)

-- The blocks that a packet needs besides its own, once: its interface, and statistics at the end.
function Writer:interface_for(name)
   local known = self.interfaces[name]
   if known then return known, "", 0 end
   local block = pcapng.interface { name = name, filter = self.filter, snaplen = self.snaplen }
   return { number = #self.names, name = name, packets = 0 }, block, STATISTICS
end

-- False: there is no room for it.
function Writer:packet(record, frame, part)
   local key = key_of(record)
   local said = self.known[key]
   if not said then
      local from, to = part:ways(record)
      said = { comment = comment_of(record, from, to), name = interface_name(record, from, to) }
      self.known[key] = said
   end
   local interface, block, rest = self:interface_for(said.name)
   local caplen = self.snaplen and math.min(self.snaplen, record.caplen) or record.caplen
   local bytes = pcapng.packet(interface.number, ffi.cast("int64_t", record.time) + self.epoch, frame, caplen,
      record.len, DIRECTIONS[record.edge], said.comment)
   if self.written + #block + #bytes + self.ends + rest > self.limit then return false end
   if block ~= "" then
      self.interfaces[said.name] = interface
      self.names[#self.names + 1] = said.name
      self.ends = self.ends + rest
      self:put(block)
   end
   interface.packets = interface.packets + 1
   self:put(bytes)
   return true
end

-- What the counts of the whole capture are goes to the first interface.
function Writer:finish(edge, counts)
   if #self.names == 0 then
      local interface, block = self:interface_for(edge)
      self.interfaces[edge], self.names[1] = interface, edge
      if self.written + #block + STATISTICS > self.limit then return end
      self:put(block)
   end
   for i, name in ipairs(self.names) do
      self:put(statistics(self.interfaces[name], posix.realtime(), self.start, i == 1 and counts or nil))
   end
end

-- Gives the client what there is, a frame of the protocol at a time.
function Writer:flush()
   self.epoch = watch.epoch() -- clocks are set now and then
   while #self.out > 0 do session.send("record", self.out:get(CHUNK)) end
end

function Writer.room() return session.room() >= ROOM end

-- ---- as text ----

local Lines = {}
Lines.__index = Lines

function Lines:packet(record, frame, part)
   local from, to = part:ways(record)
   local at = ffi.cast("int64_t", record.time) + self.epoch
   local seconds = tonumber(at / 1000000000LL)
   local headers = decode.headers(filters.packet(record, frame))
   self.list[#self.list + 1] = ("%s.%06d  %s, %d bytes; %s\n"):format(os.date("%H:%M:%S", seconds),
      tonumber(at % 1000000000LL) / 1000, decode.summary(headers), record.len, comment_of(record, from, to))
   return true
end

function Lines:flush()
   if #self.list > 0 then session.send("out", table.concat(self.list)) end
   self.list = {}
end

function Lines.finish() end
function Lines.room() return session.room() >= ROOM end

-- ---- the command ----

local ENDS = {
   count = "that is the number asked for", time = "its time is over", bytes = "that is the size asked for",
   stopped = "stopped",
}

local function options_of(edge, filter, options)
   local o = nfs.args("capture", options or {}, OPTIONS)
   for _, name in ipairs { "count", "bytes", "sample", "snaplen" } do
      if o[name] and o[name] % 1 ~= 0 then error(("capture: %s is a whole number, not %s"):format(name, o[name]), 0) end
   end
   if o.reason then
      if bit.band(edge.edges, C.TW_EDGE_DROP) == 0 then
         error(("capture: %s has no drops; reason = %q goes with an edge that has, such as up:drop"):format(edge.name,
            o.reason), 0)
      end
      edge.edges, edge.reason = C.TW_EDGE_DROP, edges.check_reason(o.reason)
   end
   if (o.bytes or o.snaplen) and not (o.file or o.records) then o.bytes = nil end
   return {
      filter = filter, count = o.count, seconds = o.seconds, sample = o.sample, snaplen = o.snaplen,
      headers = watch.headers_only(),
   }, o
end

local function sink_for(edge, filter, o)
   if not o.file and not o.records then return setmetatable({ list = {}, epoch = watch.epoch() }, Lines) end
   if o.file then session.send("note", { file = o.file }) end
   return new_writer(edge.name, type(filter) == "string" and filter ~= "" and filter or nil, o.bytes, o.snaplen)
end

-- Packets until it is over.
local function pump(w, sink)
   local packets, full = 0, false
   local function take(record, frame, part)
      if full then return end
      full = not sink:packet(record, frame, part)
      if not full then packets = packets + 1 end
   end
   w:run(take, RECORDS, function()
      sink:flush()
      if full then w.over = "bytes" end
      return sink.room()
   end)
   return packets
end

local function result(w, edge, packets, sink)
   local counts = w:counts()
   counts.packets = packets
   local why = ENDS[w.over] or w.over
   local size = sink.written and (" in %s bytes"):format(text.count(sink.written)) or ""
   local first = ("%s packets at %s%s: %s"):format(text.count(packets), edge.name, size, why)
   local lines = { first, unpack(watch.cost(counts)) }
   return view.text(table.concat(lines, "\n"), {
      packets = packets, bytes = sink.written, ended = w.over, missed = counts.missed or 0, cost = counts,
   })
end

--- Copy packets at an edge: "up:in" before the first NF of chain up, "up:ttl" behind its NF ttl, "up:out" as they
--- leave, "up:drop" as they are dropped (for one reason: "up:drop:ttl_low"), "up" all of in, out and drop, "lan:rx" and
--- "lan:tx" at a port. The filter is a text in pcap-filter language or a function(pkt). It ends with Ctrl-C, or by
--- count = packets, seconds = time, bytes = size; exactly. Also: sample = 100 (one in so many), snaplen = 64,
--- reason = "ttl_low", file = "x.pcapng" (written where you are; without it packets are lines of text).
--- `tideway capture` pipes into tshark and Wireshark.
---@param edge string
---@param filter? string|fun(pkt: tideway.pkt): any
---@param options? table
---@return tideway.view
function M.capture(edge, filter, options)
   if type(filter) == "table" and options == nil then filter, options = nil, filter end
   edge = edges.parse(edge)
   local watched, o = options_of(edge, filter, options)
   local w = watch.open(edge, watched)
   local sink = sink_for(edge, filter, o)
   local packets = pump(w, sink)
   sink:finish(edge.name, w:counts())
   sink:flush()
   local shown = result(w, edge, packets, sink)
   w:close()
   return shown
end

return M
