-- SPDX-License-Identifier: BSD-3-Clause
-- Contenders that are measured at the same time: on a machine whose speed changes by the second, ratios of those that
-- take turns are ratios of seconds.

local runner = require "tideway.bench.runner"

local M = {}

-- fn of each that has not failed; what it raises is a reason, too, unless the run was ended.
local function each(list, errors, fn)
   for _, contender in ipairs(list) do
      if not errors[contender] then
         local called, ok, err = pcall(fn, contender)
         if not called and runner.interrupted() then error(ok, 0) end
         if not called then ok, err = nil, tostring(ok) end
         if not ok then errors[contender] = err or "it measured nothing" end
      end
   end
end

local function start(contender)
   if not contender.start then return true end
   return contender:start()
end

--- Measure all of them.
---@param list tideway.bench.contender[] with begin(self, seconds) and finish(self), as bench.http has them
---@param seconds number
---@return table<tideway.bench.contender, table> samples
---@return table<tideway.bench.contender, string> errors of those that have none
function M.measure(list, seconds)
   local samples, errors = {}, {}
   local ok, err = pcall(function()
      each(list, errors, start)
      each(list, errors, function(contender) return contender:begin(seconds) end)
      each(list, errors, function(contender)
         local sample, why = contender:finish()
         samples[contender] = sample
         return sample, why
      end)
   end)
   for _, contender in ipairs(list) do
      if contender.stop then runner.finally(contender.stop, contender) end
   end
   if not ok then error(err, 0) end
   for _, sample in pairs(samples) do sample.why = {} end
   return samples, errors
end

return M
