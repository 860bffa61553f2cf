-- SPDX-License-Identifier: BSD-3-Clause
-- The difference of two versions of the model as a list of actions, in the order in which they are done, each with a
-- line of text. The same list is shown by a dry run, written to the log and carried out.

local gate_diff = require "tideway.gate.diff"
local plan = require "tideway.plan"

local M = {}

---@class tideway.change.action
---@field kind string "open port", "open ring", "compile", "load", "start lcore", "swap lcore", "stop lcore", "add",
--- "swap", "remove", "close port", "close ring"
---@field text string
---@field chain? tideway.chain
---@field port? tideway.port
---@field ring? tideway.ring
---@field cpu? integer|"step"
---@field gate? boolean it is a tideway.gate.action

---@class tideway.change.chain a chain that is different
---@field chain tideway.chain
---@field old? table its state before
---@field new? table its state afterwards
---@field origin tideway.plan.origin
---@field words string what is different, in short

---@class tideway.change.diff
---@field actions tideway.change.action[]
---@field chains tideway.change.chain[]
---@field lcores tideway.plan.lcore[] those of the new version
---@field kept table<integer|string, true> lcores that nothing changes on, by CPU
---@field opened { ports: table[], rings: table[] }
---@field closed { ports: table[], rings: table[] }
---@field gate tideway.gate.action[] of listeners, upstream groups and chains of messages

local function set_of(list)
   local set = {}
   for _, value in ipairs(list) do set[value] = true end
   return set
end

-- What is in one list and not in the other.
local function without(list, other)
   local out, set = {}, set_of(other)
   for _, value in ipairs(list) do
      if not set[value] then out[#out + 1] = value end
   end
   return out
end

local function same_list(a, b)
   a, b = a or {}, b or {}
   if #a ~= #b then return false end
   for i, value in ipairs(a) do
      if value ~= b[i] then return false end
   end
   return true
end

local function names_of(list)
   local names = {}
   for i, item in ipairs(list) do names[i] = item.name end
   return #names > 0 and table.concat(names, ", ") or "none"
end

-- ---- places ----

local function hook_text(place)
   local labels = {}
   for i, target in ipairs(place.targets) do labels[i] = target.label end
   local text = table.concat(labels, ", ")
   for _, key in ipairs { "persist", "split" } do
      if place[key] then text = ("%s, %s %s"):format(text, key, tostring(place[key])) end
   end
   return text
end

local function same_value(a, b)
   if type(a) ~= "table" or type(b) ~= "table" or getmetatable(a) then return a == b end
   for key, value in pairs(a) do
      if key ~= "generic" and not same_value(value, b[key]) then return false end
   end
   for key in pairs(b) do
      if key ~= "generic" and a[key] == nil then return false end
   end
   return true
end

--- Do two states run in the same place?
---@return boolean
function M.same_place(a, b)
   if (a.place == nil) ~= (b.place == nil) then return false end
   if a.place then return same_value(a.place, b.place) end
   return same_list(a.lcores, b.lcores)
end

--- Where a state runs, in words.
---@return string
function M.place_of(state)
   if state.place then return hook_text(state.place) end
   return (#state.lcores > 1 and "lcores " or "lcore ") .. table.concat(state.lcores, ", ")
end

-- ---- stages ----

-- Which stage of the old chain each of the new one continues, from 1.
local function continued(old, new)
   local from, used = {}, {}
   local function note(i, k) from[i], used[k] = k, true end
   for i, nf in ipairs(new.stages) do
      for k, other in ipairs(old.stages) do
         if nf == other and not used[k] and not from[i] then note(i, k) end
      end
   end
   for i, nf in ipairs(new.stages) do
      for k, other in ipairs(old.stages) do
         if not from[i] and not used[k] and other.name == nf.name then note(i, k) end
      end
   end
   return from
end

local function origin_of(old, new, from)
   local origin = { from = {}, fresh = {}, carry = {} }
   for i, nf in ipairs(new.stages) do
      local other = old and from[i] and old.stages[from[i]]
      if other then
         origin.from[i - 1] = from[i] - 1
         origin.fresh[i - 1] = other ~= nf or nil
         origin.carry[i - 1] = other.export and nf.import and true or nil
      end
   end
   return origin
end

--- The origin of a chain that goes on as it is, on an lcore that gets a new plan because of others.
---@param state table
---@return tideway.plan.origin
function M.unchanged_origin(state)
   local from = {}
   for i in ipairs(state.stages) do from[i] = i end
   return origin_of(state, state, from)
end

local function stage_words(old, new, from, list)
   local used, last = {}, 0
   local moved = false
   for i in ipairs(new.stages) do
      local k = from[i]
      if k then
         used[k], moved, last = true, moved or k < last, k
         if new.stages[i] ~= old.stages[k] then list[#list + 1] = "~ " .. new.stage_names[i] end
      else
         local behind = new.stage_names[i + 1]
         list[#list + 1] = ("+ %s %s"):format(new.stage_names[i], behind and "before " .. behind or "at the end")
      end
   end
   for k, name in ipairs(old.stage_names) do
      if not used[k] then list[#list + 1] = "- " .. name end
   end
   if moved then list[#list + 1] = "in the order " .. table.concat(new.stage_names, ", ") end
end

local function words_of(old, new, from)
   local list = {}
   stage_words(old, new, from, list)
   if not same_list(old.sources, new.sources) then
      list[#list + 1] = ("from %s instead of %s"):format(names_of(new.sources), names_of(old.sources))
   end
   for _, field in ipairs { "sink", "kernel_port" } do
      local a, b = old[field], new[field]
      if a ~= b then
         list[#list + 1] = ("%s %s instead of %s"):format(field == "sink" and "to" or "kernel port",
            b and b.name or "nowhere", a and a.name or "nowhere")
      end
   end
   return table.concat(list, ", ")
end

local function path_of(state)
   return ("%s -> %s%s"):format(names_of(state.sources), #state.stages > 0
      and table.concat(state.stage_names, " -> ") .. " -> " or "", state.sink and state.sink.name
      or state.place and "the kernel" or "nowhere")
end

-- ---- chains ----

local function chain_changes(base, draft)
   local list = {}
   local function add(chain, old, new, words, from)
      list[#list + 1] = {
         chain = chain, old = old, new = new, words = words, origin = new and origin_of(old, new, from),
      }
   end
   for _, chain in ipairs(draft.chains) do
      local old, new = base.state[chain], draft.state[chain]
      if not old then
         add(chain, nil, new, path_of(new))
      elseif old ~= new then
         local from = continued(old, new)
         local words = words_of(old, new, from)
         if words ~= "" or not M.same_place(old, new) then add(chain, old, new, words, from) end
      end
   end
   for _, chain in ipairs(base.chains) do
      if not draft.state[chain] then add(chain, base.state[chain], nil, "") end
   end
   return list
end

local function chain_action(change)
   local name, old, new = change.chain.name, change.old, change.new
   local kind, text
   if not old then
      kind, text = "add", ("add chain %s on %s: %s"):format(name, M.place_of(new), change.words)
   elseif not new then
      kind, text = "remove", ("remove chain %s from %s"):format(name, M.place_of(old))
   elseif M.same_place(old, new) then
      kind, text = "swap", ("swap chain %s on %s: %s"):format(name, M.place_of(new), change.words)
   else
      kind = "swap"
      text = ("move chain %s from %s to %s%s"):format(name, M.place_of(old), M.place_of(new),
         change.words ~= "" and ": " .. change.words or "")
   end
   return { kind = kind, text = text, chain = change.chain }
end

-- ---- lcores ----

local function same_lcore(a, b, changed)
   if not same_list(a.chains, b.chains) or #a.inputs ~= #b.inputs then return false end
   for _, chain in ipairs(a.chains) do
      if changed[chain] then return false end
   end
   for i, input in ipairs(a.inputs) do
      local other = b.inputs[i]
      if input.source ~= other.source or input.queue ~= other.queue or input.chain ~= other.chain then return false end
   end
   return true
end

local function lcore_actions(out, running, changed)
   local before = {}
   for _, entry in ipairs(running) do before[entry.cpu] = entry end
   local function act(kind, cpu, chains)
      out.actions[#out.actions + 1] = {
         kind = kind .. " lcore", cpu = cpu, text = ("%s lcore %s: %s"):format(kind, cpu, names_of(chains)),
      }
   end
   for _, entry in ipairs(out.lcores) do
      local old = before[entry.cpu]
      before[entry.cpu] = nil
      if not old then
         act("start", entry.cpu, entry.chains)
      elseif same_lcore(old, entry, changed) then
         out.kept[entry.cpu] = true
      else
         act("swap", entry.cpu, entry.chains)
      end
   end
   for _, entry in ipairs(running) do
      if before[entry.cpu] then act("stop", entry.cpu, entry.chains) end
   end
end

-- ---- all of it ----

local function need_compiling(out)
   for _, change in ipairs(out.chains) do
      local new = change.new
      if new and new.place then
         out.actions[#out.actions + 1] = {
            kind = "load", chain = change.chain, text = ("load the programs of chain %s for %s"):format(
               change.chain.name, M.place_of(new)),
         }
      elseif new and #new.stages > 0 then
         out.actions[#out.actions + 1] = {
            kind = "compile", chain = change.chain, text = "compile chain " .. change.chain.name,
         }
      end
   end
end

local function endpoint_actions(out, which, verb, kind)
   for _, handle in ipairs(out[which][kind .. "s"]) do
      out.actions[#out.actions + 1] = {
         kind = ("%s %s"):format(verb, kind), [kind] = handle, text = ("%s %s"):format(verb, tostring(handle)),
      }
   end
end

--- What is different between the version that runs and a draft, which is the one that is seen and is validated.
---@param base tideway.model.version
---@param draft tideway.model.version
---@param running tideway.plan.lcore[]
---@return tideway.change.diff
function M.of(base, draft, running)
   local out = {
      actions = {}, chains = chain_changes(base, draft), kept = {},
      opened = { ports = without(draft.ports, base.ports), rings = without(draft.rings, base.rings) },
      closed = { ports = without(base.ports, draft.ports), rings = without(base.rings, draft.rings) },
   }
   local changed = {}
   for _, change in ipairs(out.chains) do changed[change.chain] = change end
   out.lcores = plan.lcores_of(plan.on_lcores())
   endpoint_actions(out, "opened", "open", "port")
   endpoint_actions(out, "opened", "open", "ring")
   need_compiling(out)
   lcore_actions(out, running, changed)
   for _, change in ipairs(out.chains) do out.actions[#out.actions + 1] = chain_action(change) end
   out.gate = gate_diff.of(base, draft)
   for _, action in ipairs(out.gate) do out.actions[#out.actions + 1] = action end
   endpoint_actions(out, "closed", "close", "port")
   endpoint_actions(out, "closed", "close", "ring")
   return out
end

--- The lines of a difference for people: what happens to ports, rings and chains.
---@param diff tideway.change.diff
---@return string[]
function M.lines(diff)
   local lines = {}
   for _, action in ipairs(diff.actions) do lines[#lines + 1] = action.text end
   return lines
end

--- The same in one line, without how it is done.
---@param diff tideway.change.diff
---@return string
function M.summary(diff)
   local lines = {}
   for _, action in ipairs(diff.actions) do
      if not action.cpu and action.kind ~= "compile" and action.kind ~= "load" then lines[#lines + 1] = action.text end
   end
   return table.concat(lines, "; ")
end

return M
