-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway check`: validate a script without starting it.

return {
   name = "check",
   summary = "Validate a script without opening a port.",
   description = "Reads SCRIPT and says which ports, chains and lcores it would use and where each NF can "
      .. "run. Exit code 2 when the script does not validate.",
   arguments = { { "SCRIPT", "Lua file; `...` and `arg` hold ARGS." } },
   passthrough = true,
   options = { { "--json", "Print the result as JSON." } },
   examples = { { "tideway check edge.lua", "what would `tideway run edge.lua` do?" } },
   run = function(options)
      return require("tideway.engine").check(options.script, options.args, options)
   end,
}
