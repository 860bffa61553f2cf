-- SPDX-License-Identifier: BSD-3-Clause
-- OpenMetrics 1.0 text: families with their type, unit and help, samples with escaped labels, histograms.

local buffer = require "string.buffer"

local M = {}

--- What an HTTP answer with this text calls itself.
M.CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

local ESCAPES = { ["\\"] = "\\\\", ["\n"] = "\\n", ['"'] = '\\"' }

-- Names come from scripts: what is not ASCII may not be UTF-8 either.
local function escape(value)
   return (tostring(value):gsub('[\\\n"]', ESCAPES):gsub("[\128-\255%z\1-\31]", "?"))
end

--- Labels as text: labels("port", "lan", "queue", 0) -> {port="lan",queue="0"}.
---@param ... any names and values in turn; none: no labels
---@return string
function M.labels(...)
   local parts, n = {}, select("#", ...)
   for i = 1, n, 2 do
      local name, value = select(i, ...)
      parts[#parts + 1] = ('%s="%s"'):format(name, escape(value))
   end
   return n > 0 and "{" .. table.concat(parts, ",") .. "}" or ""
end

local function number(value)
   if value == math.floor(value) and math.abs(value) < 2 ^ 63 then return ("%.0f"):format(value) end
   return ("%.9g"):format(value)
end

-- Bounds are written as decimal numbers always.
local function bound(value)
   local text = ("%.9g"):format(value)
   return text:find "[.e]" and text or text .. ".0"
end

--- Buckets of a histogram of times that the engine counts by powers of two.
---@param first integer the first bound is 2^first ns
---@param last integer
---@return number[] bounds seconds
---@return fun(counts: number[]): number[] counts_of those of the engine's buckets to those of the histogram's: what is
--- below the first bound comes together, and what is above the last
function M.powers(first, last)
   local bounds = {}
   for i = first, last do bounds[#bounds + 1] = 2 ^ i * 1e-9 end
   return bounds, function(counts)
      local out = {}
      for i = 1, #bounds + 1 do out[i] = 0 end
      for i, n in ipairs(counts) do
         local at = math.min(math.max(i - 1 - first, 0), #bounds) + 1
         out[at] = out[at] + n
      end
      return out
   end
end

---@class tideway.metrics.text
local Text = {}
Text.__index = Text

--- An empty text.
---@return tideway.metrics.text
function M.new() return setmetatable({ out = buffer.new(), name = nil }, Text) end

--- Begin a family; its samples follow.
---@param kind "counter"|"gauge"|"info"|"histogram"
---@param name string without _total, _info, _bucket; ends with _UNIT when it has a unit
---@param unit? string
---@param help string a sentence
function Text:family(kind, name, unit, help)
   self.name, self.kind = name, kind
   self.out:put("# TYPE ", name, " ", kind, "\n")
   if unit then self.out:put("# UNIT ", name, " ", unit, "\n") end
   self.out:put("# HELP ", name, " ", help, "\n")
end

local SUFFIX = { counter = "_total", info = "_info", gauge = "" }

--- A sample of the family.
---@param labels string from M.labels
---@param value number
function Text:sample(labels, value)
   self.out:put(self.name, SUFFIX[self.kind], labels, " ", number(value), "\n")
end

--- A histogram of the family.
---@param labels string from M.labels, not empty
---@param bounds number[] upper bounds, rising
---@param counts number[] values in each bucket, and one more: those above the last bound
---@param sum number of all values
function Text:histogram(labels, bounds, counts, sum)
   local out, name, start, total = self.out, self.name, labels:sub(1, -2), 0
   for i, limit in ipairs(bounds) do
      total = total + counts[i]
      out:put(name, "_bucket", start, ',le="', bound(limit), '"} ', number(total), "\n")
   end
   total = total + counts[#bounds + 1]
   out:put(name, "_bucket", start, ',le="+Inf"} ', number(total), "\n")
   out:put(name, "_count", labels, " ", number(total), "\n")
   out:put(name, "_sum", labels, " ", number(sum), "\n")
end

--- The same families for every entry of a list; nothing when it is empty.
---@param families table[] { type, name, unit or nil, key of the value, help }
---@param list table[]
---@param labels_of fun(entry: table): string
---@param values_of? fun(entry: table): table where the values of an entry stand; default: the entry
function Text:rows(families, list, labels_of, values_of)
   if #list == 0 then return end
   local marks = {}
   for i, entry in ipairs(list) do marks[i] = labels_of(entry) end
   for _, f in ipairs(families) do
      self:family(f[1], f[2], f[3], f[5])
      for i, entry in ipairs(list) do self:sample(marks[i], (values_of and values_of(entry) or entry)[f[4]]) end
   end
end

--- The whole text, ended.
---@return string
function Text:finish()
   self.out:put "# EOF\n"
   return self.out:get()
end

return M
