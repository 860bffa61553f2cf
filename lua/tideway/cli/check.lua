-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway check`: validate a script without starting it, and say where each of its NFs can run.

local WIDTH = 100

-- Places with the same answer stand together, in the order of the first.
local function grouped(places)
   local list, index = {}, {}
   for _, p in ipairs(places) do
      local key = ("%s %s %s"):format(tostring(p.can), p.how or "", p.why or "")
      key = key:gsub("hook [%w_]+", "hook"):gsub("^([^:]*)" .. p.place, "%1") -- the place in the message's words
      if not index[key] then
         index[key] = { first = p, names = {} }
         list[#list + 1] = index[key]
      end
      table.insert(index[key].names, p.place)
   end
   return list
end

local function print_places(places, verbose)
   local text = require "tideway.text"
   for _, group in ipairs(grouped(places)) do
      local p = group.first
      local says = p.can and (p.how or "yes") or "no"
      if p.why and not verbose then
         local why = #group.names > 1 and p.why:gsub("hook [%w_]+", "these hooks") or p.why
         says = ("%s: %s"):format(says, why)
      end
      io.write(("      %s: "):format(table.concat(group.names, ", ")))
      local lines = text.wrap(says, WIDTH)
      io.write(table.concat(lines, "\n         "), "\n")
      if verbose and p.detail then io.write("         ", (p.detail:gsub("\n", "\n         ")), "\n") end
   end
end

local function place_of(chain)
   if chain.hook then return table.concat(chain.targets, ", ") end
   return "lcore " .. table.concat(chain.lcores, ", ")
end

local function servers_text(group)
   local list = {}
   for i, server in ipairs(group.servers) do
      list[i] = server.name .. (server.weight ~= 1 and " weight " .. server.weight or "")
   end
   return table.concat(list, ", ")
end

local function print_endpoints(result)
   for _, l in ipairs(result.listeners) do print(("listener %-12s %s://%s"):format(l.name, l.protocol, l.address)) end
   for _, group in ipairs(result.upstreams) do
      local check = group.check and (", checked every %g s"):format(group.check.every) or ""
      print(("upstream %-12s %s, %s: %s%s"):format(group.name, group.protocol, group.balance, servers_text(group),
         check))
   end
end

local function print_function(service, f, verbose)
   local where = ("in each of the gate's threads")
   if service.transport ~= "inline" then
      where = ("%d process%s on CPU %s"):format(f.instances, f.instances == 1 and "" or "es",
         table.concat(f.cpus, ", "))
   end
   print(("   %s  %s, takes %s, on fault: %s, %s%s"):format(f.name, f.where, table.concat(f.takes, ", "), f.on_fault,
      where, f.aside and "; aside, reached by a route" or ""))
   print_places(f.places, verbose)
end

local function print_services(result, verbose)
   for _, service in ipairs(result.services) do
      print(("chain %s (%s): %s -> %s, %s, %d thread(s) of the gate, %d MB for messages"):format(service.name,
         service.where, table.concat(service.listeners, ", "), service.upstream or "(404)", service.transport,
         result.gates, service.pool_mb))
      for _, f in ipairs(service.functions) do print_function(service, f, verbose) end
   end
end

local function print_report(path, result, verbose)
   local more = #result.listeners > 0 and (", %d listener(s), %d upstream(s)"):format(#result.listeners,
      #result.upstreams) or ""
   print(("%s: valid; %d port(s), %d chain(s)%s"):format(path, #result.ports, #result.chains + #result.services, more))
   print_endpoints(result)
   print_services(result, verbose)
   for _, port in ipairs(result.ports) do print(("port %-12s %s"):format(port.name, port.devargs)) end
   for _, chain in ipairs(result.chains) do
      local sink = chain.sink or (chain.hook and "(the kernel)" or "(where NFs send)")
      local source = #chain.sources > 0 and table.concat(chain.sources, ", ") .. " -> " or ""
      print(("chain %s (%s): %s%s on %s"):format(chain.name, chain.where, source, sink, place_of(chain)))
      for _, nf in ipairs(chain.nfs) do
         print(("   %s  %s, on fault: %s"):format(nf.name, nf.where, nf.on_fault))
         print_places(nf.places, verbose)
      end
      if chain.places then
         print "   all of it together"
         print_places(chain.places, verbose)
      end
   end
end

local function fail(err, json)
   if json then
      print(require("tideway.json").encode { valid = false, error = tostring(err) })
   elseif require("tideway.compiler.diagnostic").is(err) then
      io.stderr:write(tostring(err), "\n")
   else
      io.stderr:write("tideway: ", tostring(err), "\n")
   end
   return 2
end

local function run(options)
   local inspect = require "tideway.inspect"
   local ok, err = inspect.load(options.script, options.args)
   if ok and #require("tideway.model").all_chains() == 0 then
      ok, err = pcall(require("tideway.plan").validate)
   end
   if not ok then return fail(err, options.json) end
   local result = inspect.report()
   result.valid = true
   if options.json then
      print(require("tideway.json").encode(result))
   else
      print_report(options.script, result, options.verbose)
   end
   return 0
end

return {
   name = "check",
   summary = "Validate a script without opening a port.",
   description = "Reads SCRIPT and says which ports, chains, lcores and hooks it would use, and for each chain and NF "
      .. "where it can be pinned: lcores, compiled or as plain Lua, and every hook of the kernel; where it cannot, the "
      .. "line that prevents it. Exit code 2 when the script does not validate.",
   arguments = { { "SCRIPT", "Lua file; `...` and `arg` hold ARGS." } },
   passthrough = true,
   options = {
      { "--json", "Print the result as JSON." },
      { "--verbose", "With what prevents a place in full: the source line, and what to write instead." },
   },
   examples = {
      { "tideway check edge.lua", "what would `tideway run edge.lua` do?" },
      { "tideway check --verbose edge.lua", "why can an NF not be pinned somewhere?" },
   },
   run = run,
}
