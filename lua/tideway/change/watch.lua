-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway run --watch`: runs the script again when its file, or one of its modules, was saved.

local lfs = require "lfs"
local change = require "tideway.change"
local log = require "tideway.log"
local loop = require "tideway.loop"
local reload = require "tideway.change.reload"
local script = require "tideway.script"

local M = {
   --- Seconds between looks. A file that changes is read when it has not for so long.
   period = 0.25,
}

local timer, known, pending

-- What tells a file's versions apart; false when it is not there: an editor is about to put another one there.
local function mark_of(path)
   local s = lfs.attributes(path)
   return s and ("%d:%d:%s"):format(s.ino, s.size, s.modification) or false
end

local function marks()
   local list = {}
   for _, path in pairs(script.files()) do list[path] = mark_of(path) end
   return list
end

-- The name of a file that is different; nil: none is.
local function difference(a, b)
   for path, mark in pairs(b) do
      if a[path] ~= mark then return path end
   end
end

local function run_again(path)
   local ok, report = pcall(function()
      return select(2, change.transaction(reload.reload, "--watch"))
   end)
   local name = path:match "[^/]*$"
   if ok then
      log.info("%s was saved: %s", name, report)
   else
      log.error("%s was saved, and what runs goes on: %s", name, tostring(report))
   end
end

local function look()
   local now = marks()
   local path = difference(known, now)
   if not path then
      pending = nil
   elseif not pending or difference(pending, now) or not now[path] then
      pending = now
   else
      known, pending = now, nil
      run_again(path)
      for other, mark in pairs(marks()) do known[other] = known[other] or mark end -- modules that came
   end
end

--- Begin.
function M.start()
   known, pending = marks(), nil
   timer = loop.every(M.period, look)
end

--- End.
function M.stop()
   loop.cancel(timer)
   timer = nil
end

return M
