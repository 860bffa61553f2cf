-- SPDX-License-Identifier: BSD-3-Clause
-- One NF of examples/nf on the rig, for specs: a frame in, the verdict and the frame out.
--
--    local s = suite.start("acl", { ... })
--    local verdict, out = s:run(frame)     -- "next", "send" (back to where it came from) or a drop reason
--    s:close()

local rigs = require "test.support.rig"
local twins = require "test.support.twins"

local M = {}
local Suite = {}
Suite.__index = Suite

--- @param name string file in examples/nf
--- @param config table
function M.start(name, config)
   local s = setmetatable({ rig = rigs.new { ports = { "near", "far" } }, before = {} }, Suite)
   s.nf = twins.constructor { name = name }(config)
   s.tables = s.nf.tables
   s.rig:chain("suite", s.rig.near, s.nf, s.rig.far)
   s.rig:start()
   return s
end

--- Send a frame through the NF.
---@return string verdict
---@return string? frame what came out
function Suite:run(frame)
   local rig = self.rig
   rig:send(rig.near, frame)
   local back, on = rig:collect(rig.near), rig:collect(rig.far)
   if back[1] then return "send", back[1] end
   if on[1] then return "next", on[1] end
   local drops = rig:drops()
   for reason, count in pairs(drops) do
      if count ~= (self.before[reason] or 0) then
         self.before = drops
         return reason
      end
   end
   error("the frame is neither sent nor dropped")
end

--- Put the clock ahead.
function Suite:advance(seconds) self.rig:advance(seconds) end

function Suite:close() self.rig:close() end

return M
