-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway bench compare`: what got faster or slower between two results, beyond what noise does.
--
-- The machine is not the same from run to run: clock, neighbours, where code and data lie. So a row is compared by its
-- ratio to another row of the same rounds (the reference, else the base), which such things move little; only what has
-- no such partner is compared as it is, with a margin for the drift that can be seen.

local json = require "tideway.json"
local log = require "tideway.log"
local posix = require "tideway.posix"
local result = require "tideway.bench.result"
local statistics = require "tideway.bench.statistics"

local M = {
   --- A change smaller than this is none, however sure it is: where code happens to lie makes as much.
   LEAST = 0.03,
   --- The share of cases in which the interval of the difference holds the true one.
   CONFIDENCE = 0.99,
   --- Below this share nothing can be told: too few rounds.
   COVERAGE = 0.85,
}

local function find(list, name)
   for _, item in ipairs(list or {}) do
      if item.name == name then return item end
   end
end

local function logarithms(values)
   local list = {}
   for i, value in ipairs(values) do
      if value <= 0 then return nil end
      list[i] = math.log(value)
   end
   return list
end

-- What is compared of a row: CPU times where it has them, which other processes' turns are not in.
---@return number[] values
---@return "more"|"less" better
local function values_of(entry, row, with_times)
   if with_times then return row.cpu_ns, "less" end
   return row.values, entry.better
end

local function has_times(...)
   for _, row in ipairs { ... } do
      if not row.cpu_ns or #row.cpu_ns == 0 then return false end
   end
   return true
end

-- The row's values by those of its partner in the same rounds.
local function ratios(entry, row, other, with_times)
   local own, better = values_of(entry, row, with_times)
   local values = values_of(entry, other, with_times)
   return logarithms(statistics.ratios(own, values, math.min(#own, #values))), better
end

-- Whom both rows can be compared to.
local function partners(a, row_a, b)
   for _, key in ipairs { "reference", "base" } do
      if a[key] and a[key] == b[key] and a[key] ~= row_a.name then
         local x, y = find(a.rows, a[key]), find(b.rows, b[key])
         if x and y and x.values and y.values and #x.values > 0 and #y.values > 0 then return x, y end
      end
   end
end

-- Logarithms of what is compared of both, whether more of it is better, and to whom they are ratios.
local function samples(a, row_a, b, row_b)
   local x, y = partners(a, row_a, b)
   local better, p, q
   if x then
      local timed = has_times(row_a, row_b, x, y)
      p, better = ratios(a, row_a, x, timed)
      q = ratios(b, row_b, y, timed)
      if p and q and #p > 0 and #q > 0 then return p, q, better, x.name end
   end
   local timed = has_times(row_a, row_b)
   p, better = values_of(a, row_a, timed)
   return logarithms(p), logarithms((values_of(b, row_b, timed))), better
end

local function speed(entry)
   local list = {}
   for _, ticks in pairs(entry.speeds or {}) do list[#list + 1] = ticks end
   return statistics.median(list)
end

-- How much more than LEAST is no change where nothing of the same rounds stands beside it: what most rounds of one run
-- differ by, for a machine that changes so much while it measures does as much between; and the change of the CPU's
-- speed. Both as logarithms.
local function drift(a, x, b, y)
   local margin = 0
   for _, list in ipairs { x, y } do
      margin = math.max(margin, statistics.quantile(list, 0.9) - statistics.quantile(list, 0.1))
   end
   local before, after = speed(a), speed(b)
   return margin + (before and after and math.abs(math.log(before / after)) or 0)
end

local function judge(row)
   if row.coverage < M.COVERAGE then return "too few rounds" end
   if row.low > 1 + row.margin then return "faster" end
   if row.high < 1 / (1 + row.margin) then return "slower" end
   return "same"
end

--- Compare one row of two results.
---@param a table the group's entry in the first
---@param row_a table
---@param b table
---@param row_b table
---@return table row { group, name, verdict = "faster"|"slower"|"same"|"too few rounds"|"missing", ratio = of the
--- speeds, above 1 is faster, low, high, to = whom its ratio is compared to, margin, why }
function M.row(a, row_a, b, row_b)
   local out = { group = b.name, name = row_b.name, unit = b.unit }
   for side, row in pairs { before = row_a, after = row_b } do
      if row.missing or not row.values or #row.values == 0 then
         out.verdict, out.why = "missing", ("%s: %s"):format(side, row.missing or "no values")
         return out
      end
   end
   local x, y, better, to = samples(a, row_a, b, row_b)
   if not x or not y then
      out.verdict, out.why = "missing", "values that are not above 0 cannot be compared"
      return out
   end
   local shift = statistics.shift(x, y, M.CONFIDENCE)
   out.to, out.margin = to, M.LEAST + (to and 0 or math.exp(drift(a, x, b, y)) - 1)
   local sign = better == "less" and -1 or 1 -- of speed: above 1 is faster
   local low, high = math.exp(sign * shift.low), math.exp(sign * shift.high)
   out.ratio, out.low, out.high = math.exp(sign * shift.shift), math.min(low, high), math.max(low, high)
   out.coverage, out.before, out.after = shift.coverage, row_a.median, row_b.median
   out.verdict = judge(out)
   return out
end

-- A curve's points as rows of a group.
local function as_groups(entry)
   if entry.kind == "group" then return { entry } end
   if entry.kind ~= "curve" then return {} end
   local by_x, list = {}, {}
   for _, s in ipairs(entry.series or {}) do
      for _, p in ipairs(s.points or {}) do
         local group = by_x[p.x]
         if not group then
            group = {
               kind = "group", name = ("%s %g"):format(entry.name, p.x), unit = entry.unit, better = entry.better,
               reference = entry.reference, rows = {},
            }
            by_x[p.x], list[#list + 1] = group, group
         end
         p.name = s.name
         table.insert(group.rows, p)
      end
   end
   return list
end

local function groups_of(document)
   local list = {}
   for _, entry in ipairs(document.results) do
      for _, group in ipairs(as_groups(entry)) do list[#list + 1] = group end
   end
   return list
end

local function without_rounds(document, notes)
   for _, entry in ipairs(document.results) do
      if #as_groups(entry) == 0 then
         notes[#notes + 1] = ("%s is not compared: a %s has no rounds"):format(entry.name, entry.kind)
      end
   end
end

--- Compare two documents.
---@param a table
---@param b table
---@return table[] rows as M.row gives them, in the order of the second
---@return string[] notes what is in one of them only, and what of the machine is different
function M.documents(a, b)
   local rows, notes = {}, {}
   local before, after = groups_of(a), groups_of(b)
   for _, group in ipairs(after) do
      local old = find(before, group.name)
      for _, row in ipairs(group.rows or {}) do
         local other = old and find(old.rows, row.name)
         if not other then
            notes[#notes + 1] = ("%s: %s is in the second only"):format(group.name, row.name)
         elseif old.unit ~= group.unit then
            notes[#notes + 1] = ("%s: the units differ: %s, %s"):format(group.name, tostring(old.unit),
               tostring(group.unit))
         else
            rows[#rows + 1] = M.row(old, other, group, row)
         end
      end
   end
   for _, group in ipairs(before) do
      local new = find(after, group.name)
      for _, row in ipairs(group.rows or {}) do
         if not new or not find(new.rows, row.name) then
            notes[#notes + 1] = ("%s: %s is in the first only"):format(group.name, row.name)
         end
      end
   end
   without_rounds(b, notes)
   for _, key in ipairs { "cpu", "cpus", "kernel", "dpdk", "luajit", "compiler" } do
      local x, y = (a.environment or {})[key], (b.environment or {})[key]
      if x ~= y then notes[#notes + 1] = ("%s was %s, is %s"):format(key, tostring(x), tostring(y)) end
   end
   return rows, notes
end

local function print_text(rows, notes)
   local _, columns = posix.terminal_size(1)
   local lines = require("tideway.bench.report.compare").lines(rows, notes, posix.isatty(1) and columns or 120)
   print(table.concat(lines, "\n"))
end

local USAGE = "tideway bench compare: give two results: tideway bench compare A.json B.json [--json]"

--- The command: 0 nothing is slower, 1 something is, 2 wrong use.
---@param args string[] behind the word compare
---@return integer exit code
function M.main(args)
   local paths, as_json = {}, false
   for _, word in ipairs(args) do
      if word == "--json" then
         as_json = true
      elseif word:sub(1, 1) == "-" then
         log.error("cannot use '%s'. %s", word, USAGE)
         return 2
      else
         paths[#paths + 1] = word
      end
   end
   if #paths ~= 2 then
      log.error("%s", USAGE)
      return 2
   end
   local documents = {}
   for i, path in ipairs(paths) do
      local document, err = result.read(path)
      if not document then
         log.error("%s", err)
         return 2
      end
      documents[i] = document
   end
   local rows, notes = M.documents(documents[1], documents[2])
   if as_json then print(json.encode { rows = rows, notes = notes }) else print_text(rows, notes) end
   if #rows == 0 then
      log.error("the two results have no row in common")
      return 2
   end
   for _, row in ipairs(rows) do
      if row.verdict == "slower" then return 1 end
   end
   return 0
end

return M
