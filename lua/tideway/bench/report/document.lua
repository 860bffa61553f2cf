-- SPDX-License-Identifier: BSD-3-Clause
-- What a result document must be like before anything is made of it: required parts, and the types of optional ones.

local M = {}

local function list(of, optional) return { list = of, optional = optional } end
local function record(fields, optional) return { fields = fields, optional = optional } end
local function map(of) return { map = of, optional = true } end

local SPAN = record({
   median = "number?", low = "number?", high = "number?", values = "numbers?", verdict = "string?", why = "words?",
}, true)

local ROW = record {
   name = "string", note = "string?", values = "numbers?", median = "number?", low = "number?", high = "number?",
   spread = "number?", ratio = SPAN, net = map(SPAN), verdict = "string?",
   why = "words?", met = "boolean?", missing = "string?", extras = "table?",
}

local POINT = record {
   x = "finite", median = "number?", low = "number?", high = "number?", verdict = "string?", why = "words?",
   values = "numbers?", missing = "string?", ratio = SPAN, net = map(SPAN), extras = "table?",
}

local AXIS = record { name = "string?", unit = "string?", log = "boolean?" }

local TABLE = { title = "string?", unit = "string?", columns = list "any", rows = list "table" }

local LATENCY = record {
   name = "string", note = "string?", count = "number?", min = "number?", mean = "number?", max = "number?",
   percentiles = map "number", cdf = "pairs?", missing = "string?", verdict = "string?", why = "words?",
}

local function with(fields, more)
   local all = {}
   for k, v in pairs(fields) do all[k] = v end
   for k, v in pairs(more) do all[k] = v end
   return record(all)
end

--- The kinds of results, in the order in which messages name them.
M.KINDS = { "group", "curve", "search", "latency", "table" }

local SHAPES = {
   group = record {
      title = "string?", unit = "string?", better = "string?", rounds = "number?", seconds = "number?",
      reference = "string?", base = "string?", rows = list(ROW),
   },
   curve = record {
      title = "string?", unit = "string?", better = "string?", rounds = "number?", seconds = "number?",
      reference = "string?", x = AXIS,
      series = list(record { name = "string", missing = "string?", points = list(POINT, true) }),
   },
   search = with(TABLE, {
      method = "string?", trials = list("table", true), intervals = list("table", true), verdict = "string?",
      why = "words?",
   }),
   latency = record {
      title = "string?", unit = "string?", clock = "string?", why = "words?", series = list(LATENCY),
      trials = list("table", true),
   },
   table = record(TABLE),
}

local function is_list(t, of)
   for k, v in pairs(t) do
      if type(k) ~= "number" or (of and type(v) ~= of) then return false end
   end
   return true
end

local function is_finite(v) return type(v) == "number" and v == v and math.abs(v) ~= math.huge end

-- Values and shares, as { 810, 0.5 } or { value = 810, fraction = 0.5 }.
local function is_pairs(list_of)
   if type(list_of) ~= "table" or not is_list(list_of, "table") then return false end
   for _, pair in pairs(list_of) do
      if not is_finite(pair[1] or pair.value) or not is_finite(pair[2] or pair.fraction) then return false end
   end
   return true
end

local TYPES = {
   any = function() return true end,
   finite = is_finite, pairs = is_pairs,
   numbers = function(v) return type(v) == "table" and is_list(v, "number") end,
   words = function(v) return type(v) == "string" or (type(v) == "table" and is_list(v, "string")) end,
}

local function shown(value)
   if type(value) == "table" then return next(value) == nil and "empty" or "a table" end
   return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

local check

local function check_list(value, spec, where)
   if type(value) ~= "table" or not is_list(value) then
      return nil, ("%s: a list is expected, it is %s"):format(where, shown(value))
   end
   for i, item in ipairs(value) do
      local ok, err = check(item, spec.list, ("%s[%d]"):format(where, i))
      if not ok then return nil, err end
   end
   return true
end

local function check_record(value, spec, where)
   if type(value) ~= "table" then return nil, ("%s: a record is expected, it is %s"):format(where, shown(value)) end
   for name, field in pairs(spec.fields) do
      local ok, err = check(value[name], field, where .. "." .. name)
      if not ok then return nil, err end
   end
   return true
end

local function check_map(value, spec, where)
   if type(value) ~= "table" then return nil, ("%s: a record is expected, it is %s"):format(where, shown(value)) end
   for key, item in pairs(value) do
      local ok, err = check(item, spec.map, where .. "." .. tostring(key))
      if not ok then return nil, err end
   end
   return true
end

function check(value, spec, where)
   if type(spec) == "table" then
      if value == nil and spec.optional then return true end
      return (spec.list and check_list or spec.map and check_map or check_record)(value, spec, where)
   end
   local kind, optional = spec:match "^(%a+)(%??)$"
   if value == nil and optional == "?" then return true end
   local fits = TYPES[kind] and TYPES[kind](value) or type(value) == kind
   if fits then return true end
   return nil, ("%s: a %s is expected, it is %s"):format(where, kind, shown(value))
end

-- What is wrong with a result; nil: nothing. One that failed may lack everything.
local function wrong(result, where)
   local shape = SHAPES[result.kind]
   if not shape then
      return ("%s: its kind %s is unknown; there are: %s"):format(where, shown(result.kind),
         table.concat(M.KINDS, ", "))
   end
   if result.error then return nil end
   return select(2, check(result, shape, where))
end

--- Why there is nothing to show of a result, whatever is in it; nil: there is something.
---@param result table
---@return string?
function M.failure(result)
   if result.error then return tostring(result.error) end
   local err = wrong(result, result.name)
   return err and "it cannot be shown: " .. err or nil
end

--- Is this a document, with results that have names? What is in each is looked at when it is shown: one that is wrong
--- takes nothing from the others.
---@param document any
---@return true?
---@return string? error
function M.basic(document)
   if type(document) ~= "table" or type(document.results) ~= "table" or not is_list(document.results) then
      return nil, "it is no result document of `tideway bench`: it has no list `results`"
   end
   for i, result in ipairs(document.results) do
      if type(result) ~= "table" or type(result.name) ~= "string" then
         return nil, ("results[%d]: it has no name"):format(i)
      end
   end
   return check(document.environment, "table?", "environment")
end

--- Is all of this document as it should be?
---@param document any
---@return true?
---@return string? error which part is wrong, and how
function M.check(document)
   local ok, err = M.basic(document)
   if not ok then return nil, err end
   for i, result in ipairs(document.results) do
      err = wrong(result, ("results[%d] (%s)"):format(i, result.name))
      if err then return nil, err end
   end
   return true
end

return M
