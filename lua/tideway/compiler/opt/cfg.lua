-- SPDX-License-Identifier: BSD-3-Clause
-- The shape of the program: unreachable blocks go, straight lines become one block, edges skip empty blocks.

local ir = require "tideway.compiler.ir"

local M = {}

--- Replaces values everywhere: `map` may lead from one to the next.
---@param program tideway.ir.program
---@param map table<tideway.ir.value, tideway.ir.value>
function M.substitute(program, map)
   if next(map) == nil then return end
   local function change(list)
      for i = 1, #list do
         local to = map[list[i]]
         if to then
            while map[to] do to = map[to] end
            list[i] = to
         end
      end
   end
   local blocks = program.blocks
   for b = 1, #blocks do
      local insts, term = blocks[b].insts, blocks[b].term
      for i = 1, #insts do change(insts[i].args) end
      change(term.args)
      local targets = term.targets
      for t = 1, targets and #targets or 0 do change(targets[t].args) end
   end
end

--- Drops the blocks that cannot be reached. Keeps the order of the others.
function M.prune(program)
   local blocks = program.blocks
   local entry = blocks[1]
   local seen, work, top, count = { [entry] = true }, { entry }, 1, 1
   while top > 0 do
      local targets = work[top].term.targets
      top = top - 1
      for i = 1, targets and #targets or 0 do
         local to = targets[i].block
         if not seen[to] then
            seen[to] = true
            top, count = top + 1, count + 1
            work[top] = to
         end
      end
   end
   local dropped = #blocks - count
   if dropped == 0 then return 0 end
   local kept = {}
   for i = 1, #blocks do
      if seen[blocks[i]] then kept[#kept + 1] = blocks[i] end
   end
   program.blocks = kept
   return dropped
end

--- Whether two values are constants, and the same.
function M.same_constant(x, y)
   return x.op == "const" and y.op == "const" and x.type == y.type and x.value == y.value and x.object == y.object
end

--- Whether two lists of arguments are the same.
function M.same_args(a, b)
   for i = 1, #a do
      if a[i] ~= b[i] and not M.same_constant(a[i], b[i]) then return false end
   end
   return true
end

local function jump(block, target)
   block.term = { op = "jmp", args = {}, targets = { target }, pos = block.term.pos }
end

-- Branches that go to one place either way, or on constants.
local function branches(program, constant)
   local changed = 0
   for _, block in ipairs(program.blocks) do
      local term = block.term
      local t = ir.targets(term)
      if #t == 2 then
         if t[1].block == t[2].block and M.same_args(t[1].args, t[2].args) then
            jump(block, t[1])
            changed = changed + 1
         elseif term.op == "br" then
            local yes = constant(term)
            if yes ~= nil then
               jump(block, t[yes and 1 or 2])
               changed = changed + 1
            end
         end
      end
   end
   return changed
end

local function incoming(program)
   local edges = {}
   for _, block in ipairs(program.blocks) do edges[block] = {} end
   for _, block in ipairs(program.blocks) do
      for _, t in ipairs(ir.targets(block.term)) do
         local list = edges[t.block]
         list[#list + 1] = t
      end
   end
   return edges
end

-- A block with one way out into a block with one way in: one block.
local function merge(program)
   local edges, map, gone, count = incoming(program), {}, {}, 0
   for _, block in ipairs(program.blocks) do
      while not gone[block] and block.term.op == "jmp" do
         local t = block.term.targets[1]
         local to = t.block
         if to == block or #edges[to] ~= 1 or to == program.blocks[1] then break end
         for i, p in ipairs(to.params) do map[p] = t.args[i] end
         for _, v in ipairs(to.insts) do block.insts[#block.insts + 1] = v end
         block.term = to.term
         gone[to] = true
         count = count + 1
      end
   end
   if count == 0 then return 0 end
   local kept = {}
   for _, block in ipairs(program.blocks) do
      if not gone[block] then kept[#kept + 1] = block end
   end
   program.blocks = kept
   M.substitute(program, map)
   return count
end

-- Parameters that are used by anything but the terminator's targets of their own block.
local function used_elsewhere(program, of)
   local elsewhere = {}
   local function look(list, own)
      for i = 1, #list do
         local p = list[i]
         if of[p] and of[p] ~= own then elsewhere[of[p]] = true end
      end
   end
   for _, block in ipairs(program.blocks) do
      for _, v in ipairs(block.insts) do look(v.args) end
      look(block.term.args)
      for _, t in ipairs(ir.targets(block.term)) do look(t.args, block) end
   end
   return elsewhere
end

-- Edges into a block that does nothing but jump go where it jumps.
local function forward(program)
   local empty, of = {}, {}
   for i, block in ipairs(program.blocks) do
      if i > 1 and #block.insts == 0 and block.term.op == "jmp" and not block.loop
         and block.term.targets[1].block ~= block then
         empty[block] = true
         for _, p in ipairs(block.params) do of[p] = block end
      end
   end
   if next(empty) == nil then return 0 end
   for block in pairs(used_elsewhere(program, of)) do empty[block] = nil end
   local count = 0
   for _, block in ipairs(program.blocks) do
      for _, t in ipairs(ir.targets(block.term)) do
         local steps = 0
         while empty[t.block] and steps < 100 do
            local via, args = t.block, {}
            local goal = via.term.targets[1]
            for i, a in ipairs(goal.args) do
               args[i] = a
               for k, p in ipairs(via.params) do
                  if p == a then args[i] = t.args[k] end
               end
            end
            t.block, t.args = goal.block, args
            count, steps = count + 1, steps + 1
         end
      end
   end
   return count
end

--- Simplifies the graph until nothing changes.
---@param program tideway.ir.program
---@param constant fun(term): boolean? whether a branch on constants is taken
---@return integer changes
function M.simplify(program, constant)
   local total = 0
   for _ = 1, 10 do
      local n = branches(program, constant)
      n = n + M.prune(program)
      local skipped = forward(program)
      if skipped > 0 then M.prune(program) end
      n = n + skipped
      total = total + n + merge(program)
      if n == 0 then break end
   end
   return total
end

return M
