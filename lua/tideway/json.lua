-- SPDX-License-Identifier: BSD-3-Clause
-- JSON output: dkjson with sorted keys and all digits of a counter.
--
-- dkjson rather than lua-cjson: cjson prints numbers with at most 14 digits, which a byte counter
-- passes within a day, and writes an empty list as {}.

local dkjson = require "dkjson"

local M = {}

local exact = { __tojson = function(self) return ("%.0f"):format(self[1]) end }

local function prepare(value, keys)
   if type(value) == "number" and math.abs(value) >= 1e14 and value == math.floor(value)
      and math.abs(value) < 2 ^ 63 then
      return setmetatable({ value }, exact)
   end
   if type(value) ~= "table" then return value end
   local copy = setmetatable({}, getmetatable(value))
   for k, v in pairs(value) do
      if type(k) == "string" then keys[k] = true end
      copy[k] = prepare(v, keys)
   end
   return copy
end

--- Marks a table as an object, so that it is {} even when empty.
---@generic T: table
---@param t T
---@return T
function M.object(t)
   return setmetatable(t, { __jsontype = "object" })
end

--- Encode a value as JSON text, keys sorted; an empty table is a list unless M.object.
---@param value any
---@param one_line? boolean default: indented
---@return string
function M.encode(value, one_line)
   local keys, order = {}, {}
   value = prepare(value, keys)
   for k in pairs(keys) do order[#order + 1] = k end
   table.sort(order)
   return dkjson.encode(value, { indent = not one_line, keyorder = order })
end

--- Decode JSON text.
---@param text string
---@return any? value
---@return string? error
function M.decode(text)
   local value, _, err = dkjson.decode(text)
   return value, err
end

return M
