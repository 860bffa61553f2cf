-- SPDX-License-Identifier: BSD-3-Clause
-- Trials as searches see them: checked, made again when the source fell short, noted for the result document.
--
-- A search knows no engine: it gets a function trial(rate, seconds) that returns the table below, or nil and a
-- sentence. The rate is packets a second; nil is as fast as the source can.

local M = {}

---@class tideway.bench.trial
---@field offered? number packets a second that were asked for; nil: as many as the source can
---@field reached? number packets a second that the source really sent
---@field sent integer
---@field received integer without duplicates
---@field lost integer
---@field duplicated? integer
---@field reordered? integer
---@field seconds number how long the source sent
---@field latency? table histogram, ns
---@field short? string the source did not reach the rate: which one it reached
---@field cause? string why, as far as it knows
---@field why? string[] what disturbed it: other programs on its CPUs, steal time
---@field where? string what dropped most of the lost packets, as far as it was in this process

---@class tideway.bench.point
---@field asked? number packets a second
---@field load number packets a second that count as offered
---@field loss number lost of sent, 0 to 1
---@field seconds number asked
---@field limited boolean? the source could not do more than this
---@field disturbed boolean? it could before: other work had its CPU
---@field why? string[] it lost packets while it was disturbed, each time
---@field result tideway.bench.trial

--- A source that falls short of what was asked by more than this part did not reach the rate.
M.SHORT = 0.01

local DISTURBED = 10 -- points of a search in which the source falls short of what it can do

--- Why there is no latency, most often.
M.NO_STAMP = "no packet with a stamp arrived: bench.packets { stamp = true } makes some"

-- ---- words ----

local PREFIXES = { { 1e9, "G" }, { 1e6, "M" }, { 1e3, "k" }, { 0, "" } }

--- "1.234 Mpps": four digits, as searches end within less than a percent.
---@param n number
---@return string
function M.pps(n)
   for _, prefix in ipairs(PREFIXES) do
      if n >= prefix[1] * 0.99995 then
         local value = prefix[1] > 0 and n / prefix[1] or n
         return (value < 9.9995 and "%.3f %spps" or value < 99.995 and "%.2f %spps" or value < 999.95 and "%.1f %spps"
            or "%.0f %spps"):format(value, prefix[2])
      end
   end
end

--- The unit in which rates are best read in a column.
---@param most number? the largest of them, packets a second
---@return number divisor
---@return string unit
function M.unit(most)
   if not most or most >= 1e5 then return 1e6, "Mpps" end
   if most >= 100 then return 1e3, "kpps" end
   return 1, "pps"
end

--- "0.5 %", with as many digits as a small share needs.
---@param share number
---@return string
function M.percent(share)
   local s = ("%.3g"):format(share * 100)
   if s:find "e" then s = ("%.12f"):format(share * 100):gsub("0+$", "") end
   return s .. " %"
end

--- What to say when the source was the limit.
---@param rate number packets a second that it reached
---@param goal string
---@param cause? string
---@return string
function M.source_text(rate, goal, cause)
   return ("the source reached no more than %s%s, with %s: the path does at least that"):format(M.pps(rate),
      cause and (" (%s)"):format(cause) or "", goal)
end

-- ---- stopping ----

-- Raised through a search by a trial that failed or a limit; what was found so far stays valid.
local Stop = {}
Stop.__index = Stop
Stop.__tostring = function(self) return self.why end

--- Run a search until it is done, a trial fails or a limit ends it; errors of the program go on.
---@param fn fun()
---@return string? stopped why it ended early
function M.guard(fn)
   local ok, err = pcall(fn)
   if ok then return nil end
   if getmetatable(err) == Stop then return err.why end
   error(err, 0)
end

--- End the search that is under way.
---@param why string a sentence
function M.stop(why, ...)
   error(setmetatable({ why = why:format(...) }, Stop), 0)
end

-- ---- trials ----

---@class tideway.bench.trials
---@field list table[] what was tried, in order
---@field seconds number of sending, in all
local Trials = {}
Trials.__index = Trials

--- A recorder around a function that makes trials.
---@param trial fun(rate: number?, seconds: number): tideway.bench.trial?, string?
---@param options? { trials: integer?, limit: number?, again: integer?, progress: fun(text: string, done: boolean)? }
--- `trials`, `limit`: most trials and most seconds of sending (default 500, unlimited); `again`: how often a trial is
--- made again in which the source fell short (default 2); `progress`: what is tried; when done, with its result
---@return tideway.bench.trials
function M.new(trial, options)
   options = options or {}
   return setmetatable({
      trial = trial, list = {}, seconds = 0, reached = 0, disturbed = 0, most = options.trials or 500,
      limit = options.limit or math.huge, again = options.again or 2, progress = options.progress or function() end,
   }, Trials)
end

function Trials:check_limits(seconds)
   if #self.list >= self.most then M.stop("it was stopped after %d trials, the most it may make", self.most) end
   if self.seconds + seconds > self.limit then
      M.stop("it was stopped after %.3g s of trials: %.3g s are the most it may take", self.seconds, self.limit)
   end
end

local function rate_name(rate) return rate and M.pps(rate) or "as fast as it can" end

-- One trial, noted.
function Trials:once(rate, seconds)
   self:check_limits(seconds)
   local what = ("trial %d: %s for %.3g s"):format(#self.list + 1, rate_name(rate), seconds)
   self.progress(what, false)
   local result, err = self.trial(rate, seconds)
   if not result then
      M.stop("trial %d (%s) failed: %s", #self.list + 1, rate_name(rate), tostring(err or "it says no reason"))
   end
   if result.sent == 0 then
      M.stop("trial %d (%s for %.3g s) sent no packet: the rate is too low for so short a trial, or the chain of the "
         .. "source does not run", #self.list + 1, rate_name(rate), seconds)
   end
   self.seconds = self.seconds + seconds
   local reached = result.reached or rate or result.sent / seconds
   table.insert(self.list, {
      rate = rate or reached, sent = result.sent, lost = result.lost, seconds = seconds, reached = reached,
      short = rate and reached < rate * (1 - M.SHORT) or nil,
   })
   self.progress(("%s: %slost %s"):format(what, result.short and result.short .. ", " or "",
      M.percent(result.lost / result.sent)), true)
   return result, reached
end

-- Is a trial the better one of two at the same rate? One that is not short; the one that sent more, or lost less.
local function better(rate, a, b)
   local enough = rate and rate * (1 - M.SHORT) or 0
   if (a.reached >= enough) ~= (b.reached >= enough) then return a.reached >= enough end
   if a.reached < enough then return a.reached > b.reached end
   return a.loss < b.loss
end

--- Make a trial at a rate. When the source falls short, or packets are lost while other programs have the CPU, it is
--- made again, as a busy machine does that for a moment; the best of them counts. When the source stays short, what was
--- reached is what was offered, and the point is `limited`; also `disturbed` when the source did reach such a rate
--- before.
---@param rate number? packets a second
---@param seconds number
---@return tideway.bench.point
function Trials:measure(rate, seconds)
   local best
   local can = rate and rate <= self.reached
   for _ = 0, self.again do
      local result, reached = self:once(rate, seconds)
      local one = { result = result, reached = reached, loss = result.lost / result.sent }
      if not best or better(rate, one, best) then best = one end
      local short = rate and reached < rate * (1 - M.SHORT)
      if not short and not (result.lost > 0 and result.why) then break end
   end
   local limited = not rate or best.reached < rate * (1 - M.SHORT)
   self.reached = math.max(self.reached, best.reached)
   if limited and can then
      self.disturbed = self.disturbed + 1
      if self.disturbed > DISTURBED then
         M.stop("the source fell short of rates that it had reached before, again and again: other work has its CPU")
      end
   end
   return {
      asked = rate, load = limited and best.reached or rate, loss = best.loss, seconds = seconds,
      limited = limited or nil, disturbed = limited and can or nil, why = best.loss > 0 and best.result.why or nil,
      result = best.result,
   }
end

--- Did nothing come through?
---@param point tideway.bench.point
---@return boolean
function M.nothing(point) return point.result.received == 0 end

--- "1.234 Mpps lost 0.5 % (policer too_fast)".
---@param point tideway.bench.point
---@return string
function M.lost_text(point)
   return ("%s lost %s%s"):format(M.pps(point.load), M.percent(point.loss),
      point.loss > 0 and point.result.where and (" (%s)"):format(point.result.where) or "")
end

--- The verdict of a search: met or not; unstable when what it ended at was lost while other programs had the CPU.
---@param met boolean
---@param points (tideway.bench.point?)[] the upper bounds
---@return "met"|"not met"|"unstable" verdict
---@return string[] why of "unstable": each reason once
function M.verdict(met, points)
   local why, seen = {}, {}
   for _, point in pairs(points) do
      for _, text in ipairs(point.why or {}) do
         local kind = text:gsub("%d+", "#")
         if not seen[kind] then why[#why + 1] = ("%s while %s"):format(text, M.lost_text(point)) end
         seen[kind] = true
      end
   end
   return not met and "not met" or #why > 0 and "unstable" or "met", why
end

--- What to say when nothing came through at the lowest rate.
---@param point tideway.bench.point
---@return string
function M.nothing_text(point)
   return ("nothing arrived, not even at %s: %s"):format(M.pps(point.load), point.result.where
      and "it was dropped (" .. point.result.where .. ")" or "is the chain from the source to the sink connected?")
end

--- Long trials are worth a line each, short ones only show that something goes on.
---@param context tideway.bench.context
---@param seconds number of a trial
---@param prefix? string
---@return fun(text: string, done: boolean)
function M.progress(context, seconds, prefix)
   return function(text, done) context.progress((prefix or "") .. text, nil, nil, not (done and seconds >= 5)) end
end

-- ---- options of searches ----

--- How long a trial is: what the command line says, else the script, else the default.
---@param context tideway.bench.context
---@param asked? number seconds
---@return number
function M.seconds(context, asked)
   return not context.given.seconds and asked or context.seconds
end

--- Check the options that all searches have and fill in what is missing; raises naming option and value.
---@param what string name of the search
---@param options table
---@param known table<string, any> defaults; false: none
---@return table
function M.options(what, options, known)
   local out = {}
   for name in pairs(options or {}) do
      if known[name] == nil then
         local list = {}
         for each in pairs(known) do list[#list + 1] = each end
         table.sort(list)
         error(("%s: there is no option %q; there are: %s"):format(what, tostring(name), table.concat(list, ", ")), 3)
      end
   end
   for name, default in pairs(known) do
      local value = (options or {})[name]
      if value == nil then value = default or nil end
      if type(default) == "number" and type(value) ~= "number" then
         error(("%s: %s must be a number, not %s"):format(what, name, tostring(value)), 3)
      end
      out[name] = value
   end
   return out
end

--- Raise unless a number is in a range.
---@param what string name of the search
---@param name string
---@param value number?
---@param low number
---@param high number
---@param open? boolean the ends are not allowed
function M.range(what, name, value, low, high, open)
   local good = type(value) == "number" and value >= low and value <= high
      and not (open and (value == low or value == high))
   if good then return value end
   error(("%s: %s is %s; it must be a number from %s to %s%s"):format(what, name, tostring(value), tostring(low),
      high == math.huge and "any" or tostring(high), open and ", neither of the two" or ""), 3)
end

-- ---- rows of the result document ----

--- Rows by the names of their columns, as JSON can have them when cells are missing.
---@param columns table[] { name =, ... }
---@param rows table[] cells in the order of the columns; other keys are kept
---@return table[]
function M.rows(columns, rows)
   local out = {}
   for i, row in ipairs(rows) do
      out[i] = {}
      for key, value in pairs(row) do
         local column = columns[key]
         out[i][column and column.name or key] = value
      end
   end
   return out
end

return M
