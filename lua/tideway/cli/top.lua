-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway top`: live counters of a running instance, read from its shared memory.

local types = require("tideway.cli.parser").types

local function say(message)
   io.stderr:write("tideway top: ", message, "\n")
   return 1
end

local function running_names(list)
   local names = {}
   for _, instance in ipairs(list) do
      if instance.alive then names[#names + 1] = instance.name end
   end
   return names
end

-- The instance that was asked for, or the youngest that runs.
local function find(name)
   local rundir = require "tideway.rundir"
   local list = rundir.instances()
   for _, instance in ipairs(list) do
      if instance.alive and (not name or instance.name == name) then return instance, running_names(list) end
   end
   local names = running_names(list)
   if #names == 0 then
      return nil, ("no instance runs (looked in %s); start one: tideway run SCRIPT"):format(
         table.concat(rundir.bases(), ", "))
   end
   return nil, ("no instance named '%s' runs; these do: %s"):format(name, table.concat(names, ", "))
end

-- Map the counters of an instance.
local function attach(instance)
   local ffi = require "ffi"
   require "tideway.abi"
   local posix, lfs = require "tideway.posix", require "lfs"
   local size, own = ffi.sizeof "struct tw_stats", tonumber(ffi.C.TW_ABI_VERSION)
   if instance.abi ~= 0 and instance.abi ~= own then
      return nil, ("instance '%s' (pid %d) has ABI %d, this tideway has ABI %d: use the tideway that started it")
         :format(instance.name, instance.pid, instance.abi, own)
   end
   local found = lfs.attributes(instance.stats, "size") or 0
   if instance.abi == 0 then return nil, ("instance '%s' is starting; try again"):format(instance.name) end
   if found ~= size then
      return nil, ("the counters of '%s' have %d bytes, not %d: it is another build of tideway; use that one")
         :format(instance.name, found, size)
   end
   local address, err = posix.map_file(instance.stats, size)
   if not address then return nil, ("cannot map %s: %s"):format(instance.stats, err) end
   return address, ffi.cast("const struct tw_stats *", address)
end

-- Gives a sampler: each call takes a snapshot and the rates since the one before.
local function sampler(counters)
   local stats, posix = require "tideway.stats", require "tideway.posix"
   local last, last_time
   return function()
      local snap, now = stats.snapshot(counters), posix.now()
      local rates = last and stats.rates(last, snap, (now - last_time) / 1e9)
      last, last_time = snap, now
      return snap, rates
   end
end

local function print_once(snap, rates, options)
   if options.json then
      snap.rates = rates
      io.write(require "tideway.json".encode(snap, not options.once), "\n")
   else
      local view = require "tideway.cli.top_view"
      io.write(table.concat(view.lines(snap, rates, { interval = options.interval, names = {} }), "\n"), "\n")
   end
   io.stdout:flush()
end

-- Without a terminal: one report, or one JSON object a line until the instance stops.
local function reports(instance, sample, options)
   local posix = require "tideway.posix"
   sample()
   repeat
      posix.poll({}, options.interval * 1000)
      local snap, rates = sample()
      print_once(snap, rates, options)
   until options.once or not posix.alive(instance.pid)
   return 0
end

local function run(options)
   local instance, names = find(options.name)
   if not instance then return say(names) end
   local anchor, counters = attach(instance) -- the mapping lives as long as its anchor
   if not anchor then return say(counters) end
   local posix = require "tideway.posix"
   options.interval = options.interval or 1
   local sample = sampler(counters)
   local code
   if options.once or options.json or not posix.isatty(1) then
      code = reports(instance, sample, options)
   else
      code = require "tideway.cli.top_view".live(instance, names, sample, options)
   end
   return code, anchor
end

return {
   name = "top",
   summary = "Show the live counters of a running instance.",
   description = "Rates of ports, chains and network functions, drops by reason, cycles per packet, load of "
      .. "every lcore, and the sum that must add up. Keys: q quits, s changes the order, p pauses.",
   arguments = { { "NAME", "The instance (default: the one started last).", args = "?" } },
   options = {
      { "--once", "Print one report and exit." },
      { "--json", "Print JSON: with --once one document, else one line each interval." },
      { "--interval", "Time between two samples (default: 1).", value = "SECONDS", convert = types.positive },
   },
   examples = {
      { "tideway top", "watch the instance started last" },
      { "tideway top edge --once --json", "counters and rates for a script" },
   },
   run = run,
}
