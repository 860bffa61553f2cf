-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway audit`: what a chain of messages costs, measured.

local types = require("tideway.cli.parser").types

local TRANSPORTS = { "inline", "sk_msg", "rings" }

local function fail(message)
   io.stderr:write("tideway audit: ", message, "\n")
   return 1
end

local function number(n) return n == 0 and "0" or n < 10 and ("%.2f"):format(n) or ("%.0f"):format(n) end

local function print_result(r)
   local text = require "tideway.text"
   local statuses = {}
   for status, n in pairs(r.status) do statuses[#statuses + 1] = ("%d x %d"):format(n, status) end
   table.sort(statuses)
   print(("%s: chain %s, %d requests one after the other, %.0f bytes of payload each, origin: %s (%s)"):format(
      r.transport, r.chain, r.requests, r.payload_bytes, r.origin, table.concat(statuses, ", ")))
   local rows = { { "A REQUEST", "MESSAGES", "SYSCALLS", "OF THESE WAITS", "TCP SEND+RECV", "INTERNAL SEND+RECV",
      "SWITCHES", "FORCED", "WAKE-UPS", "CPU us" } }
   local list = { unpack(r.rows) }
   list[#list + 1] = r.all
   list[#list + 1] = r.hop
   for _, row in ipairs(list) do
      local function traced(n) return r.traced and number(n) or "-" end
      rows[#rows + 1] = {
         row.where, number(row.messages), traced(row.calls), traced(row.waits), traced(row.external),
         traced(row.internal), number(row.switches), number(row.forced), number(row.wakeups), number(row.cpu_us),
      }
   end
   for _, line in ipairs(text.columns("lrrrrrrrrr", rows)) do print("   " .. line) end
   print(("   payload copied by the gate: %s bytes a request, %.2f copies, besides the one of each TCP send and "
      .. "receive between kernel and process"):format(number(r.copied_bytes), r.copies))
   print(("   TCP segments of the machine: %s a request"):format(number(r.segments)))
   print(("   system calls that the gate counted itself: %s a request"):format(number(r.gate_calls)))
   if not r.traced then print "   strace is not installed: no system calls by process (apt-get install strace)" end
end

local function run(options)
   local lfs, posix = require "lfs", require "tideway.posix"
   local base = os.tmpname()
   os.remove(base)
   assert(lfs.mkdir(base))
   local o = {
      requests = options.requests or 1000, bytes = options.bytes or 128, path = options.path or "/",
      listener = options.listener, dir = base, binary = posix.readlink "/proc/self/exe", args = options.args,
   }
   local results, code = {}, 0
   for _, transport in ipairs(options.transport and { options.transport } or TRANSPORTS) do
      local result, err = require("tideway.audit").one(options.script, transport, o)
      if result then
         results[#results + 1] = result
         if not options.json then print_result(result) end
      else
         code = fail(("%s: %s"):format(transport, err))
      end
   end
   os.execute(("rm -rf '%s'"):format(base))
   if options.json then print(require("tideway.json").encode(results)) end
   return code
end

return {
   name = "audit",
   summary = "Measure what a chain behind a listener costs, for each transport.",
   description = "Runs SCRIPT, sends requests to its listener over one connection, and prints for the gate and each "
      .. "function what a request costs: system calls (by strace), sends and receives that pass the TCP/IP stack, "
      .. "context switches (of the kernel), wake-ups, CPU time, and bytes of payload that the gate copied; a function "
      .. "that reads or sets a body (cache does both) copies it besides. Servers of this machine that do not answer "
      .. "are stood in for by a built-in origin. Needs root.",
   arguments = { { "SCRIPT", "Lua file; `...` and `arg` hold ARGS." } },
   passthrough = true,
   options = {
      { "--transport", "Only this one (default: all three).", value = "TRANSPORT", choices = TRANSPORTS },
      { "--requests", "How many requests (default: 1000).", value = "N", convert = types.count },
      { "--bytes", "Body of the built-in origin's answers (default: 128).", value = "N", convert = types.count },
      { "--path", "What is asked for (default: /).", value = "PATH" },
      { "--listener", "The listener (default: the first for HTTP or TCP).", value = "NAME" },
      { "--json", "Print JSON." },
   },
   examples = {
      { "tideway audit examples/15-transports.lua", "the same chain on all transports" },
      { "tideway audit --transport sk_msg --bytes 100000 web.lua", "does the cost of a hop grow with the payload?" },
   },
   run = run,
}
