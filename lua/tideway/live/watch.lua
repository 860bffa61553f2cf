-- SPDX-License-Identifier: BSD-3-Clause
-- Packets copied out at an edge, as trace and capture read them: over lcores and hooks, with one limit.
--
-- What watches a chain is a source: a module whose open(wanted) returns a part with next(), counts(), refresh(),
-- stop(), close(), ways() and place(). tideway.live.watch_lcore is that of lcores, tideway.live.watch_hook of hooks.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"
local filters = require "tideway.live.filter"
local model = require "tideway.model"
local posix = require "tideway.posix"
local session = require "tideway.live.session"

local C = abi.C
local M = {}

local FRAME_MAX = 65535
local SETTLE_NS = 2e6       -- records this old have no earlier one to come from another lcore
local REFRESH_NS = 100e6
local SOON, PAUSE = 0.001, 0.01 -- seconds between two looks
local LAST_NS = 20e6
local ALL = ffi.new("uint64_t", -1)

---@class tideway.live.watch.wanted what a source is asked for
---@field chains { chain: tideway.chain, index: integer, stages: integer }[] stages: bit per stage for TW_EDGE_NF
---@field edges integer set of enum tw_edge
---@field reason? string only drops for it; followed packets: only those that end so
---@field in_port? tideway.port
---@field out_port? tideway.port
---@field filter? string pcap-filter language
---@field fn? fun(pkt: tideway.pkt): any applied to what comes, here; a source may do so before
---@field snaplen integer bytes of a frame
---@field headers boolean cut frames behind their layer 4 header (tw_header_length)
---@field sample integer one in so many that match
---@field limit? integer packets
---@field stop_at? ffi.cdata* uint64_t ns as tw_now()
---@field follow boolean follow packets through every NF (tideway.live.trace)

---@class tideway.live.watch.counts
---@field looked integer packets the filter was tried on
---@field matched integer
---@field records integer
---@field packets integer records, or followed packets
---@field missed integer
---@field chain_packets integer received by the chains meanwhile
---@field stepped integer packets that ran NF by NF
---@field ns number time spent in filters and copies
---@field stepped_ns number time of packets that ran NF by NF

---@class tideway.live.watch
---@field parts table[] of the sources
---@field taken integer packets so far
---@field over? string why it has ended
local Watch = {}
Watch.__index = Watch

--- The module that watches a chain's kind of place.
---@param chain tideway.chain
---@return table
function M.source_for(chain)
   return require(chain.place and "tideway.live.watch_hook" or "tideway.live.watch_lcore")
end

--- Can the packets of a chain be looked at? On some hooks they have no headers.
---@param chain tideway.chain
---@return boolean
function M.can(chain)
   if not chain.place then return true end
   local starts = require("tideway.compiler.target.kernel").hook(chain.place.hook).starts
   return starts == "l2" or starts == "l3"
end

--- How much of packets one who calls from here may see: admins all, others headers.
---@return boolean headers_only
function M.headers_only()
   local current = session.current()
   return current ~= nil and current.role ~= nil and current.role ~= "admin"
end

-- ---- what runs now ----

local function state_of(chain) return model.running.state[chain] end

-- Bit of the stage of this name; nil when the chain has none.
local function stage_mask(chain, stage)
   if not stage then return 0 end
   for i, name in ipairs(state_of(chain).stage_names) do
      if name == stage then return bit.lshift(1, i - 1) end
   end
end

-- The chains by the source that watches them, and a text that is another one when that changes.
local function grouped(edge)
   local groups, order, key = {}, {}, {}
   for _, chain in ipairs(edge.chains) do
      local mask = state_of(chain) and stage_mask(chain, edge.stage)
      if mask then
         local source = M.source_for(chain)
         if not groups[source] then
            groups[source] = {}
            order[#order + 1] = source
         end
         table.insert(groups[source], { chain = chain, index = chain.index, stages = mask })
         key[#key + 1] = ("%d/%s/%d/%s"):format(chain.index, chain.place and "hook" or "lcore", mask,
            tostring(chain.place))
      end
   end
   return groups, order, table.concat(key, " ")
end

local function what_is_gone(edge)
   local chain = edge.chains[1]
   if not state_of(chain) then return ("chain %s was removed"):format(chain.name) end
   return ("chain %s has no NF %s any more"):format(chain.name, edge.stage)
end

-- ---- opening ----

local function wanted_of(self, chains, alone)
   local o = self.options
   local limited = o.count and not self.fn and not self.blind and (alone or o.follow)
   return {
      chains = chains, edges = self.edge.edges, reason = o.reason or self.edge.reason, in_port = self.edge.in_port,
      out_port = self.edge.out_port, filter = self.text, fn = self.fn, headers = o.headers, sample = o.sample or 1,
      -- A function wants to see what it was not copied for.
      snaplen = self.fn and FRAME_MAX or o.snaplen or FRAME_MAX,
      limit = limited and o.count - self.taken or nil, stop_at = self.stop_at, follow = o.follow or false,
   }
end

-- A program on a hook filters whole frames. Who must not see payload must not ask about it either: what comes is
-- filtered again, without it.
local function is_blind(self)
   if not self.options.headers or not self.text then return false end
   for _, chain in ipairs(self.edge.chains) do
      if chain.place then return true end
   end
   return false
end

local function open_parts(self)
   self.blind = is_blind(self)
   local groups, order, key = grouped(self.edge)
   self.key = key
   local alone = #order == 1
   for _, source in ipairs(order) do
      local part, err = source.open(wanted_of(self, groups[source], alone))
      if not part then
         self:close()
         error(err, 0)
      end
      self.parts[#self.parts + 1] = part
   end
end

---@class tideway.live.watch.options
---@field filter? string|function
---@field count? integer
---@field seconds? number
---@field sample? integer
---@field snaplen? integer
---@field reason? string
---@field headers? boolean
---@field follow? boolean

--- Begin to watch an edge; raises when that cannot be.
---@param edge tideway.live.edge
---@param options tideway.live.watch.options
---@return tideway.live.watch
function M.open(edge, options)
   local text, fn = filters.check(options.filter)
   local self = setmetatable({
      edge = edge, options = options, text = text, fn = fn, parts = {}, past = {}, taken = 0, refreshed = posix.now(),
   }, Watch)
   if options.seconds then self.stop_at = C.tw_now() + ffi.cast("uint64_t", options.seconds * 1e9) end
   open_parts(self)
   session.defer(function() self:close() end)
   return self
end

-- Reads what is left of parts that watch no more; they stay until it is read.
local function retire(self)
   for _, part in ipairs(self.parts) do
      part:stop()
      self.past[#self.past + 1] = part
   end
   self.parts = {}
end

-- Chains come and go, move, and get other NFs.
local function refresh(self)
   if posix.now() - self.refreshed < REFRESH_NS then return end
   self.refreshed = posix.now()
   local _, _, key = grouped(self.edge)
   if key == "" then
      self.over = what_is_gone(self.edge)
   elseif key ~= self.key then
      retire(self)
      open_parts(self)
   else
      for _, part in ipairs(self.parts) do self.over = part:refresh() or self.over end
   end
end

-- ---- reading ----

--- Does the function that filters, if there is one, want it?
---@return boolean
function Watch:accepts(record, frame)
   if self.blind and C.tw_filter_match(self.text, frame, record.caplen, record.len) ~= 1 then return false end
   if not self.fn then return true end
   return self.fn(filters.packet(record, frame)) and true or false
end

-- One record that counts by itself.
local function take(self, record, frame, part, fn)
   if self.stop_at and record.time >= self.stop_at then return end
   if not self:accepts(record, frame) then return end
   self.taken = self.taken + 1
   fn(record, frame, part)
   if self.options.count and self.taken >= self.options.count then self.over = "count" end
end

local function read_part(self, part, before, most, fn)
   for _ = 1, most do
      local record, frame = part:next(before)
      if not record then return false end
      if self.options.follow then
         fn(record, frame, part)
      else
         take(self, record, frame, part, fn)
      end
      if self.over == "count" then return false end
   end
   return true
end

--- Read records; each is valid during its call only. Followed packets are not counted here.
---@param fn fun(record: ffi.cdata*, frame: ffi.cdata*, part: table)
---@param most? integer of each part, default 10000
---@return boolean more there may be more already
function Watch:read(fn, most)
   local settled = C.tw_now() - ffi.cast("uint64_t", SETTLE_NS)
   local ending = self.over or (self.stop_at and settled >= self.stop_at)
   local before = ending and ALL or settled
   local more = false
   for _, list in ipairs { self.past, self.parts } do
      for _, part in ipairs(list) do
         if read_part(self, part, before, most or 10000, fn) then more = true end
         if self.over == "count" then return false end
      end
   end
   if more then return true end
   if not self.over and ending then self.over = "time" end
   if not self.over then refresh(self) end
   return false
end

--- Read and let the engine's other work go on, until it is over.
---@param fn fun(record: ffi.cdata*, frame: ffi.cdata*, part: table)
---@param most integer records at a time
---@param between? fun(): boolean called in between; false: whoever takes them has no room for more now
function Watch:run(fn, most, between)
   while not self.over do
      local more = (not between or between()) and self:read(fn, most)
      if not self.over and not session.sleep(more and SOON or PAUSE) then self:stop() end
   end
   if self.over == "count" or self.over == "bytes" then return end
   -- What came before the end; nobody can wait any more.
   local deadline = posix.now() + LAST_NS
   while self:read(fn, most) and posix.now() < deadline do
      if between then between() end
   end
end

--- Watch no more; what is recorded can still be read.
function Watch:stop()
   retire(self)
   self.over = self.over or "stopped"
end

--- What it did so far, over all its parts.
---@return tideway.live.watch.counts
function Watch:counts()
   local sum = setmetatable({}, { __index = function() return 0 end })
   for _, list in ipairs { self.past, self.parts } do
      for _, part in ipairs(list) do
         for name, value in pairs(part:counts()) do sum[name] = sum[name] + value end
      end
   end
   if self.blind then sum.packets, sum.matched, sum.records = self.taken, nil, nil end
   return setmetatable(sum, nil)
end

--- Forget it.
function Watch:close()
   for _, list in ipairs { self.past, self.parts } do
      for _, part in ipairs(list) do part:close() end
   end
   self.past, self.parts = {}, {}
   self.over = self.over or "stopped"
end

-- ---- in words ----

local VERDICTS = { [0] = "next", "drop", "port", "flood", "pass", "punt", "hold", "sink" }

local function name_in(list, index) return ffi.string(list[index]) end

--- A record's verdict: kind, and the reason or port it names.
---@param record ffi.cdata*
---@return string kind
---@return string? argument
function M.verdict(record)
   local kind, argument = bit.band(record.verdict, 0xff), bit.rshift(record.verdict, 8)
   local stats, name = C.tw_stats(), nil
   if kind == C.TW_DROP and argument < C.TW_REASONS_MAX then name = name_in(stats.reason, argument) end
   if kind == C.TW_PORT and argument < C.TW_PORTS_MAX then name = ffi.string(stats.port[argument].name) end
   return VERDICTS[kind] or tostring(kind), name
end

--- The name of a record's chain.
function M.chain_name(record) return ffi.string(C.tw_stats().chain[record.chain].name) end

--- The name of a record's NF; nil for the engine itself.
function M.stage_name(record)
   local info = C.tw_stats().chain[record.chain]
   if record.stage >= info.stages then return nil end
   return ffi.string(info.stage[record.stage])
end

--- What to add to a record's time to have ns since 1970.
---@return ffi.cdata* int64_t
function M.epoch() return posix.realtime() - ffi.cast("int64_t", C.tw_now()) end

local function each(ns, count) return count > 0 and ("%.0f ns"):format(ns / count) or "nothing" end

--- What watching cost, in sentences.
---@param counts tideway.live.watch.counts
---@return string[]
function M.cost(counts)
   local lines = {}
   if (counts.looked or 0) > 0 then
      lines[1] = ("cost: %s for each of %d packets looked at, %d of them recorded"):format(
         each(counts.ns, counts.looked), counts.looked, counts.packets)
   end
   if (counts.stepped or 0) > 0 then
      lines[#lines + 1] = ("%d packets ran NF by NF as plain Lua, in %s each"):format(counts.stepped,
         each(counts.stepped_ns, counts.stepped))
   end
   if (counts.missed or 0) > 0 then
      lines[#lines + 1] = ("%d more matched and are missing: they came faster than they could be read"):format(
         counts.missed)
   end
   return lines
end

return M
