-- SPDX-License-Identifier: BSD-3-Clause
-- What is different between two versions of listeners, groups and chains of messages, as actions with a line of text
-- each: shown by dry runs, written to the log, carried out by gate/engine.lua.

local pins = require "tideway.gate.pin"
local report = require "tideway.gate.report"

local M = {}

---@class tideway.gate.action
---@field kind string "add group", "change group", "remove group", the same of service and listener; "replace service"
---@field text string
---@field handle table
---@field old? table its state before
---@field new? table its state afterwards
---@field functions? integer[] "change service": functions that have another NF, from 1

local function same(a, b)
   if type(a) ~= "table" or type(b) ~= "table" or getmetatable(a) or getmetatable(b) then return a == b end
   for key, value in pairs(a) do
      if key ~= "where" and not same(value, b[key]) then return false end
   end
   for key in pairs(b) do
      if key ~= "where" and a[key] == nil then return false end
   end
   return true
end

-- What instances of functions cannot go on with: the functions there are, what they take, how they are reached.
local FIXED = { "readonly", "body", "response_body" }
local TAKEN = { "message", "response", "data" }

local function same_structure(a, b)
   if #a.stages ~= #b.stages or not same(a.stage_names, b.stage_names) or not same(a.aside, b.aside) then
      return false
   end
   for i, nf in ipairs(a.stages) do
      local other = b.stages[i]
      for _, key in ipairs(FIXED) do
         if nf[key] ~= other[key] then return false end
      end
      for _, key in ipairs(TAKEN) do
         if (nf[key] == nil) ~= (other[key] == nil) then return false end
      end
   end
   local p, q = a.pinned, b.pinned
   return p.worker == q.worker and p.pool_mb == q.pool_mb and p.whole_bytes == q.whole_bytes
end

-- ---- services ----

local function name_of(handle) return handle and rawget(handle, "name") or "nowhere" end

local PIN = { "cpu", "memory_mb", "cpu_percent", "stuck" }

local function words_of(old, new, functions)
   local words = {}
   for _, i in ipairs(functions) do words[#words + 1] = "~ " .. new.stage_names[i] end
   if new.pinned.worker ~= "inline" then
      for _, name in ipairs(new.stage_names) do
         local a, b = pins.instances(old.pinned, name), pins.instances(new.pinned, name)
         if a ~= b then words[#words + 1] = ("%s: %d instances instead of %d"):format(name, b, a) end
      end
   end
   for _, key in ipairs(PIN) do
      if not same(old.pinned[key], new.pinned[key]) then words[#words + 1] = key end
   end
   if old.sink ~= new.sink then
      words[#words + 1] = ("to %s instead of %s"):format(name_of(new.sink), name_of(old.sink))
   end
   if not same(old.sources, new.sources) then
      local names = {}
      for i, listener in ipairs(new.sources) do names[i] = name_of(listener) end
      words[#words + 1] = "from " .. table.concat(names, ", ")
   end
   return words
end

local function changed_functions(old, new)
   local list = {}
   local pinned = false
   for _, key in ipairs(PIN) do pinned = pinned or not same(old.pinned[key], new.pinned[key]) end
   for i, nf in ipairs(new.stages) do
      if nf ~= old.stages[i] then list[#list + 1] = i end
   end
   return list, pinned
end

local function service_action(service, old, new)
   local name = service.name
   if not old then
      return { kind = "add service", text = ("add chain %s, %s: %s"):format(name, report.place_of(service),
         report.path_of(new)) }
   elseif not same_structure(old, new) then
      return { kind = "replace service", text = ("start chain %s anew, %s: %s"):format(name, report.place_of(service),
         report.path_of(new)) }
   end
   local functions, moved = changed_functions(old, new)
   local words = words_of(old, new, functions)
   if #words == 0 then return nil end
   return {
      kind = "change service", functions = functions, all = moved,
      text = ("change chain %s: %s"):format(name, table.concat(words, ", ")),
   }
end

-- ---- listeners and groups ----

local function listener_action(listener, old, new, base, draft)
   local text = ("%s://%s"):format(new.protocol, new.address.text)
   if not old then
      return { kind = "add listener", text = ("listen at %s (%s)"):format(text, listener.name) }
   end
   local before, after = M.owner(base, listener), M.owner(draft, listener)
   if same(old, new) and before == after then return nil end
   return { kind = "change listener", text = ("change listener %s (%s)"):format(listener.name, text) }
end

local function servers_text(old, new)
   local before, words = {}, {}
   for _, server in ipairs(old.servers) do before[server.name] = server end
   for _, server in ipairs(new.servers) do
      local was = before[server.name]
      before[server.name] = nil
      if not was then
         words[#words + 1] = "+ " .. server.name
      elseif was.weight ~= server.weight then
         words[#words + 1] = ("%s has weight %d instead of %d"):format(server.name, server.weight, was.weight)
      elseif not same(was, server) then
         words[#words + 1] = "~ " .. server.name
      end
   end
   for _, server in ipairs(old.servers) do
      if before[server.name] then words[#words + 1] = "- " .. server.name end
   end
   for key, value in pairs(new.options) do
      if value ~= old.options[key] then words[#words + 1] = ("%s = %s"):format(key, tostring(value)) end
   end
   if not same(old.check, new.check) then words[#words + 1] = "check" end
   return table.concat(words, ", ")
end

local function group_action(group, old, new)
   if not old then
      return { kind = "add group", text = ("add upstream %s with %d server(s)"):format(group.name, #new.servers) }
   end
   if same(old, new) then return nil end
   return { kind = "change group", text = ("change upstream %s: %s"):format(group.name, servers_text(old, new)) }
end

--- The chain that a listener feeds.
---@param version tideway.model.version
---@param listener tideway.listener
---@return tideway.service?
function M.owner(version, listener)
   for _, service in ipairs(version.services) do
      for _, source in ipairs(version.state[service].sources) do
         if source == listener then return service end
      end
   end
end

-- ---- all of it ----

local function of_kind(out, base, draft, list, act, what)
   for _, handle in ipairs(draft[list]) do
      local old, new = base.state[handle], draft.state[handle]
      local action = act(handle, old, new, base, draft)
      if action then
         action.handle, action.old, action.new, action.gate = handle, old, new, true
         out[#out + 1] = action
      end
   end
   for _, handle in ipairs(base[list]) do
      if not draft.state[handle] then
         out[#out + 1] = {
            kind = "remove " .. what, handle = handle, old = base.state[handle], gate = true,
            text = ("remove %s %s"):format(what == "service" and "chain" or what == "group" and "upstream" or what,
               handle.name),
         }
      end
   end
end

--- The difference of two versions: groups first, then chains, then listeners. `draft` is the one that is seen.
---@param base tideway.model.version
---@param draft tideway.model.version
---@return tideway.gate.action[]
function M.of(base, draft)
   local out = {}
   of_kind(out, base, draft, "groups", group_action, "group")
   of_kind(out, base, draft, "services", service_action, "service")
   of_kind(out, base, draft, "listeners", listener_action, "listener")
   return out
end

return M
