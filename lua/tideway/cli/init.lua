-- SPDX-License-Identifier: BSD-3-Clause
-- The `tideway` command: finds the subcommand, checks the options, runs it, returns the exit code.

local parser = require "tideway.cli.parser"

local M = {}

--- Exit codes of every command.
M.DONE, M.FAILED, M.USAGE = 0, 1, 2

-- In the order of help, completion and man page. Each is a module tideway.cli.<name>.
local NAMES = {
   "run", "check", "compile", "ls", "repl", "call", "reload", "undo", "top", "graph", "trace", "capture",
   "metrics", "audit", "bench", "doctor", "test", "completion", "man", "help",
}

--- The option tables of all commands: parser, --help, completion and man page come from them.
---@return tideway.cli.command[]
function M.commands()
   local list = {}
   for i, name in ipairs(NAMES) do list[i] = require("tideway.cli." .. name) end
   return list
end

--- Run one command line.
---@param argv table arguments in 1..n, as `arg`
---@return integer exit 0 done, 1 failed while running, 2 wrong use or a script that does not validate
function M.main(argv)
   local commands = M.commands()
   local command, options, message = parser.parse(commands, argv)
   if not command then
      if options == M.DONE then
         io.stdout:write(message)
      else
         io.stderr:write(message)
      end
      return options
   end
   local ok, code = xpcall(command.run, function(err)
      if tostring(err):find "stopped by signal %d+$" then return "tideway: stopped" end
      return debug.traceback("tideway: internal error: " .. tostring(err), 2)
   end, options)
   if not ok then
      io.stderr:write(code, "\n")
      return M.FAILED
   end
   return code or M.DONE
end

return M
