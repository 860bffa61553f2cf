-- SPDX-License-Identifier: BSD-3-Clause
-- A compiled segment of a chain for lcores: printed for LuaJIT, which runs at once, and as C for later.

local c = require "tideway.compiler.back.c"
local luajit = require "tideway.compiler.back.luajit"

local M = {}

---@class tideway.compiler.segment
---@field first integer stages of the chain, from 1
---@field last integer
---@field lua? string source, see back/luajit.lua
---@field why? string why there is none
---@field c string a C function `chain`, see back/c.lua

--- Print the program of a segment.
---@param program tideway.ir.program
---@param first integer
---@param last integer
---@param stages integer number of NFs in the chain
---@return tideway.compiler.segment
function M.segment(program, first, last, stages)
   local options = {
      stage = first > 1 and first - 1 or nil, guard = first > 1, resume = last < stages and last or nil,
      stages = stages,
   }
   local lua, why = luajit.emit(program, options)
   return { first = first, last = last, lua = lua and lua.source, why = why, c = c.emit(program, options) }
end

--- One C text of several segments, whose functions are called segment_0, segment_1, ...
---@param segments tideway.compiler.segment[]
---@return string
function M.c_text(segments)
   local parts = { c.prelude() }
   for i, segment in ipairs(segments) do
      parts[#parts + 1] = ("#define chain segment_%d\n#define chain_mbufs segment_%d_mbufs\n%s#undef chain\n"
         .. "#undef chain_mbufs\n"):format(i - 1, i - 1, segment.c)
   end
   return table.concat(parts, "\n")
end

return M
