-- SPDX-License-Identifier: BSD-3-Clause
-- Loads users' scripts and files of network functions.

local diagnostic = require "tideway.compiler.diagnostic"
local model = require "tideway.model"
local nfs = require "tideway.nf"
local source = require "tideway.compiler.syntax.source"

local M = {}

--- The script that was loaded.
---@type { path: string, args: string[], before: table<string, true> }?
M.loaded = nil

local asked -- names of modules that the script required when it ran last; nil before

-- A loader that finds nothing, and sees what is asked for.
local function note(name) asked[name] = true end

local function run(path, args)
   if not asked then table.insert(package.loaders, 1, note) end
   asked = {}
   local chunk, err = loadfile(path)
   if not chunk then return nil, err end
   local arg = { [0] = path }
   for i, value in ipairs(args) do arg[i] = value end
   rawset(_G, "arg", arg)
   local ok, value = xpcall(function() return chunk(unpack(args)) end, function(e)
      return diagnostic.is(e) and e or tostring(e)
   end)
   if not ok then return nil, value end
   return true, value
end

--- The files that the script consists of: itself and the modules of the user's that it required, those too that could
--- not be loaded.
---@return table<string, string> path by name; the script's name is ""
function M.files()
   if not M.loaded then return {} end
   local files = { [""] = M.loaded.path }
   for _, names in ipairs { package.loaded, asked } do
      for name in pairs(names) do
         if not M.loaded.before[name] and name ~= "tideway" and not name:find "^tideway%." then
            files[name] = package.searchpath(name, package.path)
         end
      end
   end
   return files
end

-- What they say now, for the compiler: the files may be edited while it runs.
local function remember()
   for _, path in pairs(M.files()) do source.remember(path) end
end

--- Run a script. Its directory comes first in package.path, so that `require` finds modules beside it.
---@param path string
---@param args string[] what the script gets as ... and arg
---@return boolean? ok
---@return any value what the script returned; when not ok, a sentence or a diagnostic
function M.load(path, args)
   local before = {}
   for name in pairs(package.loaded) do before[name] = true end
   local dir = path:match "^(.*)/[^/]*$" or "."
   package.path = ("%s/?.lua;%s/?/init.lua;%s"):format(dir, dir, package.path)
   model.staged = true
   M.loaded = { path = path, args = args, before = before }
   local ok, value = run(path, args)
   if ok then remember() end
   return ok, value
end

--- Load modules of the user's anew when they are required next.
---@param names string[]
---@return fun() restore puts those that were loaded before back
function M.forget(names)
   local saved = {}
   for _, name in ipairs(names) do saved[name], package.loaded[name] = package.loaded[name], nil end
   return function()
      for name, value in pairs(saved) do package.loaded[name] = value end
   end
end

--- Run the script again, with its modules as their files are now.
---@return boolean? ok
---@return any value what the script returned; when not ok, a sentence or a diagnostic
---@return fun() restore puts the modules that were loaded before back; done when not ok
function M.again()
   local names = {}
   for name in pairs(M.files()) do
      if name ~= "" then names[#names + 1] = name end
   end
   local restore = M.forget(names)
   local ok, value = run(M.loaded.path, M.loaded.args)
   if ok then remember() else restore() end
   return ok, value, restore
end

local function config_of(text)
   text = text:match "^%s*{" and text or ("{ %s }"):format(text)
   local chunk, err = loadstring("return " .. text, "=--config")
   if not chunk then return nil, err end
   setfenv(chunk, { tw = require "tideway" })
   local ok, config = pcall(chunk)
   return ok and config or nil, config
end

--- The NF that a file of one returns: a constructor, an instance or a packet function.
---@param value any what the file returned
---@param path string
---@param config? string the configuration as Lua text; default: none
---@return tideway.nf.instance? nf
---@return any err
function M.instance(value, path, config)
   local name = path:match "([^/]*)$":gsub("%.lua$", "")
   if type(value) == "function" then return nfs.instance(name, value, 2) end
   if nfs.is_instance(value) then return value end
   if not nfs.is_constructor(value) then
      return nil, ("%s declares no chain and returns %s: neither a script nor the file of an NF, which returns "
         .. "tw.nf(name, function(cfg) ... end)"):format(path, value == nil and "nothing" or tostring(value))
   end
   local cfg = {}
   if config then
      local err
      cfg, err = config_of(config)
      if not cfg then return nil, ("--config %s: %s"):format(config, tostring(err)) end
   end
   local ok, nf = pcall(value, cfg)
   if not ok then return nil, config and nf or ("%s (give a configuration with --config)"):format(tostring(nf)) end
   return nf
end

return M
