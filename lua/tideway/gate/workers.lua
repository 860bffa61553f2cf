-- SPDX-License-Identifier: BSD-3-Clause
-- Instances of functions: started, waited for, ended.

local ffi = require "ffi"
local abi = require "tideway.abi"
local blob = require "tideway.gate.blob"
local options = require "tideway.options"
local pins = require "tideway.gate.pin"
local placement = require "tideway.gate.placement"
local session = require "tideway.live.session"

local C = abi.C
local M = {
   --- How long an instance may take to come up, seconds.
   start_seconds = 10,
}

local spec_t = ffi.typeof "struct tw_worker_spec"
local info_t = ffi.typeof "struct tw_worker_info"

--- How many instances of a function there are to be.
---@param state table of a chain
---@param i integer the function, from 1
function M.wanted(state, i) return pins.instances(state.pinned, state.stage_names[i]) end

--- Start an instance.
---@param slot integer the service's number
---@param service tideway.service
---@param state table
---@param i integer the function, from 1
---@param instance integer from 1, for its place
---@return integer worker its number
function M.add(slot, service, state, i, instance)
   local pin, packed, fds = state.pinned, blob.worker(service, state, i)
   local spec = spec_t()
   spec.service, spec["function"] = slot, i - 1
   spec.blob, spec.blob_len = packed, #packed
   spec.cpu = placement.cpu(service, i, instance)
   spec.memory_mb, spec.cpu_percent = pin.memory_mb, pin.cpu_percent
   spec.stuck_ms = math.max(1, math.floor(pin.stuck * 1000 + 0.5))
   spec.n_fds = #fds
   for k, fd in ipairs(fds) do spec.fds[k - 1] = fd end
   local worker = C.tw_worker_add(spec)
   if worker < 0 then
      error(("chain %s: function %s: %s"):format(service.name, state.stage_names[i], abi.error()), 0)
   end
   return worker
end

--- What is known of an instance.
---@param worker integer
---@return ffi.cdata*? info struct tw_worker_info; nil: there is none
function M.info(worker)
   local info = info_t()
   if C.tw_worker_info(worker, info) < 0 then return nil end
   return info
end

-- One that has failed to come up: why.
local function failure(worker)
   local info = M.info(worker)
   if not info then return "it is gone" end
   if info.state == C.TW_WORKER_RUNS then return nil, true end
   if info.restarts > 0 or info.state == C.TW_WORKER_WAITS then
      local last = ffi.string(info.last)
      return last ~= "" and last or "it ended at once"
   end
end

--- Wait until instances run; raises why one does not.
---@param list { worker: integer, name: string }[]
function M.wait(list)
   local problem
   local up, stopped = session.wait(function()
      local running = 0
      for _, entry in ipairs(list) do
         local why, runs = failure(entry.worker)
         if why then
            problem = ("function %s does not start: %s"):format(entry.name, why)
            return true
         end
         running = running + (runs and 1 or 0)
      end
      return running == #list
   end, M.start_seconds)
   if problem then error(problem, 0) end
   if stopped then error("the change was given up", 0) end
   if not up then error(("functions did not start within %d s"):format(M.start_seconds), 0) end
end

--- End an instance: it takes no more and works off what it has.
---@param worker integer
---@param seconds? number how long it may take; default: tw.options { drain = }
function M.remove(worker, seconds) C.tw_worker_remove(worker, math.floor((seconds or options.drain) * 1000)) end

return M
