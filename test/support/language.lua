-- SPDX-License-Identifier: BSD-3-Clause
-- For specs of parts of the language: the same on all back-ends, or refused with a text.

local abi = require "tideway.abi"
local backends = require "test.support.backends"
local compiler = require "tideway.compiler"

local M = {}

--- Runs the NF of a text on all back-ends (see backends.lua); an error where one differs or does not run.
---@param text string
---@param frames string[]
function M.same(text, frames)
   local outcome = backends.run({ { text = text, frames = frames } })[1]
   local failure = outcome.failure
   if failure then error(("%s %s: %s"):format(failure.where, failure.kind, failure.text), 0) end
   for _, name in ipairs(backends.all) do
      if not outcome.ran[name] then
         error(("%s did not run: %s"):format(name, tostring(outcome.refused[name] or outcome.refused.lcore)), 0)
      end
   end
end

local function why_not(instance, hook)
   local ok, compiled, err = pcall(compiler.for_hook, "nf", { instance }, hook or "xdp", { counted = false })
   if not ok then return tostring(compiled) end
   if compiled then error("it is compiled", 0) end
   return tostring(err)
end

--- The text of the diagnostic with which the NF of a text is refused.
---@param text string
---@param hook? string
---@return string
function M.refused(text, hook)
   local instance = backends.instance(text)
   local why = why_not(instance, hook)
   for _, t in ipairs(instance.tables or {}) do t:free() end
   return why
end

--- The same for a live packet function.
---@param packet function
---@param hook? string
---@return string
function M.refused_packet(packet, hook) return why_not({ name = "nf", packet = packet }, hook) end

--- Makes the kernel run a packet function.
---@param packet function
---@param hook? string
---@param options? table of tideway.bpf.load
---@return tideway.bpf.Program
function M.load(packet, hook, options)
   assert(abi.C.tw_stats() ~= nil or abi.C.tw_stats_open(nil, "spec", "spec") == 0)
   local instance = { name = "nf", packet = packet }
   local compiled, why = compiler.for_hook("spec", { instance }, hook or "xdp", { counted = false })
   if not compiled then error(tostring(why), 0) end
   local program, err = require("tideway.bpf.load").load(compiled, options)
   return program or error(tostring(err), 0)
end

return M
