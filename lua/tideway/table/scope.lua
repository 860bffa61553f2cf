-- SPDX-License-Identifier: BSD-3-Clause
-- Which tables there are by name, in the version of the model that one sees; what a script wrote into them; and when
-- their memory is given back.
--
-- An NF that is made anew in a reload makes its tables again under the names they have. So names belong to a version of
-- the model, and C's name of a table may have a number behind it. A table's memory is freed when nothing in this VM
-- knows the table any more: an earlier version that undo() can go back to still does.

local ffi = require "ffi"
local abi = require "tideway.abi"
local model = require "tideway.model"

local C = abi.C
local M = {}

-- address -> the number of its life: C may use an address again
local alive, lives = {}, 0

local function address(pointer) return tonumber(ffi.cast("uintptr_t", pointer)) end

-- ---- names ----

--- The name that C gets for a table that is declared with this one.
---@param name string?
---@param again? boolean the table is there, C's part of it comes later
---@return string? c_name
---@return string? err the name is taken
function M.free_name(name, again)
   if not name then return nil end
   for t in pairs(model.current().tables) do
      if not again and t.name == name then
         return nil, ("a table named \"%s\" exists, give this one another name"):format(name)
      end
   end
   local c_name, n = name, 0
   while C.tw_table_find(c_name) ~= nil do
      n = n + 1
      c_name = ("%s~%d"):format(name:sub(1, C.TW_NAME_LEN - 8), n)
   end
   return c_name
end

--- A table was made: it can be found from now on.
---@param t table
---@param name string? as it was declared; nil: it was given none
function M.add(t, name)
   t.name, t.anonymous = name or t.name, not name or nil
   model.current().tables[t] = true
end

--- It is not to be found by name any more.
function M.remove(t) model.current().tables[t] = nil end

--- Address of the engine's memory of a table; nil: it has none.
---@return integer?
function M.address(t)
   local pointer = rawget(t, "table")
   return pointer ~= nil and address(pointer) or nil
end

--- The tables of the version that one sees, by address.
---@return table<integer, table>
function M.by_address()
   local list = {}
   for t in pairs(model.current().tables) do
      local at = M.address(t)
      if at then list[at] = t end
   end
   return list
end

-- ---- memory ----

--- Gives up an earlier version of the model that undo() could go back to; false when there is none. Set by
--- tideway.change.
---@type fun(): boolean
function M.give_up() return false end

--- Make a table in C. Before it is refused for lack of memory, what nothing knows any more goes, then earlier versions.
---@param spec ffi.cdata* struct tw_table_spec
---@return ffi.cdata*? pointer
function M.make(spec)
   local pointer = C.tw_table_new(spec)
   if pointer ~= nil then return pointer end
   repeat
      -- Twice: finalizers run in the first, what only they knew goes in the second.
      collectgarbage()
      collectgarbage()
      pointer = C.tw_table_new(spec)
   until pointer ~= nil or not M.give_up()
   return pointer
end

--- Free a table's memory when its pointer is collected.
---@param pointer ffi.cdata* struct tw_table *
---@return ffi.cdata* pointer the same
function M.own(pointer)
   lives = lives + 1
   local at, life = address(pointer), lives
   alive[at] = life
   return ffi.gc(pointer, function(p)
      if alive[at] ~= life then return end
      alive[at] = nil
      C.tw_table_free(p)
   end)
end

--- Its memory is freed, by whom this is called.
---@param pointer ffi.cdata*
function M.freed(pointer)
   alive[address(pointer)] = nil
   ffi.gc(pointer, nil)
end

--- All tables are freed.
function M.forget() alive = {} end

-- ---- what a script wrote ----

local function of_entries(t) return C.tw_table_digest(t.table) end

local function of_array(t)
   local info = ffi.new "struct tw_table_info"
   C.tw_table_get_info(t.table, info)
   return C.tw_digest(C.tw_array_base(t.table), info.entries * info.value_stride)
end

local function of_counters(t)
   local sum = 0ULL
   for i = 0, t.entries - 1 do sum = sum + C.tw_counters_sum(t.table, i) * (i + 1) end
   return sum
end

local OF = { hash = of_entries, lru = of_entries, lpm = of_entries, array = of_array, counters = of_counters }

local function of_store(store)
   local sum = 0ULL
   for text, cell in pairs(store.cells) do
      sum = sum + (C.tw_digest(text, #text) + C.tw_digest(cell, store.value_size)) * 0x9e3779b97f4a7c15ULL + 1
   end
   return sum
end

local function content_of(t)
   local store = rawget(t, "store")
   if store and not store.real then return tostring(of_store(store)) end
   if rawget(t, "map") or rawget(t, "hook_only") then return require("tideway.bpf.backing").digest(t) end
   local of = OF[t.kind]
   return of and t.table ~= nil and tostring(of(t)) or "0ULL"
end

local contents = setmetatable({}, { __mode = "k" })

--- Note what was written into the tables of this version since it was noted last: what scripts wrote, before packets
--- come.
function M.note()
   for t in pairs(model.current().tables) do contents[t] = contents[t] or content_of(t) end
end

--- Did the script write into the table? Then it is configuration, else state.
---@param t table
---@return boolean
function M.is_filled(t) return (contents[t] or content_of(t)) ~= "0ULL" or t.kind == "acl" end

-- ---- one for another ----

--- From now on the object stands for another's table: its entries, its memory, its map of the kernel.
---@param t table
---@param other table of the same shape
function M.become(t, other)
   if t == other then return end
   local name, anonymous, keep = rawget(t, "name"), rawget(t, "anonymous"), rawget(t, "keep")
   for key in pairs(t) do t[key] = nil end
   for key, value in pairs(other) do rawset(t, key, value) end
   t.name, t.anonymous, t.keep = name, anonymous, keep
   setmetatable(t, getmetatable(other))
   local backing = package.loaded["tideway.bpf.backing"]
   if backing then backing.share(t, other) end
end

-- ---- declarations ----

local FIELDS = { "kind", "entries", "expire", "family", "lock", "keep", "slots", "per_key", "timeout" }

--- A table's or hold queue's declaration as a text: what has the same can stand for one another.
---@param t any
---@return string? text nil: it is none
function M.shape(t)
   local mt = getmetatable(t)
   if type(mt) ~= "table" or not rawget(mt, "__declared") then return nil end
   local list = {}
   for i, field in ipairs(FIELDS) do list[i] = tostring(rawget(t, field)) end
   list[#list + 1] = rawget(t, "anonymous") and "" or tostring(rawget(t, "name"))
   list[#list + 1] = table.concat(rawget(t, "names") or {}, ",")
   for _, which in ipairs { "key_type", "value_type" } do
      local of = rawget(t, which)
      list[#list + 1] = of and tostring(of.text) or ""
   end
   return table.concat(list, "|") .. rawget(mt, "__declared")(t)
end

--- The same, with what the script wrote.
---@param t any
---@return string?
function M.declaration(t)
   local shape = M.shape(t)
   return shape and shape .. "|" .. (contents[t] or content_of(t))
end

return M
