-- SPDX-License-Identifier: BSD-3-Clause
-- Programs that were replaced: closed, and their counts taken for good, when no packet can be in one of them any more.

local abi = require "tideway.abi"
local counters = require "tideway.hook.counters"

local C = abi.C
local M = {}

-- A packet is in a program for microseconds; on hooks where the kernel may interrupt one, for longer.
local GRACE_NS = 100e6

local function now() return tonumber(C.tw_now()) end

--- These run no more.
---@param hook tideway.hook.chain
---@param parts table[] as Hook.parts
function M.add(hook, parts)
   hook.retired = hook.retired or {}
   table.insert(hook.retired, { parts = parts, at = now() })
end

local function close(hook, parts)
   for _, part in ipairs(parts) do
      for _, p in ipairs(part.split.parts) do counters.fold(hook.runs, p.compiled.exit_table) end
      part.split:close()
   end
end

--- Close those that are out of use for long enough.
---@param hook tideway.hook.chain
---@param all? boolean the others too
function M.settle(hook, all)
   local rest, limit = {}, now() - GRACE_NS
   for _, one in ipairs(hook.retired or {}) do
      if all or one.at <= limit then close(hook, one.parts) else rest[#rest + 1] = one end
   end
   hook.retired = rest
end

return M
