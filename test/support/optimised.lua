-- SPDX-License-Identifier: BSD-3-Clause
-- IR text through the optimiser, for specs that compare what comes out line by line.

local opt = require "tideway.compiler.opt"
local proof = require "tideway.compiler.ir.proof"
local text = require "tideway.compiler.ir.text"
local verify = require "tideway.compiler.ir.verify"

local M = {}

-- Values and blocks numbered as they come, so that what is expected can be read.
local function numbered(program)
   local out, maps, counts = text.print(program), { v = {}, b = {} }, { v = 0, b = 0 }
   return (out:gsub("%f[%w]([vb])(%d+)", function(kind, id)
      local map = maps[kind]
      if not map[id] then
         counts[kind] = counts[kind] + 1
         map[id] = kind .. counts[kind]
      end
      return map[id]
   end))
end

--- Without indentation.
function M.trimmed(source) return (source:gsub("\n%s+", "\n"):gsub("^%s+", ""):gsub("%s+$", "")) end

-- The blocks of `source` after the optimiser with all passes, or with those named alone.
---@param source string
---@param passes? string names of passes
---@param target? string
---@return string
function M.optimised(source, passes, target)
   local program, why = text.parse(('program "t" target %s\n'):format(target or "xdp") .. source)
   assert(program, why)
   assert(verify(program))
   local options
   if passes then
      options = {}
      for name in pairs(opt.PASSES) do options[name] = false end
      for name in passes:gmatch "%S+" do options[name] = true end
   end
   opt.optimise(program, options)
   assert(verify(program))
   assert(proof(program))
   return M.trimmed(numbered(program):gsub("^[^\n]*\n", ""))
end

return M
