-- SPDX-License-Identifier: BSD-3-Clause
-- What the compiler made, into the kernel: maps for its tables, the program, and the verifier's refusal in the
-- words of the Lua source.

local backing = require "tideway.bpf.backing"
local program = require "tideway.bpf.program"
local verifier = require "tideway.bpf.verifier"

local M = {}

--- The lines of a program. The kernel wants one for the first instruction; what comes before the first NF counts as
--- its first line.
---@param object tideway.ebpf.object
---@return table[]
function M.lines_of(object)
   local lines = object.lines
   if lines[1] and lines[1].insn > 0 then lines = { { insn = 0, pos = lines[1].pos }, unpack(lines) } end
   return lines
end

--- Load a compiled chain.
---@param compiled tideway.compiled
---@param options? { attach_type: string?, log_level: integer?, brief: boolean?, persist: string? } brief: no log
---  when it is too large; persist: name under which its tables stay for later runs
---@return tideway.bpf.Program? program
---@return table? err a diagnostic
function M.load(compiled, options)
   options = options or {}
   local relocs = {}
   for i, reloc in ipairs(compiled.object.relocs) do
      local m, err = backing.of(reloc.table, options.persist)
      if not m then return nil, err end
      relocs[i] = { insn = reloc.insn, map = m }
   end
   local object = compiled.object
   local lines = M.lines_of(object)
   local loaded, err = program.load {
      name = compiled.name, type = compiled.hook, attach_type = options.attach_type, insns = object.insns,
      count = object.count, relocs = relocs, lines = lines, log_level = options.log_level,
      brief = options.brief,
   }
   if not loaded then
      return nil, verifier.explain(err, { lines = lines, names = object.names, hook = compiled.hook })
   end
   if compiled.flood_table then
      local m = backing.of(compiled.flood_table)
      for index, ifindex in pairs(compiled.flood_ports) do m:set(index, ifindex, 0) end
   end
   return loaded
end

return M
