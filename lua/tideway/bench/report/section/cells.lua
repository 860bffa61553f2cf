-- SPDX-License-Identifier: BSD-3-Clause
-- What all kinds of sections say alike: columns, units, verdicts, rounds.

local format = require "tideway.bench.report.format"
local statistics = require "tideway.bench.statistics"

local M = {}

--- Columns: of words, of numbers, and of numbers under a name of the script's own, which stays as it is.
function M.left(name) return { name = name, align = "left" } end

function M.right(name) return { name = name, align = "right" } end

function M.own(name) return { name = name, align = "right", keep = true } end

--- "frame size (B)".
---@param name string
---@param unit? string
---@return string
function M.with_unit(name, unit)
   return unit and unit ~= "" and ("%s (%s)"):format(name, format.name(unit)) or name
end

--- Why something is as it is, in one line; nil without a reason.
---@param why string|string[]?
---@return string?
function M.reasons(why)
   if type(why) == "string" then return format.name(why) end
   local list = {}
   for i, reason in ipairs(why or {}) do list[i] = format.name(reason) end
   return #list > 0 and table.concat(list, ", ") or nil
end

---@param item { verdict: string? }
---@return boolean
function M.is_unstable(item) return item.verdict == "unstable" end

--- "unstable: steal time 4 %".
---@param item { why: string|string[]? }
---@return string
function M.unstable(item) return "unstable: " .. (M.reasons(item.why) or "no reason given") end

--- Those of the texts that are there, in one line.
---@return string
function M.sentence(...)
   local parts = {}
   for i = 1, select("#", ...) do parts[#parts + 1] = (select(i, ...)) end
   return table.concat(parts, "; ")
end

--- The unit, which way is better, how it was measured.
---@param result table
---@param more? string
---@return string
function M.about(result, more)
   local better = (result.better == "more" or result.better == "less") and result.better .. " is better" or nil
   local rounds
   if result.rounds then
      local seconds = result.seconds and (" of %s"):format(format.seconds(result.seconds)) or ""
      rounds = result.rounds == 1 and ("1 round%s: no interval"):format(seconds)
         or ("%d rounds%s, %s"):format(result.rounds, seconds, result.together and "all at once" or "taking turns")
   end
   return M.sentence(result.unit and format.name(result.unit) or nil, better, rounds, more)
end

--- What the intervals of rows are: few rounds cannot reach 95 %.
---@param rows { coverage: number?, values: number[]? }[]
---@return string "95 % interval"
function M.interval_name(rows)
   local least = 0.95
   for _, row in ipairs(rows) do
      local coverage = row.coverage
      if not coverage and row.values then coverage = select(3, statistics.interval(row.values)) end
      if format.is_finite(coverage) then least = math.min(least, coverage) end
   end
   return ("%.0f %% interval"):format(math.floor(least * 100 + 1e-9))
end

local MOST_DIGITS = 5

-- Three digits, or as many more as show that the bounds of the interval are two.
local function decimals_of_one(item)
   local decimals = format.decimals { item.median, item.low, item.high }
   local width = format.is_finite(item.low) and format.is_finite(item.high) and item.high - item.low or 0
   if width <= 0 or item.median == 0 or not format.is_finite(width) then return decimals end
   local most = math.min(MOST_DIGITS - 1 - math.floor(math.log10(math.abs(item.median))), MOST_DIGITS)
   return math.max(decimals, math.min(-math.floor(math.log10(width)), most))
end

--- Decimals for all medians and intervals of some rows.
---@param rows table[]
---@return integer
function M.decimals_of(rows)
   local most = 0
   for _, row in ipairs(rows) do
      if not M.is_unstable(row) and format.is_finite(row.median) then most = math.max(most, decimals_of_one(row)) end
   end
   return most
end

--- "41.2 (40.9 .. 41.6)".
---@param item { median: number, low: number?, high: number? }
---@return string
function M.with_interval(item)
   local decimals = decimals_of_one(item)
   local interval = format.interval(item.low, item.high, decimals)
   return format.number(item.median, decimals) .. (interval ~= "" and (" (%s)"):format(interval) or "")
end

--- "0.975 (0.960 .. 0.981)", or the word.
---@param ratio table?
---@param alone? boolean without its interval
---@return string
function M.ratio(ratio, alone)
   if not ratio or not format.is_finite(ratio.median) then return "" end
   if M.is_unstable(ratio) then return "unstable" end
   if alone or not ratio.low or not ratio.high then return format.ratio(ratio.median) end
   return ("%s (%s .. %s)"):format(format.ratio(ratio.median), format.ratio(ratio.low), format.ratio(ratio.high))
end

return M
