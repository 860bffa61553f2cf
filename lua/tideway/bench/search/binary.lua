-- SPDX-License-Identifier: BSD-3-Clause
-- Binary search for the highest rate that meets a loss ratio, within a precision (RFC 2544, 24 and 26.1).
--
-- It starts at the top: what came through there is a good guess at what the path can do, so the next trial is just
-- below it, and the steps away from the guess double until there is a rate that is met below one that is not.

local trials = require "tideway.bench.search.trials"

local M = {}

local OPTIONS = {
   low = false, high = false, loss = 0, precision = 0.01, seconds = 1, verify = 0, trials = 200, limit = false,
   progress = false, again = 2,
}

---@class tideway.bench.search.binary
---@field rate? number the highest rate that met the goal, packets a second; nil: none did
---@field lower? tideway.bench.point the trial of that rate
---@field upper? tideway.bench.point the lowest rate above it that did not meet the goal
---@field met boolean
---@field bound? "search"|"source" what ended the search upwards, when it was not the path
---@field why string what was found, as a sentence
---@field stopped? string why it ended before the precision was reached
---@field trials table[]
---@field seconds number of trials

local function check(options)
   local o = trials.options("binary search", options, OPTIONS)
   trials.range("binary search", "loss", o.loss, 0, 1)
   trials.range("binary search", "precision", o.precision, 0, 1, true)
   trials.range("binary search", "seconds", o.seconds, 0, math.huge, true)
   if o.high then trials.range("binary search", "high", o.high, o.low or 0, math.huge, true) end
   if o.low then trials.range("binary search", "low", o.low, 0, math.huge, true) end
   return o
end

-- A trial; one that misses the goal is made again as often as was asked (loss verification, ETSI GS NFV-TST 009).
local function try(s, rate)
   local point = s.recorder:measure(rate, s.o.seconds)
   for _ = 1, s.o.verify do
      if point.loss <= s.o.loss then break end
      point = s.recorder:measure(rate, s.o.seconds)
   end
   if point.loss <= s.o.loss then
      if not s.lower or point.load > s.lower.load then s.lower = point end
      if point.limited and not point.disturbed then s.bound = "source" end
   else
      s.upper = point
   end
   return point
end

local function close_enough(s)
   return s.lower and s.upper and s.upper.load - s.lower.load <= s.o.precision * s.upper.load
end

-- The rate to try after the first two. `s.top`: the upper bound before any trial near the guess.
local function next_rate(s)
   local low, high = s.lower and s.lower.load or s.low, s.upper.load
   if not s.lower then
      s.step = s.step * 2
      return math.max(s.low, high - s.step)
   end
   if s.upper == s.top then
      s.step = s.step * 2
      if low + s.step < high then return low + s.step end
      s.top = nil
   end
   return (low + high) / 2
end

local function search(s)
   local o = s.o
   local top = try(s, o.high)
   s.low = o.low or math.min(top.load, math.max(top.load / 1e5, 10 / o.seconds))
   if s.lower then
      s.bound = s.bound or "search"
      return
   end
   s.top = s.upper
   local guess = top.result.received / (top.result.sent / top.load) / (1 - math.min(o.loss, 0.99))
   guess = math.max(s.low, math.min(guess * (1 - o.precision / 2), top.load * (1 - o.precision)))
   s.step = o.precision * guess / 2
   local rate = guess
   while not close_enough(s) do
      try(s, rate)
      if s.bound then return end
      if s.upper.load <= s.low * (1 + 1e-9) then return end -- not even the lowest one
      if s.lower and s.lower.load >= s.upper.load then s.lower = nil end
      rate = next_rate(s)
   end
end

local function goal_text(o)
   return o.loss == 0 and "no loss" or "a loss of at most " .. trials.percent(o.loss)
end

local function sentence(s, stopped)
   local o, lower, upper = s.o, s.lower, s.upper
   if stopped and lower and upper then
      return ("%s; so far between %s and %s"):format(stopped, trials.pps(lower.load), trials.pps(upper.load))
   elseif stopped then
      return upper and ("%s; so far %s"):format(stopped, trials.lost_text(upper)) or stopped
   elseif not lower and trials.nothing(upper) then
      return trials.nothing_text(upper)
   elseif not lower then
      return ("no rate from %s to %s has %s: the lowest one that was tried, %s"):format(trials.pps(s.low),
         o.high and trials.pps(o.high) or "what the source can do", goal_text(o), trials.lost_text(upper))
   elseif s.bound == "source" then
      return trials.source_text(lower.load, goal_text(o), lower.result.cause)
   elseif s.bound == "search" then
      return ("%s is the highest rate that the search may try, with %s: the path does at least that"):format(
         trials.pps(lower.load), goal_text(o))
   end
   return ("%s with %s; %s"):format(trials.pps(lower.load), goal_text(o), trials.lost_text(upper))
end

--- Search the highest rate with at most so much loss.
---@param trial fun(rate: number?, seconds: number): tideway.bench.trial?, string?
---@param options? table `low`, `high`: limits in packets a second (high: nil is what the source can do; low: nil is a
--- 100,000th of that); `loss`: goal, lost of sent (default 0); `precision`: how far the bounds may be apart, as a part
--- of the upper one (0.01); `seconds` of a trial (1); `verify`: how often a trial that misses the goal is made again
--- (0); `trials`, `limit`: most trials, most seconds; `again`; `progress(text)`
---@return tideway.bench.search.binary
function M.search(trial, options)
   local o = check(options)
   local s = { o = o, recorder = trials.new(trial, o) }
   local stopped = trials.guard(function() search(s) end)
   return {
      rate = s.lower and s.lower.load, lower = s.lower, upper = s.upper, met = s.lower ~= nil and not stopped,
      bound = s.bound, why = sentence(s, stopped), stopped = stopped, trials = s.recorder.list,
      seconds = s.recorder.seconds,
   }
end

return M
