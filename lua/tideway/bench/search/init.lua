-- SPDX-License-Identifier: BSD-3-Clause
-- bench.search: searches over a path as experiments of a script; what each method finds as an entry of the result
-- document.

local binary = require "tideway.bench.search.binary"
local burst = require "tideway.bench.search.burst"
local mlr = require "tideway.bench.search.mlr"
local posix = require "tideway.posix"
local runner = require "tideway.bench.runner"
local soak = require "tideway.bench.search.soak"
local trials = require "tideway.bench.search.trials"

local M = {}

-- What all methods have, and is not the algorithm's.
local COMMON = { method = true, title = true, path = true, trial = true, send = true, stream = true, seconds = true }

-- The options of the algorithm among those of bench.search.
local function own(options, more)
   local out = {}
   for key, value in pairs(options) do
      if not COMMON[key] then out[key] = value end
   end
   for key, value in pairs(more) do out[key] = value end
   return out
end

-- ---- methods ----

local METHODS = {}

-- The highest rate with at most so much loss.
function METHODS.binary(o, context, name)
   local seconds = trials.seconds(context, o.seconds)
   local found = binary.search(o.trial, own(o, { seconds = seconds, progress = trials.progress(context, seconds) }))
   local lower, upper = found.lower, found.upper
   local divisor, unit = trials.unit(found.rate or upper and upper.load)
   local columns = {
      { name = "loss_goal", title = "loss goal", unit = "%" }, { name = "rate", title = "throughput", unit = unit },
      { name = "lost", title = "lost", unit = "%" }, { name = "above", title = "too much", unit = unit },
      { name = "lost_above", title = "lost there", unit = "%" }, { name = "seconds", title = "trials of", unit = "s" },
   }
   local verdict, why = trials.verdict(found.met, { upper })
   table.insert(why, found.why)
   return {
      verdict = verdict, why = why, trials = found.trials, columns = columns,
      rows = trials.rows(columns, { {
         (o.loss or 0) * 100, found.rate and found.rate / divisor, lower and lower.loss * 100,
         upper and upper.load / divisor, upper and upper.loss * 100, seconds,
         met = found.met, name = name, goal = "loss of at most " .. trials.percent(o.loss or 0), pps = found.rate,
      } }),
   }
end

-- Several goals at once (RFC 9971).
function METHODS.mlr(o, context)
   local goals, seconds = {}, trials.seconds(context, nil)
   for i, goal in ipairs(type(o.goals) == "table" and o.goals or {}) do
      if type(goal) ~= "table" then break end
      goals[i] = own(goal, { duration = trials.seconds(context, goal.duration) })
      seconds = math.max(seconds, tonumber(goals[i].duration) or 0)
   end
   local found = mlr.search(o.trial, own(o, {
      goals = #goals > 0 and goals or o.goals, progress = trials.progress(context, seconds),
   }))
   local most, why, rows = 0, {}, {}
   for _, goal in ipairs(found.goals) do most = math.max(most, goal.lower or goal.upper or 0) end
   local divisor, unit = trials.unit(most)
   for i, g in ipairs(found.goals) do
      local goal = g.goal
      rows[i] = {
         goal.name, goal.loss * 100, goal.exceed * 100, goal.initial, goal.duration, goal.sum, goal.width * 100,
         g.rate and g.rate / divisor, g.lower and g.lower / divisor, g.upper and g.upper / divisor,
         g.regular and "regular" or "irregular", met = g.met, goal = "loss of at most " .. trials.percent(goal.loss),
         pps = g.rate,
      }
      why[i] = ("%s: %s"):format(goal.name, g.why)
   end
   local columns = {
      { name = "name", title = "goal" }, { name = "loss", title = "loss ratio", unit = "%" },
      { name = "exceed", title = "exceed", unit = "%" }, { name = "initial", title = "first trials", unit = "s" },
      { name = "duration", title = "full trials", unit = "s" }, { name = "sum", title = "duration sum", unit = "s" },
      { name = "width", title = "width", unit = "%" }, { name = "rate", title = "conditional throughput", unit = unit },
      { name = "lower", title = "lower bound", unit = unit }, { name = "upper", title = "upper bound", unit = unit },
      { name = "result", title = "result" },
   }
   local verdict, reasons = trials.verdict(found.met, found.uppers)
   for i, text in ipairs(reasons) do table.insert(why, i, text) end
   return {
      verdict = verdict, why = why, trials = found.trials, columns = columns, rows = trials.rows(columns, rows),
   }
end

-- Memory of this process, MB; without what only waits for the garbage collector.
local function used()
   collectgarbage()
   collectgarbage()
   local kb = (posix.slurp "/proc/self/status" or ""):match "\nVmRSS:%s*(%d+) kB"
   return kb and tonumber(kb) / 1024
end

-- The sleep of a soak: Ctrl-C ends it with what it has.
local function sleep_of(context)
   return function(seconds)
      local ok, err = pcall(context.sleep, seconds)
      if not ok and runner.interrupted() then trials.stop "interrupted" end
      if not ok then error(err, 0) end
   end
end

-- Long at one rate.
function METHODS.soak(o, context, name)
   local found = soak.run(o.stream, own(o, {
      seconds = trials.seconds(context, o.seconds), now = runner.now, used = used, sleep = sleep_of(context),
      progress = context.progress,
   }))
   local rows, why = {}, { found.why }
   for i, each in ipairs(soak.condense(found.intervals)) do
      rows[i] = {
         each.at, each.sent, each.lost, each.latency and each.latency / 1e3, each.longest and each.longest / 1e3,
         each.memory, each.wrong or "", met = not each.wrong, name = ("%s until %.0f s"):format(name, each.at),
         goal = "soak",
      }
   end
   if found.growth then
      why[2] = ("memory of the process: %+.1f MB%s"):format(found.growth,
         found.growth_per_hour and (", %+.1f MB an hour"):format(found.growth_per_hour) or "")
   end
   local columns = {
      { name = "at", title = "until", unit = "s" }, { name = "sent" }, { name = "lost" },
      { name = "latency", title = ("latency at %g %%"):format(o.percentile or 99.9), unit = "us" },
      { name = "longest", title = "longest", unit = "us" }, { name = "memory", title = "memory", unit = "MB" },
      { name = "note" },
   }
   return {
      verdict = found.met and "met" or "not met", why = why, columns = columns, rows = trials.rows(columns, rows),
      intervals = found.intervals, growth = found.growth, growth_per_hour = found.growth_per_hour,
   }
end

-- Bursts of growing size.
function METHODS.burst(o, context)
   local found = burst.response(o.send, own(o, { progress = context.progress }))
   local rows = {}
   for i, row in ipairs(found.rows) do
      local all = row.latency
      local there = all and all:count() > 0
      rows[i] = {
         row.size, row.times, row.lossy, row.lost / row.sent * 100, there and all:min() / 1e3 or nil,
         there and all:percentile(50) / 1e3 or nil, there and all:percentile(99) / 1e3 or nil,
         there and all:max() / 1e3 or nil,
      }
   end
   local columns = {
      { name = "size", title = "burst", unit = "packets" }, { name = "times", title = "bursts" },
      { name = "lossy", title = "with loss" }, { name = "lost", title = "lost", unit = "%" },
      { name = "min", title = "latency min", unit = "us" }, { name = "median", title = "median", unit = "us" },
      { name = "p99", title = "99 %", unit = "us" }, { name = "max", title = "max", unit = "us" },
   }
   return {
      verdict = found.stopped and "not met" or "met", why = found.why, trials = found.trials, columns = columns,
      rows = trials.rows(columns, rows),
   }
end

-- ---- declaring ----

-- Methods that are several experiments of their own.
local MODULES = { rfc2544 = "tideway.bench.search.rfc2544", rfc8219 = "tideway.bench.search.rfc8219" }

local function method_names()
   local list = {}
   for _, from in ipairs { METHODS, MODULES } do
      for name in pairs(from) do list[#list + 1] = name end
   end
   table.sort(list)
   return table.concat(list, ", ")
end

-- What a method works on: functions of the path, unless they were given.
local function with_path(name, options)
   local o = {}
   for key, value in pairs(options) do o[key] = value end
   local path = o.path
   if path then
      o.trial = o.trial or path:trials()
      o.send = o.send or path:sender()
      o.stream = o.stream or function(rate) return path:stream { rate = rate } end
   elseif not (o.trial or o.send or o.stream) then
      error(("bench.search(%q): path = bench.path { source =, sink = } is missing"):format(name), 3)
   end
   return o
end

--- A search over a path: `bench.search("throughput", { method = "binary", path = p, loss = 0, precision = 0.01 })`.
---
--- `binary`: the highest rate with at most `loss`; `mlr`: for several `goals` at once (RFC 9971); `rfc2544`, `rfc8219`:
--- over frame sizes; `soak`: long at one `rate`; `burst`: loss and latency of bursts. Options: those of the method
--- (lua/tideway/bench/README.md), `title`, `seconds` of a trial.
---@param name string
---@param options table
---@return tideway.bench.experiment
function M.search(name, options)
   if type(name) ~= "string" or type(options) ~= "table" then
      error("bench.search(name, { method =, path = bench.path { ... } })", 2)
   end
   local method = options.method or "binary"
   if MODULES[method] then
      local first
      for _, experiment in ipairs(require(MODULES[method]).experiments(name, options)) do
         experiment = runner.experiment(experiment)
         first = first or experiment
      end
      return first
   end
   local run = METHODS[method]
   if not run then
      error(("bench.search(%q): there is no method %q; there are: %s"):format(name, tostring(method), method_names()),
         2)
   end
   local o = with_path(name, options)
   return runner.experiment {
      kind = "search", name = name, title = o.title,
      run = function(context)
         local entry = run(o, context, name)
         entry.kind, entry.method, entry.interrupted = "search", method, runner.interrupted() or nil
         return entry
      end,
   }
end

return M
