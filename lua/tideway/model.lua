-- SPDX-License-Identifier: BSD-3-Clause
-- What a script has declared: ports, rings, chains. The engine turns it into a plan.

local M = {}

---@class tideway.model
---@field ports table[] in order of declaration; index = position - 1 unless dry
---@field rings table[]
---@field chains table[]
---@field dry boolean nothing is opened (`tideway check`)
---@field staged boolean tables that need DPDK wait until somebody needs them (tideway.table.staged)

--- Forget everything declared.
function M.reset()
   M.ports, M.rings, M.chains = {}, {}, {}
end

--- file:line of the script that called us, for messages about things found wrong later.
---@param level integer as for error()
---@return string
function M.where(level)
   local info = debug.getinfo(level + 1, "Sl")
   if not info then return "?" end
   return ("%s:%d"):format(info.short_src, info.currentline)
end

M.dry, M.staged = false, false
M.reset()

return M
