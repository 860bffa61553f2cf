-- SPDX-License-Identifier: BSD-3-Clause
-- Known code again: the whole script, the NFs of one file, an NF with other parameters, or an earlier version. Each
-- writes into the draft of the change that it is part of.

local adopt = require "tideway.change.adopt"
local change = require "tideway.change"
local draft_lib = require "tideway.change.draft"
local history = require "tideway.change.history"
local model = require "tideway.model"
local nfs = require "tideway.nf"
local script = require "tideway.script"
local value = require "tideway.live.value"

local M = {}

local function text_of(err)
   if type(err) == "table" then return err end -- a diagnostic
   return tostring(err)
end

-- ---- the whole script ----

local function whole_script(draft)
   if not script.loaded then error("reload: no script was loaded", 0) end
   draft_lib.clear(draft)
   draft.label = "reload"
   local ok, err, restore = script.again()
   if not ok then error(text_of(err), 0) end
   draft.restore = restore
end

-- ---- finding NFs ----

---@class tideway.change.found an NF and where it stands
---@field chain tideway.chain
---@field index integer
---@field nf tideway.nf.instance

-- By the name of the NF, or by chain and name as counters show it: "ttl", "up.ttl", "up.ttl#2".
local function find(what)
   if type(what) ~= "string" then error("the name of an NF is a text, such as \"ttl\" or \"up.ttl\"", 0) end
   local list, names, known = {}, {}, {}
   for _, chain in ipairs(model.all_chains()) do
      for i, nf in ipairs(chain.stages) do
         local full = chain.name .. "." .. chain.stage_names[i]
         if what == nf.name or what == full then list[#list + 1] = { chain = chain, index = i, nf = nf } end
         if not known[full] then names[#names + 1] = full end
         known[full] = true
      end
   end
   if #list == 0 then
      error(("no chain has an NF %q; there are: %s"):format(what,
         #names > 0 and table.concat(names, ", ") or "none"), 0)
   end
   return list
end

local function origin_of(found)
   local made = nfs.made(found.nf)
   if made then return made end
   error(("NF %s of chain %s is a plain function, not made by a constructor of tw.nf(); reload() runs the script again")
      :format(found.nf.name, found.chain.name), 0)
end

-- Was it taken out by the fence? Then it is to be made anew even if it is the same.
local function is_out(found)
   if found.chain.is_service then return false end
   return require("tideway.abi").C.tw_stats().chain[found.chain.index].quarantined[found.index - 1] ~= 0
end

-- A new instance. What is wrong with its parameters is said without a position, which would be one in here.
local function made_by(constructor, config)
   local ok, nf = pcall(constructor, config)
   if ok then return nf end
   local here = debug.getinfo(1, "S").short_src
   if type(nf) == "string" and nf:sub(1, #here + 1) == here .. ":" then nf = nf:sub(#here + 2):gsub("^%d+: ", "") end
   error(nf, 0)
end

-- Puts new instances in the places of those found; make(found) is called once for each instance.
local function remake(draft, list, make)
   local new = {}
   for _, found in ipairs(list) do
      local nf = found.nf
      if not new[nf] then
         draft.retry[nf] = is_out(found)
         for _, t in ipairs(adopt.print_of(nf).tables) do draft.tables[t] = nil end
         new[nf] = make(found)
      end
      found.chain:replace(found.index, new[nf])
   end
end

-- ---- one file ----

local function file_of(constructor)
   local source = debug.getinfo(constructor.construct, "S").source
   if source:sub(1, 1) ~= "@" then
      error(("NF %s was not loaded from a file"):format(constructor.name), 0)
   end
   return source:sub(2)
end

local function module_of(path)
   for name in pairs(package.loaded) do
      if package.searchpath(name, package.path) == path then return name end
   end
end

-- Runs a file again, without keeping what it declares.
local function load_again(draft, path)
   local scratch = draft_lib.copy(draft)
   draft_lib.clear(scratch)
   local ok, restore = model.with(scratch, function()
      if script.loaded and path == script.loaded.path then
         local ok, err, restore = script.again()
         if not ok then error(text_of(err), 0) end
         return restore
      end
      local module = module_of(path)
      if not module then
         local chunk, err = loadfile(path)
         if not chunk then error(err, 0) end
         chunk()
         return nil
      end
      local restore = script.forget { module }
      local ok, err = pcall(require, module)
      if not ok then
         restore()
         error(err, 0)
      end
      return restore
   end)
   draft_lib.discard(scratch)
   return ok, restore
end

-- The constructors that a file declares now, by name.
local function constructors_of(draft, path)
   local before = nfs.declared
   nfs.declared = {}
   local ok, restore = load_again(draft, path)
   local list, by_name = nfs.declared, {}
   nfs.declared = before
   if not ok then error(restore, 0) end
   require("tideway.compiler.syntax.source").remember(path)
   for _, constructor in ipairs(list) do
      if file_of(constructor) == path then by_name[constructor.name] = constructor end
   end
   local earlier = draft.restore
   draft.restore = function()
      if restore then restore() end
      if earlier then earlier() end
   end
   return by_name
end

local function nfs_named(draft, what)
   local list, files = find(what), {}
   remake(draft, list, function(found)
      local made = origin_of(found)
      local path = file_of(made.constructor)
      files[path] = files[path] or constructors_of(draft, path)
      local constructor = files[path][made.constructor.name]
      if not constructor then
         error(("%s declares no NF %q any more"):format(path, made.constructor.name), 0)
      end
      return made_by(constructor, made.config)
   end)
   draft.label = "reload " .. what
end

--- Run the script again, or read the file of an NF again: what is different is changed, the rest goes on untouched.
---@param what? string an NF, by its name or by chain and name; default: the whole script
---@return string? report nil in a change, which it is then part of
function M.reload(what)
   return change.make(function(draft)
      if what == nil then whole_script(draft) else nfs_named(draft, what) end
   end)
end

-- ---- parameters ----

--- Give an NF other parameters; those that are not named stay as they are.
---@param what string the NF, by its name or by chain and name
---@param parameters table<string, any>
---@return string? report nil in a change, which it is then part of
function M.set(what, parameters)
   if type(parameters) ~= "table" then
      error(("set(%q, ...): parameters are a table, such as { least = 9 }"):format(tostring(what)), 2)
   end
   return change.make(function(draft)
      local names = {}
      for name in pairs(parameters) do names[#names + 1] = tostring(name) end
      table.sort(names)
      remake(draft, find(what), function(found)
         local made, config = origin_of(found), {}
         for name, old in pairs(made.config) do config[name] = old end
         for name, new in pairs(parameters) do config[name] = new end
         return made_by(made.constructor, config)
      end)
      for i, name in ipairs(names) do names[i] = ("%s = %s"):format(name, value.inline(parameters[name], 60)) end
      draft.label = ("set %s { %s }"):format(what, table.concat(names, ", "))
   end)
end

-- ---- earlier versions ----

-- What comes back has its number again, or another one when that is taken.
local function number(draft, base)
   for _, chain in ipairs(draft.chains) do
      local other = model.find(base.chains, "index", chain.index)
      if other and other ~= chain then
         rawset(chain, "index", model.free_index("chains", 31) or error("all numbers of chains are taken", 0))
      end
   end
   for _, port in ipairs(draft.ports) do
      local other = model.find(base.ports, "index", port.index)
      if other and other ~= port then
         error(("%s cannot come back: its number %d is that of %s now"):format(tostring(port), port.index,
            tostring(other)), 0)
      end
   end
end

--- Take back the last changes: what was before runs again.
---@param levels? integer how many; default 1
---@return string? report nil in a change, which it is then part of
function M.undo(levels)
   levels = levels or 1
   if type(levels) ~= "number" or levels < 1 or levels % 1 ~= 0 then
      error(("undo: how many changes? a whole number from 1, not %s"):format(tostring(levels)), 2)
   end
   return change.make(function(draft)
      local level, err = history.level(levels)
      if not level then error(err, 0) end
      local version = model.draft(level.base)
      for _, key in ipairs(model.LISTS) do draft[key] = version[key] end
      for _, key in ipairs { "state", "tables", "own" } do draft[key] = version[key] end
      number(draft, draft.base)
      draft.undone = levels
      draft.label = levels == 1 and "undo" or ("undo %d changes"):format(levels)
   end)
end

return M
