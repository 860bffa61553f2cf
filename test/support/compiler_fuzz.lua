-- SPDX-License-Identifier: BSD-3-Clause
-- The compiler's fuzzer: random NFs on all back-ends against LuaJIT's own run of their source, until one differs or
-- time is up. scripts/fuzz and compiler_fuzz_spec.lua start it.

local backends = require "test.support.backends"
local posix = require "tideway.posix"
local program = require "test.support.program"
local traffic = require "test.support.traffic"
local tree = require "test.support.program_tree"

local M = {}

local BATCH = 16 -- programs of one call of the C compiler
local FRAMES = 24

-- What the compiler may refuse of what is generated, as patterns of its messages.
M.MAY_REFUSE = {
   "beyond the 2%^53", "within 2%^51 only", "this loop may run", "how often this loop runs", "values this loop computes",
   "an operand may be negative", "the divisor may be", "start of a packet can't be moved inwards",
   "takes more than the %d+ steps", "more paths than the verifier follows", "calls are nested", "too large",
}

local function may_refuse(message)
   for _, pattern in ipairs(M.MAY_REFUSE) do
      if message:find(pattern) then return true end
   end
   return false
end

---@class test.compiler_fuzz.failure
---@field seed integer of the program: new(seed) makes it again
---@field kind string "differs", "verifier", "crash", "raised", "refused"
---@field where string back-end
---@field text string

local function failure_of(seed, outcome)
   local f = outcome.failure
   if f then return { seed = seed, kind = f.kind, where = f.where, text = f.text } end
   for where, err in pairs(outcome.refused) do
      if not may_refuse(err.message) then
         return { seed = seed, kind = "refused", where = where, text = tostring(err) }
      end
   end
end

--- The program and the frames of a seed.
---@return table program
---@return string[] frames
function M.new(seed)
   local r = traffic.random(seed)
   local p = program.new(r)
   return p, program.frames(r, FRAMES)
end

local function without_positions(text) return (text:gsub("%d+", "N"):match "^[^\n]*") end

-- Is it the same failure?
local function alike(a, b)
   if not b or a.kind ~= b.kind or a.where ~= b.where then return false end
   return a.kind == "differs" or without_positions(a.text) == without_positions(b.text)
end

--- Make the program of a failure as small as possible.
---@param failure test.compiler_fuzz.failure
---@param tries integer?
---@return string text
---@return test.compiler_fuzz.failure failure of the smaller program
function M.minimise(failure, tries)
   local p, frames = M.new(failure.seed)
   local names = { failure.where }
   if failure.where == "lcore" or failure.where == "source" then names = { "luajit" } end
   local last = failure
   tree.minimise(p, function()
      local ok, outcomes = pcall(backends.run, { { text = tree.text(p), frames = frames } }, names)
      local now = ok and failure_of(failure.seed, outcomes[1])
      if not now or not alike(failure, now) then return false end
      last = now
      return true
   end, tries)
   return tree.text(p), last
end

--- A failure as text, with its program made small.
---@param failure test.compiler_fuzz.failure
---@param tries integer?
---@return string
function M.report(failure, tries)
   local text, last = M.minimise(failure, tries)
   return ("%s on %s, program %d (scripts/fuzz --nf compiler --seed %d --iterations 1)\n%s\n%s"):format(failure.kind,
      failure.where, failure.seed, failure.seed, text, last.text)
end

local function now() return posix.now() / 1e9 end

--- Run.
---@param options { seed: integer, seconds: number, least: integer?, iterations: integer?, backends: string[]?,
--- before: fun(seed: integer)? } least: so many programs, however long they take
---@return { programs: integer, refused: table<string, integer>, runs: table<string, integer> } counts
---@return test.compiler_fuzz.failure?
function M.run(options)
   local stop = now() + options.seconds
   local counts = { programs = 0, refused = {}, runs = {} }
   local seed = options.seed
   while counts.programs < (options.iterations or math.huge) and (counts.programs < (options.least or 1) or now() < stop) do
      if options.before then options.before(seed) end
      local jobs, seeds = {}, {}
      for i = 1, math.min(BATCH, (options.iterations or math.huge) - counts.programs) do
         local p, frames = M.new(seed)
         jobs[i], seeds[i] = { text = tree.text(p), frames = frames }, seed
         seed = seed + 1
      end
      for i, outcome in ipairs(backends.run(jobs, options.backends)) do
         counts.programs = counts.programs + 1
         for where in pairs(outcome.ran) do counts.runs[where] = (counts.runs[where] or 0) + 1 end
         for where in pairs(outcome.refused) do counts.refused[where] = (counts.refused[where] or 0) + 1 end
         local failure = failure_of(seeds[i], outcome)
         if failure then return counts, failure end
      end
   end
   return counts
end

return M
