-- SPDX-License-Identifier: BSD-3-Clause
-- Options of listeners, upstream groups and pins: one table says their kinds, ranges and defaults; what does not fit
-- is refused in a sentence that names the option, the value and what it can be.

local nearest = require "tideway.live.nearest"

local M = {}

---@class tideway.gate.field
---@field kind "seconds"|"bytes"|"count"|"flag"|"choice"|"text"
---@field default any
---@field min? number
---@field max? number
---@field choices? any[]
---@field pattern? string texts must match it
---@field form? string what such texts are, for the error
---@field doc string

local function words(value)
   return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

local function number(field, value, whole)
   if type(value) ~= "number" or value ~= value then return false end
   if whole and value % 1 ~= 0 then return false end
   return value >= field.min and value <= field.max
end

local CHECKS = {
   seconds = function(field, value) return number(field, value, false) end,
   bytes = function(field, value) return number(field, value, true) end,
   count = function(field, value) return number(field, value, true) end,
   flag = function(_, value) return type(value) == "boolean" end,
   text = function(field, value) return type(value) == "string" and value:find(field.pattern or "") ~= nil end,
   choice = function(field, value)
      for _, choice in ipairs(field.choices) do
         if choice == value then return true end
      end
      return false
   end,
}

local function range(field)
   if field.kind == "flag" then return "it is true or false" end
   if field.kind == "text" then return "it is " .. (field.form or "a text") end
   if field.kind == "choice" then
      local list = {}
      for i, choice in ipairs(field.choices) do list[i] = words(choice) end
      return "it can be " .. table.concat(list, ", ")
   end
   local unit = field.kind == "count" and "" or " " .. field.kind
   return ("it is a %snumber from %s to %s%s"):format(field.kind == "seconds" and "" or "whole ",
      ("%.15g"):format(field.min), ("%.15g"):format(field.max), unit)
end

--- Names of the fields of a table, in order.
---@param fields table<string, tideway.gate.field>
---@return string[]
function M.names(fields)
   local list = {}
   for name in pairs(fields) do list[#list + 1] = name end
   table.sort(list)
   return list
end

--- Check options and fill in defaults.
---@param options table<string, any>?
---@param fields table<string, tideway.gate.field>
---@param defaults? table<string, any> instead of those of the fields
---@param ignore? table<string, true> keys that somebody else looks at
---@return table<string, any>? values
---@return string? err
function M.check(options, fields, defaults, ignore)
   options = options or {}
   if type(options) ~= "table" then return nil, ("options are a table, not %s"):format(words(options)) end
   for key in pairs(options) do
      if not fields[key] and not (ignore and ignore[key]) then
         local names = M.names(fields)
         for name in pairs(ignore or {}) do names[#names + 1] = tostring(name) end
         table.sort(names)
         return nil, ("there is no option %s%s"):format(words(key), nearest.hint(tostring(key), names))
      end
   end
   local out = {}
   for name, field in pairs(fields) do
      local value = options[name]
      if value == nil then
         value = field.default
         if defaults and defaults[name] ~= nil then value = defaults[name] end
      elseif not CHECKS[field.kind](field, value) then
         return nil, ("%s is %s; %s"):format(name, words(value), range(field))
      end
      out[name] = value
   end
   return out
end

--- Check options that are to be instead of others; those that are not named stay as they are.
---@param before table<string, any>
---@param options any
---@param fields table<string, tideway.gate.field>
---@return table<string, any>? values
---@return string? err
function M.change(before, options, fields)
   if type(options) ~= "table" then return nil, ("options are a table, not %s"):format(words(options)) end
   local all = {}
   for key, value in pairs(before) do all[key] = value end
   for key, value in pairs(options) do all[key] = value end
   return M.check(all, fields)
end

return M
