-- SPDX-License-Identifier: BSD-3-Clause
-- What a benchmark run says while it runs: a line that changes on a terminal, else a line for each round.

local posix = require "tideway.posix"

local M = {}

local stream, quiet, terminal = io.stdout, false, false
local shown = false -- an unfinished line is on the terminal
local name = ""

--- Where progress goes.
---@param file file* io.stdout or io.stderr
---@param is_quiet? boolean say nothing
function M.to(file, is_quiet)
   stream, quiet, terminal = file, is_quiet or false, posix.isatty(file == io.stderr and 2 or 1)
   shown = false
end

local function erase()
   if shown then stream:write "\r\27[K" end
   shown = false
end

--- A line that stays.
---@param text string
function M.line(text)
   if quiet then return end
   erase()
   stream:write(text, "\n")
   stream:flush()
end

--- The next experiment begins.
---@param experiment tideway.bench.experiment
function M.begin(experiment)
   name = experiment.name
   M.line(("%s: %s"):format(name, experiment.title or experiment.kind))
end

--- How far the experiment is.
---@param text string
---@param done? integer steps that are behind it
---@param of? integer steps in all
---@param partial? boolean the line grows still: shown on terminals only, and replaced by the next one
function M.say(text, done, of, partial)
   if quiet then return end
   local line = ("   %s%s"):format(done and ("%d/%s  "):format(done, of or "?") or "", text)
   if not partial then return M.line(line) end
   if not terminal then return end
   erase()
   local _, columns = posix.terminal_size(stream == io.stderr and 2 or 1)
   stream:write(#line < columns and line or line:sub(1, columns - 1))
   stream:flush()
   shown = true
end

--- The experiment is over.
function M.finish() erase() end

return M
