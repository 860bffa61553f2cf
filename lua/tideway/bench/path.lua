-- SPDX-License-Identifier: BSD-3-Clause
-- A path: a source of this process, a sink or probe, and whatever is between them. Trials over it, with exact loss.

local disturbance = require "tideway.bench.disturbance"
local engine = require "tideway.engine"
local model = require "tideway.model"
local runner = require "tideway.bench.runner"
local trials = require "tideway.bench.search.trials"
local warm = require "tideway.bench.warm"

local M = {}

local DRAIN, QUIET, SETTLE, LOOK, STOP = 2, 0.2, 0.02, 0.02, 10 -- seconds
local SPACINGS = { cbr = true, poisson = true, burst = true }
local BURST_SECONDS, BURST_RATE = 10, 1e5 -- most time for a burst that is sent as fast as it is asked for
local GRACE = 0.05 -- seconds that a trial may take longer until its last packet is sent
local OPTIONS = {
   source = true, sink = true, title = true, peer = true, drain = true, quiet = true, settle = true, spacing = true,
   burst = true, catch_up = true, warm_up = true,
}

---@class tideway.bench.path
---@field source tideway.port made by bench.source
---@field sink table a port made by bench.sink, or bench.probe(port)
---@field title string
---@field peer? { alive: fun(self): boolean?, string? } another program that the packets go through
---@field drain number seconds that packets may be on their way at most, when the source has stopped (RFC 2544, 23: 2)
---@field quiet number seconds without a packet after which none is on its way
---@field settle number seconds to wait after a trial (RFC 2544, 23: 5)
---@field spacing? string
---@field burst? integer
---@field catch_up? number seconds
---@field warm boolean it has been warmed up, or must not be
local Path = {}
Path.__index = Path
Path.__tostring = function(self) return "bench.path " .. self.title end

---@class tideway.bench.flow
local Flow = {}
Flow.__index = Flow

-- ---- counts ----

-- Streams of the source among what the sink has seen.
local function streams_of(path, counts)
   local list = {}
   for i = 0, path.source.queues - 1 do
      local stream = counts.streams[path.source.stream + i]
      if stream then list[#list + 1] = stream end
   end
   return list
end

local SUMS = { "unique", "duplicated", "reordered", "stale", "old" }

-- What came of what the source made since its start. `known`: numbers up to the highest that arrived; of those, what
-- has not arrived is lost, or late.
local function received(path)
   local counts, err = path.sink:counters()
   if not counts then return nil, err end
   local out = { known = 0, all = counts.packets, foreign = counts.foreign }
   for _, key in ipairs(SUMS) do out[key] = 0 end
   if not path.source.stamp then
      out.unique, out.known = counts.packets, counts.packets
      return out
   end
   for _, stream in ipairs(streams_of(path, counts)) do
      if stream.epoch == path.epoch % 256 then
         for _, key in ipairs(SUMS) do out[key] = out[key] + stream[key] end
         if stream.received > 0 then out.known = out.known + stream.highest + 1 end
         local ipdv = stream.ipdv
         if ipdv.pairs > 0 and (not out.ipdv or ipdv.max > out.ipdv.max) then out.ipdv = ipdv end
      end
   end
   return out
end

local function faults()
   local C, count = require("tideway.abi").C, 0
   local stats = C.tw_stats()
   for slot = 0, C.TW_LCORES_MAX - 1 do
      for _, chain in ipairs(model.chains) do count = count + tonumber(stats.lcore[slot].chain[chain.index].faults) end
   end
   return count
end

-- What the chains of this process have dropped, by where and why.
local function drops()
   local counts = {}
   for _, chain in ipairs(engine.snapshot().chains) do
      for _, nf in ipairs { chain.engine, unpack(chain.nfs) } do
         for _, drop in ipairs(nf.drops) do
            local place = ("%s of %s: %s"):format(nf.name or "engine", chain.name, drop.reason)
            counts[place] = (counts[place] or 0) + drop.count
         end
      end
   end
   return counts
end

-- Where most was dropped since.
local function dropped_most(before)
   local where, most = nil, 0
   for place, count in pairs(drops()) do
      local n = count - (before[place] or 0)
      if n > most then where, most = place, n end
   end
   return where
end

-- Why what was measured says nothing.
local function broken(path)
   if path.peer then
      local ok, why = path.peer:alive()
      if not ok then return why or "the peer of the path is gone" end
   end
   if faults() > path.faults then
      return "an NF failed and was taken out: the chain is no longer what was to be measured (the message says why)"
   end
end

-- ---- a flow: from start to stop ----

-- Whatever happens: nothing sends when a trial is over.
local function stop_source(path)
   path.source:stop()
   local stopped
   local ok, err = runner.finally(function()
      stopped = runner.wait(function() return not path.source:running() end, STOP, 0.001)
   end)
   if not ok then error(err, 0) end
   return stopped
end

-- Waits until all that was sent is there, or nothing has come for a while.
local function drain(path, sent)
   local due, last, still = runner.now() + path.drain, -1, runner.now()
   repeat
      local came = received(path)
      local n = came and came.unique + came.duplicated + came.old + came.foreign or 0
      if not came or came.unique >= sent then return end
      if n ~= last then last, still = n, runner.now() end
      if runner.now() - still >= path.quiet then return end
      runner.sleep(LOOK)
   until runner.now() >= due
end

-- Starts the source; what the sink counts from now on is of this start.
local function start_source(path, run)
   path.faults, path.drops = faults(), drops()
   local ok, err = path.sink:reset()
   if not ok then return nil, err end
   ok, err = path.source:start(run)
   if not ok then return nil, err end
   path.epoch = path.source:counters().epoch
   path.watches = {}
   for i, lcore in ipairs(engine.lcores) do
      path.watches[i] = lcore.cpu ~= "step" and disturbance.watch(lcore.cpu) or nil
   end
   return true
end

-- What disturbed the lcores since the start of the source.
local function disturbed(path)
   local list = {}
   for _, watch in pairs(path.watches) do
      local _, why = watch:stop()
      for _, reason in ipairs(why) do list[#list + 1] = reason.text end
   end
   return #list > 0 and list or nil
end

-- Before the first trial, as RFC 9971 has it: the first trials must not be limited by what compiles.
local function warm_up(path)
   local ok, err = start_source(path, { catch_up = path.catch_up })
   if not ok then return nil, err end
   local waited, warmed, why = pcall(warm.wait)
   local stopped = stop_source(path)
   if not waited then error(warmed, 0) end
   if not stopped then return nil, tostring(path.source) .. " does not stop: does the lcore of its chain run?" end
   drain(path, path.source:counters().packets)
   err = broken(path) or not warmed and why
   if err then return nil, err end
   if path.settle > 0 then runner.sleep(path.settle) end
   path.warm = true
   return true
end

--- Let the source send until stop(), or a count of packets.
---@param options? { rate: number|string?, count: integer?, spacing: string?, burst: integer? } rate: nil is as fast as
--- the source is asked
---@return tideway.bench.flow? flow
---@return string? err
function Path:stream(options)
   options = options or {}
   if self.flowing then return nil, ("%s: a trial is under way"):format(tostring(self)) end
   local spacing = options.spacing or options.rate and self.spacing or nil
   if spacing and not SPACINGS[spacing] then
      error(("%s: spacing is \"cbr\", \"poisson\" or \"burst\", not %s"):format(tostring(self), tostring(spacing)), 2)
   end
   local ok, err
   if not self.warm then
      ok, err = warm_up(self)
      if not ok then return nil, err end
   end
   ok, err = start_source(self, {
      rate = options.rate, count = options.count, spacing = spacing, burst = options.burst or self.burst,
      catch_up = self.catch_up,
   })
   if not ok then return nil, err end
   self.flowing = true
   local rate = type(options.rate) == "string" and self.source:pps(options.rate) or options.rate
   return setmetatable({ path = self, rate = rate, count = options.count }, Flow)
end

--- What was counted since the start, while it runs. Lost is what has not arrived of packets whose successors have, so
--- that none is counted that is on its way.
---@return { sent: integer, received: integer, lost: integer, latency: table? }? counts latency: since the last call
---@return string? err what broke
function Flow:read()
   local path = self.path
   local why = broken(path)
   if why then return nil, why end
   local came, err = received(path)
   if not came then return nil, err end
   local latency
   if path.source.stamp then
      local all = path.sink:latency()
      latency, self.seen = all and all:since(self.seen), all
   end
   return {
      sent = path.source:counters().packets, received = came.unique, lost = came.known - came.unique, latency = latency,
   }
end

-- Why the source did not reach a rate, as far as it knows.
local function cause_of(counts)
   return counts.no_buffer > 0 and "its packet buffers ran out"
      or counts.skipped > 0 and "its lcore was too slow, or away" or nil
end

local function result_of(flow, counts, came)
   local path, sent = flow.path, counts.packets
   local asked, reached = flow.rate, counts.reached
   local result = {
      offered = asked, sent = sent, received = came.unique, lost = math.max(0, sent - came.unique),
      duplicated = came.duplicated, reordered = came.reordered, seconds = counts.seconds, reached = reached,
      ipdv = came.ipdv, where = sent > came.unique and dropped_most(path.drops) or nil,
   }
   if asked and reached and reached < asked * (1 - trials.SHORT) then
      result.cause = cause_of(counts)
      result.short = ("the source reached %s of %s%s"):format(trials.pps(reached), trials.pps(asked),
         result.cause and "; " .. result.cause or "")
   end
   if path.source.stamp then
      result.latency = path.sink:latency()
      if came.unique == 0 and came.foreign > 0 then
         result.note = ("%d packets arrived without their stamp: an NF changes the last 16 bytes of frames"):format(
            came.foreign)
      end
   end
   if came.all == 0 and sent > 0 then
      result.note = ("nothing of %d packets arrived: is the chain from %s to %s connected?"):format(sent,
         path.source.name, path.sink.name or path.sink.port and path.sink.port.name or "the sink")
   end
   return result
end

local function finish(self)
   local path = self.path
   local stopped = stop_source(path)
   path.flowing = nil
   if not stopped then
      return nil, ("%s did not stop in %g s: does the lcore of its chain run?"):format(tostring(path.source), STOP)
   end
   local counts, why = path.source:counters(), disturbed(path)
   drain(path, counts.packets)
   local gone = broken(path)
   if gone then return nil, gone end
   local came, err = received(path)
   if not came then return nil, err end
   local result = result_of(self, counts, came)
   result.why = why
   return result
end

--- Stop the source, wait for what is on its way; also when Ctrl-C has ended the run.
---@return tideway.bench.trial? result
---@return string? err what broke meanwhile
function Flow:stop()
   if not runner.interrupted() then return finish(self) end
   local result, err
   local ok, why = runner.finally(function() result, err = finish(self) end)
   if not ok then error(why, 0) end
   return result, err
end

-- ---- trials ----

-- Waits while it sends; whether something broke.
local function wait(flow, seconds)
   local due = runner.now() + seconds
   repeat
      runner.sleep(math.min(flow.count and LOOK or 0.1, math.max(0, due - runner.now())))
      local why = broken(flow.path)
      if why then return why end
      if flow.count and not flow.path.source:running() then return nil end
   until runner.now() >= due
end

-- A trial of some seconds at a rate is as many packets as fit in: it ends by itself, however busy this thread is.
local function plan(path, options)
   local rate, count, seconds = options.rate, options.count, options.seconds
   if type(rate) == "string" then rate = path.source:pps(rate) end
   if count then
      seconds = seconds or BURST_SECONDS + 2 * count / (rate or BURST_RATE)
   elseif rate then
      seconds = seconds or 1
      count, seconds = math.max(1, math.floor(rate * seconds + 0.5)), seconds + GRACE + (path.catch_up or 0)
   end
   return { rate = rate, count = count, spacing = options.spacing, burst = options.burst }, seconds or 1
end

--- One trial: the source sends at a rate for some seconds, or a number of packets, stops, and what is on its way is
--- waited for.
---@param options { rate: number|string?, seconds: number?, count: integer?, spacing: string?, burst: integer? }
---@return tideway.bench.trial? result
---@return string? err why there is none: what broke
function Path:trial(options)
   local planned, seconds = plan(self, options)
   local flow, err = self:stream(planned)
   if not flow then return nil, err end
   local ok, why = pcall(wait, flow, seconds)
   if not ok then
      stop_source(self)
      self.flowing = nil
      error(why, 0)
   end
   local result
   result, err = flow:stop()
   if self.settle > 0 then runner.sleep(self.settle) end
   if why then return nil, why end
   return result, err
end

-- Ctrl-C in a trial is a trial that failed: a search ends with what it has.
local function until_interrupted(path, options)
   if runner.interrupted() then return nil, "interrupted" end
   local ok, result, err = pcall(path.trial, path, options)
   if ok then return result, err end
   if runner.interrupted() then return nil, "interrupted" end
   error(result, 0)
end

--- The path as a search wants it.
---@return fun(rate: number?, seconds: number): tideway.bench.trial?, string?
function Path:trials()
   return function(rate, seconds) return until_interrupted(self, { rate = rate, seconds = seconds }) end
end

--- The path as searches for bursts want it.
---@return fun(count: integer): tideway.bench.trial?, string?
function Path:sender()
   return function(count) return until_interrupted(self, { count = count }) end
end

--- Send other packets from the next trial on.
---@param traffic table bench.packets { ... }
---@return boolean? ok
---@return string? err
function Path:use(traffic)
   if self.traffic == traffic then return true end
   if runner.interrupted() then return nil, "interrupted" end
   local ok, err = self.source:use(traffic)
   if not ok then return nil, err end
   self.traffic = traffic
   return true
end

local function has(value, ...)
   for i = 1, select("#", ...) do
      if type(value) ~= "table" or type(value[select(i, ...)]) ~= "function" then return false end
   end
   return true
end

--- A path for searches: `bench.path { source = bench.source(...), sink = bench.sink() }`; the chains between them are
--- the script's (tw.chain). On a pair of devices the sink is `bench.probe(port)`.
---@param spec table source =, sink =, title =; spacing = "cbr"|"poisson"|"burst", burst = packets of one; peer = a
--- program that packets go through, with alive(self); drain = seconds that packets are waited for at most (2), quiet =
--- seconds without one that end it (0.2), settle = seconds of rest after a trial (0.02); catch_up = seconds that the
--- source may be behind before it leaves packets out (0.01); warm_up = false: the first trial finds chains that are not
--- compiled yet
---@return tideway.bench.path
function M.path(spec)
   if type(spec) ~= "table" then error("bench.path takes { source = bench.source(...), sink = bench.sink() }", 2) end
   for key in pairs(spec) do
      if not OPTIONS[key] then
         error(("bench.path: there is no option %q; there are: burst, catch_up, drain, peer, quiet, settle, sink, "
            .. "source, spacing, title, warm_up"):format(tostring(key)), 2)
      end
   end
   if not has(spec.source, "start", "stop", "running", "counters") then
      error("bench.path: source is " .. tostring(spec.source) .. ", not what bench.source(...) returns", 2)
   end
   if not has(spec.sink, "reset", "counters", "latency") then
      error("bench.path: sink is " .. tostring(spec.sink) .. ", not what bench.sink() or bench.probe(port) returns", 2)
   end
   if spec.peer and not has(spec.peer, "alive") then
      error("bench.path: peer has no alive(self), which says whether it still runs", 2)
   end
   return setmetatable({
      source = spec.source, sink = spec.sink, title = spec.title or spec.source.name, peer = spec.peer,
      drain = spec.drain or DRAIN, quiet = spec.quiet or QUIET, settle = spec.settle or SETTLE, spacing = spec.spacing,
      burst = spec.burst, catch_up = spec.catch_up, warm = spec.warm_up == false,
   }, Path)
end

return M
