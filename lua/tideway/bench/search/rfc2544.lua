-- SPDX-License-Identifier: BSD-3-Clause
-- RFC 2544 runs: throughput (26.1), latency (26.2), frame loss rate (26.3), back-to-back frames (26.4, RFC 9004), each
-- over frame sizes. What differs from the RFC is said in the result.

local binary = require "tideway.bench.search.binary"
local burst = require "tideway.bench.search.burst"
local runner = require "tideway.bench.runner"
local trials = require "tideway.bench.search.trials"

local M = {
   --- Frame sizes on Ethernet, with FCS (9.1).
   SIZES = { 64, 128, 256, 512, 1024, 1280, 1518 },
}

local GAP = 20 -- bytes of preamble and gap between frames
local DURATION, LATENCY_DURATION, LATENCY_TIMES, BURST_TIMES, BURST_SECONDS = 60, 120, 20, 50, 2
local TESTS = { throughput = true, latency = true, loss = true, bursts = true }
local OPTIONS = {
   title = false, path = false, traffic = false, tester = false, sizes = false, duration = false, line = false,
   high = false, low = false, loss = 0, precision = 0.01, verify = 0, tests = false, times = 1,
   latency_seconds = false, burst_times = 10, burst_seconds = false, method = false,
}

---@class tideway.bench.search.tester what can be done with frames of one size
---@field trial fun(rate: number?, seconds: number): tideway.bench.trial?, string?
---@field send fun(count: integer): tideway.bench.trial?, string? a burst, back to back

---@class tideway.bench.search.rfc2544
local Run = {}
Run.__index = Run

--- How many frames of a size, with FCS, a line carries in a second.
---@param bits number a second
---@param size integer
---@return number
function M.line_rate(bits, size) return bits / ((size + GAP) * 8) end

local function tests_of(what, list)
   local tests = {}
   for _, test in ipairs(list or { "throughput", "latency", "loss", "bursts" }) do
      if not TESTS[test] then
         error(("%s: there is no test %q; there are: bursts, latency, loss, throughput"):format(what, tostring(test)),
            4)
      end
      tests[test] = true
   end
   return tests
end

-- The tester of a path whose source takes other traffic while it is stopped.
local function tester_of(path, traffic)
   return function(size)
      local packets = traffic(size)
      local function use(fn)
         return function(...)
            local ok, err = path:use(packets)
            if not ok then return nil, err end
            return fn(...)
         end
      end
      return {
         trial = use(path:trials()),
         send = use(path:sender()),
      }
   end
end

--- A run over frame sizes; nothing is measured yet.
---@param what string names it in messages
---@param options table as of bench.search with method = "rfc2544"
---@return tideway.bench.search.rfc2544
function M.new(what, options)
   local o = trials.options(what, options, OPTIONS)
   if not o.tester and not (o.path and type(o.traffic) == "function") then
      error(what .. ": path = bench.path { ... } and traffic = function(size) return bench.packets { size = size, "
         .. "stamp = true } end are missing", 3)
   end
   local run = setmetatable({
      o = o, sizes = o.sizes or M.SIZES, tests = tests_of(what, o.tests), found = {}, list = {},
      tester = o.tester or tester_of(o.path, o.traffic), testers = {},
   }, Run)
   for i, size in ipairs(run.sizes) do trials.range(what, ("sizes[%d]"):format(i), size, 64, 16000) end
   return run
end

--- Durations are known when it runs: what was asked for, or what the command line says.
---@param context tideway.bench.context
---@return tideway.bench.search.rfc2544 self
function Run:begin(context)
   local o = self.o
   self.context = context
   self.seconds = trials.seconds(context, o.duration)
   self.latency_seconds = o.latency_seconds or self.seconds >= DURATION and LATENCY_DURATION or self.seconds
   self.burst_seconds = o.burst_seconds or math.min(BURST_SECONDS, self.seconds)
   return self
end

function Run:say(text, ...) self.context.progress(text:format(...), nil, nil, true) end

function Run:progress(text, ...) return trials.progress(self.context, self.seconds, text:format(...)) end

function Run:at(size)
   self.testers[size] = self.testers[size] or self.tester(size)
   return self.testers[size]
end

--- The highest rate that is offered at a size, packets a second; nil: what the source can do.
function Run:top(size) return self.o.high or self.o.line and M.line_rate(self.o.line, size) or nil end

--- Throughput at a frame size, measured once.
---@param size integer
---@return tideway.bench.search.binary
function Run:throughput(size)
   if self.found[size] then return self.found[size] end
   local o = self.o
   local found = binary.search(self:at(size).trial, {
      high = self:top(size), low = o.low, loss = o.loss, precision = o.precision, seconds = self.seconds,
      verify = o.verify, progress = self:progress("%d bytes, throughput, ", size),
   })
   for _, trial in ipairs(found.trials) do
      trial.size = size
      table.insert(self.list, trial)
   end
   found.top = found.trials[1] and found.trials[1].reached or nil
   self.found[size] = found
   return found
end

--- Latency at the throughput of a frame size.
---@param size integer
---@return table? histograms one a repetition; { result = } are the last trial's counts
---@return string? err
function Run:latency(size)
   local found = self:throughput(size)
   if not found.rate then return nil, found.why end
   local list = {}
   for i = 1, self.o.times do
      self:say("%d bytes, latency at %s, %d/%d", size, trials.pps(found.rate), i, self.o.times)
      local result, err = self:at(size).trial(found.rate, self.latency_seconds)
      if not result then return nil, err end
      list.clock = list.clock or result.latency and result.latency.clock
      list[i], list.result = result.latency, result
   end
   if #list == 0 then return nil, trials.NO_STAMP end
   return list
end

--- Frame loss rate at a size: from the highest rate down in steps of 10 % of it until two lose nothing.
---@param size integer
---@return { percent: number, point: tideway.bench.point }[] points
---@return string? stopped
function Run:loss(size)
   local points, clean = {}, 0
   local recorder = trials.new(self:at(size).trial, {
      again = 0, progress = self:progress("%d bytes, frame loss rate, ", size),
   })
   local stopped = trials.guard(function()
      local top
      for percent = 100, 10, -10 do
         local point = recorder:measure(top and top * percent / 100 or self:top(size), self.seconds)
         top = top or point.load
         points[#points + 1] = { percent = percent, point = point }
         clean = point.result.lost == 0 and clean + 1 or 0
         if clean == 2 then return end
      end
   end)
   return points, stopped
end

--- Back-to-back frames of a size, and how much the path buffers (RFC 9004).
---@param size integer
---@return { skipped: string?, longest: table?, implied: number?, corrected: number?, frames: number? } implied,
--- corrected: seconds
function Run:bursts(size)
   local found = self:throughput(size)
   if not found.rate then return { skipped = found.why } end
   if not found.upper then return { skipped = "nothing is lost at the highest rate: there is no buffer to fill" } end
   local most = found.top
   local longest = burst.longest(self:at(size).send, {
      times = self.o.burst_times, high = math.max(2, math.floor(most * self.burst_seconds)),
      progress = function(text, i, n) self:say("%d bytes, %d/%d, %s", size, i, n, text) end,
   })
   if not longest.average then return { skipped = longest.stopped } end
   local implied, share = longest.average / most, 1 - math.min(1, found.rate / most)
   return {
      longest = longest, implied = implied, corrected = implied * share, frames = longest.average * share,
      skipped = longest.stopped,
   }
end

--- How it differs from the RFC, a sentence each.
---@return string[]
function Run:deviations()
   local list = {}
   local function add(text, ...) list[#list + 1] = text:format(...) end
   if self.seconds < DURATION then
      add("deviation from RFC 2544, 24: trials of %.3g s, not %d", self.seconds, DURATION)
   end
   add "deviation from RFC 2544, 23: after a trial it waits until no more packets arrive, at most 2 s, not 2 s and 5 s"
   local wanted, there = {}, {}
   for _, size in ipairs(self.sizes) do there[size] = true end
   for _, size in ipairs(M.SIZES) do
      if not there[size] then wanted[#wanted + 1] = size end
   end
   if #wanted > 0 then add("deviation from RFC 2544, 9.1: no frames of %s bytes", table.concat(wanted, ", ")) end
   if self.tests.latency then
      add("deviation from RFC 2544, 26.2: the latency of all packets in %d x %.3g s, not of one packet in %d x %d s",
         self.o.times, self.latency_seconds, LATENCY_TIMES, LATENCY_DURATION)
   end
   if self.tests.bursts and self.o.burst_times < BURST_TIMES then
      add("deviation from RFC 9004: %d searches for the longest burst, not %d", self.o.burst_times, BURST_TIMES)
   end
   return list
end

-- ---- entries of the result document ----

--- The verdict over the throughput of several sizes.
---@param entry table
---@param met boolean
---@param uppers (tideway.bench.point|false)[] upper bounds
function Run:judge(entry, met, uppers)
   local points = {}
   for _, point in ipairs(uppers) do points[#points + 1] = point or nil end
   local reasons
   entry.verdict, reasons = trials.verdict(met, points)
   for i, text in ipairs(reasons) do table.insert(entry.why, i, text) end
end

local function gigabits(rate, size) return rate * (size + GAP) * 8 / 1e9 end

--- The throughput of all sizes.
---@return table entry
function Run:throughput_entry()
   local o, most, met, uppers = self.o, 0, true, {}
   local entry = { kind = "search", method = o.method or "rfc2544", rows = {}, why = {}, trials = self.list }
   for i, size in ipairs(self.sizes) do
      self.context.progress(("frames of %d bytes"):format(size), i, #self.sizes)
      most = math.max(most, self:throughput(size).rate or 0)
   end
   local divisor, unit = trials.unit(most)
   entry.columns = {
      { name = "size", title = "frame size", unit = "B" }, { name = "rate", title = "throughput", unit = unit },
      { name = "gbit", title = "layer 1", unit = "Gbit/s" }, { name = "above", title = "too much", unit = unit },
      { name = "lost", title = "lost there", unit = "%" }, { name = "note", title = "note" },
   }
   for i, size in ipairs(self.sizes) do
      local found = self:throughput(size)
      local upper = found.upper
      entry.rows[i] = {
         size, found.rate and found.rate / divisor, found.rate and gigabits(found.rate, size),
         upper and upper.load / divisor, upper and upper.loss * 100,
         found.bound == "source" and "all that the source can do" or found.bound == "search"
            and (o.line and not o.high and "line rate" or "the highest rate allowed") or "", met = found.met,
         name = ("%d bytes"):format(size), goal = "loss of at most " .. trials.percent(o.loss), pps = found.rate,
      }
      met, uppers[i] = met and found.met, upper or false
      if not found.met then table.insert(entry.why, ("%d bytes: %s"):format(size, found.why)) end
   end
   self:judge(entry, met, uppers)
   for _, text in ipairs(self:deviations()) do table.insert(entry.why, text) end
   entry.rows = trials.rows(entry.columns, entry.rows)
   return entry
end

local function merged(list)
   local all = list[1]
   for i = 2, #list do all:merge(list[i]) end
   return all
end

--- Latency at the throughput of all sizes.
---@return table entry
function Run:latency_entry()
   local entry = { kind = "latency", unit = "ns", series = {} }
   for i, size in ipairs(self.sizes) do
      self.context.progress(("frames of %d bytes"):format(size), i, #self.sizes)
      local list, err = self:latency(size)
      local rate = self:throughput(size).rate
      local name = ("%d B%s"):format(size, rate and " at " .. trials.pps(rate) or "")
      entry.clock = entry.clock or list and list.clock
      entry.series[i] = require("tideway.bench.search.latency").series(name, list and merged(list), err)
   end
   return entry
end

--- Frame loss rates of all sizes.
---@return table entry
function Run:loss_entry()
   local entry = {
      kind = "curve", x = { name = "offered load", unit = "%" }, unit = "% lost", better = "less", series = {},
   }
   for i, size in ipairs(self.sizes) do
      self.context.progress(("frames of %d bytes"):format(size), i, #self.sizes)
      local points, stopped = self:loss(size)
      local series = { name = ("%d B"):format(size), points = {}, missing = #points == 0 and stopped or nil }
      if points[1] then series.note = "100 % are " .. trials.pps(points[1].point.load) end
      for n, at in ipairs(points) do
         series.points[n] = {
            x = at.percent, median = at.point.loss * 100, values = { at.point.loss * 100 }, rate = at.point.load,
         }
      end
      entry.series[i] = series
   end
   return entry
end

--- Back-to-back frames of all sizes.
---@return table entry
function Run:bursts_entry()
   local entry = {
      kind = "table", rows = {},
      columns = {
         { name = "size", title = "frame size", unit = "B" },
         { name = "average", title = "longest burst", unit = "packets" },
         { name = "min" }, { name = "max" }, { name = "deviation", title = "standard deviation" },
         { name = "implied", title = "implied buffer", unit = "us" },
         { name = "corrected", title = "corrected", unit = "us" }, { name = "note", title = "note" },
      },
   }
   for i, size in ipairs(self.sizes) do
      self.context.progress(("frames of %d bytes"):format(size), i, #self.sizes)
      local found = self:bursts(size)
      local longest = found.longest
      entry.rows[i] = { size, nil, nil, nil, nil, nil, nil, found.skipped or "" }
      if longest then
         entry.rows[i] = {
            size, longest.average, longest.min, longest.max, longest.deviation, found.implied * 1e6,
            found.corrected * 1e6, found.skipped or longest.capped and "the longest burst allowed" or "",
         }
      end
   end
   entry.rows = trials.rows(entry.columns, entry.rows)
   return entry
end

-- How it differs from the RFC: in the throughput's entry; said when that one is not there.
function Run:tell(test)
   local list = self:deviations()
   for _, text in ipairs((self.told or test == "throughput") and {} or list) do self.context.progress(text) end
   self.told = true
   return list
end

local PARTS = {
   { test = "throughput", suffix = "", kind = "search", title = "throughput", entry = Run.throughput_entry },
   {
      test = "latency", suffix = "-latency", kind = "latency", title = "latency at the throughput",
      entry = Run.latency_entry,
   },
   { test = "loss", suffix = "-loss", kind = "curve", title = "frame loss rate", entry = Run.loss_entry },
   { test = "bursts", suffix = "-bursts", kind = "table", title = "back-to-back frames", entry = Run.bursts_entry },
}

--- The experiments of a run, one for each test.
---@param name string
---@param options table
---@return table[] experiments for runner.experiment
function M.experiments(name, options)
   local run, list = M.new(("bench.search(%q)"):format(name), options), {}
   for _, part in ipairs(PARTS) do
      if run.tests[part.test] then
         list[#list + 1] = {
            kind = part.kind, name = name .. part.suffix,
            title = ("%s: %s"):format(run.o.title or "RFC 2544", part.title),
            run = function(context)
               local entry = part.entry(run:begin(context))
               entry.deviations, entry.interrupted = run:tell(part.test), runner.interrupted() or nil
               return entry
            end,
         }
      end
   end
   return list
end

return M
