-- SPDX-License-Identifier: BSD-3-Clause
-- A group of contenders as a table: medians, ratios, goals, what is left without the base, and what else was seen.

local cells = require "tideway.bench.report.section.cells"
local format = require "tideway.bench.report.format"
local text = require "tideway.text"

local M = {}

local left, right, own = cells.left, cells.right, cells.own
local NOTE = 28 -- a longer text is a note below the table

-- ---- what else was measured ----

local FIRST = { "ns", "cycles", "burst", "gbit", "cpu", "loss", "dropped", "tier" } -- those of the engine's chains
local SHARES = { cpu = true, loss = true, dropped = true }
local SAME = { ns = true, cycles = true, gbit = true } -- the value itself in another unit: as stable as that

local function order_of(names)
   local place, list = {}, {}
   for i, name in ipairs(FIRST) do place[name] = i end
   for name in pairs(names) do list[#list + 1] = name end
   table.sort(list, function(a, b)
      local x, y = place[a] or 99, place[b] or 99
      if x ~= y then return x < y end
      return tostring(a) < tostring(b)
   end)
   return list
end

local function extra_name(name)
   local head, unit = format.name(name):match "^(.*)_(%l?s)$"
   return head and cells.with_unit(head, unit) or (format.name(name):gsub("_", " "))
end

-- Names of the extras that get a column, in order. Long texts get none, nor does what the group is measured in.
local function extra_columns(result)
   local names, long = {}, {}
   for _, row in ipairs(result.rows) do
      for name, value in pairs(row.extras or {}) do
         if type(value) ~= "table" and name ~= result.unit then names[name] = true end
         if type(value) == "string" and text.width(value) > NOTE then long[name] = true end
      end
   end
   for name in pairs(long) do names[name] = nil end
   return order_of(names), order_of(long)
end

local function extra_column(rows, name)
   local values, words = {}, false
   for _, row in ipairs(rows) do
      local v = (row.extras or {})[name]
      if type(v) == "number" then values[#values + 1] = v else words = words or v ~= nil end
   end
   local decimals = format.decimals(values)
   return { (words and left or right)(extra_name(name)), function(row)
      local v = (row.extras or {})[name]
      if v ~= nil and SAME[name] and cells.is_unstable(row) then return "unstable" end
      if type(v) == "number" then return SHARES[name] and format.percent(v) or format.number(v, decimals) end
      return (v == nil or type(v) == "table") and "" or format.name(v)
   end }
end

-- ---- goals ----

local function is_met(row)
   if row.met == nil or row.undecided or (row.missing and not row.median) then return nil end
   return row.met
end

local function goal_text(row, better)
   if row.goal == nil then return "" end
   local goal = type(row.goal) == "number" and ("%s %s"):format(better == "less" and "<=" or ">=", row.goal)
      or format.name(row.goal)
   local met = is_met(row)
   if met == nil then return goal .. ": not decided" end
   return goal .. (met and ": met" or ": MISSED")
end

-- ---- the table ----

local function any(rows, field)
   for _, row in ipairs(rows) do
      if row[field] ~= nil then return true end
   end
   return false
end

-- The base may be subtracted in several units; the group's own stands first.
local function net_columns(result)
   local list, known = {}, {}
   for _, row in ipairs(result.rows) do
      for unit in pairs(row.net or {}) do known[unit] = true end
   end
   for _, unit in ipairs(order_of(known)) do
      local name = result.base and ("%s without %s"):format(format.name(unit), format.name(result.base))
         or format.name(unit) .. ", net"
      list[#list + 1] = { own(name), function(row)
         local net = row.net and row.net[unit]
         if not net or not net.median then return "" end
         return cells.is_unstable(net) and "unstable" or cells.with_interval(net)
      end }
   end
   return list
end

-- The columns that have anything to show, each with what it shows of a row.
local function columns_of(result, extras)
   local rows, list = result.rows, {}
   local decimals = cells.decimals_of(rows)
   local function add(column, fn) list[#list + 1] = { column, fn } end
   add(right(cells.with_unit("median", result.unit)), function(row)
      return cells.is_unstable(row) and "unstable" or format.number(row.median, decimals)
   end)
   if result.rounds ~= 1 then
      add(right(cells.interval_name(rows)), function(row)
         return cells.is_unstable(row) and "" or format.interval(row.low, row.high, decimals)
      end)
      add(right "spread", function(row) return row.spread and format.percent(row.spread) or "" end)
   end
   if result.reference then
      add(own("ratio to " .. format.name(result.reference)), function(row)
         return row.name == result.reference and "reference" or cells.ratio(row.ratio, result.rounds == 1)
      end)
   end
   if any(rows, "goal") then add(left "goal", function(row) return goal_text(row, result.better) end) end
   for _, column in ipairs(net_columns(result)) do list[#list + 1] = column end
   for _, name in ipairs(extras) do list[#list + 1] = extra_column(rows, name) end
   return list
end

-- What stands in place of all numbers of a row; nil: it has some.
local function span_of(result, row)
   local goal = row.goal ~= nil and "; goal " .. goal_text({ goal = row.goal }, result.better) or ""
   if row.missing then
      local rounds = row.values and #row.values or 0
      local how = rounds > 0 and ("failed after %d round%s: "):format(rounds, rounds == 1 and "" or "s")
         or "not measured: "
      return how .. format.name(row.missing) .. goal, "missing"
   elseif not format.is_finite(row.median) then
      return "not measured: no round was finished" .. goal, "missing"
   elseif cells.is_unstable(row) and (not row.ratio or not row.ratio.median or cells.is_unstable(row.ratio)) then
      return cells.unstable(row) .. goal, "unstable"
   end
end

local function put(list, value) list[#list + 1] = value end

local function row_of(section, columns, result, row)
   local name = format.name(row.name)
   local out = { cells = { name } }
   out.span, out.state = span_of(result, row)
   if out.span then
      put(section[out.state], name)
      return out
   end
   for i, column in ipairs(columns) do out.cells[i + 1] = column[2](row) end
   local met = is_met(row)
   out.state = met == false and "missed" or met and "met" or nil
   if met == false then put(section.missed, name) end
   if cells.is_unstable(row) then
      out.state = "unstable"
      put(section.unstable, name)
      put(section.notes, ("%s: %s"):format(name, cells.unstable(row)))
   end
   if row.ratio and cells.is_unstable(row.ratio) then
      put(section.unstable, name .. " (ratio)")
      put(section.notes, ("%s: ratio %s"):format(name, cells.unstable(row.ratio)))
   end
   return out
end

--- Fill a section.
---@param section tideway.bench.section
---@param result table
function M.fill(section, result)
   section.about = cells.about(result, result.reference and "ratios within a round" or nil)
   local extras, long = extra_columns(result)
   local columns = columns_of(result, extras)
   local t = { columns = { left "contender" }, rows = {} }
   for i, column in ipairs(columns) do t.columns[i + 1] = column[1] end
   for i, row in ipairs(result.rows) do
      t.rows[i] = row_of(section, columns, result, row)
      for _, name in ipairs(long) do
         local value = (row.extras or {})[name]
         if value ~= nil and type(value) ~= "table" then
            put(section.notes, ("%s: %s: %s"):format(format.name(row.name), extra_name(name), format.name(value)))
         end
      end
   end
   section.tables[1] = t
   if #t.rows == 0 then put(section.notes, "nothing was measured") end
end

return M
