-- SPDX-License-Identifier: BSD-3-Clause
-- Back-end for the hooks of the kernel: IR to an eBPF program, ready to be loaded once the file descriptors of
-- its maps are known.

local insn = require "tideway.compiler.back.ebpf.insn"
local select = require "tideway.compiler.back.ebpf.select"
local allocate = require "tideway.compiler.back.ebpf.allocate"
local reload = require "tideway.compiler.back.ebpf.reload"
local twin = require "tideway.compiler.back.ebpf.twin"
local layout = require "tideway.compiler.back.ebpf.layout"
local frame = require "tideway.compiler.back.ebpf.frame"
local emit = require "tideway.compiler.back.ebpf.emit"
local naming = require "tideway.compiler.back.ebpf.naming"
local kernel = require "tideway.compiler.target.kernel"

local M = {}

---@class tideway.ebpf.object
---@field insns ffi.cdata* uint64_t[count]: struct bpf_insn each
---@field count integer
---@field lines table[] { insn = index from 0, pos }: where the instructions of a position begin
---@field relocs table[] { insn, table, kind }: LDDW that wants the map of an engine's table; kind nil: its file
---  descriptor in imm; "value": that, and the address of the value
---@field stack integer bytes
---@field spills integer loads and stores that keep values on the stack
---@field names fun(insn: integer): table<integer, string> Lua variables in the registers before an instruction
---@field blocks table[] { insn, id, pos }: where each block begins

-- Puts the real registers in; copies to the same register go.
local function rename(program, colours)
   for _, block in ipairs(program.blocks) do
      local kept = {}
      for _, inst in ipairs(block.insts) do
         if inst.dst then inst.dst = colours[inst.dst] end
         if inst.src then inst.src = colours[inst.src] end
         if not (inst.dst == inst.src and inst.form == insn.MOVE) then kept[#kept + 1] = inst end
      end
      block.insts = kept
   end
end

-- Fewer blocks and fewer jumps, when registers and stack are given out.
local function tidy(program)
   layout.thread(program)
   twin.split_returns(program)
   twin.merge_blocks(program)
   layout.thread(program)
   layout.simplify(program)
   twin.merge_tails(program)
   if layout.hoist(program) then layout.thread(program) end
   twin.merge_blocks(program)
   layout.thread(program)
   layout.simplify(program)
end

--- Compiles a program for a hook of the kernel. Raises a diagnostic for what cannot be there.
---@param program tideway.ir.program
---@param target string|tideway.kernel.target a hook ("xdp"), or its description
---@param options? table { naming = false }: leave out what object.names needs
---@return tideway.ebpf.object
function M.compile(program, target, options)
   if type(target) == "string" then target = kernel.hook(target) end
   local machine = select.select(program, target)
   layout.thread(machine)
   layout.simplify(machine)
   local colours = allocate.allocate(machine)
   local names = not (options and options.naming == false) and naming.note(machine, colours)
   rename(machine, colours)
   reload.simplify(machine)
   local stack = frame.layout(machine)
   tidy(machine)
   local object = emit.emit(layout.order(machine))
   object.stack, object.spills = stack, machine.spills
   object.names = naming.reader(names)
   return object
end

return M
