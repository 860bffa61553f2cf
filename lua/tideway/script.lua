-- SPDX-License-Identifier: BSD-3-Clause
-- Loads users' scripts and files of network functions.

local diagnostic = require "tideway.compiler.diagnostic"
local model = require "tideway.model"
local nfs = require "tideway.nf"

local M = {}

--- Run a script. Its directory comes first in package.path, so that `require` finds modules beside it.
---@param path string
---@param args string[] what the script gets as ... and arg
---@return boolean? ok
---@return any value what the script returned; when not ok, a sentence or a diagnostic
function M.load(path, args)
   local chunk, err = loadfile(path)
   if not chunk then return nil, err end
   local dir = path:match "^(.*)/[^/]*$" or "."
   package.path = ("%s/?.lua;%s/?/init.lua;%s"):format(dir, dir, package.path)
   local arg = { [0] = path }
   for i, value in ipairs(args) do arg[i] = value end
   rawset(_G, "arg", arg)
   model.staged = true
   local ok, value = xpcall(function() return chunk(unpack(args)) end, function(e)
      return diagnostic.is(e) and e or tostring(e)
   end)
   if not ok then return nil, value end
   return true, value
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
