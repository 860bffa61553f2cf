-- SPDX-License-Identifier: BSD-3-Clause
-- RFC 8219 runs, for IPv6 transition: throughput (7.1), typical and worst-case latency (7.2), packet delay variation
-- (7.3.1) and inter-packet delay variation (7.3.2), for each direction over frame sizes.

local rfc2544 = require "tideway.bench.search.rfc2544"
local runner = require "tideway.bench.runner"
local statistics = require "tideway.bench.statistics"
local trials = require "tideway.bench.search.trials"

local M = {
   --- Frame sizes on Ethernet, with FCS, up to the one that all media carry (of 13).
   SIZES = { 64, 128, 256, 512, 768, 1024, 1280, 1518 },
}

local TIMES, SECONDS, WORST = 20, 120, 99.9
local OPTIONS = {
   title = false, directions = false, sizes = false, duration = false, line = false, high = false, low = false,
   loss = 0, precision = 0.01, verify = 0, times = 5, latency_seconds = false, method = false,
}

local function columns(unit)
   return {
      { name = "direction" }, { name = "size", title = "frame size", unit = "B" },
      { name = "rate", title = "throughput", unit = unit },
      { name = "typical", title = "typical latency", unit = "us" },
      { name = "worst", title = "worst case", unit = "us" }, { name = "pdv", title = "PDV", unit = "us" },
      { name = "ipdv", title = "IPDV mean", unit = "us" }, { name = "ipdv_max", title = "IPDV max", unit = "us" },
      { name = "note", title = "note" },
   }
end

--- Typical and worst-case latency and the delay variations of repeated trials: the median of each.
---@param histograms table[] one a repetition, ns
---@return { typical: number, worst: number, pdv: number } ns
function M.figures(histograms)
   local typical, worst, pdv = {}, {}, {}
   for i, histogram in ipairs(histograms) do
      typical[i], worst[i] = histogram:percentile(50), histogram:percentile(WORST)
      pdv[i] = worst[i] - histogram:min()
   end
   return {
      typical = statistics.median(typical), worst = statistics.median(worst), pdv = statistics.median(pdv),
   }
end

local function row_of(run, direction, size)
   local found = run:throughput(size)
   local row = { direction, size, found.rate, nil, nil, nil, nil, nil, "" }
   row.met, row.name, row.goal = found.met, ("%s, %d bytes"):format(direction, size), "throughput"
   row.pps = found.rate
   local list, err = run:latency(size)
   if not list then
      row[9] = err
      return row, found
   end
   local figures, ipdv = M.figures(list), list.result.ipdv
   row[4], row[5], row[6] = figures.typical / 1e3, figures.worst / 1e3, figures.pdv / 1e3
   if ipdv then row[7], row[8] = ipdv.mean / 1e3, ipdv.max / 1e3 end
   row[9] = found.bound == "source" and "all that the source can do" or ""
   return row, found
end

local function deviations(runs, o)
   local list = {}
   for _, text in ipairs(runs[1].run:deviations()) do
      if not text:find "26%.2" and not text:find "9%.1" then list[#list + 1] = text end
   end
   local run = runs[1].run
   if o.times < TIMES or run.latency_seconds < SECONDS then
      list[#list + 1] = ("deviation from RFC 8219, 7.2 and 7.3: %d x %.3g s, not %d x %d s"):format(o.times,
         run.latency_seconds, TIMES, SECONDS)
   end
   list[#list + 1] = "deviation from RFC 8219, 7.2: the latency of all packets, not of 500 of them; "
      .. "7.3.2: IPDV as mean and maximum of its magnitude"
   return list
end

local function measure(runs, o, context)
   local entry = {
      kind = "search", method = o.method or "rfc8219", rows = {}, trials = {}, why = {},
   }
   local most, met, uppers = 0, true, {}
   for _, each in ipairs(runs) do
      each.run:begin(context)
      for i, size in ipairs(each.run.sizes) do
         context.progress(("%s, frames of %d bytes"):format(each.name, size), i, #each.run.sizes)
         local row, found = row_of(each.run, each.name, size)
         table.insert(entry.rows, row)
         most = math.max(most, found.rate or 0)
         met, uppers[#uppers + 1] = met and found.met, found.upper or false
         if not found.met then
            table.insert(entry.why, ("%s, %d bytes: %s"):format(each.name, size, found.why))
         end
      end
      for _, trial in ipairs(each.run.list) do table.insert(entry.trials, trial) end
   end
   for _, text in ipairs(deviations(runs, o)) do table.insert(entry.why, text) end
   runs[1].run:judge(entry, met, uppers)
   local divisor, unit = trials.unit(most)
   entry.columns = columns(unit)
   for _, row in ipairs(entry.rows) do row[3] = row[3] and row[3] / divisor end
   entry.rows = trials.rows(entry.columns, entry.rows)
   return entry
end

local KEPT = { "duration", "line", "high", "low", "loss", "precision", "verify", "times", "latency_seconds" }

local function run_of(what, o, direction)
   if type(direction) ~= "table" or type(direction.name) ~= "string" then
      error(what .. ": a direction is { name = \"IPv4 to IPv6\", path =, traffic = function(size), grow = 0 }", 4)
   end
   local options = { path = direction.path, traffic = direction.traffic, tester = direction.tester, sizes = {},
      tests = { "throughput", "latency" } }
   for _, key in ipairs(KEPT) do options[key] = o[key] end
   for i, size in ipairs(o.sizes or M.SIZES) do options.sizes[i] = size + (direction.grow or 0) end
   return { name = direction.name, run = rfc2544.new(what, options) }
end

--- The experiment of a run.
---@param name string
---@param options table
---@return table[] experiments for runner.experiment
function M.experiments(name, options)
   local what = ("bench.search(%q)"):format(name)
   local o, runs = trials.options(what, options, OPTIONS), {}
   if type(o.directions) ~= "table" or #o.directions == 0 then
      error(what .. ": directions = { { name =, path =, traffic = function(size), grow = bytes that its frames are "
         .. "longer }, ... } is missing", 3)
   end
   for i, direction in ipairs(o.directions) do runs[i] = run_of(what, o, direction) end
   return { {
      kind = "search", name = name, title = o.title or "RFC 8219",
      run = function(context)
         local entry = measure(runs, o, context)
         entry.interrupted = runner.interrupted() or nil
         return entry
      end,
   } }
end

return M
