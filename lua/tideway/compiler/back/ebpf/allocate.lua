-- SPDX-License-Identifier: BSD-3-Clause
-- Register allocation: colour, spill what found no register, again until all have one.

local insn = require "tideway.compiler.back.ebpf.insn"
local interference = require "tideway.compiler.back.ebpf.interference"
local colour = require "tideway.compiler.back.ebpf.colour"
local spill = require "tideway.compiler.back.ebpf.spill"

local M = {}

local ROUNDS = 32
local REPEATED = 0.4 -- what it costs to make a constant anew, against a load

--- Finds a real register for every virtual one; may add loads and stores to stack objects.
---@param program table machine program
---@return table<integer, integer> register of each virtual register
function M.allocate(program)
   local unspillable, slots = {}, {}
   program.spills = 0
   for _ = 1, ROUNDS do
      local weight = {}
      for reg, inst in pairs(spill.repeatable(program)) do if inst then weight[reg] = REPEATED end end
      local colours, spilled, alias = colour.colour(program, interference.build(program), unspillable, weight)
      colours[insn.FRAME] = insn.FRAME
      if #spilled == 0 then return colours end
      program.spills = program.spills + #spilled
      spill.spill(program, spilled, alias, unspillable, slots)
   end
   error("register allocation did not come to an end")
end

return M
