-- SPDX-License-Identifier: BSD-3-Clause
-- Times as logs write them, in UTC; made once a second.

local M = {}

local function by_second(pattern)
   local last, text = -1, ""
   return function(ns)
      local second = math.floor(ns / 1e9)
      if second ~= last then last, text = second, os.date(pattern, second) end
      return text
   end
end

--- "10/Oct/2000:13:55:36 +0000", as the common log format has it.
---@type fun(ns: number): string ns since 1970
M.common = by_second "!%d/%b/%Y:%H:%M:%S +0000"

local seconds = by_second "!%Y-%m-%dT%H:%M:%S"

--- "2000-10-10T13:55:36.123Z" (RFC 3339 5.6).
---@param ns number since 1970
---@return string
function M.iso(ns) return ("%s.%03dZ"):format(seconds(ns), math.floor(ns / 1e6) % 1000) end

return M
