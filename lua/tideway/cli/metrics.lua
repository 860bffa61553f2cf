-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway metrics`: the metrics of a running instance, once.

local function run(options)
   local attached, err = require("tideway.attach").open(options.name)
   if not attached then
      io.stderr:write("tideway metrics: ", err, "\n")
      return 1
   end
   io.write(require("tideway.metrics.families").text(attached:snapshot()))
   return 0
end

return {
   name = "metrics",
   summary = "Print the metrics of a running instance.",
   description = "Prints them once, in the OpenMetrics text format. For a monitoring system they are offered by "
      .. "`tideway run --metrics 127.0.0.1:9464 SCRIPT`, or tw.options { metrics = \"unix:/path\" } in the script.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   examples = { { "tideway metrics edge | grep dropped", "drops of the instance edge by chain, NF and reason" } },
   run = run,
}
