-- SPDX-License-Identifier: BSD-3-Clause
-- What a function of messages does not find in the standard library, in workers and in threads of the gate: calls that
-- block, and those that a worker's process may not make. There the kernel refuses them too; here they say why.

local M = {}

local ADVICE = {
   ["os.execute"] = "a function cannot run programs",
   ["io.popen"] = "a function cannot run programs",
   ["os.exit"] = "raise an error, or return a verdict",
   ["io.read"] = "read files where the NF is made, and keep what was read",
   ["io.open"] = "read files where the NF is made, and keep what was read",
   ["io.lines"] = "read files where the NF is made, and keep what was read",
   ["io.input"] = "read files where the NF is made, and keep what was read",
   ["io.output"] = "print() says something to the engine's log",
   ["io.write"] = "print() says something to the engine's log",
   ["io.tmpfile"] = "a tw.store keeps what is to be kept",
   ["os.remove"] = "a function cannot change files",
   ["os.rename"] = "a function cannot change files",
   ["os.tmpname"] = "a function cannot change files",
   ["loadfile"] = "load files where the NF is made",
   ["dofile"] = "load files where the NF is made",
   ["package.loadlib"] = "load libraries where the NF is made",
}

local function refused(name)
   local text = ("%s blocks, and a function of messages must not: %s"):format(name, ADVICE[name])
   return function() error(text, 2) end
end

local function replace(name)
   local module, field = name:match "^(%w+)%.(%w+)$"
   local where = module and _G[module] or _G
   field = field or name
   if rawget(where, field) ~= nil then rawset(where, field, refused(name)) end
end

--- Before anything of a function is unpacked: what it finds by these names raises.
function M.close_library()
   for name in pairs(ADVICE) do replace(name) end
   for _, name in ipairs { "stdin", "stdout", "stderr" } do rawset(io, name, nil) end
end

--- Once it is unpacked, no file can be opened any more: modules that are loaded are there, others say why not.
function M.close_modules()
   local loaders = package.loaders
   local preload = loaders[1]
   for i = #loaders, 2, -1 do loaders[i] = nil end
   loaders[1] = preload
   loaders[2] = function(name)
      error(("module '%s' is not loaded, and a worker cannot open files: require it at the head of the NF's file, "
         .. "not inside of a function"):format(name), 0)
   end
   package.path, package.cpath = "", ""
end

--- Where print() goes.
---@param say fun(text: string)
function M.redirect(say)
   rawset(_G, "print", function(...)
      local list = {}
      for i = 1, select("#", ...) do list[i] = tostring((select(i, ...))) end
      say(table.concat(list, "\t"))
   end)
end

return M
