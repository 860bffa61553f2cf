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
local M = {}

return setmetatable(M, {
   __index = function(self, name)
      if parts[name] then
         local part = require("tideway.bpf." .. name)
         rawset(self, name, part)
         return part
      end
   end,
})
