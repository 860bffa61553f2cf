-- SPDX-License-Identifier: BSD-3-Clause
-- Rates of packets: as numbers, "5Mpps", or "10Gbit/s".

local M = {}

local FACTOR = { [""] = 1, k = 1e3, K = 1e3, M = 1e6, G = 1e9, T = 1e12 }
local BITS = { ["bit/s"] = true, bps = true, ["b/s"] = true }

-- Bytes beyond the frame: FCS; and preamble, start of frame and gap between packets (IEEE 802.3).
local FCS, WIRE = 4, 24

local function refuse(rate, level)
   error(("%q is no rate; there are packets per second, as a number or \"5Mpps\" (pps, kpps, Mpps, Gpps), and bits per "
      .. "second, such as \"10Gbit/s\" (bit/s, kbit/s, Mbit/s, Gbit/s)"):format(tostring(rate)), level + 1)
end

--- Packets per second.
---@param rate number|string
---@param frame_bytes number of a frame on the average, without FCS
---@param l2? boolean bits of frames with their FCS count, else those on the wire
---@param level? integer whose fault it is that there is no such rate: as for error()
---@return number pps
function M.pps(rate, frame_bytes, l2, level)
   level = (level or 1) + 1
   local pps = rate
   if type(rate) == "string" then
      local number, prefix, unit = rate:match "^%s*([%d.eE+]+)%s*([kKMGT]?)([%a/]+)%s*$"
      local value = tonumber(number)
      if not value or (unit ~= "pps" and not BITS[unit]) then refuse(rate, level) end
      pps = value * FACTOR[prefix]
      if BITS[unit] then pps = pps / (8 * (frame_bytes + (l2 and FCS or WIRE))) end
   elseif type(rate) ~= "number" then
      refuse(rate, level)
   end
   if not (pps > 0 and pps <= 1e10) then
      error(("a rate of %s is %g packets per second; it must be above 0 and at most 1e10"):format(tostring(rate), pps),
         level)
   end
   return pps
end

return M
