-- SPDX-License-Identifier: BSD-3-Clause
-- What is declared: ports, rings, chains of packets; listeners, upstream groups, chains of messages ("services"). The
-- engine turns it into a plan and into what its gate has.
--
-- All of these are handles that stay the same while what they stand for changes. A version is the lists of handles and,
-- for each but ports and rings, what it is made of (its state). Until the engine runs, scripts write into the version
-- that runs; afterwards a change works on a draft, which only whoever makes the change sees, and which becomes the
-- running version when it is applied (tideway.change).

---@class tideway.model
---@field running tideway.model.version
---@field ports table[] of the current version, in order of declaration
---@field rings table[]
---@field chains table[] of packets
---@field listeners table[]
---@field groups table[] of upstream servers
---@field services table[] chains of messages
---@field dry boolean nothing is opened (`tideway check`)
---@field staged boolean tables that need DPDK wait until somebody needs them (tideway.table.staged)
---@field live boolean the engine runs: only drafts can be written to
---@field remembered tideway.model.version[] those that can come back, whose indexes are better not used
local M = {}

---@class tideway.model.version
---@field ports table[]
---@field rings table[]
---@field chains table[]
---@field listeners table[]
---@field groups table[]
---@field services table[]
---@field state table<table, table> what each chain, listener and group is made of
---@field own? table<table, boolean> of a draft: states that are its own and may be written to
---@field tables table<table, true> the tables that can be found by name

--- The lists of a version.
M.LISTS = { "ports", "rings", "chains", "listeners", "groups", "services" }

local is_list = {}
for _, name in ipairs(M.LISTS) do is_list[name] = true end

-- Versions that some see instead of the one that runs.
local seen = setmetatable({}, { __mode = "k" })

--- Who asks: what a draft is seen by. tideway.change knows more of this than coroutines.
---@return any
function M.here() return coroutine.running() or "main" end

local function copy(list)
   local out = {}
   for k, v in pairs(list) do out[k] = v end
   return out
end

--- An empty version.
---@return tideway.model.version
function M.version()
   local version = { state = {}, tables = setmetatable({}, { __mode = "k" }) }
   for _, name in ipairs(M.LISTS) do version[name] = {} end
   return version
end

--- A draft: a copy of a version whose states are copied when they are first written to.
---@param of tideway.model.version
---@return tideway.model.version
function M.draft(of)
   local draft = { state = copy(of.state), own = {}, tables = setmetatable(copy(of.tables), { __mode = "k" }) }
   for _, name in ipairs(M.LISTS) do draft[name] = copy(of[name]) end
   return draft
end

--- Forget everything declared.
function M.reset()
   M.running, M.live, M.remembered = M.version(), false, {}
   seen = setmetatable({}, { __mode = "k" })
end

--- The version that one sees here.
---@return tideway.model.version
function M.current() return seen[M.here()] or M.running end

--- Call fn with another version to see.
---@param version tideway.model.version
---@return boolean ok
---@return any ... results, or the error
function M.with(version, fn, ...)
   local who = M.here()
   local before = seen[who]
   seen[who] = version
   local function done(...)
      seen[who] = before
      return ...
   end
   return done(xpcall(fn, function(err) return err end, ...))
end

--- What a chain, listener or group is made of, in the version that one sees here.
---@param handle table
---@return table? state nil: it is not there
function M.state(handle) return M.current().state[handle] end

--- The same to be written to. Raises when the engine runs and this is no change.
---@param handle table
---@return table state
function M.edit(handle)
   local version = M.current()
   local state = version.state[handle]
   if not state then error(tostring(handle) .. " is not there any more", 0) end
   if version.own and not version.over then
      if not version.own[handle] then
         state = copy(state)
         version.state[handle], version.own[handle] = state, true
      end
   elseif M.live then
      M.refuse(tostring(handle))
   end
   return state
end

--- Raise that something cannot be changed just so.
---@param what string
function M.refuse(what)
   if M.current().over then
      error(what .. ": behind commit() or abandon() nothing more is declared in the same evaluation; do it in the next",
         0)
   end
   error(("%s: the engine runs; change it in one go, from `tideway repl` or by "
      .. "require(\"tideway.change\").transaction(fn)"):format(what), 0)
end

--- May things be declared now? Raises when the engine runs and this is no change.
---@param what string that is declared
function M.writable(what)
   local version = M.current()
   if M.live and (not version.own or version.over) then M.refuse(what) end
end

--- The first handle of a list with this value in a field.
---@param list table[]
---@param field string
---@return table?
function M.find(list, field, value)
   for _, item in ipairs(list) do
      if item[field] == value then return item end
   end
end

--- An index that no handle of the kind has; if it can be, none either that something remembered has.
---@param kind "ports"|"chains"|"listeners"|"groups"|"services"
---@param limit integer
---@return integer? index nil: all are taken
function M.free_index(kind, limit)
   local used, kept = {}, {}
   for _, handle in ipairs(M.current()[kind]) do used[handle.index] = true end
   for _, handle in ipairs(M.running[kind]) do used[handle.index] = true end
   for _, version in ipairs(M.remembered) do
      for _, handle in ipairs(version[kind]) do kept[handle.index] = true end
   end
   for _, avoid in ipairs { kept, {} } do
      for i = 0, limit - 1 do
         if not used[i] and not avoid[i] then return i end
      end
   end
end

-- ---- kinds of handles that have a state ----

--- A class of handles: name and index are a handle's own, the rest is its state in the version that one sees.
---@return table class
function M.class()
   local Class = {}
   function Class:__index(key)
      if Class[key] then return Class[key] end
      local state = M.state(self)
      if not state then error(tostring(self) .. " is not there any more", 2) end
      return state[key]
   end
   return Class
end

--- The handle of a name: that of what runs and is declared anew, or a new one.
---@param class table
---@param kind "chains"|"groups"|"services"
---@param name string
---@param limit integer
---@return table? handle nil: there are so many already
function M.handle(class, kind, name, limit)
   local running = M.find(M.running[kind], "name", name)
   if running then return running end
   local index = M.free_index(kind, limit)
   return index and setmetatable({ name = name, index = index }, class)
end

--- Put a handle into the version that one sees here.
---@param kind "chains"|"listeners"|"groups"|"services"
---@param handle table
---@param state table
function M.declare(kind, handle, state)
   local version = M.current()
   version.state[handle] = state
   if version.own then version.own[handle] = true end
   table.insert(version[kind], handle)
end

--- Take a handle out of it.
---@param kind "chains"|"listeners"|"groups"|"services"
---@param handle table
---@return table state what it was
function M.remove(kind, handle)
   local state, version = M.edit(handle), M.current()
   for i, other in ipairs(version[kind]) do
      if other == handle then table.remove(version[kind], i) end
   end
   version.state[handle] = nil
   return state
end

--- All chains, of packets and of messages.
---@param version? tideway.model.version default: that one sees here
---@return table[]
function M.all_chains(version)
   version = version or M.current()
   local list = copy(version.chains)
   for _, service in ipairs(version.services) do list[#list + 1] = service end
   return list
end

--- file:line of the script that called us, for messages about things found wrong later.
---@param level integer as for error()
---@return string
function M.where(level)
   local info = debug.getinfo(level + 1, "Sl")
   if not info then return "?" end
   return ("%s:%d"):format(info.short_src, info.currentline)
end

M.dry, M.staged = false, false
M.reset()

return setmetatable(M, {
   __index = function(_, key) return is_list[key] and M.current()[key] or nil end,
})
