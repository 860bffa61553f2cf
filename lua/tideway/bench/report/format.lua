-- SPDX-License-Identifier: BSD-3-Clause
-- Numbers, intervals, times and names of a result document as people read them; the same in text, page and pictures.

local text = require "tideway.text"

local M = {}

local DIGITS, MOST_DECIMALS = 3, 3

local function is_finite(v) return type(v) == "number" and v == v and v ~= math.huge and v ~= -math.huge end

--- The decimals a column needs for three digits of each of its numbers (at most 3 decimals); 0 when all are whole.
---@param values table<any, number?>
---@return integer
function M.decimals(values)
   local most, whole = 0, true
   for _, v in pairs(values) do
      if is_finite(v) and v ~= 0 then
         whole = whole and v == math.floor(v)
         local decimals = DIGITS - 1 - math.floor(math.log10(math.abs(v)))
         most = math.max(most, math.min(decimals, MOST_DECIMALS))
      end
   end
   return whole and 0 or most
end

--- A number with that many decimals, thousands separated from 10,000 on; "-" for what is no number.
---@param v number?
---@param decimals? integer default: as M.decimals says of it alone
---@return string
function M.number(v, decimals)
   if not is_finite(v) then return "-" end
   decimals = decimals or M.decimals { v }
   local smallest = 0.5 * 10 ^ -decimals
   if v ~= 0 and math.abs(v) < smallest then return ("%.2g"):format(v) end
   local s = ("%%.%df"):format(decimals):format(v)
   local sign, whole, rest = s:match "^(%-?)(%d+)(.*)$"
   if #whole < 5 then return s end
   return sign .. text.count(tonumber(whole)) .. rest
end

--- "40.9 .. 41.6"; "" when a bound is missing.
---@return string
function M.interval(low, high, decimals)
   if not is_finite(low) or not is_finite(high) then return "" end
   return M.number(low, decimals) .. " .. " .. M.number(high, decimals)
end

--- A fraction as percent with two digits: 0.0123 -> "1.2 %".
---@param fraction number?
---@return string
function M.percent(fraction)
   if not is_finite(fraction) then return "-" end
   local p = fraction * 100
   local a = math.abs(p)
   local pattern = a == 0 and "%.0f" or a >= 9.95 and "%.0f" or a >= 0.995 and "%.1f" or "%.2g"
   return pattern:format(p) .. " %"
end

--- A ratio: 0.975, 12.34, 123.4.
---@param r number?
---@return string
function M.ratio(r)
   if not is_finite(r) then return "-" end
   return (math.abs(r) < 9.9995 and "%.3f" or math.abs(r) < 99.995 and "%.2f" or "%.1f"):format(r)
end

--- A length of time: 2 s, 0.5 s, 8 min 20 s.
---@param s number
---@return string
function M.seconds(s)
   if s >= 3600 then return ("%d h %02d min"):format(math.floor(s / 3600), math.floor(s / 60) % 60) end
   if s >= 100 then return ("%d min %02d s"):format(math.floor(s / 60), math.floor(s) % 60) end
   return (s == math.floor(s) and "%d s" or "%.3g s"):format(s)
end

--- The unit in which a column of nanoseconds is best read.
---@param largest number ns
---@return number divisor
---@return string unit
function M.time_unit(largest)
   if largest < 1e5 then return 1, "ns" end
   if largest < 1e8 then return 1e3, "us" end
   return 1e6, "ms"
end

--- A short label of an axis: 64, 1.5k, 10k, 1M.
---@param v number
---@return string
function M.short(v)
   for _, p in ipairs { { 1e9, "G" }, { 1e6, "M" }, { 1e4, "k", 1e3 } } do
      local unit = p[3] or p[1]
      if math.abs(v) >= p[1] then return ("%.4g%s"):format(v / unit, p[2]) end
   end
   return ("%.4g"):format(v)
end

-- Bytes of a UTF-8 sequence by its first byte.
local function sequence(first)
   return first < 0xc2 and 0 or first < 0xe0 and 2 or first < 0xf0 and 3 or first < 0xf5 and 4 or 0
end

-- Second bytes that a few first ones may have (RFC 3629): no surrogates, nothing longer than it must be.
local SECOND = { [0xe0] = { 0xa0, 0xbf }, [0xed] = { 0x80, 0x9f }, [0xf0] = { 0x90, 0xbf }, [0xf4] = { 0x80, 0x8f } }

local function is_character(part, n)
   if #part ~= n or not part:match "^.[\128-\191]+$" then return false end
   local range, second = SECOND[part:byte(1)], part:byte(2)
   return not range or (second >= range[1] and second <= range[2])
end

local function utf8_only(s)
   local out, at = {}, 1
   while at <= #s do
      local n = sequence(s:byte(at))
      local part = n > 0 and s:sub(at, at + n - 1)
      if part and is_character(part, n) then
         out[#out + 1], at = part, at + n
      else
         out[#out + 1], at = "?", at + 1
      end
   end
   return table.concat(out)
end

--- A name or note of a script, safe to show anywhere: valid UTF-8, on one line, nothing that steers a terminal.
---@param value any
---@return string
function M.name(value)
   local s = tostring(value):gsub("%s+", " ")
   s = s:gsub("[%z\1-\31\127]", function(c) return ("\\x%02x"):format(c:byte()) end)
   return (s:gsub("[\128-\255]+", utf8_only))
end

--- Is it a number that can be shown?
M.is_finite = is_finite

return M
