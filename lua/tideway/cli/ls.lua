-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway ls`: the instances of this machine.

local function age(seconds)
   if not seconds then return "" end
   if seconds < 120 then return ("%d s"):format(seconds) end
   if seconds < 7200 then return ("%d min"):format(seconds / 60) end
   if seconds < 172800 then return ("%d h"):format(seconds / 3600) end
   return ("%d d"):format(seconds / 86400)
end

-- What is known of an instance, and what it says of itself to those who have a role.
local function describe(instance)
   local entry = { name = instance.name, pid = instance.pid, state = "dead", dir = instance.dir }
   if not instance.alive then return entry end
   entry.state = "runs"
   local client, err, errno = require("tideway.control.client").open(instance, 2)
   if not client then
      entry.note, entry.role = err, "none"
      if errno then entry.state = "no answer" end
      return entry
   end
   local hello = client.hello
   entry.role, entry.script, entry.chains, entry.version = hello.role, hello.script, hello.chains, hello.version
   entry.uptime = math.max(0, math.floor(os.time() - hello.start))
   client:close()
   return entry
end

local function print_table(list)
   local view = require "tideway.live.view"
   local rows = {}
   for i, e in ipairs(list) do
      rows[i] = {
         e.name, e.pid > 0 and e.pid or "", e.state, age(e.uptime), e.role,
            table.concat(e.chains or {}, ", "), e.script,
      }
   end
   local columns = { "name", "pid", "state", { name = "up", align = "right" }, "your role", "chains", "script" }
   io.write(table.concat(view.lines(view.table(columns, rows)), "\n"), "\n")
   for _, e in ipairs(list) do
      if e.note then io.stderr:write("tideway ls: ", e.note, "\n") end
   end
end

local function run(options)
   local rundir = require "tideway.rundir"
   local list = rundir.instances()
   for i, instance in ipairs(list) do list[i] = describe(instance) end
   if options.json then
      io.write(require("tideway.json").encode(list), "\n")
   elseif #list > 0 then
      print_table(list)
   else
      io.write(("no instance runs (looked in %s)\n"):format(table.concat(rundir.bases(), ", ")))
   end
   return 0
end

return {
   name = "ls",
   summary = "List the running instances.",
   description = "Name, process, how long it runs, which role you have there, chains and script, the youngest first. "
      .. "An instance that was killed is listed as dead until the next one starts.",
   options = { { "--json", "Print JSON." } },
   examples = { { "tideway ls", "what runs on this machine" } },
   run = run,
}
