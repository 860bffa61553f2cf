-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway reload`: the script of a running instance again.

return {
   name = "reload",
   summary = "Run the script of a running instance again.",
   description = "What is different changes, at once and with no packet lost; all else goes on untouched. When "
      .. "something is wrong it is said, and everything stays as it was. Needs the role operate.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   options = {
      { "--nf", "Read the file of this NF alone, given by its name or by chain and name.", value = "NF" },
      { "--json", "Print JSON." },
   },
   examples = {
      { "tideway reload", "the instance started last" },
      { "tideway reload edge --nf up.ttl", "the NF ttl of the chain up of the instance edge" },
   },
   run = function(options)
      return require("tideway.cli.call").run {
         as = "reload", name = options.name, command = "reload", args = { options.nf }, json = options.json,
      }
   end,
}
