-- SPDX-License-Identifier: BSD-3-Clause
-- One piece of Lua, sent to the engine: what it prints meanwhile, Ctrl-C, its result or error.

local interactive = require "tideway.control.interactive"
local output = require "tideway.repl.output"
local posix = require "tideway.posix"
local text = require "tideway.text"

local M = {}

local SIGHUP, SIGINT, SIGTERM, PATIENCE = 1, 2, 15, 2e9

--- Lua as typed: `= x` is `return x`, as in Lua's own interpreter.
---@param code string
---@return string
function M.lua(code) return (code:gsub("^%s*=", "return ", 1)) end

--- Does the chunk need more lines?
---@param code string
---@return boolean
function M.incomplete(code)
   local whole = M.lua(code)
   local _, err = loadstring("return " .. whole)
   local _, other = loadstring(whole)
   if not err or not other then return false end
   return (err:find "near '<eof>'$" or other:find "near '<eof>'$") ~= nil
end

-- An error with the position in the user's text: "-e:1: ...".
local function placed(err, name) return (err:gsub("%f[%w_]eval:(%d+)", name:gsub("%%", "%%%%") .. ":%1")) end

-- What an evaluation streams; stop() when there is no use in more.
local function streamed(options, code, stop)
   local save = interactive.saver(code)
   return function(kind, data, event)
      local handled, err = save(kind, data)
      if err then
         output.complain(err)
         stop()
      elseif handled then
         return
      elseif kind == "out" then
         local to = options.json and io.stderr or io.stdout
         to:write(data)
         to:flush()
      elseif kind == "note" and event.dropped then
         output.complain(("%s pieces of output were lost: they came faster than they were read"):format(
            text.count(event.dropped)))
      elseif kind == "note" then
         output.complain(tostring(data.text or data.note or require("tideway.json").encode(data, true)))
      end
   end
end

--- Evaluate, print the result; Ctrl-C stops the evaluation.
---@param client tideway.control.client
---@param code string
---@param options { name: string, json: boolean?, paged: boolean?, timeout: number? } name: of the text, in errors
---@return boolean ok
---@return table reply
function M.run(client, code, options)
   local id, err = client:send { op = "eval", code = M.lua(code) }
   if not id then
      output.complain(err)
      return false, { gone = client.fd == nil }
   end
   local signals, restore = posix.signal_fd { SIGHUP, SIGINT, SIGTERM }
   local asked
   local reply = client:wait(id, {
      event = streamed(options, code, function() client:cancel(id) end), seconds = options.timeout, fds = { signals },
      ready = function(ready)
         if not ready[signals] then return end
         local again = asked and posix.now() - asked > PATIENCE
         if posix.signal_of(signals) ~= SIGINT or again then return client:close() end
         client:cancel(id)
         asked = asked or posix.now()
      end,
   })
   restore()
   if not reply.ok and options.timeout and reply.error:find "^no answer" then
      reply.error = ("stopped: it took more than %g s (--timeout)"):format(options.timeout)
   end
   if reply.ok then
      output.result(reply, options)
   else
      output.complain(placed(reply.error or "the connection was closed", options.name))
   end
   return reply.ok, reply
end

return M
