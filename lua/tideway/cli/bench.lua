-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway bench`: run a benchmark script; compare the results of two runs.

local types = require("tideway.cli.parser").types

local function compare(options)
   return require("tideway.bench.compare").main(options.args, options)
end

local function report(options) return require("tideway.bench.report").main(options.args, options) end

return {
   name = "bench",
   summary = "Run a benchmark script, or compare the results of two runs.",
   description = "Reads SCRIPT, starts the engine when the script needs it, and runs the script's experiments in "
      .. "rounds in which the contenders take turns. It prints medians with intervals that hold the true one in 95 of "
      .. "100 cases, or the word unstable and why.\n\n"
      .. "`tideway bench compare A.json B.json` says for each row of two results whether B is faster, slower or the "
      .. "same beyond what noise does; it exits with 1 when something is slower.\n\n"
      .. "`tideway bench report A.json` prints the tables of a result again; with --html and --csv it writes those.",
   arguments = { { "SCRIPT", "Lua file, or the word compare or report; `...` and `arg` hold ARGS." } },
   passthrough = true,
   options = {
      { "--rounds", "Rounds (default: 9).", value = "N", convert = types.count },
      {
         "--runs", "Run the script in so many processes, one after another, and pool what they measured: what differs "
         .. "from start to start is in the intervals then (default: 1).", value = "N", convert = types.count,
      },
      { "--seconds", "Length of one measurement (default: 0.5).", value = "SECONDS", convert = types.positive },
      { "--quick", "As short as can be: 3 rounds of 0.2 s; the figures are rough." },
      { "--only", "Run these experiments only.", value = "NAME,..." },
      { "--list", "List the experiments and who takes part in them; run nothing." },
      { "--check", "Exit with 1 when a goal is missed." },
      { "--json", "Write all that was measured to a file; - is standard output.", value = "FILE" },
      { "--csv", "Write the rows to a file; - is standard output.", value = "FILE" },
      { "--html", "Write a page with tables and pictures.", value = "FILE" },
      { "--name", "Name of this instance (default: the script's name without .lua).", value = "NAME" },
      { "--no-huge", "Use normal memory even where hugepages are free." },
      { "--memory", "Memory for packets and tables without hugepages, in MB.", value = "MB", convert = types.count },
      {
         "--log-level", "Print messages of this level and more urgent ones (default: info).", value = "LEVEL",
         choices = { "error", "warning", "info", "debug" },
      },
      { "-q --quiet", "Print no progress." },
   },
   examples = {
      { "tideway bench nf.lua", "measure what nf.lua says, and print a table" },
      { "tideway bench --quick --only route --check set.lua", "one, roughly; exit 1 when its goal is missed" },
      { "tideway bench --json after.json nf.lua && tideway bench compare before.json after.json",
         "measure, and say what got faster or slower since before.json" },
      { "tideway bench report after.json --html after.html", "a page with tables and pictures of a result" },
   },
   run = function(options)
      if options.script == "compare" then return compare(options) end
      if options.script == "report" then return report(options) end
      return require("tideway.bench.runner").run(options.script, options.args, options)
   end,
}
