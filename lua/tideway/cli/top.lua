-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway top`: live counters of a running instance, read from its shared memory.

local types = require("tideway.cli.parser").types
local pages = require "tideway.cli.top_pages"

local function say(message)
   io.stderr:write("tideway top: ", message, "\n")
   return 1
end

-- The page as text, as wide as it gets.
local function page_text(snap, rates, options)
   local layout = require "tideway.cli.top_layout"
   local state = { snap = snap, rates = rates, order = options.sort or "script", filter = options.filter }
   local page = pages.page(state, options.page)
   if not page then return nil end
   local head, warnings = pages.head(state)
   local lines = { head[1] }
   for _, warning in ipairs(warnings) do lines[#lines + 1] = "! " .. warning end
   lines[#lines + 1] = ""
   for _, line in ipairs(layout.lines(page)) do lines[#lines + 1] = line.text end
   return table.concat(lines, "\n") .. "\n"
end

local function print_once(snap, rates, options)
   if options.json then
      snap.rates = rates
      io.write(require "tideway.json".encode(snap, not options.once), "\n")
   else
      local report = page_text(snap, rates, options)
      if not report then return say(("there is no %s"):format(options.page)) end
      io.write(report)
   end
   io.stdout:flush()
   return 0
end

-- Without a terminal: one report, or one JSON object a line until the instance stops.
local function reports(attached, options)
   attached:sample()
   while true do
      require("tideway.posix").poll({}, options.interval * 1000)
      local snap, rates = attached:sample()
      local code = print_once(snap, rates, options)
      if options.once or code ~= 0 or not attached:alive() then return code end
   end
end

local function run(options)
   local attached, err = require("tideway.attach").open(options.name)
   if not attached then return say(err) end
   options.interval, options.page = options.interval or 1, options.page or ""
   if options.once or options.json or not require("tideway.posix").isatty(1) then
      return reports(attached, options)
   end
   return require("tideway.cli.top_screen").live(attached, {
      interval = options.interval, order = options.sort, filter = options.filter, page = options.page,
   })
end

return {
   name = "top",
   summary = "Show the live counters of a running instance.",
   description = "Rates of ports, chains and network functions, drops by reason, cycles per packet, sizes and times "
      .. "of bursts, load and JIT health of every lcore, tables, and the sum that must add up. Keys: arrows choose, "
      .. "Enter opens the page of a chain, NF, port or lcore, left goes back, s changes the order, / filters, "
      .. "p pauses, ? lists them all, q quits.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   options = {
      { "--once", "Print one report and exit." },
      { "--json", "Print JSON: with --once one document, else one line each interval." },
      { "--interval", "Time between two samples (default: 1).", value = "SECONDS", convert = types.positive },
      { "--page", "Begin with this page: chain/NAME, chain/NAME/NF, port/NAME, lcore/CPU.", value = "PAGE" },
      { "--sort", "Order of the rows (default: script).", value = "ORDER", choices = pages.ORDERS },
      { "--filter", "Show only what has this text in its name.", value = "TEXT" },
   },
   examples = {
      { "tideway top", "watch the instance started last" },
      { "tideway top edge --once --json", "counters and rates for a script" },
      { "tideway top --page chain/up", "watch the NFs of the chain up" },
   },
   run = run,
}
