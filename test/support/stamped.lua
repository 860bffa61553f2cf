-- SPDX-License-Identifier: BSD-3-Clause
-- Frames with stamps of their own making, and what a sink must count of them: for specs of sinks and probes.

local ffi = require "ffi"
local C = require("tideway.abi").C

local M = {}

local stamp_type = ffi.typeof "struct tw_stamp[1]"

--- A frame with a stamp. s = { seq, stream, epoch, tsc, magic, padding }
function M.frame(s)
   local stamp = ffi.new(stamp_type)
   stamp[0].magic, stamp[0].stream, stamp[0].epoch = s.magic or C.TW_STAMP_MAGIC, s.stream or 0, s.epoch or 0
   stamp[0].seq, stamp[0].tsc = s.seq % 2 ^ 32, s.tsc or C.tw_tsc()
   return ("\2"):rep(s.padding or 44) .. ffi.string(stamp, 16)
end

--- Numbers in their order of arrival, as RFC 4737 sees them: the plain way, with all of history at hand.
function M.expect(numbers)
   local out = { received = 0, unique = 0, duplicated = 0, reordered = 0, extent = 0, highest = -1, pairs = 0 }
   local seen, arrived, last = {}, {}, nil
   for _, s in ipairs(numbers) do
      out.received = out.received + 1
      if seen[s] then
         out.duplicated = out.duplicated + 1
      else
         seen[s], out.unique = true, out.unique + 1
         if s < out.highest then
            out.reordered = out.reordered + 1
            for j, other in ipairs(arrived) do
               if other > s then
                  out.extent = math.max(out.extent, #arrived + 1 - j)
                  break
               end
            end
         end
         out.pairs = out.pairs + (last and s == last + 1 and 1 or 0)
         arrived[#arrived + 1], last = s, s
         out.highest = math.max(out.highest, s)
      end
   end
   return out
end

return M
