-- SPDX-License-Identifier: BSD-3-Clause
-- `tideway run`: load a script, start the engine, serve it until it is to stop, report.

local ffi = require "ffi"
local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local control = require "tideway.control.server"
local diagnostic = require "tideway.compiler.diagnostic"
local engine = require "tideway.engine"
local gate = require "tideway.gate.engine"
local gate_figures = require "tideway.gate.figures"
local gate_report = require "tideway.gate.report"
local gate_text = require "tideway.gate.text"
local hooks = require "tideway.hook"
local line_files = require "tideway.message.lines"
local log = require "tideway.log"
local loop = require "tideway.loop"
local metrics = require "tideway.metrics"
local model = require "tideway.model"
local native = require "tideway.native"
local options = require "tideway.options"
local plan = require "tideway.plan"
local posix = require "tideway.posix"
local privilege = require "tideway.privilege"
local rundir = require "tideway.rundir"
local script = require "tideway.script"
local service = require "tideway.service"
local stats = require "tideway.stats"

local C = abi.C
local SIGHUP = 1
local M = {}

local complain = log.error

local function apply(opts)
   local list = { metrics = opts.metrics, privileges = opts.privileges, worker = opts.worker }
   log.level = opts.log_level or "info"
   list.idle, list.burst, list.memory_mb = opts.idle, opts.burst, opts.memory
   if opts.no_huge then list.no_huge = true end
   options.command_line(list)
end

local function instance_name(path, opts)
   return opts.name or path:match "([^/]*)$":gsub("%.lua$", "")
end

-- What the script declares wrongly: diagnostics of the compiler as they are.
local function complain_of(err)
   if diagnostic.is(err) then io.stderr:write(tostring(err), "\n") else complain("%s", err) end
end

local function describe_port(port)
   local info = C.tw_stats().port[port.index]
   local offloads = ffi.string(info.offloads):gsub("%s+$", "")
   return ("port %s: %s, %s, %d rx and %d tx queue(s), offloads: %s"):format(port.name, ffi.string(info.driver),
      ffi.string(info.mode), info.rx_queues, info.tx_queues, offloads == "" and "none" or offloads)
end

--- A chain's way in words: "lan -> ttl -> wan".
local function path_of(chain)
   local names, sources = {}, {}
   for i, source in ipairs(chain.sources) do sources[i] = source.name end
   for i, name in ipairs(chain.stage_names) do names[i] = name end
   names[#names + 1] = chain.sink and chain.sink.name or chain.place and "the kernel" or "(no sink)"
   return (#sources > 0 and table.concat(sources, ", ") .. " -> " or "") .. table.concat(names, " -> ")
end

local function describe()
   local info = C.tw_eal_info()
   local lines = { info.started and ffi.string(info.note) or nil }
   for _, port in ipairs(model.ports) do
      if port.opened then lines[#lines + 1] = describe_port(port) end
   end
   for _, chain in ipairs(model.chains) do
      lines[#lines + 1] = ("chain %s on %s: %s"):format(chain.name,
         ffi.string(C.tw_stats().chain[chain.index].place), path_of(chain))
   end
   for _, line in ipairs(gate_report.lines()) do lines[#lines + 1] = line end
   for _, line in ipairs(hooks.lines()) do lines[#lines + 1] = line end
   if #engine.lcores > 0 and #engine.lcores == #plan.cpus() then
      lines[#lines + 1] = "every CPU has an lcore: the control thread shares one with it"
   end
   return lines
end

local HOUSEKEEPING, WITHOUT_PACKETS = 0.2, 1 -- seconds

local function print_rates(seconds, say)
   local start = tonumber(C.tw_now())
   local before, before_at = engine.snapshot(), start
   loop.every(seconds, function()
      local now, snapshot = tonumber(C.tw_now()), engine.snapshot()
      local passed = (now - before_at) / 1e9
      local line = (#snapshot.chains > 0 or not snapshot.gate) and stats.line(stats.rates(before, snapshot, passed))
      if snapshot.gate then line = gate_text.line(gate_figures.rates(before.gate, snapshot.gate, passed), line) end
      say("%6.1f s  %s", (now - start) / 1e9, line)
      before, before_at = snapshot, now
   end)
end

-- Until a signal or the end of --for.
local function serve(opts, say, hangup, repl)
   local done = false
   if repl then repl:on_end(function() done = true end) end
   if opts.duration then loop.after(opts.duration, function() done = true end) end
   if opts.stats then print_rates(opts.stats, say) end
   if opts.watch then require("tideway.change.watch").start() end
   local function keep_house()
      native.poll()
      affinity.keep_off(engine.lcores)
      for _, line in ipairs(engine.log()) do log.engine(line) end
      log.flush()
      engine.refresh()
      loop.after(#model.chains > 0 and HOUSEKEEPING or WITHOUT_PACKETS, keep_house)
   end
   loop.after(0, keep_house)
   service.watch_hangup(hangup, function() done = true end)
   line_files.start()
   while not done and not loop.turn(1000) do end
end

local function report(opts, seconds, gate_counters)
   for _, line in ipairs(engine.log()) do log.engine(line) end
   local snapshot = stats.snapshot(C.tw_stats())
   snapshot.seconds, snapshot.gate = seconds, gate_counters
   if opts.json then
      print(require("tideway.json").encode(snapshot))
   elseif not opts.quiet then
      io.write(stats.final_table(snapshot))
   end
   return stats.adds_up(snapshot) and gate_figures.adds_up(snapshot.gate)
end

local function run(path, args, opts, hangup)
   local dir, name = rundir.claim(instance_name(path, opts), opts.name ~= nil)
   if not dir then
      complain("%s", name)
      return 1
   end
   if C.tw_stats_open(dir, name, path) < 0 then
      complain("%s", abi.error())
      return 1
   end
   -- With --json, standard output is for the JSON alone.
   local stream = opts.json and io.stderr or io.stdout
   local function say(...)
      if opts.quiet then return end
      stream:write(string.format(...), "\n")
      stream:flush()
   end
   -- While there is neither a thread nor EAL's memory; what it does is needed when rights are gone.
   if C.tw_helper_start() < 0 then complain("%s", abi.error()) end
   local ok, err = script.load(path, args)
   if ok then ok, err = pcall(engine.start) end
   if not ok then
      complain_of(err)
      return 2
   end
   affinity.keep_off(engine.lcores)
   for _, line in ipairs(describe()) do say("%s", line) end
   if options.metrics then
      ok, err = metrics.start(options.metrics)
      if not ok then
         complain("%s", err)
         return 1
      end
      say("metrics: %s", ok)
   end
   ok, err = control.start(dir)
   if not ok then complain("%s", err) end
   local repl
   if opts.repl then
      repl, err = require("tideway.repl.child").start(name)
      if not repl then
         complain("%s", err)
         return 1
      end
   end
   ok, err = pcall(privilege.drop)
   if not ok then
      complain("%s", err)
      return 1
   end
   say("%s", err)
   local start = tonumber(C.tw_now())
   C.tw_sleep_ms(0) -- from here on a signal is waited for
   say("ready: instance %s, pid %d; stop with %s", name, C.tw_stats().pid, repl and "Ctrl-D" or "Ctrl-C")
   service.ready(("instance %s runs %s"):format(name, path))
   serve(opts, say, hangup, repl)
   service.stopping()
   metrics.stop()
   control.stop()
   if repl then repl:stop() end
   hooks.stop()
   local seconds = (tonumber(C.tw_now()) - start) / 1e9
   gate.drain()
   local gate_counters = gate_figures.snapshot()
   gate.stop()
   line_files.drain()
   C.tw_engine_stop()
   local exact = report(opts, seconds, gate_counters)
   if not exact then complain "the counters do not add up; this is a bug, please report it" end
   return exact and 0 or 1
end

--- `tideway run`.
---@return integer exit code
function M.run(path, args, opts)
   local ok, err = pcall(apply, opts)
   if not ok then
      complain("%s", err)
      return 2
   end
   -- Before there are other threads, which would get the signal instead.
   local hangup, restore = posix.signal_fd { SIGHUP }
   local code = run(path, args, opts, hangup)
   metrics.stop() -- also of one that never came to serve: nothing but the counters may be left in its directory
   control.stop()
   engine.close()
   restore()
   C.tw_stats_close()
   return code
end

return M
