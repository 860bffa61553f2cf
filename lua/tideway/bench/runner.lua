-- SPDX-License-Identifier: BSD-3-Clause
-- Runs a benchmark script: loads it, starts the engine, runs its experiments one after another, writes the document.

local abi = require "tideway.abi"
local affinity = require "tideway.affinity"
local control = require "tideway.control.server"
local diagnostic = require "tideway.compiler.diagnostic"
local engine = require "tideway.engine"
local environment = require "tideway.bench.environment"
local log = require "tideway.log"
local loop = require "tideway.loop"
local model = require "tideway.model"
local native = require "tideway.native"
local options = require "tideway.options"
local posix = require "tideway.posix"
local progress = require "tideway.bench.progress"
local result = require "tideway.bench.result"
local rundir = require "tideway.rundir"
local script = require "tideway.script"

local C = abi.C
local HOUSEKEEPING = 0.2
local ROUNDS, SECONDS, QUICK_ROUNDS, QUICK_SECONDS = 9, 0.5, 3, 0.2

local M = {}

---@class tideway.bench.experiment
---@field kind "group"|"curve"|"search"|"latency"|"table" the kind of its entry in the document
---@field name string
---@field title? string
---@field run fun(context: tideway.bench.context): table? entry of the document's results; nil: nothing to show
---@field describe? fun(): string[] what --list says of it, a line each
---@field where string file:line of its declaration

---@class tideway.bench.context what an experiment gets
---@field rounds integer as asked on the command line, or the default
---@field seconds number of one measurement
---@field quick boolean --quick: as short as can be; the figures are rough
---@field given { rounds: boolean, seconds: boolean } said on the command line: it wins over the script
---@field sleep fun(seconds: number)
---@field progress fun(text: string, done: integer?, of: integer?, partial: boolean?) says how far it is; a partial
--- line is shown on terminals only, and the next one takes its place

local experiments = {} ---@type tideway.bench.experiment[]

--- Register an experiment; they run in this order.
---@param e tideway.bench.experiment
---@return tideway.bench.experiment
function M.experiment(e)
   if type(e) ~= "table" or type(e.name) ~= "string" or e.name == "" or type(e.run) ~= "function" then
      error("bench.experiment takes { kind =, name =, run = function(context) }", 2)
   end
   for _, other in ipairs(experiments) do
      if other.name == e.name then
         error(("bench: the name %q is taken by the experiment declared at %s"):format(e.name, other.where), 2)
      end
   end
   e.where = e.where or model.where(2)
   experiments[#experiments + 1] = e
   return e
end

--- The experiments that were declared.
---@return tideway.bench.experiment[]
function M.list() return experiments end

--- Forget what was declared.
function M.reset() experiments = {} end

-- ---- waiting ----

local INTERRUPTED = setmetatable({}, { __tostring = function() return "interrupted" end })
local stopped, cleaning = false, false

--- The time, monotonic, in seconds.
---@return number
function M.now() return tonumber(C.tw_now()) / 1e9 end

--- Let the engine's control thread work for so long. Ctrl-C ends what runs: it is raised from here.
---@param seconds number
function M.sleep(seconds)
   local due = M.now() + seconds
   repeat
      if stopped and not cleaning then error(INTERRUPTED, 0) end
      local left = due - M.now()
      if left <= 0 then return end
      if stopped then
         C.tw_sleep_ms(math.min(10, left * 1e3))
      else
         stopped = loop.turn(left * 1e3)
      end
   until false
end

--- Wait until fn() gives something true.
---@generic T
---@param fn fun(): T
---@param seconds number at most
---@param every? number seconds between two looks (default 0.01)
---@return T? value nil: it took too long
function M.wait(fn, seconds, every)
   local due = M.now() + seconds
   repeat
      local value = fn()
      if value then return value end
      M.sleep(every or 0.01)
   until M.now() > due
   return fn() or nil
end

--- Call fn even when Ctrl-C has ended what ran: to stop and take away what was started. What it raises is returned.
---@param fn fun(...)
---@return boolean ok
---@return any error
function M.finally(fn, ...)
   local before = cleaning
   cleaning = true
   local ok, err = pcall(fn, ...)
   cleaning = before
   return ok, err
end

--- Was the run ended by Ctrl-C?
function M.interrupted() return stopped end

-- ---- one run ----

local function chosen(only)
   if not only then return experiments end
   local list, wanted, names = {}, {}, {}
   for name in only:gmatch "[^,]+" do wanted[name] = true end
   for i, e in ipairs(experiments) do
      names[i] = e.name
      if wanted[e.name] then list[#list + 1], wanted[e.name] = e, nil end
   end
   local unknown = next(wanted)
   if unknown then
      return nil, ("--only: there is no experiment %q; there are: %s"):format(unknown, table.concat(names, ", "))
   end
   return list
end

local reserved = {} -- CPUs that something is measured on, in turn

--- Keep this process's other threads off these CPUs and off those of lcores.
---@param cpus? table<integer, true> from now on; nil: as before
function M.keep_off(cpus)
   reserved = cpus or reserved
   local list = {}
   for _, lcore in ipairs(engine.lcores or {}) do list[#list + 1] = lcore end
   for cpu in pairs(reserved) do list[#list + 1] = { cpu = cpu } end
   affinity.keep_off(list)
end

local function housekeeping()
   native.poll()
   M.keep_off()
   for _, line in ipairs(engine.log()) do log.engine(line) end
   log.flush()
   engine.refresh()
end

local function new_context(opts)
   local quick = opts.quick or false
   return {
      rounds = opts.rounds or (quick and QUICK_ROUNDS or ROUNDS), quick = quick,
      seconds = opts.seconds or (quick and QUICK_SECONDS or SECONDS),
      given = { rounds = opts.rounds ~= nil or quick, seconds = opts.seconds ~= nil or quick },
      sleep = M.sleep, progress = progress.say,
   }
end

-- One experiment; its entry, or one that says why there is none.
local function run_one(e, context)
   progress.begin(e)
   local ok, entry = pcall(e.run, context)
   progress.finish()
   if ok and entry == nil then return nil end
   if ok then
      entry.kind, entry.name, entry.title = entry.kind or e.kind, entry.name or e.name, entry.title or e.title
      return entry
   end
   local why, interrupted = tostring(entry):gsub("^%[C%]:%-1: ", ""), entry == INTERRUPTED or nil
   if not interrupted then log.error("%s: %s", e.name, why) end
   return { kind = e.kind, name = e.name, title = e.title, rows = {}, error = why, interrupted = interrupted }
end

local function run_all(list, document, opts)
   local context = new_context(opts)
   for _, e in ipairs(list) do
      if stopped then break end
      local entry = run_one(e, context)
      if entry then document.results[#document.results + 1] = entry end
   end
   document.interrupted = stopped or nil
end

local function describe(list)
   for _, e in ipairs(list) do
      print(("%s: %s%s"):format(e.name, e.title or e.kind, e.title and (" (%s)"):format(e.kind) or ""))
      for _, line in ipairs(e.describe and e.describe() or {}) do print("   " .. line) end
   end
end

local function complain_of(err)
   if diagnostic.is(err) then io.stderr:write(tostring(err), "\n") else log.error("%s", tostring(err)) end
end

-- The experiments to run; nil and why there are none.
local function load(path, args, opts)
   -- The script may choose others.
   C.tw_options().idle, options.probation = C.TW_IDLE_SPIN, 0
   local ok, err = script.load(path, args)
   if not ok then return nil, err end
   if #experiments == 0 then
      return nil, path .. ": the script declares no experiment; the smallest is "
         .. "tw.bench.alone { tw.nf.count {}, packets = tw.bench.packets { ... } }"
   end
   return chosen(opts.only)
end

-- The run directory, in which `tideway top` finds the counters.
local function claim(path, opts)
   local dir, name = rundir.claim(opts.name or path:match "([^/]*)$":gsub("%.lua$", ""), opts.name ~= nil)
   if not dir then return nil, name end
   if C.tw_stats_open(dir, name, path) < 0 then return nil, abi.error() end
   if C.tw_helper_start() < 0 then log.error("%s", abi.error()) end
   return dir
end

local function run_engine(dir, list, document, opts)
   M.keep_off {}
   local ok, err = control.start(dir)
   if not ok then log.error("%s", err) end
   loop.every(HOUSEKEEPING, housekeeping)
   local began = M.now()
   run_all(list, document, opts)
   document.seconds = M.now() - began
   environment.complete(document.environment)
   control.stop()
   housekeeping()
end

local function run(path, args, opts)
   local dir, err
   if not opts.list then
      dir, err = claim(path, opts)
      if not dir then
         log.error("%s", err)
         return 1
      end
   end
   local list
   list, err = load(path, args, opts)
   if not list then
      complain_of(err)
      return 2
   end
   if opts.list then
      describe(list)
      return 0
   end
   local document = result.new(path, opts, environment.describe())
   local ok, why = pcall(engine.start, true)
   if not ok then
      complain_of(why)
      return 2
   end
   run_engine(dir, list, document, opts)
   C.tw_engine_stop()
   return result.finish(document, opts)
end

-- As it was typed, quoted where a shell needs it.
local function command_line()
   local words = {}
   for word in (posix.slurp "/proc/self/cmdline" or ""):gmatch "[^%z]+" do
      words[#words + 1] = word:find "[^%w%-_./=,:+@%%]" and "'" .. word:gsub("'", "'\\''") .. "'" or word
   end
   return table.concat(words, " ")
end

--- `tideway bench`.
---@param path string the script
---@param args string[] its arguments
---@param opts table the command's options
---@return integer exit code
function M.run(path, args, opts)
   local list = { memory_mb = opts.memory }
   if opts.no_huge then list.no_huge = true end
   log.level = opts.log_level or "info"
   local ok, err = pcall(options.command_line, list)
   if not ok then
      log.error("%s", err)
      return 2
   end
   progress.to(result.uses_stdout(opts) and io.stderr or io.stdout, opts.quiet)
   stopped, cleaning = false, false
   opts.command = command_line()
   if opts.runs and opts.runs > 1 and not opts.list then
      return require("tideway.bench.runs").run(path, args, opts)
   end
   local code = run(path, args, opts)
   engine.close()
   C.tw_stats_close()
   return code
end

return M
