-- SPDX-License-Identifier: BSD-3-Clause
-- A packet function of a user as a filter inside a hook's program: true for the packets that are wanted. It may read
-- the packet and nothing else.

local expression = require "tideway.compiler.front.expression"
local value = require "tideway.compiler.front.value"

local M = {}

-- The place as the function sees it: packets are read only, and one that a header is not in does not match.
local function read_only(place, no)
   return setmetatable({
      kernel = setmetatable({ writable = false }, { __index = place.kernel }),
      trap = function(cx) cx:jump(no) end,
      adjust = function(cx) cx:refuse("a filter can't change packets", "leave that to an NF") end,
      set_field = function(cx) cx:refuse("a filter can't change packets", "leave that to an NF") end,
   }, { __index = place })
end

--- Test the packet; the current path ends.
---@param place table
---@param cx tideway.front.context
---@param fn function
---@param yes table join of those that match
---@param no table
function M.test(place, cx, fn, yes, no)
   local call = require "tideway.compiler.front.call"
   cx.target = read_only(place, no)
   local pos, verdict = cx.pos, cx.state.vars[cx.verdict]
   cx.calls[#cx.calls + 1] = { node = {} } -- so that it is no NF
   local results = call.inline_live(cx, fn, { value.PKT })
   cx.calls[#cx.calls] = nil
   cx.target, cx.pos = place, pos
   if cx:dead() then return end
   if cx.state.vars[cx.verdict] ~= verdict then
      cx:refuse("a filter gives no verdict", "return true for the packets that are wanted")
   end
   local some, none = expression.truth(cx, results[1] or value.NIL)
   for point, join in pairs { [some or false] = yes, [none or true] = no } do
      if type(point) == "table" then
         cx:go(point)
         cx:jump(join)
      end
   end
end

return M
