-- SPDX-License-Identifier: BSD-3-Clause
-- Latency at given loads: histograms as the result document has them, and bench.latency.

local binary = require "tideway.bench.search.binary"
local runner = require "tideway.bench.runner"
local trials = require "tideway.bench.search.trials"

local M = {}

local PERCENTILES = { 50, 90, 99, 99.9, 99.99 }
local CDF_POINTS = 200
local LOADS = { 10, 50, 90 }
local OPTIONS = {
   title = false, path = false, trial = false, rate = false, loads = false, of = false, seconds = false, loss = 0,
   precision = 0.01, low = false, high = false,
}

--- A histogram as a series of the result document.
---@param name string
---@param histogram table? nil or empty: why it is so
---@param missing? string why there is none
---@return table
function M.series(name, histogram, missing)
   if not histogram or histogram:count() == 0 then
      return { name = name, missing = missing or trials.NO_STAMP }
   end
   local series = {
      name = name, count = histogram:count(), min = histogram:min(), mean = histogram:mean(), max = histogram:max(),
      percentiles = {}, cdf = histogram:cdf(CDF_POINTS),
   }
   for _, p in ipairs(PERCENTILES) do series.percentiles[("%g"):format(p)] = histogram:percentile(p) end
   return series
end

--- Loads of a path for its latency: rates that were given, or shares of what it can do, which is searched first.
---@param o table options of bench.latency
---@param trial fun(rate: number?, seconds: number): tideway.bench.trial?, string?
---@param seconds number of a trial
---@param progress fun(text: string, done: boolean)
---@return { name: string, rate: number }[]? loads
---@return string? err
---@return table? throughput the search
function M.loads(o, trial, seconds, progress)
   if o.rate then
      local list = {}
      for i, rate in ipairs(type(o.rate) == "table" and o.rate or { o.rate }) do
         list[i] = { name = trials.pps(rate), rate = rate }
      end
      return list
   end
   local of, found = o.of, nil
   if not of then
      found = binary.search(trial, {
         low = o.low, high = o.high, loss = o.loss, precision = o.precision, seconds = seconds, progress = progress,
      })
      if not found.met then return nil, "the throughput, of which loads are shares, was not found: " .. found.why end
      of = found.rate
   end
   local list = {}
   for i, share in ipairs(o.loads or LOADS) do
      list[i] = { name = ("%g %% (%s)"):format(share, trials.pps(of * share / 100)), rate = of * share / 100 }
   end
   return list, nil, found
end

local function measure(o, context, trial, seconds)
   local loads, err, found = M.loads(o, trial, seconds, trials.progress(context, seconds))
   if not loads then error(err, 0) end
   local entry = { kind = "latency", unit = "ns", series = {}, trials = found and found.trials or {} }
   entry.why = found and found.why
   for i, load in ipairs(loads) do
      context.progress("latency at " .. load.name, i, #loads)
      local result, why = trial(load.rate, seconds)
      local histogram = result and result.latency
      local series = M.series(load.name, histogram, why)
      if result then
         series.rate, series.sent, series.lost, series.note = load.rate, result.sent, result.lost, result.short
         table.insert(entry.trials, { rate = load.rate, sent = result.sent, lost = result.lost, seconds = seconds,
            reached = result.reached })
      end
      entry.clock = entry.clock or histogram and histogram.clock
      entry.series[i] = series
   end
   return entry
end

--- Latency of a path at some loads: `bench.latency("loop", { path = p })` at 10, 50 and 90 % of its throughput, which
--- is searched first.
---@param name string
---@param options table title =, path =, rate = packets a second or a list of them; or loads = { 10, 50, 90 } in
--- percent, of = packets a second (default: the throughput with at most loss = 0, within precision = 0.01, from low =
--- to high =); seconds =
---@return tideway.bench.experiment
function M.latency(name, options)
   if type(name) ~= "string" then error("bench.latency(name, { path = bench.path { ... } })", 2) end
   local o = trials.options(("bench.latency(%q)"):format(name), options, OPTIONS)
   if not o.path and not o.trial then
      error(("bench.latency(%q): path = bench.path { ... } is missing"):format(name), 2)
   end
   local trial = o.trial or o.path:trials()
   return runner.experiment {
      kind = "latency", name = name, title = o.title,
      run = function(context) return measure(o, context, trial, trials.seconds(context, o.seconds)) end,
   }
end

return M
