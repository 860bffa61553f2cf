-- SPDX-License-Identifier: BSD-3-Clause
-- Stack objects that live within one block share their place with those of other blocks: less stack, and blocks that
-- only differ in the object become equal.

local ir = require "tideway.compiler.ir"
local cfg = require "tideway.compiler.opt.cfg"
local memory = require "tideway.compiler.opt.memory"

local M = {}

-- Bytes that instruction `v` makes defined; false when it needs some that are not.
local function follow(v, object, defined)
   local off = 0
   if v.op == "store" or v.op == "load" or v.op == "atomic" then
      local _, lo, hi = memory.locate(v.args[1])
      if lo ~= hi then return false end
      off = lo + (v.off or 0)
   end
   if v.op == "store" then
      if v.args[2].type == "ptr" and memory.locate(v.args[2]) == object then return false end
      for i = off, off + v.bits / 8 - 1 do defined[i] = true end
      return true
   elseif v.op == "ptradd" then
      return true
   end
   local first, last = 0, object.size - 1
   if v.op == "load" or v.op == "atomic" then first, last = off, off + v.bits / 8 - 1 end
   for i = first, last do
      if not defined[i] then return false end
   end
   return true
end

-- The objects whose content nothing outside of one block sees: block by object, and the objects in order.
local function locals(program)
   local home, defined, list, shared = {}, {}, {}, {}
   local function uses(args, block, v)
      for _, a in ipairs(args) do
         local object = a.type == "ptr" and a.op ~= "const" and memory.locate(a)
         if object and object.op == "alloca" then
            if not home[object] then home[object], defined[object] = block, {} end
            if home[object] ~= block or not v or not follow(v, object, defined[object]) then shared[object] = true end
         end
      end
   end
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.op == "alloca" then list[#list + 1] = v end
         uses(v.args, block, v)
      end
      uses(block.term.args, block)
      for _, t in ipairs(ir.targets(block.term)) do uses(t.args, block) end
   end
   for object in pairs(shared) do home[object] = nil end
   return home, list
end

--- Lets block-local stack objects share.
---@param program tideway.ir.program
---@return integer saved objects
function M.share(program)
   local home, list = locals(program)
   local taken, slots, map, count = {}, {}, {}, 0
   for _, object in ipairs(list) do
      local block = home[object]
      if block then
         local class = object.size .. ":" .. (object.align or 8)
         local key = block.id .. "/" .. class
         taken[key] = (taken[key] or 0) + 1
         local slot = class .. "/" .. taken[key]
         if slots[slot] then
            map[object], count = slots[slot], count + 1
         else
            slots[slot] = object
         end
      end
   end
   cfg.substitute(program, map)
   if count > 0 then
      local entry, kept = program.blocks[1], {}
      for _, v in ipairs(entry.insts) do
         if not map[v] then kept[#kept + 1] = v end
      end
      entry.insts = kept
   end
   return count
end

return M
