-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway run`: run a script.

local types = require("tideway.cli.parser").types

return {
   name = "run",
   summary = "Run a script until it is stopped.",
   description = "Reads SCRIPT, opens its ports and listeners, starts its chains and runs until "
      .. "SIGINT, SIGTERM or --for. At the end it prints the counters, which must add up: "
      .. "received + originated = sent + dropped + in flight.",
   arguments = { { "SCRIPT", "Lua file; `...` and `arg` hold ARGS." } },
   passthrough = true,
   options = {
      { "--name", "Name of this instance (default: the script's name without .lua).", value = "NAME" },
      { "--stats", "Print a line of live rates every so many seconds.", value = "SECONDS", convert = types.positive },
      { "--for", "Stop after so many seconds.", value = "SECONDS", key = "duration", convert = types.positive },
      {
         "--idle", "What an lcore does when no packet comes: spin burns the core, pause spins gently, "
         .. "sleep sleeps some microseconds, interrupt waits for the device.",
         value = "MODE", choices = { "spin", "pause", "sleep", "interrupt" },
      },
      { "--burst", "Packets taken from a port at a time, 1 to 64.", value = "N", convert = types.count },
      { "--no-huge", "Use normal memory even where hugepages are free." },
      { "--memory", "Memory for packets and tables without hugepages, in MB.", value = "MB", convert = types.count },
      {
         "--metrics", "Offer metrics in the OpenMetrics format: unix:/path, 127.0.0.1:PORT or [::1]:PORT.",
         value = "ADDRESS",
      },
      {
         "--log-level", "Print messages of this level and more urgent ones (default: info).", value = "LEVEL",
         choices = { "error", "warning", "info", "debug" },
      },
      {
         "--privileges", "What to give up once everything runs: drop keeps what live changes need, least only what "
         .. "running and stopping need, keep gives up nothing.",
         value = "WHAT", choices = { "drop", "least", "keep" },
      },
      {
         "--worker", "How messages reach the functions of chains behind listeners, whatever SCRIPT pins them to.",
         value = "TRANSPORT", choices = { "sk_msg", "rings", "inline" },
      },
      { "--watch", "Run SCRIPT again when it or one of its modules is saved; only what is different changes." },
      { "--repl", "Start in the REPL; the engine stops when it ends. May stand behind SCRIPT and ARGS, too." },
      { "--json", "Print the final counters as JSON; everything else goes to standard error." },
      { "-q --quiet", "Print nothing but errors and the final JSON." },
   },
   examples = {
      { "tideway run --repl edge.lua", "run edge.lua and work on it from the prompt" },
      { "tideway run edge.lua wan=net_af_packet0,iface=eth1", "run edge.lua with one argument" },
      { "tideway run --for 10 --json edge.lua", "run for ten seconds, then print the counters as JSON" },
   },
   run = function(options)
      if options.args[#options.args] == "--repl" then
         table.remove(options.args)
         options.repl = true
      end
      return require("tideway.run").run(options.script, options.args, options)
   end,
}
