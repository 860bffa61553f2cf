-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway repl`: Lua in a running engine.

local types = require("tideway.cli.parser").types

return {
   name = "repl",
   summary = "Look at a running instance and change it, in Lua.",
   description = "At a terminal: lines with history and completion; help() lists the commands, Ctrl-C stops an "
      .. "evaluation, Ctrl-D leaves. With -e, or with a script on standard input, evaluates that, prints the result "
      .. "and ends. Evaluating Lua needs the role admin; others call commands with literal arguments.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   options = {
      {
         "-e --eval", "Evaluate this and print the result; can be given several times.", value = "CODE",
         repeated = true,
      },
      { "--json", "Print each result as a line of JSON; what the code prints goes to standard error." },
      { "--timeout", "Stop an evaluation after so many seconds.", value = "SECONDS", convert = types.positive },
      { "--here", "Show the engine's messages in its stead, at the same terminal (run --repl does it)." },
   },
   examples = {
      { "tideway repl", "the instance started last" },
      { "tideway repl edge -e 'chains.edge.counters.rx'", "one value of the instance edge" },
      { "tideway repl --json -e 'drops()'", "drops by chain, NF and reason, for a script" },
      { "tideway repl < change.lua", "a script as one change" },
   },
   run = function(options)
      return require("tideway.repl").run {
         instance = options.name, code = options.eval, json = options.json, timeout = options.timeout,
         here = options.here,
      }
   end,
}
