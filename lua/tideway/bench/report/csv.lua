-- SPDX-License-Identifier: BSD-3-Clause
-- A result document as one tidy table (RFC 4180): a line for each value, raw or derived.

local cells = require "tideway.bench.report.section.cells"
local document_lib = require "tideway.bench.report.document"
local latency = require "tideway.bench.report.section.latency"
local plain_section = require "tideway.bench.report.section.plain"

local M = {}

--- The columns, in order.
M.COLUMNS = {
   "experiment", "kind", "contender", "x", "x_unit", "quantity", "round", "value", "unit", "verdict", "note",
}

local function field(value)
   if value == nil then return "" end
   if type(value) == "number" then
      if value ~= value or value == math.huge or value == -math.huge then return "" end
      return value == math.floor(value) and math.abs(value) < 2 ^ 53 and ("%.0f"):format(value)
         or ("%.15g"):format(value)
   end
   local s = tostring(value)
   if not s:find '[",\r\n]' and not s:find "^%s" and not s:find "%s$" then return s end
   return '"' .. s:gsub('"', '""') .. '"'
end

local function line(record)
   local fields = {}
   for i, name in ipairs(M.COLUMNS) do fields[i] = field(record[name]) end
   return table.concat(fields, ",") .. "\r\n"
end

-- Lines of one result: put(record) adds what all of them have.
local function writer(lines, result, common)
   return function(record)
      record.experiment, record.kind = result.name, result.kind
      for key, value in pairs(common or {}) do
         if record[key] == nil then record[key] = value end
      end
      lines[#lines + 1] = line(record)
   end
end

local SUMMARY = { "median", "low", "high", "spread", "coverage" }

local function sorted_keys(t)
   local list = {}
   for key in pairs(t or {}) do list[#list + 1] = key end
   table.sort(list, function(a, b) return tostring(a) < tostring(b) end)
   return list
end

local function put_values(put, values, quantity, unit)
   local last = 0
   for round in pairs(values or {}) do last = math.max(last, round) end
   for round = 1, last do
      if values[round] then put { quantity = quantity, round = round, value = values[round], unit = unit } end
   end
end

local function put_summary(put, item, prefix, unit)
   for _, name in ipairs(SUMMARY) do
      if item[name] ~= nil then
         local share = name == "spread" or name == "coverage"
         put { quantity = prefix .. name, value = item[name], unit = not share and unit or nil }
      end
   end
end

-- A contender of a group, or a point of a curve.
local function measured(put, row, unit)
   if row.missing then put { quantity = "missing", note = row.missing } end
   put_values(put, row.values, "value", unit)
   put_summary(put, row, "", unit)
   if row.ratio then
      local of_ratio = function(record)
         record.verdict, record.note = row.ratio.verdict or "", cells.reasons(row.ratio.why) or ""
         put(record)
      end
      put_values(of_ratio, row.ratio.values, "ratio", nil)
      put_summary(of_ratio, row.ratio, "ratio_", nil)
   end
   for _, name in ipairs(sorted_keys(row.net)) do
      put_values(put, row.net[name].values, "net", name)
      put_summary(put, row.net[name], "net_", name)
   end
   for _, name in ipairs(sorted_keys(row.extras)) do
      local value = row.extras[name]
      if type(value) ~= "table" then put { quantity = "extra_" .. name, value = value } end
   end
   if row.goal ~= nil then
      local met = row.undecided and "not decided" or row.met == true and "met" or row.met == false and "missed" or ""
      put { quantity = "goal", value = type(row.goal) ~= "table" and row.goal or nil, note = met }
   end
end

local function group(lines, result)
   for _, row in ipairs(result.rows) do
      local common = { contender = row.name, verdict = row.verdict, note = cells.reasons(row.why) }
      measured(writer(lines, result, common), row, result.unit)
   end
end

local function curve(lines, result)
   for _, series in ipairs(result.series) do
      if series.missing then
         writer(lines, result) { contender = series.name, quantity = "missing", note = series.missing }
      end
      for _, point in ipairs(series.points or {}) do
         measured(writer(lines, result, {
            contender = series.name, x = point.x, x_unit = result.x.unit, verdict = point.verdict,
            note = cells.reasons(point.why),
         }), point, result.unit)
      end
   end
end

local function latencies(lines, result)
   for _, s in ipairs(result.series) do
      local put = writer(lines, result, {
         contender = s.name, verdict = s.verdict,
         note = cells.reasons(s.why) or result.clock and "clock " .. result.clock,
      })
      if s.missing then put { quantity = "missing", note = s.missing } end
      if s.count then put { quantity = "count", value = s.count } end
      for _, name in ipairs { "min", "mean", "max" } do
         if s[name] then put { quantity = name, value = s[name], unit = result.unit } end
      end
      for _, p in ipairs(latency.percentiles { s }) do
         put { quantity = ("p%.10g"):format(p.value), value = s.percentiles[p.key], unit = result.unit }
      end
      for _, pair in ipairs(s.cdf or {}) do
         put { quantity = "cdf", x = pair[1] or pair.value, x_unit = result.unit, value = pair[2] or pair.fraction }
      end
   end
end

local function plain(lines, result)
   local put = writer(lines, result, { verdict = result.verdict, note = cells.reasons(result.why) })
   for n, row in ipairs(result.rows) do
      local first
      for i, column in ipairs(result.columns) do
         local name = type(column) == "table" and (column.name or column[1]) or column
         local value = plain_section.value(row, result.columns, i)
         if i == 1 then first = value end
         if value ~= nil and type(value) ~= "table" then
            put { contender = first ~= nil and tostring(first) or "row " .. n, quantity = name, value = value,
               unit = type(column) == "table" and column.unit or nil }
         end
      end
   end
   for n, trial in ipairs(result.trials or {}) do
      for _, name in ipairs(sorted_keys(trial)) do
         if type(trial[name]) ~= "table" then put { quantity = "trial_" .. name, round = n, value = trial[name] } end
      end
   end
end

local KINDS = { group = group, curve = curve, latency = latencies, search = plain, table = plain }

--- A document as CSV. `quantity` says what a line's value is: "value" of a round, "median", "low", "high" (of the
--- interval), "spread", "ratio" and "net" likewise, "extra_NAME", "goal", "p99.9", "cdf" (the share of packets up to
--- x), the column of a table, "trial_NAME" (`round` is the trial), "missing" and "error" (the reason is in `note`).
---@param document table
---@return string
function M.text(document)
   assert(document_lib.basic(document))
   local lines = { table.concat(M.COLUMNS, ",") .. "\r\n" }
   for _, result in ipairs(document.results) do
      local failure = document_lib.failure(result)
      if failure then
         writer(lines, result) { quantity = "error", note = failure }
      else
         KINDS[result.kind](lines, result)
      end
   end
   return table.concat(lines)
end

return M
