-- SPDX-License-Identifier: BSD-3-Clause
-- MLRsearch (RFC 9971): the highest rates for several goals in one search, with loads classified as the RFC defines.
--
-- What is the RFC's: goals, load classification (appendix A), relevant bounds, conditional throughput (appendix B).
-- What is ours: which load is tried next. Each goal goes through stages of growing trial duration and shrinking width;
-- the bounds of one stage are the first guesses of the next; all goals finish a stage, the strictest first, before the
-- next begins; what one goal measured counts for all.

local trials = require "tideway.bench.search.trials"

local M = {}

---@class tideway.bench.search.goal
---@field name string
---@field loss number goal loss ratio, 0 to below 1
---@field exceed number goal exceed ratio: the share of trial time that may have more loss
---@field duration number goal final trial duration, s
---@field sum number goal duration sum, s
---@field width number goal width: how far the bounds may be apart, as a part of the upper one
---@field initial number goal initial trial duration, s

local GOAL = { name = false, loss = 0, exceed = 0.5, duration = 1, sum = false, width = 0.005, initial = false }
local OPTIONS = {
   goals = false, low = false, high = false, trials = 500, limit = false, progress = false, again = 2,
}
local GROWTH = 4 -- trial durations grow by at most this from stage to stage

-- ---- the RFC's definitions ----

-- Seconds of trials at a load by length and loss.
local function sums(results, goal)
   local s = { full = { low = 0, high = 0 }, short = { low = 0, high = 0 } }
   for _, point in ipairs(results) do
      local length = s[point.seconds >= goal.duration and "full" or "short"]
      local kind = point.loss > goal.loss and "high" or "low"
      length[kind] = length[kind] + point.seconds
   end
   return s
end

--- What the trials at one load say of it for a goal (RFC 9971, appendix A).
---@param results { seconds: number, loss: number }[] all trials at the load
---@param goal tideway.bench.search.goal
---@return "lower"|"upper"|nil bound nil: undecided
function M.classify(results, goal)
   local s = sums(results, goal)
   -- Short trials with little loss make up for short ones with much, as far as the exceed ratio goes; they never
   -- make a lower bound.
   local excess = math.max(0, s.short.high - s.short.low * goal.exceed / (1 - goal.exceed))
   local high = s.full.high + excess
   local whole = math.max(high + s.full.low, goal.sum)
   local allowed = whole * goal.exceed
   if whole - s.full.low <= allowed then return "lower" end -- even if all that is missing turned out bad
   if high > allowed then return "upper" end
   return nil
end

--- Conditional throughput: the forwarding rate that is typical, or worse, for a load (RFC 9971, appendix B).
---@param load number
---@param results { seconds: number, loss: number }[] all trials at the load
---@param goal tideway.bench.search.goal
---@return number rate
function M.conditional(load, results, goal)
   local full, total = {}, 0
   for _, point in ipairs(results) do
      if point.seconds >= goal.duration then
         full[#full + 1] = point
         total = total + point.seconds
      end
   end
   table.sort(full, function(a, b) return a.loss < b.loss end)
   local left, loss = math.max(goal.sum, total) * (1 - goal.exceed), 1
   for i, point in ipairs(full) do
      if i > 1 and left <= 0 then break end
      loss, left = point.loss, left - point.seconds
   end
   return load * (1 - (left > 0 and 1 or loss))
end

--- The relevant bounds of a goal among all loads that were tried.
---@param loads table<number, table[]> trials by load
---@param goal tideway.bench.search.goal
---@return number? lower the highest lower bound below the upper one
---@return number? upper the lowest upper bound
---@return number? highest the highest lower bound of all
function M.bounds(loads, goal)
   local lower, upper, highest
   local kinds = {}
   for load, results in pairs(loads) do
      kinds[load] = M.classify(results, goal)
      if kinds[load] == "upper" and (not upper or load < upper) then upper = load end
   end
   for load, kind in pairs(kinds) do
      if kind == "lower" then
         if not highest or load > highest then highest = load end
         if (not upper or load < upper) and (not lower or load > lower) then lower = load end
      end
   end
   return lower, upper, highest
end

-- ---- options ----

local function check_goal(i, given)
   local what = ("MLRsearch: goal %d"):format(i)
   if type(given) ~= "table" then error(what .. " is no table such as { loss = 0 }", 3) end
   local goal = trials.options(what, given, GOAL)
   goal.name = goal.name or ("loss %s"):format(trials.percent(goal.loss))
   trials.range(what, "loss", goal.loss, 0, 0.999999)
   trials.range(what, "exceed", goal.exceed, 0, 0.999999)
   trials.range(what, "duration", goal.duration, 0, math.huge, true)
   trials.range(what, "width", goal.width, 0, 1, true)
   goal.sum = goal.sum or goal.duration
   goal.initial = math.min(goal.initial or goal.duration, goal.duration)
   trials.range(what, "sum", goal.sum, 0, math.huge, true)
   trials.range(what, "initial", goal.initial, 0, math.huge, true)
   return goal
end

-- A goal as it stands in a stage before the last: shorter trials, one of them is enough, bounds further apart.
local function stage_of(goal, number, count)
   local left = count - number
   if left == 0 then return goal end
   local seconds = goal.initial * (goal.duration / goal.initial) ^ ((number - 1) / (count - 1))
   return {
      name = goal.name, loss = goal.loss, exceed = goal.exceed, duration = seconds, sum = seconds,
      width = math.min(0.5, goal.width * 2 ^ left),
   }
end

local function stage_count(goals)
   local most = 1
   for _, goal in ipairs(goals) do
      if goal.initial < goal.duration then
         most = math.max(most, 1 + math.ceil(math.log(goal.duration / goal.initial) / math.log(GROWTH) - 1e-9))
      end
   end
   return most
end

-- ---- the controller ----

local Search = {}
Search.__index = Search

-- A trial at a load; what the source could not do is the highest load from then on.
function Search:measure(rate, seconds)
   local point = self.recorder:measure(rate, seconds)
   if point.limited and not point.disturbed then
      self.high, self.bound, self.cause = point.load, "source", point.result.cause
   end
   self.loads[point.load] = self.loads[point.load] or {}
   table.insert(self.loads[point.load], point)
   if not self.guess and point.loss > 0 then
      self.guess = point.result.received / (point.result.sent / point.load)
   end
   if trials.nothing(point) then self.dead = true end
   return point.load
end

-- Trials at a load until it is decided for the goal.
function Search:decide(load, goal)
   while not M.classify(self.loads[load] or {}, goal) do
      local at = self:measure(load, goal.duration)
      if at ~= load then return end -- the source cannot do it
   end
end

local function close_enough(lower, upper, goal) return upper - lower <= goal.width * upper * (1 + 1e-9) end

-- Up from the lower bound: the hint's upper bound first, then steps that double.
local function upwards(lower, goal, hint)
   local load = hint.upper or lower * (1 + hint.up * goal.width)
   hint.upper, hint.up = nil, hint.up * 2
   return load > lower and load or upwards(lower, goal, hint)
end

-- Down from the upper bound: the hint's lower bound first, then steps that double.
local function downwards(upper, goal, hint)
   local load = hint.lower or upper * (1 - hint.down * goal.width)
   hint.lower, hint.down = nil, hint.down * 2
   return load < upper and load or downwards(upper, goal, hint)
end

-- The load to look at next for a goal in a stage; nil when its bounds are found, or cannot be.
function Search:next_load(goal, hint)
   local lower, upper = M.bounds(self.loads, goal)
   local load
   if lower and upper then
      if close_enough(lower, upper, goal) then return nil end
      load = math.min(upwards(lower, goal, hint), (lower + upper) / 2)
   elseif upper then
      if upper <= self.low then return nil end
      load = self.dead and self.low or downwards(upper, goal, hint)
   elseif lower then
      load = upwards(lower, goal, hint)
   else
      load = hint.lower or self.high
   end
   if lower and lower >= self.high then return nil end
   return math.max(self.low, math.min(self.high, load))
end

-- Bounds for one goal as it stands in a stage.
function Search:find(goal, before)
   -- The first guess: what came through when it was too much.
   local guess = self.guess and math.max(self.low, self.guess / (1 - goal.loss) * (1 - goal.width / 2))
   local hint = { lower = before.lower or guess, upper = before.upper, up = 1, down = 1 }
   while true do
      local load = self:next_load(goal, hint)
      if not load then break end
      self:decide(load, goal)
   end
   before.lower, before.upper = M.bounds(self.loads, goal)
end

function Search:start()
   local shortest = math.huge
   for _, goal in ipairs(self.goals) do shortest = math.min(shortest, goal.initial) end
   local top = self:measure(self.high, shortest)
   self.high = self.high or top
   self.low = self.low or math.min(top, math.max(top / 1e5, 10 / shortest))
end

function Search:satisfied(goal)
   local lower, upper = M.bounds(self.loads, goal)
   return lower and lower >= self.high or upper and upper <= self.low
      or lower and upper and close_enough(lower, upper, goal)
end

function Search:run()
   self:start()
   local order, before = {}, {}
   for i, goal in ipairs(self.goals) do order[i], before[goal] = goal, {} end
   table.sort(order, function(a, b)
      if a.loss ~= b.loss then return a.loss < b.loss end
      return a.exceed < b.exceed
   end)
   local count = stage_count(self.goals)
   for number = 1, count do
      for _, goal in ipairs(order) do self:find(stage_of(goal, number, count), before[goal]) end
   end
   -- What a later goal measured may have moved the bounds of an earlier one.
   repeat
      local again = false
      for _, goal in ipairs(order) do
         if not self:satisfied(goal) then
            self:find(goal, before[goal])
            again = true
         end
      end
   until not again
end

-- ---- results ----

local function worst(results)
   local most = results[1]
   for _, point in ipairs(results) do
      if point.loss > most.loss then most = point end
   end
   return most
end

local function why(s, result, stopped)
   local goal, lower, upper = result.goal, result.lower, result.upper
   local wanted = goal.loss == 0 and "no loss" or "a loss of at most " .. trials.percent(goal.loss)
   if result.regular then
      return ("%s with %s (offered %s); %s"):format(trials.pps(result.rate), wanted, trials.pps(lower),
         trials.lost_text(worst(s.loads[upper])))
   elseif stopped then
      return ("%s; so far between %s and %s"):format(stopped, lower and trials.pps(lower) or "nothing",
         upper and trials.pps(upper) or "no bound")
   elseif lower and s.bound == "source" then
      return trials.source_text(lower, wanted, s.cause)
   elseif lower then
      return ("%s is the highest rate that the search may try, with %s: the path does at least that"):format(
         trials.pps(lower), wanted)
   elseif s.dead and worst(s.loads[upper]).loss == 1 then
      return trials.nothing_text(worst(s.loads[upper]))
   end
   return ("no rate from %s to %s has %s: the lowest one that was tried, %s"):format(trials.pps(s.low),
      trials.pps(s.high), wanted, trials.lost_text(worst(s.loads[upper])))
end

---@class tideway.bench.search.goal_result
---@field goal tideway.bench.search.goal
---@field rate? number conditional throughput, packets a second; nil: no load is a lower bound
---@field lower? number relevant lower bound (of an irregular result without an upper bound: the highest lower bound)
---@field upper? number relevant upper bound
---@field regular boolean both bounds are there, within the width
---@field met boolean a lower bound is there, and the search was not ended early
---@field why string

local function goal_result(s, goal, stopped)
   local lower, upper, highest = M.bounds(s.loads, goal)
   local regular = lower ~= nil and upper ~= nil and close_enough(lower, upper, goal)
   if not upper then lower = highest end
   local result = {
      goal = goal, lower = lower, upper = upper, regular = regular, met = lower ~= nil and (regular or not stopped),
      rate = lower and M.conditional(lower, s.loads[lower], goal),
   }
   result.why = why(s, result, stopped)
   return result
end

--- Search the rates of several goals at once.
---@param trial fun(rate: number?, seconds: number): tideway.bench.trial?, string?
---@param options { goals: table[], low: number?, high: number? } goals: { name, loss (0), exceed (0.5), duration of
--- full-length trials (1 s), sum of trial time a load may take (as duration), initial duration (as duration),
--- width (0.005 of the upper bound) }; low, high: limits in packets a second (high: nil is what the source can do);
--- trials, limit: most trials, most seconds; again; progress(text)
---@return { goals: tideway.bench.search.goal_result[], uppers: tideway.bench.point[], met: boolean, stopped: string?,
--- bound: string?, trials: table[], seconds: number, low: number, high: number } uppers: trials that made upper bounds
function M.search(trial, options)
   local o = trials.options("MLRsearch", options, OPTIONS)
   if type(o.goals) ~= "table" or #o.goals == 0 then
      error("MLRsearch: goals is a list of one or more, such as { { loss = 0 }, { loss = 0.005 } }", 2)
   end
   if o.high then trials.range("MLRsearch", "high", o.high, o.low or 0, math.huge, true) end
   if o.low then trials.range("MLRsearch", "low", o.low, 0, math.huge, true) end
   local s = setmetatable({
      goals = {}, loads = {}, low = o.low, high = o.high, bound = "search", recorder = trials.new(trial, o),
   }, Search)
   for i, goal in ipairs(o.goals) do s.goals[i] = check_goal(i, goal) end
   local stopped = trials.guard(function() s:run() end)
   local results, met, uppers = {}, true, {}
   for i, goal in ipairs(s.goals) do
      results[i] = goal_result(s, goal, stopped)
      met = met and results[i].met
      for _, point in ipairs(s.loads[results[i].upper] or {}) do
         if point.loss > goal.loss then uppers[#uppers + 1] = point end
      end
   end
   return {
      goals = results, uppers = uppers, met = met, stopped = stopped, bound = s.bound, trials = s.recorder.list,
      seconds = s.recorder.seconds, low = s.low, high = s.high,
   }
end

return M
