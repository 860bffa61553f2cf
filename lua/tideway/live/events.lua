-- SPDX-License-Identifier: BSD-3-Clause
-- The engine's messages (faults, roll-backs, ports that go down) for those who are connected.

local log = require "tideway.log"
local posix = require "tideway.posix"
local session = require "tideway.live.session"

local M = {}

local QUEUE, PERIOD = 100, 0.25

--- The engine's messages as they come, until it is stopped.
---@param here? boolean whoever asks shows them at the engine's own terminal, which prints them no more
function M.events(here)
   local queue, lost = {}, 0
   local shown = here and posix.isatty(2)
   local function listen(level, text)
      if #queue < QUEUE then queue[#queue + 1] = { level = level, text = text } else lost = lost + 1 end
      return shown
   end
   log.listeners[listen] = true
   session.defer(function() log.listeners[listen] = nil end)
   repeat
      local going = session.sleep(PERIOD)
      local list = queue
      queue = {}
      for _, message in ipairs(list) do session.send("note", message) end
      if lost > 0 then
         session.send("note", { level = "warning", text = ("%d more messages came at once"):format(lost) })
         lost = 0
      end
   until not going
end

return M
