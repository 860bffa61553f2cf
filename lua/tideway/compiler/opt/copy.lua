-- SPDX-License-Identifier: BSD-3-Clause
-- Copies of blocks, for the passes that keep paths apart. ssa.lua mends what uses the values afterwards.

local ir = require "tideway.compiler.ir"

local M = {}

--- A copy of a block, without its terminator.
---@param program tideway.ir.program
---@param block tideway.ir.block
---@param instead? fun(v: tideway.ir.value): tideway.ir.value?, tideway.ir.value? a value from elsewhere that stands for
--- the copy of v, or an instruction that is put in its place
---@return tideway.ir.block copy
---@return table<tideway.ir.value, tideway.ir.value> map from values of the block to those of the copy
---@return fun(list: tideway.ir.value[]): tideway.ir.value[] mapped a list as the copy has it
function M.block(program, block, instead)
   local copy, map = ir.block(program), {}
   local function mapped(list)
      local out = {}
      for i, a in ipairs(list) do out[i] = map[a] or a end
      return out
   end
   local function duplicate(v)
      local w = {}
      for k, x in pairs(v) do w[k] = x end
      program.values = program.values + 1
      w.id, w.args = program.values, mapped(v.args)
      map[v] = w
      return w
   end
   for i, p in ipairs(block.params) do
      copy.params[i] = duplicate(p)
      copy.params[i].block = copy
   end
   for _, v in ipairs(block.insts) do
      local same, made
      if instead then same, made = instead(v) end
      map[v] = same or made
      if not same then table.insert(copy.insts, made or duplicate(v)) end
   end
   return copy, map, mapped
end

--- What stands for each value of a block, by block, as ssa.repair() wants it.
---@param block tideway.ir.block
---@param copy tideway.ir.block
---@param map table<tideway.ir.value, tideway.ir.value>
---@param defs table<tideway.ir.value, table<tideway.ir.block, tideway.ir.value>> is added to
function M.define(block, copy, map, defs)
   for v, w in pairs(map) do
      defs[v] = defs[v] or { [block] = v }
      defs[v][copy] = w
   end
end

return M
