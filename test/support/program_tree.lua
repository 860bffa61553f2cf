-- SPDX-License-Identifier: BSD-3-Clause
-- Random programs as trees: to text, and made smaller while they still fail.
--
-- An expression is { fmt = "%s + %s", t = type, a, b }. A statement is a list of lines and blocks in turn: a line is
-- { fmt = "if %s then", condition }, a block a list of statements: { line, block, line, block, line }.

local M = {}

-- ---- to text ----

--- Text of an expression.
---@param e table
---@return string
function M.expression(e)
   if #e == 0 then return e.fmt end
   local kids = {}
   for i, kid in ipairs(e) do kids[i] = M.expression(kid) end
   return (e.fmt:format(unpack(kids)))
end

local function is_line(part) return part.fmt ~= nil end

local function block_text(block, indent, out)
   for _, statement in ipairs(block) do
      for _, part in ipairs(statement) do
         if is_line(part) then
            out[#out + 1] = indent .. M.expression(part)
         else
            block_text(part, indent .. "   ", out)
         end
      end
   end
end

--- Text of a program, a chunk for test.support.backends.
---@param program table { head = block, body = block, tail = string }
---@return string
function M.text(program)
   local out = {}
   block_text(program.head, "", out)
   out[#out + 1] = "local function packet(pkt)"
   block_text(program.body, "   ", out)
   out[#out + 1] = "end"
   out[#out + 1] = program.tail
   return table.concat(out, "\n")
end

-- ---- smaller ----

-- All blocks of a program.
local function blocks(program)
   local list = {}
   local function walk(block)
      list[#list + 1] = block
      for _, statement in ipairs(block) do
         for _, part in ipairs(statement) do
            if not is_line(part) then walk(part) end
         end
      end
   end
   walk(program.body)
   walk(program.head)
   return list
end

-- Removes runs of `size` statements of a block as long as the program still fails.
local function without(block, size, fails)
   local i = 1
   while i <= #block do
      local kept = {}
      for k = i, math.min(#block, i + size - 1) do kept[#kept + 1] = block[k] end
      for _ = 1, #kept do table.remove(block, i) end
      if not fails() then
         for k, statement in ipairs(kept) do table.insert(block, i + k - 1, statement) end
         i = i + size
      end
   end
end

-- Puts the statements of a block in the place of the statement they stand in.
local function unwrapped(block, fails)
   local i = 1
   while i <= #block do
      local statement = block[i]
      local done = false
      for _, part in ipairs(statement) do
         if not is_line(part) and not done then
            table.remove(block, i)
            for k, inner in ipairs(part) do table.insert(block, i + k - 1, inner) end
            done = fails()
            if not done then
               for _ = 1, #part do table.remove(block, i) end
               table.insert(block, i, statement)
            end
         end
      end
      if not done then i = i + 1 end
   end
end

local PLAIN = { num = { "0", "1" }, u64 = { "0ULL", "1ULL" }, i64 = { "0LL", "1LL" }, cond = { "true", "false" } }

-- Replaces the kids of a node by what is simpler.
local function simpler(node, fails)
   for i, kid in ipairs(node) do
      local function try(other)
         node[i] = other
         if fails() then return true end
         node[i] = kid
      end
      local done = false
      if #kid > 0 or kid.fmt:find "[%a_]" then
         for _, text in ipairs(PLAIN[kid.t] or {}) do
            done = done or (kid.fmt ~= text and try { fmt = text, t = kid.t })
         end
         for _, grandchild in ipairs(kid) do
            done = done or (grandchild.t == kid.t and try(grandchild))
         end
      end
      if done and #node[i] > 0 then simpler(node, fails) elseif not done then simpler(kid, fails) end
   end
end

--- Make a program smaller while it still fails. It is changed.
---@param program table
---@param fails fun(): boolean
---@param tries integer? calls of `fails` at most
function M.minimise(program, fails, tries)
   local left = tries or 600
   local function test()
      left = left - 1
      return left > 0 and fails()
   end
   local before
   repeat
      before = #M.text(program)
      for _, size in ipairs { 16, 4, 1 } do
         for _, block in ipairs(blocks(program)) do without(block, size, test) end
      end
      for _, block in ipairs(blocks(program)) do unwrapped(block, test) end
      for _, block in ipairs(blocks(program)) do
         for _, statement in ipairs(block) do
            for _, part in ipairs(statement) do
               if is_line(part) then simpler(part, test) end
            end
         end
      end
   until #M.text(program) == before or left <= 0
end

return M
