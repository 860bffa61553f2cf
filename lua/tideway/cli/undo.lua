-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway undo`: the last change of a running instance is taken back.

local types = require("tideway.cli.parser").types

return {
   name = "undo",
   summary = "Take back the last change of a running instance.",
   description = "What ran before runs again. Needs the role operate; `tideway call changes` lists the changes.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   options = {
      { "--levels", "That many changes.", value = "N", convert = types.count },
      { "--json", "Print JSON." },
   },
   examples = {
      { "tideway undo", "the last change of the instance started last" },
      { "tideway undo edge --levels 2", "the last two of the instance edge" },
   },
   run = function(options)
      return require("tideway.cli.call").run {
         as = "undo", name = options.name, command = "undo",
         args = { options.levels and tostring(options.levels) or nil }, json = options.json,
      }
   end,
}
