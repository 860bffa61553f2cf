-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway graph`: the chains of a running instance with live rates, as text, DOT, or drawn by graphviz.

local types = require("tideway.cli.parser").types

local function say(message)
   io.stderr:write("tideway graph: ", message, "\n")
   return 1
end

-- graphviz draws.
local function draw(dot, path)
   if os.execute "command -v dot >/dev/null 2>&1" ~= 0 then
      return say("graphviz, which draws the picture, is not installed: "
         .. "apt-get install -y --no-install-recommends graphviz   (without it: tideway graph --dot > FILE.dot)")
   end
   local source = os.tmpname()
   local file = assert(io.open(source, "w"))
   file:write(dot)
   file:close()
   local code = os.execute(("dot -Tsvg -o '%s' %s"):format(path:gsub("'", [['\'']]), source))
   os.remove(source)
   if code ~= 0 then return say(("graphviz did not write %s"):format(path)) end
   return 0
end

local function run(options)
   local attached, err = require("tideway.attach").open(options.name)
   if not attached then return say(err) end
   attached:sample()
   require("tideway.posix").poll({}, (options.interval or 1) * 1000)
   local graph = require "tideway.live.graph"
   local chains = graph.build(attached:sample())
   if options.json then
      io.write(require("tideway.json").encode(chains), "\n")
   elseif options.svg then
      return draw(graph.dot(chains, attached.instance.name), options.svg)
   elseif options.dot then
      io.write(graph.dot(chains, attached.instance.name))
   else
      io.write(graph.text(chains), "\n")
   end
   return 0
end

return {
   name = "graph",
   summary = "Show the chains of a running instance as a graph with live rates.",
   description = "Ports and rings, chains with their NFs, packets a second along every edge, drops beside the NFs, "
      .. "hooks marked as such.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   options = {
      { "--dot", "Print it in the language of graphviz." },
      { "--svg", "Draw it into this file; needs graphviz.", value = "FILE" },
      { "--json", "Print JSON." },
      { "--interval", "Time over which rates are measured (default: 1).", value = "SECONDS", convert = types.positive },
   },
   examples = {
      { "tideway graph", "the instance started last" },
      { "tideway graph edge --svg edge.svg", "a picture of the instance edge" },
   },
   run = run,
}
