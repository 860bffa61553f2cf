-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway help`: describe Tideway or one of its commands.

return {
   name = "help",
   summary = "Describe a command.",
   arguments = { { "COMMAND", "The command; without it the list of commands.", args = "?" } },
   run = function(options)
      local argv = { options.command, "--help" }
      if not options.command then argv = { "--help" } end
      return require("tideway.cli").main(argv)
   end,
}
