-- SPDX-License-Identifier: BSD-3-Clause
-- Groups: contenders that take turns in rounds, so that what drifts on the machine concerns all of them alike.

local abi = require "tideway.abi"
local chains = require "tideway.bench.chain"
local disturbance = require "tideway.bench.disturbance"
local rows = require "tideway.bench.rows"
local runner = require "tideway.bench.runner"
local specs = require "tideway.bench.spec"
local together = require "tideway.bench.together"

local C = abi.C
local AGAIN = 0.2
local M = {}

---@class tideway.bench.contender
---@field name string
---@field note? string its settings, for the report
---@field cpu? integer the CPU that does the work, to look at what disturbs it
---@field apart? boolean it has no use for the engine's lcores: they rest meanwhile
---@field missing? fun(self): string? why it cannot run here
---@field start? fun(self): boolean?, string?
---@field measure fun(self, seconds: number): table?, string? a sample: { value =, unit =, ns =, cycles =, ... }; why =
--- list of reasons not to trust it, texts; cpu_time = true: ns is CPU time
---@field stop? fun(self)

--- A contender of one's own: `bench.contender { name =, measure = function(self, seconds) return { value =, unit = }
--- end }`. It may have start(), stop(), missing(), note, cpu; it waits with bench.sleep().
---@param contender tideway.bench.contender
---@return tideway.bench.contender
function M.contender(contender)
   if type(contender) ~= "table" or type(contender.name) ~= "string" or type(contender.measure) ~= "function" then
      error("bench.contender takes { name =, measure = function(self, seconds) return { value =, unit = } end }", 2)
   end
   return contender
end

local function check_contenders(name, list)
   if type(list) ~= "table" or #list == 0 then
      error(("bench.group(%q): contenders = { ... } is missing"):format(name), 3)
   end
   local seen = {}
   for i, c in ipairs(list) do
      if type(c) ~= "table" or type(c.name) ~= "string" or type(c.measure) ~= "function" then
         error(("bench.group(%q): contender %d is %s, not one of bench.chain, bench.process, bench.contender, ...")
            :format(name, i, tostring(c)), 3)
      end
      if seen[c.name] then
         error(("bench.group(%q): two contenders are named %q; give one a name ="):format(name, c.name), 3)
      end
      seen[c.name] = true
   end
   return seen
end

local function check_together(name, list)
   for _, c in ipairs(list) do
      if not (c.begin and c.finish) then
         error(("bench.group(%q): together = true: %q cannot be measured beside others; bench.http can"):format(name,
            c.name), 3)
      end
   end
end

local function check_name(group, key, value, seen)
   if value ~= nil and not seen[value] then
      error(("bench.group(%q): %s: there is no contender %q"):format(group, key, tostring(value)), 3)
   end
end

-- ---- one measurement ----

-- One contender, once.
local function once(contender, seconds)
   local ok, err = true, nil
   C.tw_lcores_rest(contender.apart or false)
   if contender.start then ok, err = contender:start() end
   if not ok then return nil, err or "it did not start" end
   local watch = disturbance.watch(contender.cpu)
   local sample
   sample, err = contender:measure(seconds)
   local seen, why = watch:stop()
   if not sample then return nil, err or "it measured nothing" end
   for _, reason in ipairs(sample.why or {}) do
      why[#why + 1] = type(reason) == "table" and reason
         or { text = reason, load = reason:find "^other processes" ~= nil }
   end
   sample.disturbance, sample.why = seen, why
   return sample
end

-- The same, and nothing of it is left running. An error of the contender's own is a reason, too.
local function measure(contender, seconds)
   local caught, sample, err = pcall(once, contender, seconds)
   if contender.stop then
      local stopped, why = runner.finally(contender.stop, contender)
      if caught and not stopped then caught, sample = false, why end
   end
   if not caught then
      if runner.interrupted() then error(sample, 0) end
      return nil, tostring(sample)
   end
   return sample, err
end

-- A second try: what fails on a busy machine once, such as a start that took too long, is no reason to leave it out.
local function try(contender, seconds, context)
   local sample, err = measure(contender, seconds)
   if sample or contender.gave_up then return sample, err end
   context.progress(("%s: %s; once more"):format(contender.name, err))
   runner.sleep(AGAIN)
   return measure(contender, seconds)
end

-- ---- rounds ----

local function in_turn(list, round)
   local order = {}
   for i = 1, #list do order[i] = list[round % 2 == 1 and i or #list + 1 - i] end
   return order
end

local function missing(contender)
   if not contender.missing then return nil end
   local ok, why = pcall(contender.missing, contender)
   if not ok then return tostring(why) end
   return why
end

local function shown(sample, unit)
   local value = sample.unit == unit and sample.value or sample[unit] or sample.value
   return ("%.4g"):format(value)
end

local function note_speeds(measured, speeds)
   for round, why in pairs(disturbance.speed_changes(speeds)) do
      for _, m in pairs(measured) do
         if m.why[round] then table.insert(m.why[round], why) end
      end
   end
end

local function note(group, m, contender, round, sample, err)
   m.samples[round], m.missing = sample, not sample and err or nil
   m.why[round] = sample and sample.why
   return ("%s %s"):format(contender.name, sample and shown(sample, group.unit) or "failed")
end

local function round_in_turn(group, measured, round, context)
   local texts = {}
   for _, contender in ipairs(in_turn(group.contenders, round)) do
      local m = measured[contender.name]
      if not m.missing then
         context.progress(table.concat(texts, "  ") .. "  " .. contender.name .. " ...", round, group.rounds, true)
         local sample, err = try(contender, group.seconds, context)
         texts[#texts + 1] = note(group, m, contender, round, sample, err)
         if not sample then context.progress(("%s: %s"):format(contender.name, err)) end
      end
   end
   return texts
end

-- All at once: who begins first has been given a head start of milliseconds, and is another one in the next round.
local function round_together(group, measured, round, context)
   local list, texts = {}, {}
   for _, contender in ipairs(in_turn(group.contenders, round)) do
      if not measured[contender.name].missing then list[#list + 1] = contender end
   end
   context.progress("all at once ...", round, group.rounds, true)
   local samples, errors = together.measure(list, group.seconds)
   for _, contender in ipairs(list) do
      local sample, err = samples[contender], errors[contender]
      texts[#texts + 1] = note(group, measured[contender.name], contender, round, sample, err)
      if not sample then context.progress(("%s: %s"):format(contender.name, err)) end
   end
   return texts
end

local function run_rounds(group, measured, context)
   local speeds, cpu = {}, nil
   for _, c in ipairs(group.contenders) do cpu = cpu or c.cpu end
   C.tw_lcores_rest(group.contenders[1].apart or false) -- the CPU's speed comes first
   local one_round = group.together and round_together or round_in_turn
   for round = 1, group.rounds do
      speeds[round] = disturbance.speed(cpu)
      local texts = one_round(group, measured, round, context)
      context.progress(table.concat(texts, "  "), round, group.rounds)
   end
   C.tw_lcores_rest(false)
   note_speeds(measured, speeds)
   return speeds
end

local function own_chains(list)
   local out = {}
   for _, c in ipairs(list) do
      if chains.is_chain(c) then out[#out + 1] = c end
   end
   return out
end

-- On which the control thread had better not be.
local function cpus_of(contenders)
   local set = {}
   for _, c in ipairs(contenders) do
      for _, cpu in ipairs(c.lcores or { c.cpu }) do set[cpu] = true end
   end
   return set
end

local function start_measured(contenders, context)
   local measured = {}
   for _, c in ipairs(contenders) do
      local why = missing(c)
      measured[c.name] = { samples = {}, why = {}, missing = why }
      if why then context.progress(("%s is skipped: %s"):format(c.name, why)) end
   end
   return measured
end

--- Measure contenders in rounds.
---@param group table contenders, unit, rounds, seconds, reference, base, goals, better
---@param context tideway.bench.context
---@return table[] rows as tideway.bench.rows makes them
---@return table<integer, number> speeds of the CPU by round
function M.measure(group, context)
   local measured, speeds = start_measured(group.contenders, context), {}
   local ours = own_chains(group.contenders)
   local ok, err = pcall(function()
      runner.keep_off(cpus_of(group.contenders))
      if #ours > 0 then
         context.progress("warm-up", nil, nil, true)
         chains.warm_up(ours)
      end
      speeds = run_rounds(group, measured, context)
   end)
   local closed, why = runner.finally(chains.close)
   runner.keep_off {}
   if not ok and not runner.interrupted() then error(err, 0) end
   if not closed then error(why, 0) end
   return rows.make(group, measured), speeds
end

-- ---- declaring ----

--- A group of contenders that take turns in rounds: `bench.group("macswap", { contenders = { a, b }, reference = "a",
--- goals = { b = 0.9 } })`. Every second round goes backwards; ratios are taken within a round.
---@param name string
---@param spec table title =, unit = "Mpps" (or "ns", "cycles", what samples have), better = "more"|"less",
--- contenders =, reference = a contender that ratios are taken to, goals = { contender = least ratio (least value
--- without a reference; most, when less is better) }, base = a contender whose ns are subtracted, rounds =, seconds =,
--- together = true: all are measured at the same time, for what is a share of the CPU time that each one got: what
--- slows the machine slows all of them (bench.http)
---@return tideway.bench.experiment
function M.group(name, spec)
   if type(name) ~= "string" or type(spec) ~= "table" then error("bench.group(name, { contenders = ... })", 2) end
   specs.known(("bench.group(%q)"):format(name), spec,
      "title unit better contenders reference base goals rounds seconds together", 2)
   local seen = check_contenders(name, spec.contenders)
   if spec.together then check_together(name, spec.contenders) end
   check_name(name, "reference", spec.reference, seen)
   check_name(name, "base", spec.base, seen)
   for goal in pairs(spec.goals or {}) do check_name(name, "goals", goal, seen) end
   local unit = spec.unit or "Mpps"
   local better = spec.better or ((unit == "ns" or unit == "cycles") and "less" or "more")
   return runner.experiment {
      kind = "group", name = name, title = spec.title,
      describe = function()
         local lines = {}
         for i, c in ipairs(spec.contenders) do
            local why = missing(c)
            lines[i] = ("%s%s%s"):format(c.name, c.note and ": " .. c.note or "", why and (" (missing: %s)"):format(why)
               or "")
         end
         return lines
      end,
      run = function(context)
         local group = {
            contenders = spec.contenders, reference = spec.reference, base = spec.base, goals = spec.goals, unit = unit,
            better = better, together = spec.together,
            rounds = not context.given.rounds and spec.rounds or context.rounds,
            seconds = not context.given.seconds and spec.seconds or context.seconds,
         }
         local list, speeds = M.measure(group, context)
         return {
            kind = "group", unit = unit, better = better, rounds = group.rounds, seconds = group.seconds,
            reference = spec.reference, base = spec.base, rows = list, speeds = speeds, together = spec.together,
            interrupted = runner.interrupted() or nil,
         }
      end,
   }
end

return M
