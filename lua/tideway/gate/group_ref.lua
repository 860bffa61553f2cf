-- SPDX-License-Identifier: BSD-3-Clause
-- An upstream group as functions of a chain have it: its name and number.

local Ref = {}
Ref.__index = Ref
Ref.__tostring = function(self) return "upstream " .. self.name end
Ref.__transfer = function(self) return "tideway.gate.group_ref", "new", { self.name, self.index } end

local M = {}

--- The same group in another VM.
---@param name string
---@param index integer as msg:upstream() and tw_msg.group have it
function M.new(name, index) return setmetatable({ name = name, index = index }, Ref) end

return M
