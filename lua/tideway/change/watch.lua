-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway run --watch`: runs the script again when its file, or one of its modules, was saved.

local change = require "tideway.change"
local log = require "tideway.log"
local loop = require "tideway.loop"
local posix = require "tideway.posix"
local reload = require "tideway.change.reload"
local script = require "tideway.script"

local M = {
   --- Seconds between looks. A file that changes is read when it has not for so long.
   period = 0.25,
}

local timer, known, pending

-- What the files say; false for one that is not there: an editor is about to put another one there. Their times and
-- sizes would not tell apart what is saved twice in a second.
local function texts()
   local list = {}
   for _, path in pairs(script.files()) do list[path] = posix.slurp(path) or false end
   return list
end

-- The name of a file that is different; nil: none is.
local function difference(a, b)
   for path, text in pairs(b) do
      if a[path] ~= text then return path end
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
   local now = texts()
   local path = difference(known, now)
   if not path then
      pending = nil
   elseif not pending or difference(pending, now) or not now[path] or change.busy() then
      pending = now
   else
      known, pending = now, nil
      run_again(path)
      for other, text in pairs(texts()) do -- modules that came, by a script that was refused, too
         if known[other] == nil then known[other] = text end
      end
   end
end

--- Begin.
function M.start()
   known, pending = texts(), nil
   timer = loop.every(M.period, look)
end

--- End.
function M.stop()
   loop.cancel(timer)
   timer = nil
end

return M
