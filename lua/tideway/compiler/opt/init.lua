-- SPDX-License-Identifier: BSD-3-Clause
-- The optimiser: makes a program smaller and faster in place, without changing what can be seen of it. Each pass can
-- be switched off by name.

local graphs = require "tideway.compiler.ir.graph"
local arith = require "tideway.compiler.opt.arith"
local cfg = require "tideway.compiler.opt.cfg"
local checks = require "tideway.compiler.opt.checks"
local dce = require "tideway.compiler.opt.dce"
local frame = require "tideway.compiler.opt.frame"
local licm = require "tideway.compiler.opt.licm"
local stores = require "tideway.compiler.opt.stores"
local narrow = require "tideway.compiler.opt.narrow"
local slots = require "tideway.compiler.opt.slots"
local split = require "tideway.compiler.opt.split"
local tails = require "tideway.compiler.opt.tails"
local thread = require "tideway.compiler.opt.thread"
local values = require "tideway.compiler.opt.values"

local M = {}

--- The passes, by the names that switch them off.
---@type table<string, string>
M.PASSES = {
   cfg = "merge and skip blocks, drop unreachable ones",
   fold = "constants, algebra, cheaper operations, byte order folded into conditions",
   gvn = "one computation for equal values",
   memory = "known contents of memory: loads after loads and stores, stores of what is there",
   decide = "branches and checks that earlier ones have decided",
   thread = "jump threading",
   split = "paths that a later branch tells apart again, on lcores",
   frame = "the frame's start, end and length read once",
   params = "parameters that are always the same value",
   address = "constant parts of pointers into the offset of loads, stores and checks",
   length = "comparisons of the frame's length into checks",
   available = "checks that every path has made",
   raise = "checks as large as the later ones",
   dce = "what nothing depends on",
   dead = "stores that are overwritten at once",
   widen = "neighbouring loads and stores",
   narrow = "sign extensions that nobody looks at",
   licm = "what does not change in a loop",
   slots = "one place on the stack for objects of different blocks",
   tails = "equal ends of the program become one",
}

-- A round that changed less than one instruction in so many is the last one.
local ROUNDS, LITTLE = 6, 32

-- Instructions that copies of paths may add, and of programs that are looked through for them: it takes a while.
local SPLIT, SPLIT_MOST = 200, 500

local function constant(term)
   local a, b = term.args[1], term.args[2]
   if a.op ~= "const" or b.op ~= "const" then return nil end
   if a.type == "ptr" then
      local p, q = a.object or a.value, b.object or b.value
      return (term.cc == "eq") == (p == q)
   end
   return arith.compare(term.cc, term.w, a.value, b.value)
end

local function size(program)
   local n = 0
   for _, block in ipairs(program.blocks) do n = n + #block.insts + 1 end
   return n
end

local Run = {}
Run.__index = Run

function Run:note(name, n)
   self.stats[name] = (self.stats[name] or 0) + n
   return n
end

-- A pass by name, when it is on: how much it changed.
function Run:pass(name, f, ...)
   if not self.on[name] then return 0 end
   return self:note(name, f(self.program, ...))
end

function Run:clean()
   local n = self:pass("cfg", cfg.simplify, constant)
   n = n + self:pass("params", dce.params)
   n = n + self:pass("dce", dce.run)
   return n + self:pass("cfg", cfg.simplify, constant)
end

-- One walk, and what it found on the way.
function Run:round(limit)
   cfg.prune(self.program)
   self:pass("frame", frame.hoist)
   local changed, threads = values.run(self.program, self.on)
   self:note("values", changed)
   cfg.prune(self.program)
   if size(self.program) < limit then
      changed = changed + self:note("thread", thread.apply(self.program, threads))
   end
   return changed + self:clean()
end

-- What is worth looking for once, and again when the rest has come to an end.
local function seldom(run)
   run:pass("slots", slots.share)
   return run:pass("tails", tails.merge) + run:pass("dead", stores.dead) + run:pass("widen", stores.widen)
end

-- On hooks size counts, and what the verifier walks.
local function split_paths(run, limit)
   local program = run.program
   local function clean() run:clean() end
   if run:pass("split", split.run, math.min(size(program), SPLIT), clean) == 0 then return end
   for _ = 1, 3 do
      if run:round(2 * limit) * LITTLE < size(program) then break end
   end
   seldom(run)
end

local function optimise(run)
   local program = run.program
   local limit = 2 * run.stats.before + 200
   cfg.prune(program)
   run:clean()
   for round = 1, ROUNDS do
      local changed = run:round(limit)
      changed = changed + run:pass("raise", checks.raise) + run:pass("available", checks.available)
      local little = changed * LITTLE < size(program)
      if round == 1 or little then changed = changed + seldom(run) end
      run.stats.rounds = round
      if little and changed * LITTLE < size(program) then break end
   end
   if program.target == "lcore" and size(program) <= SPLIT_MOST then split_paths(run, limit) end
   if run:pass("narrow", narrow.run) > 0 then run:round(limit) end
   run:pass("licm", licm.run)
   run:clean()
   run:pass("tails", tails.merge)
   run:clean()
   program.blocks = graphs.of(program).order
   run.stats.after = size(program)
end

--- Optimises a program in place.
---@param program tideway.ir.program
---@param options? table<string, boolean> passes set to false are off (M.PASSES has their names)
---@return table<string, integer> stats how much each pass changed; `before` and `after`: instructions
function M.optimise(program, options)
   local run = setmetatable({ program = program, on = {}, stats = { before = size(program) } }, Run)
   for name in pairs(M.PASSES) do run.on[name] = not options or options[name] ~= false end
   for name in pairs(options or {}) do
      if not M.PASSES[name] then error(("there is no pass '%s'"):format(tostring(name)), 2) end
   end
   -- each line runs a few times over little data: traces would cost six times the work itself
   local compiled = jit.status()
   jit.off()
   local ok, why = xpcall(optimise, debug.traceback, run)
   if compiled then jit.on() end
   if not ok then error(why, 0) end
   return run.stats
end

return M
