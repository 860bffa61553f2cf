-- SPDX-License-Identifier: BSD-3-Clause
-- The kernel's BPF: maps, programs, hooks, objects of other compilers, ELF files. Parts are loaded on first use.

local parts = { btf = true, map = true, program = true, link = true, object = true, verifier = true, elf = true,
   probe = true }

---@class tideway.bpf
---@field btf table
---@field map table
---@field program table
---@field link table
---@field verifier table
---@field elf table
---@field probe table
---@field socket fun(what: table): tideway.bpf.Socket
---@field sockets fun(what: table): tideway.bpf.Socket[]
local M = {}

-- Helpers of the kernel, under their names without bpf_: the compiler knows them. Called elsewhere they say so.
local helper_of = {}

--- The kernel helper that a function stands for, nil for other functions.
---@param fn function
---@return string?
function M.helper(fn) return helper_of[fn] end

local function helper(name)
   local function fn()
      error(("tw.bpf.%s runs in packet functions on hooks of the kernel only"):format(name), 2)
   end
   helper_of[fn] = name
   return fn
end

return setmetatable(M, {
   __index = function(self, name)
      local v
      if parts[name] then
         v = require("tideway.bpf." .. name)
      elseif name == "socket" or name == "sockets" then
         v = require("tideway.bpf.socket")[name == "socket" and "one" or "all"]
      elseif require("tideway.compiler.target.helpers").id[name] then
         v = helper(name)
      end
      rawset(self, name, v)
      return v
   end,
})
