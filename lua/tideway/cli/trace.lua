-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway trace`: packets of a running instance, followed through every NF.

local types = require("tideway.cli.parser").types

local function say(message)
   io.stderr:write("tideway trace: ", message, "\n")
   return 1
end

local function run(options)
   local client, err = require("tideway.control.client").open(options.name)
   if not client then return say(err) end
   local filter = table.concat(options.filter, " ")
   local reply = require("tideway.control.interactive").call(client, "trace", { options.count or 1, filter, {
      chain = options.chain, reason = options.reason, seconds = options.seconds, sample = options.sample,
   } }, function() end)
   client:close()
   if not reply.ok then return say(reply.error) end
   if options.json then
      io.write(require("tideway.json").encode(reply.view.data), "\n")
   else
      io.write(table.concat(require("tideway.live.view").lines(reply.view), "\n"), "\n")
   end
   return 0
end

return {
   name = "trace",
   summary = "Follow packets through every NF of a running instance.",
   description = "Shows of each packet what every NF said and changed, and how long it took. FILTER is in pcap-filter "
      .. "language (man pcap-filter). Packets that are followed run their NFs one by one as plain Lua, so the times "
      .. "compare NFs with each other, not with compiled chains. Ctrl-C ends it with what there is. Needs role "
      .. "operate; the payload is compared for role admin only.",
   arguments = { { "FILTER", "Which packets (default: all).", args = "*" } },
   options = {
      { "-n --count", "How many (default: 1).", value = "N", convert = types.count },
      { "--chain", "Only of this chain.", value = "NAME" },
      { "--reason", "Only packets that are dropped for this reason.", value = "REASON" },
      { "--seconds", "At most so long.", value = "SECONDS", convert = types.positive },
      { "--sample", "One in so many that match.", value = "N", convert = types.count },
      { "--name", "The instance (default: the one started last).", value = "NAME" },
      { "--json", "Print JSON." },
   },
   examples = {
      { "tideway trace -n 3 icmp", "three pings through every NF" },
      { "tideway trace --reason ttl_low --chain up", "the next packet that chain up drops for ttl_low" },
   },
   run = run,
}
