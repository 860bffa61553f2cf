-- SPDX-License-Identifier: BSD-3-Clause
-- The fuzzer: mutated frames through all NFs, mutated texts through all parsers, until something is wrong or time
-- is up. scripts/fuzz starts it.

local corpus = require "test.support.corpus"
local frame = require "test.support.frame"
local marker = require "test.support.marker"
local mutate = require "test.support.mutate"
local posix = require "tideway.posix"
local targets = require "test.support.targets"
local texts = require "test.support.texts"

local M = {}

---@class tideway.spec.failure
---@field nf string target, "text:" and the name of a parser, or "(all)" for what no single input is to blame
---@field input string
---@field port? string
---@field fault string

-- Not the engine's clock, which jumps here.
local function now() return posix.now() / 1e9 end

-- Frames of inside hosts first: mappings, connections and neighbours that later ones may hit.
local function prepare(t)
   for _, name in ipairs(t.names) do
      for _, entry in ipairs(corpus.valid()) do
         local fault = entry.port == "lan" and t:send(name, "lan", entry.frame)
         if fault then return { nf = name, port = "lan", input = entry.frame, fault = fault } end
      end
   end
end

local function one_text(r, only)
   local name = only or r:of(texts.names)
   local text = mutate.text(r, texts.parsers[name].seeds)
   marker.title("text:" .. name)
   marker.input(text)
   local fault = texts.try(name, text)
   if fault then return { nf = "text:" .. name, input = text, fault = fault } end
end

local function one_frame(r, t)
   local name = r:of(t.names)
   local bytes, port = mutate.frame(r)
   marker.title(name .. " " .. port)
   marker.input(bytes)
   local fault = t:send(name, port, bytes)
   if fault then return { nf = name, input = bytes, port = port, fault = fault } end
end

-- Several at once: verdicts that differ within a burst. Which one it was is found by sending them again.
local function one_burst(r, t)
   local name, port, list = r:of(t.names), nil, {}
   for i = 1, 2 + r:below(40) do
      local bytes
      bytes, port = mutate.frame(r)
      list[i] = bytes
      marker.title(("%s %s, with others in a burst"):format(name, port))
      marker.input(bytes)
      t:inject(name, port, bytes)
   end
   local fault = t:run(name)
   if not fault then return nil end
   return { nf = name, input = list[#list], port = port,
      fault = ("in a burst of %d, of which this is the last: %s"):format(#list, fault) }
end

local function step(r, t, i)
   if i % 16 == 0 then return one_text(r) end
   if i % 1024 == 1 then
      t.rig:advance(r:of { 0.05, 0.5, 5, 70, 400, 8000 })
      local fault = t:faults()
      if fault then return { nf = "(all)", input = "", fault = fault } end
   end
   if i % 32 == 5 then return one_burst(r, t) end
   return one_frame(r, t)
end

-- Only texts: "text" for all parsers, "text:NAME" for one.
local function run_texts(options)
   local r, stop, i, failure = mutate.random(options.seed), now() + options.seconds, 0, nil
   local only = options.nf:match "^text:(.+)"
   while not failure and i < (options.iterations or math.huge) do
      if i % 256 == 0 then
         if options.alive then options.alive() end
         if now() >= stop then break end
      end
      i = i + 1
      failure = one_text(r, only)
   end
   return i, failure
end

--- Run.
---@param options { seed: integer, seconds: number, iterations?: integer, nf?: string, alive?: fun() }
---@return integer iterations
---@return tideway.spec.failure?
function M.run(options)
   if options.nf and options.nf:find "^text" then return run_texts(options) end
   local r = mutate.random(options.seed)
   local t = targets.start(options.nf and { options.nf } or nil)
   local stop, i, failure = now() + options.seconds, 0, prepare(t)
   while not failure and i < (options.iterations or math.huge) do
      if i % 256 == 0 then
         if options.alive then options.alive() end
         if now() >= stop then break end
      end
      i = i + 1
      failure = step(r, t, i)
   end
   local ok, err = pcall(t.close, t)
   if not failure and not ok then failure = { nf = "(all)", input = "", fault = err } end
   return i, failure
end

--- Run one input again.
---@param nf string as in a failure
---@param port? string both when nil
---@param input string
---@return string? fault
function M.replay(nf, port, input)
   local text = nf:match "^text:(.*)"
   if text then return texts.try(text, input) end
   local t = targets.start { (nf:gsub("%+guard$", "")) }
   local failure = prepare(t)
   local fault = failure and failure.fault
   for _, name in ipairs(t.names) do
      for _, side in ipairs { "lan", "wan" } do
         if not port or port == side then
            marker.title(name .. " " .. side)
            marker.input(input)
            fault = fault or t:send(name, side, input)
         end
      end
   end
   local ok, err = pcall(t.close, t)
   return fault or not ok and err or nil
end

--- How to run a failure again, as words for the shell.
---@param failure tideway.spec.failure
---@return string
function M.command(failure)
   return ("scripts/fuzz --nf %s%s --replay %s"):format(failure.nf, failure.port and " --port " .. failure.port or "",
      frame.hex(failure.input))
end

return M
