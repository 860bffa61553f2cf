-- SPDX-License-Identifier: BSD-3-Clause
-- Which Lua variable each register holds before an instruction, for messages of the verifier that speak of
-- registers. Worked out only when somebody asks.

local live = require "tideway.compiler.back.ebpf.live"

local M = {}

---@class tideway.ebpf.notes
---@field blocks table[] copies of the blocks, with virtual registers
---@field colours table<integer, integer>
---@field names table<integer, string>

--- Keeps what the program is like before the real registers are put in.
---@param program table machine program
---@param colours table<integer, integer>
---@return tideway.ebpf.notes
function M.note(program, colours)
   local blocks, copy = {}, {}
   for i, block in ipairs(program.blocks) do
      copy[block] = { insts = {}, depth = block.depth }
      blocks[i] = copy[block]
   end
   for i, block in ipairs(program.blocks) do
      for k, inst in ipairs(block.insts) do
         blocks[i].insts[k] = { form = inst.form, dst = inst.dst, src = inst.src, nargs = inst.nargs,
            yes = copy[inst.yes], no = copy[inst.no], emitted = inst }
      end
   end
   return { blocks = blocks, colours = colours, names = program.names }
end

local function named(notes, alive)
   local found = {}
   for reg in pairs(alive) do
      local name, colour = notes.names[reg], notes.colours[reg]
      if name and colour and (not found[colour] or name < found[colour]) then found[colour] = name end
   end
   return found
end

-- For each instruction that was emitted, by its place: names of what is live before it.
local function tabulate(notes)
   local _, live_out = live.analyse(notes.blocks)
   local at, list = {}, {}
   for _, block in ipairs(notes.blocks) do
      local alive = {}
      for _, reg in ipairs(live_out[block]) do alive[reg] = true end
      for i = #block.insts, 1, -1 do
         local inst = block.insts[i]
         for k = 1, live.writes(inst, list) do alive[list[k]] = nil end
         for k = 1, live.reads(inst, list) do alive[list[k]] = true end
         if inst.emitted.at then at[inst.emitted.at] = at[inst.emitted.at] or named(notes, alive) end
      end
   end
   return at
end

--- A function from the index of an instruction to { [register] = name }.
---@param notes tideway.ebpf.notes|false
---@return fun(insn: integer): table<integer, string>
function M.reader(notes)
   local at
   return function(index)
      if not notes then return {} end
      at = at or tabulate(notes)
      while index > 0 and not at[index] do index = index - 1 end
      return at[index] or {}
   end
end

return M
