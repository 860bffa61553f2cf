-- SPDX-License-Identifier: BSD-3-Clause
-- Changes of a running engine as transactions: whatever fn declares is made at once, or not at all.

local adopt = require "tideway.change.adopt"
local apply = require "tideway.change.apply"
local diff_lib = require "tideway.change.diff"
local draft_lib = require "tideway.change.draft"
local history = require "tideway.change.history"
local loop = require "tideway.loop"
local model = require "tideway.model"
local probation = require "tideway.change.probation"
local session = require "tideway.live.session"

local M = {}

-- A session's evaluation may be interrupted for other work, which must not see the draft.
local plain_here = model.here
function model.here() return session.current() or plain_here() end

--- Who changes something: the client whose evaluation runs; nil for the engine's own doing.
---@return table? operator
---@return string name
function M.operator()
   local running = session.current()
   if not running then return nil, "the engine" end
   local client = running.client
   return client or running, client and ("user %s (uid %d)"):format(client.user, client.uid) or "a session"
end

local busy = false -- a change is being applied
local edits = setmetatable({}, { __mode = "k" }) -- operator -> draft of edit()

--- Is a change being made? Another one has to wait.
---@return boolean
function M.busy() return busy end

local function is_retried(draft)
   return function(nf) return draft.retry[nf] == true end
end

-- One change at a time: another waits until it is through.
local function wait_for_turn()
   if busy and not session.current() then error("another change is being made; try again", 0) end
   local _, stopped = session.wait(function() return not busy end, 30)
   if stopped then error("the change was given up", 0) end
   if busy then error("another change takes too long; try again later", 0) end
end

-- Applies the draft that is seen. Returns the report, or nil when nothing is different.
local function settle_and_apply(draft, who)
   adopt.settle(draft.base, draft, is_retried(draft))
   local diff = apply.difference(draft)
   if #diff.actions == 0 then
      if draft.reload then model.running.tables = draft.tables end
      if draft.undone then history.undone(draft.undone) end
      return nil
   end
   if draft.generation ~= history.generation then
      error(history.conflict((M.operator()), draft.generation) or "what runs was changed meanwhile; repeat it", 0)
   end
   probation.settle()
   if draft.base ~= model.running then error("the change before was rolled back; repeat this one", 0) end
   local applied = apply.apply(draft, diff)
   local what = diff_lib.summary(diff)
   if draft.label then what = ("%s: %s"):format(draft.label, what) end
   local base = not draft.undone and draft.base or nil
   if draft.undone then history.undone(draft.undone) end
   local entry = history.add(who, what, applied.report, base)
   history.tell((M.operator()))
   probation.begin(applied, entry)
   return applied.report
end

local function apply_draft(draft, who)
   wait_for_turn()
   busy = true
   local ok, report = model.with(draft, settle_and_apply, draft, who)
   busy = false
   if ok then return report end
   draft_lib.discard(draft)
   error(report, 0)
end

local function who_is(who) return who or select(2, M.operator()) end

--- Run fn, which may declare and change ports, rings, chains and NFs, and apply what it changed as one change. In a
--- change it is part of that one; before the engine runs it is run as it is. Raises what fn raises and why a change
--- cannot be made; then everything is as before.
---@generic T
---@param fn fun(): T
---@param who? string who asks, for the list of changes
---@return T value what fn returned
---@return string? report what was done; nil when nothing changed and nothing was asked to be
function M.transaction(fn, who)
   if not model.live or model.current().own then return fn() end
   local mine = M.operator()
   history.meet(mine)
   local draft = mine and edits[mine] or draft_lib.begin(history.generation)
   local ok, value = model.with(draft, fn)
   if draft.over then -- fn was commit() or abandon()
      if not ok then error(value, 0) end
      return value, draft.over
   end
   if mine and edits[mine] == draft then -- goes on until commit()
      if not ok then error(value, 0) end
      return value
   end
   if not ok then
      draft_lib.discard(draft)
      error(value, 0)
   end
   if mine and edits[mine] then return value end -- fn was edit()
   local changed = M.changed(draft)
   if not changed then return value end
   local conflict = history.conflict(mine, draft.generation)
   if conflict then
      draft_lib.discard(draft)
      error(conflict, 0)
   end
   return value, apply_draft(draft, who_is(who)) or (draft.label and "nothing changed" or nil)
end

--- Is something else declared in a draft than in what runs?
---@param draft tideway.change.draft
---@return boolean
function M.changed(draft)
   if draft.reload or next(draft.own) or draft.undone then return true end
   for _, kind in ipairs(model.LISTS) do
      if #draft[kind] ~= #draft.base[kind] then return true end
      for i, handle in ipairs(draft[kind]) do
         if draft.base[kind][i] ~= handle then return true end
      end
   end
   return false
end

--- The actions that fn would cause, as data. Nothing is done.
---@param fn fun(...)
---@return tideway.change.diff
function M.plan(fn, ...)
   local outer = model.current()
   local draft = outer.own and draft_lib.copy(outer) or draft_lib.begin(history.generation)
   local ok, diff = model.with(draft, function(...)
      fn(...)
      adopt.settle(draft.base, draft, is_retried(draft))
      return apply.difference(draft)
   end, ...)
   draft_lib.discard(draft)
   if not ok then error(diff, 0) end
   return diff
end

--- The draft that is written to: inside of a transaction.
---@return tideway.change.draft?
function M.draft()
   local version = model.current()
   return version.own and version or nil
end

--- A change of its own; in a change, a part of that.
---@param fn fun(draft: tideway.change.draft)
---@return string? report nil when it is part of another one
function M.make(fn)
   if not model.live then error("the engine does not run yet", 0) end
   local inside = M.draft() ~= nil or edits[M.operator() or 0] ~= nil
   local _, report = M.transaction(function() fn(M.draft()) end)
   if inside then return nil end
   return report
end

-- ---- edit ----

--- Begin a change of several lines: what is declared from now on in the session is applied by commit().
function M.edit()
   local mine = M.operator()
   if not mine then error("edit() is for sessions", 0) end
   if not edits[mine] then edits[mine] = draft_lib.begin(history.generation) end
end

-- The draft of the edit() that ends here; the rest of the evaluation can declare nothing more.
local function end_of_edit()
   local mine = M.operator()
   local draft = mine and edits[mine]
   if not draft then return nil end
   edits[mine] = nil
   return draft
end

--- Apply what was declared since edit().
---@param who? string
---@return string report
function M.commit(who)
   local draft = end_of_edit()
   if not draft then error("there is nothing to commit: begin with edit()", 0) end
   local conflict = history.conflict((M.operator()), draft.generation)
   if conflict then
      draft_lib.discard(draft)
      draft.over = conflict
      error(conflict, 0)
   end
   draft.over = M.changed(draft) and apply_draft(draft, who_is(who)) or "nothing changed"
   return draft.over
end

--- Forget what was declared since edit().
---@return boolean there was something
function M.abandon()
   local draft = end_of_edit()
   if not draft then return false end
   draft_lib.discard(draft)
   draft.over = "forgotten"
   return true
end

-- ---- the engine ----

--- The engine runs from now on.
function M.start()
   history.reset()
   probation.reset()
   model.live = true
end

--- It stops.
function M.stop()
   probation.reset()
   loop.off_duty(probation.poll)
   busy = false
end

return M
