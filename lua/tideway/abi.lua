-- SPDX-License-Identifier: BSD-3-Clause
-- The Lua side of the boundary: declares core/abi.h to the FFI, once per VM, and refuses another version.

local ffi = require "ffi"
local core = require "tideway.core"

local ABI_VERSION = 1

if core.abi_version ~= ABI_VERSION then
   error(("the binary has ABI version %d and the Lua files under %s have %d; install both from one build")
      :format(core.abi_version, core.root, ABI_VERSION), 0)
end
ffi.cdef(core.cdef)

---@class tideway.abi
---@field C table functions of the engine (core/abi.h)
---@field version integer
---@field hash string hash of the preprocessed header
---@field root string directory of the Lua tree
local M = { C = ffi.C, version = ABI_VERSION, hash = core.abi_hash, root = core.root }

--- The engine's last error sentence on this thread.
function M.error() return ffi.string(M.C.tw_error()) end

return M
