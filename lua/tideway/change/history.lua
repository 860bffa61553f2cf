-- SPDX-License-Identifier: BSD-3-Clause
-- What was changed: who, when, what; the versions that undo() goes back to; and whether who changes something knows
-- what the others did meanwhile.
--
-- The rule: an operator's change stands on the generation of the model that the operator knows: the one that ran at the
-- beginning of the session, that of the operator's own last change, or the one told of, by a refusal or by changes().
-- When another one runs the change is refused, with what was changed since and by whom; repeated, it stands on what
-- runs.

local model = require "tideway.model"
local scope = require "tideway.table.scope"

local M = {
   --- How many changes undo() can take back.
   levels = 20,
   --- How many changes are remembered in words.
   remembered = 200,
}

---@class tideway.change.entry
---@field generation integer
---@field at number seconds of the epoch
---@field who string
---@field what string
---@field report string
---@field state "applied"|"settled"|"rolled back"|"undone"
---@field why string? of a roll-back

local entries, stack = {}, {} -- all, and { entry, base } that can be undone
local known = setmetatable({}, { __mode = "k" }) -- operator -> generation

--- The generation that runs: 1 at the start, one more with every change and roll-back.
M.generation = 1

local function remember()
   model.remembered = {}
   for i, level in ipairs(stack) do model.remembered[i] = level.base end
end

-- The oldest version that undo() could go back to is not to be gone back to any more.
local function give_up()
   if #stack == 0 then return false end
   table.remove(stack, 1)
   remember()
   return true
end

--- Forget everything, at the start of an engine.
function M.reset()
   entries, stack, M.generation = {}, {}, 1
   known = setmetatable({}, { __mode = "k" })
   model.remembered = {}
   scope.give_up = give_up
end

--- Note a change that was made.
---@param who string
---@param what string
---@param report string
---@param base? tideway.model.version what undo() goes back to; nil: it is an undo
---@return tideway.change.entry
function M.add(who, what, report, base)
   M.generation = M.generation + 1
   local entry = {
      generation = M.generation, at = os.time(), who = who, what = what, report = report, state = "applied",
   }
   entries[#entries + 1] = entry
   if #entries > M.remembered then table.remove(entries, 1) end
   if base then
      stack[#stack + 1] = { entry = entry, base = base }
      if #stack > M.levels then table.remove(stack, 1) end
   end
   remember()
   return entry
end

--- A change was rolled back: what ran before runs again.
---@param entry tideway.change.entry
---@param why string
function M.rolled_back(entry, why)
   M.generation = M.generation + 1
   entry.state, entry.why = "rolled back", why
   if stack[#stack] and stack[#stack].entry == entry then stack[#stack] = nil end
   remember()
end

--- What a number of undo() goes back to.
---@param levels integer
---@return { entry: tideway.change.entry, base: tideway.model.version }? level
---@return string? err
function M.level(levels)
   if #stack == 0 then return nil, "there is nothing to undo" end
   local level = stack[#stack - levels + 1]
   if level then return level end
   return nil, ("%d %s can be undone, not %d"):format(#stack, #stack == 1 and "change" or "changes", levels)
end

--- That many changes are undone.
---@param levels integer
function M.undone(levels)
   for _ = 1, levels do
      local level = table.remove(stack)
      level.entry.state = "undone"
   end
   remember()
end

--- All changes, the first one first.
---@return tideway.change.entry[]
function M.entries() return entries end

-- ---- who knows what ----

--- An operator was told of everything.
---@param operator any
function M.tell(operator)
   if operator then known[operator] = M.generation end
end

--- An operator is there: what runs now is known, if nothing was before.
---@param operator any
function M.meet(operator)
   if operator then known[operator] = known[operator] or M.generation end
end

local function ago(entry)
   local s = os.time() - entry.at
   return s < 60 and ("%d s ago"):format(s) or ("at %s"):format(os.date("%H:%M:%S", entry.at))
end

--- May this operator change what runs? The operator is told if not.
---@param operator any
---@param base integer generation that the change was begun on
---@return string? err
function M.conflict(operator, base)
   local generation = math.min(operator and known[operator] or base, base)
   if generation == M.generation then return nil end
   local lines = {}
   for _, entry in ipairs(entries) do
      if entry.generation > generation then
         lines[#lines + 1] = ("%s, %s: %s%s"):format(entry.who, ago(entry), entry.what,
            entry.state == "rolled back" and " (rolled back)" or "")
      end
   end
   M.tell(operator)
   return ("not done: since you looked (generation %d) there came\n   %s\nrepeat it if it is still what you want")
      :format(generation, #lines > 0 and table.concat(lines, "\n   ") or "a roll-back")
end

return M
