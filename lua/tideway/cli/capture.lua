-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway capture`: packets at an edge of a running instance, into a file, a pipe, or as text.

local types = require("tideway.cli.parser").types

local function say(message)
   io.stderr:write("tideway capture: ", message, "\n")
   return 1
end

-- Where pcapng goes: standard output, or a file.
local function output_of(path)
   if path == "-" then
      if require("tideway.posix").isatty(1) then
         return nil, "standard output is a terminal; pipe it: tideway capture ... -w - | tshark -r -"
      end
      return io.stdout
   end
   local file, err = io.open(path, "wb")
   return file, err and "cannot write " .. err
end

local function receiver(output)
   return function(kind, data, event)
      if event.dropped then return "a part was lost: it was read too slowly" end
      local to = kind == "record" and output or kind == "out" and io.stdout
      if not to then return nil end
      local ok, err = to:write(data)
      if ok then ok, err = to:flush() end
      return not ok and "cannot write: " .. err or nil
   end
end

local function ask(client, options, output)
   return require("tideway.control.interactive").call(client, "capture", {
      options.edge, table.concat(options.filter, " "), {
         records = output ~= nil, count = options.count, seconds = options.seconds, bytes = options.bytes,
         sample = options.sample, snaplen = options.snaplen, reason = options.reason,
      },
   }, receiver(output))
end

local function run(options)
   local output, err
   local client
   client, err = require("tideway.control.client").open(options.name)
   if not client then return say(err) end
   if options.write then
      output, err = output_of(options.write)
      if not output then return say(err) end
   end
   local reply
   reply, err = ask(client, options, output)
   client:close()
   if err then return say(err) end
   if not reply.ok then return say(reply.error) end
   if options.json then
      local to = options.write == "-" and io.stderr or io.stdout
      to:write(require("tideway.json").encode(reply.view.data), "\n")
   else
      io.stderr:write(table.concat(require("tideway.live.view").lines(reply.view), "\n"), "\n")
   end
   return 0
end

return {
   name = "capture",
   summary = "Capture packets at an edge of a running instance.",
   description = "EDGE is CHAIN:in (before the first NF), CHAIN:NF (behind an NF), CHAIN:out, CHAIN:drop, "
      .. "CHAIN:drop:REASON, CHAIN (in, out and drop), PORT:rx or PORT:tx. FILTER is in pcap-filter language (man "
      .. "pcap-filter). Without --write packets are lines of text; with it pcapng, for Wireshark and tshark, with "
      .. "interface names, directions, and in comments chain, NF, verdict and drop reason. It ends with Ctrl-C. "
      .. "Needs role operate, which sees headers; role admin sees payload.",
   arguments = {
      { "EDGE", "Where: up:in, up:ttl, up:out, up:drop, up:drop:ttl_low, up, lan:rx, lan:tx." },
      { "FILTER", "Which packets (default: all).", args = "*" },
   },
   options = {
      { "-w --write", "Write pcapng to this file, - is standard output.", value = "FILE" },
      { "-c --count", "End after so many packets.", value = "N", convert = types.count },
      { "--seconds", "End after so long.", value = "SECONDS", convert = types.positive },
      { "--bytes", "End before the capture is larger.", value = "BYTES", convert = types.count },
      { "--sample", "One in so many that match.", value = "N", convert = types.count },
      { "-s --snaplen", "Bytes of each packet (default: all).", value = "BYTES", convert = types.count },
      { "--reason", "Only packets that are dropped for this reason.", value = "REASON" },
      { "--name", "The instance (default: the one started last).", value = "NAME" },
      { "--json", "Print what was captured as JSON." },
   },
   examples = {
      { "tideway capture up:drop", "what chain up drops and why, as text" },
      { "tideway capture lan:rx 'tcp port 80' -c 100 -w web.pcapng", "100 packets into a file" },
      { "tideway capture up -w - | tshark -r -", "into tshark; wireshark -k -i - likewise" },
   },
   run = run,
}
