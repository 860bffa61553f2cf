-- SPDX-License-Identifier: BSD-3-Clause
-- Soak: one rate for a long time, looked at in intervals. What was lost, how long packets took, how memory grew.

local trials = require "tideway.bench.search.trials"

local M = {}

local OPTIONS = {
   rate = false, seconds = 3600, interval = false, loss = 0, latency = false, percentile = 99.9, memory = false,
   stop = true, progress = false, sleep = false, now = false, used = false,
}
local ROWS = 60
local LEAST_FOR_HOUR = 30 -- seconds from which something can be said of an hour

---@class tideway.bench.search.interval
---@field at number seconds since the start, at its end
---@field sent integer
---@field lost integer of those whose successors have arrived, so that none is counted that is on its way
---@field latency? number ns, at the percentile
---@field longest? number ns
---@field memory? number MB of the process, at its end
---@field wrong? string what is not as it should be

--- A stream that runs: path:stream() gives one. read(): counts since the start, the histogram of the packets since the
--- last call.
---@class tideway.bench.flow
---@field read fun(self): { sent: integer, received: integer, lost: integer, latency: table? }?, string?
---@field stop fun(self): tideway.bench.trial?, string? stops sending, waits for what is on its way

local function seconds_text(s) return (s < 10 and "%.1f s" or "%.0f s"):format(s) end

local function growth(intervals)
   local first, last = nil, intervals[#intervals]
   for _, each in ipairs(intervals) do
      if each.memory then
         first = each
         break
      end
   end
   if not first or not last.memory then return nil end
   local grown, seconds = last.memory - first.memory, last.at - first.at
   return grown, seconds >= LEAST_FOR_HOUR and grown / seconds * 3600 or nil
end

local function wrong_of(o, each, first)
   if each.sent == 0 then return "the source sent nothing" end
   if each.lost > o.loss * each.sent then
      return ("lost %d of %d packets (%s)"):format(each.lost, each.sent, trials.percent(each.lost / each.sent))
   end
   if each.received == 0 then return "nothing arrived" end
   if o.latency and each.latency and each.latency > o.latency then
      return ("latency of %.0f ns at %g %%, above %.0f"):format(each.latency, o.percentile, o.latency)
   end
   if o.memory and each.memory and first and first.memory and each.memory - first.memory > o.memory then
      return ("memory grew by %.1f MB, more than %g"):format(each.memory - first.memory, o.memory)
   end
end

local function look(s, stream, o)
   local read, err = stream:read()
   if not read then trials.stop("after %s: %s", seconds_text(o.now() - s.began), tostring(err)) end
   local each = {
      at = o.now() - s.began, sent = read.sent - s.sent, received = read.received - s.received,
      lost = math.max(0, read.lost - s.lost), memory = o.used and o.used() or nil,
   }
   local histogram = read.latency
   if histogram and histogram:count() > 0 then
      each.latency, each.longest = histogram:percentile(o.percentile), histogram:max()
   end
   s.sent, s.received, s.lost = read.sent, read.received, read.lost
   each.wrong = wrong_of(o, each, s.intervals[1])
   s.intervals[#s.intervals + 1] = each
   if each.wrong then s.violations = s.violations + 1 end
   return each
end

local function run(s, open, o)
   local stream, err = open(o.rate)
   if not stream then trials.stop("%s", tostring(err)) end
   s.began = o.now()
   local stopped = trials.guard(function()
      local due = s.began
      repeat
         due = math.min(due + o.interval, s.began + o.seconds)
         o.sleep(math.max(0, due - o.now()))
         local each = look(s, stream, o)
         if o.progress then
            o.progress(("%s of %s: %s"):format(seconds_text(each.at), seconds_text(o.seconds),
               each.wrong or ("%d packets, %d lost"):format(each.sent, each.lost)))
         end
         if each.wrong and o.stop then return end
      until o.now() >= s.began + o.seconds - 1e-3
   end)
   s.total, err = stream:stop()
   if stopped then trials.stop("%s", stopped) end
   if not s.total then trials.stop("%s", tostring(err)) end
end

local function sentence(s, o, stopped)
   local first
   for _, each in ipairs(s.intervals) do first = first or each.wrong and each end
   local text
   if first then
      text = ("%s after %s%s"):format(first.wrong, seconds_text(first.at),
         o.stop and "" or (", the first of %d of %d intervals"):format(s.violations, #s.intervals))
   elseif s.total and s.total.lost > o.loss * s.total.sent then
      text = ("lost %d of %d packets, the last of them when it stopped"):format(s.total.lost, s.total.sent)
   elseif s.total then
      text = ("%d packets in %s, %s"):format(s.total.sent, seconds_text(s.intervals[#s.intervals].at),
         s.total.lost == 0 and "none lost" or trials.percent(s.total.lost / s.total.sent) .. " lost")
   end
   return stopped and (text and stopped .. "; before: " .. text or stopped) or text
end

--- Send at a rate for long.
---@param open fun(rate: number?): tideway.bench.flow?, string?
---@param options table `rate`: packets a second; `seconds` (3600); `interval` between looks (a 60th, at least 1 s);
--- `loss`: goal for each interval and for all (0); `latency`: most ns at the `percentile` (99.9); `memory`: most growth
--- of the process in MB; `stop`: end at the first violation (true); `sleep`, `now`: the clock; `used()`: MB in use;
--- `progress(text)`
---@return { met: boolean, why: string, intervals: tideway.bench.search.interval[], violations: integer,
--- total: tideway.bench.trial?, stopped: string?, growth: number?, growth_per_hour: number? }
function M.run(open, options)
   local o = trials.options("soak", options, OPTIONS)
   trials.range("soak", "seconds", o.seconds, 0, math.huge, true)
   trials.range("soak", "loss", o.loss, 0, 1)
   o.interval = o.interval or math.max(math.min(1, o.seconds / 5), o.seconds / ROWS)
   local s = { intervals = {}, violations = 0, sent = 0, received = 0, lost = 0 }
   s.stopped = trials.guard(function() run(s, open, o) end)
   s.why = sentence(s, o, s.stopped)
   s.met = not s.stopped and s.violations == 0 and s.total.lost <= o.loss * s.total.sent
   if #s.intervals > 0 then s.growth, s.growth_per_hour = growth(s.intervals) end
   return s
end

--- Intervals put together until there are no more than 60, each with the worst of what it is made of.
---@param intervals tideway.bench.search.interval[]
---@return tideway.bench.search.interval[]
function M.condense(intervals)
   local each = math.ceil(#intervals / ROWS)
   local list = {}
   for i, interval in ipairs(intervals) do
      local to = list[math.ceil(i / each)]
      if not to then
         to = { at = 0, sent = 0, lost = 0 }
         list[#list + 1] = to
      end
      to.at, to.memory, to.wrong = interval.at, interval.memory, to.wrong or interval.wrong
      to.sent, to.lost = to.sent + interval.sent, to.lost + interval.lost
      for _, name in ipairs { "latency", "longest" } do
         if interval[name] then to[name] = math.max(to[name] or 0, interval[name]) end
      end
   end
   return list
end

return M
