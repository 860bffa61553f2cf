-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway call`: one command of a running instance.

-- Words of the command line as values: numbers, true, false and nil are what they look like, all else is text.
local function value_of(word)
   if word == "true" then return true end
   if word == "false" then return false end
   return tonumber(word) or word
end

local function fail(options, message)
   io.stderr:write(("tideway %s: %s\n"):format(options.as or "call", message))
   return 1
end

local function on_event(kind, data)
   if kind == "out" or kind == "record" then
      io.stdout:write(data)
      io.stdout:flush()
   end
end

local function run(options)
   local client, err = require("tideway.control.client").open(options.name)
   if not client then return fail(options, err) end
   local args = {}
   for i, word in ipairs(options.args) do args[i] = value_of(word) end
   local reply = require("tideway.control.interactive").call(client, options.command, args, on_event)
   client:close()
   if not reply.ok then return fail(options, reply.error) end
   if reply.dropped then
      fail(options, ("%d parts of the output were lost: it was read too slowly"):format(reply.dropped))
   end
   if options.json then
      local value = reply.value
      if reply.view then value = reply.view.data end
      io.write(require("tideway.json").encode(value), "\n")
      return 0
   end
   local view = require "tideway.live.view"
   local shown = reply.view or reply.value ~= nil and view.of(reply.value)
   if shown then io.write(table.concat(view.lines(shown), "\n"), "\n") end
   return 0
end

return {
   name = "call",
   summary = "Call a command of a running instance.",
   description = "COMMAND is one of those that the REPL has, as `tideway call help` lists them. ARGS are "
      .. "numbers, true, false, or text. Needs the role of the command.",
   arguments = { { "COMMAND", "The command's name." } },
   passthrough = true,
   options = {
      { "--name", "The instance (default: the one started last).", value = "NAME" },
      { "--json", "Print JSON." },
   },
   examples = {
      { "tideway call graph", "the chains of the instance started last" },
      { "tideway call --name edge log 50", "the last 50 changes of the instance edge" },
   },
   run = run,
}
