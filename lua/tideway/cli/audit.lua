-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway audit`: what a chain of messages costs, measured.

local types = require("tideway.cli.parser").types

local TRANSPORTS = { "inline", "sk_msg", "rings" }

local function fail(message)
   io.stderr:write("tideway audit: ", message, "\n")
   return 1
end

local function number(n) return n == 0 and "0" or n < 10 and ("%.2f"):format(n) or ("%.0f"):format(n) end

local PLURAL = { request = "requests", datagram = "datagrams", query = "queries" }

local function print_result(r)
   local text = require "tideway.text"
   local statuses = {}
   for status, n in pairs(r.status) do statuses[#statuses + 1] = ("%d x %s"):format(n, tostring(status)) end
   table.sort(statuses)
   local udp = r.protocol == "udp"
   print(("%s: chain %s, %d %s one after the other, %.0f bytes of payload each, origin: %s (%s)"):format(r.transport,
      r.chain, r.requests, PLURAL[r.what], r.payload_bytes, r.origin,
      table.concat(statuses, ", ")))
   local rows = { { "A " .. r.what:upper(), "MESSAGES", "SYSCALLS", "OF THESE WAITS",
      (udp and "UDP" or "TCP") .. " SEND+RECV", "INTERNAL SEND+RECV", "SWITCHES", "FORCED", "WAKE-UPS", "CPU us" } }
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
   print(("   payload copied by the gate: %s bytes a %s, %.2f copies, besides the one of each %s send and receive "
      .. "between kernel and process"):format(number(r.copied_bytes), r.what, r.copies, udp and "UDP" or "TCP"))
   print(("   %s of the machine: %s a %s"):format(udp and "UDP datagrams" or "TCP segments",
      number(r.datagrams or r.segments), r.what))
   print(("   system calls that the gate counted itself: %s a %s"):format(number(r.gate_calls), r.what))
   if not r.traced then print "   strace is not installed: no system calls by process (apt-get install strace)" end
end

local function run(options)
   local lfs, posix = require "lfs", require "tideway.posix"
   local base = os.tmpname()
   os.remove(base)
   assert(lfs.mkdir(base))
   local o = {
      requests = options.requests or 1000, bytes = options.bytes or 128, path = options.path or "/",
      dns = options.dns, send = options.send or "tideway-audit", listener = options.listener, dir = base,
      binary = posix.readlink "/proc/self/exe", args = options.args,
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
      .. "that reads or sets a body (cache does both) copies it besides. A listener for UDP gets datagrams, one for "
      .. "TCP requests of HTTP; with --dns both get queries of DNS. Servers of this machine that do not answer are "
      .. "stood in for by a built-in origin. Needs root.",
   arguments = { { "SCRIPT", "Lua file; `...` and `arg` hold ARGS." } },
   passthrough = true,
   options = {
      { "--transport", "Only this one (default: all three).", value = "TRANSPORT", choices = TRANSPORTS },
      { "--requests", "How many requests (default: 1000).", value = "N", convert = types.count },
      { "--bytes", "Body of the built-in origin's answers (default: 128).", value = "N", convert = types.count },
      { "--path", "What is asked for (default: /).", value = "PATH" },
      { "--dns", "Ask for the addresses of NAME, over UDP or TCP.", value = "NAME" },
      { "--send", "What a datagram says (default: tideway-audit).", value = "TEXT" },
      { "--listener", "The listener (default: the first one).", value = "NAME" },
      { "--json", "Print JSON." },
   },
   examples = {
      { "tideway audit examples/15-transports.lua", "the same chain on all transports" },
      { "tideway audit --transport sk_msg --bytes 100000 web.lua", "does the cost of a hop grow with the payload?" },
      { "tideway audit --dns a.test examples/14-dns-filter.lua 127.0.0.1:5300", "datagrams, with a resolver built in" },
      { "tideway audit --dns a.test --listener dns_tcp examples/14-dns-filter.lua 127.0.0.1:5300", "streams" },
   },
   run = run,
}
