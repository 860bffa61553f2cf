-- SPDX-License-Identifier: BSD-3-Clause
-- Dates of HTTP (RFC 9110, 5.6.7): the preferred form, and the two obsolete ones that are still to be read.

local M = {}

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11,
   Dec = 12 }
local LENGTHS = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }

-- Days from 1 January 1970 to a day of the Gregorian calendar (proleptic; the March-based year of Fliegel and Van
-- Flandern, CACM 11(10), 1968).
local function days_of(year, month, day)
   if month <= 2 then year, month = year - 1, month + 12 end
   return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
      + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

local function is_leap(year) return year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0) end

local function seconds_of(year, month, day, hour, minute, second)
   month = MONTHS[month]
   year, day, hour, minute, second = tonumber(year), tonumber(day), tonumber(hour), tonumber(minute), tonumber(second)
   if not month or day < 1 or day > LENGTHS[month] + (month == 2 and is_leap(year) and 1 or 0) then return nil end
   if hour > 23 or minute > 59 or second > 60 then return nil end
   return days_of(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

--- Seconds since 1970 of a date; nil: it is none.
---@param text string?
---@param now? number seconds since 1970, which decides the century of a date with two digits; default: today's
---@return number?
function M.parse(text, now)
   if not text then return nil end
   local day, month, year, h, m, s = text:match "^%a%a%a, (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
   if day then return seconds_of(year, month, day, h, m, s) end
   month, day, h, m, s, year = text:match "^%a%a%a (%a%a%a) ([ %d]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$"
   if month then return seconds_of(year, month, day, h, m, s) end
   day, month, year, h, m, s = text:match "^%a+day, (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$"
   if not day then return nil end
   -- A year that seems more than 50 years ahead is the last one in the past with these digits.
   local last = 1970 + math.floor((now or os.time()) / 31556952) + 50
   year = last - (last - tonumber(year)) % 100
   return seconds_of(year, month, day, h, m, s)
end

return M
