-- SPDX-License-Identifier: BSD-3-Clause
-- From the samples of a group's rounds to its rows: medians, intervals, ratios within a round, verdicts, goals.

local statistics = require "tideway.bench.statistics"

local M = {
   --- The distance between the quartiles, as a share of the median, from which on a row is unstable.
   SPREAD = 0.03,
}

---@class tideway.bench.rounds what was measured of one contender
---@field samples table<integer, table> by round
---@field why table<integer, tideway.bench.reason[]> what disturbed a round
---@field missing? string why there are none

---@class tideway.bench.reason
---@field text string
---@field load boolean? other processes had the CPU: CPU times know nothing of it

-- ---- values by round ----

-- What one sample counts in the group's unit.
local function value_of(sample, unit)
   if sample.unit == unit then return sample.value end
   return sample[unit] or sample.value
end

local function by_round(rounds, pick)
   local values = {}
   for round, sample in pairs(rounds.samples) do values[round] = pick(sample) end
   return values
end

local function in_order(values, rounds)
   local list = {}
   for round = 1, rounds do list[#list + 1] = values[round] end
   return list
end

-- CPU time of a packet by round; nil when that is not known.
local function cpu_times(rounds)
   local list = {}
   for round, sample in pairs(rounds.samples) do
      if not sample.cpu_time then return nil end
      list[round] = sample.ns
   end
   return list
end

local function is_time(unit) return unit == "ns" or unit == "cycles" end

-- ---- verdicts ----

-- Reasons of two contenders, round by round.
local function joined(a, b)
   local out = {}
   for _, why in ipairs { a, b } do
      for round, list in pairs(why) do
         out[round] = out[round] or {}
         for _, reason in ipairs(list) do table.insert(out[round], reason) end
      end
   end
   return out
end

-- Every reason once: its text where it was worst, and the number of rounds.
local function reasons(why)
   local order, kinds = {}, {}
   for _, list in pairs(why) do
      for _, reason in ipairs(list) do
         local kind, figure = reason.text:gsub("%d+", "#"), tonumber(reason.text:match "%d+") or 0
         local known = kinds[kind]
         if not known then
            known = { rounds = 0, worst = -1 }
            kinds[kind], order[#order + 1] = known, known
         end
         known.rounds = known.rounds + 1
         if figure > known.worst then known.worst, known.text = figure, reason.text end
      end
   end
   table.sort(order, function(a, b) return a.rounds > b.rounds or a.rounds == b.rounds and a.text < b.text end)
   local list = {}
   for i, r in ipairs(order) do list[i] = ("%s in %d round%s"):format(r.text, r.rounds, r.rounds == 1 and "" or "s") end
   return list
end

-- Rounds whose values are wrong even if they agree.
local function disturbed(why, is_cpu_time)
   local n = 0
   for _, list in pairs(why) do
      local hit = false
      for _, reason in ipairs(list) do hit = hit or not (reason.load and is_cpu_time) end
      if hit then n = n + 1 end
   end
   return n
end

-- Median, interval, spread; stable, or not and why.
local function summarize(into, values, why, is_cpu_time)
   local s = statistics.summary(values)
   if not s then return end
   for key, value in pairs(s) do into[key] = value end
   into.values, into.verdict = values, "stable"
   local wide = s.spread and s.spread > M.SPREAD
   if not wide and disturbed(why, is_cpu_time) <= #values / 2 then return end
   into.verdict, into.why = "unstable", reasons(why)
   if wide then table.insert(into.why, 1, ("the rounds spread by %.0f %%"):format(s.spread * 100)) end
end

-- ---- rows ----

local EXTRAS = { "ns", "cycles", "burst", "cpu", "loss", "dropped" }

-- Medians of what else the samples have, and the texts of the last one.
local function extras(rounds, n, unit)
   local out = {}
   local function median(pick) return statistics.median(in_order(by_round(rounds, pick), n)) end
   for _, key in ipairs(EXTRAS) do
      if key ~= unit then out[key] = median(function(sample) return sample[key] end) end
   end
   local last = rounds.samples[n] or select(2, next(rounds.samples)) or {}
   for _, key in ipairs { "tier", "drops", "note" } do out[key] = last[key] end
   for key, value in pairs(last.extras or {}) do
      out[key] = type(value) == "number" and median(function(sample) return (sample.extras or {})[key] end) or value
   end
   return out
end

-- Where both know their CPU time the ratio is one of that: other processes' turns are not in it.
local function ratio(own, other, group)
   local a, b = cpu_times(own), cpu_times(other)
   local is_cpu_time = a and b and (group.unit == "Mpps" or is_time(group.unit))
   if not is_cpu_time then
      local pick = function(sample) return value_of(sample, group.unit) end
      a, b = by_round(own, pick), by_round(other, pick)
   elseif not is_time(group.unit) then
      a, b = b, a
   end
   local out, values = {}, statistics.ratios(a, b, group.rounds)
   if #values == 0 then return nil end
   -- What has slowed both at once is not in their ratio.
   summarize(out, values, group.together and {} or joined(own.why, other.why), is_cpu_time)
   return out
end

-- What is left of the time a packet takes without that of the base, which is the source's and the sink's.
local function net(row, own, base, group)
   local out = {}
   for _, key in ipairs { "ns", "cycles" } do
      local pick = function(sample) return sample[key] end
      local values = statistics.differences(by_round(own, pick), by_round(base, pick), group.rounds)
      local s = statistics.summary(values)
      if s then
         s.values, s.verdict, s.why = values, row.verdict, row.why
         out[key] = s
      end
   end
   return next(out) and out or nil
end

--- Is the goal met? Of an unstable row only when its whole interval says so.
---@param row table gets goal, met, undecided
---@param goal number
---@param group { unit: string, better: string }
function M.judge(row, goal, group)
   row.goal, row.met, row.undecided = goal, false, nil
   local of = row.ratio or row.net and row.net[group.unit] or row
   if not of.median then return end
   local sign = group.better == "less" and -1 or 1
   row.met = sign * of.median >= sign * goal
   if of.verdict == "unstable" and of.low < goal and goal < of.high then
      row.met, row.undecided = false, "unstable: " .. table.concat(of.why, ", ")
   end
end

local function make_row(group, contender, measured)
   local own = measured[contender.name]
   local row = { name = contender.name, note = contender.note, missing = own.missing }
   local pick, times = function(sample) return value_of(sample, group.unit) end, cpu_times(own)
   summarize(row, in_order(by_round(own, pick), group.rounds), own.why, times and is_time(group.unit))
   if row.median then
      row.extras = extras(own, group.rounds, group.unit)
      row.cpu_ns = times and in_order(times, group.rounds)
      if group.reference then row.ratio = ratio(own, measured[group.reference], group) end
      if group.base and contender.name ~= group.base then row.net = net(row, own, measured[group.base], group) end
   end
   local goal = group.goals and group.goals[contender.name]
   if goal then M.judge(row, goal, group) end
   return row
end

--- The rows of a group.
---@param group { unit: string, better: string, rounds: integer, reference: string?, base: string?,
--- goals: table<string, number>?, together: boolean?, contenders: tideway.bench.contender[] }
---@param measured table<string, tideway.bench.rounds> by the contender's name
---@return table[] rows
function M.make(group, measured)
   local rows = {}
   for i, contender in ipairs(group.contenders) do rows[i] = make_row(group, contender, measured) end
   return rows
end

return M
