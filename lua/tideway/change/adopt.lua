-- SPDX-License-Identifier: BSD-3-Clause
-- NFs that a change made anew and those that run: which are the same, so that what runs goes on untouched, and which
-- tables the others take over.
--
-- An NF is the same when its fingerprint is. NFs that share something that can change, such as a plain Lua table of the
-- script, stay or go together. A changed NF takes over the tables and hold queues of the NF of its name and place that
-- are declared alike, unless the script filled them; those that an NF which stays has too it takes over in any case.

local fingerprint = require "tideway.change.fingerprint"
local hold = require "tideway.hold"
local model = require "tideway.model"
local scope = require "tideway.table.scope"

local M = {}

local prints = setmetatable({}, { __mode = "k" })

--- The fingerprint of an instance, taken when it is first asked for: before it runs.
---@param nf tideway.nf.instance
---@return tideway.change.print
function M.print_of(nf)
   prints[nf] = prints[nf] or fingerprint.of(nf)
   return prints[nf]
end

local function instances(version)
   local set = {}
   for _, chain in ipairs(model.all_chains(version)) do
      for _, nf in ipairs(version.state[chain].stages) do set[nf] = true end
   end
   return set
end

--- Note what scripts declared, before packets change it.
function M.note()
   scope.note()
   for nf in pairs(instances(model.current())) do M.print_of(nf) end
end

--- The names of tables that no NF has any more, of those that these had, are free again.
---@param list tideway.nf.instance[]
function M.release(list)
   local version, used = model.current(), {}
   local there = instances(version)
   for nf in pairs(there) do
      for _, t in ipairs(M.print_of(nf).tables) do used[t] = true end
   end
   for _, nf in ipairs(list) do
      for _, t in ipairs(there[nf] and {} or M.print_of(nf).tables) do
         if not used[t] then version.tables[t] = nil end
      end
   end
end

-- ---- who stands for whom ----

local function index_of(list, value)
   for i, v in ipairs(list) do
      if v == value then return i end
   end
end

-- new instance -> the running one that it stands for: an equal one in the same chain, else that of the same name.
local function partners(base, draft)
   local kept, list, taken = instances(draft), {}, {}
   local function pair(new, old)
      list[new], taken[old] = old, true
   end
   for _, chain in ipairs(model.all_chains(draft)) do
      local old, new = base.state[chain], draft.state[chain]
      for pass = 1, old and 2 or 0 do
         for i, nf in ipairs(new.stages) do
            if not list[nf] and not index_of(old.stages, nf) then
               local at = index_of(old.stage_names, new.stage_names[i])
               for k, candidate in ipairs(old.stages) do
                  local fits = pass == 1 and M.print_of(candidate).text == M.print_of(nf).text
                     or pass == 2 and k == at and candidate.name == nf.name
                  if fits and not kept[candidate] and not taken[candidate] and not list[nf] then
                     pair(nf, candidate)
                  end
               end
            end
         end
      end
   end
   return list
end

-- ---- who stays ----

local function union(parent, a)
   while parent[a] ~= a do a = parent[a] end
   return a
end

-- Groups of new instances that share what can change: instance -> one of its group.
local function groups(list)
   local parent, owner = {}, {}
   for nf in pairs(list) do parent[nf] = nf end
   for nf in pairs(list) do
      for object in pairs(M.print_of(nf).shared) do
         local other = owner[object]
         if other then parent[union(parent, nf)] = union(parent, other) end
         owner[object] = nf
      end
   end
   local group = {}
   for nf in pairs(list) do group[nf] = union(parent, nf) end
   return group
end

-- The new instances that are as those that run.
local function unchanged(new, partner, out_of_order)
   local group, spoilt = groups(new), {}
   for nf in pairs(new) do
      local old = partner[nf]
      if not old or out_of_order(old) or M.print_of(old).text ~= M.print_of(nf).text then spoilt[group[nf]] = true end
   end
   local same = {}
   for nf in pairs(new) do
      if not spoilt[group[nf]] then same[nf] = partner[nf] end
   end
   return same
end

-- ---- tables ----

local function become(t, other)
   if t.kind then scope.become(t, other) else hold.become(t, other) end
end

local function may_adopt(t)
   if t.keep ~= nil then return t.keep end
   return not t.kind or not scope.is_filled(t)
end

-- Tables of the new instances -> those of running ones that they stand for.
local function table_pairs(new, partner, same)
   local stands, used = {}, {}
   for nf, old in pairs(same) do
      local theirs = M.print_of(old).tables
      for i, t in ipairs(M.print_of(nf).tables) do
         stands[t], used[theirs[i]] = theirs[i], true
      end
   end
   for nf in pairs(new) do
      local old = partner[nf]
      for _, t in ipairs(old and not same[nf] and M.print_of(nf).tables or {}) do
         local shape = not stands[t] and may_adopt(t) and scope.shape(t)
         for _, candidate in ipairs(shape and M.print_of(old).tables or {}) do
            if not stands[t] and not used[candidate] and scope.shape(candidate) == shape then
               stands[t], used[candidate] = candidate, true
            end
         end
      end
   end
   return stands
end

-- ---- all of it ----

local function put_back(draft, same)
   for _, chain in ipairs(model.all_chains(draft)) do
      local stages, changed = { unpack(draft.state[chain].stages) }, false
      for i, nf in ipairs(stages) do
         if same[nf] then stages[i], changed = same[nf], true end
      end
      if changed then model.edit(chain).stages = stages end
   end
end

---@class tideway.change.adopted
---@field kept integer NFs that were made anew and are as those that run
---@field tables table[] those that were taken over

--- Settle who is who; in the draft, NFs that did not change are the running ones afterwards.
---@param base tideway.model.version
---@param draft tideway.model.version the one that is seen
---@param out_of_order? fun(nf: tideway.nf.instance): boolean is a running instance not to be kept
---@return tideway.change.adopted
function M.settle(base, draft, out_of_order)
   M.note()
   local old, new, result = instances(base), {}, { kept = 0, tables = {} }
   for nf in pairs(instances(draft)) do
      if not old[nf] then new[nf] = true end
   end
   if not next(new) then return result end
   local partner = partners(base, draft)
   local same = unchanged(new, partner, out_of_order or function() return false end)
   local stands = table_pairs(new, partner, same)
   put_back(draft, same)
   for t, other in pairs(stands) do
      become(t, other)
      result.tables[#result.tables + 1] = t
   end
   for _ in pairs(same) do result.kept = result.kept + 1 end
   return result
end

return M
