-- SPDX-License-Identifier: BSD-3-Clause
-- A command of the engine called from a terminal: Ctrl-C ends the command and not the engine, and what it has until
-- then is shown; captures are written to the files that the user named.

local posix = require "tideway.posix"

local M = {}

local SIGINT, SIGTERM, PATIENCE_NS = 2, 15, 2e9

--- Takes the events of captures: a note that names a file, then records. To be given every event of a request.
---@param code string what the user typed: an engine cannot have any other file written than one named there
---@return fun(kind: string, data: any): boolean handled, string? error
function M.saver(code)
   local file, failed
   return function(kind, data)
      if kind == "note" and type(data) == "table" and type(data.file) == "string" then
         local err
         if code:find(data.file, 1, true) then
            file, err = io.open(data.file, "wb")
         else
            err = data.file .. ": the name of the file has to stand in what you type"
         end
         failed = not file
         return true, err and "cannot write " .. err
      elseif kind == "record" and (file or failed) then
         if not file then return true end
         local ok, err = file:write(data)
         if ok then ok, err = file:flush() end
         return true, not ok and err or nil
      end
      return false
   end
end

--- Call a command; a signal asks it to end, a second one later gives it up.
---@param client tideway.control.client
---@param name string
---@param args any[]
---@param on_event fun(kind: string, data: any, event: table): string? an error that ends the call
---@return table reply
---@return string? error of on_event
function M.call(client, name, args, on_event)
   local id, why = client:send { op = "call", name = name, args = args }
   if not id then return { ok = false, error = why } end
   local signals, restore = posix.signal_fd { SIGINT, SIGTERM }
   local asked, err
   local function stop()
      client:cancel(id)
      if asked and posix.now() - asked > PATIENCE_NS then client:close() end
      asked = asked or posix.now()
   end
   local reply = client:wait(id, {
      fds = { signals },
      event = function(kind, data, event)
         local failed = on_event(kind, data, event)
         if failed and not err then
            err = failed
            stop()
         end
      end,
      ready = function(ready)
         if not ready[signals] then return end
         posix.read(signals, 128)
         stop()
      end,
   })
   restore()
   return reply, err
end

return M
