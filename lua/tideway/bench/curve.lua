-- SPDX-License-Identifier: BSD-3-Clause
-- Curves: contenders that are made for each of some values, such as frame sizes, flows, rules, lengths of chains.

local groups = require "tideway.bench.group"
local runner = require "tideway.bench.runner"
local specs = require "tideway.bench.spec"

local M = {}

local function check(name, spec)
   if type(name) ~= "string" or type(spec) ~= "table" then error("bench.curve(name, { x =, contenders = })", 3) end
   specs.known(("bench.curve(%q)"):format(name), spec,
      "title unit better x contenders order reference rounds seconds", 3)
   local x = spec.x
   if type(x) ~= "table" or type(x.name) ~= "string" or type(x.values) ~= "table" or #x.values == 0 then
      error(("bench.curve(%q): x = { name =, values = { ... }, unit =, log = } is missing"):format(name), 3)
   end
   for i, value in ipairs(x.values) do
      if type(value) ~= "number" then
         error(("bench.curve(%q): x.values[%d] is %s, not a number"):format(name, i, tostring(value)), 3)
      end
   end
   if type(spec.contenders) ~= "table" or not next(spec.contenders) then
      error(("bench.curve(%q): contenders = { name = function(x) ... end } is missing"):format(name), 3)
   end
   for key, make in pairs(spec.contenders) do
      if type(key) ~= "string" or type(make) ~= "function" then
         error(("bench.curve(%q): contenders: %s is no function(x) with a name"):format(name, tostring(key)), 3)
      end
   end
end

local function names_of(spec)
   if spec.order then return spec.order end
   local list = {}
   for key in pairs(spec.contenders) do list[#list + 1] = key end
   table.sort(list)
   return list
end

local function made(spec, names, x)
   local list = {}
   for i, name in ipairs(names) do
      local contender = spec.contenders[name](x)
      contender.name = name
      list[i] = contender
   end
   return list
end

-- What of a row a point of the curve has.
local function point(x, row)
   return {
      x = x, median = row.median, low = row.low, high = row.high, values = row.values, verdict = row.verdict,
      why = row.why, missing = row.missing, ratio = row.ratio, extras = row.extras, cpu_ns = row.cpu_ns,
      spread = row.spread,
   }
end

local function run(spec, names, context)
   local unit, series, first = spec.unit or "Mpps", {}, nil
   for i, name in ipairs(names) do series[i] = { name = name, points = {} } end
   local better = spec.better or ((unit == "ns" or unit == "cycles") and "less" or "more")
   for _, x in ipairs(spec.x.values) do
      if runner.interrupted() then break end
      context.progress(("%s %g%s"):format(spec.x.name, x, spec.x.unit and " " .. spec.x.unit or ""))
      local group = {
         contenders = made(spec, names, x), reference = spec.reference, unit = unit, better = better,
         rounds = not context.given.rounds and spec.rounds or context.rounds,
         seconds = not context.given.seconds and spec.seconds or context.seconds,
      }
      first = first or group
      for i, row in ipairs(groups.measure(group, context)) do
         series[i].note = row.note
         table.insert(series[i].points, point(x, row))
      end
   end
   return {
      kind = "curve", x = { name = spec.x.name, unit = spec.x.unit, log = spec.x.log }, unit = unit, better = better,
      reference = spec.reference, rounds = first.rounds, seconds = first.seconds, series = series,
      interrupted = runner.interrupted() or nil,
   }
end

--- How contenders do as something grows: `bench.curve("size", { x = { name = "frame size", unit = "B", values = { 60,
--- 1514 }, log = true }, contenders = { name = function(x) return bench.chain { ... } end } })`. For each value they
--- take turns in rounds, as in a group.
---@param name string
---@param spec table title =, x =, contenders =, order = names in the order of the legend, unit = "Mpps", better =,
--- reference =, rounds =, seconds =
---@return tideway.bench.experiment
function M.curve(name, spec)
   check(name, spec)
   local names = names_of(spec)
   return runner.experiment {
      kind = "curve", name = name, title = spec.title,
      describe = function()
         local words = {}
         for i, x in ipairs(spec.x.values) do words[i] = ("%g"):format(x) end
         return { ("%s: %s"):format(spec.x.name, table.concat(words, ", ")), table.concat(names, ", ") }
      end,
      run = function(context) return run(spec, names, context) end,
   }
end

return M
