-- SPDX-License-Identifier: BSD-3-Clause
-- Dead code: values, parameters and stores that nothing depends on; parameters that are always the same value.

local ir = require "tideway.compiler.ir"
local cfg = require "tideway.compiler.opt.cfg"
local memory = require "tideway.compiler.opt.memory"

local M = {}

-- Stack objects whose content somebody may read. A pointer that leaves through anything but an address is taken
-- for a reader.
local function read_objects(program)
   local read = {}
   local function mark(v)
      if v.type ~= "ptr" or v.op == "const" then return end
      local root = memory.locate(v)
      if root.op == "alloca" then read[root] = true end
   end
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.op == "store" then mark(v.args[2])
         elseif v.op ~= "ptradd" then
            for _, a in ipairs(v.args) do mark(a) end
         end
      end
      for _, a in ipairs(block.term.args) do mark(a) end
      for _, t in ipairs(ir.targets(block.term)) do
         for _, a in ipairs(t.args) do mark(a) end
      end
   end
   return read
end

local function needed(v, read)
   if v.op == "store" then
      local root = memory.locate(v.args[1])
      return root.op ~= "alloca" or read[root] or false
   end
   return v.op == "call" and not v.pure or v.op == "atomic" or v.op == "ctxstore"
end

-- The values that something visible depends on.
local function mark(program)
   local live, used, work, incoming, read = {}, {}, {}, {}, read_objects(program)
   local function need(v)
      used[v] = true
      if v.op ~= "const" and not live[v] then
         live[v] = true
         work[#work + 1] = v
      end
   end
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if needed(v, read) then
            live[v] = true
            work[#work + 1] = v
         end
      end
      for _, a in ipairs(block.term.args) do need(a) end
      for _, t in ipairs(ir.targets(block.term)) do
         incoming[t.block] = incoming[t.block] or {}
         table.insert(incoming[t.block], t)
      end
      for i, p in ipairs(block.params) do p.block, p.index = block, i end
   end
   while #work > 0 do
      local v = table.remove(work)
      if v.op == "param" then
         for _, t in ipairs(incoming[v.block] or {}) do need(t.args[v.index]) end
      else
         for _, a in ipairs(v.args) do need(a) end
      end
   end
   return live, used
end

local function sweep_params(program, live)
   local count, dead = 0, {}
   for _, block in ipairs(program.blocks) do
      for _, p in ipairs(block.params) do
         if not live[p] then dead[block] = true end
      end
   end
   for _, block in ipairs(program.blocks) do
      for _, t in ipairs(ir.targets(block.term)) do
         if dead[t.block] then
            local args = {}
            for i, p in ipairs(t.block.params) do
               if live[p] then args[#args + 1] = t.args[i] end
            end
            t.args = args
         end
      end
   end
   for block in pairs(dead) do
      local params = {}
      for _, p in ipairs(block.params) do
         if live[p] then params[#params + 1] = p else count = count + 1 end
      end
      block.params = params
   end
   return count
end

--- Removes what nothing depends on.
---@param program tideway.ir.program
---@return integer removed
function M.run(program)
   local live, used = mark(program)
   local count = 0
   for _, block in ipairs(program.blocks) do
      local kept, insts = 0, block.insts
      local n = #insts
      for i = 1, n do
         local v = insts[i]
         if live[v] then
            if v.op == "atomic" and v.fetch and not used[v] then v.fetch, v.type = nil, "void" end
            kept = kept + 1
            insts[kept] = v
         end
      end
      for i = kept + 1, n do insts[i] = nil end
      count = count + n - kept
   end
   count = count + sweep_params(program, live)
   for _, block in ipairs(program.blocks) do
      for _, p in ipairs(block.params) do p.index = nil end
   end
   return count
end

--- Removes parameters that get the same value on every edge, loops included.
---@param program tideway.ir.program
---@return integer removed
function M.params(program)
   local map, offsets, count = {}, {}, 0
   local function resolve(v)
      while map[v] do v = map[v] end
      return v
   end
   local incoming = {}
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do
         if v.op == "ptradd" then offsets[v.args[2]] = true end
      end
      for _, t in ipairs(ir.targets(block.term)) do
         incoming[t.block] = incoming[t.block] or {}
         table.insert(incoming[t.block], t)
      end
   end
   local function one(block, i, p)
      local only
      for _, t in ipairs(incoming[block] or {}) do
         local a = resolve(t.args[i])
         if a ~= p then
            if only and only ~= a and not cfg.same_constant(only, a) then return nil end
            only = a
         end
      end
      if only and only.type == "num" and only.op ~= "const" and offsets[p]
         and (only.lo < 0 or only.hi > 65535) and p.lo >= 0 and p.hi <= 65535 then
         return nil
      end
      return only
   end
   repeat
      local changed = false
      for _, block in ipairs(program.blocks) do
         for i, p in ipairs(block.params) do
            local only = not map[p] and one(block, i, p)
            if only then
               map[p], changed, count = only, true, count + 1
            end
         end
      end
   until not changed
   cfg.substitute(program, map)
   return count -- the parameters themselves are dead now
end

return M
