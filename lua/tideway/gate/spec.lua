-- SPDX-License-Identifier: BSD-3-Clause
-- What the gate is told of a chain of messages.

local bit = require "bit"
local ffi = require "ffi"
local abi = require "tideway.abi"

local C = abi.C
local M = {}

local TRANSPORT = { sk_msg = "TW_TRANSPORT_SK_MSG", rings = "TW_TRANSPORT_RINGS", inline = "TW_TRANSPORT_INLINE" }
local TAKES = { message = "TW_TAKES_MESSAGE", response = "TW_TAKES_RESPONSE", data = "TW_TAKES_DATA" }
local ON_FAULT = {
   fail = "TW_FAULT_FAIL", drop = "TW_FAULT_FAIL", retry = "TW_FAULT_RETRY", bypass = "TW_FAULT_BYPASS",
}
local STICKY = { exchange = 1, connection = 2 }

local function takes_of(nf)
   local bits = 0
   for key, name in pairs(TAKES) do
      if nf[key] then bits = bit.bor(bits, C[name]) end
   end
   if nf.body == "whole" then bits = bit.bor(bits, C.TW_TAKES_WHOLE) end
   if nf.response_body == "whole" then bits = bit.bor(bits, C.TW_TAKES_WHOLE_BACK) end
   return bits
end

local function fill_function(out, state, i)
   local nf, in_order = state.stages[i], #state.stages - #state.aside
   ffi.copy(out.name, state.stage_names[i]:sub(1, C.TW_NAME_LEN - 1))
   out.takes, out.on_fault = takes_of(nf), C[ON_FAULT[nf.on_fault]]
   out.readonly, out.sticky = nf.readonly and 1 or 0, STICKY[nf.sticky] or 0
   out.aside = i > in_order and 1 or 0
   for k = in_order + 1, #state.stages do out.routes = bit.bor(out.routes, bit.lshift(1, k - 1)) end
end

--- Fill in the specification of a chain.
---@param service tideway.service
---@param state table
---@param out ffi.cdata* struct tw_service_spec, all zero
function M.fill(service, state, out)
   ffi.copy(out.name, service.name)
   out.transport = C[TRANSPORT[state.pinned.worker]]
   out.n_functions = #state.stages
   out.group = state.sink and state.sink.index or -1
   out.memory_mb, out.whole_bytes = state.pinned.pool_mb, state.pinned.whole_bytes
   for i in ipairs(state.stages) do fill_function(out["function"][i - 1], state, i) end
end

return M
