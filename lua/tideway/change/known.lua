-- SPDX-License-Identifier: BSD-3-Clause
-- What the chains of versions that are remembered were compiled to: one that is again what it was is not compiled
-- again.

local adopt = require "tideway.change.adopt"
local options = require "tideway.options"
local scope = require "tideway.table.scope"

local M = {}

-- Segments belong to the versions of the model, which forget them.
local known = setmetatable({}, { __mode = "v" })

--- What decides how a chain is compiled: its NFs with all that their functions know, and where their tables are.
---@param chain tideway.chain
---@return string? key nil: not all tables are made yet
function M.key(chain)
   local parts = { options.compile, chain.name }
   for _, nf in ipairs(chain.stages) do
      local print = adopt.print_of(nf)
      parts[#parts + 1] = print.code
      for _, t in ipairs(print.tables) do
         local at = t.kind and scope.address(t) or not t.kind and t.id
         if not at then return nil end
         parts[#parts + 1] = tostring(at)
      end
   end
   return table.concat(parts, "\1")
end

--- The segments of a chain that was compiled before.
---@param key string?
---@return table? segments
function M.find(key) return key and known[key] end

--- Remember what a chain was compiled to.
---@param key string?
---@param chain tideway.chain
function M.add(key, chain)
   if not key or not chain.segments then return end
   chain.segments.of = chain.stages -- what machine code has by its address stays
   known[key] = chain.segments
end

return M
